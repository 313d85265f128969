"""Finding the address of a peer that answers, before ZeroMQ dials it.

A peer has many addresses and most may be dead ends (another network, a spoofed record).
ZeroMQ would have to be connected to all of them, and two connections to one peer fight
over its routing id. So plain non-blocking connects race here, a new one every
``STAGGER_MS`` or as soon as one fails, and only the winner is given to R_out.

Order: Unix sockets whose file exists, then loopback (only where the peer is on this
host), then the rest, nearest network first. The same plain connect answers "is that
process gone?": its kernel refuses at once.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from zmqtasks.limits import ENDPOINTS_PER_PEER_MAX
from zmqtasks.net.addresses import interface_networks
from zmqtasks.net.endpoints import Endpoint, ip_of, is_loopback, parse

#: A slow address holds up the next one by this much (RFC 8305 advises 100 to 250 ms).
STAGGER_MS = 150
#: A whole race, and a probe, end here.
RACE_MS = 3_000
PROBE_MS = 1_000
#: A dying process's connections may close some moments before its listener does, so a
#: probe that was accepted is repeated after these pauses.
PROBE_AGAIN_MS = (20, 80, 300)

Verdict = Literal["accepted", "refused", "timeout"]
_REFUSED = frozenset((errno.ECONNREFUSED, errno.ENOENT))
_PENDING = frozenset((errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN))


class DialLoop(Protocol):
    """What the dialler needs of the loop."""

    def register_writable(self, fd: Any, callback: Callable[[], None], /) -> None:
        """Call back once when ``fd`` can be written."""

    def unregister(self, fd: Any, /) -> None:
        """Forget ``fd``."""

    def call_soon(self, fn: Callable[..., Any], /, *args: Any) -> None:
        """Call from the loop, after what is being done now."""


class _Attempt:
    """One plain connect."""

    __slots__ = ("endpoint", "sock")

    def __init__(self, endpoint: Endpoint, sock: socket.socket) -> None:
        self.endpoint = endpoint
        self.sock = sock


class _Race:
    """Connects to the addresses of one peer."""

    def __init__(
        self, waiting: list[Endpoint], done: Callable[[str, Verdict], None], end_ms: int
    ) -> None:
        self.waiting = waiting
        self.done = done
        self.end_ms = end_ms
        self.next_ms = 0
        self.attempts: list[_Attempt] = []
        self.over = False
        #: Every failure so far proves that nobody listens there.
        self.all_refused = True


class Dialer:
    """Races plain connects on the loop; no threads, no blocking.

    The loop calls :meth:`advance` when its time has come.

    Args:
        loop: see :class:`DialLoop`.
        host_id: this host, see ``hostid.host_id``.
        clock_ms: monotonic milliseconds.
        refusal: why an endpoint may not be dialled, "" when it may
            (``Transport.dial_refusal``).
    """

    def __init__(
        self,
        loop: DialLoop,
        host_id: bytes,
        clock_ms: Callable[[], int],
        refusal: Callable[[str], str] = lambda endpoint: "",
    ) -> None:
        self._loop = loop
        self._host_id = host_id
        self._clock_ms = clock_ms
        self._refusal = refusal
        self._races: list[_Race] = []
        #: [(when, what to do)], probes to be repeated.
        self._later: list[tuple[int, Callable[[], None]]] = []

    def dial(self, endpoints: Sequence[str], host_id: bytes, done: Callable[[str], None]) -> None:
        """Find the address that answers first.

        Args:
            endpoints: the peer's addresses, numeric.
            host_id: the host that the peer says it is on, b"" when unknown.
            done: called from the loop with the winner, "" when none answers.
        """
        allowed = [text for text in endpoints if not self._refusal(text)]
        ranked = rank(allowed[:ENDPOINTS_PER_PEER_MAX], host_id, self._host_id)
        self._start(ranked, lambda endpoint, verdict: done(endpoint), RACE_MS)

    def probe(self, endpoint: str, done: Callable[[Verdict], None]) -> None:
        """Ask whether anybody listens at an endpoint, some times over.

        Args:
            endpoint: where the peer was connected.
            done: called from the loop: "refused" proves that no process listens there,
                "accepted" that one does, "timeout" proves nothing.
        """
        parts = parse(endpoint)
        if parts is None:
            self._loop.call_soon(done, "timeout")
        else:
            self._probe(parts, done, PROBE_AGAIN_MS)

    def _probe(
        self, parts: Endpoint, done: Callable[[Verdict], None], pauses_ms: Sequence[int]
    ) -> None:
        def told(_winner: str, verdict: Verdict) -> None:
            if verdict == "accepted" and pauses_ms:
                again = partial(self._probe, parts, done, pauses_ms[1:])
                self._later.append((self._clock_ms() + pauses_ms[0], again))
            else:
                done(verdict)

        self._start([parts], told, PROBE_MS)

    def advance(self, now_ms: int) -> int | None:
        """Start connects and probes that are due and end races that took too long.

        Returns:
            When to call again (``clock_ms`` time), None when nothing is under way.
        """
        due_now = [again for at_ms, again in self._later if now_ms >= at_ms]
        self._later = [entry for entry in self._later if now_ms < entry[0]]
        for again in due_now:
            again()
        for race in list(self._races):
            if now_ms >= race.end_ms:
                self._finish(race, "", "timeout")
            elif race.waiting and now_ms >= race.next_ms:
                self._next(race, now_ms)
        due = [
            min(race.next_ms, race.end_ms) if race.waiting else race.end_ms for race in self._races
        ]
        due += [at_ms for at_ms, _ in self._later]
        return min(due, default=None)

    def close(self) -> None:
        """Drop everything under way; nobody is called back."""
        self._later.clear()
        for race in self._races:
            race.over = True
            self._close_all(race)
        self._races.clear()

    def _start(
        self, waiting: list[Endpoint], done: Callable[[str, Verdict], None], limit_ms: int
    ) -> None:
        now_ms = self._clock_ms()
        race = _Race(waiting, done, now_ms + limit_ms)
        self._races.append(race)
        self._next(race, now_ms)

    def _next(self, race: _Race, now_ms: int) -> None:
        """Start connects until one is under way, or the race is over."""
        while race.waiting:
            endpoint = race.waiting.pop(0)
            if self._try(race, endpoint) or race.over:
                race.next_ms = now_ms + STAGGER_MS
                return
        if not race.attempts:
            self._finish(race, "", "refused" if race.all_refused else "timeout")

    def _try(self, race: _Race, endpoint: Endpoint) -> bool:
        """Start one connect; False when it failed at once."""
        target = _target(endpoint)
        if target is None:
            race.all_refused = False
            return False
        family, address = target
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            race.all_refused = False
            return False
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if family == socket.AF_UNIX and code in _PENDING:
            code = 0  # Its backlog is full, so somebody listens.
        if code in _PENDING:
            attempt = _Attempt(endpoint, sock)
            race.attempts.append(attempt)
            self._loop.register_writable(sock.fileno(), lambda: self._settle(race, attempt))
            return True
        won = code == 0 and not _is_self_connect(sock)
        sock.close()
        if won:
            self._finish(race, str(endpoint), "accepted")
            return True
        race.all_refused &= code == 0 or code in _REFUSED
        return False

    def _settle(self, race: _Race, attempt: _Attempt) -> None:
        """A connect came to an end."""
        if race.over or attempt not in race.attempts:
            return
        race.attempts.remove(attempt)
        self._loop.unregister(attempt.sock.fileno())
        code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        won = code == 0 and not _is_self_connect(attempt.sock)
        attempt.sock.close()
        if won:
            self._finish(race, str(attempt.endpoint), "accepted")
            return
        race.all_refused &= code == 0 or code in _REFUSED
        self._next(race, self._clock_ms())

    def _finish(self, race: _Race, winner: str, verdict: Verdict) -> None:
        race.over = True
        self._close_all(race)
        self._races.remove(race)
        self._loop.call_soon(race.done, winner, verdict)

    def _close_all(self, race: _Race) -> None:
        for attempt in race.attempts:
            self._loop.unregister(attempt.sock.fileno())
            attempt.sock.close()
        race.attempts.clear()


def rank(endpoints: Iterable[str], peer_host_id: bytes, own_host_id: bytes) -> list[Endpoint]:
    """The endpoints worth trying, best first.

    Args:
        endpoints: as a peer, a record or a user gave them; what is malformed is left out,
            as is loopback of another host and a Unix socket that does not exist here.
        peer_host_id: the host the peer is on, b"" when unknown.
        own_host_id: this host.
    """
    parsed = [part for text in dict.fromkeys(endpoints) if (part := parse(text)) is not None]
    local = [part for part in parsed if part.transport == "ipc" and _is_socket(part.host)]
    tcp = [part for part in parsed if part.transport == "tcp"]
    loopback = [part for part in tcp if is_loopback(part.host)]
    if peer_host_id and peer_host_id != own_host_id:
        loopback = []
    far = [part for part in tcp if not is_loopback(part.host)]
    if len(far) > 1:
        networks = interface_networks()
        far.sort(key=lambda part: _distance(part, networks))
    return [*local, *loopback, *far]


def _distance(
    part: Endpoint, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> tuple[int, int]:
    """Sort key: our own subnets (longest prefix first), private IPv4, IPv6, the rest."""
    address = ip_of(part.host)
    if address is None:
        return (9, 0)
    if address.is_link_local:
        return (4, 0)
    prefixes = [net.prefixlen for net in networks if address in net]
    if prefixes:
        return (0, -max(prefixes))
    if address.version == 4:
        return (1 if address.is_private else 3, 0)
    return (2, 0)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def _target(endpoint: Endpoint) -> tuple[socket.AddressFamily, str | tuple[str, int]] | None:
    """Family and address for a plain connect; None for what is not numeric."""
    if endpoint.transport == "ipc":
        return socket.AF_UNIX, endpoint.host
    address = ip_of(endpoint.host)
    if address is None:
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return family, (str(address), endpoint.port)


def _is_self_connect(sock: socket.socket) -> bool:
    """True when TCP connected a socket to itself.

    A connect to a free port of the ephemeral range may draw that very port as its own;
    taken for an answer, it would keep a dead process alive.
    """
    if sock.family == socket.AF_UNIX:
        return False
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:
        return False


__all__ = [
    "PROBE_MS",
    "RACE_MS",
    "STAGGER_MS",
    "DialLoop",
    "Dialer",
    "Verdict",
    "rank",
]
