"""Write docs/from-celery.md: of each setting, option and name of Celery, what became of it.

The names are those of Celery 5, as its user guide and reference list them. What exists here
under the same name is found by looking. What does not has its text here, or in
``zmqtasks/celery_fates.py`` where users of it get an error. ``make reference`` runs it; a
test checks that the committed page is current.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmqtasks
from zmqtasks import celery_fates, celery_names, signals
from zmqtasks.app import options
from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.app.context import TaskContext
from zmqtasks.app.control import Control, Inspect
from zmqtasks.celery_fates import NOT_YET
from zmqtasks.settings import SETTING_NAMES

PAGE: Final = Path(__file__).parent / "from-celery.md"


def _data(name: str) -> dict[str, str]:
    return tomllib.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


#: {class of Celery: its names}
NAMES: Final = {key: text.split() for key, text in _data("celery-names.toml").items()}

#: {setting that exists: what is to be said of it}
SETTING_NOTES: Final[Mapping[str, str]] = {
    "beat_schedule": "same; more keys, see [Periodic tasks](howto/periodic.md)",
    "enable_utc": "`True` only: moments are UTC; `timezone` is for local times",
    "result_backend": "`store`, also by this name; needed only for results that outlive workers",
    "result_expires": "`result_keep_s`, also by this name",
    "task_default_queue": "`default_queue`, also by this name",
    "worker_concurrency": "`concurrency`, also by this name",
    "worker_max_memory_per_child": "`max_memory_per_child`, also by this name",
    "worker_max_tasks_per_child": "`max_tasks_per_child`, also by this name",
    "worker_pool": "`--pool`: a node needs it before it loads the application",
}


class Kind(NamedTuple):
    """A class of Celery, and what stands for it here."""

    title: str
    ours: Any
    #: In ``NAMES``.
    key: str
    #: {name: what there is instead}; without one it is not there yet.
    fates: Mapping[str, str] = {}


_TYPES = "the types are names of `zmqtasks`: `AsyncResult`, `GroupResult`, `ResultSet`, `Task`"
_BROKER = "there is no broker"
_NODES = "nodes are started by the command line: `zmqtasks node`"
_EVENTS = "there are no event queues: `zmqtasks status`, `zmqtasks story`"
_STORE = "not needed: results come from workers, and from nodes with the role store"
_PARTS = "the parts of a node cannot be replaced"
_ELECTION = "not needed: nothing is elected by hand"
_PURGE = "no queue lies around without an owner: `zmqtasks control revoke` ends tasks"

KINDS: Final = (
    Kind(
        "The module `celery`",
        zmqtasks,
        "module",
        {
            "Celery": "`App(name)`",
            "bugreport": "`zmqtasks status`, `zmqtasks inspect report`",
            "uuid": "`uuid.uuid4()`",
        },
    ),
    Kind(
        "The application, `Celery`",
        zmqtasks.App,
        "app",
        {
            "GroupResult": _TYPES,
            "ResultSet": _TYPES,
            "Worker": _NODES,
            "Beat": _NODES,
            "start": _NODES,
            "worker_main": _NODES,
            "WorkController": _NODES,
            "Pickler": "an App is no value that travels",
            "SYSTEM": "`platform.system()`",
            **dict.fromkeys(
                """
                amqp_cls backend_cls builtin_fixups control_cls events_cls loader_cls log_cls
                registry_cls
                """.split(),
                _PARTS,
            ),
            **dict.fromkeys(
                """
                broker_connection connection_or_acquire default_connection default_producer
                """.split(),
                _BROKER,
            ),
            "create_task_cls": "`App(task_cls=...)`",
            "subclass_with_self": "`App(task_cls=...)`",
            "current_task": "`zmqtasks.current_task`",
            "current_worker_task": "`zmqtasks.current_task`",
            "either": "not needed: a setting is checked when it is set",
            "prepare_config": "not needed: a setting is checked when it is set",
            "now": "`datetime.now(tz)`",
            "oid": "nodes have ids, see `zmqtasks status`",
            "thread_oid": "nodes have ids, see `zmqtasks status`",
            "on_init": "`__init__` of a class of your own",
            "type_checker": "not needed: arguments are always checked",
            "uses_utc_timezone": "always: moments travel in UTC",
            "add_defaults": "`app.conf.update(...)`",
            "amqp": _BROKER,
            "connection": _BROKER,
            "connection_for_read": _BROKER,
            "connection_for_write": _BROKER,
            "pool": _BROKER,
            "producer_or_acquire": _BROKER,
            "producer_pool": _BROKER,
            "annotations": "`app.conf.task_annotations`",
            "backend": _STORE,
            "bugreport": "`zmqtasks inspect report`",
            "close": "not needed: what is open is closed when the process ends",
            "config_from_cmdline": "flags of `zmqtasks node`",
            "events": _EVENTS,
            "loader": "not needed: `--app` names the module",
            "log": "`logging` as usual; `zmqtasks.log.get_task_logger`",
            "main": "`app.name`",
            "on_after_fork": "`zmqtasks.signals.worker_process_init`",
            "on_configure": "`on_after_configure`",
            "select_queues": "`--queues`",
            "setup_security": "a mesh key: `zmqtasks keygen`",
            "steps": _PARTS,
            "timezone": "`app.conf.timezone`",
            "user_options": "options of your own belong to your own programs",
        },
    ),
    Kind(
        "Tasks",
        zmqtasks.Task,
        "task",
        {
            "send_event": "`self.update_state`",
            "add_trail": "not needed: results know their children",
            "MaxRetriesExceededError": "`zmqtasks.MaxRetriesExceededError`",
            "OperationalError": "`zmqtasks.SubmitError`",
            "add_around": "[middleware](howto/hooks.md)",
            "annotate": "`app.conf.task_annotations`",
            "on_replace": "not needed: what replaces a task is called by its owner",
            "pop_request": "not needed: `self.request` is that of the attempt that runs",
            "push_request": "not needed: `self.request` is that of the attempt that runs",
            "signature_from_request": "`self.retry`, or `self.replace` with a signature",
            "subtask_from_request": "`self.retry`, or `self.replace` with a signature",
            "start_strategy": _PARTS,
        },
    ),
    Kind(
        "`self.request`",
        TaskContext,
        "request",
        {
            **dict.fromkeys(
                ("as_execution_options", "clear", "update"), "it tells of the call, and stays"
            ),
            **dict.fromkeys(
                ("callbacks", "chain", "chord", "errbacks"),
                "what comes next is known to the owner of the task",
            ),
            "children": "`AsyncResult.children`",
            "group_index": "results of a group are in its order",
            "replaced_task_nesting": "a replacement may be replaced as often as you like",
            "taskset": "`group`",
            "logfile": "the node logs to stderr",
            "loglevel": "`logging`",
            "properties": _BROKER,
            "reply_to": "results are published, there is no queue for them",
            "utc": "always",
        },
    ),
    Kind(
        "Results",
        zmqtasks.AsyncResult,
        "result",
        {
            "TimeoutError": "`zmqtasks.TimeoutError`",
            "backend": _STORE,
            "build_graph": "`iterdeps()` has the pairs",
            "graph": "`iterdeps()` has the pairs",
            "ignored": "`state` is IGNORED",
            "revoke_by_stamped_headers": "`app.control.revoke_by_stamped_headers`",
            "supports_native_join": _STORE,
            "throw": "`get`",
        },
    ),
    Kind(
        "`ResultSet` and `GroupResult`",
        zmqtasks.GroupResult,
        "sets",
        {"backend": _STORE, "supports_native_join": _STORE},
    ),
    Kind(
        "Signatures",
        zmqtasks.Signature,
        "signature",
        {
            "AsyncResult": "`sig.freeze()`",
            "TYPES": "`Signature.types`",
            "append_to_list_option": "`sig.link`, `sig.set`",
            "extend_list_option": "`sig.link`, `sig.set`",
            "election": _ELECTION,
            "flatten_links": '`sig.options["link"]`',
            "stamp_links": "`sig.stamp`, which stamps what is linked, too",
            "parent_id": "`AsyncResult.parent`",
            "register_type": "`Signature.types`",
            "root_id": "`AsyncResult.parent`",
        },
    ),
    Kind("Groups", zmqtasks.group, "group", {"app": "`group(...).tasks[0].app`"}),
    Kind(
        "Chains",
        zmqtasks.chain,
        "chain",
        {
            "prepare_steps": _PARTS,
            "run": "`apply_async`",
            "unchain_tasks": "`tasks`",
        },
    ),
    Kind(
        "Chords",
        zmqtasks.chord,
        "chord",
        {"run": "`apply_async`"},
    ),
    Kind(
        "`app.control`",
        Control,
        "control",
        {
            "disable_events": _EVENTS,
            "enable_events": _EVENTS,
            "Mailbox": "commands need no queues",
            "discard_all": _PURGE,
            "election": _ELECTION,
            "purge": _PURGE,
            "heartbeat": "nodes hear of each other all the time",
            "pool_restart": "SIGHUP restarts a node in place",
        },
    ),
    Kind(
        "`app.control.inspect()`",
        Inspect,
        "inspect",
        {
            "app": "`app.control`",
            "clock": "there is no logical clock",
            "registered_tasks": "`registered`",
            "hello": "nodes greet each other: `zmqtasks status`",
            "memdump": "tools for that attach to the process",
            "memsample": "`stats` tells the memory of its processes",
            "objgraph": "tools for that attach to the process",
        },
    ),
)

SIGNAL_FATES: Final = {
    "worker_before_create_process": "`worker_process_init`, in the new process",
    "eventlet_pool_started": "there is the pool `asyncio`",
    "eventlet_pool_preshutdown": "there is the pool `asyncio`",
    "eventlet_pool_postshutdown": "there is the pool `asyncio`",
    "eventlet_pool_apply": "there is the pool `asyncio`",
    "user_preload_options": "options of your own belong to your own programs",
}

#: {command of Celery: what there is}
COMMANDS: Final[Mapping[str, str]] = _data("celery-commands.toml")

_HEAD = """\
# Coming from Celery

<!-- Made by docs/generate_from_celery.py; change it there. -->

Change the import, and delete the broker's URL:

```python
from zmqtasks import App

app = App("shop")  # was: app = Celery("shop", broker="redis://...", backend="redis://...")
```

Tasks, `delay`, `apply_async`, `retry`, signatures, groups, chains, chords, results,
`beat_schedule`, handlers and signals keep their names and meanings; `from celery.schedules
import crontab` becomes `from zmqtasks.schedules import crontab`.
`app.config_from_object("config")`, also with `namespace="CELERY"`, reads the configuration that you
have. What does not exist is refused with an error that names its line on this page: nothing is
accepted and ignored.

What is different, and shows:

"""

#: (with Celery, here)
DIFFERENT: Final = (
    (
        "a task is acknowledged when it starts, unless `acks_late`",
        "a task that has not ended is redelivered when its worker is lost; `idempotent=False` is "
        "for those that must not run twice",
    ),
    (
        "a task with an ETA waits in the memory of a worker; with Redis it may run more than once",
        "it waits at its owner",
    ),
    (
        "with Redis, a lost worker is noticed after the visibility timeout, an hour",
        "within four seconds, mostly at once",
    ),
    ("an unknown id is PENDING for ever", "it is UNKNOWN, and `get()` raises at once"),
    (
        "a result needs a back end",
        "a result comes from the worker; a store keeps those that are read later",
    ),
    (
        "arguments are JSON, which makes lists of tuples",
        "they arrive as they were: `tuple`, `set`, `bytes`, `datetime`, `Decimal`, `UUID`, `Enum`, "
        "dataclasses",
    ),
    (
        "options of a call that nobody knows are passed on",
        "they are refused, with the nearest name",
    ),
    (
        "`delay()` puts no bound on what waits",
        "it waits for room, and raises `MeshOverloaded` when there is none in time",
    ),
    (
        "two beats send everything twice",
        "there may be any number of beats; a tick has one recorded outcome",
    ),
)

_TAIL = """
See [Promises and limits](promises.md) for what can be relied on, and [Calling
tasks](howto/calling.md), [Tasks](howto/tasks.md), [Workflows](howto/canvas.md),
[Results](howto/results.md), [Periodic tasks](howto/periodic.md), [Hooks](howto/hooks.md),
[Applications](howto/apps.md), [Django](howto/django.md) for how it is done.
"""


def page() -> str:
    """The text of ``from-celery.md``."""
    different = _HEAD + _table("with Celery", iter(DIFFERENT)) + _TAIL
    return "\n".join(
        [
            different,
            _settings(),
            _old_names(),
            _options(),
            _arguments(),
            _names(),
            _signals(),
            _commands(),
        ]
    )


def _table(head: str, rows: Iterator[tuple[str, str]]) -> str:
    body = "".join(f"| {name} | {fate} |\n" for name, fate in rows)
    return f"| {head} | here |\n|---|---|\n{body}"


def _settings() -> str:
    text = (
        "## Settings\n\nOf `app.conf`, in lower case. *Same* is the same name and meaning, see "
        "[Settings](reference/settings.md).\n\n"
    )
    return text + _table("setting of Celery", _rows_of_settings())


def _rows_of_settings() -> Iterator[tuple[str, str]]:
    yield (
        _listed([name for name in sorted(celery_names.SETTINGS) if exists(name, SETTING_NOTES)]),
        "same",
    )
    for name, note in SETTING_NOTES.items():
        yield f"`{name}`", note
    yield _so_anyway(celery_names.SETTINGS), _SO
    #: {fate: lines that have it}
    lines: dict[str, list[str]] = {}
    for name in sorted(celery_names.SETTINGS):
        if name not in SETTING_NOTES and not exists(name):
            line = celery_fates.line_of(name)
            assert line is not None, f"{name} has no line in celery_fates.py"
            same = lines.setdefault(celery_fates.SETTINGS[line], [])
            if line not in same:
                same.append(line)
    for fate, names in lines.items():
        yield _listed(names), _fate(fate)


def exists(setting: str, but_for: Collection[str] = ()) -> bool:
    """Whether a setting of Celery can be made here under its name."""
    if setting in but_for:
        return False
    return setting in APP_SETTINGS or setting in celery_fates.RENAMED or setting in SETTING_NAMES


def _old_names() -> str:
    return (
        "### Names before Celery 4\n\nThey are refused, with the new name. `CELERY_...` is "
        "`task_...` or the name that follows, `CELERYD_...` is `worker_...`, `CELERYBEAT_...` is "
        "`beat_...`, in lower case, but for these:\n\n"
        + _table(
            "old name",
            ((f"`{old}`", f"`{new}`") for old, new in sorted(celery_fates.OLD_NAMES.items())),
        )
    )


def _options() -> str:
    of_tasks = _table(
        "option of Celery", _rows_of_options(celery_names.TASK_OPTIONS, options.TASK_OPTIONS)
    )
    of_calls = _table(
        "option of Celery", _rows_of_options(celery_names.CALL_OPTIONS, options.CALL_OPTIONS)
    )
    return (
        "## Options of tasks\n\nOf `@app.task(...)`; see [Tasks](howto/tasks.md).\n\n"
        f"{of_tasks}\n## Options of calls\n\n"
        f"Of `apply_async` and its kin; see [Calling tasks](howto/calling.md).\n\n{of_calls}"
    )


_SO = "so it is here, always: may be said, and is refused with another value; see below"


def _so_anyway(names: Collection[str]) -> str:
    """Those of these names that may be said, with their values."""
    values = celery_fates.AS_IT_IS
    return ", ".join(f"`{name} = {values[name]}`" for name in sorted(values) if name in names)


def _rows_of_options(names: Collection[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    same = [name for name in sorted(names) if name in known]
    yield _listed(same), "same"
    yield _so_anyway(names), _SO
    lines: dict[str, list[str]] = {}
    for name in sorted(set(names) - set(same)):
        lines.setdefault(celery_fates.OPTIONS.get(name, NOT_YET), []).append(name)
    for fate, alike in lines.items():
        yield _listed(alike), _fate(fate)


def names_of(kind: Kind) -> list[str]:
    """The names of Celery's class, but for options, which have tables of their own."""
    of_tasks = celery_names.TASK_OPTIONS if kind.key == "task" else frozenset[str]()
    return [name for name in NAMES[kind.key] if name not in of_tasks]


def _arguments() -> str:
    rows = [(_listed(["include", "set_as_current", "task_cls"]), "same")]
    rows += [(f"`{name}`", _fate(fate)) for name, fate in celery_fates.ARGUMENTS.items()]
    return "## Arguments of `Celery(...)`\n\n" + _table("argument", iter(rows))


def _names() -> str:
    parts = ["## Names\n"]
    for kind in KINDS:
        names = names_of(kind)
        there = [name for name in names if has(kind.ours, name)]
        rows = [(_listed(there), "same")]
        lines: dict[str, list[str]] = {}
        for name in names:
            if name not in there:
                lines.setdefault(kind.fates.get(name, "not there yet"), []).append(name)
        rows += [(_listed(alike), fate) for fate, alike in lines.items()]
        parts.append(f"### {kind.title}\n\n{_table('name in Celery', iter(rows))}")
    return "\n".join(parts)


def has(ours: Any, name: str) -> bool:
    """Whether it exists here."""
    # Attributes of instances are annotated, or set by the constructor.
    annotated = (vars(cls).get("__annotations__", {}) for cls in getattr(ours, "__mro__", ()))
    return (
        hasattr(ours, name)
        or any(name in each for each in annotated)
        or (isinstance(ours, type) and name in _SET_LATER)
    )


#: Public attributes that constructors set.
_SET_LATER: Final = frozenset(
    {"app", "conf", "id", "name", "on_after_configure", "on_after_finalize", "tasks"}
)


def _signals() -> str:
    text = (
        "## Signals\n\nOf `zmqtasks.signals`; see [Hooks](howto/hooks.md). The node itself runs no "
        "code of yours, so that nothing can hold up its heartbeats: the four of a worker fire in a "
        "process beside it, its hook child, others of its main process refuse to be connected.\n\n"
    )
    return text + _table("signal of Celery", _rows_of_signals())


def _rows_of_signals() -> Iterator[tuple[str, str]]:
    known = {name: getattr(signals, name, None) for name in NAMES["signals"]}
    yield _listed([name for name, signal in known.items() if signal and not signal.refusal]), "same"
    lines: dict[str, list[str]] = {}
    for name, signal in known.items():
        if signal is None:
            lines.setdefault(SIGNAL_FATES[name], []).append(name)
        elif signal.refusal:
            # Why there are no signals of nodes is said once.
            instead = signal.refusal.rpartition("heartbeats; ")[2]
            lines.setdefault(instead, []).append(name)
    for fate, alike in lines.items():
        yield _listed(alike), fate


def _commands() -> str:
    return "## Commands\n\n" + _table(
        "command of Celery", ((f"`{name}`", fate) for name, fate in COMMANDS.items())
    )


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _fate(fate: str) -> str:
    return "not there yet" if fate == NOT_YET else fate.removesuffix("; leave it out")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
