"""The worker's side: what it accepts, how it feeds its slots, what it gives back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from tests.support.machines import ADD, MUL, OWNER, entry, hello, link_to, of, record, sent, task_id
from zmqtasks.core.effects import AnswerSlot, Effect, Note, RunInSlot
from zmqtasks.core.held import STRIKES_KEY, SlotOutcome
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import LinkId
from zmqtasks.limits import STARTED_REPORT_MS
from zmqtasks.wire.messages import (
    Credit,
    Demand,
    Kind,
    Reject,
    RejectCode,
    Started,
    Submit,
    Submitted,
    TaskRecord,
    Tasks,
)

LINK = link_to(OWNER, "in")
OTHER = link_to(b"produce2", "in")


class Worker:
    """An intake that serves ADD, and what it wants done."""

    def __init__(self, slots: int = 2) -> None:
        self.machine = Intake(["default"], [entry(ADD), entry(MUL)], slots)
        for number in range(slots):
            self.machine.slot_ready(number)
        self.link_up()
        self.turn()

    def link_up(self, link: LinkId = LINK) -> None:
        self.machine.link_up(link, hello(link.peer[1:9], "producer"))

    def turn(self, now_ms: int = 0) -> list[Effect]:
        self.machine.feed(now_ms)
        self.machine.flush()
        self.machine.deal_credit()
        effects, self.machine.effects = self.machine.effects, []
        return effects

    def give(
        self, *records: TaskRecord, kinds: Sequence[Kind] = (ADD,), link: LinkId = LINK,
        now_ms: int = 0,
    ) -> list[Effect]:  # fmt: skip
        self.machine.received(link, Tasks(list(kinds), list(records)), now_ms)
        return self.turn(now_ms)

    def ended(
        self, slot: int, *numbers: int, run_us: int = 1_000, attempt: int = 1
    ) -> list[Effect]:
        outcomes = [SlotOutcome(task_id(n), attempt, 0, 0, run_us, b"v", "") for n in numbers]
        self.machine.slot_done(slot, outcomes, 0)
        return self.turn()


def running(effects: Sequence[Effect]) -> dict[int, list[int]]:
    """{slot: numbers of the tasks handed to it}."""
    return {
        effect.slot: [int.from_bytes(task.id[8:], "big") for task in effect.tasks]
        for effect in of(effects, RunInSlot)
    }


def codes(effects: Sequence[Effect]) -> list[tuple[int, int, int]]:
    """``(task number, attempt, code)`` of all that is given back."""
    return [
        (int.from_bytes(task[8:], "big"), attempt, code)
        for message in sent(effects, Reject)
        for task, attempt, code in message.tasks
    ]


# --- accepting ----------------------------------------------------------------------------


def test_tasks_run_in_the_order_in_which_they_came() -> None:
    worker = Worker(slots=1)
    assert running(worker.give(record(1), record(2), record(3))) == {0: [1]}
    assert running(worker.ended(0, 1, run_us=300_000)) == {0: [2]}
    assert [finished.task.id for finished in worker.machine.finished] == [task_id(1)]


def test_slots_share() -> None:
    worker = Worker(slots=2)
    assert running(worker.give(record(1), record(2), record(3))) == {0: [1], 1: [2]}


def test_short_tasks_go_in_batches_once_their_length_is_known() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=10)
    handed = running(worker.give(*[record(n) for n in range(2, 60)]))
    assert len(handed[0]) > 20


def test_nothing_waits_in_a_slot_behind_a_kind_of_which_some_take_long() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=60_000_000)
    for number in range(2, 100):  # the mean has long forgotten it
        assert running(worker.give(record(number))) == {0: [number]}
        worker.ended(0, number, run_us=10)
    assert running(worker.give(record(100), record(101))) == {0: [100]}


def test_one_long_run_is_forgotten_after_many_short_ones() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=1_000_000)
    for number in range(2, 700):
        worker.give(record(number))
        worker.ended(0, number, run_us=10)
    assert len(running(worker.give(*[record(n) for n in range(700, 720)]))[0]) > 10


def test_short_tasks_with_large_results_do_not_fill_the_memory() -> None:
    """256 of them went to a slot at once, however large what they returned."""
    worker = Worker(slots=1)
    worker.give(record(1))
    large = SlotOutcome(task_id(1), 1, 0, 0, 10, b"x" * 1_000_000, "")
    worker.machine.slot_done(0, [large], 0)
    handed = running(worker.give(*[record(n) for n in range(2, 60)]))
    assert len(handed[0]) <= 2


def test_a_task_whose_worker_or_child_died_while_it_ran_runs_alone() -> None:
    """It may be what killed them; no other shall share its fate."""
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=10)
    suspect = record(2, attempt=2)
    suspect.ext = {STRIKES_KEY: 1}
    assert running(worker.give(suspect, record(3))) == {0: [2]}
    assert running(worker.ended(0, 2, attempt=2, run_us=10)) == {0: [3]}


def test_a_task_that_is_merely_given_again_shares_a_slot() -> None:
    """As all tasks of an owner after its restart do."""
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=10)
    assert running(worker.give(record(2, attempt=2), record(3, attempt=2))) == {0: [2, 3]}


@pytest.mark.parametrize(("kind", "code"), [
    (Kind("shop", "tasks.add", "d1", "elsewhere"), RejectCode.NO_QUEUE),
    (Kind("shop", "tasks.nothing", "", "default"), RejectCode.UNKNOWN_TASK),
    (Kind("bank", "tasks.add", "d1", "default"), RejectCode.UNKNOWN_TASK),
    (Kind("shop", "tasks.add", "another", "default"), RejectCode.UNKNOWN_TASK),
    (Kind("shop", "tasks.add", "d1", "default", (("!new", 1),)), RejectCode.UNSUPPORTED),
])  # fmt: skip
def test_tasks_that_cannot_run_here_go_back(kind: Kind, code: RejectCode) -> None:
    effects = Worker().give(record(1), kinds=[kind])
    assert codes(effects) == [(1, 1, code)]
    assert running(effects) == {}


def test_unknown_optional_facts_are_ignored_and_required_ones_refused() -> None:
    worker = Worker()
    known = TaskRecord(0, task_id(1), 1, b"", {"later": 1})
    required = TaskRecord(0, task_id(2), 1, b"", {"!later": 1})
    effects = worker.give(known, required)
    assert running(effects) == {0: [1]}
    assert codes(effects) == [(2, 1, RejectCode.UNSUPPORTED)]


@pytest.mark.parametrize("index", [-1, 1, 99])
def test_task_of_a_kind_that_is_not_in_the_message_goes_back(index: int) -> None:
    assert codes(Worker().give(record(1, kind=index))) == [(1, 1, RejectCode.BAD)]


def test_peers_that_give_no_tasks_get_no_credit() -> None:
    worker = Worker()
    worker.machine.link_up(OTHER, hello(b"produce2", "store"))
    assert list(worker.machine.givers) == [LINK]


# --- credit -------------------------------------------------------------------------------


def credits(effects: Sequence[Effect]) -> list[int]:
    return [message.limit for message in sent(effects, Credit)]


def test_everybody_gets_some_credit_at_once_and_more_on_demand() -> None:
    worker = Worker(slots=4)
    first = worker.machine.givers[LINK].told
    assert first >= 1
    worker.machine.received(LINK, Demand(1_000), 0)
    worker.turn()
    assert worker.machine.givers[LINK].told >= 4


def test_credit_never_shrinks_and_follows_what_is_finished() -> None:
    worker = Worker(slots=1)
    worker.machine.received(LINK, Demand(1_000), 0)
    told = [worker.machine.givers[LINK].told]
    for number in range(1, 20):
        worker.give(record(number))
        worker.ended(0, number, run_us=300_000)
        told.append(worker.machine.givers[LINK].told)
        assert worker.machine.givers[LINK].received <= told[-1]
    assert told == sorted(told)
    assert told[-1] >= 20


def test_given_back_tasks_free_their_credit() -> None:
    worker = Worker(slots=1)
    unknown = Kind("shop", "tasks.nothing", "", "default")
    for number in range(1, 30):
        effects = worker.give(record(number), kinds=[unknown])
        assert codes(effects)
    giver = worker.machine.givers[LINK]
    assert giver.finished == giver.received == 29
    assert giver.told > 29


def test_owner_that_joins_gets_its_share_as_others_finish() -> None:
    worker = Worker(slots=4)
    alone = worker.machine.givers[LINK].told
    worker.link_up(OTHER)
    worker.turn()
    assert worker.machine.givers[OTHER].told == 2, "some at once, since it gives tasks"
    for link in (LINK, OTHER):
        worker.machine.received(link, Demand(1_000), 0)
    worker.turn()
    assert worker.machine.givers[LINK].told == alone, "what was granted stays granted"


def test_finished_task_of_an_earlier_session_frees_no_credit_of_the_new_one() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.link_down(LINK)
    worker.link_up()
    worker.ended(0, 1)
    assert worker.machine.givers[LINK].finished == 0
    assert len(worker.machine.finished) == 1, "it is reported nevertheless"


# --- giving back --------------------------------------------------------------------------


def test_lost_lease_gives_back_what_has_not_started() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    worker.machine.lease_changed(LINK, False)
    effects = worker.turn()
    assert codes(effects) == [(2, 1, RejectCode.LEASE)]
    assert worker.machine.running_count == 1, "what runs goes on"


def test_without_a_lease_nothing_is_accepted_and_no_credit_dealt() -> None:
    worker = Worker(slots=1)
    worker.machine.received(LINK, Demand(100), 0)
    worker.turn()
    worker.machine.lease_changed(LINK, False)
    effects = worker.give(record(1))
    assert codes(effects) == [(1, 1, RejectCode.LEASE)]
    assert credits(effects) == []
    worker.machine.lease_changed(LINK, True)
    assert credits(worker.turn())
    assert running(worker.give(record(2))) == {0: [2]}


def test_draining_gives_back_what_has_not_started_and_accepts_nothing() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    worker.machine.drain()
    assert codes(worker.turn()) == [(2, 1, RejectCode.DRAINING)]
    effects = worker.give(record(3))
    assert codes(effects) == [(3, 1, RejectCode.DRAINING)]
    assert credits(effects) == []


def test_draining_still_counts_what_runs() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    worker.machine.drain()
    assert worker.machine.held_bytes == len(b"args")
    worker.ended(0, 1)
    assert worker.machine.held_bytes == 0


def test_lost_owner_takes_its_waiting_tasks_with_it() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    worker.machine.link_down(LINK)
    effects = worker.ended(0, 1)
    assert running(effects) == {}
    assert worker.machine.held_bytes == 0
    assert len(worker.machine.finished) == 1


def test_answers_that_a_slot_was_not_asked_for_are_reported_and_dropped() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    effects = worker.ended(0, 7) + worker.ended(0, 1, attempt=2)
    assert [note.event for note in of(effects, Note)] == ["slot.disorder"] * 2
    worker.ended(0, 1)
    assert [note.event for note in of(worker.ended(0, 1), Note)] == ["slot.disorder"]
    assert len(worker.machine.finished) == 1


def test_dead_child_gives_back_its_tasks_and_only_the_first_ran() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=10)
    worker.give(record(2), record(3), record(4))
    worker.machine.slot_died(0, "signal 9")
    assert codes(worker.turn()) == [
        (2, 1, RejectCode.CHILD_DIED_RUNNING),
        (3, 1, RejectCode.CHILD_DIED),
        (4, 1, RejectCode.CHILD_DIED),
    ]
    worker.machine.slot_ready(0)
    assert running(worker.give(record(5))) == {0: [5]}


def test_dead_child_gives_back_those_that_ended_or_had_not_begun_without_blame() -> None:
    """The first was blamed, whichever ran; one that must not run twice could."""
    once = msgspec.structs.replace(ADD, ext=(("idem", 0),))
    worker = Worker(slots=1)
    for kind in (ADD, once):
        worker.give(record(1), kinds=[kind])
        worker.ended(0, 1, run_us=10)
    worker.give(record(2), record(3, kind=1), record(4), record(5, kind=1), kinds=[ADD, once])
    worker.machine.slot_died(0, "signal 9", 2, True)
    assert codes(worker.turn()) == [
        (2, 1, RejectCode.CHILD_DIED),
        (3, 1, RejectCode.CHILD_DIED_RUNNING),
        (4, 1, RejectCode.CHILD_DIED_RUNNING),
        (5, 1, RejectCode.CHILD_DIED),
    ]


def test_child_with_several_running_tasks_makes_suspects_of_those_that_may_run_again() -> None:
    once = msgspec.structs.replace(ADD, ext=(("idem", 0),))
    worker = Worker(slots=2)
    worker.give(record(1), record(2, kind=1), kinds=[ADD, once])
    for slot in (0, 1):
        worker.machine.slot_died(slot, "signal 9", 0, True, False)
    assert sorted(codes(worker.turn())) == [
        (1, 1, RejectCode.CHILD_DIED_AMONG),
        (2, 1, RejectCode.CHILD_DIED_RUNNING),
    ]


def test_child_that_died_between_two_tasks_blames_none() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=10)
    worker.give(record(2), record(3))
    worker.machine.slot_died(0, "signal 9", 0, False)
    effects = worker.turn()
    assert {code for _, _, code in codes(effects)} == {RejectCode.CHILD_DIED}
    assert of(effects, Note) == []


def test_outcome_of_a_task_ended_by_force_overtakes_those_lost_with_its_process() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.ended(0, 1, run_us=10)
    worker.give(record(2), record(3), record(4))
    worker.ended(0, 3)
    worker.machine.slot_died(0, "ended", 1, False)
    assert codes(worker.turn()) == [(2, 1, RejectCode.CHILD_DIED), (4, 1, RejectCode.CHILD_DIED)]
    assert [finished.task.id for finished in worker.machine.finished] == [task_id(1), task_id(3)]


def test_slot_that_goes_gets_no_more_and_ends_what_it_has() -> None:
    worker = Worker(slots=2)
    worker.give(record(1))
    (busy,) = [number for number, state in worker.machine.slots.items() if state.pending]
    worker.machine.slot_gone(busy)
    assert running(worker.give(record(2), record(3))) == {1 - busy: [2]}
    assert worker.machine.load() == (1, 1)
    assert running(worker.ended(busy, 1)) == {}
    assert set(worker.machine.slots) == {1 - busy}
    assert len(worker.machine.finished) == 1


def test_slot_that_goes_with_nothing_to_do_is_gone_at_once() -> None:
    worker = Worker(slots=2)
    worker.machine.slot_gone(1)
    worker.machine.slot_gone(7)
    assert set(worker.machine.slots) == {0}


def test_dead_child_s_task_of_an_earlier_session_is_not_given_back() -> None:
    """Its owner gave it up with that session."""
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.link_down(LINK)
    worker.link_up()
    worker.machine.slot_died(0, "signal 9")
    assert codes(worker.turn()) == []


# --- time limits --------------------------------------------------------------------------


def test_hard_limit_that_the_pool_cannot_keep_is_refused() -> None:
    worker = Worker(slots=1)
    worker.machine.can = ["soft_limit"]
    hard, soft, odd, later = (record(n) for n in (1, 2, 3, 4))
    hard.ext, soft.ext, odd.ext = {"tl": [0, 5_000]}, {"tl": [5_000, 0]}, {"tl": 1}
    later.ext = hard.ext
    effects = worker.give(hard, soft, odd)
    assert codes(effects) == [(1, 1, RejectCode.UNSUPPORTED)]
    assert running(effects) == {0: [2]}
    worker.machine.can = ["hard_limit", "soft_limit"]
    assert codes(worker.give(later)) == []


# --- started ------------------------------------------------------------------------------


def test_only_tasks_that_run_for_a_while_are_reported_started() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), now_ms=100)
    assert worker.machine.next_deadline_ms() == 100 + STARTED_REPORT_MS
    worker.machine.tick(100 + STARTED_REPORT_MS - 1)
    assert sent(worker.turn(), Started) == []
    worker.machine.tick(100 + STARTED_REPORT_MS)
    assert sent(worker.turn(), Started) == [Started([(task_id(1), 1)])]
    worker.machine.tick(100 + 5 * STARTED_REPORT_MS)
    assert sent(worker.turn(), Started) == [], "once"
    assert worker.machine.next_deadline_ms() is None


def test_task_and_whether_it_runs_is_found() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    found = [worker.machine.find(task_id(n)) for n in (1, 2, 3)]
    assert [item and item[1] for item in found] == [True, False, None]


# --- submitting from tasks ----------------------------------------------------------------


def test_submission_of_a_running_task_waits_for_its_owner() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    message = Submit(0, task_id(1), [MUL], [record(9)])
    worker.machine.slot_submits(0, 77, task_id(1), 1, message)
    effects = worker.turn()
    assert of(effects, AnswerSlot) == []
    (submit,) = sent(effects, Submit)
    worker.machine.received(LINK, Submitted(submit.request, ""), 0)
    assert of(worker.turn(), AnswerSlot) == [AnswerSlot(0, 77, "", [])]


def test_submission_without_an_owner_is_answered_with_the_reason() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.slot_submits(0, 77, task_id(1), 1, Submit(0, task_id(1), [MUL], [record(9)]))
    worker.turn()
    worker.machine.link_down(LINK)
    worker.machine.slot_submits(0, 78, task_id(1), 1, Submit(0, task_id(1), [MUL], [record(9)]))
    answers = of(worker.turn(), AnswerSlot)
    assert [answer.request for answer in answers] == [77, 78]
    assert all("owner" in answer.error for answer in answers)


def test_answer_that_comes_twice_is_given_once() -> None:
    worker = Worker(slots=1)
    worker.give(record(1))
    worker.machine.slot_submits(0, 77, task_id(1), 1, Submit(0, task_id(1), [MUL], [record(9)]))
    (submit,) = sent(worker.turn(), Submit)
    for _ in range(2):
        worker.machine.received(LINK, Submitted(submit.request, ""), 0)
    assert len(of(worker.turn(), AnswerSlot)) == 1
