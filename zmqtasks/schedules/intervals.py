"""``schedule``: due every so many seconds."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from math import isfinite
from typing import Final, Self

from zmqtasks import limits
from zmqtasks.errors import ConfigError
from zmqtasks.schedules import wallclock
from zmqtasks.schedules.words import span_words, zone_words
from zmqtasks.zones import checked_zone, in_utc

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_EVERY_MIN: Final = timedelta(milliseconds=limits.BEAT_INTERVAL_MS_MIN)


@dataclass(frozen=True, init=False)
class schedule:  # noqa: N801 - Celery's name
    """Due every so many seconds.

    Moments are counted from 1970-01-01 00:00 UTC, or from ``start``, and not from when somebody
    begins to count: every node comes to the same ones, also after a restart. With 30 seconds
    these are the full and half minutes, with an hour the full hours.

    Args:
        run_every: a ``timedelta``, or seconds; 0.1 s at least.
        relative: count from midnight 1970-01-01 by the clock on the wall in ``timezone``: 6
            hours are due at 0, 6, 12 and 18 o'clock local time, a day at midnight. Where clocks
            change, that goes as with ``crontab``.
        start: the first moment at which it is due, with timezone; others are counted from it.
        timezone: for ``relative``, a name or a ``tzinfo``; by default that of the application.

    Raises:
        ConfigError: no time span, or too short, or arguments that contradict each other.
    """

    run_every: timedelta
    relative: bool
    start: datetime | None
    timezone: tzinfo | None

    def __init__(
        self,
        run_every: timedelta | float,
        relative: bool = False,
        *,
        start: datetime | None = None,
        timezone: str | tzinfo | None = None,
    ) -> None:
        every = _checked_span(run_every)
        if start is not None and relative:
            raise ConfigError(
                "schedule: start and relative both say where to count from; leave one of them out"
            )
        object.__setattr__(self, "run_every", every)
        object.__setattr__(self, "relative", bool(relative))
        object.__setattr__(self, "start", _checked_start(start))
        object.__setattr__(self, "timezone", checked_zone(timezone, "schedule"))

    def in_zone(self, zone: tzinfo) -> Self:
        """The same with this timezone, if it has none of its own and needs one."""
        if self.timezone is not None or not self.relative:
            return self
        found = copy(self)
        object.__setattr__(found, "timezone", zone)
        return found

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after this one at which it is due, in UTC."""
        if self.relative:
            short = self.run_every <= _HOUR
            rule = wallclock.WallRule(self._first_from, repeats=short, makes_up=not short)
            return wallclock.next_after(rule, self.timezone or UTC, moment)
        moment = in_utc(moment)
        if self.start is not None and moment < self.start:
            return self.start
        begin = self.start or _EPOCH
        try:
            return begin + ((moment - begin) // self.run_every + 1) * self.run_every
        except OverflowError:  # beyond the year 9999
            return None

    def describe(self) -> str:
        """It in words, such as ``every 30 s``."""
        every = f"every {span_words(self.run_every)}"
        if self.relative:
            return f"{every} by the clock ({zone_words(self.timezone)})"
        return every if self.start is None else f"{every} from {self.start.isoformat()}"

    def _first_from(self, wall: datetime) -> datetime | None:
        begin = _EPOCH.replace(tzinfo=None)
        return begin + -((begin - wall) // self.run_every) * self.run_every


def _checked_start(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ConfigError(
            f"schedule: start={value!r:.75} must be a datetime with timezone, such as "
            "datetime(2027, 1, 1, tzinfo=UTC)"
        )
    return value.astimezone(UTC)


def _checked_span(value: object) -> timedelta:
    if isinstance(value, timedelta):
        span = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        try:
            span = timedelta(seconds=value)
        except OverflowError:
            raise ConfigError(f"schedule: run_every={value!r:.75} is too long") from None
    else:
        raise ConfigError(
            f"schedule: run_every is a timedelta or a number of seconds, not {value!r:.75}"
        )
    if span < _EVERY_MIN:
        raise ConfigError(
            f"schedule: run_every={value!r:.75} is less than {_EVERY_MIN.total_seconds():g} s"
        )
    return span
