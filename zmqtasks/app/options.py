"""Options of tasks and calls: known ones, unknown ones, and Celery's that do not exist yet.

An option that zmqtasks does not know is refused, never stored: a time limit that is
silently not applied is worse than an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypedDict

from zmqtasks.errors import ConfigError
from zmqtasks.settings_sources import nearest

Delivery = Literal["at_least_once", "at_most_once"]
DELIVERIES: tuple[str, ...] = ("at_least_once", "at_most_once")


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
    """Refuse options of a task that do not exist.

    Args:
        where: names the task, for the message.

    Raises:
        ConfigError: an unknown option, with the nearest name.
    """
    for key in options:
        if key not in TASK_OPTIONS:
            raise _unknown(where, key, TASK_OPTIONS, _CELERY_TASK_OPTIONS, _OWN_ATTRIBUTES)


def check_call_options(options: Mapping[str, object], where: str) -> None:
    """Refuse options of a call that do not exist or have a wrong value.

    Raises:
        ConfigError: an unknown option with the nearest name, or a bad value.
    """
    for key in options:
        if key not in CALL_OPTIONS:
            raise _unknown(where, key, CALL_OPTIONS, _CELERY_CALL_OPTIONS, "")
    delivery = options.get("delivery")
    if delivery is not None and delivery not in DELIVERIES:
        raise ConfigError(f"{where}: delivery must be {' or '.join(DELIVERIES)}, not {delivery!r}")
    wait = options.get("require_worker")
    if wait is not None and (
        isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait < 1e9
    ):
        raise ConfigError(f"{where}: require_worker is seconds, 0 or more, not {wait!r}")
    task_id = options.get("task_id")
    if task_id is not None and (not isinstance(task_id, str) or not task_id):
        raise ConfigError(f"{where}: task_id is a text that is not empty, not {task_id!r}")
    if options.get("headers") is not None:
        _check_headers(options["headers"], where)


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


def _check_headers(headers: object, where: str) -> None:
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
