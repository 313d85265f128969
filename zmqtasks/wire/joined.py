"""Arguments together with the results that they wait for, as one payload.

The owner of a task that waits for others joins their results to its arguments without
looking into either; the process that runs the task takes all of it apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from zmqtasks.errors import DecodeError

#: How results become one value: the index of a result, or a list of such shapes.
Shape: TypeAlias = int | list[Any]

#: First byte of such a payload, where others name their serializer.
JOINED = 16
JOINED_BYTE = bytes([JOINED])

#: Deepest nesting of a shape.
SHAPE_DEPTH_MAX = 100


class Joined(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The parts of a joined payload."""

    #: The payload of the call.
    body: bytes
    #: {index of a task that it waits for: payload of its result}, of those that have ended.
    results: dict[int, bytes]
    #: What the first positional argument is made of; None: none of them is an argument.
    shape: Shape | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Joined).decode


def join(parts: Joined) -> bytes:
    """The payload that has all of these."""
    return JOINED_BYTE + _encode(parts)


def split(body: bytes) -> Joined:
    """The parts of a payload; one that is not joined has no results.

    Raises:
        DecodeError: damaged.
    """
    if body[:1] != JOINED_BYTE:
        return Joined(body, {})
    try:
        return _decode(memoryview(body)[1:])
    except msgspec.MsgspecError as exc:
        raise DecodeError(f"arguments and results that were joined cannot be read: {exc}") from None


def shaped(shape: Shape, values: Mapping[int, Any]) -> Any:
    """The value that results make.

    Raises:
        DecodeError: one that the shape names is not there.
    """
    if isinstance(shape, list):
        return [shaped(part, values) for part in shape]
    if shape not in values:
        raise DecodeError(f"result {shape} of those that the arguments are made of is not there")
    return values[shape]


def is_shape(value: object, count: int, depth: int = 0) -> bool:
    """Whether this is a shape of so many results."""
    if isinstance(value, int):
        return not isinstance(value, bool) and 0 <= value < count
    if not isinstance(value, list) or depth >= SHAPE_DEPTH_MAX:
        return False
    return all(is_shape(part, count, depth + 1) for part in value)
