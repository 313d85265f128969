"""What became of settings and options of Celery that do not exist here.

Whoever uses one is told, in an error, and docs/from-celery.md is made from the same texts. A
setting or option that comes to exist has no line here any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

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

#: {setting, or a pattern of such: what there is instead}; the first that fits counts.
SETTINGS: Final[Mapping[str, str]] = {
    "broker": _NO_BROKER,
    "backend": _STORE,
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
    "couchdb_*": _STORE,
    "arangodb_*": _STORE,
    "dynamodb_*": _STORE,
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
    "task_store_*": NOT_YET,
    "task_allow_error_cb_on_chord_header": NOT_YET,
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
    "chain": "write chain(first, second); leave it out",
    "chord": "write chord(header, body); leave it out",
    "immutable": "that is about signatures: task.si(...) or sig.set(immutable=True)",
    "request_stack": "the parts of a task cannot be replaced; leave it out",
    "Request": "the parts of a task cannot be replaced; leave it out",
    "Strategy": "the parts of a task cannot be replaced; leave it out",
}


def line_of(setting: str) -> str | None:
    """The key of the line of ``SETTINGS`` that is about it."""
    return next((line for line in SETTINGS if fnmatchcase(setting, line)), None)


def told_setting(setting: str) -> str | None:
    """What to tell somebody who uses this setting; None: it is none of Celery's."""
    line = line_of(setting)
    if line is None:
        return None
    return f"setting {setting!r} of Celery{_told(SETTINGS[line])} ({PAGE}: {line})"


def told_option(option: str) -> str:
    """The same for an option of tasks or calls that Celery has."""
    return f"option {option!r} of Celery{_told(OPTIONS.get(option, NOT_YET))} ({PAGE}: {option})"


def _told(fate: str) -> str:
    return f" {fate}" if fate == NOT_YET else f": {fate}"
