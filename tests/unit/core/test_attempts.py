"""Attempts that ask for another one: retries and requeues."""

from __future__ import annotations

import pytest

from tests.support.machines import WORKER, link_to, sent, task_id
from tests.unit.core.owning import (
    LINK,
    ONCE,
    SECOND,
    WALL_MS,
    Owner,
    call,
    given,
    records,
    retry,
    settled,
)
from zmqtasks.core.owned import Durability
from zmqtasks.limits import RESUME_GRACE_MS, STRIKES_MAX, WRITE_BEHIND_MS
from zmqtasks.wire.messages import Outcome, Retry, RetryRecord, Started, Status, Tasks

SPARE = link_to(WORKER, "out")


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    owner.worker()
    owner.submit(call(1, h={"k": 1}))
    owner.start(1)
    return owner


def test_a_retry_is_sent_after_its_delay_with_the_next_attempt_and_count(owner: Owner) -> None:
    assert not given(owner.retries(retry(1, delay_ms=2_000)))
    assert not given(owner.turn(1_999))
    (record,) = records(owner.turn(2_000))
    assert (record.id, record.attempt, record.body) == (task_id(1), 2, b"args")
    assert record.ext == {"h": {"k": 1}, "n": 1, "eta": WALL_MS + 2_000}


def test_a_retry_without_delay_is_sent_at_once_after_what_waits(owner: Owner) -> None:
    worker = owner.machine.workers[LINK]
    worker.limit = worker.sent
    owner.submit(call(2))
    owner.retries(retry(1))
    worker.limit += 10
    owner.machine.dealer.is_touched = True
    effects = owner.turn()
    assert given(effects) == [(2, 1), (1, 2)]
    assert "eta" not in (records(effects)[1].ext or {})


def test_a_retry_may_bring_other_arguments_and_facts(owner: Owner) -> None:
    (record,) = records(owner.retries(retry(1, body=b"more args", ext={"pri": 3})))
    assert record.body == b"more args"
    assert record.ext == {"h": {"k": 1}, "n": 1, "pri": 3}
    assert owner.machine.open_bytes == len(b"more args")
    owner.done(Outcome(task_id(1), 2, 0, 1, -1, 0, 0, 1, b"v"))
    assert owner.machine.open_bytes == 0


def test_a_retry_frees_the_credit_that_it_says(owner: Owner) -> None:
    owner.machine.received(LINK, Retry(44, [retry(1, delay_ms=10)]), 0)
    assert owner.machine.workers[LINK].limit == 44


def test_a_requeue_is_no_retry_and_no_strike(owner: Owner) -> None:
    (record,) = records(owner.retries(retry(1, counts=False)))
    assert (record.attempt, record.ext) == (2, {"h": {"k": 1}, "rq": 1})
    (record,) = records(owner.retries(retry(1, 2, counts=False)))
    assert (record.attempt, record.ext) == (3, {"h": {"k": 1}, "rq": 2})
    assert owner.machine.redelivered_count == 0
    assert owner.machine.retried_count == 2


def test_a_retry_is_no_strike_and_no_redelivery(owner: Owner) -> None:
    for attempt in range(1, STRIKES_MAX + 2):
        owner.start(1, attempt)
        assert given(owner.retries(retry(1, attempt))) == [(1, attempt + 1)]
    state = owner.machine.state_of(task_id(1))
    assert state is not None
    assert state.info["retries"] == STRIKES_MAX + 1
    assert owner.machine.redelivered_count == 0


def test_a_redelivery_of_a_retried_task_comes_before_what_waits(owner: Owner) -> None:
    owner.retries(retry(1))
    worker = owner.machine.workers[LINK]
    worker.limit = worker.sent
    owner.submit(call(2))
    owner.machine.link_down(LINK, "gone")
    owner.worker(SECOND)
    assert given(owner.turn()) == [(1, 3), (2, 1)]


def test_a_retry_of_an_attempt_that_was_given_up_changes_nothing(owner: Owner) -> None:
    owner.machine.link_down(LINK, "gone")
    owner.worker(LINK)
    assert given(owner.turn()) == [(1, 2)]
    owner.retries(retry(1, 1, delay_ms=50))
    assert task_id(1) in owner.machine.workers[LINK].held
    owner.worker(SECOND)
    owner.retries(retry(1, 2, delay_ms=50), link=SECOND)
    assert task_id(1) in owner.machine.workers[LINK].held


def test_a_retry_over_another_link_to_the_same_worker_counts(owner: Owner) -> None:
    owner.worker(SPARE, credit=0)
    assert given(owner.retries(retry(1), link=SPARE)) == [(1, 2)]


def test_why_a_retry_waits_is_told_with_the_error_and_the_delay(owner: Owner) -> None:
    owner.retries(retry(1, delay_ms=5_000))
    assert owner.why(1) == "retry 1 after ValueError: no, in 5 s"
    story = owner.machine.story_of(task_id(1))
    assert story is not None
    assert story["retries"] == 1
    assert story["lines"] == [
        {
            "at_ms": WALL_MS, "event": "retry", "attempt": 1, "error": "ValueError: no",
            "in_ms": 5_000,
        }
    ]  # fmt: skip


def test_a_task_that_rejected_itself_does_not_wait_for_a_retry(owner: Owner) -> None:
    rejected = RetryRecord(task_id(1), 1, 40, False, "rejected, to be run again: no GPU")
    owner.retries(rejected)
    assert owner.why(1) == "it was rejected, to be run again: no GPU, in 0.04 s"


def test_a_retry_after_the_task_expires_is_not_sent(owner: Owner) -> None:
    owner.submit(call(2, exp=1_000))
    owner.start(2)
    owner.retries(retry(2, delay_ms=5_000))
    assert settled(owner.turn(1_000)) == [(2, Status.EXPIRED)]


def test_a_retry_may_change_when_the_task_expires(owner: Owner) -> None:
    owner.submit(call(2, exp=1_000))
    owner.start(2)
    owner.turn(1_500)
    owner.retries(retry(2, delay_ms=5_000, ext={"exp": WALL_MS + 3_000}))
    assert not settled(owner.turn(2_999))
    assert settled(owner.turn(3_000)) == [(2, Status.EXPIRED)]


def test_the_outcome_of_a_retried_task_that_its_owner_makes_tells_of_its_retries() -> None:
    owner = Owner()
    owner.worker()
    owner.submit(call(1, kind=ONCE))
    owner.start(1)
    owner.retries(retry(1))
    owner.start(1, 2)
    owner.machine.link_down(LINK, "gone")
    assert settled(owner.turn()) == [(1, Status.WORKER_LOST)]
    ((_, outcome),) = owner.machine.own_outcomes
    assert outcome.ext is not None
    assert outcome.ext["n"] == 1


# --- in the journal -------------------------------------------------------------------------


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_retry_of_a_written_task_is_in_the_journal_before_it_goes_on(is_durable: bool) -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    if is_durable:
        owner.durable(call(1))
    else:
        owner.submit(call(1))
        owner.turn(WRITE_BEHIND_MS)
        owner.commit()
    owner.start(1)
    assert not given(owner.retries(retry(1, body=b"others")))
    (write,) = owner.writes
    assert write.sync == is_durable
    assert given(owner.commit()) == [(1, 2)]
    kept = owner.held[task_id(1)]
    assert (kept.attempt, kept.body, kept.ext) == (2, b"others", {"n": 1})
    assert kept.durability == (Durability.DISK if is_durable else Durability.MEMORY)
    # The next one keeps the arguments.
    owner.start(1, 2)
    owner.retries(retry(1, 2, delay_ms=1_000))
    owner.commit()
    kept = owner.held[task_id(1)]
    assert (kept.attempt, kept.body) == (3, b"others")
    assert kept.ext == {"n": 2, "eta": WALL_MS + owner.now_ms + 1_000}


def test_a_retry_survives_its_owner() -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.durable(call(1))
    owner.start(1)
    owner.retries(retry(1, delay_ms=60_000))
    owner.commit()
    again = owner.restarted(1_000)
    again.worker()
    assert not given(again.turn(1_000 + 2 * RESUME_GRACE_MS))
    assert again.why(1) == "retry 1, in 57 s"
    again.turn(60_000)
    effects = again.commit_all()
    assert given(effects) == [(1, 3)]
    (record,) = records(effects)
    assert record.ext == {"n": 1, "eta": WALL_MS + 60_000}


def test_what_must_not_run_twice_is_retried_when_it_asks_for_it() -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.durable(call(1, kind=ONCE))
    assert given(owner.commit_all()) == [(1, 1)]
    owner.start(1)
    owner.retries(retry(1, delay_ms=500))
    owner.commit_all()
    # Nobody has it while it waits, so a restart does not end it.
    waiting = owner.restarted(100)
    waiting.worker()
    waiting.turn(100)
    waiting.turn(100 + RESUME_GRACE_MS)
    assert given(waiting.commit_all()) == [(1, 2)]
    owner.turn(500)
    assert given(owner.commit_all()) == [(1, 2)]
    # Given to a worker it may have been started, so a restart does.
    given_away = owner.restarted(600)
    given_away.turn(600)
    given_away.turn(600 + RESUME_GRACE_MS)
    assert settled(given_away.commit_all()) == [(1, Status.WORKER_LOST)]


def test_a_retry_that_comes_after_a_restart_claims_its_attempt() -> None:
    owner = Owner(has_journal=True)
    owner.worker()
    owner.durable(call(1))
    again = owner.restarted(10)
    again.worker()
    again.machine.received(LINK, Started([(task_id(1), 1)]), 10)
    again.retries(retry(1, delay_ms=0))
    effects = again.commit_all()
    assert given(effects) == [(1, 2)]
    assert sent(effects, Tasks)[0].tasks[0].ext == {"n": 1}
