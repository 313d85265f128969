"""Attempts that ask for another one, and what running ones tell."""

from __future__ import annotations

from typing import Any

from tests.support.machines import ADD, record, sent, task_id
from tests.unit.core.test_intake import LINK, Worker, credits, running
from zmqtasks.core.held import REQUEUE_STATUS, RETRY_STATUS, SlotOutcome
from zmqtasks.pools import protocol
from zmqtasks.wire.messages import (
    Retry,
    RetryRecord,
    Status,
    Tasks,
    UpdateRecord,
    Updates,
)

ERROR = b"encoded error"


def wants_another(ext: dict[str, Any] | None = None, status: int = RETRY_STATUS) -> SlotOutcome:
    return SlotOutcome(task_id(1), 1, status, 5, 100, ERROR, "ValueError: no", ext)


def test_words_of_the_child_protocol_are_understood() -> None:
    assert (RETRY_STATUS, REQUEUE_STATUS) == (protocol.RETRY_STATUS, protocol.REQUEUE_STATUS)


def test_retry_goes_to_the_owner_and_not_into_the_result_log() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    facts = {"tl": [1, 2]}
    worker.machine.slot_done(0, [wants_another({"in": 1_500, "body": b"new", "ext": facts})], 0)
    effects = worker.turn()
    (message,) = sent(effects, Retry)
    assert message.tasks == [
        RetryRecord(task_id(1), 1, 1_500, True, "ValueError: no", b"new", facts)
    ]
    assert message.limit >= 1
    assert credits(effects), "what it had is free again"
    assert worker.machine.finished == []
    giver = worker.machine.givers[LINK]
    assert (giver.finished, giver.received) == (1, 2)
    assert running(effects) == {0: [2]}


def test_requeued_attempt_counts_as_no_retry() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.slot_done(0, [wants_another(status=REQUEUE_STATUS)], 0)
    (message,) = sent(worker.turn(), Retry)
    assert message.tasks == [RetryRecord(task_id(1), 1, 0, False, "ValueError: no")]


def test_owner_that_gave_the_attempt_up_is_asked_for_nothing() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.link_down(LINK)
    worker.link_up()
    worker.machine.slot_done(0, [wants_another()], 0)
    assert sent(worker.turn(), Retry) == []
    assert worker.machine.finished == []
    assert worker.machine.held_bytes == 0


def test_nobody_can_repeat_what_was_sent_at_most_once() -> None:
    for status in (RETRY_STATUS, REQUEUE_STATUS):
        worker = Worker(slots=1)
        worker.machine.pulled(Tasks([ADD], [record(1)]))
        worker.turn()
        worker.machine.slot_done(0, [wants_another({"in": 5}, status)], 0)
        assert sent(worker.turn(), Retry) == []
        (finished,) = worker.machine.finished
        assert (finished.status, finished.body) == (Status.RETRIES_EXHAUSTED, ERROR)
        assert (finished.error, finished.ext) == ("ValueError: no", None)


def test_facts_of_an_outcome_are_kept() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.slot_done(0, [wants_another({"x": 1}, Status.FAILURE)], 0)
    assert [finished.ext for finished in worker.machine.finished] == [{"x": 1}]


# --- news of running attempts ---------------------------------------------------------------


def news(attempt: int = 1, number: int = -1, state: str = "HALF") -> UpdateRecord:
    return UpdateRecord(task_id(1), attempt, number, state, b"meta")


def test_owner_hears_of_a_running_task() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    for record_ in (news(number=0), news(), news(number=1)):
        worker.machine.slot_updates(0, record_)
    assert sent(worker.turn(), Updates) == [Updates([news(number=0), news(), news(number=1)])]


def test_news_without_an_owner_are_dropped() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.slot_updates(0, news(attempt=2))
    worker.machine.slot_updates(7, news())
    worker.machine.link_down(LINK)
    worker.machine.slot_updates(0, news())
    worker.machine.pulled(Tasks([ADD], [record(1)]))
    assert sent(worker.turn(), Updates) == []
