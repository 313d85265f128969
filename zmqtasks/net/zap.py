"""Who may connect: the ZAP handler (RFC 27) of this node, served by its own loop.

It must be bound before the first CURVE server binds. libzmq asks it about the client's
key on every new connection; while nobody answers, nobody gets in. Without any handler
CURVE lets *every* key in, which is why receivers also check each message for the
``User-Id`` that only this handler can have given (see ``receive.py``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import zmq

from zmqtasks.net.curve import public_key_text
from zmqtasks.net.sockets import Context, Socket

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_DONTWAIT = int(zmq.DONTWAIT)
_REQUESTS_PER_DRAIN_MAX = 200
_KEY_BYTES = 32


class ZapHandler:
    """Admits the holders of the given keys.

    Args:
        context: the node's context.
        allowed: public keys (Z85) that may connect.
        refused: called with the peer's address and the reason.

    Raises:
        RuntimeError: the context has a handler already.
    """

    def __init__(
        self, context: Context, allowed: frozenset[str], refused: Callable[[str, str], None]
    ) -> None:
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self._allowed = allowed
        self._refused = refused
        try:
            self.socket.bind(ZAP_ENDPOINT)
        except zmq.ZMQError as exc:
            self.socket.close(0)
            raise RuntimeError(f"this context has a ZAP handler already: {exc}") from None

    def drain(self) -> None:
        """Answer the requests that wait."""
        for _ in range(_REQUESTS_PER_DRAIN_MAX):
            try:
                request = self.socket.recv_multipart(_DONTWAIT)
            except zmq.ZMQError:
                return
            self.socket.send_multipart(self._answer(request))

    def close(self) -> None:
        """Stop answering."""
        # Closing alone takes effect some time later, in another thread of libzmq.
        with contextlib.suppress(zmq.ZMQError):
            self.socket.unbind(ZAP_ENDPOINT)
        self.socket.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        request_id = request[1] if len(request) > 1 else b""
        user, reason = self._judge(request)
        if not user:
            address = request[3].decode("utf-8", "replace") if len(request) > 3 else ""
            self._refused(address, reason)
            # Not 300 ("try again"): it leaves clients hanging (libzmq#2329).
            return [_VERSION, request_id, b"400", reason.encode(), b"", b""]
        return [_VERSION, request_id, b"200", b"OK", user.encode(), b""]

    def _judge(self, request: list[bytes]) -> tuple[str, str]:
        """The user id, or "" and why there is none."""
        if len(request) < 7 or request[0] != _VERSION:
            return "", "not a ZAP 1.0 request with credentials"
        if request[5] != b"CURVE" or len(request[6]) != _KEY_BYTES:
            return "", "no CURVE key"
        key = public_key_text(request[6])
        if key not in self._allowed:
            return "", f"its key {key[:8]}… is not the mesh key"
        return key, ""
