"""Who is to blame when a whole worker goes on which several tasks ran."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.machines import outcome, sent, task_id
from tests.unit.core.owning import LINK, SECOND, Owner, call, given, retry
from zmqtasks.core.held import STRIKES_KEY
from zmqtasks.limits import AMONG_MAX, STRIKES_MAX, WRITE_BEHIND_MS
from zmqtasks.wire.messages import Credit, Demand, Started, Status, Tasks


def lose_worker(owner: Owner, running: Sequence[int]) -> None:
    """A worker comes, runs those of these that it gets, and goes."""
    owner.worker(credit=100)
    started = [(task_id(n), attempt) for n, attempt in given(owner.turn()) if n in running]
    owner.machine.received(LINK, Started(started), 0)
    owner.machine.link_down(LINK, "gone")
    owner.turn()


def strikes(owner: Owner, *numbers: int) -> list[int]:
    return [owner.machine.tasks[task_id(n)].strikes for n in numbers]


def test_the_only_one_that_ran_gets_a_strike() -> None:
    owner = Owner()
    owner.submit(call(1), call(2))
    lose_worker(owner, [1])
    assert strikes(owner, 1, 2) == [1, 0]


def test_of_several_that_ran_nobody_gets_a_strike() -> None:
    owner = Owner()
    owner.submit(call(1), call(2))
    for _ in range(AMONG_MAX):
        assert STRIKES_KEY not in (owner.machine.tasks[task_id(1)].ext or {})
        lose_worker(owner, [1, 2])
    assert strikes(owner, 1, 2) == [0, 0]


def test_those_that_went_down_twice_run_alone_each_at_a_worker_of_its_own() -> None:
    owner = Owner()
    owner.submit(call(1), call(2))
    for _ in range(AMONG_MAX):
        lose_worker(owner, [1, 2])
    owner.worker(credit=100)
    [first] = sent(owner.submit(call(3)), Tasks)
    assert [task.id for task in first.tasks] == [task_id(1), task_id(3)]
    assert (first.tasks[0].ext or {})[STRIKES_KEY] == 0
    assert owner.why(2) == "it waits for a worker without another task that may kill workers"
    owner.worker(SECOND, credit=100)
    [other] = sent(owner.turn(), Tasks)
    assert [task.id for task in other.tasks] == [task_id(2)]


@pytest.mark.parametrize("how", ["done", "retried"])
def test_the_next_one_of_them_follows_when_the_first_has_left_the_worker(how: str) -> None:
    owner = Owner()
    owner.submit(call(1), call(2))
    for _ in range(AMONG_MAX):
        lose_worker(owner, [1, 2])
    owner.worker(credit=100)
    owner.turn()
    attempt = owner.machine.tasks[task_id(1)].attempt
    if how == "done":
        effects = owner.done(outcome(1, attempt))
    else:
        effects = owner.retries(retry(1, attempt, delay_ms=60_000))
    assert [number for number, _ in given(effects)] == [2]


def test_a_worker_is_not_asked_for_credit_for_those_that_it_cannot_get() -> None:
    owner = Owner()
    owner.submit(call(1), call(2), call(3))
    for _ in range(AMONG_MAX):
        lose_worker(owner, [1, 2, 3])
    owner.worker(credit=0)
    assert [demand.backlog for demand in sent(owner.turn(), Demand)] == [1]
    owner.machine.received(LINK, Credit(1), 0)
    assert [demand.backlog for demand in sent(owner.turn(), Demand)] == [0]


@pytest.mark.parametrize("are_the_same", [True, False])
def test_a_killer_is_dead_after_five_workers_and_its_neighbours_are_not(are_the_same: bool) -> None:
    owner = Owner()
    owner.submit(*(call(number) for number in range(1, 20)))
    lost = 0
    while task_id(1) in owner.machine.tasks:
        lost += 1
        neighbour = 2 if are_the_same else 1 + lost
        lose_worker(owner, [1, neighbour, neighbour + 1])
    assert lost == AMONG_MAX + STRIKES_MAX == 5
    [(_, dead)] = owner.machine.own_outcomes
    assert (dead.id, dead.status) == (task_id(1), Status.DEAD)
    assert set(strikes(owner, *range(2, 20))) == {0}


def test_what_is_known_of_it_outlives_its_owner() -> None:
    owner = Owner(has_journal=True)
    owner.submit(call(1), call(2))
    owner.turn(WRITE_BEHIND_MS)
    owner.commit_all()
    lose_worker(owner, [1, 2])
    owner.commit_all()
    again = owner.restarted(10)
    assert [again.machine.tasks[task_id(n)].ext for n in (1, 2)] == [{"ka": 1}] * 2
