from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqtasks.addresses import ListenPlan, check_peer, parse_address, plan_listen
from zmqtasks.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.7:5000", ("10.0.0.7", 5000)),
        ("tcp://10.0.0.7:5000", ("10.0.0.7", 5000)),
        ("worker-1.example.org:5000", ("worker-1.example.org", 5000)),
        ("worker_1:5000", ("worker_1", 5000)),
        ("[fe80::1%lan0]:5000", ("fe80::1%lan0", 5000)),
        ("[::1]", ("::1", 7)),
        ("::1", ("::1", 7)),
        ("localhost", ("localhost", 7)),
        ("*", ("*", 7)),
        ("*:0", ("*", 0)),
    ],
)
def test_address_is_understood(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text, default_port=7) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("host", "has no port; write HOST:PORT"),
        ("host:", "port must be a number"),
        ("host:http", "port must be a number"),
        ("host:65534", "0 to 65533"),
        ("host:-1", "port must be a number"),
        ("host:٣", "port must be a number"),
        (":5000", "no host name"),
        ("", "no host name"),
        ("a b:5000", "no host name"),
        ("-rf:5000", "no host name"),
        ("[::1", "write an IPv6 address"),
        ("[::1]5000", "write an IPv6 address"),
        ("udp://host:5000", "only tcp://"),
        ("ipc:///tmp/socket", "only tcp://"),
    ],
)
def test_bad_address_is_named_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        host, port = parse_address(text, default_port=0)
    except ConfigError:
        return
    assert host
    assert 0 <= port <= 65_533


@pytest.mark.parametrize("text", ["*:5000", "host:0"])
def test_peer_needs_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ConfigError, match="a peer needs a host and its fixed port"):
        check_peer(text)


@pytest.mark.parametrize(
    ("listen", "has_key", "expected"),
    [
        ((), False, ListenPlan(True, ())),
        ((), True, ListenPlan(False, (("*", 5000),))),
        (("ipc",), True, ListenPlan(True, ())),
        (("127.0.0.1",), False, ListenPlan(False, (("127.0.0.1", 5000),))),
        (("ipc", "lan:6000", "lan:6000"), True, ListenPlan(False, (("lan", 6000),))),
    ],
)
def test_listening_plan(listen: tuple[str, ...], has_key: bool, expected: ListenPlan) -> None:
    assert plan_listen(listen, 5000, has_key=has_key) == expected
