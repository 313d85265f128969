"""The clocks of a node: one for timers, one for people."""

from __future__ import annotations

import time

#: Counts on in suspend where the system has such a clock, so that a laptop that wakes
#: does not believe in leases that others ended long ago.
_TIMER_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """Milliseconds of a clock that never goes back; for every timer and lease."""
    return time.clock_gettime_ns(_TIMER_CLOCK) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since 1970; for people and for stored rows only."""
    return time.time_ns() // 1_000_000
