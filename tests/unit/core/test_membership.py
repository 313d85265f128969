"""Links between two nodes: greeting, loss, silence, and who is believed to be gone."""

from __future__ import annotations

import pytest

from tests.support.machines import (
    ADD,
    OWNER,
    TIMERS,
    WORKER,
    Wire,
    hello,
    link_to,
    of,
    worker_hello,
)
from zmqtasks.core.effects import CheckGone, Hangup, Note, Transmit
from zmqtasks.core.link import Link, LinkState
from zmqtasks.core.linkevents import Delivered, LeaseBack, LeaseLost, LinkDown, LinkPaused, LinkUp
from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.limits import PEERS_COUNT_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Credit, Demand, Error, ErrorCode, Hello, Inspect, Message


@pytest.fixture
def wire() -> Wire:
    """A producer that has dialled a worker; the link is up."""
    made = Wire(hello(OWNER, "producer"), worker_hello())
    made.probe()
    assert [up.peer.node for up in made.take_events("one", LinkUp)] == [WORKER]
    assert [up.peer.node for up in made.take_events("other", LinkUp)] == [OWNER]
    return made


def messages(wire: Wire, end: str) -> list[Message]:
    delivered = wire.take_events(end, Delivered)
    return [event.message for event in delivered if isinstance(event.message, (Credit, Demand))]


# --- greeting -----------------------------------------------------------------------------


def test_greeting_tells_both_ends_what_the_other_is(wire: Wire) -> None:
    link = wire.one.links[wire.to_other]
    assert link.state is LinkState.UP
    assert link.peer is not None
    assert link.peer.catalog[0].name == ADD.name
    other = wire.other.links[wire.to_one]
    assert (link.session, link.peer_session) == (other.peer_session, other.session)


def test_messages_arrive_once_and_in_order(wire: Wire) -> None:
    for n in range(5):
        wire.one.send(wire.to_other, Demand(n))
    wire.collect()
    wire.held["other"] += wire.held["other"]  # all of it twice
    wire.pump()
    assert messages(wire, "other") == [Demand(n) for n in range(5)]


def test_nothing_is_sent_before_the_greeting() -> None:
    made = Wire(hello(OWNER, "producer"), worker_hello())
    assert not made.one.send(made.to_other, Demand(1))


def test_peer_of_another_mesh_is_refused_and_both_say_why() -> None:
    made = Wire(hello(OWNER, "producer", mesh=b"elsewher"), worker_hello())
    made.probe()
    assert not made.one.links
    assert not made.other.links
    texts = [note.text for note in of(made.effects, Note)]
    assert any("another mesh than 'mesh'" in text for text in texts)


def test_peer_without_a_common_version_is_refused() -> None:
    old = hello(OWNER, "producer")
    old.version_min = old.version_max = 7
    made = Wire(old, worker_hello())
    made.probe()
    assert not made.other.links
    assert any("upgrade the older one" in note.text for note in of(made.effects, Note))


def test_peer_whose_routing_id_is_not_its_own_is_refused() -> None:
    node = Membership(worker_hello(), "mesh", "", frozenset(), TIMERS, 0)
    thief = hello(b"somebody", "producer")
    thief.session = 1
    node.frames_received(link_to(OWNER, "in"), codec.encode(thief, 1), "", 0)
    errors = [codec.decode(e.frames)[1] for e in of(node.effects, Transmit)]
    assert any(isinstance(m, Error) and m.code == ErrorCode.UNKNOWN_LINK for m in errors)
    assert not node.links


def test_a_node_has_no_link_to_itself() -> None:
    """An old address of another node led to its own."""
    node = Membership(worker_hello(), "mesh", "", frozenset(), TIMERS, 0)
    for side in ("out", "in"):
        node.frames_received(link_to(WORKER, side), [], "", 0)
        node.frames_received(link_to(WORKER, side), codec.encode(worker_hello(), 1), "", 0)
    assert not node.links
    assert not of(node.effects, Transmit)


def test_who_is_no_node_may_ask_for_the_greeting_only() -> None:
    node = Membership(worker_hello(), "mesh", "", frozenset(), TIMERS, 0)
    stranger = link_to(OWNER, "in")._replace(peer=b"\x00abcd")
    node.frames_received(stranger, codec.encode(Inspect(0, "hello")), "", 0)
    answers = [codec.decode(effect.frames)[1] for effect in of(node.effects, Transmit)]
    assert [type(answer) for answer in answers] == [Hello]
    assert not node.links


def test_garbage_is_counted_and_logged_once_per_peer() -> None:
    node = Membership(worker_hello(), "mesh", "", frozenset(), TIMERS, 0)
    for _ in range(3):
        node.frames_received(link_to(OWNER, "in"), [b"GET / HTTP/1.1"], "10.0.0.9", 0)
    assert node.garbage_count == 3
    assert [note.event for note in of(node.effects, Note)] == ["peer.garbage"]
    assert not node.links


def test_links_are_bounded() -> None:
    node = Membership(worker_hello(), "mesh", "", frozenset(), TIMERS, 0)
    for n in range(PEERS_COUNT_MAX + 1):
        node.frames_received(link_to(n.to_bytes(8, "big"), "in"), [], "", 0)
    assert len(node.links) == PEERS_COUNT_MAX
    assert "links already" in of(node.effects, Note)[-1].text


# --- loss ---------------------------------------------------------------------------------


def test_what_was_in_the_pipes_is_sent_again_when_the_connection_is_back(wire: Wire) -> None:
    wire.one.send(wire.to_other, Demand(1))
    wire.other.send(wire.to_one, Credit(1))
    wire.collect()
    wire.cut()
    wire.one.send(wire.to_other, Demand(2))
    wire.collect()
    assert [event.paused for event in wire.take_events("one", LinkPaused)] == [True]
    wire.probe()
    assert messages(wire, "other") == [Demand(1), Demand(2)]
    assert messages(wire, "one") == [Credit(1)]


def test_gap_without_a_disconnect_is_noticed_by_the_next_message(wire: Wire) -> None:
    wire.one.send(wire.to_other, Demand(1))
    wire.collect()
    wire.held["other"].clear()
    wire.one.send(wire.to_other, Demand(2))
    wire.pump()
    assert messages(wire, "other") == [Demand(1), Demand(2)]


def test_lost_last_message_is_noticed_by_the_heartbeat(wire: Wire) -> None:
    wire.one.send(wire.to_other, Demand(1))
    wire.collect()
    wire.held["other"].clear()
    wire.pass_time(TIMERS.heartbeat_ms + 250)
    assert messages(wire, "other") == [Demand(1)]


def test_heartbeats_acknowledge(wire: Wire) -> None:
    wire.one.send(wire.to_other, Demand(1))
    wire.pass_time(TIMERS.heartbeat_ms + 250)
    assert not wire.one.links[wire.to_other].unacked


def test_peer_that_forgot_the_link_starts_it_anew_on_both_sides(wire: Wire) -> None:
    wire.one.send(wire.to_other, Demand(1))
    wire.collect()
    wire.cut()
    del wire.other.links[wire.to_one]
    wire.probe()
    assert [down.reason for down in wire.take_events("one", LinkDown)] == ["reset"]
    link, other = wire.one.links[wire.to_other], wire.other.links[wire.to_one]
    assert link.state is other.state is LinkState.UP
    assert (link.session, link.peer_session) == (other.peer_session, other.session)
    assert not link.unacked, "the old stream is gone with its session"


def test_two_ends_that_both_forgot_do_not_reset_each_other_for_ever(wire: Wire) -> None:
    """Each opened a session and reset it again for the other's new one."""
    wire.one.send(wire.to_other, Demand(1))
    wire.cut()
    del wire.one.links[wire.to_other]
    wire.probe()  # the other end still knows the old session
    assert wire.one.links[wire.to_other].state is LinkState.UP
    assert wire.other.links[wire.to_one].state is LinkState.UP
    assert wire.one.links[wire.to_other].session <= 2


def test_late_greeting_of_an_earlier_session_changes_nothing(wire: Wire) -> None:
    stale = hello(OWNER, "producer")
    stale.session = 0
    before = wire.other.links[wire.to_one]
    wire.other.frames_received(wire.to_one, codec.encode(stale), "", 0)
    assert wire.other.links[wire.to_one] is before
    assert not wire.other.events


# --- who is gone --------------------------------------------------------------------------


def test_dropped_connection_asks_whether_the_process_is_gone(wire: Wire) -> None:
    wire.cut()
    wire.one.connection_lost(wire.one.links[wire.to_other].endpoint, 0)
    wire.one.send_failed(wire.to_other, 0)
    wire.collect()
    assert of(wire.effects, CheckGone) == [CheckGone(wire.to_other)]
    wire.one.peer_gone(wire.to_other, 0)
    wire.pass_time(500)
    assert [down.reason for down in wire.take_events("one", LinkDown)] == ["gone"]
    assert Hangup(WORKER) in wire.effects


def test_process_that_ends_after_its_connection_is_asked_about_again(wire: Wire) -> None:
    wire.cut()
    wire.one.send_failed(wire.to_other, 0)
    wire.collect()
    asked = [CheckGone(wire.to_other)]
    assert of(wire.effects, CheckGone) == asked  # it was there: no answer
    wire.pass_time(TIMERS.heartbeat_ms)
    again = [check for check in of(wire.effects, CheckGone) if check in asked]
    assert again == 2 * asked


def test_ended_process_is_lost_on_both_of_its_links_at_once(wire: Wire) -> None:
    back = wire.dial_back()
    assert [up.link for up in wire.take_events("one", LinkUp)] == [back]
    wire.cut()
    for link in (wire.to_other, back):
        wire.one.send_failed(link, wire.now_ms)
    wire.one.peer_gone(wire.to_other, wire.now_ms)
    wire.pass_time(500)
    downs = wire.take_events("one", LinkDown)
    assert [(down.link, down.reason) for down in downs] == [
        (wire.to_other, "gone"), (back, "gone")
    ]  # fmt: skip


def test_silence_on_both_signals_is_lost_after_lost_ms(wire: Wire) -> None:
    wire.cut()
    wire.pass_time(TIMERS.lost_ms - 500)
    assert not of(wire.events["one"], LinkDown)
    wire.pass_time(1_500)
    assert [down.reason for down in wire.take_events("one", LinkDown)] == ["silent"]


def test_connected_but_silent_peer_gets_no_work_and_is_lost_much_later(wire: Wire) -> None:
    def tick_one_until(end_ms: int) -> None:
        while wire.now_ms < end_ms:
            wire.now_ms += 250
            wire.one.tick(wire.now_ms)
            wire.collect()
            wire.held["other"].clear()

    tick_one_until(TIMERS.stalled_ms + 250)
    assert [event.paused for event in wire.take_events("one", LinkPaused)] == [True]
    assert wire.one.links[wire.to_other].state is LinkState.STALLED
    tick_one_until(TIMERS.stalled_lost_ms - 500)
    assert wire.to_other in wire.one.links
    tick_one_until(TIMERS.stalled_lost_ms + 500)
    assert wire.to_other not in wire.one.links


def test_stalled_peer_that_speaks_again_gets_work_again(wire: Wire) -> None:
    link = wire.one.links[wire.to_other]
    link.state = LinkState.STALLED
    wire.other.send(wire.to_one, Credit(1))
    wire.pump()
    assert [event.paused for event in wire.take_events("one", LinkPaused)] == [False]


def test_late_judge_judges_nobody(wire: Wire) -> None:
    """Its own loop was stuck, so it is the one that has not listened."""
    wire.cut()
    wire.one.links[wire.to_other].connected = False
    wire.now_ms += 10_000
    wire.one.tick(wire.now_ms)
    assert not of(wire.one.events, LinkDown)


def test_newer_incarnation_replaces_the_older_at_once(wire: Wire) -> None:
    newer = hello(OWNER, "producer", epoch=2)
    newer.session = 1
    wire.other.frames_received(link_to(OWNER, "in", epoch=2), codec.encode(newer, 1), "", 0)
    downs = of(wire.other.events, LinkDown)
    assert [(down.peer.epoch, down.reason) for down in downs] == [(1, "replaced")]


def test_older_incarnation_is_refused(wire: Wire) -> None:
    newer = hello(OWNER, "producer", epoch=3)
    newer.session = 1
    wire.other.frames_received(link_to(OWNER, "in", epoch=3), codec.encode(newer, 1), "", 0)
    stale = hello(OWNER, "producer", epoch=2)
    stale.session = 1
    wire.other.effects.clear()
    wire.other.frames_received(link_to(OWNER, "in", epoch=2), codec.encode(stale, 1), "", 0)
    errors = [codec.decode(e.frames)[1] for e in of(wire.other.effects, Transmit)]
    assert any(isinstance(m, Error) and m.code == ErrorCode.STALE_EPOCH for m in errors)


def test_goodbye_ends_the_link_after_all_that_was_said_before(wire: Wire) -> None:
    wire.other.send(wire.to_one, Credit(5))
    wire.other.say_goodbye("drained")
    wire.pump()
    events = wire.events["one"]
    kinds = [type(e) for e in events if isinstance(e, LinkDown) or _is_credit(e)]
    assert kinds == [Delivered, LinkDown]
    assert of(events, LinkDown)[0].reason == "left"


def test_second_link_of_a_node_that_said_goodbye_is_not_lost(wire: Wire) -> None:
    wire.pump()
    second = Link(LinkId("in", wire.to_other.peer), 99, 0)
    second.state, second.peer = LinkState.UP, hello(WORKER, "worker")
    wire.one.links[second.id] = second
    wire.other.say_goodbye("drained")
    wire.pump()
    wire.one.candidate_gone(WORKER, 1, 1_000)
    wire.one.tick(2_000)
    downs = of(wire.events["one"], LinkDown) + of(wire.one.events, LinkDown)
    assert {(down.link, down.reason) for down in downs} == {
        (wire.to_other, "left"),
        (second.id, "left"),
    }
    notes = of(wire.effects, Note) + of(wire.one.effects, Note)
    assert not any(note.event == "peer.lost" for note in notes)


def _is_credit(event: object) -> bool:
    return isinstance(event, Delivered) and isinstance(event.message, Credit)


def test_end_of_a_process_told_by_its_directory_entry_counts_soon(wire: Wire) -> None:
    wire.one.candidate_gone(WORKER, 1, 0)
    wire.pass_time(500)
    assert [down.reason for down in of(wire.events["one"], LinkDown)] == ["gone"]


# --- leases -------------------------------------------------------------------------------


def test_lease_is_renewed_by_the_echo_of_own_heartbeats(wire: Wire) -> None:
    wire.pass_time(10_000)
    assert not of(wire.events["other"], LeaseLost)


def test_lease_ends_before_the_peer_is_given_up_and_comes_back(wire: Wire) -> None:
    wire.cut()
    wire.pass_time(TIMERS.lease_ms + 500)
    assert of(wire.events["other"], LeaseLost) == [LeaseLost(wire.to_one)]
    assert not of(wire.events["one"], LinkDown)
    wire.probe()
    wire.pass_time(2 * TIMERS.heartbeat_ms + 500)
    assert of(wire.events["other"], LeaseBack) == [LeaseBack(wire.to_one)]


def test_lease_is_not_renewed_by_hearing_a_peer_that_hears_nothing(wire: Wire) -> None:
    """A one-way cut: the owner's heartbeats come, with ever older echoes."""
    end_ms = wire.now_ms + TIMERS.lease_ms + 1_500
    while wire.now_ms < end_ms:
        wire.now_ms += 250
        wire.one.tick(wire.now_ms)
        wire.other.tick(wire.now_ms)
        wire.collect()
        wire.held["one"].clear()
        wire.deliver("other")
    wire.collect()
    assert of(wire.events["other"], LeaseLost)


def test_old_heartbeats_read_after_a_pause_do_not_renew(wire: Wire) -> None:
    wire.now_ms += 1_250
    wire.one.tick(wire.now_ms)
    wire.other.tick(wire.now_ms)
    wire.pump()
    wire.now_ms += 1_000
    wire.one.tick(wire.now_ms)
    wire.collect()  # a heartbeat waits at the worker, whose loop is stuck
    wire.now_ms += TIMERS.lease_ms
    wire.deliver("other")
    wire.other.tick(wire.now_ms)
    assert of(wire.other.events, LeaseLost)
    assert not of(wire.other.events, LeaseBack)


def test_heartbeat_tells_how_far_results_are_stored(wire: Wire) -> None:
    wire.other.stored = 12
    wire.pass_time(TIMERS.heartbeat_ms + 250)
    beats = [event.message for event in of(wire.events["one"], Delivered)]
    assert any(getattr(beat, "ext", {}) == {"s": 12} for beat in beats)
