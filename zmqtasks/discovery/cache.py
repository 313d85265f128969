"""The peers of the last run, so that a script dials at once and waits for nobody.

A file of addresses that worked. It may be lost, stale or damaged at any time: what is
read is only tried first.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from zmqtasks.core.links import Candidate
from zmqtasks.discovery.base import DiscoveryLoop, Gone, Listener
from zmqtasks.limits import ENDPOINTS_PER_PEER_MAX

_LOG = logging.getLogger("zmqtasks.discovery")
#: Peers kept; more would make a script's start slower than looking anew.
PEERS_COUNT_MAX = 256
_FILE_BYTES_MAX = 1024 * 1024
_FILE_NAME = "peers.json"


class _Peer(msgspec.Struct):
    """One peer in the file."""

    node: str
    epoch: int
    mesh: str
    mesh_name: str
    fingerprint: str
    endpoints: list[str]
    host_id: str
    roles: list[str]


_decode = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_peer = msgspec.json.Decoder(_Peer).decode


class PeerCache:
    """Peers that were linked before.

    Args:
        folder: the mesh's cache folder, of this user alone.
        loop: the node's loop.
    """

    def __init__(self, folder: Path, loop: DiscoveryLoop) -> None:
        self._path = folder / _FILE_NAME
        self._loop = loop
        self._listener: Listener | None = None
        #: {node id: candidate}, the one linked last at the end.
        self._peers: dict[bytes, Candidate] = {}
        self._changed = False

    def start(self, listener: Listener, gone: Gone) -> None:
        """Read the file and tell its peers, the most recent first."""
        self._listener = listener
        for candidate in reversed(self._read()):
            assert candidate.node is not None
            self._peers.setdefault(candidate.node, candidate)
        for candidate in reversed(self._peers.values()):
            self._loop.call_soon(self._tell, candidate)

    def announce(self, candidate: Candidate) -> None:
        """Nothing to do: the cache is this user's own."""

    def remember(self, candidate: Candidate, endpoint: str) -> None:
        """A link came about.

        Args:
            candidate: the peer, as it says of itself.
            endpoint: the address that worked; Unix sockets are not kept, since the
                same-host directory knows them better.
        """
        node = candidate.node
        if node is None:
            return
        ordered = dict.fromkeys((endpoint, *candidate.endpoints))
        tcp = tuple(text for text in ordered if text.startswith("tcp://"))
        if not endpoint.startswith("tcp://") or not tcp:
            return
        self._peers.pop(node, None)
        kept = tcp[:ENDPOINTS_PER_PEER_MAX]
        self._peers[node] = candidate._replace(endpoints=kept, source="cache")
        while len(self._peers) > PEERS_COUNT_MAX:
            del self._peers[next(iter(self._peers))]
        self._changed = True

    def forget(self, node: bytes) -> None:
        """Nobody answers there any more."""
        if self._peers.pop(node, None) is not None:
            self._changed = True

    def save(self) -> None:
        """Write the file if something changed; a failure costs only the cache."""
        if not self._changed:
            return
        self._changed = False
        rows = [_row(candidate) for candidate in reversed(self._peers.values())]
        fresh = self._path.with_name(f"{_FILE_NAME}.{os.getpid()}.new")
        try:
            fresh.write_bytes(msgspec.json.encode(rows))
            fresh.replace(self._path)
        except OSError as exc:
            _LOG.debug("cache.unwritable path=%s: %s", self._path, exc.strerror)
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    def stop(self) -> None:
        """Write what is new."""
        self._listener = None
        self.save()

    def _tell(self, candidate: Candidate) -> None:
        if self._listener is not None:
            self._listener(candidate)

    def _read(self) -> list[Candidate]:
        """The peers in the file, most recent first; damaged ones are left out."""
        try:
            with self._path.open("rb") as file:
                rows = _decode(file.read(_FILE_BYTES_MAX))
        except (OSError, ValueError, msgspec.DecodeError):
            return []
        return [candidate for raw in rows[:PEERS_COUNT_MAX] if (candidate := _candidate(raw))]


def _row(candidate: Candidate) -> _Peer:
    assert candidate.node is not None
    return _Peer(
        candidate.node.hex(),
        candidate.epoch,
        candidate.mesh.hex(),
        candidate.mesh_name,
        candidate.fingerprint,
        list(candidate.endpoints),
        candidate.host_id.hex(),
        list(candidate.roles),
    )


def _candidate(raw: msgspec.Raw) -> Candidate | None:
    try:
        row = _decode_peer(raw)
        return Candidate(
            bytes.fromhex(row.node),
            row.epoch,
            bytes.fromhex(row.mesh),
            row.mesh_name,
            row.fingerprint,
            tuple(row.endpoints[:ENDPOINTS_PER_PEER_MAX]),
            bytes.fromhex(row.host_id),
            tuple(row.roles),
            "cache",
        )
    except (ValueError, msgspec.DecodeError):
        return None
