"""The taker: what it stores, and when a task is its own."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.machines import ADD, link_to, task_id
from tests.unit.core.lone_taker import ONE, TWO, G, H, T, Taker, W, handed, offer, stored
from zmqtasks.core.owned import Durability, OwnedRecord
from zmqtasks.wire.messages import (
    Kind,
    Outcome,
    Resolve,
    States,
    Stored,
    Submit,
    Submitted,
    Taken,
    TaskRecord,
    TaskState,
)

GUARDED = Kind("shop", "tasks.pay", "d3", "default", (("idem", 0),))


@pytest.fixture
def taker() -> Taker:
    return Taker()


# --- offers -------------------------------------------------------------------------------


def test_offer_is_on_the_disk_before_it_is_answered(taker: Taker) -> None:
    link = taker.link()
    taker.receive(link, offer(1, ONE))
    assert taker.says(link) == []
    taker.write_all()
    assert taker.says(link) == [Stored(1, "", [])]
    taker.again(power=True)
    assert taker.offers() == [(G, T, True, 1, 1)]


def test_offered_task_waits_for_its_giver_s_word(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE))
    taker.tick(1_000)
    assert not taker.owns(ONE)
    assert taker.running == {}
    record = taker.answers.local(ONE)
    assert (record.state, record.info["offer"]) == (TaskState.PENDING, 1)
    assert "is handing it" in record.info["why"]
    assert taker.taking.expected == 1
    assert taker.taking.describe() == {G.hex(): 1}


def test_given_task_is_active_when_the_journal_says_so(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE))
    taker.receive(link, handed(1, given=(ONE,)))
    assert not taker.owns(ONE)
    assert taker.says(link) == []
    taker.write_all()
    assert taker.running == {ONE: 1}
    assert taker.says(link) == [Taken([ONE])]
    taker.again(power=True)
    assert taker.owns(ONE)


def test_task_that_its_giver_kept_is_forgotten(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE, TWO))
    taker.receive(link, handed(1, kept=(ONE,), unknown=(TWO,)))
    taker.write_all()
    assert taker.records() == {}
    assert taker.taking.tasks == {}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda taker: setattr(taker.taking, "draining", True), "it is leaving"),
        (lambda taker: setattr(taker.custody, "has_journal", False), "it has no journal"),
        (lambda taker: setattr(taker.dispatcher, "tasks_max", 0), "it holds 0 open tasks"),
    ],
)
def test_offer_is_refused_with_the_reason(taker: Taker, prepare: object, reason: str) -> None:
    assert callable(prepare)
    prepare(taker)
    link = taker.link()
    taker.receive(link, offer(1, ONE, TWO))
    said = taker.says(link)[0]
    assert isinstance(said, Stored)
    assert said.refused.startswith(reason)
    assert taker.taking.tasks == {}


@pytest.mark.parametrize(("limit", "most"), [("tasks_max", 1), ("bytes_max", 7)])
def test_what_there_is_no_room_for_is_left_and_the_rest_taken(
    taker: Taker, limit: str, most: int
) -> None:
    setattr(taker.dispatcher, limit, most)
    link = taker.link()
    taker.receive(link, offer(1, ONE, TWO))
    taker.write_all()
    assert taker.says(link) == [Stored(1, "", [TWO])]
    assert list(taker.taking.tasks) == [ONE]


@pytest.mark.parametrize(("limit", "most"), [("tasks_max", 1), ("bytes_max", 4)])
def test_room_of_what_is_being_taken_over_goes_to_no_child(
    taker: Taker, limit: str, most: int
) -> None:
    setattr(taker.dispatcher, limit, most)
    giver, worker = taker.link(), taker.link(H)
    stored(taker, giver, offer(1, ONE))
    child = Submit(1, task_id(8), [ADD], [TaskRecord(0, task_id(9), 1, b"args")])
    taker.receive(worker, child)
    assert taker.says(worker) == [Submitted(1, "the owner holds 1 open tasks already")]
    taker.receive(giver, handed(1, kept=(ONE,)))
    taker.receive(worker, msgspec.structs.replace(child, request=2))
    taker.write_all()
    assert taker.says(worker) == [Submitted(2, "")]


@pytest.mark.parametrize("end", ["active", "kept", "refused by the disk", "found in the journal"])
def test_room_is_kept_as_long_as_a_task_is_offered(taker: Taker, end: str) -> None:
    link, owner = taker.link(), taker.dispatcher
    before = owner.room_left
    if end == "refused by the disk":
        taker.disk.bytes_max = 0
    taker.receive(link, offer(1, ONE, TWO))
    count, size = owner.room_left
    assert (count, size) == (before[0] - 2, before[1] - 8)
    taker.write_all()
    if end == "found in the journal":
        taker.again()
        assert taker.dispatcher.room_left == (count, size)
        return
    if end == "active":
        taker.receive(link, handed(1, given=(ONE, TWO)))
    elif end == "kept":
        taker.receive(link, handed(1, kept=(ONE, TWO)))
    taker.write_all()
    assert (owner.incoming_count, owner.incoming_bytes) == (0, 0)
    assert owner.room_left == ((count, size) if end == "active" else before)


def test_offer_without_its_kind_is_refused(taker: Taker) -> None:
    link = taker.link()
    taker.receive(link, msgspec.structs.replace(offer(1, ONE), kinds=[]))
    assert taker.says(link) == [Stored(1, "the offer names a kind that it does not carry", [])]


def test_full_disk_refuses_and_leaves_nothing_behind(taker: Taker) -> None:
    link = taker.link()
    taker.disk.bytes_max = 0
    taker.receive(link, offer(1, ONE))
    taker.write_all()
    said = taker.says(link)[0]
    assert isinstance(said, Stored)
    assert (said.refused != "", said.left) == (True, [ONE])
    assert taker.taking.tasks == {}
    assert taker.taking.dropping == {}


def test_task_that_is_open_here_is_not_stored_twice(taker: Taker) -> None:
    link = taker.link()
    taker.submit([1])
    taker.write_all()
    stored(taker, link, offer(1, ONE))
    taker.receive(link, handed(1, given=(ONE,)))
    assert taker.says(link) == [Taken([ONE])]
    assert len(taker.records()) == 1


def test_task_on_its_way_out_of_the_journal_is_left_with_its_giver(taker: Taker) -> None:
    """Put and dropped at once it would be told to be stored, and not be."""
    link = taker.link()
    stored(taker, link, offer(1, ONE))
    taker.receive(link, handed(1, kept=(ONE,)))
    taker.receive(link, offer(2, ONE, TWO))
    taker.write_all()
    assert taker.says(link) == [Stored(2, "", [ONE])]
    assert list(taker.records()) == [TWO]
    stored(taker, link, offer(3, ONE))
    assert list(taker.records()) == [TWO, ONE]


def test_task_that_is_being_stored_is_left_with_another_giver(taker: Taker) -> None:
    one, other = taker.link(G), taker.link(H)
    taker.receive(one, offer(1, ONE))
    taker.receive(other, offer(7, ONE))
    assert taker.says(other) == [Stored(7, "", [ONE])]


def test_what_this_node_gave_away_comes_back_when_that_is_settled(taker: Taker) -> None:
    link = taker.link()
    taker.handoff.unconfirmed[ONE] = G
    taker.receive(link, offer(1, ONE))
    assert taker.says(link) == [Stored(1, "", [ONE])]  # what was given is confirmed by that
    taker.write_all()
    stored(taker, link, offer(2, ONE))


def test_what_another_node_has_not_confirmed_is_left(taker: Taker) -> None:
    link = taker.link()
    taker.handoff.unconfirmed[ONE] = H
    taker.receive(link, offer(1, ONE))
    taker.write_all()
    assert taker.says(link) == [Stored(1, "", [ONE])]
    assert taker.handoff.unconfirmed == {ONE: H}


# --- links and restarts -------------------------------------------------------------------


def test_stored_is_not_said_on_a_later_session_of_the_link(taker: Taker) -> None:
    link = taker.link()
    taker.receive(link, offer(1, ONE))
    taker.unlink(link, "reset")
    assert taker.link() == link
    assert taker.says(link) == [Resolve([ONE], T)]
    taker.write_all()
    assert taker.says(link) == []
    taker.receive(link, handed(1, kept=(ONE,)))
    taker.write_all()
    assert taker.records() == {}


def test_kept_while_it_is_being_stored_drops_it_afterwards(taker: Taker) -> None:
    link = taker.link()
    taker.receive(link, offer(1, ONE))
    taker.unlink(link)
    again = taker.link()
    taker.receive(again, handed(1, kept=(ONE,)))
    assert taker.taking.state_of(ONE) is None, "nobody hands it over any more"
    taker.write_all()
    assert taker.records() == {}
    assert taker.taking.tasks == {}


def test_giver_is_asked_on_its_other_link_when_one_is_gone(taker: Taker) -> None:
    first, second = taker.link(), taker.link(side="out")
    stored(taker, first, offer(1, ONE))
    taker.unlink(first)
    assert taker.says(second) == [Resolve([ONE], T)]


def test_word_on_one_link_does_not_count_for_a_later_offer_on_another(taker: Taker) -> None:
    """Two links to one node may overtake each other."""
    first, second = taker.link(), taker.link(side="out")
    stored(taker, second, offer(2, ONE))
    taker.receive(first, handed(1, kept=(ONE,)))
    taker.write_all()
    assert list(taker.records()) == [ONE]
    taker.receive(first, handed(1, given=(ONE,)))
    taker.write_all()
    assert not taker.owns(ONE)
    taker.receive(second, handed(2, given=(ONE,)))
    taker.write_all()
    assert taker.owns(ONE)


def test_giver_is_asked_after_a_restart(taker: Taker) -> None:
    stored(taker, taker.link(), offer(5, ONE))
    taker.again(power=True)
    link = taker.link(epoch=2)
    assert taker.says(link) == [Resolve([ONE], T)]
    taker.receive(link, handed(0, given=(ONE,)))
    taker.write_all()
    assert taker.says(link) == [Taken([ONE])]
    assert taker.owns(ONE)


def test_given_again_is_confirmed_again(taker: Taker) -> None:
    link = taker.link()
    taker.receive(link, handed(3, given=(TWO,)))
    assert taker.says(link) == [Taken([TWO])]  # it was here, and has ended
    stored(taker, link, offer(4, ONE))
    taker.receive(link, handed(4, given=(ONE,)))
    taker.receive(link, handed(4, given=(ONE,)))
    assert taker.says(link) == []  # not before the journal has it
    taker.write_all()
    assert taker.says(link) == [Taken([ONE, ONE])]


def test_confirmation_goes_where_given_was_said(taker: Taker) -> None:
    first, second = taker.link(), taker.link(side="out")
    stored(taker, first, offer(1, ONE))
    taker.receive(second, handed(1, given=(ONE,)))
    taker.write_all()
    assert taker.says(second) == [Taken([ONE])]


# --- several givers, and heirs ------------------------------------------------------------


def test_only_the_giver_that_owns_the_task_counts(taker: Taker) -> None:
    """The other one's offer was withdrawn long ago, and read late."""
    late, live = taker.link(G), taker.link(H)
    stored(taker, late, offer(1, ONE))
    stored(taker, live, offer(9, ONE, attempt=3))
    assert taker.offers() == [(G, T, True, 1, 1), (H, T, True, 1, 9)]
    taker.receive(late, handed(1, kept=(ONE,)))
    taker.write_all()
    assert list(taker.records()) == [ONE]
    taker.receive(live, handed(9, given=(ONE,)))
    taker.write_all()
    assert taker.owns(ONE)
    assert taker.dispatcher.tasks[ONE].attempt == 3


def test_heir_answers_for_the_giver(taker: Taker) -> None:
    stored(taker, taker.link(G), offer(1, ONE))
    heir = taker.link(H)
    taker.unlink(link_to(G, "in"), "gone")
    taker.says(heir)
    taker.taking.heir_announced(heir, H, [G])
    taker.turn()
    assert taker.says(heir) == [Resolve([ONE], T)]
    taker.receive(heir, handed(0, given=(ONE,)))
    taker.write_all()
    assert taker.owns(ONE)


def test_heir_that_was_announced_before_the_giver_s_link_ends_is_asked(taker: Taker) -> None:
    link, heir = taker.link(G), taker.link(H)
    stored(taker, link, offer(1, ONE))
    taker.taking.heir_announced(heir, H, [G])
    taker.turn()
    assert taker.says(heir) == []
    taker.unlink(link, "gone")
    assert taker.says(heir) == [Resolve([ONE], T)]


def test_given_by_a_node_that_is_not_known_as_heir_waits_until_it_is(taker: Taker) -> None:
    stored(taker, taker.link(G), offer(1, ONE))
    taker.unlink(link_to(G, "in"), "gone")
    heir = taker.link(H)
    taker.receive(heir, handed(0, given=(ONE,)))
    assert taker.says(heir) == []
    taker.taking.heir_announced(heir, H, [G])
    taker.turn()
    assert taker.says(heir) == [Resolve([ONE], T)]
    taker.receive(heir, handed(0, given=(ONE,)))
    taker.write_all()
    assert taker.says(heir) == [Taken([ONE, ONE])]


def test_word_about_another_taker_s_offer_does_not_count(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE))
    taker.receive(link, handed(1, given=(ONE,), taker=W))
    taker.write_all()
    assert not taker.owns(ONE)


# --- attempts -----------------------------------------------------------------------------


def test_first_attempt_is_the_one_that_was_offered(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE, attempt=2))
    taker.receive(link, handed(1, given=(ONE,)))
    taker.write_all()
    assert taker.running == {ONE: 2}


def test_after_a_restart_the_next_attempt_is_given(taker: Taker) -> None:
    """Who knows what became of the one that was offered: it may have been held here."""
    stored(taker, taker.link(), offer(1, ONE, attempt=2))
    taker.again()
    link = taker.link(epoch=2)
    taker.receive(link, handed(0, given=(ONE,)))
    taker.write_all()
    assert taker.running == {}
    taker.tick(taker.now_ms + 10_000)
    taker.write_all()
    assert taker.running == {ONE: 3}


def test_task_that_is_not_idempotent_survives_a_restart_unless_it_was_sent(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE, kind=GUARDED))
    assert taker.records()[ONE].attempt == 0
    taker.again()
    link = taker.link(epoch=2)
    taker.receive(link, handed(0, given=(ONE,)))
    taker.write_all()
    taker.tick(taker.now_ms + 10_000)
    taker.write_all()
    assert taker.dispatcher.tasks[ONE].attempt == 1
    assert taker.dispatcher.tasks[ONE].outcome is None


def test_task_that_runs_here_is_told_to_the_intake(taker: Taker) -> None:
    link = taker.link()
    taker.hosted[ONE, link] = 4
    stored(taker, link, offer(1, ONE, attempt=4, held=True))
    taker.receive(link, handed(1, given=(ONE,)))
    taker.write_all()
    taker.turn()
    assert taker.running == {ONE: 4}
    assert taker.hosted == {}
    assert taker.dispatcher.tasks[ONE].worker is not None


def test_giver_is_told_the_outcome(taker: Taker) -> None:
    link = taker.link()
    stored(taker, link, offer(1, ONE, watch=True))
    taker.receive(link, handed(1, given=(ONE,)))
    taker.write_all()
    taker.says(link)
    taker.finish(ONE)
    taker.write_all()
    news = taker.says(link)
    assert isinstance(news[0], States)
    assert (news[0].request, news[0].states[0].outcome) == (
        0, Outcome(ONE, 1, 0, 1, -1, 0, 1, 5, b"value"),
    )  # fmt: skip


def test_record_of_before_the_restart_is_the_one_that_is_run(taker: Taker) -> None:
    stored(taker, taker.link(), offer(1, ONE))
    record = taker.records()[ONE]
    assert msgspec.structs.replace(record, mark=b"", written_ms=0) == OwnedRecord(
        ONE, ADD, b"args", None, 1, 0, Durability.DISK
    )
