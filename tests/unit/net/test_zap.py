"""The answers of the ZAP handler to what libzmq, or anybody in this process, asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from zmq.utils import z85

from zmqtasks import keys
from zmqtasks.net.curve import key_pair
from zmqtasks.net.sockets import Context, new_context
from zmqtasks.net.zap import ZAP_ENDPOINT, ZapHandler

PAIR = key_pair(keys.generate())
RAW = z85.decode(PAIR.public)


@pytest.fixture
def context() -> Iterator[Context]:
    made = new_context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def refusals() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def handler(context: Context, refusals: list[tuple[str, str]]) -> ZapHandler:
    return ZapHandler(
        context, frozenset((PAIR.public,)), lambda where, reason: refusals.append((where, reason))
    )


def ask(context: Context, handler: ZapHandler, *frames: bytes) -> list[bytes]:
    with context.socket(zmq.REQ) as client:
        client.connect(ZAP_ENDPOINT)
        client.send_multipart(list(frames))
        assert handler.socket.poll(10_000)
        handler.drain()
        return client.recv_multipart()


def test_the_mesh_key_is_admitted_under_its_name(
    context: Context, handler: ZapHandler, refusals: list[tuple[str, str]]
) -> None:
    answer = ask(context, handler, b"1.0", b"7", b"d", b"192.0.2.1", b"id", b"CURVE", RAW)
    assert answer == [b"1.0", b"7", b"200", b"OK", PAIR.public.encode(), b""]
    assert refusals == []


@pytest.mark.parametrize(
    "frames",
    [
        [b"1.0", b"7", b"d", b"192.0.2.1", b"id", b"CURVE", bytes(32)],
        [b"1.0", b"7", b"d", b"192.0.2.1", b"id", b"CURVE", RAW[:-1]],
        [b"1.0", b"7", b"d", b"192.0.2.1", b"id", b"CURVE"],
        [b"1.0", b"7", b"d", b"192.0.2.1", b"id", b"NULL", RAW],
        [b"2.0", b"7", b"d", b"192.0.2.1", b"id", b"CURVE", RAW],
        [b"1.0", b"7", b"d", b"\xff"],
        [b""],
    ],
)
def test_anything_else_is_refused_and_told(
    context: Context, handler: ZapHandler, refusals: list[tuple[str, str]], frames: list[bytes]
) -> None:
    answer = ask(context, handler, *frames)
    assert (answer[0], answer[2], answer[4]) == (b"1.0", b"400", b"")
    assert len(refusals) == 1


def test_a_context_has_one_handler(context: Context, handler: ZapHandler) -> None:
    with pytest.raises(RuntimeError, match="handler already"):
        ZapHandler(context, frozenset(), lambda where, reason: None)
    handler.close()
    ZapHandler(context, frozenset(), lambda where, reason: None)
