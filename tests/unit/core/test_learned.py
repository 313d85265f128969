"""A task that is called by its name alone is started at most once if workers say that of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.machines import ADD, of, outcome, sent, task_id
from tests.unit.core.lone_owner import BY_NAME, LINK, ONCE, SECOND, Owner, call
from zmqtasks.core.calls import Call
from zmqtasks.core.effects import Effect, TasksSettled
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.limits import RESUME_GRACE_MS, WRITE_BEHIND_MS
from zmqtasks.wire.messages import (
    Kind,
    Outcome,
    Reject,
    RejectCode,
    Retry,
    RetryRecord,
    Status,
    TaskRecord,
    Tasks,
)

MARK = {"once": 1}
#: The same task, which the workers here do not say anything of.
SILENT = Kind("shop", "tasks.pay", "d3", "default")
SUM_BY_NAME = Kind(ADD.app, ADD.name, "", ADD.queue)


@pytest.fixture
def owner() -> Owner:
    return Owner()


def given(effects: list[Effect]) -> list[tuple[int, dict[str, Any] | None]]:
    """Attempt and facts of what was sent."""
    tasks: list[TaskRecord] = [one for message in sent(effects, Tasks) for one in message.tasks]
    return [(task.attempt, task.ext) for task in tasks]


def ends(effects: list[Effect]) -> list[Outcome]:
    return [one for effect in of(effects, TasksSettled) for one in effect.outcomes]


def journal(owner: Owner) -> list[tuple[int, dict[str, Any] | None]]:
    """Attempt and facts of what is on its way to the disk."""
    puts = [(put.attempt, put.ext) for write in owner.writes for put in write.puts]
    return puts + [(note.attempt, note.ext) for write in owner.writes for note in write.progress]


def resumed(owner: Owner, attempt: int, ext: dict[str, Any] | None = None) -> None:
    """The owner is started again, and no worker is there yet."""
    owner.machine.resume([OwnedRecord(task_id(1), BY_NAME, b"args", ext, attempt=attempt)])
    owner.turn()
    owner.turn(RESUME_GRACE_MS)
    owner.commit(RESUME_GRACE_MS)


def test_it_ends_with_its_worker(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1, BY_NAME)], 0)
    assert given(owner.turn()) == [(1, MARK)]
    owner.machine.link_down(LINK, "silent")
    (end,) = ends(owner.turn())
    assert end.status == Status.WORKER_LOST
    assert "tasks.pay is not idempotent, so it is not started again" in (end.ext or {})["e"]


def test_it_is_given_to_another_worker_if_it_never_ran(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1, BY_NAME)], 0)
    owner.turn()
    reject = Reject([(task_id(1), 1, RejectCode.CHILD_DIED)], "its child died", 5)
    owner.machine.received(LINK, reject, 0)
    assert given(owner.turn()) == [(2, MARK)]


def test_other_tasks_that_are_called_so_run_again(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1, SUM_BY_NAME)], 0)
    assert given(owner.turn()) == [(1, None)]
    owner.machine.link_down(LINK, "silent")
    owner.worker(SECOND)
    assert given(owner.turn()) == [(2, None)]


def test_it_is_in_the_journal_before_it_is_sent(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1, BY_NAME))
    assert journal(owner) == [(0, None)]
    assert not sent(owner.commit(), Tasks)
    assert journal(owner) == [(1, MARK)]
    assert given(owner.commit()) == [(1, MARK)]


def test_what_may_turn_out_to_be_so_is_in_the_journal_before_it_is_sent(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1, SUM_BY_NAME))
    assert journal(owner) == [(0, None)]
    assert not sent(owner.commit(), Tasks)
    assert journal(owner) == [(1, None)]
    assert given(owner.commit()) == [(1, None)]


def test_it_is_learned_from_a_worker_that_comes_later(owner: Owner) -> None:
    owner.machine.submit([call(1, BY_NAME)], 0)
    owner.turn(WRITE_BEHIND_MS)
    assert journal(owner) == [(0, None)]
    owner.commit(WRITE_BEHIND_MS)
    owner.worker()
    owner.turn()
    assert journal(owner) == [(1, MARK)]
    assert given(owner.commit()) == [(1, MARK)]


def test_an_owner_that_is_started_again_before_it_was_sent_sends_it(owner: Owner) -> None:
    resumed(owner, attempt=0)
    owner.worker()
    owner.turn(RESUME_GRACE_MS)
    assert given(owner.commit(RESUME_GRACE_MS)) == [(1, MARK)]


def test_an_owner_that_is_started_again_after_that_ends_it_with_no_worker_in_sight(
    owner: Owner,
) -> None:
    owner.machine.resume([OwnedRecord(task_id(1), BY_NAME, b"args", MARK, attempt=1)])
    owner.turn()
    owner.turn(RESUME_GRACE_MS)
    assert [end.status for end in ends(owner.commit(RESUME_GRACE_MS))] == [Status.WORKER_LOST]


def test_what_may_have_run_where_nothing_was_said_is_left_to_the_worker_to_refuse(
    owner: Owner,
) -> None:
    """The mark says that no earlier attempt can have run, so it would run there."""
    resumed(owner, attempt=1)
    owner.worker()
    assert given(owner.turn(RESUME_GRACE_MS)) == [(2, None)]


def test_it_goes_on_when_it_asks_for_it_and_its_owner_is_started_again(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1, BY_NAME))
    owner.commit()
    owner.commit()
    again = Retry(5, [RetryRecord(task_id(1), 1, 60_000, True, "busy")])
    owner.machine.received(LINK, again, 0)
    owner.turn()
    ((attempt, ext),) = journal(owner)
    assert (attempt, ext) == (1, {**MARK, "n": 1, "ra": 1, "eta": owner.machine.wall_ms + 60_000})
    later = Owner()
    resumed(later, attempt, {**MARK, "n": 1, "ra": 1})
    later.worker()
    assert [attempt for attempt, _ in given(later.turn(RESUME_GRACE_MS))] == [2]


def test_a_caller_whose_code_does_not_say_so_is_corrected_by_the_worker_s(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1, SILENT))
    owner.commit()
    assert journal(owner) == [(1, MARK)]
    assert given(owner.commit()) == [(1, MARK)]
    owner.machine.link_down(LINK, "silent")
    owner.turn()
    assert [end.status for end in ends(owner.commit())] == [Status.WORKER_LOST]


def test_a_worker_that_says_nothing_gets_it_as_any_other(owner: Owner) -> None:
    """It is of an earlier version."""
    owner.worker(kinds=(SILENT,))
    owner.machine.submit([call(1, BY_NAME)], 0)
    assert given(owner.turn()) == [(1, None)]


def test_facts_of_the_call_stay(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([Call(task_id(1), BY_NAME, b"args", {"h": {"a": 1}})], 0)
    assert given(owner.turn()) == [(1, {"h": {"a": 1}, **MARK})]
    owner.done(outcome(1))
    assert not owner.machine.tasks


def test_what_its_caller_knows_needs_no_mark(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1, ONCE)], 0)
    assert given(owner.turn()) == [(1, None)]
