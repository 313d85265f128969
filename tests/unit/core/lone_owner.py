"""An owner whose journal commits when the test says so."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import ADD, WORKER, link_to, of, task_id, worker_hello
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import (
    Effect,
    JournalWrite,
)
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import (
    Credit,
    Done,
    Kind,
    Outcome,
)

LINK = link_to(WORKER, "in")
SECOND = link_to(b"worker-2", "in")
ONCE = Kind("shop", "tasks.pay", "d3", "default", (("idem", 0),))
#: The same task, called by its name alone.
BY_NAME = Kind("shop", "tasks.pay", "", "default")


def call(number: int, kind: Kind = ADD, body: bytes = b"args") -> Call:
    return Call(task_id(number), kind, body, None)


class Owner:
    """A dispatcher and its journal, which commits when the test says so."""

    def __init__(self, has_journal: bool = True) -> None:
        self.custody = Custody(has_journal)
        self.machine = Dispatcher(1_000, 1 << 30, self.custody)
        self.machine.wall_ms = 1_700_000_000_000
        self.writes: list[JournalWrite] = []

    def turn(self, now_ms: int = 0) -> list[Effect]:
        machine = self.machine
        machine.tick(now_ms)
        machine.flush(now_ms)
        self.custody.flush()
        self.writes += of(self.custody.effects, JournalWrite)
        self.custody.effects.clear()
        effects, machine.effects = machine.effects, []
        return effects

    def commit(self, now_ms: int = 0) -> list[Effect]:
        writes, self.writes = self.writes, []
        self.custody.committed([write.batch for write in writes])
        return self.turn(now_ms)

    def refuse(self, text: str, now_ms: int = 0, *, is_certain: bool = True) -> list[Effect]:
        writes, self.writes = self.writes, []
        numbers = [write.batch for write in writes]
        self.custody.refused(numbers, text, is_certain=is_certain)
        return self.turn(now_ms)

    def worker(
        self, link: LinkId = LINK, kinds: Sequence[Kind] = (ADD, ONCE), credit: int = 10
    ) -> None:
        self.machine.link_up(link, worker_hello(link.peer[1:9], kinds=kinds))
        self.machine.received(link, Credit(credit), 0)

    def durable(self, *calls: Call, token: int = 1) -> list[Effect]:
        self.machine.submit_durable(calls, token, 0)
        return self.turn()

    def done(self, *outcomes: Outcome, link: LinkId = LINK) -> list[Effect]:
        self.machine.received(link, Done(0, list(outcomes)), 0)
        return self.turn()
