"""Simulated connections: FIFO pipes that lose all they hold when they drop.

As with libzmq: sending means nothing; what is under way when a connection drops is lost
in both directions; the dialling side is told (mostly), the other learns by sending; the
connection comes back by itself until it is hung up, and then both ends see a probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zmqtasks.core.links import Candidate, LinkId
from zmqtasks.wire.messages import Message

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

#: A ZMTP heartbeat that got no answer for this long ends the connection.
ZMTP_TIMEOUT_MS = 3_000
_GARBAGE = (b"", b"GET / HTTP/1.1", b"ZT\x01\x10" + bytes(28), b"ZT\x09\x01" + bytes(40), b"ZT")


class Connection:
    """R_out of one process to R_in of another (or to something foreign)."""

    def __init__(self, dialler: Process, acceptor: Process | None, endpoint: str) -> None:
        self.dialler = dialler
        self.acceptor = acceptor
        self.endpoint = endpoint
        self.up = False
        self.hung_up = False
        #: It would be up if one of its ends were not frozen.
        self.is_awaited = False
        #: +1 at each drop: what was sent before is lost.
        self.generation = 0
        #: When the last frames arrive, by direction (0: from the dialler).
        self.last_ms = [0, 0]
        #: Nothing arrives before this, by direction.
        self.clogged_ms = [0, 0]


class Network:
    """All connections of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        #: {endpoint: the process that listens there, None for something foreign}.
        self.listeners: dict[str, Process | None] = {}
        self.connections: list[Connection] = []
        #: Pairs of processes that cannot reach each other, until when.
        self.parted: dict[tuple[str, str], int] = {}

    # --- dialling -----------------------------------------------------------------------

    def are_parted(self, one: Process, other: Process) -> bool:
        pair = (min(one.name, other.name), max(one.name, other.name))
        return self.parted.get(pair, 0) > self.world.now

    def dial(self, process: Process, candidate: Candidate) -> None:
        """The dialler tries the addresses in turn."""
        node = candidate.node
        assert node is not None
        for endpoint in candidate.endpoints:
            if endpoint not in self.listeners:
                continue
            listener = self.listeners[endpoint]
            if listener is None or (listener.alive and not self.are_parted(process, listener)):
                self.world.after(self.rng.randint(1, 20), self._dialled, process, node, endpoint)
                return
        wait_ms = self.rng.choice((2, 20, 500))
        self.world.after(wait_ms, process.deliver, process.dialled, node, "")

    def _dialled(self, process: Process, node: bytes, endpoint: str) -> None:
        if process.alive:
            process.deliver(process.dialled, node, endpoint)

    def connect(self, process: Process, endpoint: str) -> None:
        """R_out.connect: idempotent for one endpoint."""
        if endpoint in process.connected:
            return
        connection = Connection(process, self.listeners.get(endpoint), endpoint)
        process.connected[endpoint] = connection
        self.connections.append(connection)
        self.world.after(self.rng.randint(1, 5), self._establish, connection)

    def disconnect(self, process: Process, endpoint: str) -> None:
        """R_out.disconnect."""
        connection = process.connected.pop(endpoint, None)
        if connection is not None:
            connection.hung_up = True
            self.drop(connection, 0)
            self.connections.remove(connection)

    def _establish(self, connection: Connection) -> None:
        if connection.hung_up or connection.up or not connection.dialler.alive:
            return
        acceptor = connection.acceptor
        if acceptor is None:
            self._speak_foreign(connection)
            return
        if not acceptor.alive:
            return
        if self.are_parted(connection.dialler, acceptor):
            self.world.after(self.rng.randint(100, 1_000), self._establish, connection)
            return
        frozen_ms = max(connection.dialler.frozen_until_ms, acceptor.frozen_until_ms)
        connection.is_awaited = frozen_ms > self.world.now
        if connection.is_awaited:
            self._shake_hands(connection, frozen_ms)
            return
        connection.up = True
        connection.dialler.out[acceptor.routing_id] = connection
        acceptor.inn[connection.dialler.routing_id] = connection
        for direction in (0, 1):
            connection.last_ms[direction] = connection.clogged_ms[direction] = self.world.now
            self._carry(connection, direction, [])

    def _shake_hands(self, connection: Connection, at_ms: int) -> None:
        """Both ends run from then on: soon after it the handshake is over."""
        self.world.at(at_ms + self.rng.randint(1, 100), self._establish, connection)

    def wakes(self, process: Process) -> None:
        """A frozen process goes on, earlier than was planned."""
        for connection in self.connections:
            ends = (connection.dialler, connection.acceptor)
            if process in ends and connection.is_awaited:
                self._shake_hands(connection, self.world.now)

    def _speak_foreign(self, connection: Connection) -> None:
        self.world.faults.count("foreign")
        peer = self.rng.choice((b"\x00zzzz", b"n" + self.rng.randbytes(12)))
        frames = self.rng.choice(([], [self.rng.choice(_GARBAGE)], [b"ZT" + b"\xff" * 60, b""]))
        process = connection.dialler
        process.deliver(process.received, None, LinkId("out", peer), list(frames), "foreign")

    # --- carrying -----------------------------------------------------------------------

    def send(self, process: Process, link: LinkId, frames: Sequence[bytes]) -> bool:
        """False: there is no such connection now."""
        table = process.out if link.side == "out" else process.inn
        connection = table.get(link.peer)
        if connection is None or not connection.up:
            return False
        direction = 0 if connection.dialler is process else 1
        self._carry(connection, direction, list(frames))
        rate = self.world.faults.rate("duplicate", 0.3)
        if rate and frames and self.rng.random() < rate:
            self.world.faults.count("duplicate")
            late_ms = self.rng.choice((1, 5, 50, 900))
            at_ms = connection.last_ms[direction] + late_ms
            self._arrive_at(at_ms, connection, direction, list(frames))
        return True

    def _carry(self, connection: Connection, direction: int, frames: list[bytes]) -> None:
        rng, faults = self.rng, self.world.faults
        delay_ms = rng.randint(0, 2)
        rate = faults.rate("delay", 0.2)
        if rate and rng.random() < rate:
            faults.count("delay")
            delay_ms += int(900 * rng.random() ** 3)
        at_ms = max(
            self.world.now + delay_ms,
            connection.last_ms[direction],
            connection.clogged_ms[direction],
        )
        connection.last_ms[direction] = at_ms
        self._arrive_at(at_ms, connection, direction, frames)

    def _arrive_at(
        self, at_ms: int, connection: Connection, direction: int, frames: list[bytes]
    ) -> None:
        generation = connection.generation
        self.world.at(at_ms, self._arrive, connection, generation, direction, frames)

    def _arrive(
        self, connection: Connection, generation: int, direction: int, frames: list[bytes]
    ) -> None:
        if connection.generation != generation:
            return
        dialler, acceptor = connection.dialler, connection.acceptor
        assert acceptor is not None
        if direction == 0:
            link, target = LinkId("in", dialler.routing_id), acceptor
        else:
            link, target = LinkId("out", acceptor.routing_id), dialler
        token = (connection, generation)
        target.deliver(target.received, token, link, frames, "sim")

    # --- trouble ------------------------------------------------------------------------

    def drop(self, connection: Connection, back_ms: int) -> None:
        """The connection breaks; it comes back after ``back_ms`` unless it was hung up."""
        if connection.up:
            connection.up = False
            connection.generation += 1
            dialler = connection.dialler
            if not connection.hung_up and dialler.alive and self.rng.random() < 0.9:
                wait_ms = self.rng.randint(0, 30)
                self.world.after(
                    wait_ms, dialler.deliver, dialler.connection_lost, connection.endpoint
                )
        if not connection.hung_up and back_ms:
            self.world.after(back_ms, self._establish, connection)

    def died(self, process: Process, after_ms: int) -> None:
        """All that the process had open is closed, by its kernel or by ZMTP's timeout."""
        for connection in self.connections[:]:
            if connection.dialler is process:
                connection.hung_up = True
                self.connections.remove(connection)
                self.world.after(after_ms, self.drop, connection, 0)
            elif connection.acceptor is process:
                self.world.after(after_ms, self.drop, connection, 0)

    def clog(self, connection: Connection, direction: int, until_ms: int) -> None:
        """Nothing arrives in one direction; ZMTP's heartbeats end that after a while."""
        connection.clogged_ms[direction] = until_ms
        if until_ms - self.world.now > ZMTP_TIMEOUT_MS:
            self.world.after(ZMTP_TIMEOUT_MS, self.time_out, connection, connection.generation)

    def time_out(self, connection: Connection, generation: int) -> None:
        if connection.up and connection.generation == generation:
            self.drop(connection, self.rng.randint(50, 500))

    def part(self, one: Process, other: Process, duration_ms: int) -> None:
        """The two cannot reach each other for a while."""
        pair = (min(one.name, other.name), max(one.name, other.name))
        self.parted[pair] = self.world.now + duration_ms
        for connection in self.connections:
            ends = (connection.dialler, connection.acceptor)
            if one in ends and other in ends and connection.up:
                wait_ms = self.rng.choice((0, ZMTP_TIMEOUT_MS))
                connection.clogged_ms = [self.world.now + duration_ms + wait_ms] * 2
                self.world.after(wait_ms, self.time_out, connection, connection.generation)

    # --- publishing ---------------------------------------------------------------------

    def publish(self, process: Process, topic: bytes, message: Message) -> None:
        """PUB: each subscriber may get it."""
        frames = self.world.encode(message)
        for subscriber in process.subscribers:
            if not subscriber.alive or self.are_parted(process, subscriber):
                continue
            rate = self.world.faults.rate("pubdrop", 0.6)
            if rate and self.rng.random() < rate:
                self.world.faults.count("pubdrop")
                continue
            self.world.after(
                self.rng.randint(0, 3), subscriber.deliver, subscriber.published, frames
            )
