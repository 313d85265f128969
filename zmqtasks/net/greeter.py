"""Asking an address who is there, before it is dialled as a peer.

Of a static peer only an address is known, and two connections to one peer fight over its
routing id. So a DEALER of its own asks first and is closed after the answer; R_out then
dials the node by its id, like any other candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zmq

from zmqtasks.net.sockets import Socket
from zmqtasks.net.transport import Transport

#: An answer that takes longer than this is none.
ANSWER_MS = 3_000
_DONTWAIT = int(zmq.DONTWAIT)

Done = Callable[[list[bytes]], None]


class GreeterLoop(Protocol):
    """What the greeter needs of the loop."""

    def register(self, obj: Any, callback: Callable[[], None]) -> None:
        """Call back whenever a socket is readable."""

    def unregister(self, obj: Any) -> None:
        """Forget a socket."""

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call from the loop."""


class Greeter:
    """Sends one message to an address and hands the answer on.

    Args:
        transport: whose keys are used; must be open.
        loop: of the same thread.
    """

    def __init__(self, transport: Transport, loop: GreeterLoop) -> None:
        self._transport = transport
        self._loop = loop
        #: {socket: (when to give up, who waits)}.
        self._open: dict[Socket, tuple[int, Done]] = {}

    def ask(self, endpoint: str, frames: Sequence[bytes], now_ms: int, done: Done) -> None:
        """Send ``frames`` to an endpoint.

        Args:
            done: called from the loop with the frames of the answer, [] when none came.
        """
        sock = self._transport.visitor(endpoint)
        if sock is None:
            self._loop.call_soon(done, [])
            return
        self._open[sock] = (now_ms + ANSWER_MS, done)
        self._loop.register(sock, lambda: self._answered(sock))
        sock.send_multipart(list(frames))

    def advance(self, now_ms: int) -> int | None:
        """Give up on those that took too long; returns when to call again."""
        for sock, (end_ms, _) in list(self._open.items()):
            if now_ms >= end_ms:
                self._finish(sock, [])
        return min((end_ms for end_ms, _ in self._open.values()), default=None)

    def _answered(self, sock: Socket) -> None:
        while sock in self._open:
            try:
                frames = sock.recv_multipart(_DONTWAIT)
            except zmq.Again:
                return
            if frames != [b""]:  # the probe of the other side's ROUTER
                self._finish(sock, frames)

    def _finish(self, sock: Socket, frames: list[bytes]) -> None:
        _, done = self._open.pop(sock)
        self._loop.unregister(sock)
        sock.close(0)
        done(frames)

    def close(self) -> None:
        """Drop everything under way."""
        for sock in self._open:
            sock.close(0)
        self._open.clear()
