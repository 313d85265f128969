"""Schedules as plain data, and entries for people."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.schedules import (
    Schedule,
    ScheduleEntry,
    crontab,
    describe,
    from_plain,
    schedule,
    solar,
    to_plain,
)
from zmqtasks.zones import zone_of


class Yearly:
    """A schedule of somebody else."""

    def next_after(self, moment: datetime) -> datetime:
        return moment.replace(year=moment.year + 1)


class Later(crontab):
    """One that is made of another."""

    def next_after(self, moment: datetime) -> datetime | None:
        found = super().next_after(moment)
        return found and found + timedelta(seconds=7)


class Rarely(schedule):
    """The same of an interval."""


class Spoken(Schedule):
    """One that describes itself."""

    def next_after(self, moment: datetime) -> None:
        return None

    def describe(self) -> str:
        return "never"


@pytest.mark.parametrize(
    "given",
    [
        crontab(),
        crontab("*/5", [8, 9], "mon-fri", "1-7", "jan", timezone="Europe/Berlin"),
        crontab(timezone="UTC"),
        schedule(0.3),
        schedule(timedelta(hours=6), relative=True, timezone="Asia/Tehran"),
        schedule(7, start=datetime(2027, 1, 1, 1, 2, 3, 4, tzinfo=UTC)),
        solar("sunset", 52.5, 13.4),
    ],
)
def test_it_is_the_same_after_a_journey_as_plain_data(given: Schedule) -> None:
    plain = to_plain(given)
    assert plain is not None
    assert from_plain(json.loads(json.dumps(plain))) == given


@pytest.mark.parametrize(
    "given", [Yearly(), Spoken(), crontab(timezone=timezone(timedelta(hours=2)))]
)
def test_what_another_process_could_not_make_anew_does_not_travel(given: Schedule) -> None:
    assert to_plain(given) is None


@pytest.mark.parametrize(
    "given",
    [crontab(), schedule(5), schedule(5, relative=True), solar("sunset", 52.5, 13.4)],
)
def test_a_moment_without_timezone_is_refused(given: Schedule) -> None:
    with pytest.raises(ValueError, match="has no timezone; say which"):
        given.next_after(datetime(2027, 1, 1))  # noqa: DTZ001 - what it is about


@pytest.mark.parametrize(
    "given", [Later(0, 8), Rarely(60, relative=True), Later("*"), Rarely(5, relative=True)]
)
def test_a_class_of_ones_own_stays_what_it_is_in_another_timezone(given: Later | Rarely) -> None:
    berlin = zone_of("Europe/Berlin")
    found = given.in_zone(berlin)
    assert type(found) is type(given)
    assert found.timezone is berlin
    assert given.timezone is None
    assert to_plain(found) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "moon"}, "no schedule of the kind 'moon'"),
        ({}, "no schedule of the kind None"),
        ({"kind": "crontab"}, "a crontab as plain data is damaged"),
        ({"kind": "schedule", "every_us": "x"}, "a schedule as plain data is damaged"),
        ({"kind": "solar", "event": "sunset"}, "a solar as plain data is damaged"),
    ],
)
def test_damaged_data_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(data)


def test_any_object_that_knows_its_next_moment_is_a_schedule() -> None:
    assert isinstance(Yearly(), Schedule)
    assert not isinstance(object(), Schedule)
    assert describe(Spoken()) == "never"
    assert "Yearly" in describe(Yearly())


def test_an_entry_is_shown_as_plain_data() -> None:
    entry = ScheduleEntry(
        name="tidy up",
        task="tasks.tidy",
        schedule=schedule(30),
        args=(1, {2}),
        kwargs={"deep": True},
        options={"queue": "low"},
    )
    assert entry.as_dict() == {
        "name": "tidy up",
        "task": "tasks.tidy",
        "schedule": "every 30 s",
        "args": [1, "{2}"],
        "kwargs": {"deep": True},
        "options": {"queue": "low"},
        "missed": "latest",
        "overlap": "allow",
        "enabled": True,
    }
    json.dumps(entry.as_dict())
