"""Transports without a node: a handler that records, and a loop that runs on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from zmqtasks.core.links import LinkId
from zmqtasks.ids import routing_id
from zmqtasks.net.poller import Poller
from zmqtasks.net.transport import Endpoints, Transport, TransportConfig

#: Far more than anything here takes; only a failing test waits for it.
LIMIT_S = 20.0


class Recorder:
    """A transport's handler."""

    def __init__(self) -> None:
        self.messages: list[tuple[LinkId, list[bytes]]] = []
        self.addresses: list[str] = []
        self.published: list[tuple[bytes, list[bytes]]] = []
        self.subscriptions: list[tuple[bytes, bool]] = []
        self.pulled: list[list[bytes]] = []
        self.dropped: list[tuple[str, str]] = []
        self.connections: list[tuple[str, bool]] = []
        self.refusals: list[tuple[str, str]] = []

    def on_frames(self, link: LinkId, frames: list[bytes], address: str) -> None:
        self.messages.append((link, frames))
        self.addresses.append(address)

    def on_published(self, topic: bytes, frames: list[bytes]) -> None:
        self.published.append((topic, frames))

    def on_subscription(self, topic: bytes, subscribed: bool) -> None:
        self.subscriptions.append((topic, subscribed))

    def on_pulled(self, frames: list[bytes], address: Callable[[], str]) -> None:
        self.pulled.append(frames)

    def on_dropped(self, address: str, reason: str) -> None:
        self.dropped.append((address, reason))

    def on_connection(self, endpoint: str, up: bool) -> None:
        self.connections.append((endpoint, up))

    def on_refused(self, where: str, reason: str) -> None:
        self.refusals.append((where, reason))

    def probed_by(self, link: LinkId) -> bool:
        return (link, []) in self.messages

    def bodies(self) -> list[list[bytes]]:
        """Messages that are no probes."""
        return [frames for _, frames in self.messages if frames]


class Peer:
    """A transport, its handler and its endpoints."""

    def __init__(self, letter: bytes, **config: Any) -> None:
        self.node = letter * 8
        self.handler = Recorder()
        self.transport = Transport(TransportConfig(self.node, 1, **config), self.handler)
        self.endpoints: Endpoints = self.transport.open()

    @property
    def as_out(self) -> LinkId:
        """How one who dialled this peer sees it."""
        return LinkId("out", routing_id(self.node, 1))

    @property
    def as_in(self) -> LinkId:
        """How one who was dialled by this peer sees it."""
        return LinkId("in", routing_id(self.node, 1))


def pump(peers: Sequence[Peer], until: Callable[[], object]) -> None:
    """Serve the peers' sockets until something is true."""
    poller = Poller()
    drains: dict[Any, Callable[[], None]] = {}
    for peer in peers:
        for sock, drain in peer.transport.sockets():
            poller.register(sock)
            drains[sock] = drain
    end = time.monotonic() + LIMIT_S
    while not until():
        assert time.monotonic() < end, f"not within {LIMIT_S} s"
        for sock, _readable, _writable in poller.poll(20):
            drains[sock]()


def link(dialler: Peer, listener: Peer, endpoint: str) -> None:
    """Dial, and wait until both can send."""
    assert dialler.transport.connect(endpoint)
    pump(
        [dialler, listener],
        lambda: (
            dialler.handler.probed_by(listener.as_out) and listener.handler.probed_by(dialler.as_in)
        ),
    )
