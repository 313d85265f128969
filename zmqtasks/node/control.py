"""What this process answers and does when others ask: one small function a command.

Here is what every process can tell, since every process may own tasks; a worker adds what
is in ``workercontrol.py``. Answers are plain data: ``{"data": ...}``, or ``{"error": text}``;
``left_out`` says how many entries were too many for one message.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from zmqtasks.core.links import DRAINING
from zmqtasks.core.waiting import eta_of
from zmqtasks.errors import ZmqTasksError
from zmqtasks.ids import format_task_id, learn_text
from zmqtasks.node.commands import CONTROL, INSPECT, TOLD_COUNT_MAX
from zmqtasks.settings import SETTING_NAMES
from zmqtasks.settings_texts import as_toml, hidden
from zmqtasks.version import __version__
from zmqtasks.wire.messages import TaskState

if TYPE_CHECKING:
    from zmqtasks.core.lanes import OwnedTask
    from zmqtasks.node.runtime import Runtime

_T = TypeVar("_T")
#: Carries out one command: (ids, arguments) -> data.
Function = Callable[[Sequence[bytes], Mapping[str, Any]], Any]
#: What the custodian answers; the rest is for this module.
_OF_CUSTODIAN = frozenset({"status", "dead", "story", "workers"})


class Told(list[Any]):
    """As many as an answer may have; ``left_out`` more are there.

    Args:
        found: all of them.
        shown: what is told of each.
        count: of all, where that is known; else they are counted.
    """

    def __init__(
        self, found: Iterable[_T], shown: Callable[[_T], Any] | None = None,
        count: int | None = None,
    ) -> None:  # fmt: skip
        rest = iter(found)
        first = islice(rest, TOLD_COUNT_MAX)
        super().__init__(first if shown is None else map(shown, first))
        self.left_out = sum(1 for _ in rest) if count is None else max(0, count - len(self))


class Some(dict[str, Any]):
    """The same for a dict.

    Args:
        found: all of it.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        super().__init__(islice(found.items(), TOLD_COUNT_MAX))
        self.left_out = len(found) - len(self)


class Control:
    """Answers INSPECT and ORDER for one process; on its loop's thread only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._begun_s = time.monotonic()
        #: {name: function}
        self._inspections: dict[str, Function] = {
            "ping": self._ping,
            "scheduled": self._scheduled,
            "revoked": self._revoked,
            "query_task": self._query_task,
            "stats": self._stats,
            "conf": self._conf,
            "report": self._report,
        }
        self._orders: dict[str, Function] = {
            "revoke": self._revoke,
            "revoke_by_stamped_headers": self._revoke_by_headers,
        }
        #: Adds to ``stats`` what a worker knows.
        self.worker_stats: Callable[[], dict[str, Any]] = dict
        #: Settings of its application that are about tasks, as plain data for ``conf``.
        self.of_tasks: Mapping[str, Any] = {}

    def add(self, inspections: Mapping[str, Function], orders: Mapping[str, Function]) -> None:
        """This process can tell and do these as well."""
        self._inspections |= inspections
        self._orders |= orders

    # --- messages -----------------------------------------------------------------------

    def inspected(self, what: str, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to INSPECT."""
        if what in _OF_CUSTODIAN:
            return self._runtime.custodian.inspected(what, ids)
        return self._carry_out(self._inspections, INSPECT, what, ids, args)

    def ordered(self, what: str, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to ORDER, which has been carried out then."""
        if what.startswith("dead."):
            return self._runtime.custodian.ordered(what, ids)
        return self._carry_out(self._orders, CONTROL, what, ids, args)

    def _carry_out(
        self, functions: Mapping[str, Function], known: Mapping[str, Any], what: str,
        ids: Sequence[bytes], args: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        function = functions.get(what)
        if function is None:
            why = "is not for a node with its roles" if what in known else "is unknown to it"
            return {"error": f"the command {what!r} {why} ({__version__})"}
        try:
            data = function(ids, args)
        except (ZmqTasksError, KeyError, TypeError, ValueError) as exc:
            # Arguments come from the wire: whoever sent them is told, and nobody else.
            text = str(exc) if isinstance(exc, ZmqTasksError) else f"bad arguments: {exc!r}"
            return {"error": text}
        left_out = getattr(data, "left_out", 0)
        return {"data": data, **({"left_out": left_out} if left_out else {})}

    # --- one function a command ---------------------------------------------------------

    def _ping(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        leaves = DRAINING in self._runtime.mesh.hello.ext
        return {"ok": "pong", **({"draining": "it finishes what it runs"} if leaves else {})}

    def _scheduled(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> Told:
        dispatcher = self._runtime.mesh.dispatcher
        if dispatcher is None:
            return Told(())
        count = sum(task.is_waiting for task in dispatcher.tasks.values())
        return Told(dispatcher.waiting.soonest(), _scheduled, count)

    def _revoked(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> Told:
        dispatcher = self._runtime.mesh.dispatcher
        return Told(
            reversed(dispatcher.cancelled) if dispatcher is not None else (), format_task_id
        )

    def _revoke(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        """For this process itself: the machines answer others by themselves."""
        ownership = self._runtime.mesh.ownership
        if ownership is None:
            return {}
        said: dict[str, str] = ownership.revoking.revoke(ids, args)["data"]
        return said

    def _revoke_by_headers(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        """All of them, though of some only it is told."""
        wanted = {str(name): [str(value) for value in args["headers"][name]]
                  for name in args["headers"]}  # fmt: skip
        dispatcher = self._runtime.mesh.dispatcher
        if dispatcher is None or not wanted:
            return {}
        found = [
            task.id for task in dispatcher.tasks.values()
            if task.ext and any(_has_one(task.ext.get(key), wanted) for key in ("h", "st"))
        ]  # fmt: skip
        return Some(self._revoke(found, args))

    def _query_task(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for task_id in ids[:TOLD_COUNT_MAX]:
            record = self._runtime.mesh.answers.local(task_id)
            if record.state == TaskState.UNKNOWN:
                continue
            info = {key: value for key, value in record.info.items() if isinstance(value, str)}
            state = TaskState(record.state).name.lower()
            found[format_task_id(task_id)] = [state, info]
        return found

    def _stats(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        mesh = self._runtime.mesh
        stats: dict[str, Any] = {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._begun_s, 3),
            "rusage": _rusage(),
        }
        if mesh.dispatcher is not None:
            stats["owner"] = {"open": len(mesh.dispatcher.tasks), "dead": len(mesh.dispatcher.dead)}
        return stats | self.worker_stats()

    def _conf(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, Any]:
        settings = self._runtime.settings
        values = ((key, hidden(key, getattr(settings, key))) for key in SETTING_NAMES)
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in values}
        return dict(sorted({**found, **self.of_tasks}.items()))

    def _report(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        hello = self._runtime.mesh.hello
        lines = [
            f"zmqtasks {__version__}, Python {platform.python_version()} on {platform.platform()}",
            f"node {hello.name} ({', '.join(hello.roles)}), process {os.getpid()}",
            *(f"{key} = {_toml(value)}" for key, value in self._conf(ids, args).items()),
        ]
        return {"ok": "\n".join(lines)}


def _has_one(headers: object, wanted: Mapping[str, Sequence[str]]) -> bool:
    return isinstance(headers, dict) and any(
        str(value) in values
        for name, values in wanted.items()
        if name in headers
        for value in _values(headers[name])
    )


def _values(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _scheduled(task: OwnedTask) -> dict[str, Any]:
    kind, ext = task.lane.kind, task.ext or {}
    learn_text(ext)
    request = {
        "id": format_task_id(task.id), "name": kind.name, "queue": kind.queue,
        "retries": ext.get("n", 0),
    }  # fmt: skip
    return {"eta": eta_of(task) / 1000, "priority": ext.get("pri", 0), "request": request}


def _toml(value: Any) -> str:
    return as_toml(tuple(value) if isinstance(value, list) else value)


def _rusage() -> dict[str, float]:
    """Of this process: seconds of CPU time, and the most memory that it had, in KiB."""
    try:
        import resource
    except ImportError:  # not on every system
        return {}
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1024 if sys.platform == "darwin" else 1
    return {"utime": used.ru_utime, "stime": used.ru_stime, "maxrss": used.ru_maxrss // unit}
