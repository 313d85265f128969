"""``crontab``: due at times of day on days of the calendar."""

from __future__ import annotations

from bisect import bisect_left
from copy import copy
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, NamedTuple, Self

from zmqtasks.errors import ConfigError
from zmqtasks.schedules import fields, wallclock
from zmqtasks.schedules.fields import Field, FieldValue
from zmqtasks.schedules.words import field_words, zone_words
from zmqtasks.zones import checked_zone

#: February 29 falls on the same day of the week again after so many years at most.
_YEARS_MAX: Final = 40
_DAYS_OF_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_HOURS: Final = 24
_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)


class _Numbers(NamedTuple):
    """What the fields mean; each sorted."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days_of_week: tuple[int, ...]
    days_of_month: tuple[int, ...]
    months: tuple[int, ...]


@dataclass(frozen=True, init=False)
class crontab:  # noqa: N801 - Celery's name
    """Due when the clock on the wall and the calendar match all five fields.

    Each is a number, a text such as ``"*"``, ``"*/15"``, ``"8-17/2"``, ``"mon-fri"`` or
    ``"1,15"``, or several in an iterable. Fields that are not given match everything. As in
    Celery, and other than in ``cron``, a day must match ``day_of_week`` *and*
    ``day_of_month``.

    Times that do not exist because clocks are put forward are due right after; times that come
    twice are due once, unless every hour or every so many minutes was asked for. See
    :mod:`zmqtasks.schedules.wallclock`.

    Args:
        minute: 0 to 59.
        hour: 0 to 23.
        day_of_week: 0 (Sunday) to 6, or names such as ``"mon"``.
        day_of_month: 1 to 31.
        month_of_year: 1 to 12, or names such as ``"jan"``.
        timezone: of the clock, a name or a ``tzinfo``; by default that of the application.

    Raises:
        ConfigError: a field that means nothing, days that no month has, or an unknown timezone.
    """

    minute: str
    hour: str
    day_of_week: str
    day_of_month: str
    month_of_year: str
    #: None: nobody has said which.
    timezone: tzinfo | None
    _numbers: _Numbers = field(repr=False, compare=False)

    def __init__(
        self,
        minute: FieldValue = "*",
        hour: FieldValue = "*",
        day_of_week: FieldValue = "*",
        day_of_month: FieldValue = "*",
        month_of_year: FieldValue = "*",
        *,
        timezone: str | tzinfo | None = None,
    ) -> None:
        numbers = _Numbers(
            self._take(fields.MINUTE, minute),
            self._take(fields.HOUR, hour),
            self._take(fields.DAY_OF_WEEK, day_of_week),
            self._take(fields.DAY_OF_MONTH, day_of_month),
            self._take(fields.MONTH_OF_YEAR, month_of_year),
        )
        object.__setattr__(self, "_numbers", numbers)
        object.__setattr__(self, "timezone", checked_zone(timezone, "crontab"))
        if all(_DAYS_OF_MONTHS[month - 1] < numbers.days_of_month[0] for month in numbers.months):
            raise ConfigError(
                f"crontab: day_of_month={self.day_of_month!r:.75} with month_of_year="
                f"{self.month_of_year!r:.75} is never due: no such month has so many days"
            )

    @classmethod
    def from_string(cls, line: str, *, timezone: str | tzinfo | None = None) -> crontab:
        """The schedule of a line as ``cron`` has it: ``"0 8 * * mon-fri"``.

        Args:
            line: minute, hour, day of month, month of year and day of week.
            timezone: as above.

        Raises:
            ConfigError: not five fields, or one that means nothing.
        """
        parts = line.split()
        if len(parts) != 5:
            raise ConfigError(
                f"crontab: {line!r:.75} has {len(parts)} fields, not 5: minute, hour, day of "
                "month, month of year and day of week, with blanks between"
            )
        minute, hour, day_of_month, month_of_year, day_of_week = parts
        return cls(minute, hour, day_of_week, day_of_month, month_of_year, timezone=timezone)

    def in_zone(self, zone: tzinfo) -> Self:
        """The same with this timezone, if it has none of its own."""
        if self.timezone is not None:
            return self
        found = copy(self)
        object.__setattr__(found, "timezone", zone)
        return found

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after this one at which it is due, in UTC."""
        every_hour = len(self._numbers.hours) == _HOURS
        rule = wallclock.WallRule(
            self._first_from,
            repeats=every_hour or self.minute.startswith("*"),
            makes_up=not every_hour,
        )
        return wallclock.next_after(rule, self.timezone or UTC, moment)

    def describe(self) -> str:
        """It in words, such as ``at 08:00 on mon-fri (Europe/Berlin)``."""
        times = field_words(self.minute, self.hour, self._numbers.minutes, self._numbers.hours)
        days = [
            text
            for text, value in (
                (f"on {self.day_of_week}", self.day_of_week),
                (f"on day {self.day_of_month} of the month", self.day_of_month),
                (f"in month {self.month_of_year}", self.month_of_year),
            )
            if value != "*"
        ]
        return " ".join([times, *days, f"({zone_words(self.timezone)})"])

    def _take(self, which: Field, value: object) -> tuple[int, ...]:
        text = fields.as_text(which, value)
        object.__setattr__(self, which.name, text)
        return fields.numbers(which, text)

    def _first_from(self, wall: datetime) -> datetime | None:
        if wall.second or wall.microsecond:
            wall = wall.replace(second=0, microsecond=0) + _MINUTE
        if self._is_day(wall.date()):
            found = self._time_from(wall.hour, wall.minute)
            if found is not None:
                return datetime.combine(wall.date(), found)
        day = self._day_from(wall.date() + _DAY)
        if day is None:
            return None
        return datetime.combine(day, time(self._numbers.hours[0], self._numbers.minutes[0]))

    def _time_from(self, hour: int, minute: int) -> time | None:
        hours, minutes = self._numbers.hours, self._numbers.minutes
        place = bisect_left(hours, hour)
        if place < len(hours) and hours[place] == hour:
            later = bisect_left(minutes, minute)
            if later < len(minutes):
                return time(hour, minutes[later])
            place += 1
        return time(hours[place], minutes[0]) if place < len(hours) else None

    def _day_from(self, day: date) -> date | None:
        year_max = min(day.year + _YEARS_MAX, MAXYEAR)
        while day.year <= year_max:
            if day.month not in self._numbers.months:
                if (day.year, day.month) == (MAXYEAR, 12):
                    return None
                day = (day.replace(day=28) + 4 * _DAY).replace(day=1)
            elif self._is_day(day):
                return day
            else:
                day += _DAY
        return None

    def _is_day(self, day: date) -> bool:
        return (
            day.month in self._numbers.months
            and day.day in self._numbers.days_of_month
            and day.isoweekday() % 7 in self._numbers.days_of_week
        )
