"""How many records one message takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from zmqtasks.limits import BATCH_BYTES_MAX, BATCH_COUNT_MAX, FRAMES_PER_MESSAGE_MAX
from zmqtasks.wire.codec import is_large

T = TypeVar("T")


class MessageBounds:
    """Counts the records of a message against the bounds of ``limits.py``."""

    __slots__ = ("bytes", "count", "frames")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.frames = 1

    def takes(self, body: bytes | int | None) -> bool:
        """Count one more record.

        Returns:
            False when the message is full. The record is then counted as the first of
            the next message; a message always takes at least one.
        """
        size = len(body) if isinstance(body, bytes) else 0
        frames = is_large(body)
        if self.count and (
            self.count >= BATCH_COUNT_MAX
            or self.bytes + size > BATCH_BYTES_MAX
            or self.frames + frames > FRAMES_PER_MESSAGE_MAX
        ):
            self.count, self.bytes, self.frames = 1, size, 1 + frames
            return False
        self.count += 1
        self.bytes += size
        self.frames += frames
        return True


def batches(records: list[T], body_of: Callable[[T], bytes | int | None]) -> list[list[T]]:
    """Records, as many together as one message takes."""
    found: list[list[T]] = [[]]
    bounds = MessageBounds()
    for record in records:
        if not bounds.takes(body_of(record)):
            found.append([])
        found[-1].append(record)
    return found
