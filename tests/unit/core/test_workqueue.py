"""What waits for a slot, and in which order it gets one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.support.machines import ADD, OWNER, link_to, task_id
from zmqtasks.core.held import HeldTask, KindStat, hold
from zmqtasks.core.workqueue import PRIORITY_KEY, WorkQueue, priority_of
from zmqtasks.wire.messages import TaskRecord

LINK = link_to(OWNER, "in")


def task(number: int, priority: Any = None, stat: KindStat | None = None) -> HeldTask:
    ext = None if priority is None else {PRIORITY_KEY: priority}
    record = TaskRecord(0, task_id(number), 1, b"", ext)
    return hold(record, ADD, LINK, OWNER, stat or KindStat(), None)


def numbers(tasks: Iterable[HeldTask]) -> list[int]:
    return [int.from_bytes(task.id[8:], "big") for task in tasks]


def test_high_priorities_come_first_and_equal_ones_in_order_of_arrival() -> None:
    queue = WorkQueue()
    for number, priority in enumerate((None, 5, 9, 0, 5, 1)):
        queue.push(task(number, priority))
    assert numbers(queue) == [2, 1, 4, 5, 0, 3]
    assert numbers(queue.lane()) == [2]


@pytest.mark.parametrize(("said", "priority"), [
    (0, 0), (9, 9), (10, 9), (-1, 0), ("9", 0), (None, 0), (True, 1),
])  # fmt: skip
def test_priority_is_brought_within_its_bounds(said: Any, priority: int) -> None:
    assert priority_of({PRIORITY_KEY: said}) == priority


def test_what_comes_back_is_first_among_its_own_priority() -> None:
    queue = WorkQueue()
    queue.push(task(1, 3))
    queue.push(task(2))
    queue.push_first(task(3))
    assert numbers(queue) == [1, 3, 2]


def test_tasks_are_taken_out_of_all_lanes_and_the_counts_follow() -> None:
    queue = WorkQueue()
    quick = KindStat()
    quick.add(10)
    for number in range(6):
        queue.push(task(number, number % 2, quick if number < 3 else None))
    assert (len(queue), queue.slow_count) == (6, 3)
    assert numbers(queue.take(lambda task: task.id in (task_id(1), task_id(4)))) == [1, 4]
    assert numbers(queue) == [3, 5, 0, 2]
    assert (len(queue), queue.slow_count) == (4, 2)


def test_empty_queue_has_an_empty_lane() -> None:
    queue = WorkQueue()
    assert not queue
    assert not queue.lane()


def test_count_of_slow_ones_is_made_anew_when_a_kind_turns_out_to_be_quick() -> None:
    queue, stat = WorkQueue(), KindStat()
    queue.push(task(1, stat=stat))
    stat.add(10)
    queue.recount()
    assert queue.slow_count == 0
