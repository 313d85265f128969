"""What a running task makes of itself: other calls that take its place, or join its chord.

They are not submitted here: they travel with what the attempt says of its end, and the owner
of the task makes them when that counts (``core/offspring.py``). So an attempt that is lost
leaves nothing behind, and the next one does not do it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app.builtin import ACCUMULATE
from zmqtasks.app.canvas.chains import chord
from zmqtasks.app.canvas.group import Member, group
from zmqtasks.app.canvas.signature import Signature, linked_signature
from zmqtasks.app.canvas.submitting import GROUP_KEY
from zmqtasks.app.canvas.workflow import WorkflowCalls
from zmqtasks.app.context import EagerRun
from zmqtasks.app.fact_keys import CHORD_KEY
from zmqtasks.app.option_checks import STAMPS_KEY
from zmqtasks.app.replaced import Replaced, ReplacedEagerly, added
from zmqtasks.app.result import AsyncResult
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.inputs import REPLACED_KEY
from zmqtasks.errors import ConfigError, Ignore, PayloadTooLarge
from zmqtasks.limits import CARRIED_BYTES_MAX, CHILD_SUBMIT_COUNT_MAX, PAYLOAD_BYTES_MAX
from zmqtasks.node.gateway import Durability
from zmqtasks.pools.protocol import RunTask
from zmqtasks.wire.carried import CarriedCall, pack_calls

if TYPE_CHECKING:
    from zmqtasks.app.task import Task


class Planned(NamedTuple):
    """Calls that are to be made by the owner of a task."""

    #: Of the one whose result counts.
    id: bytes
    calls: list[CarriedCall]


def replace(task: Task[Any, Any], sig: Mapping[str, Any]) -> Ignore:
    """The exception that lets a call or a workflow take the place of the running attempt.

    Raises:
        RuntimeError: nothing runs here that could be replaced.
        ConfigError: it cannot take its place.
        PayloadTooLarge: its calls cannot travel together.
    """
    where = f"{task.name}.replace()"
    run = _running(task, where)
    found: Signature[Any] = linked_signature(sig, task.app)
    if isinstance(found, group):
        gather: Signature[Any] = Signature(ACCUMULATE, app=task.app).set(queue=run.queue)
        found = chord(found, gather, app=found._app)
    if isinstance(run, EagerRun):
        outcome = found.applied((), {}, {}, {})._outcome
        assert outcome is not None, "it has run"
        return ReplacedEagerly(outcome)
    planned = _planned(found, run, where)
    count = len(planned.calls)
    if count > CHILD_SUBMIT_COUNT_MAX:
        raise ConfigError(
            f"{where}: it would be replaced by {count:,} calls, and {CHILD_SUBMIT_COUNT_MAX:,} can "
            "go together; replace it by fewer that each make a part of them, such as chunks"
        )
    packed = pack_calls(planned.calls)
    if len(packed) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"{where}: the calls that would replace it have {len(packed):,} bytes, and "
            f"{PAYLOAD_BYTES_MAX:,} can travel; give them less to carry, such as names of files"
        )
    return Replaced(
        f"replaced by {found!r:.100}", packed, {INPUTS_KEY: [[planned.id], 0], REPLACED_KEY: 1}
    )


def add_to_chord(task: Task[Any, Any], sig: Mapping[str, Any]) -> AsyncResult[Any]:
    """Let a call be a further member of the chord that the running task belongs to.

    Raises:
        RuntimeError: nothing runs here.
        ConfigError: it is no member of a chord, or the call cannot be one.
    """
    where = f"{task.name}.add_to_chord()"
    run = _running(task, where)
    if CHORD_KEY not in (run.ext or {}):
        raise ConfigError(
            f"{where}: this call is no member of a chord's header, so nobody waits for more; "
            "submit the other one with delay()"
        )
    found: Signature[Any] = linked_signature(sig, task.app)
    if isinstance(found, group):
        raise ConfigError(f"{where}: a group is many members; add each of them")
    before = added.get((run.id, run.attempt), [])
    if isinstance(run, EagerRun):
        added[run.id, run.attempt] = [*before, found]
        return found.freeze()
    planned = _planned(found, run, where)
    joining = [*before, *planned.calls]
    size = len(pack_calls(joining))
    if size > CARRIED_BYTES_MAX:
        raise ConfigError(
            f"{where}: the calls that join the chord have {size:,} bytes, and "
            f"{CARRIED_BYTES_MAX:,} can travel with a result; give them less to carry"
        )
    added[run.id, run.attempt] = joining
    return AsyncResult.of_submitted(planned.id, task.app, None)


def _running(task: Task[Any, Any], where: str) -> RunTask:
    run = task.request.run
    if run is None:
        raise RuntimeError(f"{where}: only a task that runs can do that; it was called directly")
    if "o" in (run.ext or {}):
        raise ConfigError(
            f"{where}: it was called with delivery='at_most_once', so nobody holds it until others "
            "have ended; leave delivery out"
        )
    return run


def _planned(found: Signature[Any], run: RunTask, where: str) -> Planned:
    calls = WorkflowCalls(found.app, where)
    last = calls.plan(Member(found, (), {}, {}), None)
    if not isinstance(last, bytes):
        raise ConfigError(f"{where}: what takes part here ends with one call; let one follow")
    of_run = run.ext or {}
    line = {"p": run.id, "r": of_run.get("r", run.id)}
    if STAMPS_KEY in of_run:
        line[STAMPS_KEY] = of_run[STAMPS_KEY]
    # The last one is in the group and the chord of the one that it stands for, or joins.
    of_last = {key: of_run[key] for key in (GROUP_KEY, CHORD_KEY) if key in of_run}
    carried: list[CarriedCall] = []
    for call, durability in ((each.call, each.durability) for each in calls.prepared):
        is_last = call.id == last
        ext = {**line, **(call.ext or {}), **(of_last if is_last else {})}
        is_durable = durability is Durability.DISK
        carried.append(CarriedCall(call.id, call.kind, call.body, ext, is_durable, is_last))
    return Planned(last, carried)
