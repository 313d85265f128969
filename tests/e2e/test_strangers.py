"""Garbage and strangers at a node's ports: counted, logged once, dropped; the node works on."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.e2e.harness import Mesh, NodeProcess, running_mesh, wait_for
from zmqtasks.ids import new_node_id, routing_id
from zmqtasks.keys import mesh_hash
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Error, ErrorCode, Hello

pytestmark = pytest.mark.e2e


def _ports(node: NodeProcess) -> tuple[int, int, int]:
    """Where a node with ``--listen 127.0.0.1`` listens: ROUTER, XPUB, PULL."""
    match = re.search(r"tcp://127\.0\.0\.1:(\d+)", node.wait_log("listens on"))
    assert match is not None
    return int(match[1]), int(match[1]) + 1, int(match[1]) + 2


def _status(mesh: Mesh, *flags: str) -> dict[str, Any]:
    done = mesh.cli("status", "--json", "--wait", "1", *flags)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _garbage(mesh: Mesh, name: str, *flags: str) -> dict[str, int]:
    found: dict[str, int] = next(
        node["garbage"] for node in _status(mesh, *flags)["nodes"] if node["name"] == name
    )
    return found


def _free_ports() -> int:
    """The first of three free ports in a row, as far as anybody can know."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port > 65_000:
                continue
            try:
                for offset in (1, 2):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
        return port


@contextmanager
def _dealer(port: int, identity: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    try:
        sock.linger = 0
        if identity:
            sock.routing_id = identity
        sock.connect(f"tcp://127.0.0.1:{port}")
        yield sock
    finally:
        sock.close(0)
        context.term()


def _key(mesh: Mesh, name: str = "mesh.key") -> str:
    path = mesh.folder / name
    assert mesh.cli("keygen", str(path)).returncode == 0
    return str(path)


def test_bytes_that_are_no_zeromq(mesh: Mesh) -> None:
    port = _free_ports()
    node = mesh.start_node("--listen", "127.0.0.1", "--port", str(port))
    for number in range(3):
        for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" + bytes(200)):
            with socket.create_connection(("127.0.0.1", port + number), timeout=5) as sock:
                sock.sendall(junk)
    done = mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert done.stdout == "3\n"
    assert node.process.poll() is None
    assert "Traceback" not in node.log


def test_frames_that_are_no_messages_are_counted_and_logged_once_per_peer(mesh: Mesh) -> None:
    port = _free_ports()
    node = mesh.start_node("--listen", "127.0.0.1", "--port", str(port), name="w1")
    junk = [b"x", os.urandom(100), b"ZT" + bytes(30), b"ZT\x01\x63" + bytes(28) + b"\xc1"]
    with _dealer(port) as sock:
        for frames in junk:
            sock.send(frames)
        sock.send_multipart([b"ZT"] * 40)
        wait_for(lambda: _garbage(mesh, "w1")["undecodable"] >= 4, "it is counted")
    assert node.log.count("dropped what") == 1
    with _dealer(port) as sock:
        sock.send(b"another peer")
        node.wait_log("dropped what")
        wait_for(lambda: node.log.count("dropped what") == 2, "another peer is logged as well")
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{port + 2}")
    push.send(b"nonsense on the at-most-once lane")
    push.send(b"and again")
    node.wait_log("127.0.0.1 sent to the at-most-once lane")
    subscriber = context.socket(zmq.XSUB)
    subscriber.connect(f"tcp://127.0.0.1:{port + 1}")
    for _ in range(3):
        subscriber.send(b"no subscription")
    node.wait_log("dropped a message of 127.0.0.1: it is no subscription")
    wait_for(lambda: _garbage(mesh, "w1")["stray"] == 3, "all are counted")
    wait_for(lambda: _garbage(mesh, "w1")["undecodable"] >= 7, "all are counted")
    assert node.log.count("at-most-once lane") == node.log.count("is no subscription") == 1
    assert node.log.count("has more than 16 frames") == 1
    push.close(0)
    subscriber.close(0)
    context.term()
    done = mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert done.stdout == "3\n"
    table = mesh.cli("status").stdout
    assert "strangers sent" in table


def _hello(mesh: str, node: bytes, versions: tuple[int, int]) -> list[bytes]:
    return codec.encode(Hello(
        node, 1, 1, 0, 0, mesh_hash(mesh), *versions, [], "stranger", ["producer"], bytes(8), 1,
        [], [], [], 0, [], [], {},
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "versions", "code", "text"),
    [
        ("elsewhere", (1, 1), ErrorCode.WRONG_MESH, "belongs to another mesh than 'e2e'"),
        ("e2e", (7, 9), ErrorCode.VERSION, "speaks protocol versions 7 to 9, this node 1 to 1"),
    ],
)
def test_greeting_of_another_mesh_or_version_is_refused_with_the_reason(
    mesh: Mesh, name: str, versions: tuple[int, int], code: ErrorCode, text: str
) -> None:
    port = _free_ports()
    node = mesh.start_node("--listen", "127.0.0.1", "--port", str(port))
    stranger = new_node_id()
    with _dealer(port, routing_id(stranger, 1)) as sock:
        answers: list[Error] = []

        def greet() -> bool:
            sock.send_multipart(_hello(name, stranger, versions))
            while sock.poll(100):
                frames = sock.recv_multipart()
                if frames == [b""]:
                    continue  # a probe
                _, message = codec.decode(frames)
                if isinstance(message, Error):
                    answers.append(message)
            return len(answers) > 1

        wait_for(greet, "the refusal")
    assert answers[0].code == code
    assert text in answers[0].text
    assert text in node.wait_log("refused a peer")
    assert node.log.count("refused a peer") == 1


def test_another_mesh_behind_a_static_peer_is_said(mesh: Mesh) -> None:
    port = _free_ports()
    mesh.start_node("--listen", "127.0.0.1", "--port", str(port))
    done = mesh.cli(
        "call", "tasks.add", "1", "2", "--mesh", "elsewhere", "--peer", f"127.0.0.1:{port}"
    )
    assert done.returncode == 2
    assert f"127.0.0.1:{port} belongs to another mesh than 'elsewhere'" in done.stderr
    assert "nobody can run 'tasks.add'" in done.stderr


def test_mesh_with_a_key_over_tcp(mesh: Mesh, tmp_path: Path) -> None:
    key, port = _key(mesh), _free_ports()
    mesh.start_node("--listen", "127.0.0.1", "--port", str(port), "--key", key, name="w1")
    with running_mesh(tmp_path / "away") as away:
        done = away.cli("call", "tasks.add", "1", "2", "--key", key, "--peer", f"127.0.0.1:{port}")
        assert (done.returncode, done.stdout) == (0, "3\n")
        found = _status(away, "--key", key, "--peer", f"127.0.0.1:{port}")
        (node,) = [node for node in found["nodes"] if node["name"] == "w1"]
        # The greeting went over TCP; on one host a socket file is then the shorter way.
        assert (node["found_by"], node["transport"]) == ("static", "ipc")
        assert found["key"]


def test_wrong_key_or_none_is_refused_and_both_sides_say_so(mesh: Mesh, tmp_path: Path) -> None:
    key, port = _key(mesh), _free_ports()
    node = mesh.start_node("--listen", "127.0.0.1", "--port", str(port), "--key", key, name="w1")
    with running_mesh(tmp_path / "away") as away:
        wrong = _key(away, "wrong.key")
        peer = f"127.0.0.1:{port}"
        done = away.cli("call", "tasks.add", "1", "2", "--key", wrong, "--peer", peer)
        assert done.returncode == 2
        assert peer in done.stderr
        assert "another mesh key" in node.wait_log("no connection with 127.0.0.1")
        with _dealer(port) as sock:
            sock.send(b"in clear")
        plain = away.cli("call", "tasks.add", "1", "2", "--insecure", "--peer", peer)
        assert plain.returncode == 2
    garbage = _garbage(mesh, "w1", "--key", key)
    assert garbage["refused"] > 0
    assert garbage["undecodable"] == 0
    done = mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))",
                    ZMQTASKS_KEY_FILE=key)  # fmt: skip
    assert done.stdout == "3\n"


def test_same_name_and_another_key_on_this_host_is_said_once(mesh: Mesh) -> None:
    key, other = _key(mesh), _key(mesh, "other.key")
    first = mesh.start_node("--key", key, "--listen", "ipc", name="w1")
    second = mesh.start_node("--key", other, "--listen", "ipc", name="w2")
    for node in (first, second):
        assert "with another key" in node.wait_log("a mesh of the same name 'e2e'")
    done = mesh.cli("call", "tasks.add", "1", "2")
    assert done.returncode == 2
    assert "with another key" in done.stderr
    assert mesh.cli("call", "tasks.add", "1", "2", "--key", other).stdout == "3\n"
    assert first.log.count("with another key (local: key ") == 1


def test_insecure_listens_without_a_key(mesh: Mesh, tmp_path: Path) -> None:
    port = _free_ports()
    node = mesh.start_node("--listen", "127.0.0.1", "--port", str(port), "--insecure", name="w1")
    node.wait_log("without a mesh key")
    with running_mesh(tmp_path / "away") as away:
        done = away.cli("call", "tasks.add", "1", "2", "--insecure", "--peer", f"127.0.0.1:{port}")
        assert (done.returncode, done.stdout) == (0, "3\n")
