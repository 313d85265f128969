"""What concerns a task in the journal waits until the journal has it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.machines import ADD, WORKER, link_to, of, outcome, sent, task_id, worker_hello
from tests.unit.core.lone_owner import LINK, ONCE, SECOND, Owner, call
from zmqtasks.core.effects import (
    CallsAccepted,
    CallsRefused,
    Effect,
    Note,
    TasksSettled,
)
from zmqtasks.core.lanes import TakenTask
from zmqtasks.core.owned import Dead, Durability, OwnedRecord, parse_mark
from zmqtasks.ids import format_task_id
from zmqtasks.limits import RESUME_GRACE_MS, STRIKES_MAX, WRITE_BEHIND_MS
from zmqtasks.wire.messages import (
    Outcome,
    Reject,
    RejectCode,
    Settled,
    Started,
    Status,
    Submit,
    Submitted,
    TaskRecord,
    Tasks,
)


@pytest.fixture
def owner() -> Owner:
    return Owner()


def numbers(messages: Sequence[Tasks]) -> list[tuple[int, int]]:
    return [
        (int.from_bytes(task.id[-8:], "big"), task.attempt)
        for message in messages
        for task in message.tasks
    ]


def settled(effects: Sequence[Effect]) -> list[Outcome]:
    return [one for effect in of(effects, TasksSettled) for one in effect.outcomes]


# --- durable calls ------------------------------------------------------------------------


def test_a_durable_call_is_accepted_and_sent_when_it_is_synced(owner: Owner) -> None:
    owner.worker()
    effects = owner.durable(call(1), call(2))
    assert not sent(effects, Tasks)
    assert not of(effects, CallsAccepted)
    (write,) = owner.writes
    assert write.sync
    assert [(put.id, put.durability) for put in write.puts] == [
        (task_id(1), Durability.DISK), (task_id(2), Durability.DISK),
    ]  # fmt: skip
    effects = owner.commit()
    assert of(effects, CallsAccepted) == [CallsAccepted(1)]
    assert numbers(sent(effects, Tasks)) == [(1, 1), (2, 1)]


def test_a_durable_call_that_the_disk_refuses_is_not_owned(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1))
    effects = owner.refuse("the disk is full")
    assert of(effects, CallsRefused) == [CallsRefused(1, "the disk is full")]
    assert not sent(effects, Tasks)
    assert not owner.machine.tasks
    assert owner.machine.open_bytes == 0


def test_a_call_that_a_failing_disk_may_have_is_taken_out_before_it_is_refused(
    owner: Owner,
) -> None:
    owner.durable(call(1))
    effects = owner.refuse("the disk fails", is_certain=False)
    assert not of(effects, CallsRefused)
    assert [write.drops for write in owner.writes] == [[task_id(1)]]
    assert of(owner.commit(), CallsRefused) == [CallsRefused(1, "the disk fails")]


def test_a_submission_of_nothing_is_answered_at_once_even_for_a_durable_task(
    owner: Owner,
) -> None:
    owner.worker()
    owner.durable(call(1))
    owner.commit()
    owner.machine.tasks_max = 1  # full
    owner.machine.submit_remote(LINK, Submit(7, task_id(1), [], []), 0)
    assert sent(owner.turn(), Submitted) == [Submitted(7, "")]
    assert not owner.writes


def test_without_a_journal_durable_calls_are_refused() -> None:
    owner = Owner(has_journal=False)
    (refusal,) = of(owner.durable(call(1)), CallsRefused)
    assert "journal" in refusal.text
    assert not owner.writes


def test_a_durable_task_settles_when_the_journal_has_dropped_it(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1))
    owner.commit()
    effects = owner.done(outcome(1))
    assert not settled(effects)
    assert not sent(effects, Settled)
    (write,) = owner.writes
    assert write.sync
    assert write.drops == [task_id(1)]
    effects = owner.commit()
    assert [one.id for one in settled(effects)] == [task_id(1)]
    assert [message.ranges for message in sent(effects, Settled)] == [[(1, 1)]]
    assert not owner.machine.tasks
    assert owner.machine.open_bytes == 0


def test_an_outcome_repeated_while_the_journal_is_busy_gets_its_verdict_too(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1))
    owner.commit()
    owner.done(outcome(1))
    again = link_to(WORKER, "out")
    owner.machine.link_up(again, worker_hello())
    owner.done(outcome(1), link=again)
    assert owner.machine.refused_count == 0
    verdicts = sent(owner.commit(), Settled)
    assert [message.ranges for message in verdicts] == [[(1, 1)], [(1, 1)]]


def test_the_next_attempt_of_a_durable_task_is_sent_when_the_journal_knows_of_it(
    owner: Owner,
) -> None:
    owner.worker()
    owner.durable(call(1))
    owner.commit()
    owner.worker(SECOND)
    owner.machine.link_down(LINK, "gone")
    assert not sent(owner.turn(), Tasks)
    (write,) = owner.writes
    assert write.sync
    assert [(note.id, note.attempt) for note in write.progress] == [(task_id(1), 2)]
    assert numbers(sent(owner.commit(), Tasks)) == [(1, 2)]


def test_children_of_a_durable_task_are_durable_before_their_parent_goes_on(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1))
    owner.commit()
    message = Submit(7, task_id(1), [ADD], [TaskRecord(0, task_id(2), 1, b"args")])
    owner.machine.received(LINK, message, 0)
    assert not sent(owner.turn(), Submitted)
    assert [put.id for write in owner.writes for put in write.puts] == [task_id(2)]
    assert sent(owner.commit(), Submitted) == [Submitted(7, "")]


def test_children_of_a_task_that_is_not_known_any_more_are_durable(owner: Owner) -> None:
    """Their parent may be: it was given away while it ran, or a later attempt has ended."""
    owner.worker()
    message = Submit(7, task_id(1), [ADD], [TaskRecord(0, task_id(2), 1, b"args")])
    owner.machine.received(LINK, message, 0)
    assert not sent(owner.turn(), Submitted)
    (write,) = owner.writes
    assert write.sync
    assert [(put.id, put.durability) for put in write.puts] == [(task_id(2), Durability.DISK)]
    assert sent(owner.commit(), Submitted) == [Submitted(7, "")]


def test_children_that_come_while_their_owner_ends_are_written_at_once(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.machine.leave()
    owner.turn()
    message = Submit(7, task_id(1), [ADD], [TaskRecord(0, task_id(2), 1, b"args")])
    owner.machine.received(LINK, message, 0)
    assert not sent(owner.turn(), Submitted)
    assert sent(owner.commit(), Submitted) == [Submitted(7, "")]


def test_a_child_that_wants_the_disk_is_refused_where_there_is_no_journal() -> None:
    owner = Owner(has_journal=False)
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    record = TaskRecord(0, task_id(2), 1, b"args", {"dur": 1})
    owner.machine.received(LINK, Submit(7, task_id(1), [ADD], [record]), 0)
    (answer,) = sent(owner.turn(), Submitted)
    assert "journal" in answer.refused


# --- write-behind -------------------------------------------------------------------------


def test_what_has_waited_is_written_behind_and_what_has_ended_is_not(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1), call(2)], 0)
    owner.turn()
    owner.done(outcome(1))
    owner.turn(WRITE_BEHIND_MS - 1)
    assert not owner.writes
    owner.turn(WRITE_BEHIND_MS)
    (write,) = owner.writes
    assert not write.sync
    assert [(put.id, put.durability) for put in write.puts] == [(task_id(2), Durability.MEMORY)]


def test_a_task_that_settles_while_it_is_written_behind_leaves_the_journal(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.turn(WRITE_BEHIND_MS)
    owner.done(outcome(1))
    put, drop = owner.writes
    assert put.batch < drop.batch
    assert drop.drops == [task_id(1)]
    assert not drop.sync
    assert settled(owner.commit())


def test_a_task_that_settles_is_not_written_again_when_the_disk_had_refused_it(
    owner: Owner,
) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.turn(WRITE_BEHIND_MS)
    put = owner.writes.pop()
    owner.done(outcome(1))
    owner.custody.refused([put.batch], "failed", is_certain=False)
    owner.turn(10 * WRITE_BEHIND_MS)
    assert not [write for write in owner.writes if write.puts]
    assert settled(owner.commit())


def test_a_full_disk_does_no_harm_to_memory_tasks_and_is_tried_again(owner: Owner) -> None:
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.turn(WRITE_BEHIND_MS)
    owner.refuse("full", WRITE_BEHIND_MS)
    assert not owner.machine.tasks[task_id(1)].is_written
    owner.turn(2 * WRITE_BEHIND_MS - 1)
    assert not owner.writes
    owner.turn(2 * WRITE_BEHIND_MS)
    assert [put.id for write in owner.writes for put in write.puts] == [task_id(1)]


def test_a_process_that_ends_writes_everything_that_it_owns(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1))
    owner.commit()
    owner.machine.submit([call(2), call(3)], 0)
    owner.turn()
    assert owner.machine.unwritten_count == 2
    owner.machine.write_all(0)
    owner.turn()
    (write,) = owner.writes
    assert write.sync
    assert [put.id for put in write.puts] == [task_id(2), task_id(3)]
    assert owner.machine.unwritten_count == 0
    owner.refuse("full")
    assert owner.machine.unwritten_count == 2


def test_nothing_is_remembered_for_writing_without_a_journal() -> None:
    owner = Owner(has_journal=False)
    owner.machine.submit([call(1)], 0)
    owner.turn(10 * WRITE_BEHIND_MS)
    assert not owner.writes
    assert owner.machine.written.next_deadline_ms() is None


# --- resuming -----------------------------------------------------------------------------


def resumed(owner: Owner, *records: OwnedRecord) -> None:
    owner.machine.resume(records)
    owner.worker()
    owner.turn()


def test_resumed_tasks_go_on_with_the_next_attempt_when_nobody_claims_them(owner: Owner) -> None:
    resumed(owner, OwnedRecord(task_id(1), ADD, b"args", attempt=2, strikes=1))
    assert not owner.writes
    effects = owner.turn(RESUME_GRACE_MS)
    assert not sent(effects, Tasks)
    (write,) = owner.writes
    assert [(n.attempt, n.strikes) for n in write.progress] == [(3, 1)]
    assert numbers(sent(owner.commit(RESUME_GRACE_MS), Tasks)) == [(1, 3)]


def test_a_worker_that_runs_a_resumed_task_keeps_its_attempt(owner: Owner) -> None:
    resumed(owner, OwnedRecord(task_id(1), ADD, b"args"))
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 0)
    owner.turn(10 * RESUME_GRACE_MS)
    assert not owner.writes
    owner.done(outcome(1))
    assert settled(owner.commit())[0].attempt == 1


def test_an_outcome_of_before_the_restart_settles_a_resumed_task(owner: Owner) -> None:
    resumed(owner, OwnedRecord(task_id(1), ADD, b"args"))
    owner.done(outcome(1))
    assert [one.id for one in settled(owner.commit())] == [task_id(1)]


def test_a_claim_that_was_there_in_time_counts_also_when_its_owner_stood_still(
    owner: Owner,
) -> None:
    resumed(owner, OwnedRecord(task_id(1), ADD, b"args"))
    owner.machine.tick(10 * RESUME_GRACE_MS)
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 0)
    assert not owner.turn(10 * RESUME_GRACE_MS)
    assert owner.machine.tasks[task_id(1)].worker is not None


def test_grace_begins_with_the_turn_that_resumes(owner: Owner) -> None:
    """Not when time was last looked at, which may have been before the process stood still."""
    owner.machine.resume([OwnedRecord(task_id(1), ADD, b"args")])
    owner.turn(10 * RESUME_GRACE_MS)
    assert owner.machine.tasks[task_id(1)].is_unsure
    assert owner.machine.next_deadline_ms() == 11 * RESUME_GRACE_MS
    owner.turn(11 * RESUME_GRACE_MS)
    assert not owner.machine.tasks[task_id(1)].is_unsure


def test_a_claim_after_the_grace_is_refused(owner: Owner) -> None:
    resumed(owner, OwnedRecord(task_id(1), ADD, b"args"))
    owner.turn(RESUME_GRACE_MS)
    (refusal,) = sent(owner.done(outcome(1)), Settled)
    assert refusal.refused == [1]


# --- not idempotent -----------------------------------------------------------------------


def test_what_is_not_idempotent_is_noted_before_it_is_sent(owner: Owner) -> None:
    owner.worker()
    owner.durable(call(1, ONCE))
    assert [put.attempt for write in owner.writes for put in write.puts] == [0]
    assert not sent(owner.commit(), Tasks)
    assert [note.attempt for write in owner.writes for note in write.progress] == [1]
    assert numbers(sent(owner.commit(), Tasks)) == [(1, 1)]


def test_nothing_is_sent_unnoted_behind_what_waits_for_its_note(owner: Owner) -> None:
    owner.machine.submit([call(1, ONCE), call(2, ONCE)], 0)
    owner.turn(WRITE_BEHIND_MS)
    owner.commit(WRITE_BEHIND_MS)
    owner.worker(credit=1)
    assert not sent(owner.turn(), Tasks)
    assert numbers(sent(owner.commit(), Tasks)) == [(1, 1)]


def test_no_more_is_noted_as_given_than_can_be_sent(owner: Owner) -> None:
    owner.machine.submit([call(number, ONCE) for number in range(5)], 0)
    owner.turn(WRITE_BEHIND_MS)
    owner.commit(WRITE_BEHIND_MS)
    owner.worker(credit=2)
    for _ in range(3):  # the disk is slow, and the owner has other things to do
        owner.machine.dealer.is_touched = True
        owner.turn()
    noted = [note.id for write in owner.writes for note in write.progress]
    assert noted == [task_id(0), task_id(1)]


def test_what_is_not_idempotent_ends_with_its_worker(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1, ONCE)], 0)
    owner.turn()
    owner.machine.link_down(LINK, "silent")
    (ended,) = settled(owner.turn())
    assert ended.status == Status.WORKER_LOST
    assert "not idempotent" in (ended.ext or {})["e"]


def test_what_is_not_idempotent_and_never_ran_is_given_to_another_worker(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1, ONCE)], 0)
    owner.turn()
    reject = Reject([(task_id(1), 1, RejectCode.CHILD_DIED)], "its child died", 5)
    owner.machine.received(LINK, reject, 0)
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 2)]


@pytest.mark.parametrize(("attempt", "ends"), [(0, False), (1, True)])
def test_a_restart_ends_what_is_not_idempotent_only_if_it_was_given_away(
    owner: Owner, attempt: int, ends: bool
) -> None:
    resumed(owner, OwnedRecord(task_id(1), ONCE, b"args", attempt=attempt))
    owner.turn(RESUME_GRACE_MS)
    effects = owner.commit(RESUME_GRACE_MS)
    assert [one.status for one in settled(effects)] == ([Status.WORKER_LOST] if ends else [])
    assert numbers(sent(effects, Tasks)) == ([] if ends else [(1, 1)])


# --- dead ---------------------------------------------------------------------------------


def strike_out(owner: Owner) -> list[Effect]:
    effects: list[Effect] = []
    for attempt in range(1, STRIKES_MAX + 1):
        reject = Reject([(task_id(1), attempt, RejectCode.CHILD_DIED_RUNNING)], "child died", 99)
        owner.machine.received(LINK, reject, 0)
        effects = owner.turn() + owner.commit()
    return effects


@pytest.mark.parametrize("is_durable", [False, True])
def test_a_dead_task_stays_in_the_journal_with_its_story(owner: Owner, is_durable: bool) -> None:
    owner.worker()
    if is_durable:
        owner.durable(call(1))
        owner.commit()
    else:
        owner.machine.submit([call(1)], 0)
        owner.turn()
    marks: list[bytes] = []
    for attempt in range(1, STRIKES_MAX + 1):
        reject = Reject([(task_id(1), attempt, RejectCode.CHILD_DIED_RUNNING)], "child died", 99)
        owner.machine.received(LINK, reject, 0)
        effects = owner.turn()
        for write in owner.writes:
            marks += [put.mark for put in write.puts] + [n.mark for n in write.progress if n.mark]
        effects += owner.commit()
    assert [one.status for one in settled(effects)] == [Status.DEAD]
    (note,) = of(effects, Note)
    shown = format_task_id(task_id(1))
    assert note.level == "warning"
    for part in (f"task {shown} ({ADD.name})", f"{STRIKES_MAX} strikes", f"dead show {shown}"):
        assert part in note.text
    (mark,) = marks
    parsed = parse_mark(mark)
    assert isinstance(parsed, Dead)
    assert [line["event"] for line in parsed.story] == ["lost"] * STRIKES_MAX
    later = Owner()
    later.machine.resume_dead([OwnedRecord(task_id(1), ADD, b"args", mark=mark)])
    assert later.machine.story_of(task_id(1)) is not None
    (dead,) = later.machine.dead.describe()
    assert dead["name"] == ADD.name


def test_a_dead_task_is_retried_as_another_one(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    strike_out(owner)
    assert owner.machine.retry_dead(task_id(1), task_id(2), 0)
    owner.turn()
    assert numbers(sent(owner.commit(), Tasks)) == [(2, 1)]
    assert not owner.machine.dead.describe()
    assert not owner.machine.retry_dead(task_id(1), task_id(3), 0)
    drops = [dropped for write in owner.writes for dropped in write.drops]
    assert drops == [task_id(1)]


def test_a_retry_that_the_disk_refuses_leaves_the_dead_task_where_it_was(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    strike_out(owner)
    assert owner.machine.retry_dead(task_id(1), task_id(2), 0)
    assert not owner.machine.retry_dead(task_id(1), task_id(3), 0), "asked twice, it runs once"
    owner.turn()
    (note,) = of(owner.refuse("the disk is full"), Note)
    assert "not retried: the disk is full" in note.text
    assert [dead["id"] for dead in owner.machine.dead.describe()] == [task_id(1).hex()]
    assert not owner.machine.tasks


# --- giving and taking --------------------------------------------------------------------


def test_offered_tasks_are_not_sent_until_they_are_put_back(owner: Owner) -> None:
    owner.machine.submit([call(1), call(2)], 0)
    lane = owner.machine.lanes[ADD]
    taken = owner.machine.take_ready(lane, 10, 1 << 20, b"taker---")
    assert [task.id for task in taken] == [task_id(1), task_id(2)]
    owner.worker()
    assert not sent(owner.turn(), Tasks)
    owner.machine.put_back([task.id for task in taken])
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 1), (2, 1)]


def test_a_given_task_is_no_longer_owned(owner: Owner) -> None:
    owner.machine.submit([call(1)], 0)
    owner.machine.take_ready(owner.machine.lanes[ADD], 10, 1 << 20, b"taker---")
    assert [task.id for task in owner.machine.give([task_id(1), task_id(9)])] == [task_id(1)]
    assert owner.machine.state_of(task_id(1)) is None
    assert owner.machine.open_bytes == 0


def test_an_outcome_settles_a_held_task_that_is_being_offered(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    worker = owner.machine.workers[LINK]
    assert len(owner.machine.offer_held(worker, WORKER)) == 1
    assert settled(owner.done(outcome(1)))
    assert not owner.machine.is_offered(task_id(1))
    assert owner.machine.give([task_id(1)]) == []


def test_a_taken_task_goes_on_with_the_attempt_that_its_giver_had_not_given_away(
    owner: Owner,
) -> None:
    owner.worker()
    owner.machine.own([TakenTask(OwnedRecord(task_id(1), ADD, b"args", attempt=3), False)])
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 3)]
