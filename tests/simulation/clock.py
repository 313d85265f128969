"""The clocks of a simulated process, none of which is right."""

from __future__ import annotations

import random

#: A clock that is right gains so many milliseconds in so many.
_RIGHT = 1_000
_HOUR_MS = 3_600_000


class Clock:
    """The monotonic clock and the time of day of one process.

    Args:
        rng: None: both show the time of the world.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng
        self._begin_ms = rng.randint(0, 100 * _HOUR_MS) if rng is not None else 0
        #: Within what leases allow for: one that is lost on the slowest clock ends before its
        #: owner gives the worker up on the fastest.
        self._rate = rng.randint(_RIGHT - 50, _RIGHT + 50) if rng is not None else _RIGHT
        self._wall_off_ms = rng.randint(-_HOUR_MS, _HOUR_MS) if rng is not None else 0

    def now(self, world_ms: int) -> int:
        """Monotonic time."""
        return self._begin_ms + world_ms * self._rate // _RIGHT

    def wall(self, world_ms: int) -> int:
        """The time of day; in this world it begins with 1970."""
        return max(0, 24 * _HOUR_MS + world_ms + self._wall_off_ms) if self._rng else world_ms

    def when(self, now_ms: int) -> int:
        """The first moment of the world at which this clock shows that monotonic time."""
        return -((self._begin_ms - now_ms) * _RIGHT // self._rate)

    def jump(self) -> None:
        """Somebody sets the time of day."""
        if self._rng is not None:
            self._wall_off_ms = self._rng.randint(-_HOUR_MS, _HOUR_MS)
