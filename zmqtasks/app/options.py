"""Options of tasks and calls: known ones, unknown ones, and Celery's that do not exist yet.

An option that zmqtasks does not know is refused, never stored: a time limit that is
silently not applied is worse than an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Literal, TypedDict

from zmqtasks import celery_names
from zmqtasks.app import option_checks as checks
from zmqtasks.app.awaited import After, check_after
from zmqtasks.app.option_checks import Check
from zmqtasks.celery_fates import is_so_anyway, told_option
from zmqtasks.errors import ConfigError
from zmqtasks.settings_sources import nearest

Delivery = Literal["at_least_once", "at_most_once"]
DurabilityName = Literal["memory", "disk"]
#: One class of exceptions or several.
Exceptions = type[BaseException] | Sequence[type[BaseException]]
#: Tags that a worker must have; one text would be a sequence of letters.
Tags = list[str] | tuple[str, ...] | AbstractSet[str]


#: A signature (a dict, as they all are), or several.
Links = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class TaskOptions(TypedDict, total=False):
    """Options of ``@app.task(...)`` besides ``bind``."""

    #: Name of the task; by default module and function name.
    name: str
    #: Queue of calls that name none.
    queue: str | None
    #: Class of the task object, a subclass of :class:`zmqtasks.Task`.
    base: type[Any]
    #: Attributes of the task object for your own use.
    attributes: Mapping[str, Any]
    #: "memory" or "disk", for calls that say nothing; by default the setting of that name.
    durability: DurabilityName | None
    #: False: running it twice does harm, so it is started at most once and ends as
    #: WorkerLostError when its worker dies.
    idempotent: bool
    #: 0 to 9, which goes first; of calls that say nothing.
    priority: int | None
    #: Seconds from the call, or the moment, after which it is not started any more.
    expires: float | datetime | None
    #: Seconds that an attempt may run; then its process is ended.
    time_limit: float | None
    #: Seconds after which SoftTimeLimitExceeded is raised in the task.
    soft_time_limit: float | None
    #: "10/s", "10/m", "10/h" or a number a second: how many each worker starts.
    rate_limit: str | float | None
    #: The same for all workers together.
    mesh_rate_limit: str | float | None
    #: Amounts of what a worker must have free: {"gpu": 1, "ram_mb": 4000}.
    resources: Mapping[str, float] | None
    #: Tags that a worker must have, all of them.
    tags: Tags | None
    #: Retries before it fails; None: it is tried for ever.
    max_retries: int | None
    #: Seconds before a retry that says nothing.
    default_retry_delay: float
    #: Exceptions after which it is retried without further ado.
    autoretry_for: Exceptions
    #: Those of them after which it is not.
    dont_autoretry_for: Exceptions
    #: ``max_retries`` and ``countdown`` of such retries.
    retry_kwargs: Mapping[str, Any]
    #: True, or seconds: such retries wait twice as long each time, beginning with this.
    retry_backoff: bool | float
    #: Seconds that they wait at most.
    retry_backoff_max: float
    #: They wait for a random part of that time.
    retry_jitter: bool
    #: Expected exceptions: logged without a traceback.
    throws: Exceptions
    #: What it returns is not kept, for calls that say nothing; None: the setting decides.
    ignore_result: bool | None


class CallOptions(TypedDict, total=False):
    """Options of ``apply_async`` and ``send_task``. A value None counts as not given."""

    #: Queue of this call.
    queue: str | None
    #: A UUID, or any text that names the task (the same text gives the same id).
    task_id: str | None
    #: Facts that travel with the task: names and plain values.
    headers: Mapping[str, Any] | None
    #: The same for ``revoke_by_stamped_headers``, with one value or several each.
    stamps: Mapping[str, Any] | None
    #: "at_least_once", or "at_most_once" for fast and loose.
    delivery: Delivery
    #: Raise NoWorkers unless a worker that can run it is in sight within so many seconds.
    require_worker: float | None
    #: "disk": return once it is on disk; "memory": it need not survive its producer.
    durability: DurabilityName | None
    #: Any text: another call of this task with the same key and arguments is the same task,
    #: one with other arguments is refused.
    idempotency_key: str | None
    #: Start it no sooner than in so many seconds.
    countdown: float | None
    #: Start it no sooner than at this moment.
    eta: datetime | None
    #: Do not start it any more after so many seconds, or after this moment.
    expires: float | datetime | None
    #: Start it when these (results, or ids) have succeeded; it ends as they do if one does not.
    after: After | None
    #: Signatures to call with its result when it has succeeded.
    link: Links | None
    #: Signatures to call when it has failed.
    link_error: Links | None
    #: 0 to 9, which goes first.
    priority: int | None
    #: Seconds that an attempt may run; then its process is ended.
    time_limit: float | None
    #: Seconds after which SoftTimeLimitExceeded is raised in the task.
    soft_time_limit: float | None
    #: Texts to show in place of positional and keyword arguments.
    argsrepr: str | None
    kwargsrepr: str | None
    #: Text to show in place of the name of the task.
    shadow: str | None
    #: What it returns is not kept: its result is None.
    ignore_result: bool | None
    #: Amounts of what a worker must have free: {"gpu": 1, "ram_mb": 4000}.
    resources: Mapping[str, float] | None
    #: Tags that a worker must have, all of them.
    tags: Tags | None


TASK_OPTIONS = frozenset({"bind", *TaskOptions.__annotations__})
#: Task options that are attributes of the task, and may be changed there.
TASK_ATTRIBUTES = TASK_OPTIONS - {"bind", "name", "base", "attributes"}
CALL_OPTIONS = frozenset(CallOptions.__annotations__)
#: Call options that a route may have.
ROUTE_OPTIONS = frozenset(
    {"queue", "priority", "expires", "time_limit", "soft_time_limit", "resources", "tags"}
)
#: Call options that a retry may have.
RETRY_OPTIONS = frozenset(
    """
    countdown eta expires priority time_limit soft_time_limit headers argsrepr kwargsrepr shadow
    """.split()
)

#: Options of Celery that do not exist here.
_CELERY_TASK_OPTIONS = celery_names.TASK_OPTIONS - TASK_OPTIONS
_CELERY_CALL_OPTIONS = celery_names.CALL_OPTIONS - CALL_OPTIONS
#: What Celery's base classes say about themselves that is so here anyway.
_TRUE_ANYWAY = frozenset({"abstract"})

#: {task option: its check}
_TASK_CHECKS: Mapping[str, Check] = {
    "queue": checks.check_queue,
    "durability": checks.check_durability,
    "idempotent": checks.check_bool,
    "priority": checks.check_priority,
    "expires": checks.check_expires,
    "time_limit": checks.check_limit,
    "soft_time_limit": checks.check_limit,
    "rate_limit": checks.check_rate,
    "mesh_rate_limit": checks.check_rate,
    "resources": checks.check_resources,
    "tags": checks.check_tags,
    "max_retries": checks.check_count,
    "default_retry_delay": checks.check_wait,
    "autoretry_for": checks.check_exceptions,
    "dont_autoretry_for": checks.check_exceptions,
    "retry_kwargs": checks.check_retry_kwargs,
    "retry_backoff": checks.check_backoff,
    "retry_backoff_max": checks.check_limit,
    "retry_jitter": checks.check_bool,
    "throws": checks.check_exceptions,
    "ignore_result": checks.check_bool,
}
#: Task options that may be None.
_MAYBE_NONE = frozenset(
    """
    queue durability priority expires time_limit soft_time_limit rate_limit mesh_rate_limit
    resources tags max_retries ignore_result
    """.split()
)
#: {call option: its check}; the queue is checked where it is used.
_CALL_CHECKS: Mapping[str, Check] = {
    "task_id": checks.check_name,
    "headers": checks.check_headers,
    "stamps": checks.check_stamps,
    "delivery": checks.check_delivery,
    "require_worker": checks.check_wait,
    "durability": checks.check_durability,
    "idempotency_key": checks.check_name,
    "after": check_after,
    "link": checks.check_links,
    "link_error": checks.check_links,
    "countdown": checks.check_span,
    "eta": checks.check_moment,
    "expires": checks.check_expires,
    "priority": checks.check_priority,
    "time_limit": checks.check_limit,
    "soft_time_limit": checks.check_limit,
    "argsrepr": checks.check_repr,
    "kwargsrepr": checks.check_repr,
    "shadow": checks.check_repr,
    "ignore_result": checks.check_bool,
    "resources": checks.check_resources,
    "tags": checks.check_tags,
}


def check_task_options(options: Mapping[str, object], where: str) -> None:
    """Refuse options of a task that do not exist, or can be seen to be wrong.

    Args:
        where: names the task, for the message.

    Raises:
        ConfigError: an unknown option, with the nearest name, or a bad value.
    """
    for key in options:
        if key not in TASK_OPTIONS and not is_so_anyway(key, options[key]):
            raise _unknown(where, key, TASK_OPTIONS, _CELERY_TASK_OPTIONS, _OWN_ATTRIBUTES)
    for key in options.keys() & TASK_ATTRIBUTES:
        check_task_option(key, options[key], where)
    _check_limits(options, where)


def check_task_option(key: str, value: object, where: str) -> None:
    """Refuse a value that this option of a task cannot have.

    Raises:
        ConfigError: names the task and what the option may be.
    """
    if value is not None or key not in _MAYBE_NONE:
        _TASK_CHECKS[key](key, value, where)


def check_call_options(options: Mapping[str, object], where: str) -> None:
    """Refuse options of a call that do not exist or have a wrong value.

    Raises:
        ConfigError: an unknown option with the nearest name, a bad value, or options that
            contradict each other.
    """
    for key, value in options.items():
        if key not in CALL_OPTIONS and not is_so_anyway(key, value):
            raise _unknown(where, key, CALL_OPTIONS, _CELERY_CALL_OPTIONS, "")
        check = _CALL_CHECKS.get(key)
        if check is not None and value is not None:
            check(key, value, where)
    if len(options) > 1:
        _check_conflicts(options, where)


def check_route(options: Mapping[str, object], where: str) -> None:
    """Refuse what a route cannot say.

    Raises:
        ConfigError: another option than those of :data:`ROUTE_OPTIONS`, or a bad value.
    """
    for key, value in options.items():
        if key not in ROUTE_OPTIONS:
            raise ConfigError(
                f"{where}: a route cannot say {key!r:.75}; it may have "
                f"{', '.join(sorted(ROUTE_OPTIONS))}"
            )
        if value is not None:
            _TASK_CHECKS[key](key, value, where)
    _check_limits(options, where)


def check_retry_options(options: Mapping[str, object], where: str) -> None:
    """Refuse what a retry cannot say.

    Raises:
        ConfigError: another option than those of :data:`RETRY_OPTIONS`, or a bad value.
    """
    for key in options.keys() & (CALL_OPTIONS - RETRY_OPTIONS):
        raise ConfigError(
            f"{where}: {key} stays as it is in a retry, which keeps its id and its queue; leave "
            "it out, or submit another task"
        )
    check_call_options(options, where)


def _check_conflicts(options: Mapping[str, object], where: str) -> None:
    if options.get("idempotency_key") is not None and options.get("task_id") is not None:
        raise ConfigError(
            f"{where}: task_id and idempotency_key both name the task; leave one of them out"
        )
    if options.get("countdown") is not None and options.get("eta") is not None:
        raise ConfigError(f"{where}: countdown and eta both say when; leave one of them out")
    _check_limits(options, where)
    if options.get("delivery") == "at_most_once":
        check_at_most_once(options, where)


#: {option: why delivery="at_most_once" contradicts it}
_NEED_AN_OWNER = {
    "idempotency_key": "nobody would know its idempotency_key the next time",
    "after": "nobody would hold it until others have ended, which after asks for",
    "link": "nobody would know when to call its link",
    "link_error": "nobody would call its link_error when it fails",
    "countdown": "nobody would hold it until it is due, which countdown asks for",
    "eta": "nobody would hold it until it is due, which eta asks for",
    "expires": "nobody would end it when it expires",
    "resources": "nobody would choose a worker that has the resources it needs",
    "tags": "nobody would choose a worker that has the tags it needs",
}


_MAY_BE_EMPTY = frozenset({"after", "link", "link_error", "resources", "tags"})


def check_at_most_once(options: Mapping[str, object], where: str) -> None:
    """Refuse what only an owner of the task could do, for calls that have none.

    Raises:
        ConfigError: names the option, the reason and the remedy.
    """
    forgets = f"{where}: delivery='at_most_once' forgets a call once it is sent, so"
    for key, why in _NEED_AN_OWNER.items():
        value = options.get(key)
        # An empty dict of resources asks for nothing.
        if value is not None and (value or key not in _MAY_BE_EMPTY):
            raise ConfigError(f"{forgets} {why}; leave one of them out")
    if options.get("durability") == "disk":
        raise ConfigError(f"{forgets} it cannot have durability='disk'; leave one of them out")


def _check_limits(options: Mapping[str, object], where: str) -> None:
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if isinstance(soft, (int, float)) and isinstance(hard, (int, float)) and soft >= hard:
        raise ConfigError(
            f"{where}: soft_time_limit {soft:g} is not below time_limit {hard:g}, so the task "
            "would be ended before it is told; make it smaller"
        )


def check_base(base: type[Any], where: str) -> None:
    """Refuse a base class whose options would have no effect.

    Raises:
        ConfigError: it defines one of Celery's that does not exist here yet.
    """
    for cls in base.__mro__:
        found = [
            key
            for key in (_CELERY_TASK_OPTIONS - _TRUE_ANYWAY) & vars(cls).keys()
            if not is_so_anyway(key, vars(cls)[key])
        ]
        if found:
            raise ConfigError(
                f"{where}: base class {cls.__qualname__}: {told_option(min(found))}, or give an "
                "attribute of your own another name"
            )


_OWN_ATTRIBUTES = "; attributes of your own go into attributes={...} or a base class"


def _unknown(
    where: str, key: str, known: Collection[str], celery: Collection[str], hint: str
) -> ConfigError:
    if key in celery:
        return ConfigError(f"{where}: {told_option(key)}")
    likely = nearest(key, known)
    if likely:
        return ConfigError(f"{where}: unknown option {key!r}; did you mean {likely!r}?{hint}")
    names = ", ".join(sorted(known))
    return ConfigError(f"{where}: unknown option {key!r}; there are {names}{hint}")
