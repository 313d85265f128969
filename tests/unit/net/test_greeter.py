"""Asking an address who is there, and what is said when nobody tells."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.net.conftest import MakePeer
from tests.unit.net.pumping import LIMIT_S, Peer
from zmqtasks import keys
from zmqtasks.net.greeter import ANSWER_MS, Greeter
from zmqtasks.net.poller import Poller

LOOPBACK = (("127.0.0.1", 0),)


class Asker:
    """A greeter, its loop, and what it was told."""

    def __init__(self, peer: Peer) -> None:
        self.poller = Poller()
        self.readers: dict[Any, Callable[[], None]] = {}
        self.told: list[tuple[list[bytes], str]] = []
        self.greeter = Greeter(peer.transport, self)
        for sock, drain in peer.transport.sockets():
            self.register(sock, drain)

    def register(self, obj: Any, callback: Callable[[], None]) -> None:
        self.readers[obj] = callback
        self.poller.register(obj)

    def unregister(self, obj: Any) -> None:
        del self.readers[obj]
        self.poller.unregister(obj)

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)

    def serve(self, peer: Peer) -> None:
        """Serve that peer's sockets too."""
        for sock, drain in peer.transport.sockets():
            self.register(sock, drain)

    def ask(self, endpoint: str) -> None:
        self.greeter.ask(endpoint, [b"who", b"is there"], 0, lambda *told: self.told.append(told))

    def run(self, until: Callable[[], object]) -> None:
        end = time.monotonic() + LIMIT_S
        while not until():
            assert time.monotonic() < end, f"not within {LIMIT_S} s"
            for sock, _readable, _writable in self.poller.poll(20):
                if sock in self.readers:
                    self.readers[sock]()


@pytest.fixture
def make_asker(make_peer: MakePeer) -> Iterator[Callable[[str | None], Asker]]:
    made: list[Asker] = []

    def make(mesh_key: str | None) -> Asker:
        made.append(Asker(make_peer(b"P", mesh_key=mesh_key)))
        return made[-1]

    yield make
    for asker in made:
        asker.greeter.close()


MakeAsker = Callable[[str | None], Asker]


def test_who_is_there_answers(make_asker: MakeAsker, make_peer: MakePeer) -> None:
    mesh_key = keys.generate()
    asker, worker = make_asker(mesh_key), make_peer(b"W", mesh_key=mesh_key, tcp_listen=LOOPBACK)
    asker.serve(worker)
    asker.ask(worker.endpoints.router[0])
    asker.run(worker.handler.bodies)
    link, frames = worker.handler.messages[-1]
    assert frames == [b"who", b"is there"]
    worker.transport.send(link, [b"me"])
    asker.run(lambda: asker.told)
    assert asker.told == [([b"me"], "")]
    assert asker.greeter.advance(0) is None


def test_another_key_is_told_at_once(make_asker: MakeAsker, make_peer: MakePeer) -> None:
    asker = make_asker(keys.generate())
    worker = make_peer(b"W", mesh_key=keys.generate(), tcp_listen=LOOPBACK)
    asker.serve(worker)
    asker.ask(worker.endpoints.router[0])
    asker.run(lambda: asker.told)
    ((frames, trouble),) = asker.told
    assert frames == []
    assert "mesh key" in trouble
    assert "(--key)" in trouble
    assert worker.handler.messages == []


def test_who_does_not_answer_is_given_up(make_asker: MakeAsker) -> None:
    asker = make_asker(None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asker.ask(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        assert asker.greeter.advance(ANSWER_MS - 1) == ANSWER_MS
        assert asker.told == []
        assert asker.greeter.advance(ANSWER_MS) is None
    assert asker.told == [([], "it does not answer")]


def test_an_address_that_may_not_be_dialled_is_not_asked(make_asker: MakeAsker) -> None:
    asker = make_asker(None)
    asker.ask("tcp://192.0.2.1:5570")
    ((_, trouble),) = asker.told
    assert "needs a mesh key" in trouble
    assert asker.greeter.advance(0) is None
