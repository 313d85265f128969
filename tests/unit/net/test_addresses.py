"""Addresses of this machine."""

from __future__ import annotations

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.net import addresses
from zmqtasks.net.addresses import listen_host, local_addresses


def test_only_addresses_that_others_can_dial_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [("lo", "127.0.0.1", 8), ("lo", "::1", 128), ("a", "fe80::1", 64),
             ("a", "2001:db8::1", 64), ("a", "192.0.2.1", 24), ("b", "192.0.2.1", 24)]  # fmt: skip
    monkeypatch.setattr(addresses, "_ips", lambda: found)
    assert local_addresses() == ["192.0.2.1", "2001:db8::1"]
    assert listen_host("a") == "192.0.2.1"


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "127.0.0.1", "::1"])
def test_addresses_are_taken_as_they_are(host: str) -> None:
    assert listen_host(host) == host


def test_names_are_looked_up() -> None:
    assert listen_host("localhost") in ("127.0.0.1", "::1")
    with pytest.raises(ConfigError, match=r"neither an address nor an interface"):
        listen_host("no such host")
