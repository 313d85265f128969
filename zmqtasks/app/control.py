"""``app.control``: ask nodes, tell them what to do, end tasks. The names are Celery's.

Every method has a twin for asyncio with an ``a`` in front: ``await app.control.arevoke(id)``,
``await app.control.inspect().aping()``.
"""

from __future__ import annotations

import logging
import signal as signals
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

from zmqtasks.app.current import gateway, in_running_loop
from zmqtasks.errors import ConfigError
from zmqtasks.ids import format_task_id, parse_task_id
from zmqtasks.node.commands import CONTROL, INSPECT, INSTEAD
from zmqtasks.node.revoking import revoke_by_headers, revoke_tasks
from zmqtasks.node.survey import Request, SeenNode
from zmqtasks.settings_sources import nearest
from zmqtasks.words import told_apart

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.beats import Beats

_LOG = logging.getLogger("zmqtasks.control")
#: Seconds that nodes have to answer.
TIMEOUT_S = 1.0


class Replies(dict[str, Any]):
    """``{node: its answer}``.

    Attributes:
        unanswered: {node: why there is no answer}, of those that should have answered.
        left_out: {node: how many entries its answer lacks, since it would be too long}.
    """

    def __init__(self, seen: Iterable[SeenNode]) -> None:
        super().__init__()
        self.unanswered: dict[str, str] = {}
        self.left_out: dict[str, int] = {}
        nodes = sorted(seen, key=lambda node: (node.name, node.node))
        names = told_apart([(node.name, node.node) for node in nodes])
        for name, node in zip(names, nodes, strict=True):
            report = node.report
            if report is None:
                self.unanswered[name] = node.trouble
                continue
            if "left_out" in report:
                self.left_out[name] = report["left_out"]
            if _says_something(node):
                self[name] = {"error": report["error"]} if "error" in report else report.get("data")

    def warn(self, what: str) -> Replies:
        """Name those who did not answer in the log; returns these replies."""
        if self.unanswered:
            silent = ", ".join(f"{name} ({why})" for name, why in self.unanswered.items())
            _LOG.warning("control.unanswered %s: no answer from %s", what, silent)
        return self

    def as_list(self) -> list[dict[str, Any]]:
        """``[{node: its answer}, ...]``, as Celery's ``broadcast`` gives them."""
        return [{name: answer} for name, answer in self.items()]


def as_typed(replies: Replies) -> Replies:
    """Answers about tasks without those that know none, by the ids as they were given here."""
    for name, answer in list(replies.items()):
        if not answer:
            del replies[name]
        elif "error" not in answer:
            replies[name] = {
                format_task_id(parse_task_id(text)): told for text, told in answer.items()
            }
    return replies


def _says_something(node: SeenNode) -> bool:
    """Applications have answered, too; most of them have nothing to tell."""
    is_node = set(node.roles) != {"producer"}
    return is_node or bool((node.report or {}).get("data"))


class AsyncTwins:
    """Gives ``aname`` for each method ``name``, and says what there is instead of others."""

    _where = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("a"):
            method = getattr(type(self), name[1:], None)
            if method is not None and not name.startswith("a_"):
                return _in_thread(MethodType(method, self))
        if name in INSTEAD:
            raise AttributeError(f"{self._where}.{name}() does not exist here: {INSTEAD[name]}")
        likely = nearest(name, [entry for entry in dir(type(self)) if not entry.startswith("_")])
        hint = f"; did you mean {likely!r}?" if likely else ""
        raise AttributeError(f"{self._where} has no {name!r}{hint}")


def _in_thread(method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return await asyncio.to_thread(method, *args, **kwargs)

    return run


def check_blocking(where: str) -> None:
    """Refuse to wait for nodes in a running asyncio loop.

    Raises:
        RuntimeError: it would block the loop.
    """
    if in_running_loop():
        owner, _, method = where.rpartition(".")
        raise RuntimeError(
            f"{where}() waits for nodes, which would block the running asyncio loop; use "
            f"await {owner}.a{method}(...)"
        )


def names_of(destination: str | Collection[str] | None) -> list[str] | None:
    """Names of nodes as a list; None: all."""
    if destination is None:
        return None
    return [destination] if isinstance(destination, str) else list(destination)


def give(
    app: App, task: str, arguments: Mapping[str, Any], destination: list[str] | None,
    timeout: float,
) -> Replies:  # fmt: skip
    """Give a command of an application.

    Raises:
        ConfigError: no worker in sight has it.
    """
    from zmqtasks.app.commands import give_command

    seen = give_command(app, gateway(app), task, arguments, destination, timeout)
    return Replies(seen)


class Inspect(AsyncTwins):
    """Asks nodes; made by ``app.control.inspect()``.

    Each method returns ``{node: answer}`` with an attribute ``unanswered``; an application
    that owns tasks answers as well, where it has something to tell.

    Args:
        app: whose mesh it is.
        destination: names of nodes, or patterns such as ``"gpu-*"``; None: all.
        timeout: seconds that nodes have to answer.
    """

    _where = "inspect"

    def __init__(
        self, app: App, destination: str | Collection[str] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        self._app = app
        self._destination = names_of(destination)
        self._timeout = timeout
        #: {node: why}, of the last question.
        self.unanswered: dict[str, str] = {}

    def _ask(
        self, what: str, ids: Sequence[bytes] = (), args: Mapping[str, Any] | None = None
    ) -> Replies:
        check_blocking(f"inspect.{what}")
        command = INSPECT[what]
        request = Request(what, ids, args or {}, roles=command.roles, destination=self._destination)
        replies = Replies(gateway(self._app).command(request, self._timeout)).warn(what)
        self.unanswered = replies.unanswered
        return replies

    def command(self, name: str, **arguments: Any) -> Replies:
        """A command that the application has made with ``@app.inspect_command``.

        Raises:
            ConfigError: no worker in sight has it.
        """
        check_blocking("inspect.command")
        task = f"zmqtasks.inspect.{name}"
        replies = give(self._app, task, arguments, self._destination, self._timeout).warn(name)
        self.unanswered = replies.unanswered
        return replies

    def ping(self) -> Replies:
        """``{node: {"ok": "pong"}}``."""
        return self._ask("ping")

    def active(self) -> Replies:
        """Tasks that run: id, name, arguments as text, since when."""
        return self._ask("active")

    def reserved(self) -> Replies:
        """Tasks that wait at workers for a free slot."""
        return self._ask("reserved")

    def scheduled(self) -> Replies:
        """Tasks that wait at their owners until they are due."""
        return self._ask("scheduled")

    def revoked(self) -> Replies:
        """Ids of the tasks that their owners cancelled last."""
        return self._ask("revoked")

    def registered(self, *, builtins: bool = False) -> Replies:
        """Names of the tasks that workers have.

        Args:
            builtins: those that every application has, and its commands, too.
        """
        return self._ask("registered", args={"builtins": True} if builtins else None)

    registered_tasks = registered

    def stats(self) -> Replies:
        """Numbers: uptime, memory, slots, tasks that ended."""
        return self._ask("stats")

    def active_queues(self) -> Replies:
        """Queues that workers serve: ``{worker: [{"name": queue}]}``."""
        return self._ask("active_queues")

    def query_task(self, *ids: str) -> Replies:
        """``{node: {id: [state, facts]}}`` of the nodes that know one of these tasks."""
        return as_typed(self._ask("query_task", [parse_task_id(text) for text in _flat(ids)]))

    def conf(self) -> Replies:
        """Settings, without passwords."""
        return self._ask("conf")

    def beat(self) -> Replies:
        """Periodic tasks, as each beat knows them; see also ``app.control.beat.list()``."""
        return self._ask("beat")

    def report(self) -> Replies:
        """Versions, system and settings: ``{node: {"ok": text}}``."""
        return self._ask("report")


class Control(AsyncTwins):
    """Tells nodes what to do; ``app.control``.

    Those that did not answer are named in a warning of the log, and in ``unanswered``.

    Args:
        app: whose mesh it is.
    """

    _where = "app.control"

    def __init__(self, app: App) -> None:
        self._app = app
        #: {node: why}, of the last command.
        self.unanswered: dict[str, str] = {}
        #: How many tasks the last ``revoke_by_stamped_headers`` has revoked and not told.
        self.left_out = 0

    def inspect(
        self, destination: str | Collection[str] | None = None, timeout: float = TIMEOUT_S
    ) -> Inspect:
        """Asks nodes; see :class:`Inspect`."""
        return Inspect(self._app, destination, timeout)

    @property
    def beat(self) -> Beats:
        """Shows the periodic tasks of the application, pauses, resumes and starts them."""
        from zmqtasks.app.beats import Beats  # most processes never need it

        return Beats(self._app)

    def ping(
        self, destination: str | Collection[str] | None = None, timeout: float = TIMEOUT_S
    ) -> list[dict[str, Any]]:
        """``[{node: {"ok": "pong"}}, ...]``."""
        replies = self.inspect(destination, timeout).ping()
        self.unanswered = replies.unanswered
        return replies.as_list()

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: str | Collection[str] | None = None,
        reply: bool = True,
        timeout: float = TIMEOUT_S,
    ) -> list[dict[str, Any]] | None:
        """Give any command, by name.

        Args:
            command: one of ``zmqtasks control --help``.
            arguments: of it, by name.
            destination: names of nodes, or patterns of names; None: all.
            reply: False: return None. It waits for the answers all the same, to be able to
                say who did not get it.
            timeout: seconds that nodes have to answer.

        Raises:
            ConfigError: there is no such command.
        """
        check_blocking(f"app.control.{command}")
        found = CONTROL.get(command)
        if found is None:
            return self._custom(command, arguments or {}, names_of(destination), reply, timeout)
        given = {key: value for key, value in (arguments or {}).items() if value is not None}
        request = Request(
            command, (), given, is_order=True, roles=found.roles, destination=names_of(destination)
        )
        replies = Replies(gateway(self._app).command(request, timeout)).warn(command)
        self.unanswered = replies.unanswered
        return replies.as_list() if reply else None

    def _custom(
        self, command: str, arguments: Mapping[str, Any], destination: list[str] | None,
        reply: bool, timeout: float,
    ) -> list[dict[str, Any]] | None:  # fmt: skip
        """A command of an application."""
        task = f"zmqtasks.control.{command}"
        replies = give(self._app, task, arguments, destination, timeout).warn(command)
        self.unanswered = replies.unanswered
        return replies.as_list() if reply else None

    # --- tasks ----------------------------------------------------------------------------

    def revoke(
        self,
        task_id: str | Iterable[str],
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        timeout: float = TIMEOUT_S,
    ) -> dict[str, str]:
        """Let tasks not be run.

        Args:
            task_id: one or many.
            terminate: end it if it runs: exactly that attempt, and no other task.
            signal: with which it is ended; by force soon after.
            timeout: seconds that nodes have to answer.

        Returns:
            {id: what came of it}: "revoked"; "running" (it was told, and goes on unless
            ``terminate``); "settled" (it had ended); "given" (its owner gave it to a node that
            is not in sight); "unknown" to all who answered; "unanswered" (it may be known to a
            node that did not answer).
        """
        check_blocking("app.control.revoke")
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        args = {"terminate": bool(terminate), "signal": signal_number(signal)}
        said = revoke_tasks(gateway(self._app).command, ids, args, timeout)
        self.unanswered = said.unanswered
        return said.states

    def terminate(
        self, task_id: str | Iterable[str], signal: str | int = "SIGTERM",
        timeout: float = TIMEOUT_S,
    ) -> dict[str, str]:  # fmt: skip
        """Same as ``revoke(..., terminate=True)``."""
        check_blocking("app.control.terminate")
        return self.revoke(task_id, True, signal, timeout)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        timeout: float = TIMEOUT_S,
    ) -> dict[str, str]:
        """Let all tasks that have one of these stamps or headers not be run.

        Args:
            headers: {name: value, or list of values}; as ``Signature.stamp`` or
                ``apply_async(headers=...)`` gave them.
            terminate, signal, timeout: as for ``revoke``.

        Returns:
            {id: what came of it}. All are revoked, and of each owner's the first 1,000 are
            told; how many more there were is in ``left_out``.
        """
        check_blocking("app.control.revoke_by_stamped_headers")
        if not headers:
            raise ConfigError("revoke_by_stamped_headers: name a header, or all tasks were meant")
        args = {
            "headers": {
                key: list(value) if isinstance(value, (list, tuple, set)) else [value]
                for key, value in headers.items()
            },
            "terminate": bool(terminate),
            "signal": signal_number(signal),
        }
        said = revoke_by_headers(gateway(self._app).command, args, timeout)
        self.unanswered, self.left_out = said.unanswered, said.left_out
        return said.states

    # --- workers --------------------------------------------------------------------------

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None = None, *,
        mesh_rate_limit: str | float | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Limit how often each worker starts a task, or all of them together.

        Args:
            task_name: which.
            rate_limit: of each, such as ``"10/s"``; 0 takes the limit away, None leaves it.
            mesh_rate_limit: the same for all workers together.
            options: ``destination``, ``reply``, ``timeout``, as of :meth:`broadcast`.
        """
        arguments = {
            "task_name": task_name, "rate_limit": rate_limit, "mesh_rate_limit": mesh_rate_limit,
        }  # fmt: skip
        return self.broadcast("rate_limit", arguments, **options)

    def time_limit(
        self, task_name: str, soft: float | None = None, hard: float | None = None, **options: Any
    ) -> Any:
        """Change the time limits of a task, in seconds; 0 takes one away, None leaves it."""
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", arguments, **options)

    def add_consumer(self, queue: str, **options: Any) -> Any:
        """Let workers serve one more queue."""
        return self.broadcast("add_consumer", {"queue": queue}, **options)

    def cancel_consumer(self, queue: str, **options: Any) -> Any:
        """Let workers serve a queue no longer; what runs of it goes on."""
        return self.broadcast("cancel_consumer", {"queue": queue}, **options)

    def pool_grow(self, n: int = 1, **options: Any) -> Any:
        """Let workers run so many tasks more at once."""
        return self.broadcast("pool_grow", {"n": n}, **options)

    def pool_shrink(self, n: int = 1, **options: Any) -> Any:
        """Let workers run so many tasks fewer at once; what runs goes on."""
        return self.broadcast("pool_shrink", {"n": n}, **options)

    def autoscale(self, max: int, min: int | None = None, **options: Any) -> Any:
        """Let workers run between ``min`` and ``max`` tasks at once, by what there is to do."""
        return self.broadcast("autoscale", {"max": max, "min": min}, **options)

    def shutdown(self, destination: str | Collection[str] | None = None, **options: Any) -> Any:
        """Let nodes finish what they run, and leave."""
        return self.broadcast("shutdown", {}, destination, **options)


def signal_number(signal: str | int) -> int:
    """The number of a signal, by number or name.

    Raises:
        ConfigError: there is no such signal.
    """
    if isinstance(signal, str):
        name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
        found = getattr(signals.Signals, name, None)
    else:
        found = signal if signal in set(signals.Signals) else None
    if found is None:
        raise ConfigError(f"signal={signal!r} is no signal; write for example 'SIGTERM'")
    return int(found)


def _flat(ids: Sequence[str | Iterable[str]]) -> list[str]:
    """Celery takes ids one by one or as a list."""
    found: list[str] = []
    for entry in ids:
        found += [entry] if isinstance(entry, str) else list(entry)
    return found
