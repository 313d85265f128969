"""What machines want done. The node's loop, or the simulator, carries it out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from zmqtasks.core.calls import Call
from zmqtasks.core.links import Candidate, LinkId
from zmqtasks.core.owned import OwnedRecord, Progress
from zmqtasks.core.rows import OutcomeRow, VerdictRow
from zmqtasks.core.spillrows import SpillChange, SpillRow
from zmqtasks.wire.messages import Inspect, Message, Order, Outcome, StateRecord, UpdateRecord

Level = Literal["debug", "info", "warning", "error"]


#: From one start of a tick's task to the next one.
_ATTEMPTS_APART = 1_000


class Send(NamedTuple):
    """A message for the numbered stream of a link (taken by Membership)."""

    link: LinkId
    message: Message


class Transmit(NamedTuple):
    """Frames for the socket of a link."""

    link: LinkId
    frames: list[bytes]


class Dial(NamedTuple):
    """Find an address of the candidate that answers and connect R_out to it."""

    candidate: Candidate


class Hangup(NamedTuple):
    """Disconnect R_out from what was dialled for this node; no more traffic."""

    node: bytes


class CheckGone(NamedTuple):
    """The connection dropped: is the process gone? Answered by ``peer_gone``."""

    link: LinkId


class Subscribe(NamedTuple):
    """Connect SUB to a publisher, with these topics."""

    node: bytes
    endpoints: tuple[str, ...]
    topics: tuple[bytes, ...]


class Unsubscribe(NamedTuple):
    """Disconnect SUB from a publisher."""

    node: bytes


class RunInSlot(NamedTuple):
    """Hand tasks to a pool slot."""

    slot: int
    tasks: list[Any]


class CancelInSlot(NamedTuple):
    """Do not start this attempt, which a slot has: it ends with ``status``; with a
    ``signum`` that is not 0, end it too if it runs."""

    slot: int
    id: bytes
    attempt: int
    status: int
    signum: int


class AnswerSlot(NamedTuple):
    """Answer a request of a pool slot; ``error`` "" means done."""

    slot: int
    request: int
    error: str
    states: list[StateRecord]


class Publish(NamedTuple):
    """A message for the subscribers of a topic."""

    topic: bytes
    message: Message


class LaneConnect(NamedTuple):
    """Add a worker to an at-most-once lane."""

    lane: str
    node: bytes
    endpoints: tuple[str, ...]


class LaneDisconnect(NamedTuple):
    """Take a worker off a lane."""

    lane: str
    node: bytes


class LanePush(NamedTuple):
    """Hand to any worker of the lane; what nobody takes goes to ``FastLane.not_pushed``."""

    lane: str
    message: Message
    calls: list[Call]


class TasksSettled(NamedTuple):
    """Final outcomes of tasks this node owns."""

    outcomes: list[Outcome]


class TasksUpdated(NamedTuple):
    """News of running tasks, for who follows them in this process; before their outcomes."""

    updates: list[UpdateRecord]


class QuestionAnswered(NamedTuple):
    """News for who asked on this node; ``final``: no more will come."""

    token: int
    states: list[StateRecord]
    final: bool


class CallsAccepted(NamedTuple):
    """These durable calls are in the journal: their owner has them."""

    token: int


class CallsRefused(NamedTuple):
    """None of these durable calls was accepted."""

    token: int
    text: str


class JournalWrite(NamedTuple):
    """Commit to the journal; answered by ``custody.committed`` or ``custody.refused``."""

    batch: int
    puts: list[OwnedRecord]
    progress: list[Progress]
    drops: list[bytes]
    sync: bool


class RoomFreed(NamedTuple):
    """The owner has room for more tasks again."""


class StoreRows(NamedTuple):
    """Write in one commit; answered by ``rows_stored(batch)``."""

    batch: int
    outcomes: list[OutcomeRow]
    verdicts: list[VerdictRow]


class AskStore(NamedTuple):
    """Look ids up in the store; answered by ``store_answered(token, rows)``."""

    token: int
    ids: list[bytes]


class ForgetRows(NamedTuple):
    """Drop rows from the store."""

    ids: list[bytes]


class SpillWrite(NamedTuple):
    """Put rows of the result log on the disk, and change rows that are there, all or
    nothing; answered by ``spilled(batch, …)``.

    All spill effects are carried out in the order given.
    """

    batch: int
    rows: list[SpillRow]
    changes: list[SpillChange]


class SpillRead(NamedTuple):
    """Read positions ``first`` to ``last`` back, within bounds but at least one row;
    answered by ``spill_read(token, …)``."""

    token: int
    first: int
    last: int
    count_max: int
    bytes_max: int


class SpillFind(NamedTuple):
    """Look the outcomes of tasks up on the disk; answered by ``spill_found(token, …)``."""

    token: int
    ids: list[bytes]


class SpillTrim(NamedTuple):
    """Delete rows: those with ``need`` up to a position, those logged before a time, these
    positions, and the decided outcomes of these tasks; answered by ``spill_trimmed``."""

    upto: int
    before_ms: int
    positions: list[int]
    ids: list[bytes]


class ReportGot(NamedTuple):
    """A peer's answer to `inspect`."""

    request: int
    link: LinkId
    data: dict[str, Any]


class InspectionAsked(NamedTuple):
    """A peer wants to know this of this node; answered by ``report``."""

    link: LinkId
    message: Inspect


class OrderGiven(NamedTuple):
    """A peer wants this done; answered by ``report``."""

    link: LinkId
    message: Order


class PlanTicks(NamedTuple):
    """When is this entry due, after the first time and up to the second one (wall clock,
    milliseconds since 1970), and when next? Answered by ``planned`` or ``unplanned``."""

    name: str
    after_ms: int
    until_ms: int


class FireTick(NamedTuple):
    """Submit the task of this entry that is due then, with this id; if that cannot be done:
    ``refused``.

    ``again``: so many starts of it came before whose outcome nobody knows. Then its attempts are
    numbered from ``first_attempt``, so that those of an earlier start are told from them.
    """

    name: str
    due_ms: int
    id: bytes
    again: int = 0

    @property
    def first_attempt(self) -> int:
        """More than an earlier start can have had."""
        return 1 + self.again * _ATTEMPTS_APART


class SaveBeat(NamedTuple):
    """What is known of ticks has changed."""


class Note(NamedTuple):
    """Something people should know. ``once``: log only the first with this key."""

    level: Level
    event: str
    text: str
    once: str = ""


Effect = (
    Send | Transmit | Dial | Hangup | CheckGone | Subscribe | Unsubscribe | RunInSlot
    | CancelInSlot | AnswerSlot | Publish | LaneConnect | LaneDisconnect | LanePush | TasksSettled
    | TasksUpdated | QuestionAnswered | CallsAccepted | CallsRefused | JournalWrite | RoomFreed
    | StoreRows | AskStore | ForgetRows | SpillWrite | SpillRead | SpillFind | SpillTrim | ReportGot
    | InspectionAsked | OrderGiven | PlanTicks | FireTick | SaveBeat | Note
)  # fmt: skip
