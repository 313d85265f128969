"""Keys of the CURVE mechanism, from one mesh key.

Every node of a mesh holds the same secret key and uses it both as server and as
client; the public half is derived from it. Session keys stay ephemeral, so traffic
recorded today is not readable with a key stolen tomorrow. Source: RFC 26
(CurveZMQ), libzmq ``zmq_curve_public``.
"""

from __future__ import annotations

from typing import NamedTuple

import zmq
from zmq.utils import z85

from zmqtasks.errors import ConfigError, KeyUnusable

#: Older versions have unauthenticated crashes (CVE-2020-15166 and its kin).
LIBZMQ_MIN = (4, 3, 5)
KEY_TEXT_BYTES = 40


def check_libzmq(version: tuple[int, int, int], has_curve: bool) -> None:
    """Refuse a libzmq that is not safe to use.

    Raises:
        ConfigError: it is too old, or was built without CURVE.
    """
    if version < LIBZMQ_MIN:
        raise ConfigError(
            f"libzmq {'.'.join(map(str, version))} is too old, zmqtasks needs "
            f"{'.'.join(map(str, LIBZMQ_MIN))} or newer: install a current pyzmq wheel "
            "(pip install --upgrade pyzmq)"
        )
    if not has_curve:
        raise ConfigError(
            "this libzmq was built without CURVE encryption: install the pyzmq wheel "
            "(pip install --force-reinstall --only-binary :all: pyzmq)"
        )


check_libzmq(zmq.zmq_version_info(), zmq.has("curve"))


def libzmq_version() -> str:
    """The version of the ZeroMQ library in use, as text."""
    return str(zmq.zmq_version())


class KeyPair(NamedTuple):
    """Both halves of a key as 40 Z85 characters."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


def key_pair(secret: str) -> KeyPair:
    """The pair that belongs to a secret key.

    Args:
        secret: 40 Z85 characters, as ``zmqtasks keygen`` writes them.

    Raises:
        KeyUnusable: the text is no such key. The text itself is not in the message.
    """
    try:
        text = secret.encode("ascii")
        if len(text) != KEY_TEXT_BYTES:
            raise ValueError(f"{len(text)} characters")
        return KeyPair(zmq.curve_public(text).decode("ascii"), secret)
    except (ValueError, zmq.ZMQError) as exc:
        reason = "not ASCII" if isinstance(exc, UnicodeError) else str(exc)
        raise KeyUnusable(
            f"the mesh key is no Z85 text of {KEY_TEXT_BYTES} characters ({reason}): "
            "make one with 'zmqtasks keygen' and copy the file unchanged"
        ) from None


def public_key_text(raw: bytes) -> str:
    """Z85 text of a 32-byte public key as ZAP hands it over."""
    return z85.encode(raw).decode("ascii")
