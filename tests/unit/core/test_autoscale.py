"""How many slots a worker has between two bounds: by itself, and with a backlog."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, TIMERS, WORKER, of, task_id, worker_hello
from zmqtasks.core.autoscale import Autoscale
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import RunInSlot
from zmqtasks.core.held import HeldTask, SlotOutcome
from zmqtasks.core.intake import Intake
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.limits import AUTOSCALE_GROW_MS, AUTOSCALE_LOOK_MS

IDLE_MS = 10_000


class Worker:
    """Looks every 100 ms, and has at once what the rule wants."""

    def __init__(self, most: int, least: int) -> None:
        self.rule = Autoscale(most, least, IDLE_MS)
        self.slots = least
        self.now_ms = 0

    def look(self, busy: int, waiting: int, for_ms: int = 100) -> int:
        end_ms = self.now_ms + for_ms
        while self.now_ms < end_ms:
            self.now_ms += 100
            self.slots = self.rule.decide(self.now_ms, self.slots, busy, waiting)
        return self.slots


def test_slots_are_added_for_what_waits_behind_busy_ones() -> None:
    worker = Worker(most=8, least=1)
    assert worker.look(busy=1, waiting=3) == 1
    assert worker.look(busy=1, waiting=3, for_ms=AUTOSCALE_GROW_MS) == 4


def test_a_burst_that_is_over_in_a_moment_adds_none() -> None:
    worker = Worker(most=8, least=1)
    for _ in range(20):
        assert worker.look(busy=1, waiting=100) == 1
        assert worker.look(busy=1, waiting=0) == 1


def test_nothing_is_added_while_a_slot_is_free() -> None:
    worker = Worker(most=8, least=2)
    assert worker.look(busy=1, waiting=5, for_ms=5_000) == 2


def test_slots_that_are_being_started_count() -> None:
    worker = Worker(most=8, least=1)
    assert worker.look(busy=1, waiting=2, for_ms=5_000) == 3


def test_there_are_never_more_than_the_most_nor_fewer_than_the_least() -> None:
    worker = Worker(most=4, least=2)
    assert worker.look(busy=2, waiting=100, for_ms=1_000) == 4
    assert worker.look(busy=4, waiting=100, for_ms=1_000) == 4
    assert worker.look(busy=0, waiting=0, for_ms=3 * IDLE_MS) == 2


def test_slots_go_that_were_not_needed_for_long() -> None:
    worker = Worker(most=8, least=1)
    worker.look(busy=1, waiting=7, for_ms=1_000)
    assert worker.slots == 8
    # A peak within the time keeps as many.
    worker.look(busy=1, waiting=0, for_ms=IDLE_MS // 2)
    worker.look(busy=5, waiting=0)
    assert worker.look(busy=1, waiting=0, for_ms=IDLE_MS // 2 - 2_000) == 8
    assert worker.look(busy=1, waiting=0, for_ms=2_000) == 5
    assert worker.look(busy=1, waiting=0, for_ms=2 * IDLE_MS) == 1


def test_bounds_that_change_are_kept_at_once() -> None:
    worker = Worker(most=8, least=1)
    worker.rule.least = 3
    assert worker.look(busy=0, waiting=0) == 3
    worker.rule.most = 2
    worker.rule.least = 1
    assert worker.look(busy=3, waiting=9) == 2


class Backlog:
    """A worker with a backlog of its own tasks, in whose slots time passes by itself.

    Args:
        count: tasks.
        run_ms: how long each of them takes.
    """

    #: From the wish for a slot until it is there.
    _START_MS = 100
    _STEP_MS = 10

    def __init__(self, count: int, run_ms: int, most: int, least: int) -> None:
        own = worker_hello(slots=most)
        self.intake = Intake(own.queues, own.catalog, least)
        self.node = MeshNode(
            Membership(own, "mesh", "", frozenset(), TIMERS, 0),
            dispatcher=Dispatcher(10_000, 1 << 30), intake=self.intake, inline_bytes_max=100,
        )  # fmt: skip
        self.rule = Autoscale(most, least, IDLE_MS)
        self.run_ms = run_ms
        self.now_ms = 0
        #: How many slots are wanted, {slot: when it is there}, and {slot: what it runs}.
        self.slots = 0
        self._starting: dict[int, int] = {}
        self._running: dict[int, list[tuple[int, HeldTask]]] = {}
        self._resize(least)
        self.node.submit([Call(task_id(n, WORKER), ADD, b"", None) for n in range(count)], 0)

    def _resize(self, slots: int) -> None:
        for slot in range(self.slots, slots):
            self._starting[slot] = self.now_ms + self._START_MS
        for slot in range(slots, self.slots):
            self.intake.slot_gone(slot)
        self.slots = self.intake.slots_max = slots

    def pass_time(self, for_ms: int) -> list[int]:
        """Returns how many slots were wanted, each change once."""
        seen = [self.slots]
        end_ms = self.now_ms + for_ms
        while self.now_ms < end_ms:
            self.now_ms += self._STEP_MS
            self._run()
            if self.now_ms % AUTOSCALE_LOOK_MS == 0:
                self._resize(self.rule.decide(self.now_ms, self.slots, *self.intake.load()))
                seen += [self.slots] if self.slots != seen[-1] else []
        return seen

    def _run(self) -> None:
        for slot in [slot for slot, at_ms in self._starting.items() if at_ms <= self.now_ms]:
            del self._starting[slot]
            self.intake.slot_ready(slot)
        for slot, queue in self._running.items():
            while queue and queue[0][0] <= self.now_ms:
                task = queue.pop(0)[1]
                took_us = self.run_ms * 1_000
                done = SlotOutcome(task.id, task.attempt, 0, 0, took_us, b"", "")
                self.intake.slot_done(slot, [done], self.now_ms)
        self.node.tick(self.now_ms)
        for effect in of(self.node.end_turn(self.now_ms, 0), RunInSlot):
            queue = self._running.setdefault(effect.slot, [])
            for task in effect.tasks:
                begin_ms = queue[-1][0] if queue else self.now_ms
                queue.append((begin_ms + self.run_ms, task))

    @property
    def open_count(self) -> int:
        dispatcher = self.node.dispatcher
        assert dispatcher is not None
        return len(dispatcher.tasks)


@pytest.mark.parametrize("run_ms", [10, 50, 200, 1_000])
def test_a_backlog_that_its_owner_keeps_has_all_slots_within_a_second(run_ms: int) -> None:
    """The worker itself is never given more than it can run at once, or soon."""
    worker = Backlog(count=40_000 // run_ms, run_ms=run_ms, most=4, least=1)
    assert worker.pass_time(1_000) == [1, 4]
    # There they stay while there is work, and for a while after it.
    assert worker.pass_time(12_000) == [4]
    assert not worker.open_count
    assert worker.pass_time(2 * IDLE_MS) == [4, 1]


def test_what_one_slot_can_do_in_a_moment_adds_none() -> None:
    worker = Backlog(count=10, run_ms=10, most=4, least=1)
    assert worker.pass_time(2_000) == [1]
    assert not worker.open_count
