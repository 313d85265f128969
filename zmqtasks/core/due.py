"""When a schedule is due: moments as milliseconds since 1970, within bounds."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from zmqtasks.errors import ConfigError
from zmqtasks.limits import MISSED_TICKS_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
#: The first look back, and by how much each further one is longer.
_WINDOW_MS = 60_000
_WIDER = 8


class Schedule(Protocol):
    """When something is due."""

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after that one, None if there is none any more."""


class Due(NamedTuple):
    """The moments of a schedule in a stretch of time, and the next one after it."""

    #: In order; the latest ones, when there are too many.
    dues_ms: list[int]
    #: There may be others before them.
    is_more: bool
    #: None: there is none any more.
    next_ms: int | None


def find_due(schedule: Schedule, after_ms: int, until_ms: int) -> Due:
    """All moments after the first and up to the second one.

    Looks back from the end, ever further: of years in which it was due each second only the
    last moments are looked at.

    Args:
        schedule: when.
        after_ms, until_ms: milliseconds since 1970.

    Raises:
        ConfigError: the schedule does not do what schedules have to.
    """
    next_ms = next_after_ms(schedule, until_ms)
    window_ms = _WINDOW_MS
    while True:
        from_ms = max(after_ms, until_ms - window_ms)
        dues: deque[int] = deque(maxlen=MISSED_TICKS_MAX)
        count, at_ms = 0, next_after_ms(schedule, from_ms)
        while at_ms is not None and at_ms <= until_ms:
            dues.append(at_ms)
            count += 1
            at_ms = next_after_ms(schedule, at_ms)
        if from_ms == after_ms or count >= MISSED_TICKS_MAX:
            return Due(list(dues), count > len(dues) or from_ms > after_ms, next_ms)
        window_ms *= _WIDER


def next_after_ms(schedule: Schedule, after_ms: int) -> int | None:
    """The first whole millisecond after that one at which the schedule is due.

    Raises:
        ConfigError: it gives something else, or none that is later.
    """
    found = schedule.next_after(_EPOCH + after_ms * _MS)
    if found is None:
        return None
    is_moment: bool = isinstance(found, datetime)  # it may be the application's own
    if not is_moment or found.tzinfo is None:
        raise ConfigError(
            f"next_after() of {schedule!r:.75} gave {found!r:.75}: it has to give a datetime with "
            "a timezone, or None"
        )
    next_ms = -((_EPOCH - found) // _MS)
    if next_ms <= after_ms:
        raise ConfigError(
            f"next_after() of {schedule!r:.75} gave {found}, which is no later moment than "
            "the one asked for"
        )
    return next_ms
