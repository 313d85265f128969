"""Answering others' questions, and telling those who watch."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import (
    ADD,
    OWNER,
    WORKER,
    entry,
    hello,
    link_to,
    of,
    outcome,
    record,
    sent,
    task_id,
    worker_hello,
)
from zmqtasks.core.answers import Answers, stored_state
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import AskStore, Effect
from zmqtasks.core.held import Finished, KindStat, hold
from zmqtasks.core.intake import Intake
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import to_row
from zmqtasks.core.rows import OutcomeRow
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Credit,
    Done,
    Query,
    States,
    Status,
    Tasks,
    TaskState,
    Verdict,
)

ASKER = link_to(b"the-asker"[:8], "in")
WORKER_LINK = link_to(WORKER, "in")
OWNER_LINK = link_to(OWNER, "in")


def ask(answers: Answers, *numbers: int, watch: bool = False) -> list[Effect]:
    answers.asked(ASKER, Query(5, [task_id(number) for number in numbers], watch))
    return drain(answers)


def drain(answers: Answers) -> list[Effect]:
    taken, answers.effects = answers.effects, []
    return taken


def states(effects: Sequence[Effect]) -> list[int]:
    return [record.state for message in sent(effects, States) for record in message.states]


def row(number: int, attempt: int, verdict: Verdict, body: bytes = b"value") -> OutcomeRow:
    made = to_row(outcome(number, attempt=attempt, body=body), ADD, (WORKER, 1), 0)
    made.verdict = verdict
    return made


def owner() -> tuple[Answers, Dispatcher]:
    dispatcher = Dispatcher(100, 1 << 30)
    return Answers(dispatcher, None, ResultLog("owner"), has_store=False), dispatcher


def test_owner_tells_what_it_knows_and_marks_it_as_its_own() -> None:
    answers, dispatcher = owner()
    dispatcher.submit([Call(task_id(1), ADD, b"", None)], 0)
    (message,) = sent(ask(answers, 1, 2), States)
    assert [record.state for record in message.states] == [TaskState.PENDING, TaskState.UNKNOWN]
    assert message.states[0].info["owned"] is True


def test_watcher_of_an_owner_is_told_when_the_task_settles_and_only_once() -> None:
    answers, dispatcher = owner()
    dispatcher.submit([Call(task_id(1), ADD, b"", None)], 0)
    dispatcher.link_up(WORKER_LINK, worker_hello())
    dispatcher.received(WORKER_LINK, Credit(1), 0)
    dispatcher.flush(0)
    ask(answers, 1, watch=True)
    dispatcher.received(WORKER_LINK, Done(0, [outcome(1)]), 0)
    answers.settled(dispatcher.flush(0))
    assert states(drain(answers)) == [TaskState.SETTLED]
    answers.settled([outcome(1)])
    assert drain(answers) == []


def test_watcher_whose_link_is_down_is_forgotten() -> None:
    answers, dispatcher = owner()
    dispatcher.submit([Call(task_id(1), ADD, b"", None)], 0)
    ask(answers, 1, watch=True)
    answers.link_down(ASKER)
    answers.settled([outcome(1)])
    assert drain(answers) == []
    assert not answers.watchers


def worker() -> tuple[Answers, Intake, ResultLog]:
    intake = Intake(["default"], [entry(ADD)], 1)
    intake.slot_ready(0)
    intake.link_up(OWNER_LINK, hello(OWNER, "producer"))
    log = ResultLog("worker")
    return Answers(None, intake, log, has_store=False), intake, log


def test_worker_tells_what_waits_and_what_runs_there() -> None:
    answers, intake, _ = worker()
    intake.received(OWNER_LINK, Tasks([ADD], [record(1), record(2)]), 0)
    intake.feed(0)
    assert states(ask(answers, 1, 2, 3)) == [
        TaskState.STARTED, TaskState.PENDING, TaskState.UNKNOWN,
    ]  # fmt: skip


def test_worker_s_outcome_is_unsettled_until_the_owner_decides() -> None:
    answers, _, log = worker()
    task = hold(record(1), ADD, OWNER_LINK, OWNER, KindStat(), None)
    log.append([Finished(task, Status.SUCCESS, 0, 1, b"value", "")], 0)
    assert states(ask(answers, 1)) == [TaskState.UNSETTLED]
    log.decide([(1, 1)], [], 0)
    assert states(ask(answers, 1)) == [TaskState.SETTLED]


def test_outcome_that_its_owner_refused_is_told_to_nobody() -> None:
    """It was taken for settled once, so a watcher could see a value that never counted."""
    answers, _, log = worker()
    task = hold(record(1), ADD, OWNER_LINK, OWNER, KindStat(), None)
    log.append([Finished(task, Status.SUCCESS, 0, 1, b"value", "")], 0)
    log.decide([], [1], 0)
    assert states(ask(answers, 1)) == [TaskState.UNKNOWN]


def test_outcome_without_an_owner_stays_unsettled() -> None:
    """Who asks decides whether the first one stands, when all have answered."""
    answers, _, log = worker()
    task = hold(record(1), ADD, OWNER_LINK, OWNER, KindStat(), None)
    log.append([Finished(task, Status.SUCCESS, 0, 1, b"value", "")], 0)
    log.owner_gone(OWNER)
    assert states(ask(answers, 1)) == [TaskState.UNSETTLED]


def store() -> Answers:
    return Answers(None, None, ResultLog("store"), has_store=True)


def test_store_looks_up_what_its_machines_do_not_know() -> None:
    answers = store()
    (lookup,) = of(ask(answers, 1, 2), AskStore)
    assert lookup.ids == [task_id(1), task_id(2)]
    answers.store_answered(lookup.token, {task_id(1): [row(1, 1, Verdict.SETTLED)]})
    assert states(drain(answers)) == [TaskState.SETTLED, TaskState.UNKNOWN]
    answers.store_answered(lookup.token, {})
    assert drain(answers) == [], "answered already"


def test_watcher_of_a_store_is_told_when_the_outcome_is_stored() -> None:
    answers = store()
    (lookup,) = of(ask(answers, 1, watch=True), AskStore)
    answers.store_answered(lookup.token, {})
    drain(answers)
    answers.stored([task_id(2), task_id(1)])
    (lookup,) = of(drain(answers), AskStore)
    answers.store_answered(lookup.token, {task_id(1): [row(1, 1, Verdict.SETTLED)]})
    assert states(drain(answers)) == [TaskState.SETTLED]


def test_large_outcomes_are_spread_over_messages_that_can_be_sent() -> None:
    answers = store()
    numbers = range(1, 41)
    (lookup,) = of(ask(answers, *numbers), AskStore)
    rows = {task_id(n): [row(n, 1, Verdict.SETTLED, body=b"x" * 70_000)] for n in numbers}
    answers.store_answered(lookup.token, rows)
    messages = sent(drain(answers), States)
    assert sum(len(message.states) for message in messages) == 40
    for message in messages:
        assert codec.decode(codec.encode(message))[1] == message


def test_stored_rows_of_a_task_make_one_state() -> None:
    assert stored_state(task_id(1), None).state == TaskState.UNKNOWN
    refused, open_row = row(1, 1, Verdict.REFUSED), row(1, 2, Verdict.NONE)
    assert stored_state(task_id(1), [refused]).state == TaskState.UNKNOWN
    assert stored_state(task_id(1), [refused, open_row]).state == TaskState.UNSETTLED
    settled = row(1, 3, Verdict.SETTLED, b"this")
    state = stored_state(task_id(1), [refused, open_row, settled])
    assert state.state == TaskState.SETTLED
    assert state.outcome is not None
    assert state.outcome.body == b"this"
    assert state.info["worker"] == ""
