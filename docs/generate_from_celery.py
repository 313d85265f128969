"""Write docs/from-celery.md: of each setting, option and name of Celery, what became of it.

The names are those of Celery 5, as its user guide and reference list them. What exists here
under the same name is found by looking. What does not has its text here, or in
``zmqtasks/celery_fates.py`` where users of it get an error. ``make reference`` runs it; a
test checks that the committed page is current.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmqtasks
from zmqtasks import celery_fates, signals
from zmqtasks.app import options
from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.app.context import TaskContext
from zmqtasks.app.control import Control, Inspect
from zmqtasks.celery_fates import NOT_YET
from zmqtasks.settings import SETTING_NAMES

PAGE: Final = Path(__file__).parent / "from-celery.md"

SETTINGS: Final = """
    accept_content result_accept_content enable_utc imports include timezone
    beat_max_loop_interval beat_schedule beat_scheduler beat_schedule_filename beat_sync_every
    beat_cron_starting_deadline
    broker_url broker_read_url broker_write_url broker_transport broker_transport_options
    broker_connection_timeout broker_connection_retry broker_connection_retry_on_startup
    broker_connection_max_retries broker_channel_error_retry broker_failover_strategy
    broker_heartbeat broker_heartbeat_checkrate broker_login_method
    broker_native_delayed_delivery_queue_type broker_pool_limit broker_use_ssl
    cache_backend cache_backend_options cassandra_servers s3_bucket azureblockblob_container_name
    gcs_bucket couchbase_backend_settings arangodb_backend_settings mongodb_backend_settings
    cosmosdbsql_database_name elasticsearch_timeout database_engine_options database_table_names
    database_short_lived_sessions database_create_tables_at_setup redis_max_connections
    redis_socket_timeout redis_backend_use_ssl
    control_queue_ttl control_queue_expires control_exchange
    event_queue_expires event_queue_ttl event_queue_prefix event_serializer event_exchange
    result_backend result_backend_transport_options result_backend_max_retries
    result_backend_always_retry result_cache_max result_compression result_exchange
    result_exchange_type result_expires result_persistent result_extended result_serializer
    result_chord_retry_interval result_chord_join_timeout
    security_key security_key_password security_certificate security_cert_store security_digest
    task_acks_late task_acks_on_failure_or_timeout task_allow_error_cb_on_chord_header
    task_always_eager task_annotations task_compression task_create_missing_queues
    task_default_delivery_mode task_default_exchange task_default_exchange_type
    task_default_priority task_default_queue task_default_queue_type task_default_rate_limit
    task_default_routing_key task_eager_propagates task_ignore_result
    task_inherit_parent_priority task_protocol task_publish_retry task_publish_retry_policy
    task_queue_max_priority task_queues task_reject_on_worker_lost task_remote_tracebacks
    task_routes task_send_sent_event task_serializer task_soft_time_limit task_store_eager_result
    task_store_errors_even_if_ignored task_time_limit task_track_started
    worker_agent worker_autoscaler worker_cancel_long_running_tasks_on_connection_loss
    worker_concurrency worker_consumer worker_deduplicate_successful_tasks
    worker_detect_quorum_queues worker_direct worker_disable_prefetch worker_disable_rate_limits
    worker_enable_prefetch_count_reduction worker_enable_remote_control
    worker_enable_soft_shutdown_on_idle worker_eta_task_limit worker_hijack_root_logger
    worker_log_color worker_log_format worker_lost_wait worker_max_memory_per_child
    worker_max_tasks_per_child worker_pool worker_pool_putlocks worker_pool_restarts
    worker_prefetch_multiplier worker_proc_alive_timeout worker_redirect_stdouts
    worker_redirect_stdouts_level worker_send_task_events worker_soft_shutdown_timeout
    worker_state_db worker_task_log_format worker_timer worker_timer_precision
""".split()

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

TASK_OPTIONS: Final = """
    acks_late acks_on_failure_or_timeout autoretry_for base bind default_retry_delay
    dont_autoretry_for expires ignore_result max_retries name priority pydantic rate_limit
    reject_on_worker_lost resultrepr_maxsize retry_backoff retry_backoff_max retry_jitter
    retry_kwargs send_events serializer soft_time_limit store_eager_result
    store_errors_even_if_ignored throws time_limit track_started trail typing queue
""".split()

CALL_OPTIONS: Final = """
    add_to_parent argsrepr chain chord compression connection countdown delivery_mode eta exchange
    expires group_id headers ignore_result kwargsrepr link link_error mandatory parent_id priority
    producer queue reply_to retry retry_policy root_id routing_key serializer shadow soft_time_limit
    stamped_headers task_id time_limit
""".split()


class Kind(NamedTuple):
    """A class of Celery, and what stands for it here."""

    title: str
    ours: Any
    names: str
    #: {name: what there is instead}; without one it is not there yet.
    fates: Mapping[str, str] = {}


_TYPES = "the types are names of `zmqtasks`: `AsyncResult`, `GroupResult`, `ResultSet`, `Task`"
_BROKER = "there is no broker"
_NODES = "nodes are started by the command line: `zmqtasks node`"
_EVENTS = "there are no event queues: `zmqtasks status`, `zmqtasks story`"
_STORE = "not needed: results come from workers, and from nodes with the role store"
_PARTS = "the parts of a node cannot be replaced"

KINDS: Final = (
    Kind(
        "The module `celery`",
        zmqtasks,
        """
        Celery Task bugreport chain chord chunks current_app current_task group maybe_signature
        shared_task signature subtask xmap xstarmap
        """,
        {"Celery": "`App(name)`", "bugreport": "`zmqtasks status`, `zmqtasks inspect report`"},
    ),
    Kind(
        "The application, `Celery`",
        zmqtasks.App,
        """
        AsyncResult GroupResult ResultSet Task Worker Beat add_defaults add_periodic_task amqp
        annotations autodiscover_tasks backend bugreport close conf config_from_cmdline
        config_from_envvar config_from_object connection connection_for_read connection_for_write
        control current_task current_worker_task events finalize gen_task_name loader log main now
        on_after_configure on_after_finalize on_after_fork on_configure on_init pool
        producer_or_acquire producer_pool register_task select_queues send_task set_current
        set_default setup_security signature start steps task tasks timezone user_options
        worker_main
        """,
        {
            "GroupResult": _TYPES,
            "ResultSet": _TYPES,
            "Task": _TYPES,
            "Worker": _NODES,
            "Beat": _NODES,
            "start": _NODES,
            "worker_main": _NODES,
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
            "config_from_envvar": '`app.config_from_object(os.environ["..."])`',
            "events": _EVENTS,
            "finalize": "not needed: tasks are bound when they are defined",
            "loader": "not needed: `--app` names the module",
            "log": "`logging` as usual; `zmqtasks.log.get_task_logger`",
            "main": "`app.name`",
            "on_after_fork": "`zmqtasks.signals.worker_process_init`",
            "on_configure": "`on_after_configure`",
            "register_task": "`app.add_task(function)`; classes by `base=`",
            "select_queues": "`--queues`",
            "setup_security": "a mesh key: `zmqtasks keygen`",
            "steps": _PARTS,
            "timezone": "`app.conf.timezone`",
            "user_options": "options of your own belong to your own programs",
            "set_current": "the current App is the one made last",
            "set_default": "the current App is the one made last",
        },
    ),
    Kind(
        "Tasks",
        zmqtasks.Task,
        """
        AsyncResult add_to_chord add_trail after_return app apply apply_async before_start bind
        chunks default_retry_delay delay map max_retries on_failure on_retry on_success priority
        rate_limit replace request retry run s send_event shadow_name si signature
        signature_from_request starmap subtask throws time_limit update_state
        """,
        {
            "send_event": "`self.update_state`",
            "add_trail": "not needed: results know their children",
        },
    ),
    Kind(
        "`self.request`",
        TaskContext,
        """
        args called_directly chain children chord correlation_id delivery_info errbacks callbacks
        eta expires group group_index headers hostname id ignore_result is_eager kwargs logfile
        loglevel origin parent_id properties reply_to retries root_id shadow stamped_headers stamps
        timelimit utc
        """,
        {
            "correlation_id": "`id`",
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
        """
        TimeoutError app args as_list as_tuple backend build_graph children collect date_done failed
        forget get get_leaf graph id ignored info iterdeps kwargs maybe_reraise maybe_throw name
        parent queue ready result retries revoke revoke_by_stamped_headers state status successful
        supports_native_join task_id then traceback wait worker
        """,
        {
            "TimeoutError": "`zmqtasks.TimeoutError`",
            "backend": _STORE,
            "build_graph": "`iterdeps()` has the pairs",
            "graph": "`iterdeps()` has the pairs",
            "ignored": "`state` is IGNORED",
            "revoke_by_stamped_headers": "`app.control.revoke_by_stamped_headers`",
            "supports_native_join": _STORE,
        },
    ),
    Kind(
        "`ResultSet` and `GroupResult`",
        zmqtasks.GroupResult,
        """
        add app as_tuple backend children clear completed_count delete discard failed forget get id
        iter_native join join_native maybe_reraise maybe_throw parent ready remove restore results
        revoke save successful supports_native_join then update waiting
        """,
        {"backend": _STORE, "supports_native_join": _STORE},
    ),
    Kind(
        "Signatures",
        zmqtasks.Signature,
        """
        app apply apply_async args clone delay flatten_links freeze id immutable kwargs link
        link_error name on_error options replace reprcall set set_immutable stamp type
        """,
    ),
    Kind(
        "Groups", zmqtasks.group, "apply apply_async delay freeze link link_error skew tasks stamp"
    ),
    Kind(
        "Chains",
        zmqtasks.chain,
        "apply apply_async clone freeze run stamp tasks",
        {"run": "`apply_async`"},
    ),
    Kind(
        "Chords",
        zmqtasks.chord,
        "apply apply_async body clone freeze link link_error run stamp tasks",
        {"run": "`apply_async`"},
    ),
    Kind(
        "`app.control`",
        Control,
        """
        add_consumer autoscale broadcast cancel_consumer disable_events discard_all election
        enable_events heartbeat inspect ping pool_grow pool_restart pool_shrink purge rate_limit
        revoke revoke_by_stamped_headers shutdown terminate time_limit
        """,
        {
            "disable_events": _EVENTS,
            "enable_events": _EVENTS,
            "election": "not needed: nothing is elected by hand",
            "heartbeat": "nodes hear of each other all the time",
            "pool_restart": "SIGHUP restarts a node in place",
        },
    ),
    Kind(
        "`app.control.inspect()`",
        Inspect,
        """
        active active_queues clock conf hello memdump memsample objgraph ping query_task registered
        report reserved revoked scheduled stats
        """,
        {
            "clock": "there is no logical clock",
            "hello": "nodes greet each other: `zmqtasks status`",
            "memdump": "tools for that attach to the process",
            "memsample": "`stats` has `maxrss`",
            "objgraph": "tools for that attach to the process",
        },
    ),
)

SIGNALS: Final = """
    before_task_publish after_task_publish task_prerun task_postrun task_received task_retry
    task_success task_failure task_internal_error task_revoked task_unknown task_rejected
    import_modules celeryd_init celeryd_after_setup worker_init worker_before_create_process
    worker_ready heartbeat_sent worker_shutting_down worker_process_init worker_process_shutdown
    worker_shutdown beat_init beat_embedded_init eventlet_pool_started eventlet_pool_preshutdown
    eventlet_pool_postshutdown eventlet_pool_apply setup_logging after_setup_logger
    after_setup_task_logger user_preload_options
""".split()
SIGNAL_FATES: Final = {
    "worker_before_create_process": "`worker_process_init`, in the new process",
    "eventlet_pool_started": "there is the pool `asyncio`",
    "eventlet_pool_preshutdown": "there is the pool `asyncio`",
    "eventlet_pool_postshutdown": "there is the pool `asyncio`",
    "eventlet_pool_apply": "there is the pool `asyncio`",
    "user_preload_options": "options of your own belong to your own programs",
}

#: {command of Celery: what there is}
COMMANDS: Final = {
    "celery -A proj worker": "`zmqtasks node --role worker --app proj`",
    "celery -A proj beat": "`zmqtasks node --role beat --app proj`",
    "celery -A proj worker -B": "two nodes",
    "celery worker -Q, -c, -P, -n": "`--queues`, `--concurrency`, `--pool`, `--name`",
    "celery worker -l": "`--log-level`",
    "celery worker -O fair, --prefetch-multiplier": "not needed: no task waits behind a long one",
    "celery worker --without-gossip, --without-mingle, --without-heartbeat": "not needed",
    "celery multi, --detach, --pidfile": "a service manager: [deploy/](../deploy/README.md)",
    "celery call, result": "`zmqtasks call`, `zmqtasks result`",
    "celery inspect, control, status": "the same",
    "celery report": "`zmqtasks inspect report`",
    "celery purge": "not there yet; `zmqtasks control revoke` ends tasks",
    "celery list bindings, amqp, migrate": "there is no broker",
    "celery events, Flower": "`zmqtasks status`, `zmqtasks story ID`",
    "celery shell": "`python`: the application is an object like any other",
    "celery graph, logtool, upgrade": "not there",
}

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
[Results](howto/results.md), [Periodic tasks](howto/periodic.md), [Hooks](howto/hooks.md) for how it
is done.
"""


def page() -> str:
    """The text of ``from-celery.md``."""
    different = _HEAD + _table("with Celery", iter(DIFFERENT)) + _TAIL
    return "\n".join([different, _settings(), _options(), _names(), _signals(), _commands()])


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
    yield _listed([name for name in sorted(SETTINGS) if exists(name, SETTING_NOTES)]), "same"
    for name, note in SETTING_NOTES.items():
        yield f"`{name}`", note
    #: {fate: lines that have it}
    lines: dict[str, list[str]] = {}
    for name in sorted(SETTINGS):
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


def _options() -> str:
    of_tasks = _table("option of Celery", _rows_of_options(TASK_OPTIONS, options.TASK_OPTIONS))
    of_calls = _table("option of Celery", _rows_of_options(CALL_OPTIONS, options.CALL_OPTIONS))
    return (
        "## Options of tasks\n\nOf `@app.task(...)`; see [Tasks](howto/tasks.md).\n\n"
        f"{of_tasks}\n## Options of calls\n\n"
        f"Of `apply_async` and its kin; see [Calling tasks](howto/calling.md).\n\n{of_calls}"
    )


def _rows_of_options(names: list[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    same = [name for name in sorted(names) if name in known]
    yield _listed(same), "same"
    lines: dict[str, list[str]] = {}
    for name in sorted(set(names) - set(same)):
        lines.setdefault(celery_fates.OPTIONS.get(name, NOT_YET), []).append(name)
    for fate, alike in lines.items():
        yield _listed(alike), _fate(fate)


def _names() -> str:
    parts = ["## Names\n"]
    for kind in KINDS:
        names = kind.names.split()
        there = [name for name in names if _has(kind.ours, name)]
        rows = [(_listed(there), "same")]
        lines: dict[str, list[str]] = {}
        for name in names:
            if name not in there:
                lines.setdefault(kind.fates.get(name, "not there yet"), []).append(name)
        rows += [(_listed(alike), fate) for fate, alike in lines.items()]
        parts.append(f"### {kind.title}\n\n{_table('name in Celery', iter(rows))}")
    return "\n".join(parts)


def _has(ours: Any, name: str) -> bool:
    # Attributes of instances are annotated, or set by the constructor.
    return hasattr(ours, name) or name in getattr(ours, "__annotations__", {}) or name in _SET_LATER


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
    known = {name: getattr(signals, name, None) for name in SIGNALS}
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
