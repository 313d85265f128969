"""Which interfaces multicast DNS speaks on."""

from __future__ import annotations

import pytest

from zmqtasks.discovery.interfaces import Interface, choose, speaking_addresses, system_interfaces


def interface(name: str, *addresses: str, up: bool = True, multicast: bool = True) -> Interface:
    return Interface(name, addresses, up, name == "lo", multicast)


LAN = interface("eth0", "192.0.2.7", "2001:db8::7")
LOOPBACK = interface("lo", "127.0.0.1", "::1", multicast=False)
ALL = [
    LOOPBACK,
    LAN,
    interface("docker0", "172.17.0.1"),
    interface("br-1234", "172.18.0.1"),
    interface("veth12", "169.254.1.1"),
    interface("virbr0", "192.168.122.1"),
    interface("tun0", "10.8.0.1"),
    interface("eth1", "198.51.100.7", up=False),
    interface("ppp0", "203.0.113.7", multicast=False),
    interface("eth2"),
]


def test_by_default_it_is_the_lan() -> None:
    assert choose(ALL, ()) == [LAN]


@pytest.mark.parametrize("pin", ["eth0", "192.0.2.0/24", "192.0.2.7", "2001:db8::/32"])
def test_interfaces_are_pinned_by_name_address_or_network(pin: str) -> None:
    assert choose(ALL, [pin]) == [LAN]


def test_a_pin_may_name_what_is_left_out_otherwise() -> None:
    assert [one.name for one in choose(ALL, ["lo", "docker0", "nonsense"])] == ["lo", "docker0"]


def test_ipv6_is_spoken_only_where_there_is_nothing_else() -> None:
    only_v6 = interface("eth3", "fe80::1", "2001:db8::9")
    assert speaking_addresses([LAN, only_v6]) == ["192.0.2.7", "fe80::1"]


def test_this_machine_has_a_loopback_that_is_up() -> None:
    assert any(one.is_loopback and one.is_up for one in system_interfaces())
