"""What an intake keeps of the tasks it holds: from acceptance to outcome."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import msgspec

from zmqtasks.core.credit import Giver
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import Kind, TaskRecord

_EWMA = 0.2


#: Key in ``TaskRecord.ext``: workers or children that died while the task ran, if any.
STRIKES_KEY = "k"


class KindStat:
    """How long tasks of one kind take, their results' way from the child included."""

    __slots__ = ("mean_us",)

    def __init__(self) -> None:
        #: Smoothed, in microseconds, -1 before the first.
        self.mean_us = -1.0

    def add(self, cost_us: int) -> None:
        """Count one more run."""
        mean = self.mean_us
        self.mean_us = float(cost_us) if mean < 0 else mean + _EWMA * (cost_us - mean)


class SlotState:
    """One slot of the pool: what was sent there and not answered, oldest first."""

    __slots__ = ("budget_us", "is_closing", "pending", "since_ms")

    def __init__(self) -> None:
        self.pending: deque[HeldTask] = deque()
        self.budget_us = 0.0
        #: It gets no more tasks, and goes when it has none.
        self.is_closing = False
        #: When the first pending task can have started.
        self.since_ms = 0


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
