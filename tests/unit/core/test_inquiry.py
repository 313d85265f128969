"""Asking the mesh about tasks of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.machines import OWNER, WORKER, link_to, of, outcome, sent, task_id
from zmqtasks.core.effects import Effect, QuestionAnswered, Send
from zmqtasks.core.inquiry import Inquiry
from zmqtasks.limits import WATCH_AGAIN_MS
from zmqtasks.wire.messages import Outcome, Query, StateRecord, States, TaskState

OWNER_LINK = link_to(OWNER, "out")
WORKER_LINK = link_to(WORKER, "out")
STORE_LINK = link_to(b"thestore", "out")


def nobody(node: bytes) -> bool:
    return False


def everybody(node: bytes) -> bool:
    return True


def state(
    number: int, what: TaskState, made: Outcome | None = None, *, owned: bool = False
) -> StateRecord:
    return StateRecord(task_id(number), what, {"owned": True} if owned else {}, made)


class Asker:
    def __init__(self) -> None:
        self.machine = Inquiry(grace_ms=100)

    def ask(self, *numbers: int, watch: bool = False, links: Sequence[object] = ()) -> int:
        ids = [task_id(number) for number in numbers]
        unknown = [state(number, TaskState.UNKNOWN) for number in numbers]
        return self.machine.ask(ids, unknown, list(links), watch, 0)  # type: ignore[arg-type]

    def effects(self) -> list[Effect]:
        taken, self.machine.effects = self.machine.effects, []
        return taken

    def tick(
        self, now_ms: int = 200, *, all_found: bool = True,
        may_live: Callable[[bytes], bool] = nobody,
    ) -> list[tuple[list[int], bool]]:  # fmt: skip
        """``(states, final)`` of each answer."""
        self.machine.tick(now_ms, all_found=all_found, may_live=may_live)
        answers = of(self.effects(), QuestionAnswered)
        return [([int(record.state) for record in a.states], a.final) for a in answers]


def test_everybody_is_asked_also_those_who_come_later() -> None:
    asker = Asker()
    token = asker.ask(1, links=[OWNER_LINK])
    assert sent(asker.effects(), Query) == [Query(token, [task_id(1)], False)]
    asker.machine.link_up(STORE_LINK)
    assert sent(asker.effects(), Query) == [Query(token, [task_id(1)], False)]


def test_settled_outcome_answers_at_once() -> None:
    asker = Asker()
    token = asker.ask(1, links=[OWNER_LINK, STORE_LINK])
    asker.effects()
    answer = States(token, [state(1, TaskState.SETTLED, outcome(1))])
    asker.machine.answered(STORE_LINK, answer)
    (told,) = of(asker.effects(), QuestionAnswered)
    assert told.final
    assert told.states[0].outcome == outcome(1)
    assert not asker.machine.questions


def test_unknown_is_said_only_when_all_have_answered_and_all_are_found() -> None:
    asker = Asker()
    token = asker.ask(1, links=[OWNER_LINK, STORE_LINK])
    asker.effects()
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    assert asker.tick() == [], "one has not answered"
    asker.machine.link_down(STORE_LINK)
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    assert asker.tick(all_found=False) == [], "one is still being dialled"
    assert asker.tick(now_ms=50) == [], "one may still be found"
    assert asker.tick() == [], "all are asked again"
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    assert asker.tick() == [([TaskState.UNKNOWN], True)]


def test_outcome_that_went_from_a_worker_to_a_store_between_their_answers_is_found() -> None:
    asker = Asker()
    token = asker.ask(1, links=[STORE_LINK, WORKER_LINK])
    for link in (STORE_LINK, WORKER_LINK):  # the store has it when the worker is asked
        asker.machine.answered(link, States(token, [state(1, TaskState.UNKNOWN)]))
    assert asker.tick() == []
    asker.machine.answered(WORKER_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    settled = state(1, TaskState.SETTLED, outcome(1))
    asker.machine.answered(STORE_LINK, States(token, [settled]))
    assert asker.tick() == [([TaskState.SETTLED], True)]


def test_what_nobody_knows_is_asked_for_once_more_and_not_for_ever() -> None:
    asker = Asker()
    token = asker.ask(1, links=[STORE_LINK])
    queries = []
    for now_ms in range(200, 210):
        queries += sent(asker.effects(), Query)
        asker.machine.answered(STORE_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
        asker.machine.tick(now_ms, all_found=True, may_live=nobody)
    assert queries == [Query(token, [task_id(1)], False)] * 2


def test_owner_that_cannot_be_asked_makes_it_pending_not_unknown() -> None:
    asker = Asker()
    asker.ask(1)
    assert asker.tick(may_live=everybody) == [([TaskState.PENDING], True)]


def test_best_answer_wins() -> None:
    asker = Asker()
    token = asker.ask(1, links=[OWNER_LINK, WORKER_LINK])
    asker.effects()
    asker.machine.answered(WORKER_LINK, States(token, [state(1, TaskState.STARTED)]))
    pending = state(1, TaskState.PENDING, owned=True)
    asker.machine.answered(OWNER_LINK, States(token, [pending]))
    assert asker.tick() == [([TaskState.STARTED], True)]


def test_unsettled_outcome_stands_when_the_owner_is_gone() -> None:
    asker = Asker()
    token = asker.ask(1, watch=True, links=[WORKER_LINK])
    asker.effects()
    unsettled = state(1, TaskState.UNSETTLED, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    assert asker.tick(may_live=everybody) == [], "the owner may come back and refuse it"
    assert asker.tick() == [([TaskState.SETTLED], True)]


def test_unsettled_outcome_does_not_stand_while_the_owner_knows_the_task() -> None:
    """The owner may refuse it and settle another attempt."""
    asker = Asker()
    token = asker.ask(1, watch=True, links=[WORKER_LINK, OWNER_LINK])
    asker.effects()
    unsettled = state(1, TaskState.UNSETTLED, outcome(1, attempt=1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.STARTED, owned=True)]))
    assert asker.tick() == []
    settled = state(1, TaskState.SETTLED, outcome(1, attempt=2))
    asker.machine.answered(OWNER_LINK, States(token, [settled]))
    (told,) = of(asker.effects(), QuestionAnswered)
    assert told.states[0].outcome == outcome(1, attempt=2)


def test_unsettled_outcome_does_not_stand_while_somebody_may_become_the_owner() -> None:
    """Its giver has ended, and whoever it was offered to waits for the word of an heir."""
    asker = Asker()
    token = asker.ask(1, watch=True, links=[WORKER_LINK, OWNER_LINK])
    asker.effects()
    unsettled = state(1, TaskState.UNSETTLED, outcome(1, attempt=1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    offered = StateRecord(task_id(1), TaskState.PENDING, {"offer": 3}, None)
    asker.machine.answered(OWNER_LINK, States(token, [offered]))
    assert asker.tick() == []
    settled = state(1, TaskState.SETTLED, outcome(1, attempt=2))
    asker.machine.answered(OWNER_LINK, States(token, [settled]))
    (told,) = of(asker.effects(), QuestionAnswered)
    assert told.states[0].outcome == outcome(1, attempt=2)


def test_offer_that_came_to_nothing_is_no_owner_any_more() -> None:
    asker = Asker()
    token = asker.ask(1, watch=True, links=[WORKER_LINK, OWNER_LINK])
    asker.effects()
    unsettled = state(1, TaskState.UNSETTLED, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    offered = StateRecord(task_id(1), TaskState.PENDING, {"offer": 3}, None)
    asker.machine.answered(OWNER_LINK, States(token, [offered]))
    assert asker.tick() == []
    asker.tick(WATCH_AGAIN_MS)
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    assert asker.tick(WATCH_AGAIN_MS + 1) == [([TaskState.SETTLED], True)]


def test_offer_that_came_to_nothing_does_not_hide_the_owner() -> None:
    """It was read late, from a connection that its sender had given up before it ended."""
    asker = Asker()
    broker = link_to(b"a broker", "out")
    token = asker.ask(1, watch=True, links=[WORKER_LINK, OWNER_LINK, broker])
    unsettled = state(1, TaskState.UNSETTLED, outcome(1, attempt=1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.STARTED, owned=True)]))
    offered = StateRecord(task_id(1), TaskState.PENDING, {"offer": 3}, None)
    asker.machine.answered(broker, States(token, [offered]))
    asker.machine.answered(broker, States(token, [state(1, TaskState.UNKNOWN)]))
    assert asker.tick() == []
    settled = state(1, TaskState.SETTLED, outcome(1, attempt=2))
    asker.machine.answered(OWNER_LINK, States(token, [settled]))
    (told,) = of(asker.effects(), QuestionAnswered)
    assert told.states[0].outcome == outcome(1, attempt=2)


def test_owner_that_has_given_a_task_away_counts_until_its_taker_speaks() -> None:
    asker = Asker()
    taker = link_to(b"thetaker", "out")
    token = asker.ask(1, watch=True, links=[WORKER_LINK, OWNER_LINK, taker])
    unsettled = state(1, TaskState.UNSETTLED, outcome(1))
    given = StateRecord(task_id(1), TaskState.PENDING, {"taker": b"thetaker"}, None)
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    asker.machine.answered(taker, States(token, [state(1, TaskState.UNKNOWN)]))
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.PENDING, owned=True)]))
    asker.machine.answered(OWNER_LINK, States(token, [given]))
    assert asker.tick() == []
    asker.machine.answered(taker, States(token, [state(1, TaskState.PENDING, owned=True)]))
    assert asker.tick() == []
    asker.machine.link_down(taker)
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    asker.machine.answered(OWNER_LINK, States(token, [given]))
    assert asker.tick() == [([TaskState.SETTLED], True)]


def test_owner_that_is_gone_for_good_lets_the_first_outcome_stand() -> None:
    asker = Asker()
    token = asker.ask(1, watch=True, links=[WORKER_LINK, OWNER_LINK])
    asker.effects()
    unsettled = state(1, TaskState.UNSETTLED, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.PENDING, owned=True)]))
    asker.machine.link_down(OWNER_LINK)
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    assert asker.tick() == [([TaskState.SETTLED], True)]


def test_watch_tells_each_task_as_it_settles() -> None:
    asker = Asker()
    token = asker.ask(1, 2, watch=True, links=[OWNER_LINK])
    asker.effects()
    first = [state(1, TaskState.SETTLED, outcome(1)), state(2, TaskState.PENDING, owned=True)]
    asker.machine.answered(OWNER_LINK, States(token, first))
    assert asker.tick(300) == [([TaskState.SETTLED], False)]
    later = States(token, [state(2, TaskState.SETTLED, outcome(2))])
    asker.machine.answered(OWNER_LINK, later)
    answers = asker.tick(400)
    assert [final for _, final in answers] == [True]
    assert not asker.machine.questions


def test_last_answer_agrees_with_what_was_told_before() -> None:
    asker = Asker()
    token = asker.ask(1, 2, watch=True, links=[WORKER_LINK, OWNER_LINK])
    asker.effects()
    unsettled = state(1, TaskState.UNSETTLED, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled, state(2, TaskState.UNKNOWN)]))
    asker.machine.answered(OWNER_LINK, States(
        token, [state(1, TaskState.UNKNOWN), state(2, TaskState.PENDING, owned=True)]
    ))  # fmt: skip
    assert asker.tick() == [([TaskState.SETTLED], False)]
    later = States(token, [state(2, TaskState.SETTLED, outcome(2))])
    asker.machine.answered(OWNER_LINK, later)
    assert asker.tick() == [([TaskState.SETTLED, TaskState.SETTLED], True)]


def test_answers_to_questions_that_nobody_asks_any_more_are_ignored() -> None:
    asker = Asker()
    token = asker.ask(1, links=[OWNER_LINK])
    asker.effects()
    asker.machine.drop(token)
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.SETTLED, outcome(1))]))
    asker.machine.answered(OWNER_LINK, States(99, [state(1, TaskState.SETTLED, outcome(1))]))
    assert asker.effects() == []


def test_deadline_never_stays_in_the_past() -> None:
    asker = Asker()
    assert asker.machine.next_deadline_ms() is None
    asker.ask(1, watch=True, links=[OWNER_LINK])
    assert asker.machine.next_deadline_ms() == 100
    asker.tick(100)
    assert asker.machine.next_deadline_ms() is None


def test_a_node_that_has_become_the_owner_since_is_asked_again_before_an_outcome_stands() -> None:
    asker = Asker()
    taker = link_to(b"thetaker", "out")
    token = asker.ask(1, links=[taker, WORKER_LINK])
    asker.effects()
    asker.machine.answered(taker, States(token, [state(1, TaskState.UNKNOWN)]))
    unsettled = StateRecord(task_id(1), TaskState.UNSETTLED, {"owner": b"thetaker"}, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    assert sent(asker.effects(), Query) == [Query(token, [task_id(1)], False)]
    assert asker.tick() == []
    asker.machine.answered(taker, States(token, [state(1, TaskState.PENDING, owned=True)]))
    assert asker.tick() == [([TaskState.UNSETTLED], True)]


def test_news_of_another_task_are_no_answer_of_the_owner_that_is_asked_again() -> None:
    asker = Asker()
    taker = link_to(b"thetaker", "out")
    token = asker.ask(1, 2, watch=True, links=[taker, WORKER_LINK])
    unknown = [state(1, TaskState.UNKNOWN), state(2, TaskState.PENDING, owned=True)]
    asker.machine.answered(taker, States(token, unknown))
    unsettled = StateRecord(task_id(1), TaskState.UNSETTLED, {"owner": b"thetaker"}, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled, state(2, TaskState.UNKNOWN)]))
    # Sent before the taker was asked again.
    asker.machine.answered(taker, States(token, [state(2, TaskState.SETTLED, outcome(2))]))
    assert asker.tick() == [([TaskState.SETTLED], False)]
    asker.machine.answered(taker, States(token, [state(1, TaskState.PENDING, owned=True)]))
    assert asker.tick() == []


def test_an_outcome_stands_when_the_named_owner_does_not_know_the_task() -> None:
    asker = Asker()
    taker = link_to(b"thetaker", "out")
    token = asker.ask(1, links=[taker, WORKER_LINK])
    unsettled = StateRecord(task_id(1), TaskState.UNSETTLED, {"owner": b"thetaker"}, outcome(1))
    asker.machine.answered(WORKER_LINK, States(token, [unsettled]))
    asker.machine.answered(taker, States(token, [state(1, TaskState.UNKNOWN)]))
    assert asker.tick() == [([TaskState.SETTLED], True)]


def test_peers_are_asked_again_now_and_then_what_somebody_waits_for() -> None:
    """One that has too many watchers does not remember them all."""
    asker = Asker()
    token = asker.ask(1, watch=True, links=[OWNER_LINK])
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.PENDING, owned=True)]))
    asker.effects()
    assert asker.tick(WATCH_AGAIN_MS - 1) == []
    asker.machine.tick(WATCH_AGAIN_MS, all_found=True, may_live=nobody)
    assert sent(asker.effects(), Query) == [Query(token, [task_id(1)], True)]
    asker.machine.tick(2 * WATCH_AGAIN_MS, all_found=True, may_live=nobody)
    assert sent(asker.effects(), Query) == [], "it has not answered yet"


def test_dropped_question_asks_nobody_any_more() -> None:
    asker = Asker()
    asker.machine.drop(asker.ask(1, watch=True, links=[OWNER_LINK]))
    asker.effects()
    asker.machine.link_up(STORE_LINK)
    asker.machine.tick(WATCH_AGAIN_MS, all_found=True, may_live=nobody)
    assert asker.effects() == []


def test_when_one_leaves_without_an_answer_the_others_are_asked_again() -> None:
    """It had given its tasks to one that was asked before and had not known them then."""
    asker = Asker()
    token = asker.ask(1, links=[OWNER_LINK, STORE_LINK])
    asker.machine.answered(STORE_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    asker.effects()
    asker.machine.link_down(OWNER_LINK)
    assert of(asker.effects(), Send) == [Send(STORE_LINK, Query(token, [task_id(1)], False))]
    assert asker.tick() == []
    asker.machine.answered(STORE_LINK, States(token, [state(1, TaskState.PENDING, owned=True)]))
    assert asker.tick() == [([TaskState.PENDING], True)]


def test_when_an_owner_leaves_the_others_are_asked_again() -> None:
    asker = Asker()
    token = asker.ask(1, watch=True, links=[OWNER_LINK, STORE_LINK])
    asker.machine.answered(OWNER_LINK, States(token, [state(1, TaskState.PENDING, owned=True)]))
    asker.machine.answered(STORE_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    asker.effects()
    asker.machine.link_down(OWNER_LINK)
    assert [send.link for send in of(asker.effects(), Send)] == [STORE_LINK]


def test_when_one_leaves_that_had_nothing_to_say_nobody_is_asked_again() -> None:
    asker = Asker()
    token = asker.ask(1, watch=True, links=[OWNER_LINK, STORE_LINK])
    asker.machine.answered(STORE_LINK, States(token, [state(1, TaskState.UNKNOWN)]))
    asker.effects()
    asker.machine.link_down(STORE_LINK)
    assert asker.effects() == []
