"""The messages of the mesh protocol as typed arrays.

Every message is a ``msgspec`` struct encoded as a MessagePack array, so decoding
validates. Ends ignore array elements they do not know; new optional facts travel in
the ``ext`` dicts, whose unknown keys are kept when a node passes a record on. An
``ext`` key that starts with ``!`` must be understood: a node that does not know it
refuses the task. Source: docs/protocol.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from zmqtasks.wire.codes import ErrorCode as ErrorCode
from zmqtasks.wire.codes import MessageType as MessageType
from zmqtasks.wire.codes import RejectCode as RejectCode
from zmqtasks.wire.codes import Status as Status
from zmqtasks.wire.codes import TaskState as TaskState
from zmqtasks.wire.codes import Verdict as Verdict


class _Array(msgspec.Struct, array_like=True, gc=False):
    pass


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of everything that travels as the body of frame 0."""

    TYPE: ClassVar[MessageType]


class Kind(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What calls of one task have in common; sent once a message.

    ``digest`` is the signature's digest ("" when the caller does not know it, which
    matches any), ``ext`` holds facts about the task as pairs: ``sig`` its signature as
    text, ``rx`` 1: its outcomes tell the arguments, ``idem`` 0 when it is not idempotent, so
    that no attempt of it follows another, ``req`` what a worker must have and ``can`` what its
    pool must be able to do (see ``core.requirements``), ``to`` the only node (id in hex) that
    may run it.
    """

    app: str
    name: str
    digest: str
    queue: str
    ext: tuple[tuple[str, Any], ...] = ()


class TaskRecord(_Array):
    """One task on the wire. ``body`` is the payload, or the index of its frame.

    ``ext`` keys: ``h`` headers (dict), ``p`` parent task id, ``r`` id of the first task in
    the line of parents, ``o`` node id of the producer that called, ``d`` times delivered
    before, when not attempt - 1, ``c`` digest of the content where the caller chose the id,
    ``dur`` 1: to be on disk, ``k`` workers and children that died while it ran, if any,
    ``pri`` priority 1 to 9 (9 first; 0 when absent), ``eta`` not to start before this wall
    clock time, ``exp`` not to start after it (milliseconds since 1970), ``tl`` soft and hard
    time limit in milliseconds, 0 for that of its task, ``at`` number of its first attempt, when
    not 1, ``n`` retries so far, ``rq`` times
    that it was rejected to be run again, ``ra`` the attempt that asked for the next one and
    has ended (where the kind has ``idem`` 0 or no digest), ``once`` 1: its workers say that it
    is not idempotent, and no attempt had been given away before they did, ``ar`` and ``kr``
    texts to show for its positional and keyword arguments, ``ka`` workers that died while it
    and others of its owner ran there, ``x`` where it is offered: its cancellation is pending,
    by this signal if it runs (0: only if it does not).
    """

    kind: int
    id: bytes
    attempt: int
    body: bytes | int
    ext: dict[str, Any] | None = None


class OfferRecord(_Array):
    """One task whose ownership is offered.

    ``attempt`` is the next one to give away, or with ``held`` the one that the taker
    itself works on. ``body`` and ``ext`` as in ``TaskRecord``.
    """

    kind: int
    id: bytes
    attempt: int
    strikes: int
    durability: int
    held: bool
    body: bytes | int
    ext: dict[str, Any] | None = None


class Outcome(_Array):
    """How one attempt ended; the record that is published, reported and stored.

    ``position`` is its number in the publisher's log, ``started_ms`` wall clock (for
    people only), ``size`` the payload's bytes, ``body`` the payload, the index of its
    frame, or None where only size and position are reported. ``ext`` keys: ``w`` name
    of the worker node, ``e`` short text of the error, ``c`` and ``n`` as in ``TaskRecord``,
    ``it`` how many items the attempt yielded, ``ch`` ids of the tasks that it submitted, one
    after the other, ``a`` its arguments as in ``TaskRecord.body``.
    """

    id: bytes
    attempt: int
    status: int
    position: int
    kind: int
    started_ms: int
    run_us: int
    size: int
    body: bytes | int | None
    ext: dict[str, Any] | None = None


class VerdictRecord(_Array):
    """The owner's verdict on one attempt, as published for the stores."""

    id: bytes
    attempt: int
    verdict: int
    position: int


class RetryRecord(_Array):
    """An attempt that wants to be followed by another one.

    ``delay_ms`` from now, ``counts``: it is a retry, which ``ext["n"]`` counts. ``error``: its
    short text. ``body`` and ``ext``: new arguments, and facts to put in place of those
    that it had; None for the same.
    """

    id: bytes
    attempt: int
    delay_ms: int
    counts: bool
    error: str
    body: bytes | int | None = None
    ext: dict[str, Any] | None = None


class UpdateRecord(_Array):
    """News of a running attempt: a state of its own making (``number`` -1), or an item that
    it yields (``number`` from 0, ``state`` ""). ``meta``: an encoded value.
    """

    id: bytes
    attempt: int
    number: int
    state: str
    meta: bytes


class CatalogEntry(_Array):
    """A task that a worker can run. ``ext`` key ``idem``: 0 when it is not idempotent."""

    app: str
    name: str
    digest: str
    signature: str
    ext: dict[str, Any] = {}


# --- links ------------------------------------------------------------------------------


class Hello(Message):
    """First message on every connection; repeated until WELCOME.

    ``session`` numbers the sender's link, ``peer_session`` is what it knows of the
    other's (0: nothing), ``rx_seq`` the last number received in that session.
    """

    TYPE: ClassVar[MessageType] = MessageType.HELLO
    node: bytes
    epoch: int
    session: int
    peer_session: int
    rx_seq: int
    mesh: bytes
    version_min: int
    version_max: int
    features: list[str]
    name: str
    roles: list[str]
    host_id: bytes
    pid: int
    endpoints: list[str]
    pub_endpoints: list[str]
    pull_endpoints: list[str]
    slots: int
    queues: list[str]
    catalog: list[CatalogEntry]
    ext: dict[str, Any] = {}


class Welcome(Message):
    """The HELLO of ``peer_session`` is accepted; resend what lies above ``rx_seq``."""

    TYPE: ClassVar[MessageType] = MessageType.WELCOME
    session: int
    peer_session: int
    rx_seq: int
    version: int
    ext: dict[str, Any] = {}


class Heartbeat(Message):
    """Sent every ``heartbeat_ms`` on every link; never numbered.

    ``tx_seq`` is the last number sent (its loss shows), ``head`` the last position of
    the sender's result log, ``echo_ms`` the peer's last ``mono_ms`` seen (renews its
    leases by its own clock), ``hold_ms`` how long ago that was. ``ext`` key ``s``: a store
    has the outcomes of the sender's log, and their verdicts, up to this position.
    """

    TYPE: ClassVar[MessageType] = MessageType.HEARTBEAT
    mono_ms: int
    echo_ms: int
    hold_ms: int
    tx_seq: int
    head: int
    queued: int
    running: int
    ext: dict[str, Any] = {}


class Bye(Message):
    """The sender leaves; numbered, so all that was sent before it counts."""

    TYPE: ClassVar[MessageType] = MessageType.BYE
    reason: str


class Error(Message):
    """A refusal; never answered."""

    TYPE: ClassVar[MessageType] = MessageType.ERROR
    code: int
    text: str


class Ack(Message):
    """Nothing but the acknowledgement in its header."""

    TYPE: ClassVar[MessageType] = MessageType.ACK


class Nak(Message):
    """Resend everything above ``rx_seq``."""

    TYPE: ClassVar[MessageType] = MessageType.NAK
    rx_seq: int


# --- dispatcher to intake ---------------------------------------------------------------


class Tasks(Message):
    """Tasks to run; ``backlog`` more wait at the sender for this intake's credit."""

    TYPE: ClassVar[MessageType] = MessageType.TASKS
    kinds: list[Kind]
    tasks: list[TaskRecord]
    backlog: int = 0


class Demand(Message):
    """How many tasks wait for credit; what credit is dealt by."""

    TYPE: ClassVar[MessageType] = MessageType.DEMAND
    backlog: int


class Cancel(Message):
    """End these attempts, ``(id, attempt)``, with ``status``: CANCELLED or EXPIRED.

    Without ``terminate`` only those that have not started; running ones learn of it.
    ``signal`` goes to the process of a running one.
    """

    TYPE: ClassVar[MessageType] = MessageType.CANCEL
    tasks: list[tuple[bytes, int]]
    status: int
    terminate: bool = False
    signal: int = 15


class Recall(Message):
    """Give those of these attempts back that have not started: ``(id, attempt)``."""

    TYPE: ClassVar[MessageType] = MessageType.RECALL
    tasks: list[tuple[bytes, int]]


class Settled(Message):
    """The owner's verdicts, by log position of the worker it is sent to.

    ``ranges`` are inclusive ``(first, last)`` pairs of settled positions. Of ``unknown``
    ones the sender knows no task, so it will never decide on them.
    """

    TYPE: ClassVar[MessageType] = MessageType.SETTLED
    ranges: list[tuple[int, int]]
    refused: list[int]
    unknown: list[int] = []


class Submitted(Message):
    """Answer to SUBMIT: ``refused`` is "" or the reason why none was accepted."""

    TYPE: ClassVar[MessageType] = MessageType.SUBMITTED
    request: int
    refused: str


# --- owner to owner ---------------------------------------------------------------------


class Offer(Message):
    """Will you own these tasks? Nobody else gets them until it is answered.

    ``request`` grows with each offer of one process. ``lasting``: they are in the giver's
    journal, so it, or its heir, can always tell whose they are. ``watch``: tell the giver
    their outcomes, as after a QUERY with request 0.
    """

    TYPE: ClassVar[MessageType] = MessageType.OFFER
    request: int
    kinds: list[Kind]
    tasks: list[OfferRecord]
    lasting: bool
    watch: bool


class Stored(Message):
    """Answer to OFFER: they are on the taker's disk and not active.

    ``refused`` is "" or why none of them is; ``left`` are those that it cannot take now.
    """

    TYPE: ClassVar[MessageType] = MessageType.STORED
    request: int
    refused: str
    left: list[bytes] = []


class Handed(Message):
    """Whose the tasks of the offers up to number ``upto`` are.

    ``given``: the taker's, from now on. ``kept``: not the taker's, so forget the offer.
    ``unknown``: the sender has no record of them (only in answer to RESOLVE). ``taker`` is
    whom they were offered to: the receiver, or a node whose heir it is.
    """

    TYPE: ClassVar[MessageType] = MessageType.HANDED
    upto: int
    given: list[bytes]
    kept: list[bytes]
    unknown: list[bytes]
    taker: bytes


class Taken(Message):
    """These are active at the sender, durably: the giver may forget them."""

    TYPE: ClassVar[MessageType] = MessageType.TAKEN
    ids: list[bytes]


class Resolve(Message):
    """These were offered by the receiver, or by a node whose heir it is, and never
    confirmed: whose are they? ``taker`` is whom they were offered to (the sender, or a
    node whose heir it is).
    """

    TYPE: ClassVar[MessageType] = MessageType.RESOLVE
    ids: list[bytes]
    taker: bytes


class Heir(Message):
    """The sender owns now what these nodes, which have ended, owned."""

    TYPE: ClassVar[MessageType] = MessageType.HEIR
    nodes: list[bytes]


# --- intake to dispatcher ---------------------------------------------------------------


class Credit(Message):
    """The dispatcher may have sent ``limit`` tasks in all on this link session."""

    TYPE: ClassVar[MessageType] = MessageType.CREDIT
    limit: int


class Reject(Message):
    """Tasks given back: ``(id, attempt, code)`` and a text for the log.

    ``hold_ms``: with code LATER, send no more of their kinds before that.
    """

    TYPE: ClassVar[MessageType] = MessageType.REJECT
    tasks: list[tuple[bytes, int, int]]
    text: str
    limit: int
    hold_ms: int = 0


class Retry(Message):
    """Attempts that ended and ask for another one, and the credit that they free."""

    TYPE: ClassVar[MessageType] = MessageType.RETRY
    limit: int
    tasks: list[RetryRecord]


class Updates(Message):
    """News of running attempts, for their owner and, from it, for who watches them."""

    TYPE: ClassVar[MessageType] = MessageType.UPDATES
    updates: list[UpdateRecord]


class Started(Message):
    """Tasks seen running: ``(id, attempt)``."""

    TYPE: ClassVar[MessageType] = MessageType.STARTED
    tasks: list[tuple[bytes, int]]


class Done(Message):
    """Outcomes for their owner, and the credit that they free."""

    TYPE: ClassVar[MessageType] = MessageType.DONE
    limit: int
    outcomes: list[Outcome]


class Submit(Message):
    """Tasks that task ``parent`` submitted; its owner shall own them."""

    TYPE: ClassVar[MessageType] = MessageType.SUBMIT
    request: int
    parent: bytes
    kinds: list[Kind]
    tasks: list[TaskRecord]


# --- results ----------------------------------------------------------------------------


class Rack(Message):
    """Everything up to ``position`` of the publisher's log is stored for good."""

    TYPE: ClassVar[MessageType] = MessageType.RACK
    position: int


class Replay(Message):
    """Send positions ``first`` to ``last`` again; ``owner``: for settling, not storing."""

    TYPE: ClassVar[MessageType] = MessageType.REPLAY
    first: int
    last: int
    owner: bool = False


class Results(Message):
    """Answer to REPLAY; ``upto`` is the last position that it covers."""

    TYPE: ClassVar[MessageType] = MessageType.RESULTS
    kinds: list[Kind]
    outcomes: list[Outcome]
    verdicts: list[VerdictRecord]
    first: int
    upto: int
    owner: bool = False


class Trimmed(Message):
    """Positions up to ``upto`` are gone from the log."""

    TYPE: ClassVar[MessageType] = MessageType.TRIMMED
    upto: int


class PubResults(Message):
    """A published batch: frame 1 of a PUB message whose frame 0 is the topic."""

    TYPE: ClassVar[MessageType] = MessageType.PUB_RESULTS
    node: bytes
    epoch: int
    kinds: list[Kind]
    outcomes: list[Outcome]
    verdicts: list[VerdictRecord]


class PubHead(Message):
    """The last position of a publisher; sent to each new subscription."""

    TYPE: ClassVar[MessageType] = MessageType.PUB_HEAD
    node: bytes
    epoch: int
    position: int


# --- questions --------------------------------------------------------------------------


class Query(Message):
    """What is known of these tasks? ``watch``: tell again when one settles."""

    TYPE: ClassVar[MessageType] = MessageType.QUERY
    request: int
    ids: list[bytes]
    watch: bool


class StateRecord(_Array):
    """One answer. ``outcome`` is set for SETTLED and UNSETTLED.

    ``info`` keys: ``name``, ``queue``, ``worker``, ``attempt``, ``why`` (it waits),
    ``retries``, ``eta`` and ``expires`` (``n``, ``eta`` and ``exp`` of its ``TaskRecord``),
    ``owned`` (the owner itself says so), ``owner`` (node that has to decide on an unsettled
    outcome), ``c`` as in ``TaskRecord``.
    """

    id: bytes
    state: int
    info: dict[str, Any]
    outcome: Outcome | None


class States(Message):
    """Answer to QUERY, and news for its watchers (same ``request``).

    ``more``: the rest of this answer follows.
    """

    TYPE: ClassVar[MessageType] = MessageType.STATES
    request: int
    states: list[StateRecord]
    more: bool = False


class Forget(Message):
    """Drop the kept outcomes of these tasks."""

    TYPE: ClassVar[MessageType] = MessageType.FORGET
    ids: list[bytes]


class Inspect(Message):
    """Describe yourself: ``what`` is "status", "dead", "story" (of the tasks ``ids``), or what
    else ``zmqtasks inspect`` offers, with its arguments in ``args``."""

    TYPE: ClassVar[MessageType] = MessageType.INSPECT
    request: int
    what: str
    ids: list[bytes] = []
    args: dict[str, Any] = {}


class Report(Message):
    """Answer to INSPECT and ORDER: plain data."""

    TYPE: ClassVar[MessageType] = MessageType.REPORT
    request: int
    data: dict[str, Any]


class Order(Message):
    """Do this: ``what`` is "dead.retry" or "dead.drop" (of your dead tasks ``ids``), or what
    else ``zmqtasks control`` offers, with its arguments in ``args``."""

    TYPE: ClassVar[MessageType] = MessageType.ORDER
    request: int
    what: str
    ids: list[bytes]
    args: dict[str, Any] = {}
