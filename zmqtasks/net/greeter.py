"""Asking an address who is there, before it is dialled as a peer.

Of a static peer only an address is known, and two connections to one peer fight over its
routing id. So a DEALER of its own asks first and is closed after the answer; R_out then
dials the node by its id, like any other candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import zmq

from zmqtasks.net.transport import Transport, Visitor

#: An answer that takes longer than this is none.
ANSWER_MS = 3_000
SILENT = "it does not answer"
UNREACHED = "nobody listens there, or it is out of reach"
_DONTWAIT = int(zmq.DONTWAIT)

#: Gets the frames of the answer, or [] and why there is none.
Done = Callable[[list[bytes], str], None]


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
        self._open: dict[str, _Question] = {}

    def ask(self, endpoint: str, frames: Sequence[bytes], now_ms: int, done: Done) -> None:
        """Send ``frames`` to an endpoint, of which nothing else is being asked.

        Args:
            done: called from the loop, see :data:`Done`.
        """

        def refused(_endpoint: str, reason: str, _proven: bool) -> None:
            self._finish(endpoint, [], reason)

        visitor = self._transport.visitor(endpoint, refused)
        if isinstance(visitor, str):
            self._loop.call_soon(done, [], visitor)
            return
        self._open[endpoint] = _Question(visitor, now_ms + ANSWER_MS, done)
        self._loop.register(visitor.socket, lambda: self._answered(endpoint))
        self._loop.register(visitor.monitor.socket, visitor.monitor.drain)
        visitor.socket.send_multipart(list(frames))

    def is_unreached(self, endpoint: str) -> bool:
        """No connection could be made so far for the question under way; it is tried again."""
        question = self._open.get(endpoint)
        return question is not None and question.visitor.monitor.is_unreached

    def advance(self, now_ms: int) -> int | None:
        """Give up on those that took too long; returns when to call again."""
        for endpoint, question in list(self._open.items()):
            if now_ms >= question.end_ms:
                unreached = question.visitor.monitor.is_unreached
                self._finish(endpoint, [], UNREACHED if unreached else SILENT)
        return min((question.end_ms for question in self._open.values()), default=None)

    def _answered(self, endpoint: str) -> None:
        while (question := self._open.get(endpoint)) is not None:
            try:
                frames = question.visitor.socket.recv_multipart(_DONTWAIT)
            except zmq.Again:
                return
            if frames != [b""]:  # the probe of the other side's ROUTER
                self._finish(endpoint, frames, "")

    def _finish(self, endpoint: str, frames: list[bytes], trouble: str) -> None:
        question = self._open.pop(endpoint, None)
        if question is None:
            return
        self._loop.unregister(question.visitor.socket)
        self._loop.unregister(question.visitor.monitor.socket)
        question.visitor.close()
        question.done(frames, trouble)

    def close(self) -> None:
        """Drop everything under way."""
        for question in self._open.values():
            question.visitor.close()
        self._open.clear()


class _Question(NamedTuple):
    """One that waits for its answer until ``end_ms``."""

    visitor: Visitor
    end_ms: int
    done: Done
