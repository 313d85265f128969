"""Rules that the values of settings must keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zmqtasks.addresses import check_peer, parse_address
from zmqtasks.amounts import check_tag, parse_resource
from zmqtasks.errors import ConfigError
from zmqtasks.keys import NO_KEY
from zmqtasks.limits import SLOTS_MAX
from zmqtasks.settings_sources import nearest

ROLES = ("worker", "store", "broker", "beat")
POOLS = ("process", "thread", "asyncio", "solo")
#: Entry point group of pools from other packages.
POOL_GROUP = "zmqtasks.pools"
#: What a task survives; see ``core.owned.Durability``.
DURABILITIES = ("memory", "disk")
#: Who gets the tasks of a queue.
ROUTES = ("direct", "broker", "auto")
#: Stands for every queue without a route of its own.
ANY_QUEUE = "*"
#: All CPUs that the process may use.
AUTO = "auto"
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# --- checks of single values: return the value to use, or raise ConfigError -------------

_MESH = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}")
_QUEUE = re.compile(r"[^\s,\x00-\x1f\x7f]{1,128}")
_GPU = re.compile(r"\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,80}")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*")


def _mesh(value: str) -> str:
    if not _MESH.fullmatch(value):
        raise ConfigError(
            "not a mesh name; use 1 to 63 lower-case letters, digits, '_' and '-', "
            "beginning with a letter or digit"
        )
    return value


def _node_name(value: str) -> str:
    if value and not _NODE_NAME.fullmatch(value):
        raise ConfigError("not a node name; use up to 128 letters, digits and '_.@+-'")
    return value


def _roles(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_one_of(role, ROLES, "role") for role in dict.fromkeys(value))


def _queue(value: str) -> str:
    if not _QUEUE.fullmatch(value):
        raise ConfigError(
            f"{value!r} is not a queue name; use 1 to 128 characters without blanks or commas"
        )
    return value


def _queues(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_queue(queue) for queue in dict.fromkeys(value))


def parse_route(entry: str) -> tuple[str, str]:
    """``(queue, route)`` of ``QUEUE=ROUTE``.

    Raises:
        ConfigError: not of that form, a bad queue, or an unknown route.
    """
    # From the right: the name of a queue may have an "=" in it.
    queue, equals, route = entry.rpartition("=")
    if not equals:
        raise ConfigError(
            f"{entry!r} is no route; write QUEUE={'|'.join(ROUTES)}, with {ANY_QUEUE} for all "
            "other queues"
        )
    return _queue(queue), _one_of(route, ROUTES, "route")


def _queue_routes(value: tuple[str, ...]) -> tuple[str, ...]:
    routes: dict[str, str] = {}
    for queue, route in map(parse_route, value):
        if routes.setdefault(queue, route) != route:
            raise ConfigError(
                f"queue {queue!r} has two routes, {routes[queue]!r} and {route!r}; keep one"
            )
    return tuple(f"{queue}={route}" for queue, route in routes.items())


def _tags(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_tag(tag) for tag in dict.fromkeys(value))


def _resources(value: tuple[str, ...]) -> tuple[str, ...]:
    entries: dict[str, str] = {}
    for entry in value:
        name = parse_resource(entry).name
        if entries.setdefault(name, entry) != entry:
            raise ConfigError(
                f"{name!r} has two amounts, {entries[name]!r} and {entry!r}; keep one"
            )
    return tuple(entries.values())


def parse_autoscale(value: str) -> tuple[int, int]:
    """``(most, least)`` slots of ``MAX,MIN``; Celery's order.

    Raises:
        ConfigError: not of that form, or no such numbers.
    """
    found = re.fullmatch(r"(\d{1,4})\s*,\s*(\d{1,4})", value.strip())
    most, least = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= least < most <= SLOTS_MAX:
        raise ConfigError(f"write MAX,MIN with 1 <= MIN < MAX <= {SLOTS_MAX}, for example 8,1")
    return most, least


def parse_cpus(value: str) -> tuple[int, ...]:
    """The numbers of ``0-3,8``.

    Raises:
        ConfigError: not of that form.
    """
    found: list[int] = []
    for part in value.split(","):
        numbers = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if not numbers or (numbers[2] and int(numbers[2]) < int(numbers[1])):
            raise ConfigError(f"{part!r} is no CPU; write numbers and ranges like 0-3,8, or {AUTO}")
        found += range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1)
    return tuple(dict.fromkeys(found))


def _autoscale(value: str) -> str:
    return ",".join(map(str, parse_autoscale(value))) if value else ""


def _cpus(value: str) -> str:
    if value and value != AUTO:
        parse_cpus(value)
    return value


def _gpus(value: tuple[str, ...]) -> tuple[str, ...]:
    for gpu in value:
        if not _GPU.fullmatch(gpu):
            raise ConfigError(f"{gpu!r} is no GPU; write its number or its id (GPU-…, MIG-…)")
    return value


def _listen(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        if entry != "ipc":
            parse_address(entry, default_port=0)
    return value


def _peers(value: tuple[str, ...]) -> tuple[str, ...]:
    for entry in value:
        check_peer(entry)
    return value


def _store(value: str) -> str:
    if value and not _URL.fullmatch(value):
        raise ConfigError(
            "not a store URL; write for example sqlite:///results.db, "
            "sqlite:////absolute/path.db or memory://"
        )
    return value


def _pool(value: str) -> str:
    if value in POOLS or _CLASS.fullmatch(value):
        return value
    from importlib import metadata  # slow, and hardly anybody needs it

    others = {point.name for point in metadata.entry_points(group=POOL_GROUP)}
    return _one_of(value, (*POOLS, *sorted(others)), "pool")


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> str:
    if value not in allowed:
        likely = nearest(value, allowed)
        hint = f"did you mean {likely!r}? " if likely else ""
        raise ConfigError(f"unknown {what} {value!r}; {hint}there are: {', '.join(allowed)}")
    return value


def _path(value: str) -> str:
    if "\0" in value:
        raise ConfigError("a path cannot contain a zero byte")
    try:
        return str(Path(value).expanduser().absolute()) if value else ""
    except RuntimeError:
        raise ConfigError("no home folder for '~'; write the path in full") from None


def _key_file(value: str) -> str:
    return value if value == NO_KEY else _path(value)


#: {key: function that returns the value to use or raises ConfigError}
CHECKS: dict[str, Callable[[Any], Any]] = {
    "mesh": _mesh,
    "name": _node_name,
    "roles": _roles,
    "queues": _queues,
    "default_queue": _queue,
    "durability": lambda value: _one_of(value, DURABILITIES, "durability"),
    "queue_routes": _queue_routes,
    "pool": _pool,
    "tags": _tags,
    "resources": _resources,
    "autoscale": _autoscale,
    "cpus": _cpus,
    "gpus": _gpus,
    "listen": _listen,
    "advertise": _peers,
    "peers": _peers,
    "key_file": _key_file,
    "store": _store,
    "runtime_dir": _path,
    "state_dir": _path,
    "cache_dir": _path,
    "log_level": lambda value: _one_of(value.upper(), LOG_LEVELS, "log level"),
    "log_format": lambda value: _one_of(value, LOG_FORMATS, "log format"),
}


# --- values that must fit together --------------------------------------------------------


class Conflict(NamedTuple):
    """Settings that contradict each other, and how."""

    keys: tuple[str, ...]
    reason: str


def find_conflict(values: Mapping[str, Any]) -> Conflict | None:
    """The first pair of values that contradict each other."""
    return _dial_conflict(values) or _slots_conflict(values) or _order_conflict(values)


def _slots_conflict(values: Mapping[str, Any]) -> Conflict | None:
    if values["autoscale"] and values["concurrency"]:
        reason = "autoscale and concurrency both say how many tasks run at once"
        return Conflict(("autoscale", "concurrency"), f"{reason}; leave one of them away")
    if values["pool"] == "solo" and values["concurrency"] > 1:
        reason = "the solo pool runs one task at a time"
        return Conflict(("concurrency", "pool"), f"{reason}; say --concurrency 1, or leave it out")
    return None


def _dial_conflict(values: Mapping[str, Any]) -> Conflict | None:
    if not values["dial"]:
        return None
    if "broker" in values["roles"]:
        reason = "a broker has to be dialled by others, which dial = true forbids"
        return Conflict(("dial", "roles"), f"{reason}; leave one of them away")
    listens = {
        "listen": [entry for entry in values["listen"] if entry != "ipc"],
        "port": values["port"],
        "advertise": values["advertise"],
    }
    for key, value in listens.items():
        if value:
            reason = (
                f"{key} says where other hosts reach this one, and dial = true that they do not"
            )
            return Conflict(("dial", key), f"{reason}; leave one of them away")
    return None


def _order_conflict(values: Mapping[str, Any]) -> Conflict | None:
    # (key, factor, other key, whether equality is allowed)
    rules = (
        ("heartbeat_ms", 3, "lost_ms", True),
        ("heartbeat_ms", 2, "lease_ms", True),
        ("heartbeat_ms", 2, "stalled_ms", True),
        ("lease_ms", 1, "lost_ms", False),
        ("stalled_ms", 1, "stalled_lost_ms", False),
        ("result_inline_bytes_max", 1, "payload_bytes_max", True),
    )
    for low, factor, high, equal in rules:
        least = factor * values[low]
        if values[high] < least or (values[high] == least and not equal):
            times = f"{factor} times " if factor > 1 else ""
            relation = "must be at least" if equal else "must be greater than"
            reason = f"{high} = {values[high]} {relation} {times}{low} = {values[low]}"
            return Conflict((high, low), reason)
    return None
