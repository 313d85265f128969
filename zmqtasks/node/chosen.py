"""Calls whose ids their callers chose: the same id with the same content is the same task.

Whoever knows a task also knows a digest of what it was called with (``ext["c"]``), so a
repeated call can be told from another one that took its id. Tasks of this process are
looked up here; about others the mesh is asked, for a moment only: what nobody who is there
knows is a new task. So two processes that use one id for the first time at the same
moment may each submit it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from zmqtasks.core.calls import Call, Ticket
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.errors import SubmitRejected
from zmqtasks.ids import format_task_id
from zmqtasks.limits import CHOSEN_IDS_MAX
from zmqtasks.node.questions import Questions
from zmqtasks.node.tickets import Tickets
from zmqtasks.wire.messages import StateRecord

if TYPE_CHECKING:
    from zmqtasks.node.runtime import Runtime

#: How long others are asked about an id, in seconds.
_ASK_S = 1.0


class Fate(Enum):
    """What a call with a chosen id means."""

    #: Nobody here knows it.
    NEW = auto()
    #: This process owns it.
    OPEN = auto()
    #: This process has submitted it and has given it to another owner.
    AWAY = auto()
    #: It has settled here.
    SETTLED = auto()
    #: The id belongs to a task with other content.
    OTHER = auto()


def is_chosen(call: Call, node: bytes) -> bool:
    """Did its caller choose its id? Those made by this node are its own."""
    return not call.id.startswith(node) or (call.ext is not None and "c" in call.ext)


def digest_of(call: Call) -> bytes:
    """The digest of its content."""
    digest = (call.ext or {}).get("c")
    if isinstance(digest, bytes):
        return digest
    from zmqtasks.wire.content import content_digest  # most processes never need it

    return content_digest(call.kind.app, call.kind.name, call.body)


class ChosenIds:
    """What is known of chosen ids. ``elsewhere`` is for the caller's thread, the rest for
    the I/O thread.

    Args:
        runtime: of this process.
        tickets: who waits for tasks of this process.
        questions: asks the mesh.
    """

    def __init__(self, runtime: Runtime, tickets: Tickets, questions: Questions) -> None:
        self._runtime = runtime
        self._tickets = tickets
        self._questions = questions
        #: {task id: digest of its content}, of calls with chosen ids; the last ones.
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()

    # --- on the I/O thread ------------------------------------------------------------------

    def remember(self, call: Call) -> None:
        """It is submitted here."""
        self._digests[call.id] = digest_of(call)
        self._digests.move_to_end(call.id)
        if len(self._digests) > CHOSEN_IDS_MAX:
            self._digests.popitem(last=False)

    def fate_of(self, call: Call) -> Fate:
        """What this process knows of it."""
        known, fate = self._look(call)
        if fate is not Fate.NEW and known is not None and known != digest_of(call):
            return Fate.OTHER
        return fate

    def _look(self, call: Call) -> tuple[bytes | None, Fate]:
        known = self._digests.get(call.id)
        dispatcher = self._dispatcher
        task = dispatcher.tasks.get(call.id)
        if task is not None:
            there = Call(task.id, task.lane.kind, task.body, task.ext)
            return known or digest_of(there), Fate.OPEN
        kept = dispatcher.kept.get(call.id)
        if kept is not None:
            return known or (kept.ext or {}).get("c"), Fate.SETTLED
        # If somebody waits for it, it was submitted here.
        return known, Fate.AWAY if call.id in self._tickets else Fate.NEW

    def attach(self, call: Call, ticket: Ticket) -> None:
        """This ticket is told of a known task."""
        kept = self._dispatcher.kept.get(call.id)
        if kept is not None:
            ticket.settled(call.id, kept)
        else:
            self._tickets.add(call.id, ticket)

    @property
    def _dispatcher(self) -> Dispatcher:
        dispatcher = self._runtime.mesh.dispatcher
        assert dispatcher is not None
        return dispatcher

    # --- on the caller's thread ---------------------------------------------------------------

    def elsewhere(self, calls: Sequence[Call]) -> dict[bytes, StateRecord]:
        """Those of these calls that another process has submitted before.

        Raises:
            SubmitRejected: it has other content.
        """
        records = {
            record.id: record
            for record in self._questions.seen_elsewhere([call.id for call in calls], _ASK_S)
        }
        for call in calls:
            record = records.get(call.id)
            there = _digest_in(record) if record is not None else None
            if there is not None and there != digest_of(call):
                raise refusal(call)
        return records


def _digest_in(record: StateRecord) -> bytes | None:
    """Who has only the outcome of a task has the digest there."""
    digest = record.info.get("c")
    if digest is None and record.outcome is not None:
        digest = (record.outcome.ext or {}).get("c")
    return digest if isinstance(digest, bytes) else None


def refusal(call: Call) -> SubmitRejected:
    """The error for a call whose id belongs to another one."""
    return SubmitRejected(
        f"task id {format_task_id(call.id)} belongs to a call with other content: repeat a call "
        "with the same arguments, or choose another idempotency_key or task_id"
    )
