"""What became of settings and options of Celery that do not exist here.

Whoever uses one is told, in an error, and docs/from-celery.md is made from the same texts. A
setting or option that comes to exist has no line here any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from zmqtasks import celery_names

PAGE: Final = "docs/from-celery.md"
#: Of what may come.
NOT_YET: Final = "is not supported yet; leave it out"

_NO_BROKER: Final = "there is no broker to connect to, nodes find each other; leave it out"
_QUEUES: Final = (
    "a queue is a name that workers choose (queues=, --queues) and calls give (queue=, "
    "task_routes), nothing to be declared; leave it out"
)
_KEY: Final = "nodes trust those that have the mesh key: zmqtasks keygen, key_file"
_STORE: Final = "results need no back end, and store=URL names one for nodes with the role store"
_DONE_ANYWAY: Final = "it is so anyway; leave it out"
_LOGS: Final = "log_format is text or json, log_level says how much; handlers of your own are kept"
_CHORDS: Final = "nothing counts or asks for the results of a chord; leave it out"

#: {setting of Celery: the same here}; ``app.conf`` knows both names.
RENAMED: Final[Mapping[str, str]] = {
    "result_backend": "store",
    "result_expires": "result_keep_s",
    "task_default_queue": "default_queue",
    "worker_concurrency": "concurrency",
    "worker_max_memory_per_child": "max_memory_per_child",
    "worker_max_tasks_per_child": "max_tasks_per_child",
    "worker_pool": "pool",
}
#: {setting or option: the value that says what is so here anyway}; any other is refused.
AS_IT_IS: Final[Mapping[str, object]] = {
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "task_acks_late": True,
    "task_create_missing_queues": True,
    "task_publish_retry": True,
    "task_reject_on_worker_lost": True,
    "task_remote_tracebacks": True,
    "task_store_errors_even_if_ignored": True,
    "task_track_started": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_disable_rate_limits": False,
    "worker_enable_remote_control": True,
    "worker_hijack_root_logger": False,
    "worker_prefetch_multiplier": 1,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "retry": True,
    "store_errors_even_if_ignored": True,
    "track_started": True,
    "trail": True,
    "typing": True,
}
#: {beginning of names before Celery 4: of those since then}; the first that fits counts.
_BEGINNINGS: Final = (("CELERYBEAT_", "beat_"), ("CELERYD_", "worker_"), ("CELERY_", "task_"))
#: {name before Celery 4: name since then} of those that begin otherwise.
OLD_NAMES: Final[Mapping[str, str]] = {
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_WORKER_LOST_WAIT": "worker_lost_wait",
    "CELERY_DISABLE_RATE_LIMITS": "worker_disable_rate_limits",
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_ENABLE_REMOTE_CONTROL": "worker_enable_remote_control",
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_REDIRECT_STDOUTS": "worker_redirect_stdouts",
    "CELERY_REDIRECT_STDOUTS_LEVEL": "worker_redirect_stdouts_level",
    "CELERY_RESULT_DBURI": "database_url",
    "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS": "database_short_lived_sessions",
    "CELERY_RESULT_DB_TABLENAMES": "database_table_names",
    "CELERY_RESULT_ENGINE_OPTIONS": "database_engine_options",
    "CELERY_SEND_EVENTS": "worker_send_task_events",
    "CELERY_SEND_TASK_SENT_EVENT": "task_send_sent_event",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
}

#: {setting, or a pattern of such: what there is instead}; the first that fits counts.
SETTINGS: Final[Mapping[str, str]] = {
    "broker_url": _NO_BROKER,
    "broker_heartbeat*": "nodes hear of each other by heartbeat_ms and lost_ms; leave it out",
    "broker_use_ssl": _KEY,
    "broker_*": _NO_BROKER,
    "beat_cron_starting_deadline": "the key missed of an entry says what becomes of late ticks",
    "beat_*": "beats keep what they know among themselves and need no tuning; leave it out",
    "accept_content": NOT_YET,
    "result_accept_content": NOT_YET,
    "task_serializer": NOT_YET,
    "result_serializer": NOT_YET,
    "event_serializer": NOT_YET,
    "task_compression": NOT_YET,
    "result_compression": NOT_YET,
    "control_*": "commands need no queues; leave it out",
    "event_*": "events need no queues; leave it out",
    "result_exchange*": "results need no queues; leave it out",
    "result_persistent": "results are kept by nodes with the role store; leave it out",
    "result_cache_max": "a process holds the results that it has handles of; leave it out",
    "result_chord_*": _CHORDS,
    "result_backend_*": _STORE,
    "database_*": _STORE,
    "redis_*": _STORE,
    "mongodb_*": _STORE,
    "cache_*": _STORE,
    "cassandra_*": _STORE,
    "couchbase_*": _STORE,
    "arangodb_*": _STORE,
    "elasticsearch_*": _STORE,
    "s3_*": _STORE,
    "gcs_*": _STORE,
    "azureblockblob_*": _STORE,
    "cosmosdbsql_*": _STORE,
    "security_*": _KEY,
    "task_acks_late": (
        "a task that has not ended is always redelivered when its worker is lost, and "
        "idempotent=False is for those that must not run twice; leave it out"
    ),
    "task_reject_on_worker_lost": (
        "a task whose worker is lost is always redelivered, and dead after three workers; leave it "
        "out"
    ),
    "task_acks_on_failure_or_timeout": (
        "a failure and a time limit are final; autoretry_for= and raise Reject(requeue=True) try "
        "again"
    ),
    "task_default_delivery_mode": 'durability="disk" or "memory" says what a task survives',
    "task_create_missing_queues*": _QUEUES,
    "task_default_queue_type": _QUEUES,
    "task_default_exchange*": _QUEUES,
    "task_default_routing_key": _QUEUES,
    "task_queues": _QUEUES,
    "task_queue_max_priority": "priorities are 0 to 9 everywhere; leave it out",
    "task_protocol": "the protocol is agreed on by the nodes; leave it out",
    "task_publish_retry*": (
        "an accepted task is sent until somebody has it, and submit_timeout_s bounds the wait for "
        "room; leave it out"
    ),
    "task_remote_tracebacks": _DONE_ANYWAY,
    "task_track_started": _DONE_ANYWAY,
    "task_send_sent_event": "zmqtasks story ID tells what happened to a task; leave it out",
    "worker_send_task_events": "zmqtasks story ID tells what happened to a task; leave it out",
    "task_store_errors_even_if_ignored": _DONE_ANYWAY,
    "task_store_*": "what runs eagerly is in the process that called it; leave it out",
    "task_allow_error_cb_on_chord_header": (
        "the errback of a chord is called once, also if a member of its header fails; members may "
        "have errbacks of their own: link_error; leave it out"
    ),
    "worker_agent": "there is none; leave it out",
    "worker_autoscaler": "autoscale, --autoscale, goes by what waits; leave it out",
    "worker_cancel_long_running_tasks_on_connection_loss": (
        "tasks of an owner that is lost go on, and it or its heir learns how they ended; leave it "
        "out"
    ),
    "worker_soft_shutdown_timeout": "drain_timeout_s is how long a node that ends waits for tasks",
    "worker_enable_soft_shutdown_on_idle": "drain_timeout_s does it; leave it out",
    "worker_consumer": "the parts of a node cannot be replaced; leave it out",
    "worker_timer*": "the parts of a node cannot be replaced; leave it out",
    "worker_direct": "give the worker a queue of its own: --queues default,NAME",
    "worker_disable_rate_limits": "tasks without rate_limit have none; leave it out",
    "worker_deduplicate_successful_tasks": (
        "each task has one recorded outcome; idempotency_key= makes two calls one task"
    ),
    "worker_enable_remote_control": "who has the key may ask and tell nodes; leave it out",
    "worker_hijack_root_logger": _LOGS,
    "worker_log_*": _LOGS,
    "worker_task_log_format": _LOGS,
    "worker_redirect_stdouts*": "what tasks print goes to the log of their node; leave it out",
    "worker_lost_wait": "a dead child is noticed at once; leave it out",
    "worker_pool_*": "dead and stuck children are replaced; leave it out",
    "worker_proc_alive_timeout": "dead and stuck children are replaced; leave it out",
    "worker_*prefetch*": "workers take what they can start soon, and give back the rest",
    "worker_eta_task_limit": "tasks wait for their eta at their owners; leave it out",
    "worker_state_db": "what is revoked stands in the journals of owners; leave it out",
    "worker_detect_quorum_queues": _NO_BROKER,
}

#: {option of tasks or calls: what there is instead}
OPTIONS: Final[Mapping[str, str]] = {
    "acks_late": SETTINGS["task_acks_late"],
    "acks_on_failure": SETTINGS["task_acks_on_failure_or_timeout"],
    "acks_on_failure_or_timeout": SETTINGS["task_acks_on_failure_or_timeout"],
    "acks_on_timeout": SETTINGS["task_acks_on_failure_or_timeout"],
    "reject_on_worker_lost": SETTINGS["task_reject_on_worker_lost"],
    "track_started": _DONE_ANYWAY,
    "store_errors_even_if_ignored": _DONE_ANYWAY,
    "store_eager_result": "what runs eagerly is in the process that called it; leave it out",
    "trail": "results know their children and parents; leave it out",
    "typing": "arguments are always checked against the signature of the function; leave it out",
    "backend": _STORE,
    "send_events": SETTINGS["task_send_sent_event"],
    "connection": _NO_BROKER,
    "producer": _NO_BROKER,
    "publisher": _NO_BROKER,
    "router": "task_routes says where calls go; leave it out",
    "exchange": _QUEUES,
    "routing_key": _QUEUES,
    "mandatory": "a task that nobody can run shows in zmqtasks status; require_worker= raises",
    "delivery_mode": SETTINGS["task_default_delivery_mode"],
    "retry": SETTINGS["task_publish_retry*"],
    "retry_policy": SETTINGS["task_publish_retry*"],
    "timeout": "submit_timeout_s bounds the wait for room; leave it out",
    "abstract": "a class of tasks is no task; leave it out",
    "autoregister": "app.task makes a task, plain functions stay what they are; leave it out",
    "from_config": "task_annotations sets options of tasks; leave it out",
    "lazy": "a task is one as soon as it is defined; leave it out",
    "shared": "shared_task is for tasks of all applications; leave it out",
    "shadow_name": "shadow= of a call is the text to show",
    "resultrepr_maxsize": "results are not logged; leave it out",
    "add_to_parent": "a task that another one submits is its child; leave it out",
    "parent_id": "the task that submits another one is its parent; leave it out",
    "root_id": "the first of a line of parents is known of each task; leave it out",
    "group_id": "write group(...); leave it out",
    "group_index": "write group(...); leave it out",
    "replaced_task_nesting": "a replacement may be replaced as often as you like; leave it out",
    "reply_to": "results are published, there is no queue for them; leave it out",
    "result_cls": "the class of results cannot be replaced; leave it out",
    "retries": "only retries are counted as such; leave it out",
    "route_name": "routes go by the name of the task; leave it out",
    "task_type": "routes get the task; leave it out",
    "declare": _QUEUES,
    "exchange_type": _QUEUES,
    "confirm_timeout": "submit_timeout_s bounds the wait for the disk; leave it out",
    "stamped_headers": "stamps= of a call, or sig.stamp(...)",
    "chain": "write chain(first, second); leave it out",
    "chord": "write chord(header, body); leave it out",
    "immutable": "that is about signatures: task.si(...) or sig.set(immutable=True)",
    "request_stack": "the parts of a task cannot be replaced; leave it out",
    "Request": "the parts of a task cannot be replaced; leave it out",
    "Strategy": "the parts of a task cannot be replaced; leave it out",
}


#: {argument of Celery(...): what there is instead}
ARGUMENTS: Final[Mapping[str, str]] = {
    "amqp": _NO_BROKER,
    "autofinalize": "the first use of an App ends its configuration; leave it out",
    "backend": _STORE,
    "broker": _NO_BROKER,
    "changes": "settings are arguments of App and keys of app.conf",
    "config_source": "app.config_from_object",
    "control": "the parts of an App cannot be replaced; leave it out",
    "events": "the parts of an App cannot be replaced; leave it out",
    "fixups": "app.config_from_object and app.autodiscover_tasks know Django; leave it out",
    "loader": "--app names the module of an App; leave it out",
    "log": "the parts of an App cannot be replaced; leave it out",
    "main": "the name comes first: App('shop')",
    "namespace": "app.config_from_object(..., namespace=...)",
    "strict_typing": "arguments are always checked; leave it out",
    "tasks": "app.task and app.register_task make tasks; leave it out",
}


def line_of(setting: str) -> str | None:
    """The key of the line of ``SETTINGS`` that is about it."""
    return next((line for line in SETTINGS if fnmatchcase(setting, line)), None)


def is_so_anyway(name: str, value: object) -> bool:
    """Whether a setting or an option asks for what is always so."""
    return name in AS_IT_IS and value is AS_IT_IS[name]


def new_name(setting: str) -> str | None:
    """The name of a setting in capitals since Celery 4; None: it is none of Celery's."""
    found = OLD_NAMES.get(setting)
    if found is not None:
        return found
    plain = setting.lower()
    names = [plain, plain.removeprefix("celery_")]
    for old, new in _BEGINNINGS:
        if setting.startswith(old):
            names.append(new + setting.removeprefix(old).lower())
    return next((name for name in names if name in celery_names.SETTINGS), None)


def told_setting(setting: str) -> str | None:
    """What to tell somebody who uses this setting; None: it is none of Celery's."""
    if setting in RENAMED:
        return f"setting {setting!r} of Celery is {RENAMED[setting]!r} here ({PAGE}: {setting})"
    line = line_of(setting)
    if line is None and setting in ARGUMENTS:
        return f"argument {setting!r} of Celery(): {ARGUMENTS[setting]} ({PAGE}: {setting})"
    if line is None:
        new = new_name(f"CELERY_{setting.upper()}")
        return f"setting {setting!r} is {new!r} since version 4 of Celery" if new else None
    return f"setting {setting!r} of Celery{_told(SETTINGS[line])} ({PAGE}: {line})"


def told_option(option: str) -> str:
    """The same for an option of tasks or calls that Celery has."""
    return f"option {option!r} of Celery{_told(OPTIONS.get(option, NOT_YET))} ({PAGE}: {option})"


def _told(fate: str) -> str:
    return f" {fate}" if fate == NOT_YET else f": {fate}"
