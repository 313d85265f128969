"""``solar``: due when the sun rises, sets, or stands somewhere in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from types import ModuleType
from typing import Any, Final

from zmqtasks.errors import ConfigError
from zmqtasks.zones import in_utc

#: {event, by Celery's name: (function of astral.sun, degrees below the horizon)}
_EVENTS: Final[Mapping[str, tuple[str, float | None]]] = {
    "dawn_astronomical": ("dawn", 18.0),
    "dawn_nautical": ("dawn", 12.0),
    "dawn_civil": ("dawn", 6.0),
    "sunrise": ("sunrise", None),
    "solar_noon": ("noon", None),
    "sunset": ("sunset", None),
    "dusk_civil": ("dusk", 6.0),
    "dusk_nautical": ("dusk", 12.0),
    "dusk_astronomical": ("dusk", 18.0),
}
#: An event may belong to the day before or after that of its moment in UTC.
_DAYS_AROUND: Final = 2
#: In polar regions an event may be missing for the better part of a year.
_DAYS_MAX: Final = 400
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class solar:  # noqa: N801 - Celery's name
    """Due when the sun rises, sets, or stands somewhere in between.

    On days on which it does not, as in polar summers, it is not due. Moments are in whole
    seconds. Needs the package ``astral``.

    Args:
        event: ``dawn_astronomical``, ``dawn_nautical``, ``dawn_civil``, ``sunrise``,
            ``solar_noon``, ``sunset``, ``dusk_civil``, ``dusk_nautical`` or
            ``dusk_astronomical``.
        lat: degrees of latitude, north is positive.
        lon: degrees of longitude, east is positive.

    Raises:
        ConfigError: an unknown event, a place that is not on earth, or astral is missing.
    """

    event: str
    lat: float
    lon: float

    def __post_init__(self) -> None:
        if self.event not in _EVENTS:
            raise ConfigError(
                f"solar: there is no event {self.event!r:.75}, but {', '.join(_EVENTS)}"
            )
        object.__setattr__(self, "lat", _degrees("lat", self.lat, 90))
        object.__setattr__(self, "lon", _degrees("lon", self.lon, 180))
        _astral("sun")

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after this one at which it is due, in UTC."""
        moment = in_utc(moment)
        try:
            first = moment.date() - _DAYS_AROUND * _DAY
            near = [self._on(first + day * _DAY) for day in range(2 * _DAYS_AROUND + 1)]
            later = [due for due in near if due is not None and due > moment]
            if later:
                return min(later)
            for day in range(2 * _DAYS_AROUND + 1, _DAYS_MAX):
                due = self._on(first + day * _DAY)
                if due is not None:
                    return due
        except OverflowError:  # beyond the year 9999
            pass
        return None

    def describe(self) -> str:
        """It in words, such as ``at sunset at 52.52, 13.4``."""
        return f"at {self.event} at {self.lat:g}, {self.lon:g}"

    def _on(self, day: date) -> datetime | None:
        name, degrees = _EVENTS[self.event]
        calculate: Callable[..., datetime] = getattr(_astral("sun"), name)
        place: Any = _astral("").Observer(self.lat, self.lon)
        named = {} if degrees is None else {"depression": degrees}
        try:
            due = calculate(place, day, tzinfo=self._mean_time, **named)
        except ValueError:  # the sun does not get there on this day
            return None
        # All hosts come to the same seconds, whatever their last digits are.
        return (due + timedelta(milliseconds=500)).replace(microsecond=0).astimezone(UTC)

    @property
    def _mean_time(self) -> timezone:
        # By this clock most events are far from midnight, and each day has one.
        return timezone(timedelta(hours=round(self.lon / 15)))


def _degrees(name: str, value: object, most: int) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -most <= value <= most:
        return float(value)
    raise ConfigError(f"solar: {name}={value!r:.75} must be degrees from -{most} to {most}")


def _astral(submodule: str) -> ModuleType:
    try:
        import astral
        import astral.sun
    except ImportError:
        raise ConfigError(
            "solar: the package astral is not installed here; pip install 'zmqtasks[solar]'"
        ) from None
    return astral.sun if submodule else astral
