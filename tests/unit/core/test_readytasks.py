"""Priorities at the owner: 9 first, also across kinds; in order and in turn within one."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, MUL, task_id
from tests.unit.core.owning import LINK, ONCE, SECOND, Owner, call, given, retry
from zmqtasks.core.readytasks import ReadyTasks
from zmqtasks.limits import AMONG_MAX
from zmqtasks.wire.messages import Credit, Kind


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    owner.worker(credit=0, kinds=(ADD, MUL, ONCE))
    return owner


def grant(owner: Owner, limit: int) -> list[tuple[int, int]]:
    """What the worker gets when it may have so many in all."""
    owner.machine.received(LINK, Credit(limit), owner.now_ms)
    return given(owner.turn())


def test_tasks_of_a_higher_priority_are_sent_first_and_in_order(owner: Owner) -> None:
    owner.submit(call(1), call(2, pri=3), call(3, pri=9), call(4, pri=3), call(5))
    assert grant(owner, 2) == [(3, 1), (2, 1)]
    owner.submit(call(6, pri=9))
    assert grant(owner, 9) == [(6, 1), (4, 1), (1, 1), (5, 1)]


def test_priorities_count_across_kinds(owner: Owner) -> None:
    owner.submit(call(1), call(2), call(3, kind=MUL, pri=1), call(4, kind=MUL))
    assert grant(owner, 1) == [(3, 1)]
    owner.submit(call(5, pri=2), call(6, kind=MUL, pri=2))
    assert sorted(grant(owner, 3)) == [(5, 1), (6, 1)]


@pytest.mark.parametrize("pri", [0, 5])
def test_kinds_of_one_priority_share_the_credit(owner: Owner, pri: int) -> None:
    owner.submit(*(call(number, pri=pri) for number in range(100)))
    owner.submit(*(call(number, kind=MUL, pri=pri) for number in range(100, 200)))
    assert sum(number < 100 for number, _ in grant(owner, 20)) == 10


def test_what_comes_back_keeps_its_priority(owner: Owner) -> None:
    owner.submit(call(1, pri=1), call(2, pri=5), call(3))
    assert len(grant(owner, 3)) == 3
    owner.machine.link_down(LINK, "gone")
    owner.worker(SECOND, kinds=(ADD,))
    assert given(owner.turn()) == [(2, 2), (1, 2), (3, 2)]


def test_a_retry_may_have_another_priority(owner: Owner) -> None:
    owner.submit(call(1, pri=9), call(2, pri=5))
    assert grant(owner, 1) == [(1, 1)]
    owner.retries(retry(1, ext={"pri": 1}))
    assert grant(owner, 3) == [(2, 1), (1, 2)]


def test_what_must_not_run_twice_is_noted_and_sent_by_priority() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, kind=ONCE), call(2, kind=ONCE, pri=4), call(3, kind=ONCE, pri=4))
    owner.worker(credit=2)
    owner.turn()
    assert given(owner.commit_all()) == [(2, 1), (3, 1)]


def test_tasks_are_given_away_by_priority(owner: Owner) -> None:
    owner.submit(call(1), call(2, pri=4))
    (lane,) = owner.machine.lanes.values()
    taken = owner.machine.take_ready(lane, 2, 99, b"taker-01")
    assert [task.id for task in taken] == [task_id(2), task_id(1)]


def test_of_two_workers_both_get_urgent_tasks_before_others() -> None:
    owner = Owner()
    owner.worker(LINK, credit=2)
    owner.worker(SECOND, credit=2)
    effects = owner.submit(*(call(n) for n in range(4)), *(call(n, pri=9) for n in range(4, 8)))
    assert sorted(number for number, _ in given(effects)) == [4, 5, 6, 7]


def test_ready_tasks_are_a_queue() -> None:
    owner = Owner()
    tasks = []
    for number, pri in enumerate((0, 2, 2, 9, 0)):
        owner.submit(call(number, kind=Kind("x", "y", "", "q"), pri=pri))
        tasks.append(owner.machine.tasks[task_id(number)])
    ready = ReadyTasks()
    assert (len(ready), bool(ready), ready.first()) == (0, False, None)
    for task in tasks:
        ready.append(task)
    assert [tasks.index(task) for task in ready] == [3, 1, 2, 0, 4]
    assert ready.priorities() == [9, 2, 0]
    ready.remove(tasks[1])
    assert tasks[1] not in ready
    ready.appendleft(tasks[1])
    ready.keep(lambda task: task is not tasks[2])
    assert [tasks.index(ready.popleft()) for _ in range(len(ready))] == [3, 1, 0, 4]
    assert ready.priorities() == []


def test_those_that_are_kept_apart_come_first_and_count_as_any_other() -> None:
    owner = Owner()
    owner.submit(call(1, ka=AMONG_MAX), call(2), call(3, pri=5), call(4, pri=9, ka=AMONG_MAX - 1))
    owner.submit(call(5, ONCE, ka=AMONG_MAX, pri=1))
    [ready, once] = [lane.ready for lane in owner.machine.lanes.values()]
    one, four, three, two = (owner.machine.tasks[task_id(number)] for number in (1, 4, 3, 2))
    for task in (one, two):
        ready.remove(task)
    ready.append(one)
    ready.appendleft(two)
    assert (list(ready), len(ready), list(ready.apart)) == ([one, four, three, two], 4, [one])
    assert (ready.first(), ready.priorities()) == (one, [9, 5, 0])
    assert ready.popleft() is one
    ready.append(one)
    ready.keep(lambda task: task is not one)
    assert list(ready) == [four, three, two]
    assert (len(once), once.priorities()) == (1, [1])
