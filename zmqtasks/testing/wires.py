"""Nodes in one process: what one sends, another has at once. No sockets, no threads."""

from __future__ import annotations

from threading import RLock
from typing import Generic, Protocol, TypeVar

from zmqtasks.core.effects import Transmit
from zmqtasks.core.links import LinkId, Side
from zmqtasks.core.mesh import MeshNode

#: Turns of all nodes until nothing moves: more than any exchange takes.
_ROUNDS_MAX = 10_000


class Wired(Protocol):
    """A node that can be connected."""

    @property
    def rid(self) -> bytes:
        """Its routing id."""

    @property
    def mesh(self) -> MeshNode:
        """Its machines."""

    def turn(self) -> bool:
        """Let the machines work and carry out what they want; False if that was nothing."""


N = TypeVar("N", bound=Wired)


class Wires(Generic[N]):
    """Nodes and the connections between them."""

    def __init__(self) -> None:
        #: The monotonic time of all nodes, in milliseconds.
        self.now_ms = 0
        #: {routing id: node}.
        self.nodes: dict[bytes, N] = {}
        self._is_pumping = False
        #: Held while nodes work: tasks may have threads of their own, and those may call others.
        self.lock = RLock()
        #: {routing id: node} of those that have something to do, while nodes work.
        self._woken: dict[bytes, N] = {}

    def link(self, dialler: N, acceptor: N) -> None:
        """Connect two of them."""
        ends: tuple[tuple[N, N, Side], ...] = (
            (dialler, acceptor, "out"),
            (acceptor, dialler, "in"),
        )
        for node, peer, side in ends:
            link = LinkId(side, peer.rid)
            node.mesh.membership.frames_received(link, [], "", self.now_ms)
        self.pump()

    def carry(self, sender: N, effect: Transmit) -> None:
        """Frames arrive at once, or nowhere."""
        receiver = self.nodes.get(effect.link.peer)
        if receiver is None:
            return
        link = LinkId("in" if effect.link.side == "out" else "out", sender.rid)
        receiver.mesh.membership.frames_received(link, list(effect.frames), "", self.now_ms)
        self.wake(receiver)

    def wake(self, node: N) -> None:
        """It got something."""
        self._woken[node.rid] = node

    def pump(self) -> None:
        """Let everybody work until nothing moves."""
        with self.lock:
            if not self._is_pumping:
                self._pump()

    def _pump(self) -> None:
        self._is_pumping = True
        self._woken = dict(self.nodes)
        try:
            for _ in range(_ROUNDS_MAX):
                woken, self._woken = self._woken, {}
                for node in woken.values():
                    if node.rid in self.nodes and node.turn():
                        self.wake(node)
                if not self._woken:
                    return
        finally:
            self._is_pumping = False
        raise AssertionError("the nodes never stop talking to each other")
