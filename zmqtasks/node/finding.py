"""Finding peers, by every way at once: same host, peer cache, static peers, mDNS."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from zmqtasks import keys, paths
from zmqtasks.addresses import parse_address
from zmqtasks.core.links import DRAINING, Candidate
from zmqtasks.discovery.cache import PeerCache
from zmqtasks.discovery.local import LocalDirectory
from zmqtasks.discovery.static import StaticPeers
from zmqtasks.errors import ConfigError, RemoteProtocolError
from zmqtasks.net.endpoints import reachable
from zmqtasks.net.greeter import UNREACHED, Greeter
from zmqtasks.node.clock import now_ms
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Hello, Inspect

if TYPE_CHECKING:
    from zmqtasks.discovery.base import Discovery
    from zmqtasks.node.runtime import Runtime

_LOG = logging.getLogger("zmqtasks.mesh")
#: A static peer that did not answer is asked again after this, doubling.
_ASK_AGAIN_MS_MIN = 500
_ASK_AGAIN_MS_MAX = 5_000
#: Nobody listens at a static peer's address: it may be about to start for so long.
_UNREACHED_MS = 500
#: A client that has found its workers on this host spares itself the import of zeroconf.
_MDNS_AFTER_MS = 300
#: Before this nobody's absence is certain. A responder may not repeat within a second what
#: it has just multicast (RFC 6762 section 6), so whoever asks as the second waits longer.
_GRACE_MS = 2_000


class _StaticPeer:
    """An address from the settings."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.node = b""
        self.next_ms = 0
        self.delay_ms = _ASK_AGAIN_MS_MIN
        self.asking = False
        self.begun_ms = now_ms()
        #: Why it is no peer of ours; "": it is one, or None: it has not been heard of yet.
        self.trouble: str | None = None


class Finding:
    """All ways of finding peers of one runtime; on its loop's thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        settings = runtime.settings
        self.local = LocalDirectory(paths.runtime_dir(settings), runtime.loop)
        self.cache = PeerCache(paths.cache_dir(settings), runtime.loop)
        self._greeter = Greeter(runtime.transport, runtime.loop)
        self._static: dict[str, _StaticPeer] = {}
        self._ways: list[Discovery] = [self.local, self.cache]
        peers = [parse_address(peer) for peer in settings.peers]
        self._addresses = StaticPeers(peers, runtime.loop)
        if peers:
            self._ways.append(self._addresses)
        #: Other hosts can be reached at all: with a key, or because all is allowed.
        self.beyond_host = runtime.mesh_key is not None or settings.insecure
        self._mdns_at_ms: int | None = None
        self.grace_ms = _GRACE_MS if self.beyond_host and settings.mdns else 0

    def start(self) -> None:
        """Look on this host at once, elsewhere soon; announce this node."""
        own = self.own_candidate()
        for way in self._ways:
            way.start(self._found, self._runtime.candidate_gone)
        self.local.announce(own)
        if self.beyond_host and self._runtime.settings.mdns:
            is_client = self._runtime.part.roles == ("producer",)
            self._mdns_at_ms = now_ms() + (_MDNS_AFTER_MS if is_client else 0)

    def own_candidate(self) -> Candidate:
        """This node as others shall see it."""
        runtime = self._runtime
        endpoints = tuple(runtime.endpoints.router)
        if runtime.settings.advertise:
            given = (parse_address(text) for text in runtime.settings.advertise)
            endpoints = tuple(f"tcp://{host}:{port}" for host, port in given)
        return Candidate(
            runtime.node, runtime.epoch, keys.mesh_hash(runtime.settings.mesh),
            runtime.settings.mesh, runtime.fingerprint, endpoints, runtime.host_id,
            runtime.part.roles, "local", runtime.name,
        )  # fmt: skip

    def advance(self, now: int) -> int | None:
        """Start what is due; returns when to call again."""
        due = [self._greeter.advance(now)]
        if self._mdns_at_ms is not None:
            if now >= self._mdns_at_ms:
                self._mdns_at_ms = None
                self._start_mdns()
            due.append(self._mdns_at_ms)
        for peer in self._static.values():
            if not peer.asking and now >= peer.next_ms:
                self._ask(peer, now)
            due.append(peer.next_ms if not peer.asking else None)
        return min((at for at in due if at is not None), default=None)

    def _start_mdns(self) -> None:
        from zmqtasks.discovery.mdns import MdnsDiscovery  # slow to import, often not needed

        settings = self._runtime.settings
        mdns = MdnsDiscovery(keys.mesh_hash(settings.mesh), self._runtime.loop, settings.interfaces)
        self._ways.append(mdns)
        mdns.start(self._found, self._runtime.candidate_gone)
        mdns.announce(self.own_candidate())

    def static_troubles(self) -> dict[str, str]:
        """{address of the settings: why no peer has been found there so far}, "" for one that
        has not been heard of yet."""
        troubles = dict(self._addresses.unresolved)
        if not troubles and not self._static:
            return dict.fromkeys(self._runtime.settings.peers, "")
        for endpoint, peer in self._static.items():
            trouble = peer.trouble
            is_late = now_ms() >= peer.begun_ms + _UNREACHED_MS
            if trouble is None and is_late and self._greeter.is_unreached(endpoint):
                trouble = UNREACHED
            if trouble or trouble is None:
                troubles[endpoint.removeprefix("tcp://")] = trouble or ""
        return troubles

    @property
    def is_awaiting_peers(self) -> bool:
        """An address of the settings has neither answered nor turned out to be of no use."""
        return not all(self.static_troubles().values())

    def linked(self, candidate: Candidate, endpoint: str) -> None:
        """A dial succeeded: worth remembering for the next run."""
        self.cache.remember(candidate, endpoint)

    def has_ended(self, node: bytes, epoch: int) -> bool:
        """Certain that this process is gone (its lock on this host is free)."""
        return self.local.is_alive(node, epoch) is False

    def is_running(self, node: bytes, epoch: int) -> bool:
        """Certain that this process lives (its lock on this host is held)."""
        return self.local.is_alive(node, epoch) is True

    def withdraw(self) -> None:
        """Let nobody find work or a taker here any more; who looks for everybody still does.

        To those who know this node nothing changes.
        """
        with suppress(ConfigError):  # then they learn from its refusals
            self.local.announce(self.own_candidate()._replace(roles=(DRAINING,)))

    def close_sockets(self) -> None:
        """Ask nobody any more; the context of the sockets waits for this."""
        self._greeter.close()

    def stop(self) -> None:
        """End every way of looking."""
        for way in self._ways:
            way.stop()

    # --- candidates ---------------------------------------------------------------------

    def _found(self, candidate: Candidate) -> None:
        if candidate.node is not None:
            self._runtime.candidate_found(candidate)
            return
        for endpoint in candidate.endpoints:
            self._static.setdefault(endpoint, _StaticPeer(endpoint))

    def _ask(self, peer: _StaticPeer, now: int) -> None:
        node, runtime = peer.node, self._runtime
        # One list of peers may serve all hosts, so this node may be in it.
        if node and (node == runtime.node or runtime.mesh.is_linked(node)):
            peer.next_ms = now + _ASK_AGAIN_MS_MAX
            return
        peer.asking = True
        question = codec.encode(Inspect(0, "hello"))
        self._greeter.ask(
            peer.endpoint, question, now, lambda frames, trouble: self._told(peer, frames, trouble)
        )

    def _told(self, peer: _StaticPeer, frames: list[bytes], trouble: str) -> None:
        peer.asking = False
        now = now_ms()
        peer.next_ms = now + peer.delay_ms
        peer.delay_ms = min(peer.delay_ms * 2, _ASK_AGAIN_MS_MAX)
        peer.trouble = trouble
        if not frames:
            self._runtime.note_trouble(peer.endpoint, trouble)
            return
        try:
            _, hello = codec.decode(frames)
        except RemoteProtocolError as exc:
            _LOG.warning("%s is no peer of this mesh: %s", peer.endpoint, exc)
            peer.trouble = f"it is no peer of this mesh: {exc}"
            return
        if not isinstance(hello, Hello):
            return
        runtime = self._runtime
        if hello.mesh != keys.mesh_hash(runtime.settings.mesh):
            runtime.note_other_mesh(peer.endpoint)
            peer.trouble = "it belongs to another mesh (--mesh)"
            return
        peer.delay_ms = _ASK_AGAIN_MS_MIN
        peer.node = hello.node
        host = hello.host_id
        if host != runtime.host_id and not reachable([peer.endpoint], host, runtime.host_id):
            # A tunnel or a container's published port: loopback, and yet the way to another
            # host. Of an unknown one, or nobody would dial it.
            host = b""
        # CURVE let us through, so its key is ours.
        runtime.candidate_found(Candidate(
            hello.node, hello.epoch, hello.mesh, runtime.settings.mesh, runtime.fingerprint,
            tuple(dict.fromkeys((
                peer.endpoint, *reachable(hello.endpoints, hello.host_id, runtime.host_id)
            ))), host,
            tuple(hello.roles), "static", hello.name,
        ))  # fmt: skip
