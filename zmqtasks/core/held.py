"""What an intake keeps of the tasks it holds: from acceptance to outcome."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from zmqtasks.core.credit import SLOW_US, Giver
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import Kind, RetryRecord, Status, TaskRecord

if TYPE_CHECKING:
    from zmqtasks.core.gates import Gate

_EWMA = 0.2
#: What the longest run counts for after each further one: a run of a second is forgotten, as
#: far as ``may_last`` goes, after some 600 short ones.
_PEAK_FADES = 0.995
#: A run of so many microseconds is worth remembering: who waits behind it notices.
_LONG_US = 50_000

#: Key in ``TaskRecord.ext``: workers or children that died while the task ran, if any.
STRIKES_KEY = "k"
#: Key in a task's ``ext``: how often it ran with others of its owner on a worker that died.
AMONG_KEY = "ka"


class KindStat:
    """What is known of tasks of one kind: how long they take, their results' way from the
    child included, and what may keep them from starting."""

    __slots__ = ("count", "gate", "is_slow", "mean_us", "peak_us")

    def __init__(self) -> None:
        #: How many have ended.
        self.count = 0
        #: Smoothed, in microseconds, -1 before the first.
        self.mean_us = -1.0
        #: The longest one, in microseconds, which fades.
        self.peak_us = 0.0
        #: It takes long, or may: each counts as a slot's worth of work.
        self.is_slow = True
        self.gate: Gate | None = None

    def add(self, cost_us: int) -> None:
        """Count one more run."""
        self.count += 1
        mean = self.mean_us
        self.mean_us = mean = float(cost_us) if mean < 0 else mean + _EWMA * (cost_us - mean)
        self.is_slow = mean > SLOW_US
        faded = self.peak_us * _PEAK_FADES
        self.peak_us = max(faded, cost_us)

    @property
    def may_last(self) -> bool:
        """The next one may take long, whatever most of them take: nothing is to wait behind it."""
        return self.mean_us < 0 or self.peak_us > _LONG_US

    def lasts(self, run_us: int) -> None:
        """One has been running for so long, and is not done."""
        self.peak_us = max(self.peak_us, run_us)
        if run_us > self.mean_us:
            self.mean_us = float(run_us)
            self.is_slow = self.is_slow or run_us > SLOW_US


class SlotState:
    """One slot of the pool: what was sent there and not answered, oldest first."""

    __slots__ = ("budget_us", "gpus", "is_closing", "is_stuck", "pending", "since_ms")

    def __init__(self) -> None:
        self.pending: deque[HeldTask] = deque()
        self.budget_us = 0.0
        #: It gets no more tasks, and goes when it has none.
        self.is_closing = False
        #: When the first pending task can have started.
        self.since_ms = 0
        #: The first pending task runs for longer than tasks of its kind do.
        self.is_stuck = False
        #: The GPUs that a task had here last: a process cannot change them once in use.
        self.gpus: list[str] = []

    @property
    def is_blocked(self) -> bool:
        """What it runs takes long, so nothing should wait for it."""
        if self.is_stuck or not self.pending:
            return self.is_stuck
        stat = self.pending[0].stat
        return stat.is_slow and stat.mean_us > SLOW_US


class HeldTask(msgspec.Struct, gc=False):
    """A task between acceptance and outcome. Never part of a cycle, so not collected."""

    id: bytes
    attempt: int
    body: bytes
    ext: dict[str, Any] | None
    kind: Kind
    #: The link it came on; its outcome goes to the owner node on whatever link.
    link: LinkId
    owner: bytes
    stat: KindStat
    #: Who gave it, for the credit; a later session of the link is another one, which
    #: knows nothing of this attempt.
    giver: Giver | None
    reported: bool = False
    #: It used up credit of its giver. Not so when it came to this owner by other ways.
    is_counted: bool = True
    #: Its rate limit lets it start.
    is_due: bool = False


def hold(
    record: TaskRecord, kind: Kind, link: LinkId, owner: bytes, stat: KindStat,
    giver: Giver | None,
) -> HeldTask:  # fmt: skip
    """A received task as the intake keeps it."""
    body = record.body
    assert isinstance(body, bytes)
    return HeldTask(record.id, record.attempt, body, record.ext, kind, link, owner, stat, giver)


class Finished(NamedTuple):
    """An attempt that ended in a slot."""

    task: HeldTask
    status: int
    started_ms: int
    run_us: int
    body: bytes
    error: str
    ext: dict[str, Any] | None = None


class SlotOutcome(NamedTuple):
    """What a slot says of an attempt (see ``pools.protocol.ChildOutcome``)."""

    id: bytes
    attempt: int
    status: int
    started_ms: int
    run_us: int
    body: bytes
    error: str
    ext: dict[str, Any] | None = None


def is_suspect(task: HeldTask) -> bool:
    """It was running when a worker or child died, so it runs alone: then the first
    unanswered task of a dead child is the one that ran."""
    return task.ext is not None and STRIKES_KEY in task.ext


# --- attempts that ask for another one ----------------------------------------------------

#: As ``pools.protocol`` has them: to be followed by another attempt, which counts as a
#: retry or does not.
RETRY_STATUS = 100
REQUEUE_STATUS = 101


def again_record(outcome: SlotOutcome) -> RetryRecord:
    """What the owner of such an attempt is told."""
    ext = outcome.ext or {}
    return RetryRecord(
        outcome.id, outcome.attempt, ext.get("in", 0), outcome.status == RETRY_STATUS,
        outcome.error, ext.get("body"), ext.get("ext"),
    )  # fmt: skip


def ended(task: HeldTask, outcome: SlotOutcome) -> Finished:
    """An outcome of a slot as it is reported. One that asks for another attempt, which
    nobody can give, has used up its retries."""
    status = outcome.status
    if status in (RETRY_STATUS, REQUEUE_STATUS):
        return Finished(
            task, Status.RETRIES_EXHAUSTED, outcome.started_ms, outcome.run_us, outcome.body,
            outcome.error,
        )  # fmt: skip
    return Finished(
        task, status, outcome.started_ms, outcome.run_us, outcome.body, outcome.error, outcome.ext
    )
