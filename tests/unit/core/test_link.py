"""The numbered stream of one link."""

from __future__ import annotations

from tests.support.machines import OWNER, link_to
from zmqtasks.core.link import Link, LinkState
from zmqtasks.limits import UNACKED_MESSAGES_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Credit, Nak


def link() -> Link:
    made = Link(link_to(OWNER), session=5, now_ms=0)
    made.peer_session = 9
    return made


def numbers_of(frames: list[list[bytes]]) -> list[int]:
    return [codec.decode_header(parts).seq for parts in frames]


def test_messages_are_numbered_from_one_and_kept() -> None:
    sender = link()
    frames = [sender.number(Credit(n)) for n in (10, 20)]
    assert numbers_of(frames) == [1, 2]
    assert [seq for seq, _ in sender.unacked] == [1, 2]
    assert codec.decode_header(frames[0])[1:] == (5, 9, 1, 0)


def test_messages_outside_the_stream_have_no_number_and_are_not_kept() -> None:
    sender = link()
    frames = sender.frames_of(Nak(0))
    assert codec.decode_header(frames).seq == 0
    assert not sender.unacked


def test_acknowledgements_are_cumulative() -> None:
    sender = link()
    for n in range(5):
        sender.number(Credit(n))
    sender.acknowledged(3)
    assert [seq for seq, _ in sender.unacked] == [4, 5]
    sender.acknowledged(2)  # late news
    assert [seq for seq, _ in sender.unacked] == [4, 5]


def test_what_is_sent_again_keeps_its_number_and_tells_the_newest_acknowledgement() -> None:
    sender = link()
    for n in range(3):
        sender.number(Credit(n))
    sender.rx_seq = 17
    again = sender.resend_after(1)
    assert numbers_of(again) == [2, 3]
    header, message = codec.decode(again[0])
    assert header.ack == 17
    assert message == Credit(1)
    assert len(sender.unacked) == 2, "still not acknowledged"


def test_only_the_next_number_is_accepted() -> None:
    receiver = link()
    assert receiver.accepts(1, 0)
    assert not receiver.accepts(1, 0), "again"
    assert not receiver.accepts(3, 0), "a gap"
    assert receiver.accepts(2, 0)
    assert receiver.nak() == Nak(2)


def test_acknowledgement_is_due_after_many_messages_without_an_answer() -> None:
    receiver = link()
    for seq in range(1, UNACKED_MESSAGES_MAX + 1):
        assert not receiver.wants_ack
        receiver.accepts(seq, 0)
    assert receiver.wants_ack
    receiver.number(Credit(1))
    assert not receiver.wants_ack, "every message carries it"


def test_link_is_open_from_the_greeting_on() -> None:
    made = link()
    assert not made.is_open
    for state in (LinkState.UP, LinkState.STALLED, LinkState.SUSPECT):
        made.state = state
        assert made.is_open
