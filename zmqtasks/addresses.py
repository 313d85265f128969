"""``HOST:PORT`` texts as users write them in settings and on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from zmqtasks.errors import ConfigError

#: Three ports in a row are used from ``port`` on (ROUTER, XPUB, PULL).
PORT_MAX = 65_535 - 2
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")


class ListenPlan(NamedTuple):
    """What the settings ``listen`` and ``port`` come to."""

    #: True: nothing but the host-local socket was asked for.
    ipc_only: bool
    #: TCP addresses to bind; port 0 means an ephemeral one.
    tcp: tuple[tuple[str, int], ...]


def parse_address(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[v6]:port`` or ``tcp://host:port``.

    Args:
        text: the address; brackets of an IPv6 address are taken off the host.
        default_port: the port when none is given; None: it must be given.

    Raises:
        ConfigError: it is no such address, says why and how to write one.
    """
    rest = text.removeprefix("tcp://")
    if "://" in rest:
        raise ConfigError(f"address {text!r}: only tcp:// is possible here; write HOST:PORT")
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"address {text!r}: write an IPv6 address as [ADDRESS]:PORT")
        port_text = tail[1:] if tail else None
    elif rest.count(":") > 1:
        host, port_text = rest, None
    else:
        host, colon, tail = rest.partition(":")
        port_text = tail if colon else None
    if host != "*" and not _HOST.fullmatch(host) and not _IPV6.fullmatch(host):
        raise ConfigError(f"address {text!r}: {host!r} is no host name or IP address")
    if port_text is None:
        if default_port is None:
            raise ConfigError(f"address {text!r} has no port; write HOST:PORT")
        return host, default_port
    return host, _port(text, port_text)


def _port(text: str, port_text: str) -> int:
    if not (port_text.isascii() and port_text.isdigit()) or int(port_text) > PORT_MAX:
        raise ConfigError(f"address {text!r}: the port must be a number from 0 to {PORT_MAX}")
    return int(port_text)


def check_peer(text: str) -> None:
    """Refuse what no peer can be dialled by.

    Raises:
        ConfigError: no port, port 0, or ``*`` for the host.
    """
    host, port = parse_address(text)
    if host == "*" or port == 0:
        raise ConfigError(f"address {text!r}: a peer needs a host and its fixed port")


def plan_listen(listen: Sequence[str], port: int, *, has_key: bool) -> ListenPlan:
    """What to bind. The host-local ipc socket is always bound and not listed.

    Args:
        listen: the setting: ``HOST``, ``HOST:PORT``, ``tcp://HOST:PORT`` or ``ipc``. When
            empty: every interface with a mesh key, none without.
        port: for entries that name none; 0: an ephemeral one.
        has_key: whether there is a mesh key.

    Raises:
        ConfigError: an entry is no address.
    """
    if not listen:
        return ListenPlan(False, (("*", port),)) if has_key else ListenPlan(True, ())
    tcp = tuple(
        dict.fromkeys(parse_address(entry, default_port=port) for entry in listen if entry != "ipc")
    )
    return ListenPlan(not tcp, tcp)
