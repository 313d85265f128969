"""Commands of applications: tasks that every worker runs when somebody says so.

They are user code, so they run where tasks run, and not in the nodes themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zmqtasks.app import timing
from zmqtasks.app.broadcasting import WORKERS, submit_to, workers_with
from zmqtasks.app.resultset import ResultSet
from zmqtasks.errors import ConfigError, TaskRevokedError, TimeoutError
from zmqtasks.ids import format_node
from zmqtasks.node.commands import CONTROL, INSPECT, INSTEAD
from zmqtasks.node.gateway import Call, Gateway
from zmqtasks.node.survey import Request, SeenNode, missing
from zmqtasks.settings_sources import nearest
from zmqtasks.wire.messages import Hello, Kind
from zmqtasks.wire.payload import encode_arguments

if TYPE_CHECKING:
    from zmqtasks.app.app import App

_PREFIX = "zmqtasks."
#: {group: names of the commands that every mesh has}
_BUILT_IN = {
    "control": (*CONTROL, "revoke", "terminate", "revoke_by_stamped_headers"),
    "inspect": tuple(INSPECT),
}
_TAKEN = frozenset({*_BUILT_IN["control"], *_BUILT_IN["inspect"], *INSTEAD})
_PRIORITY = 9
_BUSY = "it did not come to it in time: its slots are busy, or the command takes longer"


def command_name(group: str, name: str) -> str:
    """The name of the task that is this command.

    Args:
        group: "control" or "inspect".
        name: of the command.

    Raises:
        ConfigError: there is such a command already.
    """
    if name in _TAKEN:
        raise ConfigError(f"{group}_command: there is a command {name!r} already; choose another")
    return f"{_PREFIX}{group}.{name}"


def give_command(
    app: App, through: Gateway, task: str, args: Mapping[str, Any],
    destination: Sequence[str] | None, timeout: float,
) -> list[SeenNode]:  # fmt: skip
    """Let all workers carry out a command, in one of their processes.

    Args:
        app: for its settings; the command may be of any application.
        through: the way to the mesh.
        task: its name as ``command_name`` gives it.
        args: keyword arguments.
        destination: names of workers, or patterns; None: all.
        timeout: seconds until it is given up: what has not started then does not start.

    Raises:
        ConfigError: no worker in sight has it.
    """
    give_up = timing.monotonic() + timeout
    kind = Kind("", task, "", app.settings.default_queue)
    peers = workers_with(through, kind, destination, timeout)
    if not peers:
        raise ConfigError(why_nobody(task, through.find(Request(task, roles=WORKERS), 0)))
    results: ResultSet[Any] = ResultSet.of_submitted(app, through)
    ext = {"pri": _PRIORITY, "exp": timing.now_ms() + timing.span_ms(timeout)}
    submit_to(through, peers, Call(b"", kind, encode_arguments((), args), ext), results)
    seen = [
        _answer(peer, handle, give_up - timing.monotonic())
        for peer, handle in zip(peers, results.results, strict=True)
    ]
    why = "no worker in sight has this name and the command"
    return seen + missing(Request(task, destination=destination), seen, why)


def known_commands(group: str, workers: Iterable[Hello] = ()) -> list[str]:
    """The names of all commands of "control" or "inspect", those that the applications of
    these workers have made last."""
    prefix = f"{_PREFIX}{group}."
    own = {
        entry.name.removeprefix(prefix)
        for worker in workers
        for entry in worker.catalog
        if entry.name.startswith(prefix)
    }
    return [*(_BUILT_IN[group]), *sorted(own)]


def why_nobody(task: str, workers: Sequence[Hello]) -> str:
    """Why none of those whom a command is for has it, and what there is instead.

    Args:
        task: its name as ``command_name`` gives it.
        workers: all in sight.
    """
    _, group, name = task.split(".", 2)
    if name in INSTEAD:
        return f"{group}: no command {name!r}: {INSTEAD[name]}"
    having = [worker.name for worker in workers if any(e.name == task for e in worker.catalog)]
    if having:
        return f"{group} {name}: only {', '.join(having)} has it: not asked, or about to leave"
    other = "inspect" if group == "control" else "control"
    if name in known_commands(other, workers):
        return f"{group}: no command {name!r}; there is {other} {name}"
    known = known_commands(group, workers)
    likely = nearest(name, known)
    there = f"did you mean {likely!r}?" if likely else f"there are {', '.join(known)}"
    return f"{group}: no command {name!r}: no worker in sight has it either; {there}"


def _answer(peer: Hello, handle: Any, timeout: float) -> SeenNode:
    report: dict[str, Any] | None = None
    trouble = ""
    try:
        found = handle.get(timeout=max(0, timeout), propagate=False)
    except TimeoutError:
        trouble = _BUSY
    else:
        if isinstance(found, TaskRevokedError):
            trouble = _BUSY
        elif handle.successful():
            report = {"data": found}
        else:
            report = {"error": f"{type(found).__name__}: {found}"}
    return SeenNode(
        format_node(peer.node), peer.name, tuple(peer.roles), "", "", "", report, trouble
    )
