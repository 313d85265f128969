"""Tasks start when their time has come, not after it has ended, by the owner's wall clock."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from tests.support.machines import of, sent, task_id
from tests.unit.core.owning import LINK, ONCE, WALL_MS, Owner, call, given, settled
from zmqtasks.core.effects import Send
from zmqtasks.core.lanes import TakenTask
from zmqtasks.core.waiting import Moments
from zmqtasks.limits import CLOCK_LOOK_MS, DUE_COUNT_MAX, RESUME_GRACE_MS, WRITE_BEHIND_MS
from zmqtasks.wire.messages import Kind, Reject, RejectCode, Started, Status, Tasks


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    owner.worker()
    return owner


# --- moments ------------------------------------------------------------------------------


def test_moments_name_those_that_are_due_the_first_ones_first() -> None:
    moments = Moments(lambda _, at_ms: True)
    for number, at_ms in enumerate((30, 10, 20, 40)):
        moments.add(task_id(number), at_ms)
    assert moments.first_ms() == 10
    assert moments.due(30) == [task_id(1), task_id(2), task_id(0)]
    assert moments.due(39) == []
    assert moments.first_ms() == 40


def test_moments_of_those_that_have_gone_are_not_named_and_do_not_pile_up() -> None:
    there = {task_id(7)}
    moments = Moments(lambda key, at_ms: key in there)
    for number in range(100_000):
        moments.add(task_id(number), 5)
    assert len(moments) < 3_000
    assert moments.due(5) == [task_id(7)]


def test_moments_are_looked_at_in_their_order_and_stay() -> None:
    moments = Moments(lambda key, _: key != task_id(3))
    for number in random.Random(5).sample(range(1_000), 1_000):
        moments.add(task_id(number), number)
    assert [*islice(moments.soonest(), 5)] == [task_id(number) for number in (0, 1, 2, 4, 5)]
    assert len([*moments.soonest()]) == 999
    assert len(moments) == 1_000


def test_a_task_that_came_back_to_its_moment_is_seen_once(owner: Owner) -> None:
    owner.submit(call(1, eta=10), call(2, eta=20))
    waiting = owner.machine.waiting
    waiting.wait(owner.machine.tasks[task_id(1)])
    assert [task.id for task in waiting.soonest()] == [task_id(1), task_id(2)]


def test_so_many_come_due_at_once_as_a_turn_should_work_on(owner: Owner) -> None:
    machine = owner.machine
    machine.tasks_max = 10 * DUE_COUNT_MAX
    count = DUE_COUNT_MAX + 1
    owner.submit(*(call(number, eta=10) for number in range(count)))
    owner.turn(10)
    (lane,) = machine.lanes.values()
    held = len(machine.workers[LINK].held)
    assert len(lane.ready) + held == DUE_COUNT_MAX
    assert machine.next_deadline_ms() == 10
    owner.turn(10)
    assert len(lane.ready) + held == count


# --- eta ----------------------------------------------------------------------------------


def test_a_task_is_sent_when_its_time_has_come(owner: Owner) -> None:
    assert not given(owner.submit(call(1, eta=500), call(2)))[1:]
    assert owner.machine.next_deadline_ms() == 500
    assert not given(owner.turn(499))
    effects = owner.turn(500)
    assert given(effects) == [(1, 1)]
    (record,) = sent(effects, Tasks)[0].tasks
    assert record.ext == {"eta": WALL_MS + 500}


def test_a_task_whose_time_has_come_long_ago_is_sent_at_once(owner: Owner) -> None:
    assert given(owner.submit(call(1, eta=-1_000))) == [(1, 1)]


def test_the_clock_is_looked_at_again_since_it_may_be_set(owner: Owner) -> None:
    owner.submit(call(1, eta=86_400_000))
    assert owner.machine.next_deadline_ms() == CLOCK_LOOK_MS
    assert not given(owner.turn(1_000))
    assert given(owner.turn(2_000, wall_ms=86_400_000)) == [(1, 1)]


def test_a_clock_that_is_set_back_lets_tasks_wait_longer(owner: Owner) -> None:
    owner.submit(call(1, eta=500))
    assert not given(owner.turn(1_000, wall_ms=-10_000))
    assert owner.machine.next_deadline_ms() == 1_000 + CLOCK_LOOK_MS
    assert given(owner.turn(20_000, wall_ms=500)) == [(1, 1)]


def test_what_waits_for_its_time_is_told_so(owner: Owner) -> None:
    owner.submit(call(1, eta=5_000))
    state = owner.machine.state_of(task_id(1))
    assert state is not None
    assert state.info["eta"] == WALL_MS + 5_000
    assert owner.why(1) == "it is not to start before its eta, in 5 s"
    assert owner.machine.describe()["scheduled"] == 1
    owner.turn(5_000)
    assert owner.machine.describe()["scheduled"] == 0


def test_what_waits_for_its_time_is_written_behind_and_survives_its_owner() -> None:
    owner = Owner(has_journal=True)
    owner.submit(call(1, eta=60_000))
    owner.turn(WRITE_BEHIND_MS)
    owner.commit()
    again = owner.restarted(5_000)
    again.worker()
    assert not given(again.turn(5_000 + 2 * RESUME_GRACE_MS))
    assert not again.commit()  # nothing to note while it waits
    assert not given(again.turn(60_000))
    # Nobody has claimed its attempt, so the next one is noted, and given.
    assert given(again.commit()) == [(1, 2)]


def test_after_a_restart_a_worker_may_still_claim_what_a_clock_set_back_lets_wait() -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.durable(call(1, eta=1_000))
    assert given(owner.turn(1_000)) == [(1, 1)]
    again = owner.restarted(500)
    again.worker()
    again.machine.received(LINK, Started([(task_id(1), 1)]), 500)
    assert not given(again.turn(2_000))
    assert task_id(1) in again.machine.workers[LINK].held


def test_a_resumed_task_that_is_not_idempotent_starts_when_its_time_comes() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, kind=ONCE, eta=1_000))
    again = owner.restarted(500)
    again.worker()
    again.turn(1_000)
    assert given(again.commit_all()) == [(1, 1)]


def test_tasks_taken_over_wait_for_their_time() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, eta=1_000), call(2))
    taker = Owner(has_journal=True)
    taker.worker()
    taker.machine.own([TakenTask(record, False) for record in owner.held.values()])
    assert given(taker.turn(10)) == [(2, 1)]
    assert given(taker.turn(1_000)) == [(1, 1)]


# --- given away ---------------------------------------------------------------------------


def test_who_leaves_gives_away_what_waits_for_its_time_too(owner: Owner) -> None:
    owner.submit(call(1, eta=1_000), call(2, eta=2_000))
    owner.machine.leave()
    (lane,) = owner.machine.lanes.values()
    owner.submit(call(3, eta=3_000))
    taken = owner.machine.take_ready(lane, 2, 1_000, b"taker-01")
    assert [task.id for task in taken] == [task_id(1), task_id(2)]
    assert [task.id for task in owner.machine.give([task_id(1)])] == [task_id(1)]
    owner.machine.put_back([task_id(2)])
    assert [task.id for task in owner.machine.take_ready(lane, 9, 99, b"taker-01")] == [
        task_id(3), task_id(2),
    ]  # fmt: skip


def test_what_comes_due_while_it_is_offered_goes_on_when_it_is_put_back(owner: Owner) -> None:
    owner.submit(call(1, eta=1_000))
    owner.machine.leave()
    (lane,) = owner.machine.lanes.values()
    owner.machine.take_ready(lane, 1, 1_000, b"taker-01")
    assert not given(owner.turn(1_000))
    owner.machine.put_back([task_id(1)])
    assert given(owner.turn(1_001)) == [(1, 1)]


def test_an_unclaimed_task_that_waits_is_offered_with_the_next_attempt() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, eta=9_000), call(2, kind=ONCE, eta=9_000))
    again = owner.restarted(10)
    again.machine.leave()
    offered = [
        (task.id, task.attempt)
        for lane in again.machine.lanes.values()
        for task in again.machine.take_ready(lane, 9, 999, b"taker-01")
    ]
    assert offered == [(task_id(1), 2), (task_id(2), 1)]
    again.machine.put_back([task_id(1), task_id(2)])
    again.worker()
    again.turn(9_000)
    assert sorted(given(again.commit_all())) == [(1, 2), (2, 1)]


@pytest.mark.parametrize("route", ["broker", "direct", "auto"])
def test_a_broker_is_to_have_what_waits_for_its_time_on_its_queues(route: str) -> None:
    owner = Owner(route=route)
    owner.submit(call(1, eta=1_000))
    (lane,) = owner.machine.lanes.values()
    first = owner.machine.first_to_give(lane)
    assert (first is not None) == (route == "broker")


def test_what_has_gone_does_not_pile_up_among_those_to_be_given() -> None:
    owner = Owner(route="broker")
    for number in range(5_000):
        owner.submit(call(number, eta=1_000, exp=number + 1))
        owner.turn(number + 1)
    (lane,) = owner.machine.lanes.values()
    assert not owner.machine.tasks
    assert len(lane.parked) < 3_000


# --- expiry -------------------------------------------------------------------------------


def test_a_task_that_expired_before_it_was_sent_settles_as_expired() -> None:
    owner = Owner()
    assert not settled(owner.submit(call(1, exp=1_000), call(2)))
    assert owner.machine.next_deadline_ms() == 1_000
    effects = owner.turn(1_000)
    assert settled(effects) == [(1, Status.EXPIRED)]
    ((_, outcome),) = owner.machine.own_outcomes
    assert outcome.ext == {"e": "it expired before it was started"}
    owner.worker()
    assert given(owner.turn(1_001)) == [(2, 1)]


def test_a_task_that_has_expired_when_it_comes_settles_at_once(owner: Owner) -> None:
    effects = owner.submit(call(1, exp=0))
    assert settled(effects) == [(1, Status.EXPIRED)]
    assert not given(effects)


def test_a_task_that_would_start_after_it_expires_settles_when_it_expires(owner: Owner) -> None:
    owner.submit(call(1, eta=2_000, exp=1_000))
    assert settled(owner.turn(1_000)) == [(1, Status.EXPIRED)]
    assert not given(owner.turn(2_000))
    assert owner.machine.describe()["scheduled"] == 0


def test_a_task_that_runs_does_not_expire_but_is_not_given_again(owner: Owner) -> None:
    owner.submit(call(1, exp=1_000))
    owner.start(1)
    assert not settled(owner.turn(1_000))
    owner.machine.link_down(LINK, "gone")
    assert settled(owner.turn(1_100)) == [(1, Status.EXPIRED)]


def test_a_task_given_back_after_it_expired_settles(owner: Owner) -> None:
    owner.submit(call(1, exp=1_000))
    owner.turn(1_500)
    owner.machine.received(LINK, Reject([(task_id(1), 1, RejectCode.BUSY)], "", 20), 1_500)
    assert settled(owner.turn()) == [(1, Status.EXPIRED)]


def test_a_written_task_that_expires_leaves_the_journal_before_it_settles() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, exp=1_000))
    assert not settled(owner.turn(1_000))
    assert settled(owner.commit()) == [(1, Status.EXPIRED)]
    assert not owner.held


def test_what_expires_while_the_journal_notes_it_settles_after_that() -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.machine.submit_durable([call(1, exp=1_000)], 1, 0)
    owner.turn(0)
    assert not settled(owner.turn(2_000))
    assert settled(owner.commit_all()) == [(1, Status.EXPIRED)]


def test_a_resumed_task_that_has_expired_meanwhile_settles_when_nobody_claims_it() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, exp=1_000))
    again = owner.restarted(5_000)
    again.turn(5_000)
    again.turn(5_000 + RESUME_GRACE_MS)
    assert settled(again.commit_all()) == [(1, Status.EXPIRED)]


def test_expired_tasks_are_not_offered_nor_sent_by_another_kind(owner: Owner) -> None:
    other = Kind("shop", "tasks.other", "", "default")
    owner.submit(call(1, kind=other, exp=10), call(2, kind=other))
    owner.turn(10)
    lane = owner.machine.lanes[other]
    assert [task.id for task in owner.machine.take_ready(lane, 9, 99, b"t")] == [task_id(2)]
    assert not of(owner.turn(), Send)
