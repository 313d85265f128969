"""Taking addresses apart, judging and matching them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.net.endpoints import (
    Endpoint,
    companion,
    expand,
    ip_of,
    is_loopback,
    parse,
    reachable,
    stays_on_host,
    tcp,
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tcp://127.0.0.1:5555", Endpoint("tcp", "127.0.0.1", 5555)),
        ("tcp://[::1]:5555", Endpoint("tcp", "::1", 5555)),
        ("tcp://[fe80::1%eth0]:1", Endpoint("tcp", "fe80::1%eth0", 1)),
        ("ipc:///run/x.r", Endpoint("ipc", "/run/x.r", 0)),
    ],
)
def test_endpoints_come_apart_and_together_again(text: str, parts: Endpoint) -> None:
    assert parse(text) == parts
    assert str(parts) == text


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", "tcp://h", "tcp://h:0", "tcp://h:65536", "tcp://h:²", "tcp://:5", "tcp://::1:5",
     "tcp://a b:5", "tcp://a;b:5", "ipc://relative", "ipc://", "ipc:///" + "x" * 200, "ipc:///a\0b",
     "inproc://x", "udp://h:5", "tcp://h:123456"],
)  # fmt: skip
def test_anything_else_is_no_endpoint(text: str) -> None:
    assert parse(text) is None


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    for prefix in ("", "tcp://", "ipc:///"):
        parts = parse(prefix + text)
        assert parts is None or parse(str(parts)) == parts


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "*", "0.0.0.0", "::", "example", "127.0.0.1.evil"])
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert not stays_on_host(Endpoint("tcp", host, 1))


def test_ipv4_in_ipv6_is_ipv4() -> None:
    assert str(ip_of("::ffff:10.0.0.1")) == "10.0.0.1"
    assert ip_of("name") is None


def test_wildcards_become_addresses_that_can_be_dialled() -> None:
    own = ["192.0.2.7", "2001:db8::7"]
    assert expand("10.0.0.1", 7, own) == ["tcp://10.0.0.1:7"]
    assert expand("*", 7, own) == [
        "tcp://192.0.2.7:7",
        "tcp://[2001:db8::7]:7",
        "tcp://127.0.0.1:7",
    ]
    assert expand("0.0.0.0", 7, own) == ["tcp://192.0.2.7:7", "tcp://127.0.0.1:7"]


def test_what_stays_on_another_host_is_left_out() -> None:
    offered = ["ipc:///r/w.p", "tcp://10.0.0.1:8", "tcp://127.0.0.1:8", "junk"]
    assert reachable(offered, b"there", b"here") == ("tcp://10.0.0.1:8",)
    assert reachable(offered, b"here", b"here") == tuple(offered)
    assert reachable(offered, b"", b"here") == tuple(offered)


def test_other_sockets_of_a_peer_are_reached_the_same_way() -> None:
    offered = ["ipc:///r/w.p", "tcp://10.0.0.1:8", tcp("2001:db8::7", 8), "tcp://127.0.0.1:8"]
    assert companion("ipc:///r/w.r", offered) == "ipc:///r/w.p"
    assert companion("tcp://127.0.0.1:7", offered) == "tcp://127.0.0.1:8"
    assert companion("tcp://[2001:db8::7]:7", offered) == "tcp://[2001:db8::7]:8"


def test_behind_nat_the_dialled_host_has_the_other_ports_too() -> None:
    assert companion("tcp://203.0.113.9:7", ["ipc:///x", "tcp://10.0.0.1:8"]) == (
        "tcp://203.0.113.9:8"
    )


@pytest.mark.parametrize(
    ("dialled", "offered"),
    [
        ("ipc:///x.r", ["tcp://1.2.3.4:5"]),
        ("tcp://1.2.3.4:5", ["ipc:///x.p", "junk"]),
        ("junk", ["ipc:///x"]),
    ],
)
def test_where_no_way_matches_there_is_none(dialled: str, offered: list[str]) -> None:
    assert companion(dialled, offered) is None
