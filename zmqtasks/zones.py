"""Timezones by their names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from zmqtasks.errors import ConfigError


@lru_cache(maxsize=16)
def zone_of(name: str) -> tzinfo:
    """The timezone of this name, such as "Europe/Berlin".

    Raises:
        ConfigError: this host knows none of this name.
    """
    if name.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # rarely used, and slow to import

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ConfigError(
            f"timezone {name!r:.75} is not known here; write a name like 'Europe/Berlin', and "
            "install the package tzdata where the system has no timezones"
        ) from None


def zone_name(zone: tzinfo) -> str | None:
    """What ``zone_of`` finds it by; None: it has no such name."""
    if zone is UTC:
        return "UTC"
    key = getattr(zone, "key", None)
    return key if isinstance(key, str) else None


def shift(zone: tzinfo, moment: datetime) -> timedelta:
    """How far clocks there are ahead of UTC at this moment.

    Args:
        zone: of these clocks.
        moment: has a timezone.
    """
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def checked_zone(value: object, where: str) -> tzinfo | None:
    """A timezone, given as one or by its name; None stays None.

    Raises:
        ConfigError: it is neither, or unknown here; begins with ``where``.
    """
    if value is None or isinstance(value, tzinfo):
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{where}: timezone is a text or a tzinfo, not {value!r:.75}")
    try:
        return zone_of(value)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from None


def in_utc(moment: datetime) -> datetime:
    """A moment in UTC.

    Raises:
        ValueError: it has no timezone, so nobody knows which moment it is.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no timezone; say which: moment.replace(tzinfo=UTC)")
    return moment.astimezone(UTC)
