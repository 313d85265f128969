"""The attempt that runs here: ``current()``, and ``self.request`` of bound tasks."""

from __future__ import annotations

import platform
from typing import Any

from zmqtasks.app.fact_keys import IGNORED_KEY, SHADOW_KEY
from zmqtasks.app.option_checks import REPR_CHARS_MAX, STAMPS_KEY
from zmqtasks.app.retrying import RETRIES_KEY, count_of, lost_attempts_of
from zmqtasks.app.timing import moment_text
from zmqtasks.ids import format_node, format_task_id
from zmqtasks.pools.protocol import RunTask
from zmqtasks.pools.running import running_task
from zmqtasks.wire.payload import decode_arguments

#: Name of the node that this process works for, set when its program starts.
_node_name = ""
#: Attributes of Celery's that do not exist here yet.
_CELERYS = frozenset(
    """
    callbacks chain chord errbacks group_index logfile loglevel properties
    replaced_task_nesting reply_to taskset utc
    """.split()
)
#: The context made last: most tasks that ask once ask again.
_latest: TaskContext | None = None


class EagerRun(RunTask):
    """An attempt that runs in the process that called the task; see ``eager.py``.

    ``made``: results of the calls that it made.
    """

    made: list[Any] = []  # noqa: RUF012 - a field: each has a list of its own


class TaskContext:
    """What a running task may know about itself.

    Outside of a running task (a task called as a plain function) ``called_directly`` is
    true, ``id`` is None and the rest is empty.
    """

    __slots__ = ("_arguments", "_run")

    def __init__(self, run: RunTask | None) -> None:
        self._run = run
        self._arguments: tuple[list[Any], dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"<TaskContext {self.name or 'outside of a task'} {self.id or ''}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        # Celery puts headers among the attributes.
        if name in self.headers:
            hint = f"headers are in request.headers[{name!r}]"
        elif name in _CELERYS:
            hint = "Celery has it, and it is not supported yet"
        else:
            known = (key for key in dir(type(self)) if not key.startswith("_"))
            hint = f"there are {', '.join(known)}"
        raise AttributeError(f"self.request has no attribute {name!r}: {hint}")

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or ``default`` where there is none."""
        return getattr(self, name, default)

    @property
    def run(self) -> RunTask | None:
        """The attempt as its node sent it; not to be changed."""
        return self._run

    @property
    def called_directly(self) -> bool:
        """True outside of a running task."""
        return self._run is None

    @property
    def id(self) -> str | None:
        """The task's id, as ``AsyncResult.id`` has it."""
        return format_task_id(self._run.id) if self._run else None

    @property
    def name(self) -> str:
        """The task's name."""
        return self._run.name if self._run else ""

    #: Celery's word for the name.
    task = name

    @property
    def correlation_id(self) -> str | None:
        """The task's id: it is what a result is known by."""
        return self.id

    @property
    def is_eager(self) -> bool:
        """Whether it runs in the process that called it, by ``apply``."""
        return isinstance(self._run, EagerRun)

    @property
    def group(self) -> str | None:
        """Id of the group that it belongs to, None for none."""
        return _id_text(self.ext.get("g"))

    @property
    def app_name(self) -> str:
        """Name of the App it belongs to."""
        return self._run.app if self._run else ""

    @property
    def queue(self) -> str:
        """The queue it came through."""
        return self._run.queue if self._run else ""

    @property
    def hostname(self) -> str:
        """Name of the worker node; of this host where it runs eagerly."""
        if self.is_eager:
            return platform.node()
        return _node_name if self._run else ""

    @property
    def origin(self) -> str:
        """Id of the node that owns the task, or that called it at most once."""
        if self._run is None:
            return ""
        node = self.ext.get("o", self._run.owner)
        return format_node(node) if isinstance(node, bytes) else ""

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._run.attempt if self._run else 1

    @property
    def redelivered(self) -> bool:
        """Whether an earlier attempt was lost, and may have run in part."""
        return self._run is not None and lost_attempts_of(self._run) > 0

    @property
    def retries(self) -> int:
        """How often the task was retried because it raised."""
        return count_of(self._run, RETRIES_KEY) if self._run else 0

    @property
    def priority(self) -> int:
        """0 to 9."""
        found = self.ext.get("pri")
        return found if isinstance(found, int) else 0

    @property
    def delivery_info(self) -> dict[str, Any]:
        """How it came here; ``routing_key`` is the queue, as users of Celery know it."""
        if self._run is None:
            return {}
        return {
            "queue": self.queue,
            "routing_key": self.queue,
            "priority": self.priority,
            "redelivered": self.redelivered,
        }

    @property
    def eta(self) -> str | None:
        """Before this it did not start: ISO 8601, in UTC; None for no such moment."""
        return moment_text(self.ext.get("eta"))

    @property
    def expires(self) -> str | None:
        """After this it would not have started: ISO 8601, in UTC; None for no such moment."""
        return moment_text(self.ext.get("exp"))

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """Seconds ``(hard, soft)`` that this attempt may run, None for no limit."""
        run = self._run
        if run is None:
            return None, None
        return (run.hard_ms / 1000 or None, run.soft_ms / 1000 or None)

    @property
    def argsrepr(self) -> str:
        """The positional arguments to show, as the caller wants them shown."""
        found = self.ext.get("ar")
        return found if isinstance(found, str) else _shown(tuple(self.args))

    @property
    def kwargsrepr(self) -> str:
        """The keyword arguments to show, as the caller wants them shown."""
        found = self.ext.get("kr")
        return found if isinstance(found, str) else _shown(self.kwargs)

    @property
    def shadow(self) -> str | None:
        """The text to show in place of its name, None for none."""
        found = self.ext.get(SHADOW_KEY)
        return found if isinstance(found, str) else None

    @property
    def ignore_result(self) -> bool:
        """Whether what it returns is not kept."""
        return IGNORED_KEY in self.ext

    @property
    def ext(self) -> dict[str, Any]:
        """What travels beside the arguments, as on the wire; not to be changed."""
        return (self._run.ext if self._run else None) or {}

    @property
    def headers(self) -> dict[str, Any]:
        """What the caller gave as ``headers=``."""
        found = self.ext.get("h")
        return found if isinstance(found, dict) else {}

    @property
    def stamps(self) -> dict[str, list[Any]]:
        """What the call is stamped with: names, and their values."""
        found = self.ext.get(STAMPS_KEY)
        return found if isinstance(found, dict) else {}

    @property
    def stamped_headers(self) -> list[str]:
        """Names of its stamps."""
        return list(self.stamps)

    @property
    def parent_id(self) -> str | None:
        """Id of the task that submitted this one, None for other callers."""
        return _id_text(self.ext.get("p"))

    @property
    def root_id(self) -> str | None:
        """Id of the first task in the line of parents: this one's when it has none."""
        return _id_text(self.ext.get("r")) or self.parent_id or self.id

    @property
    def args(self) -> list[Any]:
        """The positional arguments, decoded anew for who asks."""
        return self._decoded()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, decoded anew for who asks."""
        return self._decoded()[1]

    def _decoded(self) -> tuple[list[Any], dict[str, Any]]:
        if self._arguments is None:
            self._arguments = decode_arguments(self._run.body) if self._run else ([], {})
        return self._arguments


#: The context of code that runs outside of any task.
DIRECT = TaskContext(None)


def current() -> TaskContext | None:
    """The context of the task that runs here, None outside of tasks."""
    global _latest
    run = running_task()
    if run is None:
        return None
    found = _latest
    if found is None or found.run is not run:
        found = _latest = TaskContext(run)
    return found


def request_of(app: str, name: str) -> TaskContext:
    """The same for ``self.request`` of a task: ``DIRECT`` when its function was called by
    itself, be it inside another task."""
    found = current()
    if found is None or found.name != name or found.app_name != app:
        return DIRECT
    return found


def set_node_name(name: str) -> None:
    """What ``hostname`` is from now on."""
    global _node_name
    _node_name = name


def _shown(value: object) -> str:
    try:
        return repr(value)[:REPR_CHARS_MAX]
    except Exception:  # noqa: BLE001 (a foreign __repr__)
        return "<cannot be shown>"


def _id_text(value: object) -> str | None:
    return format_task_id(value) if isinstance(value, bytes) and len(value) == 16 else None
