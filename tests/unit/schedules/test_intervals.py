"""``schedule``: due every so many seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.schedules import schedule

NOON = datetime(2027, 1, 1, 12, tzinfo=UTC)


def seconds_to(found: schedule, moment: datetime) -> float:
    due = found.next_after(moment)
    assert due is not None
    return (due - moment).total_seconds()


@pytest.mark.parametrize(
    ("every", "after", "expected"),
    [
        (30, 0, 30),
        (30, 1, 29),
        (30.0, 29.999, 0.001),
        (0.25, 0.1, 0.15),
        (timedelta(hours=1), 1, 3599),
        (timedelta(days=1), 0, 12 * 3600),
    ],
)
def test_moments_are_counted_from_the_epoch(every: Any, after: float, expected: float) -> None:
    assert seconds_to(schedule(every), NOON + timedelta(seconds=after)) == expected


def test_the_start_is_the_first_moment_and_the_others_are_counted_from_it() -> None:
    found = schedule(600, start=NOON + timedelta(seconds=7))
    assert found.next_after(NOON - timedelta(days=30)) == NOON + timedelta(seconds=7)
    assert found.next_after(NOON) == NOON + timedelta(seconds=7)
    assert found.next_after(NOON + timedelta(seconds=7)) == NOON + timedelta(seconds=607)


def test_before_the_epoch_they_are_counted_backwards() -> None:
    before = datetime(1969, 12, 31, 23, 59, 45, tzinfo=UTC)
    assert schedule(60).next_after(before) == datetime(1970, 1, 1, tzinfo=UTC)


def test_at_the_end_of_the_calendar_there_is_no_next_moment() -> None:
    end = datetime(9999, 12, 31, 23, 59, 30, tzinfo=UTC)
    assert schedule(60).next_after(end) is None
    assert schedule(60, relative=True, timezone="Europe/Berlin").next_after(end) is None


def test_by_the_clock_hours_begin_where_local_hours_do() -> None:
    hourly = schedule(3600, relative=True, timezone="Asia/Kathmandu")  # 5 h 45 min ahead
    assert hourly.next_after(NOON) == NOON + timedelta(minutes=15)


def test_the_timezone_of_an_application_is_taken_where_there_is_none() -> None:
    kathmandu = schedule(60, relative=True, timezone="Asia/Kathmandu")
    assert kathmandu.timezone is not None
    assert kathmandu.in_zone(UTC) is kathmandu
    assert schedule(60, relative=True).in_zone(kathmandu.timezone) == kathmandu
    plain = schedule(60)
    assert plain.in_zone(UTC) is plain


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ((0,), {}, "run_every=0 is less than 0.1 s"),
        ((-5,), {}, "run_every=-5 is less than 0.1 s"),
        ((0.01,), {}, "run_every=0.01 is less than 0.1 s"),
        ((timedelta(0),), {}, "is less than 0.1 s"),
        ((1e300,), {}, "run_every=1e\\+300 is too long"),
        ((float("nan"),), {}, "a timedelta or a number of seconds, not nan"),
        (("30",), {}, "a timedelta or a number of seconds, not '30'"),
        ((True,), {}, "a timedelta or a number of seconds, not True"),
        ((None,), {}, "a timedelta or a number of seconds, not None"),
        ((5,), {"start": NOON.replace(tzinfo=None)}, "must be a datetime with timezone"),
        ((5,), {"start": "noon"}, "start='noon' must be a datetime with timezone"),
        ((5, True), {"start": NOON}, "start and relative both say where to count from"),
        ((5,), {"timezone": "Mars/Olympus"}, "schedule: timezone 'Mars/Olympus' is not known"),
    ],
)
def test_what_is_no_interval_is_refused(
    args: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule(*args, **named)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (schedule(30), "every 30 s"),
        (schedule(0.5), "every 0.5 s"),
        (schedule(90), "every 90 s"),
        (schedule(300), "every 5 min"),
        (schedule(5400), "every 1 h 30 min"),
        (schedule(86_400 + 43_200), "every 1 d 12 h"),
        (schedule(3600, True, timezone="Europe/Berlin"), "every 1 h by the clock (Europe/Berlin)"),
        (schedule(60, start=NOON), "every 1 min from 2027-01-01T12:00:00+00:00"),
    ],
)
def test_it_is_described_in_words(found: schedule, words: str) -> None:
    assert found.describe() == words
