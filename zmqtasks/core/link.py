"""One link: a numbered stream of messages in each direction to one peer incarnation.

``send()`` returning means nothing in ZeroMQ: what is in a pipe dies with its connection
and no error tells. So each message of the stream carries a number and the last number
received; what is not acknowledged is kept and sent again when the connection comes
back (HELLO says where to go on) or when the peer notices a gap (NAK). Within one pair of
*sessions* every message is thus delivered once and in order. When either side gives
the other up it forgets the stream and starts a new session; messages of older
sessions change nothing.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from zmqtasks.core.links import LinkId
from zmqtasks.limits import UNACKED_BYTES_MAX, UNACKED_MESSAGES_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Hello, Message, Nak


class LinkState(Enum):
    """GREETING until both sides know each other's session, then UP.

    SUSPECT: the connection dropped, the peer may come back. STALLED: connected but
    silent, so it gets no new work.
    """

    GREETING = "greeting"
    UP = "up"
    STALLED = "stalled"
    SUSPECT = "suspect"


class Link:
    """State of one link; changed only by :class:`Membership`."""

    __slots__ = (
        "connected", "echo_ms", "echo_seen_ms", "endpoint", "gone_ms", "has_left", "head",
        "hello_sent_ms", "id",
        "last_nak_ms", "last_rx_ms", "lease_lost", "lease_until_ms", "peer", "peer_session",
        "queued", "running", "rx_seq", "rx_unacked", "session", "source", "state",
        "rx_unacked_bytes", "tx_seq", "unacked", "unacked_bytes",
    )  # fmt: skip

    def __init__(self, link_id: LinkId, session: int, now_ms: int) -> None:
        self.id = link_id
        self.state = LinkState.GREETING
        #: Our and the peer's session; the latter 0 until its HELLO.
        self.session = session
        self.peer_session = 0
        #: The peer's HELLO, None before it.
        self.peer: Hello | None = None
        #: Last numbers sent and received, and what was sent but not acknowledged.
        self.tx_seq = 0
        self.rx_seq = 0
        self.rx_unacked = 0
        self.rx_unacked_bytes = 0
        self.unacked: deque[tuple[int, list[bytes]]] = deque()
        self.unacked_bytes = 0
        self.last_rx_ms = now_ms
        #: The peer said goodbye on another link, so its end is no loss.
        self.has_left = False
        #: When to give it up, since its process has ended; -1: it has not.
        self.gone_ms = -1
        self.last_nak_ms = -1_000_000
        self.hello_sent_ms = -1_000_000
        #: False after the socket said so; only the dialling side is told at once.
        self.connected = True
        #: The peer's own clock as last heard, and when (for the echo).
        self.echo_ms = 0
        self.echo_seen_ms = 0
        self.lease_until_ms = 0
        self.lease_lost = False
        #: Last heartbeat's news.
        self.queued = 0
        self.running = 0
        self.head = 0
        #: How the peer was found and at which address it was dialled ("" if it dialled).
        self.source = ""
        self.endpoint = ""

    @property
    def is_open(self) -> bool:
        """True once both ends know each other, until one gives up."""
        return self.state is not LinkState.GREETING

    def frames_of(self, message: Message) -> list[bytes]:
        """Frames of a message outside the stream."""
        self._acknowledge()
        return codec.encode(message, self.session, self.peer_session, 0, self.rx_seq)

    def number(self, message: Message) -> list[bytes]:
        """Frames of the stream's next message, kept until acknowledged."""
        self.tx_seq += 1
        self._acknowledge()
        frames = codec.encode(message, self.session, self.peer_session, self.tx_seq, self.rx_seq)
        self.unacked.append((self.tx_seq, frames))
        self.unacked_bytes += sum(map(len, frames))
        return frames

    def _acknowledge(self) -> None:
        """Whatever leaves now tells how far we are."""
        self.rx_unacked = self.rx_unacked_bytes = 0

    def acknowledged(self, seq: int) -> None:
        """The peer has everything up to ``seq``."""
        unacked = self.unacked
        while unacked and unacked[0][0] <= seq:
            self.unacked_bytes -= sum(map(len, unacked.popleft()[1]))

    def resend_after(self, seq: int) -> list[list[bytes]]:
        """Frames of everything above ``seq``, with fresh headers."""
        self.acknowledged(seq)
        for number, frames in self.unacked:
            codec.renumber(frames, self.session, self.peer_session, number, self.rx_seq)
        self._acknowledge()
        return [frames for _, frames in self.unacked]

    def accepts(self, seq: int, size: int) -> bool:
        """Take the number of a received message of so many bytes; False if it is not the
        next one."""
        if seq != self.rx_seq + 1:
            return False
        self.rx_seq = seq
        self.rx_unacked += 1
        self.rx_unacked_bytes += size
        return True

    @property
    def wants_ack(self) -> bool:
        """True when the peer should be told now how far we are."""
        return self.rx_unacked >= UNACKED_MESSAGES_MAX or self.rx_unacked_bytes >= UNACKED_BYTES_MAX

    def nak(self) -> Nak:
        """The request to go on after what we have."""
        return Nak(self.rx_seq)
