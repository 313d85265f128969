"""Tasks that are ended before their time: what nobody has at once, what a worker has by it."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, MUL, link_to, of, outcome, sent, task_id
from tests.unit.core.owning import LINK, ONCE, SECOND, Owner, call, given, retry, settled
from zmqtasks.core.effects import Send
from zmqtasks.core.lanes import TakenTask
from zmqtasks.limits import RESUME_GRACE_MS, WRITE_BEHIND_MS
from zmqtasks.wire.messages import (
    Cancel,
    Outcome,
    Reject,
    RejectCode,
    Results,
    Settled,
    Started,
    Status,
    Tasks,
)

CANCELLED, EXPIRED = Status.CANCELLED, Status.EXPIRED


@pytest.fixture
def owner() -> Owner:
    return Owner()


def cancel(owner: Owner, *numbers: int, terminate: bool = False) -> list[str]:
    return owner.machine.cancel([task_id(n) for n in numbers], terminate=terminate)


def held_by_worker(number: int = 1, **ext: int) -> Owner:
    owner = Owner()
    owner.worker()
    owner.submit(call(number, ADD, **ext))
    return owner


# --- tasks that nobody has ----------------------------------------------------------------


def test_tasks_that_wait_for_a_worker_or_their_time_settle_at_once(owner: Owner) -> None:
    owner.submit(call(1), call(2), call(3, eta=5_000), call(4))
    assert cancel(owner, 1, 3) == ["revoked", "revoked"]
    assert settled(owner.turn()) == [(1, CANCELLED), (3, CANCELLED)]
    assert [one.ext for _, one in owner.machine.own_outcomes] == [
        {"e": "it was cancelled before it was started"}
    ] * 2
    assert list(owner.machine.cancelled) == [task_id(1), task_id(3)]
    owner.worker()
    assert given(owner.turn(9_000)) == [(2, 1), (4, 1)]


def test_of_a_cancelled_task_the_state_is_told_and_a_second_cancellation_is_late(
    owner: Owner,
) -> None:
    owner.submit(call(1))
    cancel(owner, 1)
    owner.turn()
    state = owner.machine.state_of(task_id(1))
    assert state is not None
    assert state.outcome is not None
    assert state.outcome.status == CANCELLED
    assert cancel(owner, 1, 9) == ["settled", "unknown"]


def test_many_cancelled_tasks_leave_the_others_in_order(owner: Owner) -> None:
    owner.submit(*(call(number) for number in range(100)))
    cancel(owner, *range(0, 100, 2))
    owner.turn()
    (lane,) = owner.machine.lanes.values()
    assert [task.id for task in lane.ready] == [task_id(number) for number in range(1, 100, 2)]
    assert owner.machine.open_bytes == 50 * len(b"args")


def test_a_written_task_leaves_the_journal_before_it_settles() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1))
    assert cancel(owner, 1) == ["revoked"]
    assert not settled(owner.turn())
    assert cancel(owner, 1) == ["settled"]
    assert settled(owner.commit()) == [(1, CANCELLED)]
    assert not owner.held


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_durable_task_is_cancelled_when_the_journal_has_it(is_refused: bool) -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.machine.submit_durable([call(1)], 1, 0)
    owner.turn()
    assert cancel(owner, 1) == ["revoked"]
    assert not settled(owner.turn())
    if is_refused:
        batches = [write.batch for write in owner.writes]
        owner.writes.clear()
        owner.custody.refused(batches, "full", is_certain=True)
        assert not settled(owner.turn())
        # Nothing is left of it for a later call with that id.
        owner.submit(call(1))
        assert task_id(1) in owner.machine.workers[LINK].held
    else:
        effects = owner.commit_all()
        assert settled(effects) == [(1, CANCELLED)]
        assert not given(effects)


def test_a_task_whose_next_attempt_is_being_noted_is_cancelled() -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.durable(call(1))
    owner.machine.link_down(LINK, "gone")
    owner.turn()
    assert cancel(owner, 1) == ["revoked"]
    owner.worker(SECOND)
    owner.turn()
    effects = owner.commit_all()
    assert (settled(effects), given(effects)) == ([(1, CANCELLED)], [])


# --- tasks that a worker has --------------------------------------------------------------


@pytest.mark.parametrize("terminate", [False, True])
def test_a_worker_is_told_and_its_outcome_says_how_it_ended(terminate: bool) -> None:
    owner = held_by_worker()
    assert cancel(owner, 1, terminate=terminate) == ["running"]
    (told,) = sent(owner.turn(), Cancel)
    assert told == Cancel([(task_id(1), 1)], CANCELLED, terminate, 15 if terminate else 0)
    assert not sent(owner.turn(), Cancel)
    effects = owner.done(Outcome(task_id(1), 1, CANCELLED, 1, -1, 0, 0, 0, b""))
    assert settled(effects) == [(1, CANCELLED)]
    assert sent(effects, Settled)[0].ranges == [(1, 1)]
    assert not owner.machine._cancelling


def test_a_task_that_runs_and_is_not_terminated_may_succeed() -> None:
    owner = held_by_worker()
    owner.start(1)
    assert cancel(owner, 1) == ["running"]
    assert settled(owner.done(outcome(1))) == [(1, Status.SUCCESS)]
    assert not owner.machine._cancelling


def test_all_of_one_worker_are_told_in_one_message(owner: Owner) -> None:
    owner.worker()
    owner.submit(call(1), call(2), call(3))
    cancel(owner, 1, 3)
    ((_, told),) = [
        (effect.link, effect.message)
        for effect in of(owner.turn(), Send)
        if isinstance(effect.message, Cancel)
    ]
    assert told.tasks == [(task_id(1), 1), (task_id(3), 1)]


def test_asked_twice_a_worker_is_told_again_only_if_it_is_to_do_more() -> None:
    owner = held_by_worker()
    cancel(owner, 1)
    owner.turn()
    assert cancel(owner, 1) == ["running"]
    assert not sent(owner.turn(), Cancel)
    cancel(owner, 1, terminate=True)
    assert [told.terminate for told in sent(owner.turn(), Cancel)] == [True]
    cancel(owner, 1)
    assert not sent(owner.turn(), Cancel)


@pytest.mark.parametrize("reason", ["gone", "silent", "left"])
def test_a_lost_worker_s_cancelled_task_is_not_given_again(reason: str) -> None:
    owner = held_by_worker()
    owner.start(1)
    cancel(owner, 1)
    owner.worker(SECOND)
    owner.machine.link_down(LINK, reason)
    effects = owner.turn()
    assert (settled(effects), given(effects)) == ([(1, CANCELLED)], [])
    # What its worker says later comes too late.
    owner.worker(LINK)
    assert sent(owner.done(outcome(1)), Settled)[0].refused == [1]


@pytest.mark.parametrize("code", list(RejectCode))
def test_a_cancelled_task_that_is_given_back_is_not_given_again(code: RejectCode) -> None:
    owner = held_by_worker()
    cancel(owner, 1)
    owner.machine.received(LINK, Reject([(task_id(1), 1, code)], "why", 20), 0)
    effects = owner.turn()
    assert not given(effects)
    refused = code in (RejectCode.BAD, RejectCode.UNSUPPORTED)
    assert settled(effects) == [(1, Status.FAILURE if refused else CANCELLED)]


def test_a_cancelled_task_that_asks_for_a_retry_gets_none() -> None:
    owner = held_by_worker()
    cancel(owner, 1)
    effects = owner.retries(retry(1, delay_ms=10))
    assert settled(effects) == [(1, CANCELLED)]
    assert not owner.machine.tasks


def test_a_cancelled_task_that_must_not_run_twice_is_cancelled_and_not_lost() -> None:
    owner = Owner()
    owner.worker()
    owner.submit(call(1, kind=ONCE))
    cancel(owner, 1)
    owner.machine.link_down(LINK, "gone")
    assert settled(owner.turn()) == [(1, CANCELLED)]


def test_a_cancelled_task_whose_large_result_is_lost_with_its_worker_is_cancelled() -> None:
    owner = held_by_worker()
    owner.done(outcome(1, body=None, size=100_000))
    cancel(owner, 1)
    assert not sent(owner.turn(), Cancel)  # it has ended
    owner.machine.received(LINK, Results([], [], [], 1, 1, True), 0)
    assert settled(owner.turn()) == [(1, CANCELLED)]


# --- after a restart ------------------------------------------------------------------------


def resumed(**ext: int) -> Owner:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.durable(call(1, ADD, **ext))
    again = owner.restarted(10)
    again.worker()
    again.turn(10)
    return again


def test_a_worker_that_claims_a_cancelled_task_after_a_restart_is_told() -> None:
    owner = resumed()
    assert cancel(owner, 1) == ["running"]
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 20)
    assert [told.tasks for told in sent(owner.turn(20), Cancel)] == [[(task_id(1), 1)]]


def test_a_cancelled_task_that_nobody_claims_after_a_restart_settles() -> None:
    owner = resumed()
    cancel(owner, 1)
    owner.turn(10 + RESUME_GRACE_MS)
    effects = owner.commit_all()
    assert (settled(effects), given(effects)) == ([(1, CANCELLED)], [])


def test_a_task_that_was_revoked_while_it_waited_stays_so_after_a_restart() -> None:
    owner = Owner(has_journal=True)
    owner.durable(call(1, eta=5_000), call(2))
    assert cancel(owner, 1, 2) == ["revoked", "revoked"]
    owner.turn()
    owner.commit_all()
    assert not owner.held
    again = owner.restarted(10)
    again.worker()
    again.turn(10)
    assert given(again.turn(60_000)) == []


def cancelled_and_restarted(*, terminate: bool = False, is_durable: bool = True) -> Owner:
    """It was held by a worker when its owner was told, and came back."""
    owner = Owner(has_journal=True)
    owner.worker()
    if is_durable:
        owner.durable(call(1))
    else:
        owner.submit(call(1))
        owner.turn(WRITE_BEHIND_MS)
    owner.commit_all()
    assert cancel(owner, 1, terminate=terminate) == ["running"]
    owner.turn()
    owner.commit_all()
    again = owner.restarted(10)
    again.worker()
    again.turn(10)
    return again


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_pending_cancellation_outlives_its_owner_s_process(is_durable: bool) -> None:
    owner = cancelled_and_restarted(is_durable=is_durable)
    owner.turn(10 + RESUME_GRACE_MS)
    effects = owner.commit_all()
    assert (settled(effects), given(effects)) == ([(1, CANCELLED)], [])


@pytest.mark.parametrize("terminate", [True, False])
def test_a_worker_that_claims_a_task_cancelled_before_the_restart_is_told(terminate: bool) -> None:
    owner = cancelled_and_restarted(terminate=terminate)
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 20)
    [told] = sent(owner.turn(20), Cancel)
    assert (told.tasks, told.terminate, told.signal) == (
        [(task_id(1), 1)], terminate, 15 if terminate else 0,
    )  # fmt: skip


def test_what_ran_on_after_its_cancellation_may_succeed_after_a_restart() -> None:
    owner = cancelled_and_restarted()
    owner.done(outcome(1))
    assert settled(owner.commit_all()) == [(1, Status.SUCCESS)]


def test_a_task_that_waits_for_its_time_after_a_restart_settles_at_once() -> None:
    owner = resumed(eta=60_000)
    assert cancel(owner, 1) == ["revoked"]
    owner.turn(20)
    assert settled(owner.commit_all()) == [(1, CANCELLED)]
    assert owner.machine.kept.get(task_id(1)).attempt == 2  # type: ignore[union-attr]


# --- tasks that are offered -----------------------------------------------------------------


def test_an_offered_task_may_be_started_by_its_taker_and_is_cancelled_when_it_is_put_back(
    owner: Owner,
) -> None:
    owner.submit(call(1), call(2, eta=100))
    owner.machine.leave()
    for lane in owner.machine.lanes.values():
        owner.machine.take_ready(lane, 9, 999, b"taker-01")
    assert cancel(owner, 1, 2) == ["running", "running"]
    assert not settled(owner.turn())
    owner.machine.put_back([task_id(1), task_id(2)])
    assert sorted(settled(owner.turn())) == [(1, CANCELLED), (2, CANCELLED)]


def test_the_cancellation_of_an_offered_task_goes_with_it(owner: Owner) -> None:
    owner.submit(call(1), call(2, exp=100))
    (lane,) = owner.machine.lanes.values()
    owner.machine.take_ready(lane, 9, 999, b"taker-01")
    cancel(owner, 1, terminate=True)
    owner.turn(100)
    owner.machine.give([task_id(1), task_id(2)])
    # That one sees by itself what expires.
    assert list(owner.machine.given_cancelled) == [task_id(1)]
    assert owner.machine.given_cancelled[task_id(1)].terminate
    assert not owner.machine._cancelling


# --- expiry ---------------------------------------------------------------------------------


def test_a_task_that_expires_at_a_worker_is_ended_there_unless_it_runs(owner: Owner) -> None:
    owner.worker()
    owner.submit(call(1, exp=1_000), call(2, exp=1_000))
    owner.start(2)
    (told,) = sent(owner.turn(1_000), Cancel)
    assert told == Cancel([(task_id(1), 1)], EXPIRED, False, 0)
    effects = owner.done(Outcome(task_id(1), 1, EXPIRED, 1, -1, 0, 0, 0, b""), outcome(2))
    assert settled(effects) == [(1, EXPIRED), (2, Status.SUCCESS)]


def test_an_expired_task_of_a_lost_worker_settles_as_expired() -> None:
    owner = held_by_worker(exp=1_000)
    owner.turn(1_000)
    owner.machine.link_down(LINK, "gone")
    assert settled(owner.turn()) == [(1, EXPIRED)]


def test_who_cancels_what_has_expired_may_terminate_it() -> None:
    owner = held_by_worker(exp=1_000)
    owner.turn(1_000)
    cancel(owner, 1, terminate=True)
    (told,) = sent(owner.turn(), Cancel)
    assert (told.status, told.terminate) == (CANCELLED, True)


def test_what_is_cancelled_and_expires_then_is_cancelled() -> None:
    owner = held_by_worker(exp=1_000)
    cancel(owner, 1)
    owner.turn()
    assert not sent(owner.turn(1_000), Cancel)
    owner.machine.link_down(LINK, "gone")
    assert settled(owner.turn()) == [(1, CANCELLED)]


def test_lanes_of_other_kinds_are_left_alone(owner: Owner) -> None:
    owner.worker(link_to(b"worker-3", "in"), kinds=(ADD, MUL), credit=0)
    owner.submit(call(1), call(2, kind=MUL))
    cancel(owner, 2)
    owner.turn()
    assert [len(owner.machine.lanes[kind].ready) for kind in (ADD, MUL)] == [1, 0]
    taken = TakenTask(owner.machine.written.record_of(owner.machine.tasks[task_id(1)]), False)
    owner.machine.own([taken])
    assert not sent(owner.turn(), Tasks)
