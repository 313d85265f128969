"""What sockets report about their connections.

For quick hints and for people only: a monitor may lag or lose events, so nothing that
must be right rests on it.
"""

from __future__ import annotations

import os
import socket as plain
import struct
from collections.abc import Callable

import zmq

from zmqtasks.net.sockets import Socket

_DONTWAIT = int(zmq.DONTWAIT)
_EVENT = struct.Struct("=HI")
_EVENTS_PER_DRAIN_MAX = 200
_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_NO_DETAIL = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_RETRIED = int(zmq.EVENT_CONNECT_RETRIED)
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_ACCEPT_FAILED = int(zmq.EVENT_ACCEPT_FAILED)
_SAME_KEY = "give both the same key file (--key)"
#: ZMQ_PROTOCOL_ERROR_ZMTP_*, from zmq.h.
_CRYPTOGRAPHIC = 0x11000001
_MECHANISM_MISMATCH = 0x11000002
#: Accepted connections whose addresses are remembered for a message about them.
_ACCEPTED_COUNT_MAX = 4096


def _protocol_reason(code: int) -> str:
    if code == _CRYPTOGRAPHIC:
        return f"another mesh key; {_SAME_KEY}"
    if code == _MECHANISM_MISMATCH:
        return f"one side has a mesh key and the other has none; {_SAME_KEY}"
    return f"not the ZeroMQ protocol (code 0x{code:x})"


class Monitor:
    """Events of one socket; ``socket`` is polled and ``drain`` called when readable."""

    def __init__(self, sock: Socket, events: int) -> None:
        self._watched = sock
        self.socket: Socket = sock.get_monitor_socket(events)
        self.socket.setsockopt(zmq.LINGER, 0)

    def drain(self) -> None:
        """Report the events that wait."""
        for _ in range(_EVENTS_PER_DRAIN_MAX):
            try:
                frames = self.socket.recv_multipart(_DONTWAIT)
            except zmq.ZMQError:
                return
            if len(frames) == 2 and len(frames[0]) == _EVENT.size:
                event, value = _EVENT.unpack(frames[0])
                self._handle(event, value, frames[1].decode("utf-8", "replace"))

    def close(self) -> None:
        """Stop; to be called before the watched socket is closed."""
        self._watched.disable_monitor()

    def _handle(self, event: int, value: int, endpoint: str) -> None:
        """Overridden: what an event means on this kind of socket."""


class DialMonitor(Monitor):
    """Connections that we dialled.

    Args:
        sock: R_out.
        connection: called with the endpoint and True once a handshake is done, False
            when that connection is gone.
        refused: called with the endpoint, a reason and whether it had worked before,
            when a handshake fails.
    """

    _events = _SUCCEEDED | _DISCONNECTED | _NO_DETAIL | _PROTOCOL | _AUTH

    def __init__(
        self,
        sock: Socket,
        connection: Callable[[str, bool], None],
        refused: Callable[[str, str, bool], None],
    ) -> None:
        super().__init__(sock, self._events)
        self._connection = connection
        self._refused = refused
        self._up: set[str] = set()
        self._proven: set[str] = set()

    def forget(self, endpoint: str) -> None:
        """It is no longer dialled."""
        self._up.discard(endpoint)
        self._proven.discard(endpoint)

    def _handle(self, event: int, value: int, endpoint: str) -> None:
        if event == _SUCCEEDED:
            self._up.add(endpoint)
            self._proven.add(endpoint)
            self._connection(endpoint, True)
        elif event == _DISCONNECTED:
            if endpoint in self._up:
                self._up.discard(endpoint)
                self._connection(endpoint, False)
        else:
            self._refused(endpoint, _failure(event, value, endpoint), endpoint in self._proven)


class VisitMonitor(DialMonitor):
    """As ``DialMonitor``, and ``is_unreached``: a connection could not be made at all."""

    _events = DialMonitor._events | _RETRIED
    is_unreached = False

    def _handle(self, event: int, value: int, endpoint: str) -> None:
        if event == _RETRIED:
            self.is_unreached = True
        else:
            super()._handle(event, value, endpoint)


def _failure(event: int, value: int, endpoint: str) -> str:
    if event == _PROTOCOL:
        return _protocol_reason(value)
    if event == _AUTH:
        return f"the peer does not admit this mesh key; {_SAME_KEY}"
    # A server that cannot read our first words just closes, which is all we see.
    if endpoint.startswith("ipc:"):
        return f"its process has just ended, hangs, or has another mesh key ({_SAME_KEY})"
    return f"it closed the connection in the handshake (another mesh key? {_SAME_KEY})"


class ListenMonitor(Monitor):
    """Connections that others made and that came to nothing.

    libzmq names only our own side in these events, so the other's address is looked up
    when it is accepted (unless it is gone by then) and matched by the descriptor that
    DISCONNECTED carries. A connection that just opens and closes (a dialler's probe) is
    no failure. Some garbage gets no event of its own: a connection that was cut by us
    while no handshake at all succeeded since it was accepted can have been nothing else.

    Args:
        sock: a bound socket.
        refused: called with the peer's address, or our endpoint where that is unknown,
            and a reason.
    """

    def __init__(self, sock: Socket, refused: Callable[[str, str], None]) -> None:
        events = _ACCEPTED | _ACCEPT_FAILED | _DISCONNECTED | _SUCCEEDED
        super().__init__(sock, events | _PROTOCOL | _AUTH | _NO_DETAIL)
        self._refused = refused
        #: {descriptor: (address, handshakes that had succeeded)} of accepted connections.
        self._accepted: dict[int, tuple[str, int]] = {}
        self._succeeded_count = 0
        #: {our endpoint: why the connection that is about to close failed, "" for a reason
        #: that is no news}.
        self._failing: dict[str, str] = {}

    def _handle(self, event: int, value: int, endpoint: str) -> None:
        if event == _ACCEPTED:
            if len(self._accepted) >= _ACCEPTED_COUNT_MAX:
                self._accepted.clear()
            self._accepted[value] = (_peer_address(value), self._succeeded_count)
        elif event == _SUCCEEDED:
            self._succeeded_count += 1
        elif event == _DISCONNECTED:
            self._disconnected(value, endpoint)
        elif event == _ACCEPT_FAILED:
            self._refused(endpoint, f"cannot accept connections: {os.strerror(value)}")
        elif event == _PROTOCOL:
            self._failing[endpoint] = _protocol_reason(value)
        else:  # Closed by the other side, or reported by the ZAP handler, with the address.
            self._failing.setdefault(endpoint, "")

    def _disconnected(self, descriptor: int, endpoint: str) -> None:
        address, succeeded_count = self._accepted.pop(descriptor, ("", -1))
        reason = self._failing.pop(endpoint, None)
        if reason is None and succeeded_count == self._succeeded_count:
            reason = "not the ZeroMQ protocol"
        if reason:
            self._refused(address or endpoint, reason)


def _peer_address(descriptor: int) -> str:
    """Address of a connection of libzmq's, "" when it is gone already."""
    try:
        with plain.socket(fileno=os.dup(descriptor)) as copy:
            name = copy.getpeername()
    except OSError:
        return ""
    return str(name[0]).removeprefix("::ffff:") if isinstance(name, tuple) else ""
