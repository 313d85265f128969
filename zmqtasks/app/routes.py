"""``task_routes``: options of calls by the names of their tasks, chosen where they are made.

A router is a mapping ``{name, glob or compiled regular expression: route}``, a list of
such pairs, a function ``(name, args, kwargs, options, task)``, or the import path of one
of these. A route is the name of a queue or a dict of options. Names are looked up before
patterns, patterns in their order; the first router with a route decides. Meanings are
Celery's.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from zmqtasks.app.options import check_route
from zmqtasks.errors import ConfigError

Route = Mapping[str, Any]
#: ``(name, args, kwargs, options, task) -> route``; None: ask the next one.
RouteFunction = Callable[..., Any]

_WHERE = "task_routes"


class MapRouter:
    """Routes by name.

    Args:
        routes: ``(name or pattern, route)``.

    Raises:
        ConfigError: something else, or a bad option.
    """

    def __init__(self, routes: Iterable[Any]) -> None:
        self._names: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for entry in routes:
            if not isinstance(entry, (tuple, list)) or len(entry) != 2:
                raise ConfigError(f"{_WHERE}: {entry!r:.75} is no pair of a name and a route")
            key, value = entry
            route = checked_route(value, f"{_WHERE}[{_shown(key)!r:.75}]")
            if isinstance(key, re.Pattern):
                self._patterns.append((key, route))
            elif not isinstance(key, str):
                raise ConfigError(
                    f"{_WHERE}: {key!r:.75} is neither the name of a task, nor a glob, nor a "
                    "compiled regular expression"
                )
            elif any(character in key for character in "*?["):
                self._patterns.append((re.compile(fnmatch.translate(key)), route))
            else:
                self._names[key] = route

    def route_of(self, name: str) -> Route | None:
        """The route of this task, None if there is none."""
        found = self._names.get(name)
        if found is None:
            for pattern, route in self._patterns:
                if pattern.match(name):
                    return route
        return found


class Router:
    """All routers of an application, in their order.

    Args:
        routes: the setting.

    Raises:
        ConfigError: it is wrong.
    """

    def __init__(self, routes: object) -> None:
        #: Routers by name, functions, and import paths that have not been needed yet.
        self._routers: list[MapRouter | RouteFunction | str] = []
        for router in _as_list(routes):
            self._routers.append(router if isinstance(router, str) else _router(router))

    @property
    def is_dynamic(self) -> bool:
        """Whether routes may depend on more than the task's name."""
        return any(not isinstance(router, MapRouter) for router in self._loaded())

    def route(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any
    ) -> Route:
        """The options that the first router which knows the task gives it.

        Raises:
            ConfigError: a function returns something else.
        """
        for router in self._loaded():
            if isinstance(router, MapRouter):
                found = router.route_of(name)
                if found is not None:
                    return found
            else:
                made = router(name, args, kwargs, dict(options), task=task)
                if made is not None:
                    who = getattr(router, "__qualname__", repr(router))
                    return checked_route(made, f"{_WHERE}: {who}() for task {name}")
        return {}

    def _loaded(self) -> list[Any]:
        routers = self._routers
        # Only now: the module with the router may import the one with the application.
        for position, router in enumerate(routers):
            if isinstance(router, str):
                routers[position] = _router(_imported(router))
        return routers


def checked_route(route: object, where: str) -> Route:
    """A route as options of a call.

    Raises:
        ConfigError: it is neither the name of a queue nor a dict of options, or one is bad.
    """
    if isinstance(route, str):
        route = {"queue": route}
    if not isinstance(route, Mapping):
        raise ConfigError(f"{where}: a route is a queue or a dict of options, not {route!r:.75}")
    check_route(route, where)
    return {key: value for key, value in route.items() if value is not None}


def _router(router: object) -> MapRouter | RouteFunction:
    if isinstance(router, Mapping):
        return MapRouter(router.items())
    if isinstance(router, (list, tuple)):
        return MapRouter(router)
    if callable(router):
        # Celery takes objects with this method too.
        method = getattr(router, "route_for_task", None)
        return method if callable(method) else router
    raise ConfigError(
        f"{_WHERE}: {router!r:.75} is no router; use a dict, a list of pairs, a function, or "
        "the import path of one"
    )


def _as_list(routes: object) -> list[Any]:
    """Several routers are in a list; a list of pairs is one router."""
    if not isinstance(routes, (list, tuple)):
        return [routes]
    if all(_is_pair(entry) for entry in routes):
        return [list(routes)] if routes else []
    return list(routes)


def _is_pair(entry: object) -> bool:
    return (
        isinstance(entry, (tuple, list))
        and len(entry) == 2
        and isinstance(entry[0], (str, re.Pattern))
        and isinstance(entry[1], (str, Mapping))
    )


def _imported(path: str) -> object:
    """What "module:name" or "module.name" means."""
    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    try:
        found: object = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"{_WHERE}: the router {path!r} cannot be imported: {exc}") from exc
    return found


def _shown(key: object) -> object:
    return key.pattern if isinstance(key, re.Pattern) else key


def check_routes(routes: object) -> None:
    """Refuse a wrong setting, as far as it can be seen without importing routers.

    Raises:
        ConfigError: it is wrong.
    """
    if routes is not None:
        Router(routes)
