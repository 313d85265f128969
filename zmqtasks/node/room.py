"""How much a producer may have open, and the threads that wait for room."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from zmqtasks.core.calls import Call
from zmqtasks.errors import MeshOverloaded
from zmqtasks.words import counted


class Room:
    """Counts the calls on their way to the I/O thread and what the machines hold.

    Args:
        count_max: tasks at which ``take`` waits.
        bytes_max: the same for the bytes of their arguments.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.count_max = count_max
        self.bytes_max = bytes_max
        self._changed = threading.Condition()
        #: Taken by calls that no machine has yet.
        self._coming_count = 0
        self._coming_bytes = 0
        #: Held by machines, as they said last.
        self._held_count = 0
        self._held_bytes = 0
        self._waiting_count = 0

    @property
    def count(self) -> int:
        """Open tasks, those on their way included."""
        return self._coming_count + self._held_count

    @property
    def bytes(self) -> int:
        """Bytes of their arguments."""
        return self._coming_bytes + self._held_bytes

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for room."""
        return self._waiting_count > 0

    def take(self, count: int, size: int, wait_s: float) -> None:
        """Make these calls count, until ``came`` or ``give_back``.

        Args:
            count: of the calls.
            size: bytes of their arguments.
            wait_s: how long to wait for room, in seconds; 0: not at all.

        Raises:
            MeshOverloaded: there was none in time, and nothing counts.
        """
        with self._changed:
            if not self._fits(count, size) and not self._wait(count, size, wait_s):
                raise MeshOverloaded(
                    f"{counted(self.count, 'open task')} with {self.bytes:,} bytes of arguments, "
                    f"and the limits are {self.count_max:,} and {self.bytes_max:,}: nothing was "
                    "submitted. Wait for results, add workers, or raise open_tasks_max / "
                    "open_bytes_max"
                )
            self._coming_count += count
            self._coming_bytes += size

    def _fits(self, count: int, size: int) -> bool:
        if not self.count:
            return True  # what is over a limit all by itself passes when nothing else is open
        return self.count + count <= self.count_max and self.bytes + size <= self.bytes_max

    def _wait(self, count: int, size: int, wait_s: float) -> bool:
        if not wait_s:
            return False
        self._waiting_count += 1
        try:
            return self._changed.wait_for(lambda: self._fits(count, size), wait_s)
        finally:
            self._waiting_count -= 1

    def came(self, count: int, size: int) -> None:
        """The machines have these calls, beside those that ``held`` told of."""
        with self._changed:
            self._coming_count -= count
            self._coming_bytes -= size
            self._held_count += count
            self._held_bytes += size

    def give_back(self, count: int, size: int) -> None:
        """These calls come to no machine, or ``held`` has told of them."""
        with self._changed:
            self._coming_count -= count
            self._coming_bytes -= size
            self._changed.notify_all()

    def held(self, count: int, size: int) -> None:
        """So much is held by the machines now."""
        with self._changed:
            self._held_count = count
            self._held_bytes = size
            if self._waiting_count:
                self._changed.notify_all()


def size_of(calls: Sequence[Call]) -> int:
    """Bytes of the arguments of these calls."""
    return sum(len(call.body) for call in calls)
