"""Which network interfaces multicast DNS speaks on."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

#: Source: linux/if.h.
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_MULTICAST = 0x1000
#: Bridges and tunnels of containers and virtual machines: nobody of the LAN is there, and
#: every host has the same addresses on them.
_VIRTUAL = re.compile(r"docker\d|br-|veth|virbr|tun|cni|flannel|cali|vnet")
_SYS_NET = Path("/sys/class/net")


class Interface(NamedTuple):
    """One network interface."""

    name: str
    #: Its addresses, without scope.
    addresses: tuple[str, ...]
    is_up: bool
    is_loopback: bool
    is_multicast: bool


def system_interfaces() -> list[Interface]:
    """The interfaces of this machine (of this network namespace)."""
    import ifaddr  # Costs some milliseconds; only who looks around needs it.

    found: dict[str, list[str]] = {}
    for adapter in ifaddr.get_adapters():
        texts = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips]
        found.setdefault(adapter.name, []).extend(texts)
    return [_interface(name, tuple(texts)) for name, texts in found.items()]


def _interface(name: str, addresses: tuple[str, ...]) -> Interface:
    try:
        flags = int((_SYS_NET / name / "flags").read_text(encoding="ascii"), 16)
    except (OSError, ValueError):  # Not Linux: judged by its addresses.
        loopback = all(ipaddress.ip_address(text).is_loopback for text in addresses)
        return Interface(name, addresses, bool(addresses), loopback, not loopback)
    return Interface(
        name,
        addresses,
        bool(flags & _IFF_UP),
        bool(flags & _IFF_LOOPBACK),
        bool(flags & _IFF_MULTICAST),
    )


def choose(interfaces: Iterable[Interface], pinned: Sequence[str]) -> list[Interface]:
    """The interfaces to use.

    Args:
        interfaces: all there are.
        pinned: what the user asked for: names (``eth0``), addresses or networks
            (``192.168.1.0/24``); empty for those of the LAN.
    """
    usable = [one for one in interfaces if one.is_up and one.addresses]
    if pinned:
        return [one for one in usable if any(_matches(one, text) for text in pinned)]
    return [
        one
        for one in usable
        if one.is_multicast and not one.is_loopback and not _VIRTUAL.match(one.name)
    ]


def speaking_addresses(interfaces: Iterable[Interface]) -> list[str]:
    """The addresses to speak from: IPv4, or IPv6 where an interface has nothing else."""
    found: list[str] = []
    for one in interfaces:
        v4 = [text for text in one.addresses if ":" not in text]
        found += v4 or [text for text in one.addresses if ":" in text][:1]
    return found


def _matches(interface: Interface, pin: str) -> bool:
    if interface.name == pin:
        return True
    try:
        network = ipaddress.ip_network(pin, strict=False)
    except ValueError:
        return False
    return any(ipaddress.ip_address(text) in network for text in interface.addresses)
