"""Addresses of this machine, as the system knows them."""

from __future__ import annotations

import ipaddress
import socket

from zmqtasks.errors import ConfigError
from zmqtasks.net.endpoints import ip_of, is_wildcard


def local_addresses() -> list[str]:
    """This machine's addresses as others may dial them, IPv4 first.

    Loopback and link-local IPv6 (which means nothing without the dialler's own
    interface) are left out.
    """
    found = [text for _, text in interface_addresses()]
    found.sort(key=lambda text: ":" in text)
    return [text for text in dict.fromkeys(found) if _is_dialable(text)]


def interface_addresses() -> list[tuple[str, str]]:
    """``(interface name, address)`` of every address of this machine."""
    return [(name, text) for name, text, _prefix in _ips()]


def interface_networks() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The subnets this machine is on."""
    return [ipaddress.ip_network(f"{text}/{prefix}", strict=False) for _, text, prefix in _ips()]


def listen_host(host: str) -> str:
    """The address to bind for a host that a user wrote.

    Args:
        host: an address, "*", the name of an interface, or a host name.

    Raises:
        ConfigError: it is none of these.
    """
    if is_wildcard(host) or ip_of(host) is not None:
        return host
    named = [text for name, text in interface_addresses() if name == host]
    named.sort(key=lambda text: ":" in text)
    if named:
        return named[0]
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise ConfigError(
            f"cannot listen on '{host}': it is neither an address nor an interface nor a "
            f"known host name ({exc}); give an address of this machine or '*'"
        ) from None
    return str(answers[0][4][0])


def _ips() -> list[tuple[str, str, int]]:
    """Interface name, address and prefix length of every address of this machine."""
    import ifaddr  # It costs some milliseconds that a process without TCP never needs.

    found: list[tuple[str, str, int]] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append((adapter.name, text, ip.network_prefix))
    return found


def _is_dialable(text: str) -> bool:
    address = ip_of(text)
    if address is None or address.is_loopback:
        return False
    return not (address.version == 6 and address.is_link_local)
