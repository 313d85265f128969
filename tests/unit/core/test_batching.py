"""A message is full at its bounds of records, bytes and frames, and never empty."""

from __future__ import annotations

from zmqtasks.core.batching import MessageBounds
from zmqtasks.limits import (
    BATCH_BYTES_MAX,
    BATCH_COUNT_MAX,
    BLOB_BYTES_MIN,
    FRAMES_PER_MESSAGE_MAX,
)


def _taken(bodies: list[bytes | None]) -> int:
    bounds = MessageBounds()
    taken = 0
    for body in bodies:
        if not bounds.takes(body):
            break
        taken += 1
    return taken


def test_message_takes_so_many_records() -> None:
    assert _taken([b""] * 1_000) == BATCH_COUNT_MAX


def test_message_takes_so_many_bytes() -> None:
    assert _taken([bytes(BATCH_BYTES_MAX // 4)] * 10) == 4


def test_a_record_of_any_size_fits_a_message_of_its_own() -> None:
    bounds = MessageBounds()
    huge = bytes(2 * BATCH_BYTES_MAX)
    assert bounds.takes(huge)
    assert not bounds.takes(huge)
    assert not bounds.takes(b"x")
    assert bounds.takes(b"x")


def test_large_payloads_stay_within_the_frames_of_a_message() -> None:
    large = bytes(BLOB_BYTES_MIN + 1)
    assert _taken([large] * 100) < FRAMES_PER_MESSAGE_MAX


def test_records_without_payload_count_as_records() -> None:
    assert _taken([None] * 1_000) == BATCH_COUNT_MAX
