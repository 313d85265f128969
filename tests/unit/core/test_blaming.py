"""Who is to blame when a whole worker goes on which several tasks ran."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import sent, task_id
from tests.unit.core.owning import LINK, Owner, call
from zmqtasks.core.held import STRIKES_KEY
from zmqtasks.limits import AMONG_MAX, STRIKES_MAX, WRITE_BEHIND_MS
from zmqtasks.wire.messages import Started, Status, Tasks


def lose_worker(owner: Owner, running: Sequence[int]) -> None:
    """A worker comes, runs these, and goes."""
    owner.worker(credit=100)
    owner.turn()
    tasks = owner.machine.tasks
    started = [(task_id(n), tasks[task_id(n)].attempt) for n in running if task_id(n) in tasks]
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
        lose_worker(owner, [1, 2])
    assert strikes(owner, 1, 2) == [0, 0]


def test_those_that_went_down_several_times_run_in_processes_of_their_own() -> None:
    owner = Owner()
    owner.submit(call(1), call(2))
    for _ in range(STRIKES_MAX - 1):
        lose_worker(owner, [1, 2])
    assert STRIKES_KEY not in (owner.machine.tasks[task_id(1)].ext or {})
    lose_worker(owner, [1, 2])
    owner.worker(credit=100)
    [again] = sent(owner.turn(), Tasks)
    assert [(task.ext or {})[STRIKES_KEY] for task in again.tasks] == [0, 0]


def test_who_was_there_most_often_is_dead_in_the_end_and_its_neighbours_are_not() -> None:
    owner = Owner()
    owner.submit(*(call(number) for number in range(1, 20)))
    worker_count = 0
    while task_id(1) in owner.machine.tasks:
        worker_count += 1
        lose_worker(owner, [1, 1 + worker_count, 2 + worker_count])
    assert worker_count == STRIKES_MAX - 1 + STRIKES_MAX
    [(_, dead)] = owner.machine.own_outcomes
    assert (dead.id, dead.status) == (task_id(1), Status.DEAD)
    assert set(strikes(owner, *range(2, 20))) == {0}


def test_no_task_takes_down_workers_for_ever_in_the_same_company() -> None:
    owner = Owner()
    owner.submit(call(1), call(2))
    for _ in range(AMONG_MAX + STRIKES_MAX):
        assert len(owner.machine.tasks) == 2
        lose_worker(owner, [1, 2])
    assert {dead.status for _, dead in owner.machine.own_outcomes} == {Status.DEAD}
    assert not owner.machine.tasks


def test_what_is_known_of_it_outlives_its_owner() -> None:
    owner = Owner(has_journal=True)
    owner.submit(call(1), call(2))
    owner.turn(WRITE_BEHIND_MS)
    owner.commit_all()
    lose_worker(owner, [1, 2])
    owner.commit_all()
    again = owner.restarted(10)
    assert [again.machine.tasks[task_id(n)].ext for n in (1, 2)] == [{"ka": 1}] * 2
