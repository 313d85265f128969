"""Peers that a user named: ``host:port``, with every address of a name.

A name may stand for many nodes (a headless Kubernetes service has one A record for each
pod), so each address becomes a candidate of its own. Names are looked up in a thread,
since the system's resolver blocks, and again from time to time: sooner after a failure,
with growing pauses.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Sequence

from zmqtasks.core.links import Candidate
from zmqtasks.discovery.base import DiscoveryLoop, Gone, Listener
from zmqtasks.limits import CANDIDATES_COUNT_MAX

_LOG = logging.getLogger("zmqtasks.discovery")
#: Looked up again after a success, and after failures (doubling).
_AGAIN_S = 30.0
_RETRY_S_MIN = 1.0
_RETRY_S_MAX = 60.0

#: Addresses of a host name; raises OSError when there are none.
Resolve = Callable[[str], list[str]]


def resolve(host: str) -> list[str]:
    """All addresses of a name, as the system's resolver orders them.

    Raises:
        OSError: the name is unknown or the resolver cannot be reached.
    """
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class StaticPeers:
    """Candidates from a list of addresses.

    Args:
        peers: ``(host, port)`` pairs; the port is that of the peer's R_in.
        loop: the node's loop.
        resolver: looks names up; the default asks the system.
    """

    def __init__(
        self, peers: Sequence[tuple[str, int]], loop: DiscoveryLoop, resolver: Resolve = resolve
    ) -> None:
        self._numeric = [peer for peer in peers if _is_address(peer[0])]
        self._names = [peer for peer in peers if not _is_address(peer[0])]
        self._loop = loop
        self._resolver = resolver
        self._listener: Listener | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        #: {name: why it has no address}; "" while it has not been looked up yet.
        self.unresolved = dict.fromkeys((host for host, _ in self._names), "")

    def start(self, listener: Listener, gone: Gone) -> None:
        """Tell addresses at once, those of names as they are found."""
        self._listener = listener
        for host, port in self._numeric:
            self._loop.call_soon(self._tell, host, port)
        if self._names:
            self._thread = threading.Thread(
                target=self._run, name="zmqtasks-static-peers", daemon=True
            )
            self._thread.start()

    def announce(self, candidate: Candidate) -> None:
        """Nothing to do: others name us by themselves."""

    def stop(self) -> None:
        """Stop looking names up; the thread is not waited for, it may hang in a lookup."""
        self._listener = None
        self._ended.set()

    def _run(self) -> None:
        pause_s = _RETRY_S_MIN
        told: set[str] = set()
        while not self._ended.is_set():
            failed = [name for name in self._names if not self._look_up(*name, told)]
            self._ended.wait(pause_s if failed else _AGAIN_S)
            pause_s = min(pause_s * 2, _RETRY_S_MAX) if failed else _RETRY_S_MIN

    def _look_up(self, host: str, port: int, told: set[str]) -> bool:
        try:
            addresses = self._resolver(host)
        except (OSError, UnicodeError) as exc:
            self.unresolved[host] = f"this name has no address ({exc})"
            if host not in told:
                told.add(host)
                _LOG.warning("peer.unresolved host=%s: %s; trying on", host, exc)
            return False
        told.discard(host)
        for address in addresses[:CANDIDATES_COUNT_MAX]:
            self._loop.call_soon(self._tell, address, port)
        # After them, or for a moment it would be neither looked up nor asked.
        self._loop.call_soon(self.unresolved.pop, host, None)
        return True

    def _tell(self, host: str, port: int) -> None:
        if self._listener is not None:
            self._listener(address_candidate(host, port))


def address_candidate(host: str, port: int) -> Candidate:
    """A candidate of which only the address is known."""
    endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    return Candidate(None, 0, b"", "", "", (endpoint,), b"", (), "static")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
