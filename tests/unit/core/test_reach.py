"""Which nodes can be spoken to, and which may come back."""

from __future__ import annotations

from tests.support.machines import OWNER, TIMERS, WORKER, candidate, hello, link_to
from zmqtasks.core.link import Link, LinkState
from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.reach import Reach
from zmqtasks.core.succession import JOURNAL_KEY
from zmqtasks.limits import HEIR_AWAY_MS, OWNER_GONE_MS

OUT = link_to(WORKER, "out")
IN = link_to(WORKER, "in")


class Fixture:
    def __init__(self) -> None:
        own = hello(OWNER, "producer")
        self.membership = Membership(own, "mesh", "", frozenset(), TIMERS, 0)
        self.reach = Reach(self.membership)

    def up(self, *links: LinkId) -> None:
        for link_id in links:
            self.membership.links[link_id] = link = Link(link_id, 1, 0)
            link.state = LinkState.UP
            link.peer = hello(WORKER, "worker")
            self.reach.link_up(link_id, WORKER)

    def down(self, link_id: LinkId) -> LinkId | None:
        del self.membership.links[link_id]
        return self.reach.link_down(link_id, WORKER)


def test_second_link_to_a_node_takes_the_place_of_the_first() -> None:
    made = Fixture()
    made.up(OUT, IN)
    assert made.reach.links == {WORKER: OUT}
    assert made.down(OUT) == IN
    assert made.reach.links == {WORKER: IN}
    assert made.down(IN) is None
    assert made.reach.links == {}


def test_end_of_a_link_that_is_not_in_use_changes_nothing() -> None:
    made = Fixture()
    made.up(OUT, IN)
    assert made.down(IN) is None
    assert made.reach.links == {WORKER: OUT}


def test_silent_node_may_come_back_for_a_while() -> None:
    made = Fixture()
    made.reach.away(hello(WORKER, "worker"), 1_000, OWNER_GONE_MS)
    assert made.reach.may_live(WORKER, 1_000 + OWNER_GONE_MS - 1)
    made.reach.tick(1_000 + OWNER_GONE_MS)
    assert not made.reach.may_live(WORKER, 1_000 + OWNER_GONE_MS)


def test_a_node_with_a_journal_that_is_away_may_own_whatever_nobody_else_knows() -> None:
    made = Fixture()
    made.reach.away(hello(b"script-1", "producer"), 0, OWNER_GONE_MS)
    assert not made.reach.is_heir_away(0)
    for role, until_ms in (("worker", HEIR_AWAY_MS), ("broker", OWNER_GONE_MS)):
        node = hello(WORKER, role)
        node.ext = {JOURNAL_KEY: 1}
        made.reach.away(node, 0, OWNER_GONE_MS)
        assert made.reach.is_heir_away(until_ms - 1)
        assert not made.reach.is_heir_away(until_ms)
    made.reach.link_up(OUT, WORKER)
    assert not made.reach.is_heir_away(0), "it can be asked"


def test_so_may_one_that_was_heard_of_and_is_not_linked_for_a_while() -> None:
    made = Fixture()
    made.membership.candidate_found(candidate(b"script-1", "producer"), 0)
    made.membership.candidate_found(candidate(b"worker-2", "worker", source="cache"), 0)
    assert not made.reach.is_heir_away(0), "scripts own their own tasks, and the cache is old"
    made.membership.candidate_found(candidate(WORKER, "worker"), 0)
    assert made.reach.is_heir_away(0)
    made.membership.candidates[WORKER].failing_since_ms = 1_000
    assert made.reach.is_heir_away(1_000 + HEIR_AWAY_MS - 1)
    assert not made.reach.is_heir_away(1_000 + HEIR_AWAY_MS)
    made.membership.candidates[WORKER].failing_since_ms = -1
    made.up(OUT)
    assert not made.reach.is_heir_away(0), "it can be asked"


def test_node_that_is_here_or_was_never_heard_of_is_not_waited_for() -> None:
    made = Fixture()
    made.up(OUT)
    assert not made.reach.may_live(WORKER, 0), "it can be asked"
    assert not made.reach.may_live(OWNER, 0), "this very node"
    assert not made.reach.may_live(b"stranger", 0)


def test_node_that_was_heard_of_is_waited_for_while_it_is_being_dialled() -> None:
    made = Fixture()
    made.membership.candidate_found(candidate(b"worker-2", "worker"), 0)
    assert made.reach.may_live(b"worker-2", 10 * OWNER_GONE_MS)
    made.membership.candidates[b"worker-2"].failing_since_ms = 0
    assert not made.reach.may_live(b"worker-2", OWNER_GONE_MS)


def test_owner_that_an_id_does_not_name_may_be_any_node_that_cannot_be_asked_yet() -> None:
    """A script owns the task of a key, whose id names nobody."""
    made = Fixture()
    made.up(OUT)
    made.membership.candidate_found(candidate(b"script-1", "producer"), 0)
    made.membership.candidates[b"script-1"].failing_since_ms = 0
    assert made.reach.may_live(b"somebody", HEIR_AWAY_MS - 1)
    assert not made.reach.may_live(b"somebody", HEIR_AWAY_MS)
    made.membership.contacts.known.clear()
    made.reach.away(hello(b"script-1", "producer"), 0, OWNER_GONE_MS)
    assert made.reach.may_live(b"somebody", HEIR_AWAY_MS - 1)
    assert not made.reach.may_live(b"somebody", HEIR_AWAY_MS)
