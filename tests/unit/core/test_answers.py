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
from zmqtasks.core.answers import Answers
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import AskStore, Effect, SpillFind
from zmqtasks.core.given import WATCH_REQUEST
from zmqtasks.core.held import Finished, KindStat, hold
from zmqtasks.core.intake import Intake
from zmqtasks.core.lookups import stored_state
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import to_row
from zmqtasks.core.rows import OutcomeRow
from zmqtasks.core.spillrows import UNDECIDED, SpillRow, SpillState
from zmqtasks.limits import (
    LOOKUP_CHUNK_BYTES,
    LOOKUP_CHUNK_MIN,
    LOOKUP_IDS_MAX,
    LOOKUPS_MAX,
    REPLAY_WINDOW_BYTES,
    WATCHES_PER_TASK_MAX,
)
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Credit,
    Done,
    Query,
    StateRecord,
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
    answers.flush()
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


def test_who_may_own_a_task_is_told_with_an_outcome_that_is_unsettled() -> None:
    answers, _, log = worker()
    task = hold(record(1), ADD, OWNER_LINK, OWNER, KindStat(), None)
    log.append([Finished(task, Status.SUCCESS, 0, 1, b"value", "")], 0)
    offered = StateRecord(task_id(1), TaskState.PENDING, {"offer": 7, "why": "an offer"}, None)
    answers.others.append({task_id(1): offered}.get)
    told = answers.local(task_id(1))
    assert told.state == TaskState.UNSETTLED
    kind = {"name": ADD.name, "queue": ADD.queue}
    assert told.info == {**kind, "owner": OWNER, "offer": 7}


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


def look_up(
    answers: Answers, effects: Sequence[Effect], body: bytes = b"value"
) -> tuple[list[States], list[int]]:
    """Answer lookups until there are none; returns what is told, and how many ids each had."""
    told, sizes = sent(effects, States), []
    while lookups := of(effects, AskStore):
        for lookup in lookups:
            sizes.append(len(lookup.ids))
            rows = {
                i: [row(int.from_bytes(i[8:], "big"), 1, Verdict.SETTLED, body)] for i in lookup.ids
            }
            answers.store_answered(lookup.token, rows)
        effects = drain(answers)
        told += sent(effects, States)
    return told, sizes


def test_large_outcomes_are_spread_over_messages_that_can_be_sent() -> None:
    answers = store()
    messages, _ = look_up(answers, ask(answers, *range(1, 41)), b"x" * 70_000)
    assert sum(len(message.states) for message in messages) == 40
    assert [message.more for message in messages] == [True] * (len(messages) - 1) + [False]
    for message in messages:
        assert codec.decode(codec.encode(message))[1] == message


def test_many_small_outcomes_are_looked_up_in_growing_chunks() -> None:
    answers = store()
    messages, sizes = look_up(answers, ask(answers, *range(1, 2_001)))
    assert sum(len(message.states) for message in messages) == 2_000
    assert sizes[0] == LOOKUP_CHUNK_MIN
    assert len(sizes) < 12


def test_large_outcomes_are_looked_up_a_few_at_a_time() -> None:
    answers = store()
    body = b"x" * (LOOKUP_CHUNK_BYTES // 2)
    messages, sizes = look_up(answers, ask(answers, *range(1, 21)), body)
    assert sum(len(message.states) for message in messages) == 20
    assert max(sizes) == LOOKUP_CHUNK_MIN


def test_no_more_is_looked_up_than_the_asker_takes() -> None:
    unacked = [0]
    answers = Answers(
        None, None, ResultLog("store"), has_store=True, unacked_bytes=lambda link: unacked[0]
    )
    (lookup,) = of(ask(answers, *range(1, 21)), AskStore)
    unacked[0] = REPLAY_WINDOW_BYTES
    rows = {i: [row(1, 1, Verdict.SETTLED)] for i in lookup.ids}
    answers.store_answered(lookup.token, rows)
    assert drain(answers) == []
    unacked[0] = 0
    effects = drain(answers)
    assert states(effects) == [TaskState.SETTLED] * LOOKUP_CHUNK_MIN
    assert len(of(effects, AskStore)) == 1


def test_few_lookups_are_under_way_at_once_and_too_many_ids_are_put_off() -> None:
    answers = store()
    effects: list[Effect] = []
    for _ in range(10):
        effects += ask(answers, *range(1, 101))
    assert len(of(effects, AskStore)) == LOOKUPS_MAX
    effects = ask(answers, *range(1, LOOKUP_IDS_MAX))
    (message,) = sent(effects, States)[-1:]
    assert {record.state for record in message.states} == {TaskState.PENDING}
    assert message.states[0].info["why"] == (
        "a node has too many questions to answer at the moment"
    )


def test_question_of_a_peer_that_is_gone_is_dropped() -> None:
    answers = store()
    effects = ask(answers, *range(1, 101), watch=True)
    ask(answers, *range(1, 101))
    answers.link_down(ASKER)
    (lookup, *_) = of(effects, AskStore)
    answers.store_answered(lookup.token, {})
    assert of(drain(answers), AskStore) == []
    assert not answers.watchers


def test_watcher_is_told_of_what_is_stored_while_the_store_is_asked() -> None:
    """The store looked before its commit, and its answer came after the news of it."""
    answers = store()
    (lookup,) = of(ask(answers, 1, watch=True), AskStore)
    answers.stored([task_id(1)])
    answers.store_answered(lookup.token, {})
    effects = drain(answers)
    (again,) = of(effects, AskStore)
    answers.store_answered(again.token, {task_id(1): [row(1, 1, Verdict.SETTLED)]})
    assert TaskState.SETTLED in states(drain(answers))


def test_who_got_the_outcome_watches_no_more() -> None:
    answers = store()
    (lookup,) = of(ask(answers, 1, watch=True), AskStore)
    answers.store_answered(lookup.token, {task_id(1): [row(1, 1, Verdict.SETTLED)]})
    drain(answers)
    assert not answers.watchers


def test_watches_are_bounded_for_each_task() -> None:
    answers, dispatcher = owner()
    dispatcher.submit([Call(task_id(1), ADD, b"", None)], 0)
    for request in range(1, 3 * WATCHES_PER_TASK_MAX):
        for _ in range(2):
            answers.asked(ASKER, Query(request, [task_id(1)], True))
    watching = answers.watchers[task_id(1)]
    assert len(watching) == WATCHES_PER_TASK_MAX
    assert watching[-1] == (ASKER, 3 * WATCHES_PER_TASK_MAX - 1)


# --- what has gone to the disk --------------------------------------------------------------


def spilled() -> tuple[Answers, ResultLog, SpillRow]:
    """A worker with an outcome on its disk."""
    log = ResultLog("worker", has_disk=True)
    log.spill.state = SpillState(1, 100, 1)
    found = SpillRow(1, 2, 0, ADD, outcome(1), None, Verdict.SETTLED)
    return Answers(None, None, log, has_store=False), log, found


def test_outcome_on_the_disk_is_told() -> None:
    answers, _, found = spilled()
    effects = ask(answers, 1, 2)
    assert states(effects) == []
    (lookup,) = of(effects, SpillFind)
    answers.spill_found(lookup.token, [found])
    (message,) = sent(drain(answers), States)
    assert [record.state for record in message.states] == [TaskState.SETTLED, TaskState.UNKNOWN]
    assert message.states[0].outcome == found.outcome


def test_former_owner_that_asks_while_a_task_is_being_taken_over_is_told_when_it_settles() -> None:
    answers, _, _ = spilled()
    offered = {task_id(1): StateRecord(task_id(1), TaskState.PENDING, {"offer": 7}, None)}
    answers.others.append(offered.get)
    answers.asked(ASKER, Query(WATCH_REQUEST, [task_id(1)], True))
    (lookup,) = of(drain(answers), SpillFind)
    offered.clear()  # it has settled here
    answers.settled([outcome(1)])
    assert states(drain(answers)) == [TaskState.SETTLED]
    answers.spill_found(lookup.token, [])


def test_outcome_on_the_disk_has_the_verdict_that_came_later() -> None:
    answers, log, found = spilled()
    task = hold(record(1), ADD, OWNER_LINK, OWNER, KindStat(), None)
    log.append([Finished(task, Status.SUCCESS, 0, 1, b"value", "")], 0)
    log.entries[1].is_stub = True
    row_of_stub = found._replace(decision=Verdict.NONE, need=UNDECIDED)
    for verdict, expected in (
        (Verdict.NONE, TaskState.UNSETTLED),
        (Verdict.SETTLED, TaskState.SETTLED),
        (Verdict.REFUSED, TaskState.UNKNOWN),
    ):
        log.entries[1].decision = verdict
        (lookup,) = of(ask(answers, 1), SpillFind)
        answers.spill_found(lookup.token, [row_of_stub])
        assert states(drain(answers)) == [expected]


def test_disk_that_cannot_be_asked_lets_nobody_say_unknown() -> None:
    answers, _, _ = spilled()
    (lookup,) = of(ask(answers, 1), SpillFind)
    answers.spill_found(lookup.token, [], "too many lookups wait")
    assert states(drain(answers)) == [TaskState.PENDING]


def test_store_looks_on_its_disk_first() -> None:
    log = ResultLog("store", has_disk=True)
    log.spill.state = SpillState(1, 100, 1)
    answers = Answers(None, None, log, has_store=True)
    (lookup,) = of(ask(answers, 1, 2), SpillFind)
    found = SpillRow(1, 2, 0, ADD, outcome(1), None, Verdict.SETTLED)
    answers.spill_found(lookup.token, [found])
    (asked,) = of(drain(answers), AskStore)
    assert asked.ids == [task_id(2)]
    answers.store_answered(asked.token, {task_id(2): [row(2, 1, Verdict.SETTLED)]})
    assert states(drain(answers)) == [TaskState.SETTLED, TaskState.SETTLED]


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
