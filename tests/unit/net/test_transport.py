"""The sockets of nodes over ipc and loopback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.unit.net.conftest import MakePeer
from tests.unit.net.pumping import Peer, Recorder, link, pump
from zmqtasks.core.links import LinkId
from zmqtasks.errors import ConfigError, KeyRequired
from zmqtasks.ids import routing_id
from zmqtasks.limits import FRAMES_PER_MESSAGE_MAX, PUSH_HWM
from zmqtasks.net.transport import Transport, TransportConfig, raise_open_files_limit

LOOPBACK = (("127.0.0.1", 0),)


def test_two_nodes_talk_over_ipc(make_peer: MakePeer, own_directories: Path) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    link(producer, worker, worker.endpoints.router[0])
    assert producer.transport.send(worker.as_out, [b"head", b"x" * 100_000]) == "ok"
    assert worker.transport.send(producer.as_in, [b"answer"]) == "ok"
    pump([worker, producer], lambda: worker.handler.bodies() and producer.handler.bodies())
    assert worker.handler.bodies() == [[b"head", b"x" * 100_000]]
    assert producer.handler.bodies() == [[b"answer"]]
    assert producer.handler.connections == [(worker.endpoints.router[0], True)]
    assert worker.handler.addresses[-1] == f"pid {os.getpid()}"


def test_two_nodes_talk_over_loopback(make_peer: MakePeer) -> None:
    worker, producer = make_peer(b"W", tcp_listen=LOOPBACK), make_peer(b"P")
    assert [text.rpartition(":")[0] for text in worker.endpoints.router] == ["tcp://127.0.0.1"]
    assert worker.endpoints.lan_port == 0
    link(producer, worker, worker.endpoints.router[0])
    assert producer.transport.send(worker.as_out, [b"a"]) == "ok"
    pump([worker, producer], worker.handler.bodies)
    assert worker.handler.addresses[-1] == "127.0.0.1"


def test_a_node_that_listens_nowhere_has_no_endpoints(make_peer: MakePeer) -> None:
    producer = make_peer(b"P")
    assert producer.endpoints == ((), (), (), 0)
    assert producer.transport.send(LinkId("in", b"nobody"), [b"x"]) == "unreachable"
    producer.transport.publish(b"R", [b"x"])


def test_sending_to_nobody_is_unreachable(make_peer: MakePeer, own_directories: Path) -> None:
    worker = make_peer(b"W", ipc_dir=own_directories)
    nobody = routing_id(b"N" * 8, 1)
    assert worker.transport.send(LinkId("in", nobody), [b"x"]) == "unreachable"
    assert worker.transport.send(LinkId("out", nobody), [b"x"]) == "unreachable"


def test_a_peer_that_ended_is_unreachable_and_its_sockets_are_gone(
    make_peer: MakePeer, own_directories: Path
) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    link(producer, worker, worker.endpoints.router[0])
    worker.transport.close()
    pump(
        [producer],
        lambda: producer.handler.connections[-1:] == [(worker.endpoints.router[0], False)],
    )
    # The monitor may be ahead of the socket.
    pump([producer], lambda: producer.transport.send(worker.as_out, [b"x"]) == "unreachable")
    assert list(own_directories.iterdir()) == []


def test_a_peer_that_does_not_read_is_full(make_peer: MakePeer, own_directories: Path) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    link(producer, worker, worker.endpoints.router[0])
    results = {producer.transport.send(worker.as_out, [b"x" * 10_000]) for _ in range(20_000)}
    assert results == {"ok", "full"}
    pump([worker, producer], lambda: producer.transport.send(worker.as_out, [b"last"]) == "ok")


def test_a_frameless_message_is_a_probe(make_peer: MakePeer, own_directories: Path) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    link(producer, worker, worker.endpoints.router[0])
    before = len(worker.handler.messages)
    assert producer.transport.send(worker.as_out, []) == "ok"
    pump([worker, producer], lambda: len(worker.handler.messages) > before)
    assert worker.handler.messages[-1] == (producer.as_in, [])


def test_a_message_of_too_many_frames_is_dropped_and_counted(
    make_peer: MakePeer, own_directories: Path
) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    link(producer, worker, worker.endpoints.router[0])
    producer.transport.send(worker.as_out, [b"x"] * (FRAMES_PER_MESSAGE_MAX + 1))
    producer.transport.send(worker.as_out, [b"y"] * FRAMES_PER_MESSAGE_MAX)
    pump([worker, producer], worker.handler.bodies)
    assert worker.handler.bodies() == [[b"y"] * FRAMES_PER_MESSAGE_MAX]
    assert worker.transport.counters.oversized_count == 1


def test_connecting_twice_is_one_connection(make_peer: MakePeer, own_directories: Path) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    endpoint = worker.endpoints.router[0]
    assert producer.transport.connect(endpoint)
    link(producer, worker, endpoint)
    producer.transport.disconnect(endpoint)
    producer.transport.disconnect(endpoint)
    pump([worker, producer], lambda: producer.transport.send(worker.as_out, []) == "unreachable")
    producer.handler.messages.clear()
    worker.handler.messages.clear()
    link(producer, worker, endpoint)
    assert producer.transport.send(worker.as_out, [b"again"]) == "ok"


def test_who_takes_over_a_port_gets_nothing_meant_for_its_predecessor(make_peer: MakePeer) -> None:
    listen = (("127.0.0.1", _three_free_ports()),)
    first, producer = make_peer(b"W", tcp_listen=listen), make_peer(b"P")
    endpoint = first.endpoints.router[0]
    link(producer, first, endpoint)
    first.transport.close()
    pump([producer], lambda: producer.handler.connections[-1] == (endpoint, False))
    assert producer.transport.send(first.as_out, [b"for the first"]) == "unreachable"
    second = make_peer(b"X", tcp_listen=listen)
    pump([producer, second], lambda: producer.handler.probed_by(second.as_out))
    assert producer.transport.send(first.as_out, [b"for the first"]) == "unreachable"
    assert producer.transport.send(second.as_out, [b"for the second"]) == "ok"
    pump([producer, second], second.handler.bodies)
    assert second.handler.bodies() == [[b"for the second"]]


def test_published_messages_reach_who_subscribed(
    make_peer: MakePeer, own_directories: Path
) -> None:
    worker, store = make_peer(b"W", ipc_dir=own_directories), make_peer(b"S")
    assert store.transport.subscribe(worker.endpoints.pub[0], [b"R"])
    assert store.transport.subscribe(worker.endpoints.pub[0], [b"R"])
    pump([worker, store], lambda: worker.handler.subscriptions)
    worker.transport.publish(b"E", [b"not for us"])
    worker.transport.publish(b"Rnode", [b"one", b"two"])
    worker.transport.publish(b"R", [])
    pump([worker, store], lambda: len(store.handler.published) == 2)
    assert worker.handler.subscriptions == [(b"R", True)]
    assert store.handler.published == [(b"Rnode", [b"one", b"two"]), (b"R", [])]
    store.transport.unsubscribe(worker.endpoints.pub[0])
    pump([worker, store], lambda: (b"R", False) in worker.handler.subscriptions)


def test_each_subscriber_to_a_topic_is_told_of(make_peer: MakePeer, own_directories: Path) -> None:
    worker = make_peer(b"W", ipc_dir=own_directories)
    readers = [make_peer(b"1"), make_peer(b"2")]
    for reader in readers:
        reader.transport.subscribe(worker.endpoints.pub[0], [b"R"])
    pump([worker, *readers], lambda: worker.handler.subscriptions == [(b"R", True)] * 2)


def test_a_lane_deals_to_its_workers_and_ends_with_the_last(
    make_peer: MakePeer, own_directories: Path
) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    transport, endpoint = producer.transport, worker.endpoints.pull[0]
    assert not transport.push("app/queue", [b"nobody there"])
    assert transport.push_connect("app/queue", endpoint)
    assert transport.push_connect("app/queue", endpoint)
    pump([worker, producer], lambda: transport.push("app/queue", [b"head", b"blob"]))
    pump([worker, producer], lambda: worker.handler.pulled)
    assert worker.handler.pulled == [[b"head", b"blob"]]
    assert transport.push("app/queue", [b"alone"])
    pump([worker, producer], lambda: worker.handler.pulled[-1] == [b"alone"])
    transport.push_disconnect("app/queue", endpoint)
    transport.push_disconnect("app/queue", endpoint)
    assert not transport.push("app/queue", [b"nobody any more"])


def test_a_lane_whose_workers_do_not_read_is_full(
    make_peer: MakePeer, own_directories: Path
) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    producer.transport.push_connect("q", worker.endpoints.pull[0])
    pump([worker, producer], lambda: producer.transport.push("q", [b"first"]))
    pushed = [producer.transport.push("q", [b"x" * 100_000]) for _ in range(100 * PUSH_HWM)]
    assert not all(pushed)


def test_fixed_ports_follow_each_other(make_peer: MakePeer) -> None:
    port = _three_free_ports()
    worker = make_peer(b"W", tcp_listen=(("127.0.0.1", port),))
    assert worker.endpoints.router == (f"tcp://127.0.0.1:{port}",)
    assert worker.endpoints.pub == (f"tcp://127.0.0.1:{port + 1}",)
    assert worker.endpoints.pull == (f"tcp://127.0.0.1:{port + 2}",)


def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} on 127.0.0.1 is taken.*--port"):
            Peer(b"W", tcp_listen=(("127.0.0.1", port),))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="no address of this machine"):
        Peer(b"W", tcp_listen=(("203.0.113.1", 0),), insecure=True)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ZMQTASKS_RUNTIME_DIR"):
        Peer(b"W", ipc_dir=tmp_path / "missing")


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "::", "203.0.113.1"])
def test_without_a_key_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(KeyRequired, match="zmqtasks keygen"):
        Peer(b"W", tcp_listen=((host, 0),))


def test_loopback_without_a_key_is_warned_about(
    make_peer: MakePeer, caplog: pytest.LogCaptureFixture
) -> None:
    make_peer(b"W", tcp_listen=LOOPBACK)
    assert "every user of this machine" in caplog.text


@pytest.mark.parametrize("endpoint", ["tcp://203.0.113.1:5", "tcp://name:5", "udp://x", "nonsense"])
def test_without_a_key_only_this_host_is_dialled(make_peer: MakePeer, endpoint: str) -> None:
    producer = make_peer(b"P")
    assert not producer.transport.connect(endpoint)
    assert not producer.transport.subscribe(endpoint, [])
    assert not producer.transport.push_connect("q", endpoint)
    assert [where for where, _ in producer.handler.refusals] == [endpoint] * 3


def test_closing_again_or_before_opening_is_no_harm() -> None:
    transport = Transport(TransportConfig(b"W" * 8, 1), Recorder())
    transport.close()
    transport.open()
    transport.close()
    transport.close()


def test_a_forked_child_leaves_the_sockets_alone(
    make_peer: MakePeer, own_directories: Path
) -> None:
    worker, producer = make_peer(b"W", ipc_dir=own_directories), make_peer(b"P")
    link(producer, worker, worker.endpoints.router[0])
    child = os.fork()
    if child == 0:
        worker.transport.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert producer.transport.send(worker.as_out, [b"still there"]) == "ok"
    pump([worker, producer], worker.handler.bodies)


def test_the_limit_of_open_files_is_told() -> None:
    assert raise_open_files_limit() > 0


def _three_free_ports() -> int:
    """The first of three ports in a row that were free a moment ago."""
    for _ in range(100):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
                three.bind(("127.0.0.1", port + 2))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no three free ports in a row")
