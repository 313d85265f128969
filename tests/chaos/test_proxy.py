"""The proxy does to a connection what it says, no more and no less."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.proxy import CLEAR, Proxy, Route, Weather
from tests.e2e.harness import wait_for

_ANSWER_S = 10.0


@contextmanager
def _route(weather: Weather) -> Iterator[tuple[Proxy, Route, socket.socket, socket.socket]]:
    """A route and both ends of a connection through it."""
    with Proxy() as proxy, socket.create_server(("127.0.0.1", 0)) as server:
        route = proxy.lead(server.getsockname()[1])
        route.weather = weather
        with socket.create_connection(("127.0.0.1", route.port), _ANSWER_S) as dialled:
            server.settimeout(_ANSWER_S)
            target, _ = server.accept()
            with target:
                target.settimeout(_ANSWER_S)
                yield proxy, route, dialled, target


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"the connection ended after {len(data)} of {count} bytes"
        data += piece
    return data


@pytest.mark.parametrize(
    "weather", [CLEAR, Weather(delay_s_max=0.01), Weather(slice_bytes=1)], ids=str
)
def test_all_arrives_in_order_both_ways_and_so_does_the_end(weather: Weather) -> None:
    data = bytes(range(256)) * 20
    with _route(weather) as (_, route, dialled, target):
        dialled.sendall(data)
        assert _read(target, len(data)) == data
        target.sendall(data)
        assert _read(dialled, len(data)) == data
        assert route.bytes_count == 2 * len(data)
        dialled.shutdown(socket.SHUT_WR)
        assert target.recv(1) == b""
        target.sendall(b"last words")
        assert _read(dialled, 10) == b"last words"
        target.close()
        assert dialled.recv(1) == b""
        wait_for(lambda: not route.open, "the connection is over")


def test_a_stalled_way_carries_nothing_and_loses_nothing() -> None:
    with _route(Weather(stalled=frozenset(("down",)))) as (_, route, dialled, target):
        target.sendall(b"late")
        dialled.sendall(b"at once")
        assert _read(target, 7) == b"at once"
        dialled.settimeout(0.05)
        with pytest.raises(TimeoutError):
            dialled.recv(1)
        route.weather = CLEAR
        dialled.settimeout(_ANSWER_S)
        assert _read(dialled, 4) == b"late"


def test_a_connection_is_reset_after_so_many_bytes() -> None:
    with _route(Weather(reset_bytes=(10, 10))) as (_, route, dialled, target):
        dialled.sendall(b"0123456789abcdef")
        assert _read(target, 10) == b"0123456789"
        for end in (dialled, target):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        assert (route.cut_count, route.bytes_count) == (1, 10)


def test_half_open_ends_one_side_and_the_other_hears_nothing() -> None:
    with _route(CLEAR) as (proxy, route, dialled, target):
        dialled.sendall(b"hello")
        assert _read(target, 5) == b"hello"
        assert proxy.half_open(route) == 1
        assert target.recv(1) == b""
        dialled.sendall(b"into the void")
        dialled.settimeout(0.05)
        with pytest.raises(TimeoutError):
            dialled.recv(1)
        assert proxy.half_open(route) == 0
        dialled.close()
        wait_for(lambda: not route.open, "the connection is over")


def test_who_dials_a_route_to_nobody_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Proxy() as proxy:
        route = proxy.lead(port)
        with socket.create_connection(("127.0.0.1", route.port), _ANSWER_S) as dialled:
            assert dialled.recv(1) == b""
