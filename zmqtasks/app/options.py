"""Options of tasks and calls: known ones, unknown ones, and Celery's that do not exist yet.

An option that zmqtasks does not know is refused, never stored: a time limit that is
silently not applied is worse than an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypedDict

from zmqtasks.errors import ConfigError
from zmqtasks.settings_checks import DURABILITIES
from zmqtasks.settings_sources import nearest

Delivery = Literal["at_least_once", "at_most_once"]
DELIVERIES: tuple[str, ...] = ("at_least_once", "at_most_once")
DurabilityName = Literal["memory", "disk"]


class TaskOptions(TypedDict, total=False):
    """Options of ``@app.task(...)`` besides ``bind``."""

    #: Name of the task; by default module and function name.
    name: str
    #: Queue of calls that name none.
    queue: str
    #: Class of the task object, a subclass of :class:`zmqtasks.Task`.
    base: type[Any]
    #: Attributes of the task object for your own use.
    attributes: Mapping[str, Any]
    #: "memory" or "disk", for calls that say nothing; by default the setting of that name.
    durability: DurabilityName | None
    #: False: running it twice does harm, so it is started at most once and ends as
    #: WorkerLostError when its worker dies.
    idempotent: bool


class CallOptions(TypedDict, total=False):
    """Options of ``apply_async`` and ``send_task``. A value None counts as not given."""

    #: Queue of this call.
    queue: str | None
    #: A UUID, or any text that names the task (the same text gives the same id).
    task_id: str | None
    #: Facts that travel with the task: names and plain values.
    headers: Mapping[str, Any] | None
    #: "at_least_once", or "at_most_once" for fast and loose.
    delivery: Delivery
    #: Raise NoWorkers unless a worker that can run it is in sight within so many seconds.
    require_worker: float | None
    #: "disk": return once it is on disk; "memory": it need not survive its producer.
    durability: DurabilityName | None
    #: Any text: another call of this task with the same key and arguments is the same task,
    #: one with other arguments is refused.
    idempotency_key: str | None


TASK_OPTIONS = frozenset({"bind", *TaskOptions.__annotations__})
CALL_OPTIONS = frozenset(CallOptions.__annotations__)

#: Task options of Celery that do not exist here yet.
_CELERY_TASK_OPTIONS = frozenset(
    """
    abstract acks_late acks_on_failure acks_on_failure_or_timeout acks_on_timeout autoregister
    autoretry_for backend compression default_retry_delay dont_autoretry_for expires
    ignore_result max_retries priority pydantic pydantic_context pydantic_dump_kwargs
    pydantic_strict rate_limit reject_on_worker_lost request_stack Request resultrepr_maxsize
    retry_backoff retry_backoff_max retry_jitter retry_kwargs send_events serializer shared
    soft_time_limit store_eager_result store_errors_even_if_ignored Strategy throws time_limit
    track_started trail typing
    """.split()
)
#: Call options of Celery that do not exist here yet.
_CELERY_CALL_OPTIONS = frozenset(
    """
    add_to_parent chain chord compression connection countdown delivery_mode eta exchange expires
    group_id group_index ignore_result immutable link link_error mandatory parent_id priority
    producer publisher reply_to retry retry_policy root_id router routing_key serializer shadow
    soft_time_limit stamped_headers stamps time_limit timeout
    """.split()
)
#: Methods of Celery's Task that would have to be called, and are not yet.
_CELERY_HANDLERS = frozenset(
    {"after_return", "before_start", "on_bound", "on_failure", "on_retry", "on_success"}
)
#: What travels in headers without loss.
_PLAIN = (str, int, float, bool, bytes, type(None))
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1


def check_task_options(options: Mapping[str, object], where: str) -> None:
    """Refuse options of a task that do not exist, or can be seen to be wrong.

    Args:
        where: names the task, for the message.

    Raises:
        ConfigError: an unknown option, with the nearest name, or a bad value.
    """
    for key in options:
        if key not in TASK_OPTIONS:
            raise _unknown(where, key, TASK_OPTIONS, _CELERY_TASK_OPTIONS, _OWN_ATTRIBUTES)
    if options.get("durability") is not None:
        _check_durability("durability", options["durability"], where)
    idempotent = options.get("idempotent", True)
    if not isinstance(idempotent, bool):
        raise ConfigError(f"{where}: idempotent must be True or False, not {idempotent!r:.75}")


def check_call_options(options: Mapping[str, object], where: str) -> None:
    """Refuse options of a call that do not exist or have a wrong value.

    Raises:
        ConfigError: an unknown option with the nearest name, a bad value, or options that
            contradict each other.
    """
    for key, value in options.items():
        if key not in CALL_OPTIONS:
            raise _unknown(where, key, CALL_OPTIONS, _CELERY_CALL_OPTIONS, "")
        check = _CALL_CHECKS.get(key)
        if check is not None and value is not None:
            check(key, value, where)
    if len(options) > 1:
        _check_conflicts(options, where)


def _check_delivery(key: str, value: object, where: str) -> None:
    if value not in DELIVERIES:
        raise ConfigError(f"{where}: {key} must be {' or '.join(DELIVERIES)}, not {value!r}")


def _check_wait(key: str, value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ConfigError(f"{where}: {key} is seconds, 0 or more, not {value!r}")


def _check_durability(key: str, value: object, where: str) -> None:
    if value in DURABILITIES:
        return
    likely = nearest(value, DURABILITIES) if isinstance(value, str) else None
    hint = f"; did you mean {likely!r}?" if likely else ""
    raise ConfigError(
        f"{where}: {key} must be {' or '.join(DURABILITIES)}, not {value!r:.75}{hint}"
    )


def _check_name(key: str, value: object, where: str) -> None:
    """What names a task: its id, or the key that its id is made of."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {key} is a text that is not empty, not {value!r:.75}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{where}: {key} = {value!r:.75} has a lone surrogate, which is no character; use "
            "os.fsencode(...).hex() for the name of a file"
        ) from None


def _check_conflicts(options: Mapping[str, object], where: str) -> None:
    key = options.get("idempotency_key")
    if key is not None and options.get("task_id") is not None:
        raise ConfigError(
            f"{where}: task_id and idempotency_key both name the task; leave one of them out"
        )
    if options.get("delivery") != "at_most_once":
        return
    if key is not None:
        raise ConfigError(
            f"{where}: delivery='at_most_once' forgets a call once it is sent, so nobody would "
            "know its idempotency_key the next time; leave one of them out"
        )
    if options.get("durability") == "disk":
        raise ConfigError(
            f"{where}: delivery='at_most_once' forgets a call once it is sent, so it cannot have "
            "durability='disk'; leave one of them out"
        )


def check_base(base: type[Any], where: str) -> None:
    """Refuse a base class whose handlers would never be called.

    Raises:
        ConfigError: it defines one of Celery's task handlers.
    """
    for cls in base.__mro__:
        found = _CELERY_HANDLERS & vars(cls).keys()
        if found:
            raise ConfigError(
                f"{where}: base class {cls.__qualname__} defines {min(found)}(), and task "
                "handlers are not supported yet: nothing would call it"
            )


_OWN_ATTRIBUTES = "; attributes of your own go into attributes={...} or a base class"


def _check_headers(_key: str, headers: object, where: str) -> None:
    if not isinstance(headers, Mapping):
        raise ConfigError(f"{where}: headers are a dict, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: names of headers are texts, not {name!r:.75}")
        if type(value) not in _PLAIN or (
            isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX
        ):
            raise ConfigError(
                f"{where}: header {name!r} is of type {type(value).__name__}; headers carry "
                "None, bool, int (64 bits), float, str and bytes, the rest belongs in arguments"
            )


#: {call option: function that refuses a bad value}; the queue is checked where it is used.
_CALL_CHECKS: Mapping[str, Callable[[str, object, str], None]] = {
    "task_id": _check_name,
    "headers": _check_headers,
    "delivery": _check_delivery,
    "require_worker": _check_wait,
    "durability": _check_durability,
    "idempotency_key": _check_name,
}


def _unknown(
    where: str, key: str, known: Collection[str], celery: Collection[str], hint: str
) -> ConfigError:
    if key in celery:
        return ConfigError(f"{where}: option {key!r} of Celery is not supported yet; leave it out")
    likely = nearest(key, known)
    if likely:
        return ConfigError(f"{where}: unknown option {key!r}; did you mean {likely!r}?{hint}")
    names = ", ".join(sorted(known))
    return ConfigError(f"{where}: unknown option {key!r}; there are {names}{hint}")
