"""All sockets of one node behind plain methods and callbacks.

::

    R_in  (ROUTER, binds)  <- peers that dial us      R_out (ROUTER, connects) -> peers
    XPUB  (binds)          <- subscribers             SUB   (connects)         -> publishers
    PULL  (binds)          <- at-most-once tasks      PUSH  (connects), one per lane

A node that listens nowhere (a producer) has only the connecting ones. Everything here
belongs to one thread: the loop registers what ``sockets()`` lists and calls the drain
callbacks, and every other method is called from that same thread.

That a send succeeds means nothing but that libzmq took it: what was under way when a
connection drops is lost without an error, so links number and acknowledge what they
carry (``core/link.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zmq

from zmqtasks.core.links import LinkId
from zmqtasks.errors import ConfigError, KeyRequired, LocalProtocolError
from zmqtasks.ids import routing_id
from zmqtasks.limits import RUNTIME_REBINDS_MAX
from zmqtasks.net import sockets
from zmqtasks.net.addresses import listen_host, local_addresses
from zmqtasks.net.curve import KeyPair, key_pair
from zmqtasks.net.endpoints import expand, is_loopback, is_wildcard, parse, stays_on_host
from zmqtasks.net.monitor import DialMonitor, ListenMonitor, Monitor, VisitMonitor
from zmqtasks.net.receive import Counters, Receiver, TransportHandler
from zmqtasks.net.sockets import Socket, SocketMaker
from zmqtasks.net.zap import ZapHandler
from zmqtasks.paths import socket_path

_LOG = logging.getLogger("zmqtasks.net")
_DONTWAIT = int(zmq.DONTWAIT)
_SNDMORE = int(zmq.SNDMORE) | _DONTWAIT

SendResult = Literal["ok", "unreachable", "full"]


@dataclass(frozen=True)
class TransportConfig:
    """What a transport needs to know.

    Args:
        node: node id (8 bytes).
        epoch: this incarnation's number.
        mesh_key: the mesh's secret key (40 Z85 characters), None without one.
        ipc_dir: folder (0700) for Unix sockets, None for none.
        tcp_listen: ``(host, port)`` pairs; port 0 for free ones, else ``port``,
            ``port + 1`` (PUB) and ``port + 2`` (PULL).
        insecure: allow other addresses than loopback without a key.
    """

    node: bytes
    epoch: int
    mesh_key: str | None = field(default=None, repr=False)
    ipc_dir: Path | None = None
    tcp_listen: tuple[tuple[str, int], ...] = ()
    insecure: bool = False


@dataclass
class _IpcFile:
    """The file of a bound Unix socket; its identity tells it from another of that name."""

    sock: Socket
    name: str
    path: Path
    identity: tuple[int, int] | None
    rebinds: int = 0


class Endpoints(NamedTuple):
    """Where a node can be reached: every address of each socket, ipc first."""

    router: tuple[str, ...]
    pub: tuple[str, ...]
    pull: tuple[str, ...]
    #: TCP port of R_in that other hosts can reach, 0 when none can.
    lan_port: int


class Visitor(NamedTuple):
    """A socket for one question, and what is heard of its connection."""

    socket: Socket
    monitor: VisitMonitor

    def close(self) -> None:
        """Close both."""
        self.monitor.close()
        self.monitor.socket.close(0)
        self.socket.close(0)


class Transport:
    """The sockets of one node. Nothing is opened before :meth:`open`.

    Args:
        config: see :class:`TransportConfig`.
        handler: gets everything that is received.

    Raises:
        KeyUnusable: ``config.mesh_key`` is no key.
    """

    def __init__(self, config: TransportConfig, handler: TransportHandler) -> None:
        self.config = config
        self.counters = Counters()
        self._handler = handler
        self._keys: KeyPair | None = key_pair(config.mesh_key) if config.mesh_key else None
        self._receiver = Receiver(handler, self._keys is not None, self.counters)
        self._context: sockets.Context | None = None
        self._maker: SocketMaker | None = None
        self._pid = 0
        self._zap: ZapHandler | None = None
        #: {side: ROUTER}.
        self._routers: dict[str, Socket] = {}
        self._xpub: Socket | None = None
        self._sub: Socket | None = None
        #: {lane: PUSH} and {lane: endpoints it is connected to}.
        self._lanes: dict[str, Socket] = {}
        self._lane_endpoints: dict[str, set[str]] = {}
        self._monitors: list[Monitor] = []
        self._dial_monitor: DialMonitor | None = None
        self._ipc_files: list[_IpcFile] = []
        self._polled: list[tuple[Any, Callable[[], None]]] = []
        #: Endpoints that R_out is connected to (once each: a second connection to the
        #: same peer would take over and leave it unreachable when dropped).
        self._dialled: set[str] = set()
        self._publishers: set[str] = set()
        self._topics: set[bytes] = set()

    # --- life ---------------------------------------------------------------------------

    def open(self) -> Endpoints:
        """Make the sockets and bind those that listen.

        Raises:
            KeyRequired: an address beyond this host without a key.
            ConfigError: a port is taken, an address or folder cannot be used.
        """
        listen = [(listen_host(host), port) for host, port in self.config.tcp_listen]
        self._check_listen(listen)
        self._pid = os.getpid()
        self._context = sockets.new_context()
        try:
            endpoints = self._open(self._context, listen)
        except BaseException:
            self.close()
            raise
        self._warn_open(listen)
        return endpoints

    def _open(self, context: sockets.Context, listen: list[tuple[str, int]]) -> Endpoints:
        own_id = routing_id(self.config.node, self.config.epoch)
        maker = self._maker = SocketMaker(context, own_id, self._keys)
        if self._keys is not None:
            self._zap = ZapHandler(context, frozenset((self._keys.public,)), self._refused)
            self._polled.append((self._zap.socket, self._zap.drain))
        bound = Endpoints((), (), (), 0)
        if self.config.ipc_dir is not None or listen:
            bound = self._open_listening(maker, listen)
        out = self._routers["out"] = maker.router_out()
        self._polled.append((out, self._receiver.routers(out, "out")))
        self._sub = maker.subscriber()
        self._polled.append((self._sub, self._receiver.subscriber(self._sub)))
        self._dial_monitor = DialMonitor(out, self._handler.on_connection, self._dial_refused)
        self._watch(self._dial_monitor)
        return bound

    def _open_listening(self, maker: SocketMaker, listen: list[tuple[str, int]]) -> Endpoints:
        router = self._routers["in"] = maker.router_in()
        self._polled.append((router, self._receiver.routers(router, "in")))
        xpub = self._xpub = maker.publisher()
        self._polled.append((xpub, self._receiver.publisher(xpub)))
        pull = maker.puller()
        self._polled.append((pull, self._receiver.puller(pull)))
        if listen:  # Garbage comes over TCP; the folder of the ipc sockets is ours alone.
            for sock in (router, xpub, pull):
                self._watch(ListenMonitor(sock, self._refused))
        addresses = local_addresses() if any(is_wildcard(host) for host, _ in listen) else []
        ports: list[tuple[str, int]] = []
        bound: list[tuple[str, ...]] = []
        for offset, (suffix, sock) in enumerate((("r", router), ("p", xpub), ("l", pull))):
            found = self._bind_ipc(sock, suffix)
            for host, port in listen:
                actual = sockets.bind_tcp(sock, host, port + offset if port else 0)
                found += expand(host, actual, addresses)
                if sock is router:
                    ports.append((host, actual))
            bound.append(tuple(dict.fromkeys(found)))
        lan_port = next((port for host, port in ports if not is_loopback(host)), 0)
        return Endpoints(bound[0], bound[1], bound[2], lan_port)

    def _bind_ipc(self, sock: Socket, suffix: str) -> list[str]:
        folder = self.config.ipc_dir
        if folder is None:
            return []
        name = f"{self.config.node.hex()}-{self.config.epoch:x}.{suffix}"
        path = socket_path(folder, name)
        endpoint = sockets.bind_ipc(sock, path)
        self._ipc_files.append(_IpcFile(sock, name, path, _identity(path)))
        return [endpoint]

    def _watch(self, monitor: Monitor) -> None:
        self._monitors.append(monitor)
        self._polled.append((monitor.socket, monitor.drain))

    def _check_listen(self, listen: Sequence[tuple[str, int]]) -> None:
        for host, _port in listen:
            if self._keys is None and not is_loopback(host) and not self.config.insecure:
                raise KeyRequired(
                    f"listening on {host} needs a mesh key: make one with 'zmqtasks keygen' and "
                    "copy the file to each host (or pass --insecure where everybody on the "
                    "network may run code on this machine)"
                )

    def _warn_open(self, listen: Sequence[tuple[str, int]]) -> None:
        for host, _port in listen if self._keys is None else ():
            if is_loopback(host):
                _LOG.warning(
                    "listen.open host=%s: without a mesh key every user of this machine can "
                    "submit tasks here; make one with 'zmqtasks keygen'", host,
                )  # fmt: skip
            else:
                _LOG.warning(
                    "listen.insecure host=%s: anybody who reaches this address can run tasks "
                    "here, and nothing is encrypted", host,
                )  # fmt: skip

    def sockets(self) -> list[tuple[Any, Callable[[], None]]]:
        """What to poll for reading, each with the callback that drains it."""
        return list(self._polled)

    def close(self, linger_ms: int = 0) -> None:
        """Close everything. Does nothing in a forked child: the sockets are its parent's.

        Args:
            linger_ms: how long what was sent may still leave, in milliseconds.
        """
        context, self._context = self._context, None
        if context is None or self._pid != os.getpid():
            return
        for monitor in self._monitors:
            monitor.close()
        for sock in (*self._routers.values(), *self._lanes.values()):
            sock.close(linger_ms)
        if self._zap is not None:
            self._zap.close()
        for polled, _ in self._polled:
            if not polled.closed:
                polled.close(linger_ms)
        self._routers.clear()
        self._lanes.clear()
        self._xpub = self._sub = None
        context.term()
        for file in self._ipc_files:  # libzmq leaves the files behind.
            with contextlib.suppress(OSError):
                file.path.unlink()

    # --- the files of the ipc sockets ---------------------------------------------------

    def missing_files(self) -> list[Path]:
        """Socket files that are gone; nobody can connect there any more."""
        return [file.path for file in self._ipc_files if _identity(file.path) != file.identity]

    def bind_again(self) -> None:
        """Make the socket files that are gone again; connections are not disturbed.

        The old listener stays, since unbinding would end the connections that it accepted.

        Raises:
            ConfigError: the folder cannot be used, or this happens again and again.
        """
        folder = self.config.ipc_dir
        for file in self._ipc_files:
            if folder is None or _identity(file.path) == file.identity:
                continue
            if file.rebinds >= RUNTIME_REBINDS_MAX:
                raise ConfigError(
                    f"the socket {file.path} was made again {file.rebinds} times and is gone "
                    "again; find what removes it, then restart this node"
                )
            file.path = socket_path(folder, file.name)
            sockets.bind_ipc(file.sock, file.path)
            file.identity = _identity(file.path)
            file.rebinds += 1

    def touch_files(self) -> None:
        """Renew the times of the socket files, for cleaners of temporary folders."""
        for file in self._ipc_files:
            with contextlib.suppress(OSError):
                os.utime(file.path)

    # --- reliable links -----------------------------------------------------------------

    def send(self, link: LinkId, frames: Sequence[bytes]) -> SendResult:
        """Hand a message to libzmq without waiting.

        Returns:
            "ok", "unreachable" (no such connection, now), or "full" (the peer does not
            read as fast as we write; try again later).
        """
        router = self._routers.get(link.side)
        if router is None:
            return "unreachable"
        send = router.send
        try:
            # Only the frame with the routing id can be refused.
            send(link.peer, _SNDMORE)
        except zmq.Again:
            return "full"
        except zmq.ZMQError as exc:
            if exc.errno == zmq.EHOSTUNREACH:
                return "unreachable"
            raise LocalProtocolError(f"cannot send: {exc.strerror}") from exc
        _send_all(send, frames)
        return "ok"

    def dial_refusal(self, endpoint: str) -> str:
        """Why this endpoint may not be dialled, "" when it may."""
        parts = parse(endpoint)
        if parts is None:
            return "no endpoint of the form tcp://host:port or ipc:///path"
        if self._keys is None and not self.config.insecure and not stays_on_host(parts):
            return (
                "dialling another host needs a mesh key: make one with 'zmqtasks keygen' and "
                "copy the file to each host"
            )
        return ""

    def connect(self, endpoint: str, server_key: str | None = None) -> bool:
        """Connect R_out; libzmq reconnects by itself until :meth:`disconnect`.

        Args:
            endpoint: with a numeric address, as the dialler found it; again is no harm.
            server_key: the peer's public key where it is not the mesh key.

        Returns:
            False when the endpoint may not be dialled; the handler was told why.
        """
        if endpoint in self._dialled:
            return True
        if not self._connect(self._routers["out"], endpoint, server_key):
            return False
        self._dialled.add(endpoint)
        return True

    def disconnect(self, endpoint: str) -> None:
        """Drop the connection to an endpoint that was connected."""
        if endpoint in self._dialled:
            self._dialled.discard(endpoint)
            sockets.disconnect(self._routers["out"], endpoint)
            if self._dial_monitor is not None:
                self._dial_monitor.forget(endpoint)

    def visitor(self, endpoint: str, refused: Callable[[str, str, bool], None]) -> Visitor | str:
        """A DEALER connected to an endpoint, to ask who is there.

        The caller polls both sockets and closes it.

        Args:
            refused: see ``DialMonitor``.

        Returns:
            Why the endpoint may not be dialled, if it may not.
        """
        assert self._maker is not None
        refusal = self.dial_refusal(endpoint)
        if refusal:
            return refusal
        sock = self._maker.visitor()
        visitor = Visitor(sock, VisitMonitor(sock, lambda endpoint, up: None, refused))
        own = self._keys.public if self._keys is not None else None
        try:
            sockets.connect(sock, endpoint, own)
        except ConfigError as exc:
            visitor.close()
            return str(exc)
        return visitor

    def _connect(self, sock: Socket, endpoint: str, server_key: str | None = None) -> bool:
        refusal = self.dial_refusal(endpoint)
        if not refusal:
            own = self._keys.public if self._keys is not None else None
            try:
                sockets.connect(sock, endpoint, own and (server_key or own))
            except ConfigError as exc:
                refusal = str(exc)
        if refusal:
            self._handler.on_refused(endpoint, refusal)
        return not refusal

    # --- publishing ---------------------------------------------------------------------

    def publish(self, topic: bytes, frames: Sequence[bytes]) -> None:
        """Send to the subscribers of a topic; dropped for those that are too slow."""
        if self._xpub is not None:
            self._xpub.send(topic, _SNDMORE)
            _send_all(self._xpub.send, frames)

    def subscribe(self, pub_endpoint: str, topics: Iterable[bytes]) -> bool:
        """Connect SUB to a publisher.

        Topics belong to the socket: every publisher is asked for the union of them.

        Returns:
            False when the endpoint may not be dialled; the handler was told why.
        """
        sub = self._sub
        if sub is None:
            return False
        for topic in topics:
            if topic not in self._topics:
                self._topics.add(topic)
                sub.setsockopt(zmq.SUBSCRIBE, topic)
        if pub_endpoint not in self._publishers:
            if not self._connect(sub, pub_endpoint):
                return False
            self._publishers.add(pub_endpoint)
        return True

    def unsubscribe(self, pub_endpoint: str) -> None:
        """Disconnect SUB from a publisher."""
        if self._sub is not None and pub_endpoint in self._publishers:
            self._publishers.discard(pub_endpoint)
            sockets.disconnect(self._sub, pub_endpoint)

    # --- the at-most-once lane ----------------------------------------------------------

    def push_connect(self, lane: str, pull_endpoint: str) -> bool:
        """Add a worker to a lane, which begins with its first worker.

        Returns:
            False when the endpoint may not be dialled; the handler was told why.
        """
        sock = self._lanes.get(lane)
        if sock is None:
            if self._maker is None:
                return False
            sock = self._lanes[lane] = self._maker.pusher()
            self._lane_endpoints[lane] = set()
        if pull_endpoint in self._lane_endpoints[lane]:
            return True
        if not self._connect(sock, pull_endpoint):
            return False
        self._lane_endpoints[lane].add(pull_endpoint)
        return True

    def push_disconnect(self, lane: str, pull_endpoint: str) -> None:
        """Take a worker off a lane, which ends with its last worker."""
        endpoints = self._lane_endpoints.get(lane, set())
        if pull_endpoint not in endpoints:
            return
        endpoints.discard(pull_endpoint)
        if endpoints:
            sockets.disconnect(self._lanes[lane], pull_endpoint)
        else:
            del self._lane_endpoints[lane]
            self._lanes.pop(lane).close(0)

    def push(self, lane: str, frames: Sequence[bytes]) -> bool:
        """Hand a message to whichever worker of the lane has room.

        Returns:
            False when none has (or there is none).
        """
        sock = self._lanes.get(lane)
        if sock is None:
            return False
        try:
            sock.send(frames[0], _SNDMORE if len(frames) > 1 else _DONTWAIT)
        except zmq.Again:
            return False
        if len(frames) > 1:
            _send_all(sock.send, frames[1:])
        return True

    def _dial_refused(self, endpoint: str, reason: str, proven: bool) -> None:
        """A handshake of ours failed.

        libzmq's back-off counts from the TCP connection, which works, so it would try ten
        times a second for ever; the caller's back-off is better.
        """
        if not proven:
            self.disconnect(endpoint)
        self._refused(endpoint, reason)

    def _refused(self, where: str, reason: str) -> None:
        self.counters.refused_count += 1
        self._handler.on_refused(where, reason)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from others of its name, None when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _send_all(send: Callable[..., Any], frames: Sequence[bytes]) -> None:
    """The frames of a message whose first part libzmq has taken."""
    if not frames:
        send(b"", _DONTWAIT)
        return
    for frame in frames[:-1]:
        send(frame, _SNDMORE)
    send(frames[-1], _DONTWAIT)


def raise_open_files_limit() -> int:
    """Raise this process's soft limit of open files to the hard one.

    Out of descriptors, libzmq's listener spins at full load without an error. For nodes;
    a library inside somebody's program leaves such limits alone.

    Returns:
        The limit that holds now, 0 where the system has none.
    """
    try:
        import resource  # Not there on Windows.
    except ImportError:
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
