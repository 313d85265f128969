"""Moments and time spans of calls on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from zmqtasks.app.timing import moment_ms, moment_text, span_ms
from zmqtasks.zones import zone_of


def test_a_datetime_without_a_timezone_is_in_that_of_the_application() -> None:
    noon = datetime(2026, 7, 1, 12)  # noqa: DTZ001 - what it is about
    utc_ms = moment_ms(noon, UTC)
    assert moment_ms(noon, zone_of("Europe/Berlin")) == utc_ms - 2 * 3_600_000
    aware = noon.replace(tzinfo=timezone(timedelta(hours=-3)))
    assert moment_ms(aware, zone_of("Europe/Berlin")) == utc_ms + 3 * 3_600_000
    assert moment_text(utc_ms) == "2026-07-01T12:00:00+00:00"


@pytest.mark.parametrize(
    ("seconds", "ms"), [(1.5, 1500), (0, 0), (-3, 0), (0.0001, 1), (2.0004, 2000)]
)
def test_a_time_span_is_never_rounded_to_none(seconds: float, ms: int) -> None:
    assert span_ms(seconds) == ms


@pytest.mark.parametrize("value", [None, "soon", 10**30])
def test_a_moment_that_is_none_has_no_text(value: object) -> None:
    assert moment_text(value) is None
