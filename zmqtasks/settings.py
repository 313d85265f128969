"""Settings of one process of the mesh.

One flat key space. A value comes from, first found wins: command line flag, environment
(``ZMQTASKS_<KEY>``), ``zmqtasks.toml`` or ``[tool.zmqtasks]`` of ``pyproject.toml`` in
the working directory, ``App(...)`` / ``app.conf``, default. An unknown key is an error
with the nearest name. Nothing is read at import. ``docs/reference/settings.md`` is made
from the fields below.
"""

# Annotations are not postponed here: the fields' types are wanted at run time, and
# evaluating them from texts takes three times as long.
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from zmqtasks import limits, paths
from zmqtasks.addresses import PORT_MAX
from zmqtasks.errors import ConfigError
from zmqtasks.settings_checks import ANY_QUEUE, CHECKS, find_conflict, parse_route
from zmqtasks.settings_sources import (
    Sourced,
    as_bool,
    as_list,
    env_name,
    flag_name,
    from_environment,
    from_file,
    from_flags,
    from_mapping,
    unknown_key,
)
from zmqtasks.settings_texts import SettingDoc, as_toml, description, hidden, kind_of, type_text

_TIMER_MS_MAX = 24 * 3600 * 1000

_Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 24 * 3600)]


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """Everything that can be set, checked.

    Made by :func:`load_settings`, which checks each value; the constructor checks only
    that the values fit together.

    Raises:
        ConfigError: two values contradict each other.
    """

    # --- who we are ---
    mesh: Annotated[
        str,
        Meta(
            description="Name of the mesh; nodes of other meshes are never talked to. "
            "Lower-case letters, digits, `_` and `-`."
        ),
    ] = "default"
    name: Annotated[
        str,
        Meta(description="Name of this node for people. Empty: host name and process id."),
    ] = ""
    app: Annotated[
        str,
        Meta(
            description="Application to load: `module` or `module:variable`. Empty: `tasks.py` "
            "in the working directory."
        ),
    ] = ""
    roles: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="What this node does: `worker` (runs tasks), `store` (keeps results), "
            "`broker` (keeps tasks until a worker takes them), `beat` (starts periodic tasks), or "
            "several of these.",
        ),
    ] = ("worker",)

    # --- work ---
    queues: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Queues that a worker takes tasks from."),
    ] = ("default",)
    default_queue: Annotated[
        str, Meta(description="Queue of calls that name none (for producers).")
    ] = "default"
    durability: Annotated[
        str,
        Meta(
            description="What calls survive whose task and options say nothing: `memory` (the "
            "death of any worker) or `disk` (also power loss at their producer: `delay()` returns "
            'once they are on disk). Calls with `delivery="at_most_once"` are never on disk.'
        ),
    ] = "memory"
    queue_routes: Annotated[
        tuple[str, ...],
        Meta(
            description="Who gets the tasks of a queue: `QUEUE=direct` (workers), `QUEUE=broker` "
            "(brokers, whatever workers are in sight), `QUEUE=auto` (workers, and a broker while "
            "none is in sight that can run them). `*` stands for all other queues, which are "
            "`auto` when nothing is said."
        ),
    ] = ()
    concurrency: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="Tasks that a worker runs at once. 0: as many as there are CPUs; pool "
            "`thread`: 4 more, 32 at most; pool `asyncio`: 1000; pool `solo`: always 1.",
        ),
    ] = 0
    pool: Annotated[
        str,
        Meta(
            description="Where tasks run: `process` (child processes), `thread` (threads of one "
            "child process), `asyncio` (coroutines of one child process), `solo` (the node's main "
            "thread, for debugging), or `module:Class` of your own."
        ),
    ] = "process"

    tags: Annotated[
        tuple[str, ...],
        Meta(description="What a worker is (`cuda`, `zone=eu`), for tasks that ask for it."),
    ] = ()
    resources: Annotated[
        tuple[str, ...],
        Meta(
            description="What a worker has for tasks that ask for some of it: `NAME=AMOUNT` "
            "(`ram_mb=16000`, `gpu=2`), or `gpu=id:0:3` for the GPUs with these ids."
        ),
    ] = ()

    autoscale: Annotated[
        str,
        Meta(
            description="`MAX,MIN`: between so many tasks at once, as there is work. Slots are "
            "added while all are busy and more tasks wait; those that were not needed for "
            "`autoscale_idle_s` go. Instead of `concurrency`. Not in the solo pool."
        ),
    ] = ""
    autoscale_idle_s: Annotated[
        _Seconds, Meta(description="Seconds after which `autoscale` takes unused slots away.")
    ] = 30.0
    max_tasks_per_child: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Tasks that a process runs before it is replaced. 0: no limit. Not in the "
            "solo pool.",
        ),
    ] = 0
    max_memory_per_child: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 40,
            description="KiB of memory (resident) above which a process is replaced when its task "
            "ends. 0: no limit. Linux, not in the solo pool.",
        ),
    ] = 0
    child_idle_s: Annotated[
        _Seconds,
        Meta(
            description="Seconds without a task after which a process ends, until there is one "
            "for it. 0: never. Not in the solo pool."
        ),
    ] = 0.0
    cpus: Annotated[
        str,
        Meta(
            description="CPUs that processes are pinned to, one each, round and round: `0-3,8`, or "
            "`auto` for all that this node may use. Process pool, Linux."
        ),
    ] = ""
    gpus: Annotated[
        tuple[str, ...],
        Meta(
            description="GPUs, by number or id: each process gets one, round and round, as "
            "`CUDA_VISIBLE_DEVICES`. Process pool."
        ),
    ] = ()

    # --- addresses ---
    listen: Annotated[
        tuple[str, ...],
        Meta(
            description="Where to listen beside the host-local socket: `HOST`, `HOST:PORT`, "
            "`tcp://HOST:PORT`, or `ipc` for nowhere else. Empty: all interfaces with a mesh "
            "key, nowhere else without."
        ),
    ] = ()
    port: Annotated[
        int,
        Meta(
            ge=0,
            le=PORT_MAX,
            description="First of three TCP ports in a row (ROUTER, XPUB, PULL). 0: free ones are "
            "taken, as by every process that is no node.",
        ),
    ] = 0
    advertise: Annotated[
        tuple[str, ...],
        Meta(
            description="`HOST:PORT` that others reach this node by, instead of its own "
            "addresses (port forwarding, containers). Nodes only."
        ),
    ] = ()

    dial: Annotated[
        bool,
        Meta(
            description="Listen only for processes of this host, and dial brokers and stores of "
            "others: for workers that cannot be dialled (behind a firewall or NAT). Producers of "
            "other hosts then reach them through a broker."
        ),
    ] = False

    # --- finding each other ---
    peers: Annotated[
        tuple[str, ...],
        Meta(
            description="`HOST:PORT` of nodes to dial. All addresses of a name are tried, so one "
            "name can stand for many nodes."
        ),
    ] = ()
    mdns: Annotated[bool, Meta(description="Find nodes of the local network by multicast DNS.")] = (
        True
    )
    interfaces: Annotated[
        tuple[str, ...],
        Meta(
            description="Network interfaces for multicast DNS, by name or network (`eth0`, "
            "`192.168.0.0/24`). Empty: all but loopback and those of containers."
        ),
    ] = ()

    # --- security ---
    key_file: Annotated[
        str,
        Meta(
            description="File with the mesh key. Empty: `$XDG_CONFIG_HOME/zmqtasks/mesh.key` "
            "when it exists. `none`: no key even so."
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Meta(
            description="Allow addresses beyond this host without a mesh key: whoever reaches "
            "them can run tasks."
        ),
    ] = False

    # --- files ---
    store: Annotated[
        str,
        Meta(
            description="URL of the result store of a store node. Empty: "
            "`sqlite:///<state_dir>/<mesh>/results.db`."
        ),
    ] = ""
    runtime_dir: Annotated[
        str,
        Meta(
            description="Base folder for sockets and the same-host directory, with one folder "
            "a mesh. Empty: `$XDG_RUNTIME_DIR/zmqtasks`, else a folder of this user in the "
            "temporary directory."
        ),
    ] = ""
    state_dir: Annotated[
        str,
        Meta(
            description="Base folder for files that last, with one folder a mesh. Empty: "
            "`$XDG_STATE_HOME/zmqtasks`, by default `~/.local/state/zmqtasks`."
        ),
    ] = ""
    cache_dir: Annotated[
        str,
        Meta(
            description="Base folder for files that may be lost, with one folder a mesh. Empty: "
            "`$XDG_CACHE_HOME/zmqtasks`, by default `~/.cache/zmqtasks`."
        ),
    ] = ""

    # --- watching each other ---
    heartbeat_ms: Annotated[
        int,
        Meta(ge=10, le=_TIMER_MS_MAX, description="Milliseconds between heartbeats to a peer."),
    ] = limits.HEARTBEAT_MS
    lease_ms: Annotated[
        int,
        Meta(
            ge=20,
            le=_TIMER_MS_MAX,
            description="A worker that has not heard from a task's owner for so long starts none "
            "of its queued tasks. Below `lost_ms`, so that it gives up first.",
        ),
    ] = limits.LEASE_MS
    stalled_ms: Annotated[
        int,
        Meta(
            ge=20,
            le=_TIMER_MS_MAX,
            description="A peer that is connected but says nothing for so long gets no new work.",
        ),
    ] = limits.STALLED_MS
    lost_ms: Annotated[
        int,
        Meta(
            ge=30,
            le=_TIMER_MS_MAX,
            description="A peer that is silent for so long is lost; its tasks run elsewhere.",
        ),
    ] = limits.LOST_MS
    stalled_lost_ms: Annotated[
        int,
        Meta(
            ge=30,
            le=_TIMER_MS_MAX,
            description="A stalled peer (connected, silent) counts as lost after so long.",
        ),
    ] = limits.STALLED_LOST_MS

    # --- sizes ---
    payload_bytes_max: Annotated[
        int,
        Meta(
            ge=1024,
            le=limits.PAYLOAD_BYTES_MAX,
            description="Largest arguments or result of one task, in bytes.",
        ),
    ] = limits.PAYLOAD_BYTES_MAX
    result_inline_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.BLOB_BYTES_MIN,
            description="Results up to so many bytes go straight to the owner; larger ones are "
            "fetched. When not set, not above `payload_bytes_max`.",
        ),
    ] = limits.RESULT_INLINE_BYTES_MAX
    open_tasks_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="Unfinished tasks of one producer, those included that it has handed to a "
            "broker; `delay()` waits at this number.",
        ),
    ] = limits.OPEN_TASKS_MAX
    open_bytes_max: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 40,
            description="Same, counting the bytes of their arguments.",
        ),
    ] = limits.OPEN_BYTES_MAX
    result_log_bytes_max: Annotated[
        int,
        Meta(
            ge=64 * 1024,
            le=1 << 40,
            description="Bytes of results that a node keeps in memory until a store has them, or "
            "for readers where there is no store.",
        ),
    ] = limits.RESULT_LOG_BYTES_MAX
    result_spill_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 50,
            description="Bytes of results that wait on the disk, in `state_dir`, for a store that "
            "is away or slow. 0: none; then what is too much for the memory is lost.",
        ),
    ] = limits.RESULT_SPILL_BYTES_MAX

    # --- waiting ---
    submit_timeout_s: Annotated[
        _Seconds,
        Meta(
            description="Seconds that `delay()` waits for room before it raises MeshOverloaded, "
            "and as long for the disk, with durability `disk`, before it raises SubmitUnknown."
        ),
    ] = 10.0
    exit_wait_s: Annotated[
        _Seconds,
        Meta(
            description="Seconds that a process that ends takes at most to hand its unfinished "
            "tasks over to other nodes. What nobody takes stays on the disk of this host."
        ),
    ] = 5.0
    drain_timeout_s: Annotated[
        _Seconds,
        Meta(
            description="Seconds that a node that stops waits for the tasks it runs; the others "
            "run elsewhere."
        ),
    ] = 30.0
    result_keep_s: Annotated[_Seconds, Meta(description="Seconds that a store keeps results.")] = (
        3600.0
    )

    # --- logs ---
    log_level: Annotated[str, Meta(description="DEBUG, INFO, WARNING, ERROR or CRITICAL.")] = "INFO"
    log_format: Annotated[
        str,
        Meta(description="How the log of a command looks: `text`, or `json` (an object a line)."),
    ] = "text"

    def __post_init__(self) -> None:
        conflict = find_conflict(vars(self))
        if conflict:
            raise ConfigError(conflict.reason)

    def route_of(self, queue: str) -> str:
        """Who gets the tasks of this queue: "direct", "broker" or "auto"."""
        routes = dict(parse_route(entry) for entry in self.queue_routes)
        return routes.get(queue) or routes.get(ANY_QUEUE, "auto")


@dataclass(frozen=True)
class Loaded:
    """Settings and where each value came from."""

    settings: NodeSettings
    #: {key: "flag --port" | "ZMQTASKS_PORT" | "zmqtasks.toml" | "app.conf" | "default"}
    origins: Mapping[str, str]


_FIELDS = {field.name: field for field in dataclasses.fields(NodeSettings)}
_TYPES: dict[str, Any] = get_type_hints(NodeSettings, include_extras=True)
#: All names of settings.
SETTING_NAMES = frozenset(_FIELDS)


def load_settings(
    flags: Mapping[str, object] | None = None,
    app_conf: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Loaded:
    """Collect, convert and check the settings of this process.

    Args:
        flags: command line, by key; None and () count as not given.
        app_conf: what ``App(...)`` and ``app.conf`` set, by key.
        env: environment, ``os.environ`` by default.
        cwd: folder of ``zmqtasks.toml``, the working directory by default.

    Raises:
        ConfigError: an unknown key or a bad value; names the origin and the remedy.
    """
    env = os.environ if env is None else env
    cwd = Path(os.curdir if cwd is None else cwd)
    found: dict[str, Sourced] = {
        **from_mapping(app_conf or {}, "app.conf", SETTING_NAMES),
        **from_file(cwd, SETTING_NAMES),
        **from_environment(env, SETTING_NAMES),
        **from_flags(flags or {}, SETTING_NAMES),
    }
    values = {key: convert(key, value, origin) for key, (value, origin) in found.items()}
    origins = {key: found[key].origin if key in found else "default" for key in _FIELDS}
    for key, default in _default_paths(env).items():
        values[key] = values.get(key) or default
    values = {key: field.default for key, field in _FIELDS.items()} | values
    if "result_inline_bytes_max" not in found:
        # A small limit alone is no contradiction.
        values["result_inline_bytes_max"] = min(
            limits.RESULT_INLINE_BYTES_MAX, values["payload_bytes_max"]
        )
    conflict = find_conflict(values)
    if conflict:
        where = ", ".join(f"{key} from {origins[key]}" for key in conflict.keys)
        raise ConfigError(f"{conflict.reason} ({where})")
    return Loaded(NodeSettings(**values), origins)


def _default_paths(env: Mapping[str, str]) -> dict[str, str]:
    key_file = paths.default_key_file(env)
    return {
        "runtime_dir": str(paths.default_runtime_base(env)),
        "state_dir": str(paths.default_state_base(env)),
        "cache_dir": str(paths.default_cache_base(env)),
        "key_file": str(key_file) if _exists(key_file) else "",
    }


def _exists(path: Path) -> bool:
    """Whether it is there, as far as we may see: a closed folder hides no key of ours."""
    try:
        return path.exists()
    except OSError:
        return False


def convert(key: str, value: object, origin: str) -> Any:
    """The checked value of one setting, from a text or a Python value.

    Args:
        key: name of the setting.
        value: as written; texts are converted, lists may be texts with commas.
        origin: where it was written, for the message.

    Raises:
        ConfigError: unknown key or bad value; names origin, value, reason and remedy.
    """
    if key not in _FIELDS:
        raise unknown_key(origin, key, SETTING_NAMES)
    if kind_of(_TYPES[key]) is tuple:
        prepared = as_list(value)
    elif kind_of(_TYPES[key]) is bool:
        prepared = as_bool(value)
    else:
        prepared = value
    try:
        converted = msgspec.convert(prepared, _TYPES[key], strict=not isinstance(value, str))
        check = CHECKS.get(key)
        return check(converted) if check else converted
    except msgspec.ValidationError:
        reason = f"must be {type_text(_TYPES[key])}"
    except ConfigError as exc:
        reason = f"{exc}"
    raise ConfigError(f"{origin}: {key} = {_shown(key, value)}: {reason}")


def _shown(key: str, value: object) -> str:
    """A value as it is written: a list of texts with commas, as everywhere but in Python."""
    if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
        return repr(",".join(value))
    return repr(hidden(key, value))


# --- showing ------------------------------------------------------------------------------


def describe(loaded: Loaded) -> list[tuple[str, str, str]]:
    """``(key, value, origin)`` of every setting, values as TOML, secrets hidden."""
    return [
        (key, as_toml(hidden(key, getattr(loaded.settings, key))), loaded.origins[key])
        for key in _FIELDS
    ]


def setting_docs() -> list[SettingDoc]:
    """What the reference page says, one entry a setting."""
    return [
        SettingDoc(
            key,
            type_text(_TYPES[key]),
            as_toml(field.default),
            flag_name(key),
            env_name(key),
            description(_TYPES[key]),
        )
        for key, field in _FIELDS.items()
    ]
