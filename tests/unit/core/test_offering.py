"""Which tasks of which routes are offered to whom."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.machines import ADD, hello, link_to, of, task_id, worker_hello
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import JournalWrite, Send
from zmqtasks.core.links import LinkId
from zmqtasks.core.offering import Offering, takes_tasks
from zmqtasks.limits import HANDOFF_UNSERVED_MS, WRITE_BEHIND_MS
from zmqtasks.wire.messages import Done, Hello, Offer

G, B, W = b"giver-01", b"broker-1", b"worker-1"
LATE_MS = 3_600_000


class Giver:
    """A node with two tasks of one route, and whoever it is linked to."""

    def __init__(
        self, route: str, *, is_broker: bool = False, has_journal: bool = False
    ) -> None:  # fmt: skip
        self.dispatcher = Dispatcher(1_000, 1 << 20, Custody(has_journal), lambda _: route)
        self.offering = Offering(
            G, self.dispatcher, self.dispatcher.custody, follow=True, is_broker=is_broker
        )
        self.dispatcher.submit([Call(task_id(n), ADD, b"args", None) for n in (1, 2)], 0)

    def link(self, peer: Hello) -> LinkId:
        link = link_to(peer.node)
        self.dispatcher.link_up(link, peer)
        self.offering.link_up(link, peer)
        return link

    def turns(self, *times_ms: int) -> dict[bytes, list[bytes]]:
        """{node: ids of what it was offered} at these times."""
        found: dict[bytes, list[bytes]] = {}
        for now_ms in times_ms:
            self.dispatcher.flush(now_ms)
            self.offering.flush(now_ms)
        for send in of(self.offering.effects, Send):
            if isinstance(send.message, Offer):
                ids = [record.id for record in send.message.tasks]
                found.setdefault(send.link.peer[1:9], []).extend(ids)
        self.offering.effects.clear()
        return found

    def writes(self) -> list[JournalWrite]:
        """What the journal is to do now."""
        custody = self.dispatcher.custody
        custody.flush()
        writes = of(custody.effects, JournalWrite)
        custody.effects.clear()
        return writes

    def offers(self) -> list[Offer]:
        """Those that have gone out since this was last asked."""
        sends = of(self.offering.effects, Send)
        self.offering.effects.clear()
        return [send.message for send in sends if isinstance(send.message, Offer)]


def broker() -> Hello:
    return hello(B, "broker")


def worker(*, journal: bool = False) -> Hello:
    peer = worker_hello(W, slots=2)
    peer.ext.update({"j": 1} if journal else {})
    return peer


BOTH = [task_id(1), task_id(2)]


def test_tasks_of_a_direct_route_are_never_offered_before_their_node_leaves() -> None:
    giver = Giver("direct")
    giver.link(broker())
    assert giver.turns(0, HANDOFF_UNSERVED_MS, LATE_MS) == {}
    giver.offering.leave()
    assert giver.turns(LATE_MS) == {B: BOTH}


def test_tasks_of_a_broker_route_are_offered_at_once_even_if_a_worker_is_free() -> None:
    giver = Giver("broker")
    link = giver.link(worker())
    giver.dispatcher.received(link, Done(10, []), 0)
    giver.link(broker())
    assert giver.turns(0) == {B: BOTH}


@pytest.mark.parametrize("has_credit", [False, True])
def test_tasks_of_an_auto_route_stay_where_a_worker_is_in_sight(has_credit: bool) -> None:
    giver = Giver("auto")
    link = giver.link(worker())
    giver.dispatcher.received(link, Done(10 if has_credit else 0, []), 0)
    giver.link(broker())
    assert giver.turns(0, HANDOFF_UNSERVED_MS, LATE_MS) == {}


def test_tasks_of_an_auto_route_that_nobody_serves_are_offered_after_a_while() -> None:
    giver = Giver("auto")
    giver.link(broker())
    assert giver.turns(0, HANDOFF_UNSERVED_MS - 1) == {}
    assert giver.offering.next_deadline_ms() == HANDOFF_UNSERVED_MS
    assert giver.turns(HANDOFF_UNSERVED_MS) == {B: BOTH}


@pytest.mark.parametrize("route", ["direct", "auto", "broker"])
def test_a_broker_gives_nothing_away_before_it_leaves(route: str) -> None:
    giver = Giver(route, is_broker=True)
    giver.link(broker())
    assert giver.turns(0, LATE_MS) == {}
    giver.offering.leave()
    assert giver.turns(LATE_MS) == {B: BOTH}


def test_who_leaves_prefers_a_broker_and_gives_to_a_worker_what_it_works_on() -> None:
    giver = Giver("direct")
    link = giver.link(worker(journal=True))
    giver.dispatcher.received(link, Done(1, []), 0)
    giver.link(broker())
    assert giver.turns(0) == {}
    giver.offering.leave()
    assert giver.turns(1) == {W: BOTH[:1], B: BOTH[1:]}


def test_it_is_known_whether_ready_tasks_could_go_to_who_should_have_them() -> None:
    giver = Giver("direct")
    assert not giver.offering.has_broker
    assert not giver.offering.is_served
    store = hello(b"store-01", "store")
    store.ext["j"] = 1
    giver.link(store)
    giver.link(worker())
    assert not giver.offering.is_served, "a worker without a journal takes nothing"
    giver = Giver("direct")
    giver.link(worker(journal=True))
    assert giver.offering.is_served
    giver.link(broker())
    assert giver.offering.has_broker


@pytest.mark.parametrize(
    ("roles", "has_journal", "takes"),
    [
        (["broker"], False, True),
        (["worker"], True, True),
        (["worker"], False, False),
        (["store"], True, True),
        (["producer"], True, False),
    ],
)
def test_nodes_that_stay_and_keep_a_journal_take_tasks(
    roles: Sequence[str], has_journal: bool, takes: bool
) -> None:
    peer = hello(B, *roles)
    peer.ext.update({"j": 1} if has_journal else {})
    assert takes_tasks(peer) is takes


@pytest.mark.parametrize(("is_full", "is_lasting"), [(False, True), (True, False)])
def test_what_a_failing_disk_has_not_taken_is_not_offered_as_being_there(
    is_full: bool, is_lasting: bool
) -> None:
    giver = Giver("broker", has_journal=True)
    giver.dispatcher.tick(WRITE_BEHIND_MS)
    giver.link(broker())
    giver.turns(WRITE_BEHIND_MS)
    custody = giver.dispatcher.custody
    behind, barrier = giver.writes()
    assert [record.id for record in behind.puts] == BOTH
    custody.refused([behind.batch], "the disk fails", is_certain=False)
    custody.committed([barrier.batch])
    (taken_out,) = giver.writes()
    assert taken_out.drops == BOTH
    assert not giver.offers()
    custody.committed([taken_out.batch])
    (again,) = giver.writes()
    assert [record.id for record in again.puts] == BOTH
    if is_full:
        custody.refused([again.batch], "full", is_certain=True)
    else:
        custody.committed([again.batch])
    (offer,) = giver.offers()
    assert offer.lasting is is_lasting
