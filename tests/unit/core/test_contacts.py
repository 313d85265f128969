"""Whom to dial, when, and when to stop."""

from __future__ import annotations

from tests.support.machines import OWNER, WORKER, candidate, hello, link_to, of
from zmqtasks.core.contacts import Contacts
from zmqtasks.core.effects import Dial, Effect, Hangup, Note
from zmqtasks.core.link import Link, LinkState
from zmqtasks.core.links import DRAINING, LinkId
from zmqtasks.limits import (
    CANDIDATE_FORGOTTEN_MS,
    CANDIDATES_COUNT_MAX,
    REDIAL_MS_MAX,
    REDIAL_MS_MIN,
)

OTHER = b"worker-2"


class Fixture:
    def __init__(self) -> None:
        self.links: dict[LinkId, Link] = {}
        own = hello(OWNER, "producer")
        self.contacts = Contacts(own, "mesh", "", frozenset(("worker",)), self.links)

    def effects(self) -> list[Effect]:
        taken, self.contacts.effects = self.contacts.effects, []
        return taken

    def dials(self) -> list[bytes | None]:
        return [dial.candidate.node for dial in of(self.contacts.effects, Dial)]

    def link(self, node: bytes, endpoints: tuple[str, ...] = ()) -> Link:
        """An open link that we dialled."""
        link = Link(link_to(node), 1, 0)
        link.state = LinkState.UP
        link.peer = hello(node, "worker", endpoints=endpoints)
        self.links[link.id] = link
        return link


def test_wanted_role_is_dialled_once() -> None:
    made = Fixture()
    for _ in range(3):
        made.contacts.found(candidate(WORKER, "worker"), 0)
    assert made.dials() == [WORKER]


def test_others_are_dialled_only_on_demand() -> None:
    made = Fixture()
    made.contacts.found(candidate(OTHER, "producer"), 0)
    assert made.dials() == []
    made.contacts.want_all(10)
    assert made.dials() == [OTHER]


def test_needed_role_is_dialled_until_it_is_needed_no_more() -> None:
    made = Fixture()
    made.contacts.found(candidate(OTHER, "broker"), 0)
    made.contacts.need(frozenset(("broker",)), frozenset(), 10)
    assert made.dials() == [OTHER]
    made.contacts.need(frozenset(), frozenset(), 20)
    made.contacts.found(candidate(b"broker-3", "broker"), 30)
    assert made.dials() == [OTHER]


def test_needed_peer_that_dialled_us_is_not_dialled() -> None:
    made = Fixture()
    link = Link(link_to(OTHER, "in"), 1, 0)
    link.state = LinkState.UP
    link.peer = hello(OTHER, "broker")
    made.links[link.id] = link
    made.contacts.need(frozenset(("broker",)), frozenset(), 0)
    made.contacts.found(candidate(OTHER, "broker"), 0)
    assert made.dials() == []
    assert not made.contacts.pending()
    del made.links[link.id]
    made.contacts.tick(10 * REDIAL_MS_MAX)
    assert made.dials() == [OTHER], "it hung up"


def test_needed_nodes_and_static_peers_are_dialled_whatever_their_role() -> None:
    made = Fixture()
    made.contacts.found(candidate(OTHER, "producer"), 0)
    assert made.dials() == []
    made.contacts.need(frozenset(), frozenset((OTHER,)), 0)
    made.contacts.found(candidate(WORKER, "producer", source="static"), 0)
    assert made.dials() == [OTHER, WORKER]


def test_other_meshes_other_keys_and_ourselves_are_not_dialled() -> None:
    made = Fixture()
    made.contacts.found(candidate(OWNER, "worker"), 0)
    made.contacts.found(candidate(WORKER, "worker", mesh=b"elsewher"), 0)
    made.contacts.found(candidate(WORKER, "worker", node=None), 0)
    assert made.effects() == []
    made.contacts.found(candidate(WORKER, "worker", fingerprint="feed"), 0)
    (note,) = made.effects()
    assert isinstance(note, Note)
    assert "with another key" in note.text
    assert note.once


def test_failed_dials_come_ever_more_seldom_until_forgotten() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    now_ms, last_ms, waits = 0, 0, []
    while WORKER in made.contacts.known:
        if of(made.effects(), Dial):
            waits.append(now_ms - last_ms)
            last_ms = now_ms
            made.contacts.dialled(WORKER, "", now_ms)
        now_ms += 100
        made.contacts.tick(now_ms)
    assert waits[1:4] == [REDIAL_MS_MIN, 2 * REDIAL_MS_MIN, 4 * REDIAL_MS_MIN]
    assert max(waits) == REDIAL_MS_MAX
    assert CANDIDATE_FORGOTTEN_MS <= now_ms <= CANDIDATE_FORGOTTEN_MS + 2 * REDIAL_MS_MAX


def test_connection_over_which_nobody_greets_is_given_up_and_other_addresses_tried() -> None:
    made = Fixture()
    found = candidate(WORKER, "worker", endpoints=("tcp://a:1", "tcp://b:1"))
    made.contacts.found(found, 0)
    made.contacts.dialled(WORKER, "tcp://a:1", 5)
    made.effects()
    made.contacts.tick(5 + REDIAL_MS_MAX)
    hangup, dial = made.effects()
    assert hangup == Hangup(WORKER)
    assert isinstance(dial, Dial)
    assert dial.candidate.endpoints == ("tcp://b:1", "tcp://a:1")


def test_nobody_waits_for_long_for_one_that_answers_and_never_greets() -> None:
    """As a process does that is stopped: the kernel takes the connection."""
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    contact = made.contacts.known[WORKER]
    now_ms = 0
    while made.contacts.pending():
        made.contacts.dialled(WORKER, "tcp://a:1", now_ms)
        now_ms += REDIAL_MS_MAX
        made.contacts.tick(now_ms)
    assert contact.failing_ms(now_ms) <= 2 * REDIAL_MS_MAX
    made.contacts.dialled(WORKER, "tcp://a:1", now_ms)
    assert contact.failing_ms(now_ms + 60_000) > 60_000, "a connection is no answer"
    made.contacts.greeted(made.link(WORKER), hello(WORKER, "worker"))
    assert contact.failing_ms(now_ms) == 0


def test_linked_peer_is_not_dialled_again() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    made.contacts.dialled(WORKER, "tcp://a:1", 5)
    made.link(WORKER)
    made.effects()
    for now_ms in range(0, 60_000, 250):
        made.contacts.tick(now_ms)
    assert made.effects() == []


def test_lost_peer_is_dialled_again_soon() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    made.contacts.dialled(WORKER, "tcp://a:1", 5)
    made.effects()
    made.contacts.lost(WORKER)
    assert made.effects() == [Hangup(WORKER)]
    made.contacts.tick(5 + REDIAL_MS_MIN)
    assert made.dials() == [WORKER]


def test_process_that_has_ended_is_dialled_no_more() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    made.contacts.gone(WORKER, 1)
    assert WORKER not in made.contacts.known


def test_next_incarnation_survives_the_end_of_the_last() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker", epoch=2), 0)
    made.contacts.gone(WORKER, 1)
    made.contacts.found(candidate(WORKER, "worker", epoch=1), 0)  # stale news
    assert made.contacts.known[WORKER].candidate.epoch == 2


def test_answer_to_the_dial_of_an_earlier_incarnation_is_not_believed() -> None:
    """Its address may be somebody else's by now."""
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker", endpoints=("tcp://old:1",)), 0)
    newer = candidate(WORKER, "worker", epoch=2, endpoints=("tcp://new:1",))
    made.contacts.found(newer, 1)
    made.effects()
    made.contacts.dialled(WORKER, "tcp://old:1", 2)
    assert made.effects() == [Hangup(WORKER), Dial(newer)]


def test_answer_after_the_candidate_is_gone_hangs_up() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    made.contacts.gone(WORKER, 1)
    made.effects()
    made.contacts.dialled(WORKER, "tcp://a:1", 5)
    assert made.effects() == [Hangup(WORKER)]


def test_address_that_another_linked_process_has_now_is_not_dialled() -> None:
    """R_out's connection to it would be taken over, and dropped with the stale one."""
    made = Fixture()
    made.link(OTHER, endpoints=("tcp://a:1",))
    made.contacts.found(candidate(WORKER, "worker", endpoints=("tcp://a:1",)), 0)
    assert made.dials() == []
    elsewhere = candidate(b"worker-3", "worker", endpoints=("tcp://a:1",), host_id=b"another")
    made.contacts.found(elsewhere, 0)
    assert made.dials() == [b"worker-3"], "on another host the same address is another one"


def test_own_address_is_not_dialled_as_that_of_another_node() -> None:
    """Who was there before had another id, and its entry is still around."""
    made = Fixture()
    made.contacts.hello.endpoints = ["tcp://a:1"]
    made.contacts.found(candidate(WORKER, "worker", endpoints=("tcp://a:1",)), 0)
    assert made.dials() == []
    made.contacts.found(candidate(WORKER, "worker", endpoints=("tcp://b:1",)), REDIAL_MS_MIN)
    (dial,) = of(made.effects(), Dial)
    assert dial.candidate.endpoints == ("tcp://b:1",)


def test_candidate_whose_address_turned_out_to_be_anothers_is_dropped() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker", endpoints=("tcp://a:1",)), 0)
    made.contacts.dialled(WORKER, "tcp://a:1", 5)
    link = made.link(OTHER, endpoints=("tcp://a:1",))
    assert link.peer is not None
    made.contacts.greeted(link, link.peer)
    assert WORKER not in made.contacts.known


def test_found_by_is_remembered_on_the_link() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker", source="mdns"), 0)
    made.contacts.dialled(WORKER, "tcp://a:1", 5)
    link = made.link(WORKER)
    assert link.peer is not None
    made.contacts.greeted(link, link.peer)
    assert (link.source, link.endpoint) == ("mdns", "tcp://a:1")


def test_candidates_are_bounded_and_linked_ones_stay() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    made.link(WORKER)
    for n in range(CANDIDATES_COUNT_MAX + 50):
        made.contacts.found(candidate(b"%08d" % n, "producer"), 0)
    assert len(made.contacts.known) == CANDIDATES_COUNT_MAX
    assert WORKER in made.contacts.known


def test_pending_until_linked_or_given_up() -> None:
    made = Fixture()
    assert not made.contacts.pending()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    assert made.contacts.pending()
    made.link(WORKER)
    assert not made.contacts.pending()
    made.links.clear()
    for now_ms in (0, 1_000, 2_000):
        made.contacts.tick(now_ms)
        made.contacts.dialled(WORKER, "", now_ms)
    assert not made.contacts.pending()


def test_who_is_dialled_still_can_be_asked_for_by_role() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, "worker"), 0)
    assert made.contacts.pending()
    assert made.contacts.pending("worker")
    assert not made.contacts.pending("broker")
    made.link(WORKER)
    assert not made.contacts.pending("worker")


def test_a_node_that_drains_is_dialled_by_who_wants_everybody_only() -> None:
    made = Fixture()
    made.contacts.found(candidate(WORKER, DRAINING), 0)
    made.contacts.need(frozenset(("worker", "broker", "store")), frozenset(), 5)
    assert made.dials() == []
    made.contacts.want_all(10)
    assert made.dials() == [WORKER]


# --- nodes of one name ----------------------------------------------------------------------


def _worker_contacts() -> Contacts:
    return Contacts(hello(WORKER, "worker"), "mesh", "", frozenset(), {})


def test_two_nodes_of_one_name_are_told_of_each_other_with_both_ids() -> None:
    contacts = _worker_contacts()
    contacts.found(candidate(OTHER, "worker", name=WORKER.decode()), 0)
    (note,) = of(contacts.effects, Note)
    assert note.event == "peer.same_name"
    assert WORKER.hex() in note.text
    assert OTHER.hex() in note.text
    assert "--name" in note.text


def test_a_link_tells_of_one_name_where_its_address_alone_was_known() -> None:
    contacts = _worker_contacts()
    link = Link(link_to(OTHER, "in"), 1, 0)
    twin = hello(OTHER, "broker")
    twin.name = WORKER.decode()
    contacts.greeted(link, twin)
    assert [note.event for note in of(contacts.effects, Note)] == ["peer.same_name"]


def test_names_of_applications_and_of_what_the_cache_remembers_are_nobodys_trouble() -> None:
    contacts = _worker_contacts()
    name = WORKER.decode()
    contacts.found(candidate(OTHER, "producer", name=name), 0)
    contacts.found(candidate(b"worker-3", "worker", name=name, source="cache"), 0)
    contacts.found(candidate(b"worker-4", "worker", name="w4"), 0)
    assert of(contacts.effects, Note) == []
