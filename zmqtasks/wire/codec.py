"""Frames of one message: a 32-byte header and a body, then payload frames.

::

    'Z' 'T' | major u8 | type u8 | flags u16 | count u16
    session u32 | peer_session u32 | seq u64 | ack u64          (big endian)

``session`` numbers the sender's link and ``peer_session`` the receiver's, so that a
message of an older link changes nothing. ``seq`` is 0 for messages outside the
numbered stream; ``ack`` is the last number received. ``decode`` gives a message or a
:class:`RemoteProtocolError`, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from zmqtasks.errors import DecodeError, FrameTooLarge, RemoteProtocolError, VersionMismatch
from zmqtasks.limits import BLOB_BYTES_MIN, FRAME_BYTES_MAX, FRAMES_PER_MESSAGE_MAX
from zmqtasks.wire.allmessages import MESSAGE_CLASSES
from zmqtasks.wire.messages import (
    Done,
    Message,
    Offer,
    OfferRecord,
    Outcome,
    PubResults,
    Results,
    Retry,
    RetryRecord,
    States,
    Submit,
    TaskRecord,
    Tasks,
)

MAGIC = b"ZT"
VERSION_MAJOR = 1
#: Versions this build speaks: the current one and, once there is one, its predecessor.
VERSION_MIN = 1
VERSION_MAX = 1

_HEADER = struct.Struct("!2sBBHHIIQQ")
HEADER_BYTES = _HEADER.size
_ENCODE = msgspec.msgpack.Encoder().encode
#: What carries a payload.
_Record: TypeAlias = TaskRecord | OfferRecord | Outcome | RetryRecord
_DECODERS = {code: msgspec.msgpack.Decoder(cls) for code, cls in MESSAGE_CLASSES.items()}


class Header(NamedTuple):
    """The fixed part of frame 0."""

    type: int
    session: int
    peer_session: int
    seq: int
    ack: int


def encode(
    message: Message, session: int = 0, peer_session: int = 0, seq: int = 0, ack: int = 0
) -> list[bytes]:
    """The frames of a message."""
    header = _HEADER.pack(MAGIC, VERSION_MAJOR, message.TYPE, 0, 0, session, peer_session, seq, ack)
    large = [r for r in _records(message) if is_large(r.body)]
    if not large:
        return [header + _ENCODE(message)]
    return _encode_with_blobs(header, message, large)


def is_large(body: bytes | int | None) -> bool:
    """True for a payload that travels as a frame of its own."""
    return isinstance(body, bytes) and len(body) > BLOB_BYTES_MIN


def renumber(frames: list[bytes], session: int, peer_session: int, seq: int, ack: int) -> None:
    """Give encoded frames a fresh header, for sending them again."""
    head = frames[0]
    header = _HEADER.pack(MAGIC, VERSION_MAJOR, head[3], 0, 0, session, peer_session, seq, ack)
    frames[0] = header + head[HEADER_BYTES:]


def decode(frames: Sequence[bytes]) -> tuple[Header, Message]:
    """Header and message of received frames.

    Raises:
        RemoteProtocolError: one of its subclasses, for anything that is no message.
    """
    header = decode_header(frames)
    decoder = _DECODERS.get(header.type)
    if decoder is None:
        raise DecodeError(f"unknown message type 0x{header.type:02x}")
    try:
        message = decoder.decode(memoryview(frames[0])[HEADER_BYTES:])
    except (msgspec.DecodeError, RecursionError, ValueError) as exc:
        raise DecodeError(f"{MESSAGE_CLASSES[header.type].__name__}: {exc}") from None
    _put_blobs(message, frames)
    return header, message


def decode_header(frames: Sequence[bytes]) -> Header:
    """The header alone, with sizes and version checked."""
    if not 1 <= len(frames) <= FRAMES_PER_MESSAGE_MAX:
        raise FrameTooLarge(f"{len(frames)} frames, {FRAMES_PER_MESSAGE_MAX} at most")
    head = frames[0]
    if len(head) < HEADER_BYTES:
        raise DecodeError(f"a header of {len(head)} bytes, {HEADER_BYTES} expected")
    if any(len(frame) > FRAME_BYTES_MAX for frame in frames):
        raise FrameTooLarge(f"a frame over {FRAME_BYTES_MAX} bytes")
    magic, major, kind, _flags, _count, session, peer_session, seq, ack = _HEADER.unpack_from(head)
    if magic != MAGIC:
        raise DecodeError("not a zmqtasks message")
    if not VERSION_MIN <= major <= VERSION_MAX:
        raise VersionMismatch(
            f"protocol version {major}, this node speaks {VERSION_MIN} to {VERSION_MAX}"
        )
    return Header(kind, session, peer_session, seq, ack)


def _records(message: Message) -> Sequence[_Record]:
    if isinstance(message, (Tasks, Submit, Offer, Retry)):
        return message.tasks
    if isinstance(message, (Done, Results, PubResults)):
        return message.outcomes
    if isinstance(message, States):
        return [s.outcome for s in message.states if s.outcome is not None]
    return ()


def _encode_with_blobs(header: bytes, message: Message, large: list[_Record]) -> list[bytes]:
    """The records belong to others too, so each gets its payload back."""
    if len(large) >= FRAMES_PER_MESSAGE_MAX:
        raise ValueError(f"{len(large)} large payloads in one message")
    blobs: list[bytes] = []
    for record in large:
        assert isinstance(record.body, bytes)
        blobs.append(record.body)
        record.body = len(blobs)
    try:
        return [header + _ENCODE(message), *blobs]
    finally:
        for record, blob in zip(large, blobs, strict=True):
            record.body = blob


def _put_blobs(message: Message, frames: Sequence[bytes]) -> None:
    used = 0
    for record in _records(message):
        body = record.body
        if isinstance(body, int):
            if not 0 < body < len(frames):
                raise DecodeError(f"payload frame {body} of {len(frames) - 1}")
            record.body = frames[body]
            used += 1
    if used != len(frames) - 1:
        raise DecodeError(f"{len(frames) - 1} payload frames, {used} referred to")


__all__ = [
    "HEADER_BYTES",
    "VERSION_MAJOR",
    "VERSION_MAX",
    "VERSION_MIN",
    "Header",
    "RemoteProtocolError",
    "decode",
    "decode_header",
    "encode",
    "renumber",
]
