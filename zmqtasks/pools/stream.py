"""Batches of protocol messages as bytes: ``length u32 (big endian) | MessagePack array``.

A batch is whatever waits when somebody writes, so a thousand small tasks cost a few
system calls. Pure: both ends of a child's socketpair use it, neither socket is known
here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from zmqtasks.errors import DecodeError, FrameTooLarge
from zmqtasks.pools.protocol import FromChild, ToChild

M = TypeVar("M")

PREFIX_BYTES = 4
_PREFIX = struct.Struct(">I")
_ENCODER = msgspec.msgpack.Encoder()
#: Room for what may share a batch with the largest payload (requests, log lines).
_BATCH_SLACK_BYTES = 16 * 1024 * 1024


def batch_bytes_max(payload_bytes_max: int) -> int:
    """The largest batch that an honest other end writes."""
    return 2 * payload_bytes_max + _BATCH_SLACK_BYTES


def encode_batch(messages: Sequence[ToChild] | Sequence[FromChild]) -> bytearray:
    """One batch, ready to be written."""
    buffer = bytearray(PREFIX_BYTES)
    _ENCODER.encode_into(messages, buffer, PREFIX_BYTES)
    _PREFIX.pack_into(buffer, 0, len(buffer) - PREFIX_BYTES)
    return buffer


class BatchReader(Generic[M]):
    """Turns the bytes of one direction into its messages.

    Args:
        decoder: the decoder of a list of messages.
        bytes_max: refuse batches above this size before they fill memory: user code
            may write to any descriptor of its process, this one included.
    """

    __slots__ = ("_buffer", "_bytes_max", "_decode", "_wanted")

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[M]], bytes_max: int) -> None:
        self._decode = decoder.decode
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        #: Bytes the buffer must hold before looking at it again pays.
        self._wanted = PREFIX_BYTES

    def feed(self, data: bytes) -> list[list[M]]:
        """The batches completed by these bytes, in order.

        Raises:
            DecodeError: the bytes are no batch.
            FrameTooLarge: a batch above the limit is announced.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._wanted:
                return []
            self._buffer = bytearray()
            view = memoryview(buffer)
        else:
            view = memoryview(data)
        return self._split(view)

    def _split(self, view: memoryview) -> list[list[M]]:
        batches: list[list[M]] = []
        at = 0
        size = len(view)
        self._wanted = PREFIX_BYTES
        while size - at >= PREFIX_BYTES:
            length = _PREFIX.unpack_from(view, at)[0]
            if length > self._bytes_max:
                raise FrameTooLarge(f"a batch of {length} bytes, {self._bytes_max} at most")
            end = at + PREFIX_BYTES + length
            if end > size:
                self._wanted = PREFIX_BYTES + length
                break
            try:
                batches.append(self._decode(view[at + PREFIX_BYTES : end]))
            except (msgspec.DecodeError, ValueError, RecursionError) as exc:
                raise DecodeError(f"no batch of the child protocol: {exc}") from None
            at = end
        if at < size:
            self._buffer += view[at:]
        return batches


def from_child_reader(bytes_max: int) -> BatchReader[FromChild]:
    """For the node's end."""
    return BatchReader(msgspec.msgpack.Decoder(list[FromChild]), bytes_max)


def to_child_reader(bytes_max: int) -> BatchReader[ToChild]:
    """For the child's end."""
    return BatchReader(msgspec.msgpack.Decoder(list[ToChild]), bytes_max)
