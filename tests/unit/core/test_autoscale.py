from __future__ import annotations

from zmqtasks.core.autoscale import Autoscale
from zmqtasks.limits import AUTOSCALE_GROW_MS

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
