"""An owner whose journal commits when the test says so, and whose wall clock it sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.machines import ADD, WORKER, link_to, of, sent, task_id, worker_hello
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, JournalWrite, TasksSettled
from zmqtasks.core.links import LinkId
from zmqtasks.core.owned import OwnedRecord, changed_record
from zmqtasks.wire.messages import (
    Credit,
    Done,
    Kind,
    Outcome,
    Retry,
    RetryRecord,
    Started,
    TaskRecord,
    Tasks,
)

WALL_MS = 1_700_000_000_000
LINK = link_to(WORKER, "in")
SECOND = link_to(b"worker-2", "in")
ONCE = Kind("shop", "tasks.pay", "d3", "default", (("idem", 0),))


def call(number: int, kind: Kind = ADD, **ext: Any) -> Call:
    """Call ``number``; ``eta`` and ``exp`` are milliseconds after the beginning of a test."""
    for key in ("eta", "exp"):
        if key in ext:
            ext[key] += WALL_MS
    return Call(task_id(number), kind, b"args", ext or None)


def retry(number: int, attempt: int = 1, delay_ms: int = 0, **changes: Any) -> RetryRecord:
    """What an attempt asks for."""
    counts = changes.pop("counts", True)
    return RetryRecord(task_id(number), attempt, delay_ms, counts, "ValueError: no", **changes)


class Owner:
    """A dispatcher, its journal and its clock.

    Args:
        has_journal: what it owns can be written down.
        route: of every queue.
    """

    def __init__(self, has_journal: bool = False, route: str = "direct") -> None:
        self.custody = Custody(has_journal)
        self.machine = Dispatcher(1_000, 1 << 30, self.custody, lambda queue: route)
        self.machine.wall_ms = WALL_MS
        self.writes: list[JournalWrite] = []
        #: {id: task} as the journal has it.
        self.held: dict[bytes, OwnedRecord] = {}
        self.now_ms = 0

    def turn(self, now_ms: int | None = None, *, wall_ms: int | None = None) -> list[Effect]:
        """One turn of its node at that time; ``wall_ms``: where the wall clock does not go with
        it, both counted from the beginning."""
        machine = self.machine
        self.now_ms = self.now_ms if now_ms is None else now_ms
        machine.tick(self.now_ms)
        machine.wall_ms = WALL_MS + (self.now_ms if wall_ms is None else wall_ms)
        machine.flush(self.now_ms)
        self.custody.flush()
        self.writes += of(self.custody.effects, JournalWrite)
        self.custody.effects.clear()
        effects, machine.effects = machine.effects, []
        return effects

    def commit(self, now_ms: int | None = None) -> list[Effect]:
        """The journal has all that it was asked for."""
        writes, self.writes = self.writes, []
        for write in writes:
            for record in write.puts:
                self.held.setdefault(record.id, record)
            for change in write.progress:
                if change.id in self.held:
                    self.held[change.id] = changed_record(self.held[change.id], change)
            for gone in write.drops:
                self.held.pop(gone, None)
        self.custody.committed([write.batch for write in writes])
        return self.turn(now_ms)

    def commit_all(self) -> list[Effect]:
        """The journal has all that it was asked for, and what was asked for after that."""
        effects: list[Effect] = []
        while self.writes:
            effects += self.commit()
        return effects

    def restarted(self, now_ms: int) -> Owner:
        """Its next life, with what its journal holds."""
        owner = Owner(has_journal=True)
        owner.held = dict(self.held)
        owner.now_ms = now_ms
        owner.machine.wall_ms = WALL_MS + now_ms
        owner.machine.resume(self.held.values())
        return owner

    def worker(
        self, link: LinkId = LINK, credit: int = 10, kinds: Sequence[Kind] = (ADD, ONCE)
    ) -> None:
        """A worker is there."""
        self.machine.link_up(link, worker_hello(link.peer[1:9], kinds=kinds))
        self.machine.received(link, Credit(credit), 0)

    def submit(self, *calls: Call, now_ms: int | None = None) -> list[Effect]:
        """Calls in memory."""
        self.machine.submit(calls, self.now_ms if now_ms is None else now_ms)
        return self.turn(now_ms)

    def durable(self, *calls: Call) -> list[Effect]:
        """Calls that are on the disk."""
        self.machine.submit_durable(calls, 1, self.now_ms)
        self.turn()
        return self.commit()

    def start(self, number: int, attempt: int = 1, link: LinkId = LINK) -> None:
        """The worker says that it runs."""
        self.machine.received(link, Started([(task_id(number), attempt)]), self.now_ms)

    def retries(self, *records: RetryRecord, link: LinkId = LINK) -> list[Effect]:
        """Attempts ask for others."""
        self.machine.received(link, Retry(0, list(records)), self.now_ms)
        return self.turn()

    def done(self, *outcomes: Outcome, link: LinkId = LINK) -> list[Effect]:
        """Attempts have ended."""
        self.machine.received(link, Done(0, list(outcomes)), self.now_ms)
        return self.turn()

    def why(self, number: int) -> str:
        """Why a task waits."""
        state = self.machine.state_of(task_id(number))
        assert state is not None
        return str(state.info.get("why"))


def given(effects: Sequence[Effect]) -> list[tuple[int, int]]:
    """Number and attempt of the tasks that were sent to workers."""
    return [(_number(task.id), task.attempt) for task in records(effects)]


def records(effects: Sequence[Effect]) -> list[TaskRecord]:
    """The tasks that were sent to workers."""
    return [task for message in sent(effects, Tasks) for task in message.tasks]


def settled(effects: Sequence[Effect]) -> list[tuple[int, int]]:
    """Number and status of the tasks that settled."""
    return [
        (_number(one.id), one.status)
        for effect in of(effects, TasksSettled)
        for one in effect.outcomes
    ]


def _number(task_id_: bytes) -> int:
    return int.from_bytes(task_id_[-8:], "big")
