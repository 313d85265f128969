"""Errbacks: calls that are made when a task has failed for good.

They travel with the task, and its owner makes them (``core/offspring.py``). What they are
called with is decided where they run, since there the function is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zmqtasks.app.callbacks import Match, listed, styled
from zmqtasks.app.context import TaskContext
from zmqtasks.app.outcomes import error_of
from zmqtasks.core.offspring import ERRBACKS_KEY, FAILED_KEY
from zmqtasks.errors import ConfigError
from zmqtasks.limits import CARRIED_BYTES_MAX
from zmqtasks.node.gateway import Durability
from zmqtasks.pools.protocol import RunTask
from zmqtasks.wire.carried import CarriedCall, pack_calls
from zmqtasks.wire.joined import split
from zmqtasks.wire.messages import Outcome

if TYPE_CHECKING:
    from zmqtasks.app.app import App

#: Options that an errback cannot have, and why.
_REFUSED = {
    "link": "it is one call; make it a task that makes further ones",
    "after": "it is called when the task has failed, and waits for nothing else",
    "task_id": "its id is made of that of the task that failed",
    "idempotency_key": "its id is made of that of the task that failed",
    "require_worker": "nobody could be told when it is called",
}


def packed_errbacks(
    app: App, errbacks: Sequence[Mapping[str, Any]], where: str, *,
    seeds: Sequence[bytes] | None = None, is_for_inputs: bool = False,
) -> bytes:  # fmt: skip
    """Errbacks of a call, as a fact of it.

    Args:
        app: of the call.
        errbacks: signatures.
        where: the method called.
        seeds: what the ids of their calls are made of; calls that share one are called once
            when they fail for the same reason.
        is_for_inputs: they are also called when something fails that the call waits for.

    Raises:
        ConfigError: one of them cannot be an errback.
        TypeError: its arguments fit in neither style.
    """
    found: list[CarriedCall] = []
    for index, each in enumerate(errbacks):
        seed = seeds[index] if seeds is not None else index.to_bytes(2, "big")
        found.append(_carried(app, each, seed, f"{where}: link_error", is_for_inputs))
    packed = pack_calls(found)
    if len(packed) > CARRIED_BYTES_MAX:
        raise ConfigError(
            f"{where}: its errbacks take {len(packed):,} bytes, and {CARRIED_BYTES_MAX:,} can "
            "travel with a call; give them less to carry, such as the name of a file"
        )
    return packed


def _carried(
    app: App, errback: Mapping[str, Any], seed: bytes, where: str, is_for_inputs: bool
) -> CarriedCall:
    from zmqtasks.app.canvas.signature import Signature, linked_signature

    found = linked_signature(errback, app)
    if type(found) is not Signature:
        raise ConfigError(
            f"{where}: an errback is a call of one task, not a {found.subtask_type}; make it a "
            "task that calls the others"
        )
    for option, why in _REFUSED.items():
        if found.options.get(option):
            raise ConfigError(f"{where}: {found.task} cannot have {option}: {why}; leave it out")
    wants = {FAILED_KEY: 0 if found.immutable else 1}
    prepared = found.prepared((), {}, {}, where, wants)
    if prepared.options.get("delivery") == "at_most_once":
        raise ConfigError(
            f"{where}: delivery='at_most_once' of {found.task} forgets a call once it is sent, "
            "and what is to be done about a failure must not get lost; leave it out"
        )
    ext = dict(prepared.call.ext or {})
    if found.immutable:
        del ext[FAILED_KEY]
    durable = prepared.durability is Durability.DISK
    return CarriedCall(
        seed, prepared.call.kind, prepared.call.body, ext or None, durable, is_for_inputs
    )


def errback_arguments(
    run: RunTask, match: Match, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """The positional arguments of an errback that runs here.

    Args:
        run: its attempt.
        match: accepts or refuses arguments of its function.
        args, kwargs: its own.

    Raises:
        TypeError: they fit in neither style.
    """
    assert run.ext is not None, "it says which task has failed"
    task_id, attempt, status, told, app, name, queue, ext = run.ext[FAILED_KEY]
    results = split(run.body).results
    failed = RunTask(task_id, attempt, app, name, queue, b"", results.get(1, b""), ext)
    body = results.get(0, b"")
    error = error_of(Outcome(task_id, attempt, status, 0, 0, 0, 0, len(body), body, told))
    request = TaskContext(failed)
    trace = getattr(error, "remote_traceback", None)
    return list(styled(match, (request, error, trace), (request.id,), args, kwargs))


def add_errbacks(ext: dict[str, Any], app: App, errbacks: object, where: str) -> None:
    """Let a call of a single task have these, unless it has its own already."""
    if errbacks and ERRBACKS_KEY not in ext:
        ext[ERRBACKS_KEY] = packed_errbacks(app, listed(errbacks), where, is_for_inputs=True)
