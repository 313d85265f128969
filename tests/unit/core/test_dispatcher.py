"""The owner's side: events in, messages and settled tasks out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.machines import (
    ADD,
    MUL,
    WORKER,
    hello,
    link_to,
    of,
    outcome,
    record,
    sent,
    task_id,
    worker_hello,
)
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher, to_ranges
from zmqtasks.core.effects import Effect, Note, RoomFreed, Send, TasksSettled
from zmqtasks.core.held import STRIKES_KEY
from zmqtasks.core.links import LinkId
from zmqtasks.limits import BATCH_COUNT_MAX, BLOB_BYTES_MIN, STRIKES_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Credit,
    Demand,
    Done,
    Kind,
    Outcome,
    Reject,
    RejectCode,
    Replay,
    Results,
    Settled,
    Started,
    Status,
    Submit,
    Submitted,
    TaskRecord,
    Tasks,
    TaskState,
)

LINK = link_to(WORKER, "in")
SPARE = link_to(WORKER, "out")
SECOND = link_to(b"worker-2", "in")


def call(number: int, kind: Kind = ADD, body: bytes = b"args") -> Call:
    return Call(task_id(number), kind, body, None)


class Owner:
    """A dispatcher and what it wants done."""

    def __init__(self, tasks_max: int = 1_000) -> None:
        self.machine = Dispatcher(tasks_max, 1 << 30)

    def turn(self, now_ms: int = 0) -> list[Effect]:
        self.machine.flush(now_ms)
        effects, self.machine.effects = self.machine.effects, []
        return effects

    def worker(self, link: LinkId = LINK, credit: int = 10, kinds: Sequence[Kind] = (ADD,)) -> None:
        self.machine.link_up(link, worker_hello(link.peer[1:9], kinds=kinds))
        self.machine.received(link, Credit(credit), 0)

    def submit(self, *numbers: int, kind: Kind = ADD) -> None:
        self.machine.submit([call(number, kind) for number in numbers], 0)

    def done(self, *outcomes: Outcome, link: LinkId = LINK, limit: int = 0) -> list[Effect]:
        self.machine.received(link, Done(limit, list(outcomes)), 0)
        return self.turn()

    def reject(self, number: int, attempt: int, code: RejectCode) -> list[Effect]:
        message = Reject([(task_id(number), attempt, code)], "the reason", 0)
        self.machine.received(LINK, message, 0)
        return self.turn()


@pytest.fixture
def owner() -> Owner:
    return Owner()


def numbers(messages: Sequence[Tasks]) -> list[tuple[int, int]]:
    """``(task number, attempt)`` in the order of sending."""
    return [
        (int.from_bytes(task.id[8:], "big"), task.attempt)
        for message in messages
        for task in message.tasks
    ]


def settled(effects: Sequence[Effect]) -> list[Outcome]:
    return [outcome for effect in of(effects, TasksSettled) for outcome in effect.outcomes]


# --- dispatching --------------------------------------------------------------------------


def test_tasks_wait_for_a_worker_and_its_credit(owner: Owner) -> None:
    owner.submit(1, 2, 3)
    assert sent(owner.turn(), Tasks) == []
    owner.worker(credit=2)
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 1), (2, 1)]
    owner.machine.received(LINK, Credit(3), 0)
    assert numbers(sent(owner.turn(), Tasks)) == [(3, 1)]


def test_credit_is_absolute_so_late_or_repeated_news_does_no_harm(owner: Owner) -> None:
    owner.worker(credit=2)
    for limit in (2, 1, 2, 0):
        owner.machine.received(LINK, Credit(limit), 0)
    owner.submit(1, 2, 3)
    assert len(numbers(sent(owner.turn(), Tasks))) == 2


def test_tasks_go_only_where_app_name_queue_and_signature_match(owner: Owner) -> None:
    owner.worker()
    owner.submit(1, kind=Kind("shop", ADD.name, "another digest", "default"))
    owner.submit(2, kind=Kind("bank", ADD.name, ADD.digest, ADD.queue))
    owner.submit(3, kind=Kind("shop", ADD.name, ADD.digest, "slow"))
    owner.submit(4, kind=MUL)
    owner.submit(5, kind=Kind("shop", ADD.name, "", "default"))  # digest not known: any
    assert numbers(sent(owner.turn(), Tasks)) == [(5, 1)]


def test_many_tasks_make_one_message_with_their_kind_named_once(owner: Owner) -> None:
    owner.worker(credit=100, kinds=(ADD, MUL))
    owner.submit(*range(1, 21))
    owner.submit(*range(21, 31), kind=MUL)
    (message,) = sent(owner.turn(), Tasks)
    assert len(message.tasks) == 30
    assert sorted(kind.name for kind in message.kinds) == [ADD.name, MUL.name]


def test_messages_are_bounded_in_tasks_bytes_and_frames(owner: Owner) -> None:
    owner.worker(credit=1_000)
    owner.submit(*range(1, BATCH_COUNT_MAX + 2))
    assert [len(m.tasks) for m in sent(owner.turn(), Tasks)] == [BATCH_COUNT_MAX, 1]
    large = b"x" * (BLOB_BYTES_MIN + 1)
    owner.machine.submit([call(number, body=large) for number in range(1_000, 1_020)], 0)
    messages = sent(owner.turn(), Tasks)
    assert sum(len(message.tasks) for message in messages) == 20
    for message in messages:
        assert codec.decode(codec.encode(message))[1] == message


def test_idle_workers_share(owner: Owner) -> None:
    owner.worker(credit=10)
    owner.worker(SECOND, credit=10)
    owner.submit(1, 2, 3, 4)
    sizes = [len(e.message.tasks) for e in of(owner.turn(), Send) if isinstance(e.message, Tasks)]
    assert sorted(sizes) == [2, 2]


def test_kinds_share_the_credit(owner: Owner) -> None:
    owner.worker(credit=4, kinds=(ADD, MUL))
    owner.submit(*range(1, 101))
    owner.submit(101, 102, kind=MUL)
    given = [number for number, _ in numbers(sent(owner.turn(), Tasks))]
    assert {101, 102} <= set(given)


def test_paused_worker_gets_no_new_work_and_keeps_what_it_has(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.machine.link_paused(LINK, True)
    owner.submit(2)
    assert sent(owner.turn(), Tasks) == []
    owner.machine.link_paused(LINK, False)
    assert numbers(sent(owner.turn(), Tasks)) == [(2, 1)]


def test_waiting_tasks_are_announced_as_demand_and_their_end_too(owner: Owner) -> None:
    owner.worker(credit=1)
    owner.submit(*range(1, 11))
    assert [demand.backlog for demand in sent(owner.turn(), Demand)] == [9]
    owner.machine.received(LINK, Credit(20), 0)
    assert [demand.backlog for demand in sent(owner.turn(), Demand)] == [0]


def test_task_id_seen_before_means_the_same_task(owner: Owner) -> None:
    owner.worker()
    owner.submit(1, 1)
    assert len(numbers(sent(owner.turn(), Tasks))) == 1
    owner.done(outcome(1))
    owner.submit(1)
    effects = owner.turn()
    assert sent(effects, Tasks) == []
    assert [o.id for o in settled(effects)] == [task_id(1)]


def test_call_of_a_task_under_the_id_of_another_one_is_refused(owner: Owner) -> None:
    owner.worker()

    def submitted(digest: bytes) -> str:
        chosen = TaskRecord(0, task_id(1), 1, b"args", {"c": digest})
        owner.machine.received(LINK, Submit(4, task_id(9), [ADD], [chosen]), 0)
        [answer] = sent(owner.turn(), Submitted)
        return answer.refused

    assert submitted(b"content") == ""
    assert submitted(b"content") == ""
    assert "belongs to a call with other content" in submitted(b"another")
    ended = outcome(1)
    ended.ext = {"c": b"content"}
    owner.done(ended)
    assert "belongs to a call with other content" in submitted(b"another")
    assert submitted(b"content") == ""


def test_open_tasks_are_bounded_and_room_is_told() -> None:
    owner = Owner(tasks_max=2)
    owner.worker()
    owner.submit(1, 2)
    assert not owner.machine.has_room
    owner.turn()
    assert of(owner.done(outcome(1)), RoomFreed) == [RoomFreed()]
    assert owner.machine.has_room


# --- settling -----------------------------------------------------------------------------


def test_outcome_settles_the_task_and_is_acknowledged(owner: Owner) -> None:
    owner.worker()
    owner.submit(1, 2, 3)
    owner.turn()
    effects = owner.done(
        outcome(1, position=1), outcome(2, position=2), outcome(3, position=4), limit=20
    )
    assert [o.body for o in settled(effects)] == [b"value"] * 3
    assert sent(effects, Settled) == [Settled([(1, 2), (4, 4)], [])]
    assert not owner.machine.tasks
    assert owner.machine.open_bytes == 0
    assert owner.machine.workers[LINK].limit == 20


def test_repeated_outcome_is_acknowledged_again_and_settles_nothing(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.done(outcome(1))
    effects = owner.done(outcome(1))
    assert settled(effects) == []
    assert sent(effects, Settled) == [Settled([(1, 1)], [])]


def test_outcome_of_an_attempt_that_was_given_up_is_refused(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.machine.link_down(LINK, "silent")
    owner.worker()
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 2)]
    effects = owner.done(outcome(1, attempt=1, position=7))
    assert settled(effects) == []
    assert sent(effects, Settled) == [Settled([], [7])]
    assert settled(owner.done(outcome(1, attempt=2, position=8)))
    effects = owner.done(outcome(1, attempt=1, position=7))
    assert sent(effects, Settled) == [Settled([], [7])], "after settling as well"


def test_outcome_of_a_task_that_nobody_knows_is_said_to_be_unknown(owner: Owner) -> None:
    """Its worker would report it for ever, and wait for the verdict before it leaves."""
    owner.worker()
    effects = owner.done(outcome(1, position=7))
    assert sent(effects, Settled) == [Settled([], [], [7])]


def test_two_attempts_reported_in_one_message_settle_once(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    effects = owner.done(outcome(1, attempt=1, position=1), outcome(1, attempt=2, position=2))
    assert len(settled(effects)) == 1
    assert sent(effects, Settled) == [Settled([(1, 1)], [2])]


def test_large_result_is_fetched_before_the_task_settles(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    effects = owner.done(outcome(1, position=5, body=None, size=100_000))
    assert settled(effects) == []
    assert sent(effects, Replay) == [Replay(5, 5, True)]
    fetched = outcome(1, position=5, body=b"x" * 100_000)
    owner.machine.received(LINK, Results([ADD], [fetched], [], 5, 5, True), 0)
    effects = owner.turn()
    assert settled(effects) == [fetched]
    assert sent(effects, Settled) == [Settled([(5, 5)], [])]


def test_worker_lost_while_its_large_result_is_fetched(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.done(outcome(1, position=5, body=None, size=100_000))
    owner.machine.link_down(LINK, "gone")
    owner.worker(SECOND)
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 2)]


# --- losing workers -----------------------------------------------------------------------


def test_lost_worker_s_tasks_come_first_in_their_order_with_the_next_attempt(
    owner: Owner,
) -> None:
    owner.worker(credit=2)
    owner.submit(1, 2, 3)
    owner.turn()
    owner.machine.link_down(LINK, "gone")
    owner.worker(SECOND)
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 2), (2, 2), (3, 1)]
    assert owner.machine.redelivered_count == 2


@pytest.mark.parametrize(("reason", "is_strike"), [
    ("gone", True), ("silent", True), ("replaced", True), ("reset", False), ("left", False),
])  # fmt: skip
def test_only_tasks_seen_running_on_a_lost_worker_get_a_strike(
    owner: Owner, reason: str, is_strike: bool
) -> None:
    owner.worker()
    owner.submit(1, 2)
    owner.turn()
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 0)
    owner.machine.link_down(LINK, reason)
    tasks = owner.machine.tasks
    assert [tasks[task_id(n)].strikes for n in (1, 2)] == [int(is_strike), 0]


def test_task_that_killed_three_children_is_dead(owner: Owner) -> None:
    owner.worker(credit=100)
    owner.submit(1)
    effects: list[Effect] = []
    for attempt in range(1, STRIKES_MAX + 1):
        owner.turn()
        assert owner.machine.tasks[task_id(1)].attempt == attempt
        effects = owner.reject(1, attempt, RejectCode.CHILD_DIED_RUNNING)
    (dead,) = settled(effects)
    assert dead.status == Status.DEAD
    assert dead.attempt == STRIKES_MAX + 1, "the last attempt's own outcome may still come"
    assert owner.machine.own_outcomes[0][1] is dead
    late = owner.done(outcome(1, attempt=STRIKES_MAX, position=3))
    assert sent(late, Settled) == [Settled([], [3])]


def test_task_that_waited_behind_a_killer_never_gets_a_strike(owner: Owner) -> None:
    owner.worker(credit=100)
    owner.submit(1)
    for attempt in range(1, 2 * STRIKES_MAX):
        owner.turn()
        owner.reject(1, attempt, RejectCode.CHILD_DIED)
    assert owner.machine.tasks[task_id(1)].strikes == 0


def test_task_that_was_among_those_in_a_dead_child_is_a_suspect_without_a_strike(
    owner: Owner,
) -> None:
    owner.worker(credit=100)
    owner.submit(1)
    for attempt in range(1, 2 * STRIKES_MAX):
        owner.turn()
        (again,) = sent(owner.reject(1, attempt, RejectCode.CHILD_DIED_AMONG), Tasks)
        assert again.tasks[0].ext == {STRIKES_KEY: 0}
    # Now it is known to have done it.
    (again,) = sent(owner.reject(1, 2 * STRIKES_MAX, RejectCode.CHILD_DIED_RUNNING), Tasks)
    assert again.tasks[0].ext == {STRIKES_KEY: 1}


def test_second_link_to_a_worker_is_a_spare_that_takes_over_with_its_credit(
    owner: Owner,
) -> None:
    owner.worker(LINK, credit=5)
    owner.worker(SPARE, credit=7)
    owner.submit(1)
    (send,) = [e for e in of(owner.turn(), Send) if isinstance(e.message, Tasks)]
    assert send.link == LINK
    owner.machine.link_down(LINK, "reset")
    (send,) = [e for e in of(owner.turn(), Send) if isinstance(e.message, Tasks)]
    assert send.link == SPARE
    assert owner.machine.workers[SPARE].limit == 7


def test_outcome_counts_on_whichever_link_to_its_worker_it_comes(owner: Owner) -> None:
    owner.worker(LINK)
    owner.worker(SPARE)
    owner.submit(1)
    owner.turn()
    assert settled(owner.done(outcome(1), link=SPARE))


def test_outcome_from_another_worker_than_the_holder_is_refused(owner: Owner) -> None:
    owner.worker(LINK)
    owner.worker(SECOND, credit=0)
    owner.submit(1)
    owner.turn()
    assert settled(owner.done(outcome(1), link=SECOND)) == []


def test_an_heir_takes_the_outcome_of_the_same_attempt_that_a_former_owner_gave_away(
    owner: Owner,
) -> None:
    owner.worker(LINK)
    owner.worker(SECOND, credit=0)
    owner.machine.is_heir = True
    owner.submit(1)
    owner.turn()
    assert settled(owner.done(outcome(1), link=SECOND))
    assert not owner.machine.workers[LINK].held
    assert settled(owner.done(outcome(1), link=LINK)) == []


def test_what_no_store_has_of_a_lost_worker_is_published_by_the_owner(owner: Owner) -> None:
    owner.worker()
    owner.submit(1, 2)
    owner.turn()
    owner.done(outcome(1, position=1), outcome(2, position=2))
    owner.machine.stored(LINK, 1)
    owner.machine.link_down(LINK, "gone")
    assert [(kind, o.id) for kind, o in owner.machine.own_outcomes] == [(ADD, task_id(2))]


# --- tasks given back ---------------------------------------------------------------------


@pytest.mark.parametrize("code", [RejectCode.BUSY, RejectCode.DRAINING, RejectCode.LEASE])
def test_task_that_never_started_goes_elsewhere_as_the_same_attempt(
    owner: Owner, code: RejectCode
) -> None:
    owner.worker(credit=1)
    owner.submit(1)
    owner.turn()
    owner.reject(1, 1, code)
    owner.worker(SECOND)
    assert numbers(sent(owner.turn(), Tasks)) == [(1, 1)]


def test_worker_that_does_not_know_a_task_is_not_asked_again(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    effects = owner.reject(1, 1, RejectCode.UNKNOWN_TASK)
    assert sent(effects, Tasks) == []
    assert [note.event for note in of(effects, Note)] == ["task.refused"]


@pytest.mark.parametrize("code", [RejectCode.BAD, RejectCode.UNSUPPORTED])
def test_task_that_no_worker_can_take_fails_with_the_reason(owner: Owner, code: RejectCode) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    (failed,) = settled(owner.reject(1, 1, code))
    assert failed.status == Status.FAILURE
    assert failed.ext is not None
    assert failed.ext["e"] == "the reason"


def test_late_rejection_of_an_earlier_attempt_changes_nothing(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.machine.link_down(LINK, "reset")
    owner.worker()
    owner.turn()
    effects = owner.reject(1, 1, RejectCode.LEASE)
    assert sent(effects, Tasks) == []
    assert owner.machine.tasks[task_id(1)].attempt == 2


# --- submitting from tasks ----------------------------------------------------------------


def test_task_submitted_by_a_task_is_owned_before_its_parent_may_go_on(owner: Owner) -> None:
    owner.worker()
    message = Submit(4, task_id(9), [ADD], [record(1), record(2)])
    owner.machine.received(LINK, message, 0)
    effects = owner.turn()
    assert sent(effects, Submitted) == [Submitted(4, "")]
    assert numbers(sent(effects, Tasks)) == [(1, 1), (2, 1)]


def test_full_owner_refuses_what_tasks_submit() -> None:
    owner = Owner(tasks_max=1)
    owner.worker(credit=0)
    owner.submit(1)
    owner.machine.received(LINK, Submit(4, task_id(9), [ADD], [record(2)]), 0)
    (answer,) = sent(owner.turn(), Submitted)
    assert "1 open tasks" in answer.refused


def test_submission_with_a_kind_that_is_not_there_is_refused(owner: Owner) -> None:
    owner.worker()
    owner.machine.received(LINK, Submit(4, task_id(9), [], [record(1)]), 0)
    owner.machine.received(LINK, Submit(5, task_id(9), [ADD], [record(1, kind=-1)]), 0)
    answers = sent(owner.turn(), Submitted)
    assert [bool(answer.refused) for answer in answers] == [True, True]
    assert not owner.machine.tasks


# --- what people see ----------------------------------------------------------------------


def test_task_that_nobody_can_run_is_warned_of_once_with_the_reason(owner: Owner) -> None:
    owner.submit(1)
    owner.turn(100)
    deadline_ms = owner.machine.next_deadline_ms()
    assert deadline_ms is not None
    owner.machine.tick(deadline_ms)
    (note,) = of(owner.turn(deadline_ms), Note)
    assert ADD.name in note.text
    assert "no worker is in sight" in note.text
    for now_ms in range(deadline_ms, deadline_ms + 10_000, 1_000):
        owner.machine.tick(now_ms)
        assert of(owner.turn(now_ms), Note) == []


def test_states_of_tasks(owner: Owner) -> None:
    owner.submit(1)
    waiting = owner.machine.state_of(task_id(1))
    assert waiting is not None
    assert waiting.state == TaskState.PENDING
    assert "no worker" in waiting.info["why"]
    owner.worker()
    owner.turn()
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 0)
    running = owner.machine.state_of(task_id(1))
    assert running is not None
    assert running.state == TaskState.STARTED
    owner.done(outcome(1))
    ended = owner.machine.state_of(task_id(1))
    assert ended is not None
    assert ended.state == TaskState.SETTLED
    assert owner.machine.state_of(task_id(2)) is None


def test_peers_without_slots_are_no_workers(owner: Owner) -> None:
    owner.machine.link_up(LINK, hello(WORKER, "store"))
    owner.machine.link_up(SECOND, hello(b"worker-2", "worker", slots=0, kinds=(ADD,)))
    assert not owner.machine.workers


@pytest.mark.parametrize(("positions", "ranges"), [
    ([], []),
    ([3], [(3, 3)]),
    ([3, 1, 2], [(1, 3)]),
    ([5, 1, 2, 2, 7], [(1, 2), (5, 5), (7, 7)]),
])  # fmt: skip
def test_ranges_cover_exactly_the_positions(
    positions: list[int], ranges: list[tuple[int, int]]
) -> None:
    assert to_ranges(positions) == ranges


def test_a_worker_is_told_of_the_strikes_of_a_task_that_it_gets(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    (first,) = sent(owner.turn(), Tasks)
    (again,) = sent(owner.reject(1, 1, RejectCode.CHILD_DIED_RUNNING), Tasks)
    assert [message.tasks[0].ext for message in (first, again)] == [None, {STRIKES_KEY: 1}]


def test_a_result_that_its_worker_has_lost_is_computed_again(owner: Owner) -> None:
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.done(outcome(1, body=None, size=100_000, position=7))
    owner.machine.received(LINK, Results([], [], [], 7, 7, True), 0)
    (again,) = sent(owner.turn(), Tasks)
    assert [(task.id, task.attempt) for task in again.tasks] == [(task_id(1), 2)]


def test_what_was_given_away_is_decided_by_its_taker(owner: Owner) -> None:
    """Not by its former owner: to all others it says that their attempt is void, to the taker
    that it does not wait for a verdict from here."""
    owner.worker()
    owner.machine.link_up(SECOND, worker_hello(b"worker-2"))
    owner.machine.taker_of = lambda task_id: WORKER
    (message,) = sent(owner.done(outcome(1)), Settled)
    assert (message.ranges, message.refused, message.unknown) == ([], [], [1])
    (message,) = sent(owner.done(outcome(1), link=SECOND), Settled)
    assert (message.ranges, message.refused, message.unknown) == ([], [1], [])
