"""The page of memory that a node shares with each of its children.

The child notes there which attempt it runs, so that the node, and the fork server while
the child is stopped, can look instead of guessing: a time limit or a cancellation ends the
attempt that is meant or nothing, and a child that dies leaves behind what it was doing.

Attempts are counted as they are sent to the child; both ends count, so no number travels.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from typing import Final, NamedTuple, Protocol

from zmqtasks.limits import SLOTS_MAX

#: Word 0: twice the number of the attempt begun last, plus one while it runs.
BEGUN: Final = 0
#: Word 1: when it began, in nanoseconds of the monotonic clock; only if it has a hard limit.
BEGUN_NS: Final = 1
#: Word 2: how many CancelTask were sent; the child reads when it knows fewer.
CANCELS: Final = 2
#: Word 3: the number of the attempt that is being ended, 0 for none.
DOOMED: Final = 3
#: From here on, where one process has several slots: what word 0 is, for slot 0, 1, 2 ...
SLOTS: Final = 4

#: What is never touched takes no memory.
_BYTES: Final = -(-8 * (SLOTS + SLOTS_MAX) // mmap.PAGESIZE) * mmap.PAGESIZE


class Words(Protocol):
    """The words of a page, or of what stands for one in a test."""

    def __getitem__(self, word: int, /) -> int:
        """The value of a word."""

    def __setitem__(self, word: int, value: int, /) -> None:
        """Set a word."""


class Look(NamedTuple):
    """What a child is doing."""

    #: Number of the attempt that it began last, 0 before the first.
    begun: int
    is_running: bool
    #: When that began, if it has a hard limit.
    begun_ns: int


class Page:
    """One end's view of a page.

    Args:
        fd: descriptor from :func:`new_page_fd`; stays the caller's.
    """

    __slots__ = ("_map", "words")

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _BYTES)
        self.words: memoryview = memoryview(self._map).cast("Q")

    def look(self) -> Look:
        """What the child is doing; only while it is stopped or dead, for sure."""
        word = self.words[BEGUN]
        return Look(word >> 1, bool(word & 1), self.words[BEGUN_NS])

    def look_at(self, slot: int) -> Look:
        """What one of its several slots is doing; only while the child is dead, for sure."""
        word = self.words[SLOTS + slot]
        return Look(word >> 1, bool(word & 1), 0)

    def close(self) -> None:
        """Give the memory back."""
        self.words.release()
        self._map.close()


def new_page_fd() -> int:
    """The descriptor of a fresh page.

    Raises:
        OSError: no more descriptors, or no memory.
    """
    if sys.platform == "linux":
        fd = os.memfd_create("zmqtasks-child")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, _BYTES)
    except OSError:
        os.close(fd)
        raise
    return fd
