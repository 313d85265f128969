"""Sockets with every option that the mesh relies on, and binding them.

The reasons for the options, each of which was reproduced as a failure without it:

* ``ROUTER_MANDATORY``: without it a ROUTER drops silently what it cannot route.
* ``ROUTER_HANDOVER``: without it a quick reconnect under the same id is a black hole.
* ``PROBE_ROUTER``: each side's first sign of life, sent once its loop runs.
* ``IMMEDIATE`` on R_out: without it messages queue up for a dead peer and are then
  delivered to whoever binds that port next.
* heartbeats on both ends: the accepting side has no other way to see a cut cable.
* ``SNDHWM`` 0 on SUB: subscriptions travel through that pipe on each reconnect.
* ``XPUB_MANUAL`` under a key: a subscription counts only once we saw that it comes from
  an authenticated peer, since CURVE alone fails open when its ZAP handler is gone.

Source: libzmq ``zmq_setsockopt``.
"""

from __future__ import annotations

import errno
from pathlib import Path

import zmq

from zmqtasks import limits
from zmqtasks.errors import ConfigError
from zmqtasks.net.curve import KeyPair
from zmqtasks.net.endpoints import tcp

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

#: Only subscriptions come in on XPUB.
_SUBSCRIPTION_BYTES_MAX = 1024
_BACKLOG = 1024
_CONNECT_TIMEOUT_MS = 3_000
_TCP_MAXRT_MS = 10_000
ZAP_DOMAIN = b"zmqtasks"


def new_context() -> Context:
    """A private context: nobody else's handler or ``term()`` interferes with it."""
    context: Context = zmq.Context(io_threads=1)
    context.set(zmq.BLOCKY, 0)  # A forgotten socket must not hang the process's exit.
    return context


class SocketMaker:
    """Makes the sockets of one node.

    Args:
        context: the node's own context.
        routing_id: what both ROUTERs call themselves.
        keys: the mesh key pair, None without a key.
    """

    def __init__(self, context: Context, routing_id: bytes, keys: KeyPair | None) -> None:
        self._context = context
        self._routing_id = routing_id
        self._keys = keys

    def router_in(self) -> Socket:
        """R_in: binds; peers dial it."""
        sock = self._router()
        return self._serve(sock)

    def router_out(self) -> Socket:
        """R_out: dials peers."""
        sock = self._router()
        sock.setsockopt(zmq.IMMEDIATE, 1)
        return self._dial(sock)

    def publisher(self) -> Socket:
        """XPUB: outcomes and events for whoever subscribes."""
        sock = self._new(zmq.XPUB)
        sock.setsockopt(zmq.SNDHWM, limits.PUB_HWM)
        sock.setsockopt(zmq.MAXMSGSIZE, _SUBSCRIPTION_BYTES_MAX)
        if self._keys is None:
            sock.setsockopt(zmq.XPUB_VERBOSE, 1)
        else:
            sock.setsockopt(zmq.XPUB_MANUAL, 1)
        return self._serve(sock)

    def subscriber(self) -> Socket:
        """SUB: other nodes' outcomes and events."""
        sock = self._new(zmq.SUB)
        sock.setsockopt(zmq.RCVHWM, limits.PUB_HWM)
        sock.setsockopt(zmq.SNDHWM, 0)
        return self._dial(sock)

    def puller(self) -> Socket:
        """PULL: the intake of the at-most-once lane."""
        sock = self._new(zmq.PULL)
        sock.setsockopt(zmq.RCVHWM, limits.PUSH_HWM)
        return self._serve(sock)

    def pusher(self) -> Socket:
        """PUSH: one at-most-once lane."""
        sock = self._new(zmq.PUSH)
        sock.setsockopt(zmq.SNDHWM, limits.PUSH_HWM)
        sock.setsockopt(zmq.IMMEDIATE, 1)
        return self._dial(sock)

    def visitor(self) -> Socket:
        """DEALER under a random id: asks an address who is there."""
        return self._dial(self._new(zmq.DEALER))

    def _router(self) -> Socket:
        sock = self._new(zmq.ROUTER)
        sock.setsockopt(zmq.ROUTING_ID, self._routing_id)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
        sock.setsockopt(zmq.PROBE_ROUTER, 1)
        sock.setsockopt(zmq.SNDHWM, limits.SOCKET_HWM)
        sock.setsockopt(zmq.RCVHWM, limits.SOCKET_HWM)
        return sock

    def _new(self, kind: int) -> Socket:
        try:
            sock = self._context.socket(kind)
        except zmq.ZMQError as exc:
            raise ConfigError(
                f"no more sockets ({exc.strerror}): raise the limit of open files (ulimit -n)"
            ) from None
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
        sock.setsockopt(zmq.HEARTBEAT_IVL, limits.ZMTP_HEARTBEAT_MS)
        sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, limits.ZMTP_TIMEOUT_MS)
        sock.setsockopt(zmq.HEARTBEAT_TTL, limits.ZMTP_TTL_MS)
        sock.setsockopt(zmq.HANDSHAKE_IVL, limits.HANDSHAKE_MS)
        sock.setsockopt(zmq.TCP_MAXRT, _TCP_MAXRT_MS)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
        sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        return sock

    def _serve(self, sock: Socket) -> Socket:
        sock.setsockopt(zmq.BACKLOG, _BACKLOG)
        if self._keys is not None:
            sock.setsockopt(zmq.CURVE_SERVER, 1)
            sock.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
            sock.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        return sock

    def _dial(self, sock: Socket) -> Socket:
        sock.setsockopt(zmq.RECONNECT_IVL, limits.REDIAL_MS_MIN)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, limits.REDIAL_MS_MAX)
        sock.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_TIMEOUT_MS)
        if self._keys is not None:
            sock.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public.encode())
            sock.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
            sock.setsockopt(zmq.CURVE_SERVERKEY, self._keys.public.encode())
        return sock


def connect(sock: Socket, endpoint: str, server_key: str | None) -> None:
    """Connect; options count from here on, so the server's key is set per endpoint.

    Raises:
        ConfigError: libzmq does not take the endpoint.
    """
    try:
        sock.setsockopt(zmq.IPV6, int("[" in endpoint))
        if server_key is not None:
            sock.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
        sock.connect(endpoint)
    except zmq.ZMQError as exc:
        raise ConfigError(f"cannot connect to {endpoint}: {exc.strerror}") from None


def disconnect(sock: Socket, endpoint: str) -> None:
    """Disconnect; an endpoint that is not connected (any more) is no error."""
    try:
        sock.disconnect(endpoint)
    except zmq.ZMQError as exc:
        if exc.errno not in (errno.ENOENT, errno.EINVAL):
            raise ConfigError(f"cannot disconnect {endpoint}: {exc.strerror}") from None


def bind_ipc(sock: Socket, path: Path) -> str:
    """Bind a Unix socket and give its endpoint.

    Raises:
        ConfigError: its folder cannot be written.
    """
    try:
        sock.bind(f"ipc://{path}")
    except zmq.ZMQError as exc:
        raise ConfigError(
            f"cannot make the socket {path}: {exc.strerror}; choose a ZMQTASKS_RUNTIME_DIR "
            "that this user can write"
        ) from None
    return f"ipc://{path}"


def bind_tcp(sock: Socket, host: str, port: int) -> int:
    """Bind a TCP address and give its port.

    Args:
        host: an address or "*" (all of them, IPv6 too where the system has it).
        port: 0 for any free one.

    Raises:
        ConfigError: the port is taken or the address is not this machine's.
    """
    wildcard = host == "*"
    if wildcard and _bind(sock, "::", port, ipv6=True) is None:
        return _last_port(sock)
    problem = _bind(sock, "0.0.0.0" if wildcard else host, port, ipv6=":" in host)  # noqa: S104
    if problem is None:
        return _last_port(sock)
    raise ConfigError(_bind_problem(host, port, problem))


def _bind(sock: Socket, host: str, port: int, ipv6: bool) -> zmq.ZMQError | None:
    try:
        sock.setsockopt(zmq.IPV6, int(ipv6))
        sock.bind(tcp(host, port or "*"))
    except zmq.ZMQError as exc:
        return exc
    return None


def _last_port(sock: Socket) -> int:
    last = sock.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(last, bytes)
    return int(last.rstrip(b"\0").rpartition(b":")[2])


def _bind_problem(host: str, port: int, problem: zmq.ZMQError) -> str:
    where = f"port {port} on {host}"
    if problem.errno == errno.EADDRINUSE:
        return (
            f"{where} is taken: choose another --port (a node uses three in a row), or none "
            "for free ones"
        )
    if problem.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"{host} is no address of this machine: give one of its own, or '*' for all"
    if problem.errno == errno.EACCES:
        return f"{where} may not be used by this user: choose a --port above 1023"
    return f"cannot listen on {where}: {problem.strerror}"
