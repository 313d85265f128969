"""Schedules as plain data, which travels between processes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any

from zmqtasks.errors import ConfigError
from zmqtasks.schedules.base import Schedule
from zmqtasks.schedules.cron import crontab
from zmqtasks.schedules.intervals import schedule
from zmqtasks.schedules.sun import solar
from zmqtasks.zones import zone_name, zone_of

_CRONTAB_FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")


def to_plain(given: Schedule) -> dict[str, Any] | None:
    """A schedule as texts and numbers.

    Returns:
        None for those that no other process could make anew: custom ones, subclasses, and those
        in a timezone without name.
    """
    if type(given) is crontab and _travels(given.timezone):
        named = {name: getattr(given, name) for name in _CRONTAB_FIELDS}
        return {"kind": "crontab", **named, "timezone": _zone_text(given.timezone)}
    if type(given) is schedule and _travels(given.timezone):
        return {
            "kind": "schedule",
            "every_us": given.run_every // timedelta(microseconds=1),
            "relative": given.relative,
            "start": given.start and given.start.isoformat(),
            "timezone": _zone_text(given.timezone),
        }
    if type(given) is solar:
        return {"kind": "solar", "event": given.event, "lat": given.lat, "lon": given.lon}
    return None


def from_plain(data: Mapping[str, Any]) -> Schedule:
    """The schedule that ``to_plain`` was given.

    Raises:
        ConfigError: not made by ``to_plain``, or this host lacks the timezone or astral.
    """
    kind = data.get("kind")
    try:
        if kind == "crontab":
            named = {name: data[name] for name in _CRONTAB_FIELDS}
            return crontab(**named, timezone=data["timezone"])
        if kind == "schedule":
            start = data["start"]
            return schedule(
                timedelta(microseconds=data["every_us"]),
                data["relative"],
                start=start and datetime.fromisoformat(start),
                timezone=data["timezone"],
            )
        if kind == "solar":
            return solar(data["event"], data["lat"], data["lon"])
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise ConfigError(f"a {kind} as plain data is damaged: {exc!r:.75}") from exc
    raise ConfigError(f"there is no schedule of the kind {kind!r:.75}")


def _travels(zone: tzinfo | None) -> bool:
    if zone is None:
        return True
    name = zone_name(zone)
    if name is None:
        return False
    try:
        return zone_of(name) == zone
    except ConfigError:
        return False


def _zone_text(zone: tzinfo | None) -> str | None:
    return None if zone is None else zone_name(zone)
