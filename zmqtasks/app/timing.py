"""Moments and time spans of calls: from what users write to what travels.

What travels is wall clock time in whole milliseconds since 1970. The clock is that of the
process that calls; datetimes without a timezone are in that of the application. A test may
put another clock in its place (``zmqtasks.testing.mesh``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol

from zmqtasks.core.offspring import DUE_IN_KEY, EXPIRES_IN_KEY


class Clock(Protocol):
    """What time it is, and how that passes for who waits."""

    def wall_ms(self) -> int:
        """The time of day, in milliseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Wait until the event is set; False after ``timeout`` seconds, None for no limit."""

    def call_soon(self, function: Callable[[], None]) -> bool:
        """Call it when no node is at work; False where a thread has to do that."""

    @property
    def is_virtual(self) -> bool:
        """Its time passes because somebody waits: in a running loop nobody else would act."""


class _SystemClock:
    is_virtual = False
    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def wall_ms() -> int:
        return time.time_ns() // 1_000_000

    @staticmethod
    def wait(event: threading.Event, timeout: float | None) -> bool:
        return event.wait(timeout)

    @staticmethod
    def call_soon(function: Callable[[], None]) -> bool:
        return False


SYSTEM_CLOCK: Clock = _SystemClock()
_clock = SYSTEM_CLOCK


def clock() -> Clock:
    """The clock in use."""
    return _clock


def use_clock(clock: Clock) -> None:
    """Go by this clock from now on."""
    global _clock
    _clock = clock


def now_ms() -> int:
    """Wall clock time."""
    return _clock.wall_ms()


def monotonic() -> float:
    """Seconds for time spans of this process."""
    return _clock.monotonic()


def wait(event: threading.Event, timeout: float | None) -> bool:
    """Block until the event is set; False after ``timeout`` seconds, None for no limit."""
    return _clock.wait(event, timeout)


def moment_ms(moment: datetime, zone: tzinfo) -> int:
    """A moment in milliseconds since 1970; ``zone`` is for those that have none."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return round(moment.timestamp() * 1000)


def span_ms(seconds: float) -> int:
    """A time span in whole milliseconds, never rounded to none."""
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


def count_from_then(ext: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Let ``countdown`` and ``expires`` of a call that waits for others count from when it
    need not wait any longer, as far as they are time spans.

    Args:
        ext: its facts, which are changed.
        options: those that it was made of.
    """
    for key, option, span_key in (
        ("eta", "countdown", DUE_IN_KEY),
        ("exp", "expires", EXPIRES_IN_KEY),
    ):
        span = options.get(option)
        if isinstance(span, (int, float)) and ext.pop(key, None) is not None:
            ext[span_key] = span_ms(span)


def moment_text(moment: object) -> str | None:
    """A moment in milliseconds as text in ISO 8601, in UTC; None for anything else."""
    if not isinstance(moment, int):
        return None
    try:
        return datetime.fromtimestamp(moment / 1000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None
