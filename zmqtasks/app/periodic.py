"""Periodic tasks of an application: ``beat_schedule`` and ``add_periodic_task``.

What users write is checked at once, and made into entries for a beat once the configuration is
complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from zmqtasks.app.canvas.signature import Signature, signature
from zmqtasks.app.options import check_call_options
from zmqtasks.app.task import Task
from zmqtasks.errors import ConfigError, PayloadTooLarge, PayloadTypeError
from zmqtasks.schedules import Schedule, ScheduleEntry, schedule, to_plain
from zmqtasks.schedules.base import MISSED, OVERLAPS
from zmqtasks.settings_sources import nearest
from zmqtasks.zones import checked_zone, zone_of

if TYPE_CHECKING:
    from zmqtasks.app.app import App

NAME_CHARS_MAX: Final = 200
#: Keys of an entry that ``add_periodic_task`` takes beside options of the call.
POLICIES: Final = ("relative", "timezone", "missed", "overlap", "enabled")
_KEYS: Final = ("task", "schedule", "args", "kwargs", "options", *POLICIES)
#: {option of calls: why an entry cannot have it}
_NOT_FOR_TICKS: Final = {
    "task_id": "each tick has an id of its own",
    "idempotency_key": "each tick has an id of its own",
    "eta": "the schedule says when",
    "after": "the schedule says when; use a chain or a chord",
    "delivery": "a tick has a recorded outcome, so somebody must own its task",
    "require_worker": "nobody is there who could be told",
}
#: Any moment at which custom schedules are tried.
_PROBE: Final = datetime(2027, 1, 1, 1, 2, 3, 4, tzinfo=UTC)
T = TypeVar("T")


class Call(NamedTuple):
    """What an entry calls."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    #: Of a workflow, as plain data.
    workflow: dict[str, Any] | None = None


class Periodic:
    """The periodic tasks of an application.

    Args:
        app: the application.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        #: {name: entry as users write it}
        self._added: dict[str, Mapping[str, Any]] = {}

    def add(self, name: str | None, parts: Mapping[str, Any]) -> str:
        """Add one, see ``App.add_periodic_task``; returns its name."""
        where = f"App({self._app.name!r}).add_periodic_task()"
        entry_of(name or "unnamed", parts, UTC, where if name is None else f"{where}: {name!r:.75}")
        if name is None:
            name = _default_name(parts)
        if self._added.get(name, parts) != parts:
            raise ConfigError(
                f"{where}: there is another periodic task named {name!r:.75}; give one of the two "
                "another name=..."
            )
        self._added[name] = parts
        return name

    def entries(self) -> list[ScheduleEntry]:
        """All of them, sorted by name.

        Raises:
            ConfigError: one of them cannot be called, or two have the same name.
        """
        conf = self._app.conf
        given = conf.of_tasks("timezone")
        zone = zone_of(given) if isinstance(given, str) else given
        configured: Mapping[str, Mapping[str, Any]] = conf.of_tasks("beat_schedule")
        for name in configured.keys() & self._added.keys():
            raise ConfigError(
                f"App({self._app.name!r}): {name!r:.75} is in beat_schedule, and the name of "
                "another one in add_periodic_task(); choose another name"
            )
        found = []
        for name, parts in sorted({**configured, **self._added}.items()):
            where = f"App({self._app.name!r}): periodic task {name!r:.75}"
            entry = entry_of(name, parts, zone, where)
            self._check_call(entry, where)
            found.append(entry)
        return found

    def _check_call(self, entry: ScheduleEntry, where: str) -> None:
        task = self._app.tasks.get(entry.task)
        if entry.signature is not None:
            signature(entry.signature, app=self._app)
            return
        names: tuple[str, ...] = ()
        try:
            if task is not None:
                task.call_signature.match(*entry.args, **entry.kwargs)
                names = task.call_signature.names
            self._app.encode_arguments(entry.args, entry.kwargs, names)
        except (TypeError, PayloadTypeError, PayloadTooLarge) as exc:
            raise ConfigError(f"{where}: {exc}") from None


def _default_name(parts: Mapping[str, Any]) -> str:
    task = parts["task"]
    if isinstance(task, Signature):
        name = task.reprcall(*parts["args"], **parts["kwargs"])
    else:
        name = task.name if isinstance(task, Task) else str(task)
    return name[:NAME_CHARS_MAX]


def check_beat_schedule(key: str, value: object, where: str) -> None:
    """Refuse what cannot be the setting ``beat_schedule``.

    Raises:
        ConfigError: names the entry, its key and the reason.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key} is a dict {{name: entry}}, not {value!r:.75}")
    for name, parts in value.items():
        entry_of(name, parts, UTC, f"{where}: {key}[{name!r:.75}]")


def entry_of(name: object, parts: object, zone: tzinfo, where: str) -> ScheduleEntry:
    """An entry, from what users write.

    Args:
        zone: for schedules that have none.
        where: names the entry, for messages.

    Raises:
        ConfigError: names the key and the reason.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ConfigError(f"{where}: a name is a printable text, not {name!r:.75}")
    if len(name) > NAME_CHARS_MAX:
        raise ConfigError(f"{where}: a name has {NAME_CHARS_MAX} characters at most")
    if not isinstance(parts, Mapping):
        raise ConfigError(f"{where}: an entry is a dict with task and schedule, not {parts!r:.75}")
    for key in parts:
        if key not in _KEYS:
            likely = nearest(str(key), _KEYS)
            hint = f"did you mean {likely!r}?" if likely else f"there are {', '.join(_KEYS)}"
            raise ConfigError(f"{where}: there is no key {key!r:.75}; {hint}")
    for key in ("task", "schedule"):
        if key not in parts:
            raise ConfigError(f"{where}: {key!r} is missing")
    call = _call_of(parts, where)
    relative = _checked_bool(parts, "relative", False, where)
    return ScheduleEntry(
        name=name,
        task=call.task,
        schedule=_schedule_of(parts, relative, zone, where),
        args=call.args,
        kwargs=call.kwargs,
        options=call.options,
        signature=call.workflow,
        missed=_checked_word(parts, "missed", "latest", MISSED, where),
        overlap=_checked_word(parts, "overlap", "allow", OVERLAPS, where),
        enabled=_checked_bool(parts, "enabled", True, where),
        relative=relative,
    )


# --- when -----------------------------------------------------------------------------------


def _schedule_of(parts: Mapping[str, Any], relative: bool, zone: tzinfo, where: str) -> Schedule:
    given = parts["schedule"]
    where = f"{where}: schedule"
    if isinstance(given, (int, float, timedelta)) and not isinstance(given, bool):
        found: Schedule = _told(where, lambda: schedule(given, relative))
    elif isinstance(given, type) or not callable(getattr(given, "next_after", None)):
        hint = "seconds, a timedelta, crontab(...), solar(...), or an object with next_after()"
        if hasattr(given, "is_due"):
            hint = "is_due() of Celery depends on when it is asked; write next_after(moment)"
        raise ConfigError(f"{where}={given!r:.75}: {hint}")
    else:
        found = _relative(given, where) if relative else given
    if to_plain(found) is None:
        _check_custom(found, where)
    own = _told(where, lambda: checked_zone(parts.get("timezone"), "timezone"))
    in_zone: Callable[[tzinfo], Schedule] | None = getattr(found, "in_zone", None)
    if own is not None and (in_zone is None or in_zone(own) is found):
        raise ConfigError(
            f"{where}: timezone={parts['timezone']!r:.75} says nothing about {given!r:.75}, which "
            "has its own or needs none; leave it out"
        )
    return found if in_zone is None else in_zone(own or zone)


def _check_custom(found: Schedule, where: str) -> None:
    """Refuse what beats could not agree on: moments that depend on when somebody asks."""
    moment = _PROBE
    for _ in range(2):
        due = _asked(found, moment, where)
        if due is None:
            return
        between = moment + (due - moment) / 2
        again = _asked(found, between, where)
        if again != due:
            raise ConfigError(
                f"{where}: next_after({moment}) gives {due}, but asked about {between}, which is "
                f"before that, it gives {again}; its moments must be the same whenever it is "
                "asked: count them from a fixed date"
            )
        moment = due


def _asked(found: Schedule, moment: datetime, where: str) -> datetime | None:
    try:
        due = found.next_after(moment)
    except Exception as exc:
        raise ConfigError(
            f"{where}: next_after({moment}) raised {type(exc).__name__}: {exc}"
        ) from exc
    is_moment: bool = due is None or isinstance(due, datetime)
    if not is_moment or (due is not None and due.tzinfo is None):
        raise ConfigError(
            f"{where}: next_after() must give a datetime with timezone or None, not {due!r:.75}"
        )
    if due is not None and due <= moment:
        raise ConfigError(f"{where}: next_after({moment}) gives {due}, which is not after it")
    return due


def _relative(given: Schedule, where: str) -> Schedule:
    if not isinstance(given, schedule):
        raise ConfigError(f"{where}: relative is about intervals, not {given!r:.75}; leave it out")
    if given.relative:
        return given
    return _told(
        where,
        lambda: schedule(given.run_every, True, start=given.start, timezone=given.timezone),
    )


# --- what -----------------------------------------------------------------------------------


def _call_of(parts: Mapping[str, Any], where: str) -> Call:
    task = parts["task"]
    args = parts.get("args") or ()
    kwargs = parts.get("kwargs") or {}
    options = parts.get("options") or {}
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise ConfigError(f"{where}: args is a tuple or list, not {args!r:.75}")
    for key, value in (("kwargs", kwargs), ("options", options)):
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{where}: {key} is a dict with names as keys, not {value!r:.75}")
    if isinstance(task, Task):
        task = task.name
    if isinstance(task, Mapping):
        return _call_of_signature(task, args, kwargs, options, where)
    if not isinstance(task, str) or not task.strip() or not task.isprintable():
        raise ConfigError(
            f"{where}: task is the name of one, a task or a signature, not {task!r:.75}"
        )
    _check_options(options, where)
    return Call(task, tuple(args), dict(kwargs), dict(options))


def _call_of_signature(
    given: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    where: str,
) -> Call:
    _check_options(options, where)
    where = f"{where}: task"
    if isinstance((given.get("kwargs") or {}).get("it"), Iterator):
        raise ConfigError(
            f"{where}: a {given.get('subtask_type')} of an iterator can be called once; make it of "
            "a list"
        )
    found: Signature[Any] = _told(where, lambda: signature(given))
    # Its own arguments come after those of the entry, as in any other call of it.
    whole = _told(where, lambda: found.clone(tuple(args), dict(kwargs), **options))
    _check_options(whole.options, where)
    if whole.subtask_type is None:
        return Call(whole.task, whole.args, whole.kwargs, whole.options)
    return Call(whole.task, (), {}, {}, dict(whole))


def _check_options(options: Mapping[str, Any], where: str) -> None:
    for key, why in _NOT_FOR_TICKS.items():
        if options.get(key) is not None:
            raise ConfigError(f"{where}: option {key!r}: {why}; leave it out")
    if isinstance(options.get("expires"), datetime):
        raise ConfigError(
            f"{where}: option 'expires' is seconds from the tick on, not a moment, which would be "
            "the same for all of them"
        )
    check_call_options(options, f"{where}: options")


# --- values ---------------------------------------------------------------------------------


def _told(where: str, make: Callable[[], T]) -> T:
    """Say where it went wrong."""
    try:
        return make()
    except (ConfigError, TypeError) as exc:
        raise ConfigError(f"{where}: {exc}") from None


def _checked_bool(parts: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    value = parts.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} is True or False, not {value!r:.75}")
    return value


def _checked_word(
    parts: Mapping[str, Any], key: str, default: str, words: Sequence[str], where: str
) -> Any:
    value = parts.get(key, default)
    if value not in words:
        raise ConfigError(f"{where}: {key} is one of {', '.join(words)}, not {value!r:.75}")
    return value
