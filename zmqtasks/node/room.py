"""How much a producer may have open, and the line in which callers wait for room.

Threads and coroutines stand in one line, first come first served: whoever just looked again
when there is room would find that others had been woken for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

from zmqtasks.core.calls import Call
from zmqtasks.errors import MeshOverloaded
from zmqtasks.words import counted


class Place:
    """A caller's place in the line, made by :meth:`Room.line_up`."""

    __slots__ = ("_room", "count", "is_granted", "size", "wake")

    def __init__(self, room: Room, count: int, size: int, wake: Callable[[], None]) -> None:
        self._room = room
        self.count = count
        self.size = size
        self.wake = wake
        #: There is room, and it is kept for this caller until it submits or leaves.
        self.is_granted = False

    def leave(self) -> None:
        """Wait no longer, and give back what was granted and not used; may be repeated."""
        self._room.leave(self)


class Room:
    """Counts the calls on their way to the I/O thread and what the machines hold.

    Args:
        count_max: tasks at which ``take`` waits.
        bytes_max: the same for the bytes of their arguments.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.count_max = count_max
        self.bytes_max = bytes_max
        self._lock = threading.Lock()
        #: Taken by calls that no machine has yet.
        self._coming_count = 0
        self._coming_bytes = 0
        #: Held by machines, as they said last.
        self._held_count = 0
        self._held_bytes = 0
        #: Who waits, the first one first. Not a plain dict, which would look past all that have
        #: left before to find its first.
        self._line: OrderedDict[Place, None] = OrderedDict()

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
        return bool(self._line)

    def take(self, count: int, size: int, wait: float | Place) -> None:
        """Make these calls count, until ``came`` or ``give_back``.

        Args:
            count: of the calls.
            size: bytes of their arguments.
            wait: how long to wait for room, in seconds; 0: not at all. Or the place in the
                line where that was done.

        Raises:
            MeshOverloaded: there was none in time, and nothing counts.
        """
        if isinstance(wait, Place):
            if not self._use(wait):
                raise self._overloaded()
            return
        with self._lock:
            if not self._line and self._fits(count, size):
                self._coming_count += count
                self._coming_bytes += size
                return
        if not wait:
            raise self._overloaded()
        woken = threading.Event()
        place = self.line_up(count, size, woken.set)
        try:
            woken.wait(wait)
            if not self._use(place):
                raise self._overloaded()
        finally:
            place.leave()

    def line_up(self, count: int, size: int, wake: Callable[[], None]) -> Place:
        """Wait in line for so much room, without a thread; ``take`` it with this place.

        Args:
            count: of the calls.
            size: bytes of their arguments.
            wake: called once, from whatever thread, when ``is_granted`` has become True;
                perhaps before this returns. It must not block, nor call the room.
        """
        place = Place(self, count, size, wake)
        with self._lock:
            self._line[place] = None
            self._admit()
        return place

    def leave(self, place: Place) -> None:
        """See :meth:`Place.leave`."""
        with self._lock:
            if place.is_granted:
                place.is_granted = False
                self._coming_count -= place.count
                self._coming_bytes -= place.size
            else:
                with suppress(KeyError):
                    del self._line[place]
            self._admit()

    def _use(self, place: Place) -> bool:
        with self._lock:
            is_granted, place.is_granted = place.is_granted, False
            return is_granted

    def _admit(self) -> None:
        line = self._line
        while line:
            place = next(iter(line))
            if not self._fits(place.count, place.size):
                return
            del line[place]
            self._coming_count += place.count
            self._coming_bytes += place.size
            place.is_granted = True
            place.wake()

    def _overloaded(self) -> MeshOverloaded:
        return MeshOverloaded(
            f"{counted(self.count, 'open task')} with {self.bytes:,} bytes of arguments, "
            f"and the limits are {self.count_max:,} and {self.bytes_max:,}: nothing was "
            "submitted. Wait for results, add workers, or raise open_tasks_max / "
            "open_bytes_max"
        )

    def _fits(self, count: int, size: int) -> bool:
        if not self.count:
            return True  # what is over a limit all by itself passes when nothing else is open
        return self.count + count <= self.count_max and self.bytes + size <= self.bytes_max

    def came(self, count: int, size: int) -> None:
        """The machines have these calls, beside those that ``held`` told of."""
        with self._lock:
            self._coming_count -= count
            self._coming_bytes -= size
            self._held_count += count
            self._held_bytes += size

    def give_back(self, count: int, size: int) -> None:
        """These calls come to no machine, or ``held`` has told of them."""
        with self._lock:
            self._coming_count -= count
            self._coming_bytes -= size
            self._admit()

    def held(self, count: int, size: int) -> None:
        """So much is held by the machines now."""
        with self._lock:
            self._held_count = count
            self._held_bytes = size
            self._admit()


def size_of(calls: Sequence[Call]) -> int:
    """Bytes of the arguments of these calls."""
    return sum(len(call.body) for call in calls)
