"""The receiving half of a transport: drains sockets and hands messages on.

Plain ``recv`` with integer flags on the hot path: ``recv_multipart`` and pyzmq's flag
enums cost twice as much. Under a mesh key the first frame of every message to a socket
where we are CURVE server is taken without a copy, because only such a frame tells the
``User-Id`` that our ZAP handler gave; a message without one is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import zmq

from zmqtasks.core.links import LinkId
from zmqtasks.errors import LocalProtocolError
from zmqtasks.limits import FRAMES_PER_MESSAGE_MAX
from zmqtasks.net.sockets import Socket

_DONTWAIT = int(zmq.DONTWAIT)
_RCVMORE = int(zmq.RCVMORE)
#: Messages taken from one socket before others get their turn.
DRAIN_COUNT_MAX = 200
#: What libzmq gives for a Unix socket: name, uid, gid, pid.
_IPC_ADDRESS = re.compile(r"(?:localhost)?:\d+:\d+:(\d+)")
#: Routing ids whose address is remembered.
_ADDRESSES_COUNT_MAX = 4096


class TransportHandler(Protocol):
    """Who gets what a transport receives. Called from the loop that drains it."""

    def on_frames(self, link: LinkId, frames: list[bytes], address: str) -> None:
        """A message on a reliable link; ``[]`` is the probe of a fresh connection."""

    def on_published(self, topic: bytes, frames: list[bytes]) -> None:
        """A message of a publisher that we subscribed to."""

    def on_subscription(self, topic: bytes, subscribed: bool) -> None:
        """Somebody subscribed to one of our topics (or the last one left it)."""

    def on_pulled(self, frames: list[bytes], address: Callable[[], str]) -> None:
        """A message of the at-most-once lane; ``address`` tells who sent it."""

    def on_dropped(self, address: str, reason: str) -> None:
        """A message was dropped unread, and counted ("" when nobody knows of whom)."""

    def on_connection(self, endpoint: str, up: bool) -> None:
        """A connection that we dialled works, or is gone."""

    def on_refused(self, where: str, reason: str) -> None:
        """A connection came to nothing.

        Args:
            where: an endpoint that we dialled (disconnected by now, unless it had worked
                before, so dial again if wanted), or the address of a peer that dialled us.
            reason: for people.
        """


class Counters:
    """Messages that never reached the handler, by the reason."""

    __slots__ = ("oversized_count", "refused_count", "stray_count", "unauthenticated_count")

    def __init__(self) -> None:
        #: Neither a subscription nor its end, sent to XPUB.
        self.stray_count = 0
        #: More frames than a message may have.
        self.oversized_count = 0
        #: Handshakes that failed.
        self.refused_count = 0
        #: No ``User-Id`` although this node has a mesh key.
        self.unauthenticated_count = 0


class Receiver:
    """Drains the sockets of a transport.

    Args:
        handler: gets the messages.
        keyed: this node has a mesh key, so peers must be authenticated.
        counters: where drops are counted.
    """

    def __init__(self, handler: TransportHandler, keyed: bool, counters: Counters) -> None:
        self._handler = handler
        self._keyed = keyed
        self._counters = counters
        #: {(side, routing id): (link, address)}; forgotten as a whole when full.
        self._links: dict[tuple[str, bytes], tuple[LinkId, str]] = {}

    def routers(self, sock: Socket, side: Literal["in", "out"]) -> Callable[[], None]:
        """The drain callback of a ROUTER. We are CURVE server on the "in" side only."""
        if self._keyed and side == "in":
            return lambda: self._drain_checked_router(sock)
        return lambda: self._drain_router(sock, side)

    def subscriber(self, sock: Socket) -> Callable[[], None]:
        """The drain callback of SUB."""
        return lambda: self._drain_subscriber(sock)

    def publisher(self, sock: Socket) -> Callable[[], None]:
        """The drain callback of XPUB."""
        return lambda: self._drain_publisher(sock)

    def puller(self, sock: Socket) -> Callable[[], None]:
        """The drain callback of PULL."""
        return lambda: self._drain_puller(sock)

    # --- routers ------------------------------------------------------------------------

    def _drain_router(self, sock: Socket, side: Literal["in", "out"]) -> None:
        recv, links, on_frames = sock.recv, self._links, self._handler.on_frames
        for _ in range(DRAIN_COUNT_MAX):
            try:
                peer = recv(_DONTWAIT)
            except zmq.ZMQError as exc:
                _expect_drained(sock, exc)
                return
            known = links.get((side, peer))
            if known is None:
                body = recv(_DONTWAIT, copy=False)
                known = self._meet(LinkId(side, peer), _address(body))
                frames = self._rest(sock, body.bytes)
            else:
                frames = self._rest(sock, recv(_DONTWAIT))
            if frames is None:
                self._too_many_frames(known[1])
            else:
                on_frames(known[0], frames, known[1])

    def _drain_checked_router(self, sock: Socket) -> None:
        recv, links, on_frames = sock.recv, self._links, self._handler.on_frames
        for _ in range(DRAIN_COUNT_MAX):
            try:
                first = recv(_DONTWAIT, copy=False)
            except zmq.ZMQError as exc:
                _expect_drained(sock, exc)
                return
            if not self._is_authenticated(sock, first):
                continue
            peer = first.bytes
            known = links.get(("in", peer)) or self._meet(LinkId("in", peer), _address(first))
            frames = self._rest(sock, recv(_DONTWAIT))
            if frames is None:
                self._too_many_frames(known[1])
            else:
                on_frames(known[0], frames, known[1])

    def _meet(self, link: LinkId, address: str) -> tuple[LinkId, str]:
        if len(self._links) >= _ADDRESSES_COUNT_MAX:
            self._links.clear()
        known = self._links[link.side, link.peer] = (link, address)
        return known

    # --- the others ---------------------------------------------------------------------

    def _drain_subscriber(self, sock: Socket) -> None:
        recv, on_published = sock.recv, self._handler.on_published
        for _ in range(DRAIN_COUNT_MAX):
            try:
                topic = recv(_DONTWAIT)
            except zmq.ZMQError as exc:
                _expect_drained(sock, exc)
                return
            if not sock.getsockopt(_RCVMORE):
                on_published(topic, [])
                continue
            frames = self._rest(sock, recv(_DONTWAIT))
            if frames is None:
                self._too_many_frames("a publisher")
            else:
                on_published(topic, frames)

    def _drain_puller(self, sock: Socket) -> None:
        for _ in range(DRAIN_COUNT_MAX):
            try:
                first = sock.recv(_DONTWAIT, copy=False)
            except zmq.ZMQError as exc:
                _expect_drained(sock, exc)
                return
            if self._keyed and not self._is_authenticated(sock, first):
                continue
            frames = self._rest(sock, first.bytes)
            if frames is None:
                self._too_many_frames(_address(first))
            else:
                self._handler.on_pulled(frames, partial(_address, first))

    def _drain_publisher(self, sock: Socket) -> None:
        for _ in range(DRAIN_COUNT_MAX):
            try:
                first = sock.recv(_DONTWAIT, copy=False)
            except zmq.ZMQError as exc:
                _expect_drained(sock, exc)
                return
            text = first.bytes
            subscribed = text[:1] == b"\x01"
            # An unsubscription may be libzmq's own word for a peer that is gone, which
            # has no user; it takes nothing but what was allowed before.
            if self._keyed and subscribed and not self._is_authenticated(sock, first):
                continue
            if self._rest(sock, b"") is None:
                self._too_many_frames(_address(first))
                continue
            if text[:1] not in (b"\x00", b"\x01"):
                self._counters.stray_count += 1
                self._handler.on_dropped(_address(first), "it is no subscription")
                continue
            if self._keyed:
                option = zmq.SUBSCRIBE if subscribed else zmq.UNSUBSCRIBE
                sock.setsockopt(option, text[1:])
            self._handler.on_subscription(text[1:], subscribed)

    # --- frames -------------------------------------------------------------------------

    def _too_many_frames(self, address: str) -> None:
        self._counters.oversized_count += 1
        self._handler.on_dropped(address, f"it has more than {FRAMES_PER_MESSAGE_MAX} frames")

    def _rest(self, sock: Socket, first: bytes) -> list[bytes] | None:
        """``first`` and the frames after it; None (all dropped) when they are too many."""
        get = sock.getsockopt
        if not get(_RCVMORE):
            return [first] if first else []
        frames = [first]
        while get(_RCVMORE):
            frame = sock.recv(_DONTWAIT)
            if len(frames) <= FRAMES_PER_MESSAGE_MAX:
                frames.append(frame)
        return frames if len(frames) <= FRAMES_PER_MESSAGE_MAX else None

    def _is_authenticated(self, sock: Socket, first: zmq.Frame) -> bool:
        """Whether our ZAP handler admitted the sender; if not, drops the message."""
        try:
            if first.get("User-Id"):
                return True
        except zmq.ZMQError:
            pass
        self._counters.unauthenticated_count += 1
        self._handler.on_dropped(_address(first), "nothing shows that it has the mesh key")
        while sock.getsockopt(_RCVMORE):
            sock.recv(_DONTWAIT)
        return False


def _address(frame: zmq.Frame) -> str:
    """Where a frame came from, for people; "" when nobody knows."""
    try:
        text = str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
    local = _IPC_ADDRESS.fullmatch(text)
    return f"pid {local[1]}" if local is not None else text.removeprefix("::ffff:")


def _expect_drained(sock: Socket, exc: zmq.ZMQError) -> None:
    """Nothing left to read is the normal end, as is a socket closed by a callback."""
    if isinstance(exc, zmq.Again) or sock.closed:
        return
    raise LocalProtocolError(f"cannot receive: {exc.strerror}") from exc
