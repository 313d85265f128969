"""Schedules where clocks are put forward and back, against a slow second opinion."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqtasks.schedules import Schedule, crontab, schedule

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

#: Clocks that change by an hour, by half of one, by two, by a day, at midnight, in Ramadan,
#: southern ones, one with its summer time as standard time, and some that never change.
ZONES = """
    Europe/Berlin America/New_York Australia/Lord_Howe Pacific/Apia America/Sao_Paulo
    America/Santiago Africa/Casablanca Africa/Cairo Asia/Gaza Europe/Dublin Antarctica/Troll
    America/St_Johns Pacific/Chatham Asia/Tehran Asia/Kathmandu UTC
""".split()


def ticks(found: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    """What is due after ``begin``, ``end`` included."""
    result = []
    due = found.next_after(begin)
    while due is not None and due <= end:
        result.append(due)
        due = found.next_after(due)
    return result


def shown(found: Schedule, begin: str, end: str, zone: str) -> list[str]:
    """What is due between two local times, as the clock shows it."""
    tz = ZoneInfo(zone)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=tz) for text in (begin, end))
    due = ticks(found, first.astimezone(UTC), last.astimezone(UTC))
    return [moment.astimezone(tz).isoformat(" ", "minutes")[5:] for moment in due]


# --- examples ----------------------------------------------------------------------------


def test_a_time_that_does_not_exist_is_due_right_after_the_gap() -> None:
    nightly = crontab(30, 2, timezone="Europe/Berlin")
    assert shown(nightly, "2026-03-28 12:00", "2026-03-30 12:00", "Europe/Berlin") == [
        "03-29 03:00+02:00",
        "03-30 02:30+02:00",
    ]


def test_several_times_in_one_gap_are_one_tick() -> None:
    often = crontab("0,20,40", 2, timezone="Europe/Berlin")
    assert shown(often, "2026-03-29 00:00", "2026-03-29 12:00", "Europe/Berlin") == [
        "03-29 03:00+02:00"
    ]


def test_a_time_that_comes_twice_is_due_the_first_time() -> None:
    nightly = crontab(30, 2, timezone="Europe/Berlin")
    assert shown(nightly, "2026-10-24 12:00", "2026-10-26 12:00", "Europe/Berlin") == [
        "10-25 02:30+02:00",
        "10-26 02:30+01:00",
    ]


def test_every_hour_is_every_hour_when_clocks_change() -> None:
    hourly = crontab(30, timezone="Europe/Berlin")
    assert shown(hourly, "2026-03-29 01:00", "2026-03-29 04:00", "Europe/Berlin") == [
        "03-29 01:30+01:00",
        "03-29 03:30+02:00",
    ]
    assert shown(hourly, "2026-10-25 01:00", "2026-10-25 03:00", "Europe/Berlin") == [
        "10-25 01:30+02:00",
        "10-25 02:30+02:00",
        "10-25 02:30+01:00",
    ]


def test_every_so_many_minutes_goes_on_in_the_repeated_hour() -> None:
    often = crontab("*/30", "2-3", timezone="Europe/Berlin")
    assert shown(often, "2026-10-25 00:00", "2026-10-25 12:00", "Europe/Berlin") == [
        "10-25 02:00+02:00",
        "10-25 02:30+02:00",
        "10-25 02:00+01:00",
        "10-25 02:30+01:00",
        "10-25 03:00+01:00",
        "10-25 03:30+01:00",
    ]


def test_a_day_that_a_country_left_out_is_made_up_for_at_its_end() -> None:
    daily = crontab(0, 8, timezone="Pacific/Apia")
    assert shown(daily, "2011-12-29 12:00", "2011-12-31 12:00", "Pacific/Apia") == [
        "12-31 00:00+14:00",
        "12-31 08:00+14:00",
    ]


def test_a_midnight_that_does_not_exist_is_made_up_for() -> None:
    daily = schedule(DAY, relative=True, timezone="America/Sao_Paulo")
    assert shown(daily, "2018-11-03 12:00", "2018-11-05 12:00", "America/Sao_Paulo") == [
        "11-04 01:00-02:00",
        "11-05 00:00-02:00",
    ]


def test_intervals_by_the_clock_keep_their_times_of_day() -> None:
    quarters = schedule(6 * HOUR, relative=True, timezone="Europe/Berlin")
    assert shown(quarters, "2026-10-25 00:00", "2026-10-26 00:00", "Europe/Berlin") == [
        "10-25 06:00+01:00",
        "10-25 12:00+01:00",
        "10-25 18:00+01:00",
        "10-26 00:00+01:00",
    ]


def test_in_the_repeated_hour_the_second_time_is_not_the_next() -> None:
    nightly = crontab(30, 2, timezone="Europe/Berlin")
    between = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    due = nightly.next_after(between)
    assert due == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (crontab(30, 2, "*", 25, 10, timezone="Europe/Berlin"), "10-25 02:30+02:00"),
        (crontab(30, 2, "*", 29, 3, timezone="Europe/Berlin"), "03-29 03:00+02:00"),
    ],
)
def test_a_change_of_clocks_is_seen_from_many_months_away(found: crontab, expected: str) -> None:
    assert shown(found, "2026-01-01 00:00", "2026-12-31 00:00", "Europe/Berlin") == [expected]
    due = found.next_after(datetime(2025, 11, 1, tzinfo=UTC))
    assert due is not None
    assert due.astimezone(found.timezone).isoformat(" ", "minutes")[5:] == expected


# --- a second opinion --------------------------------------------------------------------


@cache
def changes(zone: str) -> list[datetime]:
    """Noons after which clocks change within a day, 2005 to 2030."""
    tz = ZoneInfo(zone)
    noons = [datetime(2005, 1, 1, 12, tzinfo=UTC) + day * DAY for day in range(365 * 25)]
    offsets = [noon.astimezone(tz).utcoffset() for noon in noons]
    found = [
        noon
        for noon, before, after in zip(noons, offsets, offsets[1:], strict=False)
        if before != after
    ]
    return found or [datetime(2024, 2, 28, 12, tzinfo=UTC)]


def _matches(found: crontab, wall: datetime) -> bool:
    """Whether a wall clock time matches, field by field, read anew from their texts."""
    fields = (
        (found.minute, wall.minute, 0, 59),
        (found.hour, wall.hour, 0, 23),
        (found.day_of_week, wall.isoweekday() % 7, 0, 6),
        (found.day_of_month, wall.day, 1, 31),
        (found.month_of_year, wall.month, 1, 12),
    )
    return all(_has(text, number, low, high) for text, number, low, high in fields)


@cache
def _has(text: str, number: int, low: int, high: int) -> bool:
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = low if first == "*" else int(first)
        end = high if first == "*" else int(last or first)
        if begin <= number <= end and (number - begin) % int(step or 1) == 0:
            return True
    return False


def _minutes(begin: datetime, end: datetime) -> Iterator[datetime]:
    while begin <= end:
        yield begin
        begin += MINUTE


def brute(found: crontab, begin: datetime, end: datetime) -> list[datetime]:
    """The same as ``ticks``, minute by minute: what the clock shows, then what it leaves out."""
    tz = found.timezone
    assert tz is not None
    every_hour = all(_has(found.hour, hour, 0, 23) for hour in range(24))
    repeats = every_hour or found.minute.startswith("*")
    due: set[datetime] = set()
    walls = [(moment, moment.astimezone(tz)) for moment in _minutes(begin - DAY, end)]
    for (_, before), (moment, wall) in pairwise(walls):
        naive = wall.replace(tzinfo=None)
        if _matches(found, naive) and (repeats or wall.fold == 0):
            due.add(moment)
        left_out = before.replace(tzinfo=None) + MINUTE
        while left_out < naive:
            if _matches(found, left_out) and not every_hour:
                due.add(moment)
            left_out += MINUTE
    return sorted(moment for moment in due if begin < moment <= end)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, 12)
    parts = st.one_of(
        number.map(str),
        spans,
        st.tuples(spans, steps).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    )
    lists = st.lists(parts, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), steps.map(lambda step: f"*/{step}"), lists)


NIGHT_HOURS = st.one_of(_field(0, 23), st.sampled_from(["0", "1", "2", "3", "0-3", "1,2", "*/2"]))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), zone=st.sampled_from(ZONES))
def test_what_is_due_is_what_a_walk_through_all_minutes_finds(
    data: st.DataObject, zone: str
) -> None:
    begin = data.draw(st.sampled_from(changes(zone))) + data.draw(
        st.integers(-60 * 60, 60 * 60)
    ) * timedelta(seconds=30)
    found = crontab(
        data.draw(_field(0, 59)),
        data.draw(NIGHT_HOURS),
        data.draw(st.one_of(st.just("*"), _field(0, 6))),
        data.draw(st.one_of(st.just("*"), _field(1, 29))),
        timezone=zone,
    )
    floor = begin.replace(second=0)
    end = floor + 2 * DAY
    expected = [due for due in brute(found, floor, end) if due > begin]
    assert ticks(found, begin, end) == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data(), zone=st.sampled_from(ZONES))
def test_the_next_moment_is_later_and_none_lies_between(data: st.DataObject, zone: str) -> None:
    begin = data.draw(st.sampled_from(changes(zone)))
    found = crontab(data.draw(_field(0, 59)), data.draw(NIGHT_HOURS), timezone=zone)
    due = found.next_after(begin)
    assert due is not None
    assert due > begin
    assert due.tzinfo is UTC
    between = begin + (due - begin) * data.draw(st.floats(0, 1, exclude_max=True))
    assert found.next_after(min(between, due - timedelta(microseconds=1))) == due


def _listed(text: str, high: int) -> str:
    """A field of numbers only, whose meaning nobody doubts."""
    return ",".join(str(number) for number in range(high + 1) if _has(text, number, 0, high))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_where_clocks_never_change_cron_agrees(data: st.DataObject) -> None:
    """In the cases that cron means like Celery: one of the two kinds of days is "*"."""
    days = data.draw(st.sampled_from([("*", "1-29"), ("*", "*/7"), ("1-5", "*"), ("0,3", "*")]))
    minute, hour = data.draw(_field(0, 59)), data.draw(_field(0, 23))
    begin = datetime(2027, 2, 27, 23, 59, tzinfo=UTC)
    found = crontab(minute, hour, days[0], days[1])
    listed = (_listed(minute, 59), _listed(hour, 23))
    others = CronSim(f"{listed[0]} {listed[1]} {days[1]} * {days[0]}", begin)
    due: datetime | None = begin
    for _ in range(20):
        assert due is not None
        due = found.next_after(due)
        assert due == next(others)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("seconds", [7, 600, 3600, 5400, 86_400])
def test_plain_intervals_know_no_clock_changes(zone: str, seconds: int) -> None:
    begin = changes(zone)[-1]
    due = ticks(schedule(seconds, timezone=zone), begin, begin + 100 * timedelta(seconds=seconds))
    assert len(due) == 100
    assert all(moment.timestamp() % seconds == 0 for moment in due)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    zone=st.sampled_from(ZONES),
    minutes=st.sampled_from([1, 7, 30, 60, 90, 120, 360, 1440, 2880]),
)
def test_intervals_by_the_clock_are_due_when_it_shows_a_multiple(
    data: st.DataObject, zone: str, minutes: int
) -> None:
    begin = data.draw(st.sampled_from(changes(zone)))
    tz = ZoneInfo(zone)
    found = schedule(minutes * MINUTE, relative=True, timezone=zone)
    due = ticks(found, begin, begin + 3 * DAY)
    assert due == sorted(set(due))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for moment in due:
        wall = moment.astimezone(tz).replace(tzinfo=UTC)
        off_beat = (wall - epoch) % (minutes * MINUTE)
        # Only what is made up for comes at another time: right after a gap.
        before = (moment - timedelta(seconds=1)).astimezone(tz).utcoffset()
        assert not off_beat or before != moment.astimezone(tz).utcoffset()
