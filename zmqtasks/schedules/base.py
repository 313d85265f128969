"""What a schedule is, and an entry: a task that is called when its schedule says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Protocol, get_args, runtime_checkable

#: What is done about ticks that nobody fired in time.
Missed = Literal["latest", "all", "skip"]
#: What is done about a tick whose predecessor's task has not ended.
Overlap = Literal["allow", "skip"]
MISSED: Final[tuple[str, ...]] = get_args(Missed)
OVERLAPS: Final[tuple[str, ...]] = get_args(Overlap)


@runtime_checkable
class Schedule(Protocol):
    """Says when something is due: any object with this method is a schedule.

    A schedule that has a method ``describe()``, too, is shown in lists with what that returns.
    """

    def next_after(self, moment: datetime) -> datetime | None:
        """The first moment after this one at which it is due, with timezone; None: never again.

        The answer depends on nothing but the argument, and not on the clock: several nodes ask
        their own copies of the schedule, and must get the same moments.

        Args:
            moment: in UTC.
        """


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry:
    """A task that is called again and again."""

    #: The ids of its calls are made from it.
    name: str
    #: Name of the task, or of the workflow (``zmqtasks.chain``).
    task: str
    schedule: Schedule
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: As for ``apply_async``.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The signature of a workflow as plain data; args, kwargs and options are within.
    signature: Mapping[str, Any] | None = None
    missed: Missed = "latest"
    overlap: Overlap = "allow"
    #: False: it is shown, and not called until somebody resumes it.
    enabled: bool = True
    #: An interval is counted by the clock on the wall; see ``schedule``.
    relative: bool = False

    def as_dict(self) -> dict[str, Any]:
        """It as plain data, for people."""
        return {
            "name": self.name,
            "task": self.task,
            "schedule": describe(self.schedule),
            "args": [_shown(value) for value in self.args],
            "kwargs": {key: _shown(value) for key, value in self.kwargs.items()},
            "options": {key: _shown(value) for key, value in self.options.items()},
            "missed": self.missed,
            "overlap": self.overlap,
            "enabled": self.enabled,
        }


def describe(schedule: Schedule) -> str:
    """When it is due, in words: ``every 30 s``, ``at 08:00 on mon-fri (Europe/Berlin)``."""
    words = getattr(schedule, "describe", None)
    return str(words()) if callable(words) else repr(schedule)


def _shown(value: object) -> object:
    plain = isinstance(value, (str, int, float, bool, type(None)))
    return value if plain else f"{value!r:.75}"
