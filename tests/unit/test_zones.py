"""Timezones by their names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.zones import checked_zone, shift, zone_name, zone_of


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "/etc/passwd", "../UTC", "\0"])
def test_a_timezone_that_is_not_known_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="is not known here; write a name like 'Europe/Berlin'"):
        zone_of(name)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Etc/GMT+3"])
def test_a_timezone_is_found_by_the_name_that_it_says(name: str) -> None:
    assert zone_name(zone_of(name)) == name


def test_a_timezone_without_a_name_says_so() -> None:
    assert zone_name(timezone(timedelta(hours=2))) is None


def test_clocks_are_ahead_by_what_holds_at_the_moment() -> None:
    berlin = zone_of("Europe/Berlin")
    assert shift(berlin, datetime(2026, 1, 1, tzinfo=UTC)) == timedelta(hours=1)
    assert shift(berlin, datetime(2026, 7, 1, tzinfo=UTC)) == timedelta(hours=2)


def test_a_timezone_may_be_given_as_one_or_by_its_name() -> None:
    berlin = zone_of("Europe/Berlin")
    assert checked_zone("Europe/Berlin", "x") is checked_zone(berlin, "x") is berlin
    assert checked_zone(None, "x") is None
    with pytest.raises(ConfigError, match="here: timezone is a text or a tzinfo, not 2"):
        checked_zone(2, "here")
