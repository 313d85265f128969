"""Settings that only an application makes: they are about its tasks, not about nodes.

They are set like any other, by ``App(...)`` and ``app.conf``, but not on a command line, in
the environment or in a file. Names and meanings are Celery's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, NamedTuple

from zmqtasks.app import option_checks as checks
from zmqtasks.app.importing import names_of
from zmqtasks.app.options import TASK_ATTRIBUTES, check_task_options
from zmqtasks.app.routes import check_routes
from zmqtasks.errors import ConfigError
from zmqtasks.zones import zone_of


class AppSetting(NamedTuple):
    """One of them."""

    #: Refuses bad values: ``(name, value, where)``.
    check: checks.Check
    default: Any
    #: What values it takes, in words.
    values: str
    description: str


def annotations_for(annotations: object, name: str) -> dict[str, Any]:
    """The options that the setting ``task_annotations`` gives a task.

    Of several dicts in a list later ones win, and names over ``*``.
    """
    found: dict[str, Any] = {}
    for key in ("*", name):
        for mapping in _as_list(annotations):
            found.update(mapping.get(key, {}))
    return found


def _as_list(annotations: object) -> list[Any]:
    if annotations is None:
        return []
    return list(annotations) if isinstance(annotations, (list, tuple)) else [annotations]


def _check_annotations(key: str, value: object, where: str) -> None:
    for mapping in _as_list(value):
        if not isinstance(mapping, Mapping):
            raise ConfigError(
                f"{where}: {key} is a dict {{name of a task or '*': options}}, or a list of such, "
                f"not {mapping!r:.75}"
            )
        for name, options in mapping.items():
            here = f"{where}: {key}[{name!r:.75}]"
            if not isinstance(name, str) or not isinstance(options, Mapping):
                raise ConfigError(f"{here} is a dict of options of a task, not {options!r:.75}")
            fixed = sorted(map(str, {"bind", "name", "base", "attributes"} & options.keys()))
            if fixed:
                raise ConfigError(
                    f"{here}: {fixed[0]!r} belongs to the definition of a task; there are "
                    f"{', '.join(sorted(TASK_ATTRIBUTES))}"
                )
            check_task_options(options, here)


def _check_zone(key: str, value: object, where: str) -> None:
    if isinstance(value, tzinfo):
        return
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key} is a text or a tzinfo, not {value!r:.75}")
    try:
        zone_of(value)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from None


def _modules(key: str, value: object, where: str) -> None:
    names_of(value, f"{where}: {key}")


def _or_none(check: checks.Check) -> checks.Check:
    def check_or_none(key: str, value: object, where: str) -> None:
        if value is not None:
            check(key, value, where)

    return check_or_none


def _routes(key: str, value: object, where: str) -> None:
    try:
        check_routes(value)
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from None


def _beat_schedule(key: str, value: object, where: str) -> None:
    from zmqtasks.app.periodic import check_beat_schedule  # most processes never need it

    check_beat_schedule(key, value, where)


def _only_utc(key: str, value: object, where: str) -> None:
    checks.check_bool(key, value, where)
    if not value:
        raise ConfigError(
            f"{where}: {key}=False: moments travel in UTC; the setting timezone says what local "
            "times mean"
        )


#: {name: setting}
APP_SETTINGS: Mapping[str, AppSetting] = {
    "timezone": AppSetting(
        _check_zone,
        "UTC",
        "a name like `Europe/Berlin`, or a `tzinfo`",
        "Timezone of datetimes that have none, in `eta` and `expires`, and of times of day in "
        "schedules.",
    ),
    "enable_utc": AppSetting(
        _only_utc, True, "True", "Moments travel in UTC, always; kept for settings of Celery."
    ),
    "beat_schedule": AppSetting(
        _beat_schedule,
        {},
        "a dict `{name: entry}`",
        "Periodic tasks; see [Periodic tasks](../howto/periodic.md).",
    ),
    "imports": AppSetting(
        _modules,
        (),
        "a list of names",
        "Modules that are imported before tasks run, for the tasks that they define.",
    ),
    "include": AppSetting(_modules, (), "a list of names", "More of these."),
    "task_routes": AppSetting(
        _routes,
        None,
        "a dict, a list of pairs, a function, an import path, or a list of these",
        "Queue and other options of calls by the names of their tasks; see "
        "[Tasks](../howto/tasks.md#routing).",
    ),
    "task_annotations": AppSetting(
        _check_annotations,
        None,
        "a dict `{name or '*': options}`, or a list of these",
        "Options of tasks in place of those that they are defined with.",
    ),
    "task_default_priority": AppSetting(
        _or_none(checks.check_priority), None, "0 to 9", "Priority of calls that say nothing."
    ),
    "task_default_rate_limit": AppSetting(
        _or_none(checks.check_rate),
        None,
        'like `"10/s"`',
        "`rate_limit` of tasks that have none.",
    ),
    "result_extended": AppSetting(
        checks.check_bool,
        False,
        "True or False",
        "Outcomes tell the arguments of their calls, up to 8 KiB: `result.args`, `result.kwargs`.",
    ),
    "task_always_eager": AppSetting(
        checks.check_bool,
        False,
        "True or False",
        "`delay` and its kin run tasks at once, where they are called, and submit nothing.",
    ),
    "task_eager_propagates": AppSetting(
        checks.check_bool,
        False,
        "True or False",
        "Tasks that run eagerly raise in who called them what `get()` would raise.",
    ),
    "task_ignore_result": AppSetting(
        checks.check_bool,
        False,
        "True or False",
        "`ignore_result` of tasks that say nothing.",
    ),
    "task_inherit_parent_priority": AppSetting(
        checks.check_bool,
        False,
        "True or False",
        "Calls that a task makes have its priority, where nobody says otherwise.",
    ),
    "task_time_limit": AppSetting(
        _or_none(checks.check_limit), None, "seconds", "`time_limit` of tasks that have none."
    ),
    "task_soft_time_limit": AppSetting(
        _or_none(checks.check_limit),
        None,
        "seconds",
        "`soft_time_limit` of tasks that have none.",
    ),
}
