"""Schedules in words, for lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta, tzinfo
from typing import Final

from zmqtasks.zones import zone_name

#: Times of day that are listed one by one.
_TIMES_MAX: Final = 6
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def zone_words(zone: tzinfo | None) -> str:
    """The name of a timezone."""
    if zone is None:
        return "UTC"
    return zone_name(zone) or str(zone)


def span_words(span: timedelta) -> str:
    """A time span, such as ``90 s``, ``2 h`` or ``1 d 12 h``."""
    whole = span // timedelta(seconds=1)
    rest = span - timedelta(seconds=whole)
    if rest:
        return f"{span.total_seconds():g} s"
    # Minutes of a full hour and more, and seconds of a few minutes, read well as they are.
    parts = []
    left = whole
    for name, seconds in _UNITS:
        if left >= seconds and (name in ("d", "h") or left % seconds == 0):
            parts.append(f"{left // seconds} {name}")
            left %= seconds
    return " ".join(parts)


def field_words(minute: str, hour: str, minutes: Sequence[int], hours: Sequence[int]) -> str:
    """The times of day that two fields of ``crontab`` mean.

    Args:
        minute: the field as text.
        hour: the same.
        minutes: what it means.
        hours: the same.
    """
    if len(minutes) * len(hours) <= _TIMES_MAX:
        return "at " + ", ".join(f"{h:02}:{m:02}" for h in hours for m in minutes)
    if minute == "*":
        when = "every minute"
    elif minute.startswith("*/") and minute[2:].isdecimal():
        when = f"every {minute[2:]} min"
    else:
        when = f"at minute {minute}"
    if hour == "*":
        return when if when.startswith("every") else f"{when} of every hour"
    return f"{when} of hour {hour}"
