"""When schedules are due, in milliseconds and within bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqtasks.core.due import Due, Schedule, find_due, next_after_ms
from zmqtasks.errors import ConfigError
from zmqtasks.limits import MISSED_TICKS_MAX
from zmqtasks.schedules import crontab, schedule

BEGIN_MS = 1_800_000_000_000  # 2027-01-15 08:00 UTC
DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moments:
    """Due at these moments, and never again."""

    def __init__(self, *dues_ms: float) -> None:
        self._dues = [EPOCH + timedelta(milliseconds=due) for due in dues_ms]

    def next_after(self, moment: datetime) -> datetime | None:
        return next((due for due in self._dues if due > moment), None)


class Answers:
    """Says the same whatever it is asked."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def next_after(self, moment: datetime) -> datetime | None:
        return self._answer  # type: ignore[return-value]  # that is what it is about


def all_dues(found: Schedule, after_ms: int, until_ms: int) -> list[int]:
    """One after the other, from the beginning."""
    dues = []
    at_ms = next_after_ms(found, after_ms)
    while at_ms is not None and at_ms <= until_ms:
        dues.append(at_ms)
        at_ms = next_after_ms(found, at_ms)
    return dues


def test_moments_are_those_after_the_first_up_to_the_second_and_the_next_one() -> None:
    found = find_due(Moments(1_000, 2_000, 3_000, 4_000), 1_000, 3_000)
    assert found == Due([2_000, 3_000], False, 4_000)


def test_when_there_is_none_any_more_it_says_so() -> None:
    assert find_due(Moments(1_000), 0, 5_000) == Due([1_000], False, None)
    assert find_due(Moments(), 0, 5_000) == Due([], False, None)


def test_a_moment_between_two_milliseconds_is_due_at_the_second_one() -> None:
    """Not before its time, and not twice."""
    assert find_due(Moments(10.4), 0, 100) == Due([11], False, None)
    assert next_after_ms(Moments(10.4), 10) == 11
    assert next_after_ms(Moments(10.4), 11) is None


def test_of_too_many_the_last_ones_are_told() -> None:
    until_ms = BEGIN_MS + 400 * DAY_MS
    found = find_due(schedule(1), BEGIN_MS, until_ms)
    first_ms = until_ms - (MISSED_TICKS_MAX - 1) * 1_000
    assert found.dues_ms == list(range(first_ms, until_ms + 1, 1_000))
    assert found.is_more
    assert found.next_ms == until_ms + 1_000


@pytest.mark.parametrize(
    "answer",
    ["noon", 5, datetime(2100, 1, 1)],  # noqa: DTZ001 - what it is about
)
def test_a_schedule_that_gives_no_moment_is_refused(answer: object) -> None:
    with pytest.raises(ConfigError, match="it has to give a datetime with a timezone, or None"):
        next_after_ms(Answers(answer), BEGIN_MS)


def test_a_schedule_that_stands_still_is_refused_instead_of_asked_for_ever() -> None:
    stuck = Answers(EPOCH + timedelta(milliseconds=BEGIN_MS))
    assert next_after_ms(stuck, BEGIN_MS - 1) == BEGIN_MS
    with pytest.raises(ConfigError, match="no later moment than the one asked for"):
        find_due(stuck, BEGIN_MS - 10, BEGIN_MS)


@settings(max_examples=60, deadline=None)
@given(
    gaps_ms=st.lists(st.integers(1, 4 * DAY_MS), max_size=40),
    after_ms=st.integers(0, 2 * DAY_MS),
    length_ms=st.integers(0, 90 * DAY_MS),
)
def test_looking_back_finds_what_a_walk_from_the_beginning_finds(
    gaps_ms: list[int], after_ms: int, length_ms: int
) -> None:
    dues, at_ms = [], 0
    for gap_ms in gaps_ms:
        at_ms += gap_ms
        dues.append(at_ms)
    until_ms = after_ms + length_ms
    found = find_due(Moments(*dues), after_ms, until_ms)
    assert found.dues_ms == [due for due in dues if after_ms < due <= until_ms]
    assert found.next_ms == next((due for due in dues if due > until_ms), None)
    assert not found.is_more


@settings(max_examples=30, deadline=None)
@given(
    minute=st.sampled_from(["*/20", "0", "7,8", "30"]),
    hour=st.sampled_from(["*", "*/6", "2", "1-3"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    after_ms=st.integers(BEGIN_MS, BEGIN_MS + 365 * DAY_MS),
    length_ms=st.integers(0, 5 * DAY_MS),
)
def test_of_calendars_it_finds_the_same_moments_from_wherever_it_looks(
    minute: str, hour: str, zone: str, after_ms: int, length_ms: int
) -> None:
    nightly = crontab(minute, hour, timezone=zone)
    until_ms = after_ms + length_ms
    assert find_due(nightly, after_ms, until_ms).dues_ms == all_dues(nightly, after_ms, until_ms)
