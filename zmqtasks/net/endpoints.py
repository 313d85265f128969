"""Addresses: taking them apart, judging and matching them. No sockets here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zmqtasks.paths import SOCKET_PATH_BYTES_MAX

_PORT_MAX = 65_535


class Endpoint(NamedTuple):
    """An endpoint taken apart."""

    #: "tcp" or "ipc".
    transport: str
    #: Host (IPv6 without brackets, "*" for all) or the path of an ipc socket.
    host: str
    #: TCP port, 0 for ipc.
    port: int

    def __str__(self) -> str:
        return f"ipc://{self.host}" if self.transport == "ipc" else tcp(self.host, self.port)


def tcp(host: str, port: int | str) -> str:
    """``tcp://host:port``, with brackets where IPv6 needs them."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def parse(endpoint: str) -> Endpoint | None:
    """The parts of ``tcp://host:port`` or ``ipc://path``, None for anything else."""
    transport, _, rest = endpoint.partition("://")
    if transport == "ipc":
        fits = 0 < len(rest.encode("utf-8", "surrogateescape")) <= SOCKET_PATH_BYTES_MAX
        return Endpoint("ipc", rest, 0) if fits and rest[0] == "/" and "\0" not in rest else None
    if transport != "tcp":
        return None
    host, _, port_text = rest.rpartition(":")
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    elif ":" in host:
        return None
    is_number = port_text.isascii() and port_text.isdigit() and len(port_text) <= 5
    if not host or not is_number or not 0 < int(port_text) <= _PORT_MAX:
        return None
    if any(char in ' ;/[]"\0\n' for char in host):
        return None
    return Endpoint("tcp", host, int(port_text))


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and ``localhost``."""
    if host == "localhost":
        return True
    address = ip_of(host)
    return address is not None and address.is_loopback


def is_wildcard(host: str) -> bool:
    """True where a host stands for all addresses of this machine."""
    return host in ("*", "0.0.0.0", "::")  # noqa: S104  recognised, not bound


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``host`` spells (IPv4-mapped ones as IPv4), None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def stays_on_host(endpoint: Endpoint) -> bool:
    """True when traffic to this endpoint cannot leave the host."""
    return endpoint.transport == "ipc" or is_loopback(endpoint.host)


def reachable(endpoints: Iterable[str], host_id: bytes, own_host_id: bytes) -> tuple[str, ...]:
    """The endpoints of a peer that mean something here.

    Unix sockets and loopback of another host are left out. A file of such a socket's name
    may even exist here (containers with a common folder), and loopback is somebody else.

    Args:
        endpoints: as the peer gave them.
        host_id: the host that the peer is on, b"" when unknown.
        own_host_id: this host.
    """
    if host_id in (b"", own_host_id):
        return tuple(endpoints)
    parsed = ((text, parse(text)) for text in endpoints)
    return tuple(text for text, part in parsed if part is not None and not stays_on_host(part))


def companion(dialled: str, offered: Iterable[str]) -> str | None:
    """The offered endpoint that is reached the way ``dialled`` was.

    A peer lists each of its sockets under all its addresses. Whoever reached its ROUTER
    at one of them takes the same way to its PUB and PULL: over ipc when it came over
    ipc, else the same host, and where that host is not listed (a name, NAT) the host
    dialled with the offered port.

    Args:
        dialled: the endpoint of the peer's R_in that answered.
        offered: the endpoints of another of its sockets, from its HELLO.

    Returns:
        An endpoint to connect to, None when there is none.
    """
    way = parse(dialled)
    parsed = [part for text in offered if (part := parse(text)) is not None]
    if way is None:
        return None
    same = [part for part in parsed if part.transport == way.transport]
    if way.transport == "ipc":
        return str(same[0]) if same else None
    for part in same:
        if part.host == way.host:
            return str(part)
    return tcp(way.host, same[0].port) if same else None


def expand(host: str, port: int, addresses: Sequence[str]) -> list[str]:
    """Dialable endpoints of a listening address.

    Args:
        host: what was bound; a wildcard stands for all of ``addresses``.
        port: the port bound.
        addresses: this machine's addresses, without loopback.
    """
    if not is_wildcard(host):
        return [tcp(host, port)]
    only_v4 = host == "0.0.0.0"  # noqa: S104  recognised, not bound
    hosts = [text for text in addresses if not (only_v4 and ":" in text)]
    return [tcp(text, port) for text in (*hosts, "127.0.0.1")]
