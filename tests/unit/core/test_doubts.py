"""What a taker does with offered tasks while their giver is away."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, link_to, outcome
from tests.unit.core.lone_taker import ONE, TWO, G, T, Taker, W, handed, offer, stored
from zmqtasks.core.links import LinkId
from zmqtasks.limits import HANDOFF_ASK_MS_MAX, OWNER_GONE_MS
from zmqtasks.wire.messages import (
    Outcome,
    Query,
    Resolve,
    StateRecord,
    States,
    Taken,
    TaskState,
)


@pytest.fixture
def taker() -> Taker:
    return Taker()


def answer(taker: Taker, link: LinkId, **info: object) -> None:
    """The other node says this about task 1 as often as it is asked."""
    queries = asked(taker, link)
    assert queries
    known = TaskState.PENDING if info else TaskState.UNKNOWN
    while queries:
        for query in queries:
            taker.receive(link, States(query.request, [StateRecord(ONE, known, dict(info), None)]))
        queries = asked(taker, link)
    taker.write_all()


def asked(taker: Taker, link: LinkId) -> list[Query]:
    return [message for message in taker.says(link) if isinstance(message, Query)]


def test_giver_with_a_journal_is_waited_for(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE))
    taker.unlink(link_to(G, "in"), "gone")
    for _ in range(5):
        deadline_ms = taker.taking.next_deadline_ms()
        assert deadline_ms is not None
        taker.tick(deadline_ms)
        answer(taker, other)
        assert not taker.owns(ONE)
    assert list(taker.records()) == [ONE]


def test_others_are_asked_ever_more_seldom(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE))
    taker.unlink(link_to(G, "in"), "gone")
    waits: list[int] = []
    for _ in range(9):
        deadline_ms = taker.taking.next_deadline_ms()
        assert deadline_ms is not None
        waits.append(deadline_ms - taker.now_ms)
        taker.tick(deadline_ms)
        answer(taker, other)
    assert waits[:3] == [OWNER_GONE_MS, OWNER_GONE_MS, 2 * OWNER_GONE_MS]
    assert waits[-1] == HANDOFF_ASK_MS_MAX


def test_task_that_somebody_else_owns_is_forgotten(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(OWNER_GONE_MS)
    answer(taker, other, owned=True)
    assert taker.records() == {}


def test_task_whose_outcome_is_known_is_forgotten(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(OWNER_GONE_MS)
    query = next(message for message in taker.says(other) if isinstance(message, Query))
    done = Outcome(ONE, 1, 0, 1, -1, 0, 1, 5, b"value")
    taker.receive(other, States(query.request, [StateRecord(ONE, TaskState.SETTLED, {}, done)]))
    taker.write_all()
    assert taker.records() == {}


@pytest.mark.parametrize("reason", ["gone", "left"])
def test_task_of_an_ended_giver_without_a_journal_becomes_ours(taker: Taker, reason: str) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), reason)
    taker.tick(1)
    answer(taker, other)
    assert taker.owns(ONE)
    assert taker.running == {ONE: 2}  # the giver may have given the first attempt away


def test_task_that_another_node_owns_by_the_time_it_is_asked_again_is_not_guessed(
    taker: Taker,
) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    (query,) = asked(taker, other)
    taker.receive(other, States(query.request, [StateRecord(ONE, TaskState.UNKNOWN, {}, None)]))
    answer(taker, other, owned=True)
    assert not taker.owns(ONE)
    assert taker.records() == {}


def test_no_guess_is_made_while_an_heir_is_away(taker: Taker) -> None:
    other = taker.link(W)
    taker.taking.handoff.given.is_heir_away = lambda: True
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    answer(taker, other)
    for _ in range(3):
        assert not taker.owns(ONE)
        deadline_ms = taker.taking.next_deadline_ms()
        assert deadline_ms is not None
        taker.tick(deadline_ms)
        answer(taker, other)
    taker.taking.handoff.given.is_heir_away = lambda: False
    deadline_ms = taker.taking.next_deadline_ms()
    assert deadline_ms is not None
    assert deadline_ms - taker.now_ms <= OWNER_GONE_MS
    taker.tick(deadline_ms)
    answer(taker, other)
    assert taker.owns(ONE)


def test_no_guess_is_made_when_an_heir_goes_away_before_all_are_asked_again(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    (query,) = asked(taker, other)
    taker.receive(other, States(query.request, [StateRecord(ONE, TaskState.UNKNOWN, {}, None)]))
    taker.taking.handoff.given.is_heir_away = lambda: True
    answer(taker, other)
    assert not taker.owns(ONE)


def test_task_that_is_stored_when_its_giver_has_ended_becomes_ours_at_once(taker: Taker) -> None:
    other = taker.link(W)
    taker.receive(taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "left")
    taker.tick(1)
    assert taker.says(other) == [], "there is nothing to ask about yet"
    taker.write_all()
    answer(taker, other)
    assert taker.owns(ONE)


def test_silent_giver_without_a_journal_is_waited_for_a_minute(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "silent")
    taker.tick(OWNER_GONE_MS - 1)
    assert taker.says(other) == []
    taker.tick(OWNER_GONE_MS)
    answer(taker, other)
    assert taker.owns(ONE)


def test_giver_that_is_back_is_believed_and_not_guessed(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "silent")
    taker.tick(OWNER_GONE_MS)
    taker.link(G)
    answer(taker, other)
    assert not taker.owns(ONE)


def test_giver_that_has_forgotten_is_as_good_as_gone(taker: Taker) -> None:
    other, link = taker.link(W), taker.link(G)
    stored(taker, link, offer(1, ONE, lasting=False))
    taker.receive(link, handed(1, unknown=(ONE,)))
    for request in (-3, -5):
        queried = [to for to, message in taker.out if isinstance(message, Query)]
        assert queried == [other, link]
        taker.out = []
        assert not taker.owns(ONE)
        for to in queried:
            taker.receive(to, States(request, [StateRecord(ONE, TaskState.UNKNOWN, {}, None)]))
    taker.write_all()
    assert taker.owns(ONE)


def test_of_two_takers_without_a_giver_the_last_one_offered_to_goes_on(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(3, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    answer(taker, other, offer=4)
    assert taker.records() == {}


@pytest.mark.parametrize(("theirs", "ours"), [(2, True), (4, False)])
def test_after_a_restart_it_is_known_who_was_offered_the_task_last(theirs: int, ours: bool) -> None:
    taker = Taker()
    stored(taker, taker.link(G), offer(3, ONE, lasting=False))
    taker.again(power=True)
    other = taker.link(W)
    taker.tick(taker.now_ms + OWNER_GONE_MS)
    answer(taker, other, offer=theirs)
    assert taker.owns(ONE) == ours
    assert (ONE in taker.records()) == ours


def test_guess_gives_way_to_a_giver_that_kept_its_task(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    answer(taker, other)
    assert taker.owns(ONE)
    link = taker.link(G)
    assert taker.says(link) == [Resolve([ONE], T)]
    taker.receive(link, handed(1, kept=(ONE,)))
    taker.write_all()
    assert not taker.owns(ONE)
    assert taker.records() == {}


def test_guess_that_was_right_stays(taker: Taker) -> None:
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    answer(taker, other)
    link = taker.link(G)
    taker.says(link)
    taker.receive(link, handed(1, given=(ONE,)))
    assert taker.says(link) == [Taken([ONE])]
    taker.receive(link, handed(1, kept=(ONE,)))
    assert taker.owns(ONE)


def test_guess_that_is_confirmed_while_it_is_written_is_none() -> None:
    taker = Taker()
    other = taker.link(W)
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    for _ in range(2):
        (query,) = asked(taker, other)
        taker.receive(other, States(query.request, [StateRecord(ONE, TaskState.UNKNOWN, {}, None)]))
    link = taker.link(G)
    taker.receive(link, handed(1, given=(ONE,)))
    taker.write_all()
    assert taker.says(link) == [Taken([ONE])]
    # It has nothing more to say of a task that it gave away.
    taker.receive(link, handed(1, kept=(ONE,)))
    assert taker.owns(ONE)


def test_guess_is_forgotten_some_time_after_its_task_has_ended(taker: Taker) -> None:
    stored(taker, taker.link(G), offer(1, ONE, TWO, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    taker.write_all()
    assert taker.owns(ONE)
    taker.finish(ONE)
    taker.write_all()
    taker.tick(1 + OWNER_GONE_MS)
    assert list(taker.taking.doubts.guessed) == [TWO]
    link = taker.link(G)
    assert taker.says(link) == [Resolve([TWO], T)]


def test_task_that_has_ended_here_for_its_giver_is_not_guessed_about(taker: Taker) -> None:
    stored(taker, taker.link(G), offer(1, ONE, TWO, lasting=False, held=True))
    taker.log.append_own(ADD, outcome(1), 0)
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    taker.write_all()
    assert not taker.owns(ONE)
    assert taker.owns(TWO)
    assert list(taker.records()) == [TWO]


def test_nobody_to_ask_is_an_answer_too(taker: Taker) -> None:
    stored(taker, taker.link(G), offer(1, ONE, lasting=False))
    taker.unlink(link_to(G, "in"), "gone")
    taker.tick(1)
    taker.write_all()
    assert taker.owns(ONE)
