"""``solar``: due when the sun says so."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqtasks.errors import ConfigError
from zmqtasks.schedules import solar

EVENTS = """
    dawn_astronomical dawn_nautical dawn_civil sunrise solar_noon sunset dusk_civil
    dusk_nautical dusk_astronomical
""".split()
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_the_events_of_a_day_come_in_their_order() -> None:
    day = datetime(2027, 3, 20, tzinfo=UTC)
    moments = [solar(event, 48.2, 16.4).next_after(day) for event in EVENTS]
    assert None not in moments
    assert moments == sorted(moments, key=str)


def test_sunset_in_berlin_is_when_almanacs_say() -> None:
    """21:33 on the longest day."""
    due = solar("sunset", 52.52, 13.4).next_after(datetime(2026, 6, 21, 12, tzinfo=UTC))
    assert due is not None
    assert abs(due - datetime(2026, 6, 21, 19, 33, tzinfo=UTC)) <= timedelta(minutes=1)


@settings(max_examples=60, deadline=None)
@given(
    event=st.sampled_from(EVENTS),
    lat=st.floats(-45, 45),
    lon=st.floats(-180, 180),
    hours=st.integers(0, 365 * 24),
)
def test_where_it_happens_each_day_none_is_left_out(
    event: str, lat: float, lon: float, hours: int
) -> None:
    found = solar(event, lat, lon)
    moment: datetime | None = NEW_YEAR + timedelta(hours=hours)
    assert moment is not None
    before = None
    for _ in range(5):
        moment = found.next_after(moment)
        assert moment is not None
        assert moment.tzinfo is UTC
        assert moment.microsecond == 0
        if before is not None:
            assert abs(moment - before - DAY) < timedelta(minutes=10)
        before = moment


def test_in_a_polar_summer_the_next_sunset_is_that_of_autumn() -> None:
    due = solar("sunset", 78.2, 15.6).next_after(datetime(2026, 5, 15, tzinfo=UTC))
    assert due is not None
    assert (due.year, due.month) == (2026, 8)


def test_at_the_end_of_the_calendar_there_is_no_next_moment() -> None:
    end = datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert solar("sunset", 52.5, 13.4).next_after(end) is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("midnight", 0, 0), "there is no event 'midnight', but dawn_astronomical"),
        (("sunset", 91, 0), "lat=91 must be degrees from -90 to 90"),
        (("sunset", 0, -181), "lon=-181 must be degrees from -180 to 180"),
        (("sunset", "52", 13), "lat='52' must be degrees"),
        (("sunset", float("nan"), 13), "lat=nan must be degrees"),
    ],
)
def test_what_is_not_on_earth_is_refused(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        solar(*args)


def test_without_astral_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astral", None)
    with pytest.raises(ConfigError, match=r"astral is not installed here; pip install"):
        solar("sunset", 52.5, 13.4)


def test_it_is_described_in_words() -> None:
    assert solar("sunset", 52.52, 13.4).describe() == "at sunset at 52.52, 13.4"
