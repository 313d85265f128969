"""Who is here: links to peers, their epochs, and the verdict on silent ones.

::

    candidate --Dial--> (connected) --probe/HELLO--> GREETING --HELLO+WELCOME--> UP
    UP <--> STALLED (connected, but silent)      UP/STALLED --disconnect--> SUSPECT
    SUSPECT --HELLO of the same session--> UP    any --gone/silent/newer epoch--> lost

Two independent signals: the connection (ZMTP heartbeats, served by libzmq's own
thread) and our heartbeats (served by the loop). A process that is gone is told at once
by its kernel; a stuck loop keeps its connection; a frozen host loses both. Verdicts
wait while our own loop was late, since a busy judge sees false deaths.

What is ugly: the side that was dialled learns of a dropped connection only by sending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zmqtasks.core.contacts import Contact, Contacts
from zmqtasks.core.effects import CheckGone, Effect, Note, Transmit
from zmqtasks.core.link import Link, LinkState
from zmqtasks.core.linkevents import (
    Delivered,
    LeaseBack,
    LeaseLost,
    LinkDown,
    LinkPaused,
    LinkUp,
    MemberEvent,
    PeerChanged,
    Timers,
    changing,
)
from zmqtasks.core.links import Candidate, LinkId
from zmqtasks.errors import RemoteProtocolError
from zmqtasks.ids import format_node, parse_routing_id
from zmqtasks.limits import PEERS_COUNT_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Ack,
    Bye,
    Error,
    ErrorCode,
    Heartbeat,
    Hello,
    Inspect,
    Message,
    Nak,
    Welcome,
)

#: A loop late by more than this judges nobody this turn.
_LATE_MS = 1_000
_NAK_EVERY_MS = 100
#: From the news that a process has ended to giving it up: what it sent before is read
#: first, so that a goodbye is not taken for a crash nor a finished task run again.
_LAST_WORDS_MS = 30
_NEVER_MS = 1 << 62
_WHY_LOST = {
    "gone": "its process has ended",
    "silent": "nothing was heard of it for too long",
    "replaced": "a newer process took its place",
}


class Membership:
    """The links of one node.

    ``effects`` and ``events`` are drained by the owner after each call.

    Args:
        hello: what this node says of itself; ``session`` etc. are filled in per link.
        fingerprint: of the mesh key, "" without one.
        dial_roles: peers with one of these roles are dialled when found.
        timers: see :class:`Timers`.
    """

    def __init__(
        self, hello: Hello, mesh_name: str, fingerprint: str, dial_roles: frozenset[str],
        timers: Timers, now_ms: int,
    ) -> None:  # fmt: skip
        self.hello = hello
        self.mesh_name = mesh_name
        self.timers = timers
        self.effects: list[Effect] = []
        self.events: list[MemberEvent] = []
        #: {LinkId: Link}, all that are not lost.
        self.links: dict[LinkId, Link] = {}
        self.contacts = Contacts(hello, mesh_name, fingerprint, dial_roles, self.links)
        #: Reported in heartbeats.
        self.queued = 0
        self.running = 0
        self.head = 0
        #: See ``ResultLog.stored_upto``.
        self.stored = -1
        #: Goodbye has been said.
        self.leaving = False
        #: Messages dropped because they broke the protocol.
        self.garbage_count = 0
        self._garbled: set[bytes] = set()
        self._session = 0
        self._next_beat_ms = now_ms + timers.heartbeat_ms
        self._last_tick_ms = now_ms
        self._next_gone_ms = _NEVER_MS

    # --- candidates ---------------------------------------------------------------------

    def candidate_found(self, candidate: Candidate, now_ms: int) -> None:
        """A peer was heard of; it is dialled if it is one of ours and its role is wanted."""
        self.contacts.found(candidate, now_ms)
        self._take_dials()

    def want_all(self, now_ms: int) -> None:
        """Dial everybody of this mesh from now on."""
        self.contacts.want_all(now_ms)
        self._take_dials()

    def need(self, roles: frozenset[str], nodes: frozenset[bytes], now_ms: int) -> None:
        """Dial peers with one of these roles, and these nodes, too, until this is taken back."""
        self.contacts.need(roles, nodes, now_ms)
        self._take_dials()

    def dialled(self, node: bytes, endpoint: str, now_ms: int) -> None:
        """The dialler found an address that answers ("": none does)."""
        self.contacts.dialled(node, endpoint, now_ms)
        self._take_dials()

    def candidate_gone(self, node: bytes, epoch: int, now_ms: int) -> None:
        """Its same-host entry says that this process has ended."""
        linked = [
            link
            for link in self._links_of(node)
            if link.peer is not None and link.peer.epoch <= epoch
        ]
        for link in linked:
            self._give_up_soon(link, now_ms)
        if not linked:
            self.contacts.gone(node, epoch)
        self._take_dials()

    @property
    def candidates(self) -> Mapping[bytes, Contact]:
        """{node id: what we heard of it}, linked or not."""
        return self.contacts.known

    def pending_dials(self, role: str = "") -> bool:
        """True while some peer that we want (and that has this role) is neither linked nor
        given up on."""
        return self.contacts.pending(role)

    def _take_dials(self) -> None:
        if self.contacts.effects:
            self.effects += self.contacts.effects
            self.contacts.effects = []

    # --- frames -------------------------------------------------------------------------

    def frames_received(
        self, link_id: LinkId, frames: list[bytes], address: str, now_ms: int
    ) -> None:
        """Frames came in; an empty list is a probe of a fresh connection."""
        if link_id.peer[1:9] == self.hello.node:
            return  # an old address of somebody else leads here now
        link = self.links.get(link_id)
        if not frames or frames == [b""]:
            self._probed(link_id, link, now_ms)
            return
        try:
            header, message = codec.decode(frames)
        except RemoteProtocolError as exc:
            self._garbage(link_id, address, exc)
            return
        if self.leaving:
            if link is not None and header.peer_session == link.session:
                link.acknowledged(header.ack)
            return
        if link is None:
            link = self._first_contact(link_id, message, now_ms)
            if link is None:
                return
        link.last_rx_ms = now_ms
        if isinstance(message, Hello):
            self._hello(link, message, address, now_ms)
        elif isinstance(message, Welcome):
            self._welcome(link, message, now_ms)
        elif isinstance(message, Error):
            self._refused(link, message, now_ms)
        elif header.session != link.peer_session or header.peer_session != link.session:
            self._greet(link, now_ms)
        else:
            size = sum(map(len, frames))
            self._in_session(link, header, message, size, now_ms)

    def _in_session(
        self, link: Link, header: codec.Header, message: Message, size: int, now_ms: int
    ) -> None:
        if link.state is not LinkState.UP:
            if link.state is LinkState.GREETING:
                return
            self._resume(link)
        link.acknowledged(header.ack)
        if header.seq == 0:
            self._unnumbered(link, message, now_ms)
            return
        if not link.accepts(header.seq, size):
            if header.seq > link.rx_seq:
                self._ask_again(link, now_ms)
            return
        if link.wants_ack:
            self.effects.append(Transmit(link.id, link.frames_of(Ack())))
        if isinstance(message, Bye):
            # What is in a pipe dies with it, so the peer stays until it knows of this.
            self.effects.append(Transmit(link.id, link.frames_of(Ack())))
            self._drop(link, "left")
            for other in self._links_of(link.id.peer[1:9]):
                other.has_left = other.has_left or other.id.peer == link.id.peer
            return
        self.events.append(Delivered(link.id, message))

    def _unnumbered(self, link: Link, message: Message, now_ms: int) -> None:
        if isinstance(message, Heartbeat):
            link.echo_ms, link.echo_seen_ms = message.mono_ms, now_ms
            link.queued, link.running, link.head = message.queued, message.running, message.head
            if message.echo_ms:
                self._renew_lease(link, message.echo_ms, now_ms)
            self.events.append(Delivered(link.id, message))
            if message.tx_seq > link.rx_seq:
                self._ask_again(link, now_ms)
        elif isinstance(message, Nak):
            for frames in link.resend_after(message.rx_seq):
                self.effects.append(Transmit(link.id, frames))

    def _renew_lease(self, link: Link, echo_ms: int, now_ms: int) -> None:
        """The peer has heard what we sent at ``echo_ms`` by our own clock.

        Renewing by receipt would be unsound: after a pause a queue of old heartbeats
        waits here, and the peer may have given us up meanwhile.
        """
        link.lease_until_ms = max(link.lease_until_ms, echo_ms + self.timers.lease_ms)
        if link.lease_lost and now_ms <= link.lease_until_ms:
            link.lease_lost = False
            self.events.append(LeaseBack(link.id))

    def _ask_again(self, link: Link, now_ms: int) -> None:
        if now_ms - link.last_nak_ms >= _NAK_EVERY_MS:
            link.last_nak_ms = now_ms
            self.effects.append(Transmit(link.id, link.frames_of(link.nak())))

    def _garbage(self, link_id: LinkId, address: str, reason: Exception) -> None:
        self.garbage_count += 1
        if link_id.peer not in self._garbled and len(self._garbled) < PEERS_COUNT_MAX:
            self._garbled.add(link_id.peer)
            self.effects.append(Note(
                "warning", "peer.garbage",
                f"dropped what {address or 'a peer'} sent: {reason} (logged once per peer, "
                "counted in `zmqtasks status`)",
            ))  # fmt: skip

    # --- greeting -----------------------------------------------------------------------

    def _probed(self, link_id: LinkId, link: Link | None, now_ms: int) -> None:
        if parse_routing_id(link_id.peer) is None:
            return
        if link is None:
            link = self._open(link_id, now_ms)
            if link is None:
                return
        link.connected = True
        link.last_rx_ms = now_ms
        link.hello_sent_ms = -1_000_000
        self._greet(link, now_ms)

    def _first_contact(self, link_id: LinkId, message: Message, now_ms: int) -> Link | None:
        if parse_routing_id(link_id.peer) is None:
            if isinstance(message, Inspect) and message.what == "hello":
                self.effects.append(Transmit(link_id, codec.encode(self.hello)))
            return None
        if isinstance(message, (Error, Bye)):
            return None
        link = self._open(link_id, now_ms)
        if link is not None and not isinstance(message, Hello):
            self._greet(link, now_ms)
        return link

    def _open(self, link_id: LinkId, now_ms: int) -> Link | None:
        if len(self.links) >= PEERS_COUNT_MAX:
            text = f"this node has {PEERS_COUNT_MAX} links already"
            self._refuse(link_id, ErrorCode.TOO_MANY_PEERS, text)
            return None
        self._session += 1
        self.links[link_id] = link = Link(link_id, self._session, now_ms)
        return link

    def _greet(self, link: Link, now_ms: int) -> None:
        if now_ms - link.hello_sent_ms < _NAK_EVERY_MS:
            return
        link.hello_sent_ms = now_ms
        own = self.hello
        hello = Hello(
            own.node, own.epoch, link.session, link.peer_session, link.rx_seq, own.mesh,
            own.version_min, own.version_max, own.features, own.name, own.roles, own.host_id,
            own.pid, own.endpoints, own.pub_endpoints, own.pull_endpoints, own.slots, own.queues,
            own.catalog, own.ext,
        )  # fmt: skip
        self.effects.append(Transmit(link.id, link.frames_of(hello)))

    def announce(self, now_ms: int) -> None:
        """This node has changed: greet all peers again."""
        for link in self.links.values():
            if link.is_open:
                link.hello_sent_ms = -1_000_000
                self._greet(link, now_ms)

    def _hello(self, link: Link, hello: Hello, address: str, now_ms: int) -> None:
        if hello.session < link.peer_session:
            return  # a late HELLO of a session that its sender has given up
        refusal = self._judge(link, hello, address)
        if refusal is not None:
            self._refuse(link.id, *refusal)
            self._drop(link, "reset")
            return
        for other in self._links_of(hello.node):
            if other.peer is not None and other.peer.epoch < hello.epoch:
                self._lose(other, "replaced")
        if link.is_open and link.peer_session != hello.session:
            self._drop(link, "reset")
            fresh = self._open(link.id, now_ms)
            if fresh is None:
                return
            fresh.source, fresh.endpoint = link.source, link.endpoint
            link = fresh
        link.connected = True
        known = link.peer if link.is_open else None
        link.peer = hello
        link.peer_session = hello.session
        if known is not None and changing(known) != changing(hello):
            self.events.append(PeerChanged(link.id, hello))
        self.contacts.greeted(link, hello)
        if link.hello_sent_ms < 0 or hello.peer_session != link.session:
            self._greet(link, now_ms)
        welcome = Welcome(link.session, hello.session, link.rx_seq, codec.VERSION_MAJOR)
        self.effects.append(Transmit(link.id, link.frames_of(welcome)))
        if hello.peer_session == link.session:
            for frames in link.resend_after(hello.rx_seq):
                self.effects.append(Transmit(link.id, frames))
            if link.state in (LinkState.SUSPECT, LinkState.STALLED):
                self._resume(link)

    def _judge(self, link: Link, hello: Hello, address: str) -> tuple[ErrorCode, str] | None:
        own = self.hello
        where = f"'{hello.name}' at {address or 'this host'}"
        if parse_routing_id(link.id.peer) != (hello.node, hello.epoch):
            return ErrorCode.UNKNOWN_LINK, "the routing id does not belong to that node"
        if hello.mesh != own.mesh:
            text = f"{where} belongs to another mesh than '{self.mesh_name}'"
            return ErrorCode.WRONG_MESH, text
        if hello.version_max < own.version_min or hello.version_min > own.version_max:
            return ErrorCode.VERSION, (
                f"{where} speaks protocol versions {hello.version_min} to "
                f"{hello.version_max}, this node {own.version_min} to {own.version_max}: "
                "upgrade the older one"
            )
        for other in self._links_of(hello.node):
            if other.peer is not None and other.peer.epoch > hello.epoch:
                return ErrorCode.STALE_EPOCH, f"{where} has been replaced by a newer process"
        return None

    def _refuse(self, link_id: LinkId, code: ErrorCode, text: str) -> None:
        self.effects.append(Transmit(link_id, codec.encode(Error(code, text))))
        self.effects.append(
            Note("warning", "peer.refused", f"refused a peer: {text}", f"refused {code} {text}")
        )

    def _refused(self, link: Link, error: Error, now_ms: int) -> None:
        if error.code == ErrorCode.UNKNOWN_LINK:
            self._greet(link, now_ms)
            return
        self.effects.append(Note(
            "warning", "peer.refused_us", f"a peer refused this node: {error.text}",
            f"refused us {error.code} {error.text}",
        ))  # fmt: skip
        if link.is_open:
            self._drop(link, "left")
        else:
            del self.links[link.id]

    def _welcome(self, link: Link, welcome: Welcome, now_ms: int) -> None:
        if welcome.peer_session != link.session or welcome.session != link.peer_session:
            self._greet(link, now_ms)
            return
        if link.state is LinkState.GREETING:
            assert link.peer is not None
            link.state = LinkState.UP
            link.lease_until_ms = now_ms + self.timers.lease_ms
            self.events.append(LinkUp(link.id, link.peer))
            self._heartbeat(link, now_ms)
        elif link.state is not LinkState.UP:
            self._resume(link)

    def _resume(self, link: Link) -> None:
        paused = link.state in (LinkState.STALLED, LinkState.SUSPECT)
        link.state = LinkState.UP
        link.connected = True
        link.gone_ms = -1
        if paused:
            self.events.append(LinkPaused(link.id, False))

    # --- sending ------------------------------------------------------------------------

    def send(self, link_id: LinkId, message: Message) -> bool:
        """Put a message on a link's stream; False if there is no such link.

        While the link is suspect it waits with the unacknowledged ones.
        """
        link = self.links.get(link_id)
        if link is None or not link.is_open or self.leaving:
            return False
        frames = link.number(message)
        if link.connected:
            self.effects.append(Transmit(link_id, frames))
        return True

    def unacked_bytes(self, link_id: LinkId) -> int:
        """What was sent on a link and its peer has not acknowledged."""
        link = self.links.get(link_id)
        return link.unacked_bytes if link is not None else 0

    def send_failed(self, link_id: LinkId, now_ms: int) -> None:
        """The socket has no connection to that peer."""
        link = self.links.get(link_id)
        if link is not None:
            self._disconnected(link, now_ms)

    def connection_lost(self, endpoint: str, now_ms: int) -> None:
        """The socket monitor saw a dialled connection drop."""
        for link in self.links.values():
            if link.endpoint == endpoint and link.id.side == "out":
                self._disconnected(link, now_ms)

    def _disconnected(self, link: Link, now_ms: int) -> None:
        if not link.connected:
            return
        link.connected = False
        if not link.is_open:
            return
        paused = link.state is LinkState.STALLED
        link.state = LinkState.SUSPECT
        if not paused:
            self.events.append(LinkPaused(link.id, True))
        self.effects.append(CheckGone(link.id))

    def peer_gone(self, link_id: LinkId, now_ms: int) -> None:
        """The process behind a suspect link no longer exists, nor behind another one to it."""
        link = self.links.get(link_id)
        if link is None or link.state is not LinkState.SUSPECT:
            return
        for other in self._links_of(link_id.peer[1:9]):
            if other.id.peer == link_id.peer and other.state is LinkState.SUSPECT:
                self._give_up_soon(other, now_ms)

    def _ask_if_gone(self, link: Link) -> None:
        """It may have ended after its connection did."""
        if link.state is LinkState.SUSPECT and link.gone_ms < 0:
            self.effects.append(CheckGone(link.id))

    def _give_up_soon(self, link: Link, now_ms: int) -> None:
        """Its last words, a goodbye or outcomes, may still be in our sockets."""
        if link.gone_ms < 0:
            link.gone_ms = now_ms + _LAST_WORDS_MS
            self._next_gone_ms = min(self._next_gone_ms, link.gone_ms)

    def say_goodbye(self, reason: str) -> None:
        """Tell every peer that this node leaves; nothing else is said or heard after."""
        for link in list(self.links.values()):
            if link.is_open and link.id.side != "self":
                self.send(link.id, Bye(reason))
        self.leaving = True

    @property
    def is_heard(self) -> bool:
        """Every peer that can be reached has all that was sent to it."""
        return not any(link.unacked and link.connected for link in self.links.values())

    # --- time ---------------------------------------------------------------------------

    def next_deadline_ms(self) -> int:
        """When ``tick`` is wanted next."""
        if self.leaving:
            return _NEVER_MS
        return min(
            self._next_beat_ms,
            self._next_gone_ms,
            self._last_tick_ms + self.timers.heartbeat_ms // 4,
        )

    def tick(self, now_ms: int) -> None:
        """Send heartbeats that are due, judge silent peers, dial again."""
        if self.leaving:
            return
        late_ms = now_ms - self._last_tick_ms - self.timers.heartbeat_ms // 4
        self._last_tick_ms = now_ms
        if late_ms > _LATE_MS:
            for link in self.links.values():
                link.last_rx_ms = min(link.last_rx_ms + late_ms, now_ms)
        beat = now_ms >= self._next_beat_ms
        if beat:
            self._next_beat_ms = now_ms + self.timers.heartbeat_ms
        self._next_gone_ms = _NEVER_MS
        for link in list(self.links.values()):
            if link.id.side == "self":
                continue
            if 0 <= link.gone_ms <= now_ms:
                self._lose(link, "gone")
                continue
            if link.gone_ms >= 0:
                self._next_gone_ms = min(self._next_gone_ms, link.gone_ms)
            if link.is_open:
                if beat:
                    self._heartbeat(link, now_ms)
                    self._ask_if_gone(link)
                self._check_lease(link, now_ms)
                self._check_silence(link, now_ms)
            elif beat:
                self._regreet(link, now_ms)
        self.contacts.tick(now_ms)
        self._take_dials()

    def _heartbeat(self, link: Link, now_ms: int) -> None:
        hold_ms = now_ms - link.echo_seen_ms if link.echo_ms else 0
        ext: dict[str, Any] = {"s": self.stored} if self.stored >= 0 else {}
        beat = Heartbeat(
            now_ms, link.echo_ms, hold_ms, link.tx_seq, self.head, self.queued, self.running, ext
        )
        self.effects.append(Transmit(link.id, link.frames_of(beat)))

    def _regreet(self, link: Link, now_ms: int) -> None:
        if now_ms - link.last_rx_ms > self.timers.lost_ms:
            del self.links[link.id]
        else:
            self._greet(link, now_ms)

    def _check_lease(self, link: Link, now_ms: int) -> None:
        if now_ms > link.lease_until_ms and not link.lease_lost:
            link.lease_lost = True
            self.events.append(LeaseLost(link.id))

    def _check_silence(self, link: Link, now_ms: int) -> None:
        silent_ms = now_ms - link.last_rx_ms
        limit_ms = self.timers.stalled_lost_ms if link.connected else self.timers.lost_ms
        if silent_ms >= limit_ms:
            self._lose(link, "silent")
        elif link.state is LinkState.UP and silent_ms >= self.timers.stalled_ms:
            link.state = LinkState.STALLED
            self.events.append(LinkPaused(link.id, True))

    # --- the end of a link --------------------------------------------------------------

    def _links_of(self, node: bytes) -> Iterable[Link]:
        return [link for link in self.links.values() if link.id.peer[1:9] == node]

    def _lose(self, link: Link, reason: str) -> None:
        if self.links.get(link.id) is not link:
            return
        if link.has_left:
            self._drop(link, "left")
            return
        node = link.id.peer[1:9]
        self._drop(link, reason)
        if link.id.side == "out":
            self.contacts.lost(node)
        if link.peer is not None:
            if reason in ("gone", "replaced"):
                self.contacts.gone(node, link.peer.epoch)
            # Not of one that left while greeting; of one with two links with the last.
            if link.is_open and not any(other.is_open for other in self._links_of(node)):
                text = f"lost node {link.peer.name or format_node(node)}: {_WHY_LOST[reason]}"
                self.effects.append(Note("warning", "peer.lost", text))
        self._take_dials()

    def _drop(self, link: Link, reason: str) -> None:
        if self.links.get(link.id) is link:
            del self.links[link.id]
        if link.is_open and link.peer is not None:
            self.events.append(LinkDown(link.id, link.peer, reason))
        if reason == "left" and link.peer is not None:
            if link.id.side == "out":
                self.contacts.lost(link.peer.node)
            self.contacts.gone(link.peer.node, link.peer.epoch)
            self._take_dials()
