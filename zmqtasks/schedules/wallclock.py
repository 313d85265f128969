"""From times on a clock on the wall to moments, where clocks are put forward and back.

A rule names times of day ("at 02:30"). In most zones, once a year such a time does not exist,
and once it comes twice. What happens then is decided here, once for all schedules:

* A time that does not exist is due at the first moment after the gap. Several of them in the
  same gap are one tick.
* A time that comes twice is due the first time.
* Rules that say "every hour" or "every so many minutes" simply follow the clock: they are due
  at each moment at which the clock shows such a time, in the repeated hour again. Those that
  are due in every hour are not made up for after a gap either: the clock shows their next time
  soon.

Time is walked along in stretches without a change of clocks. In such a stretch a time on the
wall is a moment plus a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final, NamedTuple

from zmqtasks.zones import in_utc, shift

_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_RESOLUTION: Final = timedelta(microseconds=1)


class WallRule(NamedTuple):
    """Which times of day, and what of them where clocks change."""

    #: The first of its times that is this or later, as datetimes without zone; None: never.
    first_from: Callable[[datetime], datetime | None]
    #: Due again when the clock shows a time for the second time.
    repeats: bool
    #: Times that do not exist are due after the gap.
    makes_up: bool


def next_after(rule: WallRule, zone: tzinfo, moment: datetime) -> datetime | None:
    """The first moment after this one at which the rule is due.

    Args:
        rule: what to look for.
        zone: of the clock on the wall.
        moment: has a timezone.

    Returns:
        A datetime in UTC; None when there is none.

    Raises:
        ValueError: the moment has no timezone.
    """
    begin = in_utc(moment)
    try:
        return _next_after(rule, zone, begin)
    except OverflowError:  # beyond the year 9999
        return None


def _next_after(rule: WallRule, zone: tzinfo, moment: datetime) -> datetime | None:
    # Where the present stretch is looked at from, itself included.
    start = moment + _RESOLUTION
    while True:
        ahead = shift(zone, start)
        wall = rule.first_from(start.replace(tzinfo=None) + ahead)
        if wall is None:
            return None
        due = (wall - ahead).replace(tzinfo=UTC)
        change = _first_change(zone, start, due)
        if change is None:
            if rule.repeats or not _is_second(zone, due):
                return due
            start = due + _RESOLUTION
            continue
        # Where clocks are put back, no time is left out: the wall shows earlier ones.
        if rule.makes_up and wall < change.replace(tzinfo=None) + shift(zone, change):
            return change
        start = change


def _is_second(zone: tzinfo, due: datetime) -> bool:
    """Whether the clock has shown the time of this moment once before."""
    return due.astimezone(zone).fold == 1


def _first_change(zone: tzinfo, start: datetime, end: datetime) -> datetime | None:
    """The first moment after ``start``, and not after ``end``, from which on clocks show
    something else."""
    if isinstance(zone, timezone):  # has no changes
        return None
    ahead = shift(zone, start)
    low = start
    while low < end:
        high = min(low + _DAY, end)
        if shift(zone, high) != ahead:
            return _bisected(zone, low, high, ahead)
        low = high
    return None


def _bisected(zone: tzinfo, low: datetime, high: datetime, ahead: timedelta) -> datetime:
    # Clocks change at whole seconds.
    low, high = low.replace(microsecond=0), (high + _SECOND).replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + ((high - low) // 2 // _SECOND) * _SECOND
        if shift(zone, middle) == ahead:
            low = middle
        else:
            high = middle
    return high
