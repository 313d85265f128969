"""Frames: whatever comes in is a message or a RemoteProtocolError, nothing else."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import SAMPLES
from zmqtasks.errors import DecodeError, FrameTooLarge, RemoteProtocolError, VersionMismatch
from zmqtasks.limits import BLOB_BYTES_MIN, FRAMES_PER_MESSAGE_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.allmessages import MESSAGE_CLASSES
from zmqtasks.wire.messages import (
    Ack,
    Done,
    Kind,
    Message,
    Outcome,
    TaskRecord,
    Tasks,
)

KIND = Kind("shop", "tasks.add", "d1", "default")
LARGE = b"x" * (BLOB_BYTES_MIN + 1)


def tasks_of(*bodies: bytes) -> Tasks:
    records = [TaskRecord(0, bytes([n]) * 16, 1, body) for n, body in enumerate(bodies)]
    return Tasks([KIND], records)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_what_was_encoded_is_decoded(sample: Message) -> None:
    header, message = codec.decode(codec.encode(sample, 1, 2, 3, 4))
    assert message == sample
    assert header == codec.Header(sample.TYPE, 1, 2, 3, 4)


def test_there_is_a_sample_of_every_message() -> None:
    assert {type(sample) for sample in SAMPLES} == set(MESSAGE_CLASSES.values())


def test_large_payloads_travel_as_frames_of_their_own() -> None:
    message = tasks_of(b"small", LARGE, b"", LARGE + b"2")
    frames = codec.encode(message)
    assert frames[1:] == [LARGE, LARGE + b"2"]
    assert len(frames[0]) < 500
    assert codec.decode(frames)[1] == message


def test_encoding_leaves_the_records_as_they_were() -> None:
    message = tasks_of(LARGE)
    codec.encode(message)
    assert message.tasks[0].body == LARGE


def test_outcome_without_its_payload_has_no_body() -> None:
    done = Done(1, [Outcome(b"i" * 16, 1, 0, 1, -1, 0, 0, 1_000_000, None)])
    decoded = codec.decode(codec.encode(done))[1]
    assert isinstance(decoded, Done)
    assert decoded.outcomes[0].body is None


def test_too_many_large_payloads_are_refused_by_the_sender() -> None:
    with pytest.raises(ValueError, match="16 large payloads"):
        codec.encode(tasks_of(*[LARGE] * FRAMES_PER_MESSAGE_MAX))


def test_renumbering_keeps_the_message() -> None:
    message = tasks_of(b"small", LARGE)
    frames = codec.encode(message, 1, 1, 1, 1)
    codec.renumber(frames, 5, 6, 7, 8)
    header, decoded = codec.decode(frames)
    assert decoded == message
    assert header[1:] == (5, 6, 7, 8)


def header(**changes: Any) -> bytes:
    fields = {"magic": b"ZT", "major": 1, "type": Ack.TYPE, "flags": 0, "count": 0, **changes}
    return struct.pack("!2sBBHHIIQQ", *fields.values(), 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([], FrameTooLarge),
        ([b""], DecodeError),
        ([b"ZT\x01"], DecodeError),
        ([header(magic=b"XX") + b"\x90"], DecodeError),
        ([header(major=2) + b"\x90"], VersionMismatch),
        ([header(major=0) + b"\x90"], VersionMismatch),
        ([header(type=0xEE) + b"\x90"], DecodeError),
        ([header()], DecodeError),
        ([header() + b"\x80"], DecodeError),
        ([header() + b"\x90", b"unexpected"], DecodeError),
        ([header() + b"\x90"] * (FRAMES_PER_MESSAGE_MAX + 1), FrameTooLarge),
        ([header(type=Tasks.TYPE) + b"\x92\x90" + b"\x91" * 100_000], DecodeError),
    ],
)
def test_what_is_no_message_is_refused(
    frames: list[bytes], error: type[RemoteProtocolError]
) -> None:
    with pytest.raises(error):
        codec.decode(frames)


def test_payload_index_must_name_a_frame() -> None:
    frames = codec.encode(tasks_of(LARGE))
    with pytest.raises(DecodeError, match="payload frame 1 of 0"):
        codec.decode(frames[:1])


def test_unknown_trailing_fields_are_ignored() -> None:
    """A later minor version may append some."""
    frame = header() + b"\x93\x01\x02\x03"
    assert codec.decode([frame])[1] == Ack()


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_frames_never_raise_anything_else(frames: list[bytes]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        codec.decode(frames)


@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_frames_never_raise_anything_else(sample: Message, data: st.DataObject) -> None:
    frames = codec.encode(sample, 1, 2, 3, 4)
    damaged = bytearray(frames[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for head in (bytes(damaged), bytes(damaged[:cut])):
        with contextlib.suppress(RemoteProtocolError):
            codec.decode([head, *frames[1:]])
