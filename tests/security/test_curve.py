"""Ports under a mesh key admit only its holders, and none when nobody checks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.unit.net.pumping import Peer, link, pump
from zmqtasks import keys
from zmqtasks.ids import routing_id
from zmqtasks.net.curve import key_pair

LOOPBACK = (("127.0.0.1", 0),)
KEY = keys.generate()
#: Long enough for a message over loopback to arrive if it ever does.
ARRIVES_MS = 200


@pytest.fixture
def worker() -> Iterator[Peer]:
    peer = Peer(b"W", mesh_key=KEY, tcp_listen=LOOPBACK)
    yield peer
    peer.transport.close()


def dialling(mesh_key: str | None) -> Iterator[Peer]:
    peer = Peer(b"P", mesh_key=mesh_key)
    yield peer
    peer.transport.close()


@pytest.fixture
def friend() -> Iterator[Peer]:
    yield from dialling(KEY)


@pytest.fixture
def stranger() -> Iterator[Peer]:
    yield from dialling(keys.generate())


@pytest.fixture
def keyless() -> Iterator[Peer]:
    yield from dialling(None)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def forge(sock: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A client that knows the mesh's public key but not its secret."""
    public, secret = zmq.curve_keypair()
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.CURVE_PUBLICKEY, public)
    sock.setsockopt(zmq.CURVE_SECRETKEY, secret)
    sock.setsockopt(zmq.CURVE_SERVERKEY, key_pair(KEY).public.encode())
    return sock


def test_holders_of_the_key_talk_on_every_socket(worker: Peer, friend: Peer) -> None:
    link(friend, worker, worker.endpoints.router[0])
    friend.transport.send(worker.as_out, [b"task"])
    worker.transport.send(friend.as_in, [b"answer"])
    friend.transport.subscribe(worker.endpoints.pub[0], [b"R"])
    friend.transport.push_connect("lane", worker.endpoints.pull[0])
    both = [worker, friend]
    pump(both, lambda: worker.handler.bodies() and friend.handler.bodies())
    pump(both, lambda: friend.transport.push("lane", [b"fast", b"blob"]))
    pump(both, lambda: worker.handler.pulled and worker.handler.subscriptions)
    worker.transport.publish(b"R", [b"result"])
    pump(both, lambda: friend.handler.published)
    assert worker.handler.pulled == [[b"fast", b"blob"]]
    assert friend.handler.published == [(b"R", [b"result"])]
    assert worker.handler.addresses[-1] == "127.0.0.1"
    assert worker.transport.counters.unauthenticated_count == 0


def test_leaving_subscribers_are_noticed(worker: Peer, friend: Peer) -> None:
    friend.transport.subscribe(worker.endpoints.pub[0], [b"R"])
    pump([worker, friend], lambda: (b"R", True) in worker.handler.subscriptions)
    friend.transport.close()
    pump([worker], lambda: (b"R", False) in worker.handler.subscriptions)


def test_the_key_holds_over_unix_sockets_too(own_directories: Path, friend: Peer) -> None:
    worker = Peer(b"W", mesh_key=KEY, ipc_dir=own_directories)
    try:
        link(friend, worker, worker.endpoints.router[0])
    finally:
        worker.transport.close()


def test_another_key_is_refused_on_both_sides(worker: Peer, stranger: Peer) -> None:
    endpoint = worker.endpoints.router[0]
    assert stranger.transport.connect(endpoint)
    pump([worker, stranger], lambda: worker.handler.refusals and stranger.handler.refusals)
    assert worker.handler.refusals[0][1].startswith("another mesh key; give both the same")
    assert stranger.handler.refusals[0][0] == endpoint
    assert "mesh key" in stranger.handler.refusals[0][1]
    assert worker.handler.messages == stranger.handler.messages == []
    assert stranger.handler.connections == []
    assert stranger.transport.send(worker.as_out, [b"x"]) == "unreachable"
    assert worker.transport.counters.refused_count == 1


def test_no_key_is_refused_by_a_keyed_port(worker: Peer, keyless: Peer) -> None:
    assert keyless.transport.connect(worker.endpoints.router[0])
    # Both greet at the same time, so either may be the first to see it and to hang up.
    pump([worker, keyless], lambda: worker.handler.refusals or keyless.handler.refusals)
    reasons = [text for _, text in worker.handler.refusals + keyless.handler.refusals]
    assert "mesh key" in reasons[0]
    assert worker.handler.messages == keyless.handler.messages == []


def test_a_keyed_node_does_not_talk_to_a_keyless_port(friend: Peer) -> None:
    open_port = Peer(b"W", tcp_listen=LOOPBACK)
    try:
        assert friend.transport.connect(open_port.endpoints.router[0])
        pump([open_port, friend], lambda: friend.handler.refusals)
        assert open_port.handler.messages == friend.handler.messages == []
    finally:
        open_port.transport.close()


def test_knowing_the_public_key_does_not_let_in(
    worker: Peer, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    thief = forge(context.socket(zmq.DEALER))
    thief.connect(worker.endpoints.router[0])
    pump([worker], lambda: worker.handler.refusals)
    where, reason = worker.handler.refusals[0]
    assert where == "127.0.0.1"
    assert "is not the mesh key" in reason
    assert worker.handler.messages == []


#: A greeting of ZMTP 3.0 with the right mechanism, then noise instead of a command.
NOISE = (
    b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    + b"\x04\x20\x05noise" + bytes(26)
)  # fmt: skip


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n" * 4, b"\x16\x03\x01" * 100, NOISE]
)
@pytest.mark.parametrize("kind", ["router", "pub", "pull"])
def test_garbage_is_counted_and_reported(worker: Peer, garbage: bytes, kind: str) -> None:
    endpoint = getattr(worker.endpoints, kind)[0]
    host, port = endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(garbage)
        pump([worker], lambda: worker.handler.refusals)
    where, reason = worker.handler.refusals[0]
    # The address is not known where the connection was cut before we could look.
    assert where in ("127.0.0.1", endpoint)
    assert "not the ZeroMQ protocol" in reason
    assert worker.transport.counters.refused_count == 1
    assert not worker.handler.messages
    assert not worker.handler.pulled
    assert not worker.handler.subscriptions


def test_a_probe_that_opens_and_closes_is_not_reported(worker: Peer, friend: Peer) -> None:
    host, port = worker.endpoints.router[0].removeprefix("tcp://").split(":")
    socket.create_connection((host, int(port))).close()
    link(friend, worker, worker.endpoints.router[0])
    assert worker.handler.refusals == []


class TestWithoutZapHandler:
    """CURVE lets every key in when nobody answers for ZAP; messages are dropped."""

    @pytest.fixture
    def unguarded(self, worker: Peer) -> Peer:
        handler = worker.transport._zap
        assert handler is not None
        handler.close()
        worker.transport._polled = [item for item in worker.transport._polled if not item[0].closed]
        return worker

    def test_messages_are_dropped(
        self, unguarded: Peer, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        thief = forge(context.socket(zmq.DEALER))
        thief.setsockopt(zmq.ROUTING_ID, routing_id(b"T" * 8, 1))
        thief.connect(unguarded.endpoints.router[0])
        thief.send_multipart([b"task", b"blob"])
        counters = unguarded.transport.counters
        pump([unguarded], lambda: counters.unauthenticated_count)
        thief.send(b"another")
        pump([unguarded], lambda: counters.unauthenticated_count == 2)
        assert unguarded.handler.messages == []
        told = ("127.0.0.1", "nothing shows that it has the mesh key")
        assert unguarded.handler.dropped == [told, told]

    def test_pushed_messages_are_dropped(
        self, unguarded: Peer, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        thief = forge(context.socket(zmq.PUSH))
        thief.connect(unguarded.endpoints.pull[0])
        thief.send_multipart([b"task", b"blob"])
        pump([unguarded], lambda: unguarded.transport.counters.unauthenticated_count)
        assert unguarded.handler.pulled == []

    def test_subscribers_get_nothing(
        self, unguarded: Peer, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        thief = forge(context.socket(zmq.SUB))
        thief.setsockopt(zmq.SUBSCRIBE, b"")
        thief.connect(unguarded.endpoints.pub[0])
        pump([unguarded], lambda: unguarded.transport.counters.unauthenticated_count)
        unguarded.transport.publish(b"R", [b"secret"])
        assert unguarded.handler.subscriptions == []
        assert thief.poll(ARRIVES_MS) == 0


def test_insecure_listens_anywhere_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    worker = Peer(b"W", tcp_listen=(("*", 0),), insecure=True)
    producer = Peer(b"P", insecure=True)
    try:
        assert worker.endpoints.lan_port > 0
        assert "anybody who reaches this address can run tasks" in caplog.text
        assert producer.transport.dial_refusal("tcp://203.0.113.1:5") == ""
        link(producer, worker, f"tcp://127.0.0.1:{worker.endpoints.lan_port}")
    finally:
        worker.transport.close()
        producer.transport.close()


def test_the_key_is_in_no_text_of_a_transport(worker: Peer) -> None:
    assert KEY not in repr(worker.transport.config)
    assert KEY not in repr(worker.transport._keys)
