"""Calls that travel with a task, or with its outcome, until its owner makes them.

They are one value of bytes among its facts, so whoever passes it on need not look inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from zmqtasks.errors import DecodeError
from zmqtasks.wire.messages import Kind


class CarriedCall(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One of them."""

    #: Of the task that it becomes; of an errback what its id is made of.
    id: bytes
    kind: Kind
    body: bytes
    ext: dict[str, Any] | None = None
    #: It is to be on the disk when it is owned.
    is_durable: bool = False
    #: An errback: it is also called when its task never runs, because of one before it. A call
    #: that joins a chord: its result is one of those that the chord waits for.
    is_for_inputs: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[CarriedCall]).decode


def pack_calls(calls: Sequence[CarriedCall]) -> bytes:
    """All of them as one value."""
    return _encode(calls)


def unpack_calls(packed: object) -> list[CarriedCall]:
    """The calls in such a value.

    Raises:
        DecodeError: damaged.
    """
    try:
        return _decode(packed)  # type: ignore[arg-type]  # whatever it is, it is looked at
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as exc:
        raise DecodeError(f"calls that travelled with a task cannot be read: {exc}") from None
