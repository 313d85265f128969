"""Further attempts that tasks ask for: ``self.retry`` and ``autoretry_for``.

An attempt ends once. What it asked for is told to its owner when it ends, and the owner
lets the task wait; nothing runs or waits here meanwhile. Source: docs/howto/tasks.md.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app import timing
from zmqtasks.app.option_checks import check_count
from zmqtasks.app.options import CallOptions, check_retry_options
from zmqtasks.app.submitting import check_arguments
from zmqtasks.errors import MaxRetriesExceededError, Retry
from zmqtasks.ids import format_task_id
from zmqtasks.limits import REQUEUE_DELAY_MS, REQUEUE_DELAY_MS_MAX
from zmqtasks.pools.protocol import RunTask
from zmqtasks.wire.payload import decode_arguments

if TYPE_CHECKING:
    from zmqtasks.app.task import Task

#: Doublings after which a delay has long reached any maximum.
_DOUBLINGS_MAX = 60
#: Facts of a call: how often it was retried, and rejected to be run again.
RETRIES_KEY, REQUEUES_KEY, FIRST_KEY = "n", "rq", "at"


class RetryPlan(NamedTuple):
    """What the owner is told; see ``ChildOutcome.ext``."""

    delay_ms: int
    #: New arguments, None for the same.
    body: bytes | None
    #: Facts that replace those of the call.
    ext: dict[str, Any]


class Wish(NamedTuple):
    """What ``retry`` was called with; None: nothing was said."""

    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    exc: BaseException | None = None
    eta: datetime | None = None
    countdown: float | None = None
    max_retries: int | None = None
    options: Mapping[str, Any] = {}


#: {(id, attempt): the Retry that it has not raised, or the error that ended its retries}
#: of attempts that run here.
asked: dict[tuple[bytes, int], BaseException] = {}


def count_of(run: RunTask, key: str) -> int:
    """One of the counts among the facts of a call, 0 when it has none."""
    found = (run.ext or {}).get(key)
    return found if isinstance(found, int) else 0


def lost_attempts_of(run: RunTask) -> int:
    """How many earlier attempts may have run in part: those that asked for another did not
    end that way."""
    asked_for = count_of(run, RETRIES_KEY) + count_of(run, REQUEUES_KEY)
    return max(0, run.attempt - (count_of(run, FIRST_KEY) or 1) - asked_for)


def planned_retry(task: Task[Any, Any], run: RunTask, wish: Wish) -> Retry:
    """The Retry of an attempt, with its plan.

    Raises:
        BaseException: ``wish.exc``, or MaxRetriesExceededError when there is none: the
            retries are used up.
        ConfigError: an option that a retry cannot change, or a bad value.
        TypeError: new arguments do not fit the function.
        SubmitRejected: new arguments cannot travel.
    """
    where = f"{task.name}.retry()"
    options: dict[str, Any] = {**wish.options, "countdown": wish.countdown, "eta": wish.eta}
    check_retry_options(options, where)
    if wish.max_retries is not None:
        check_count("max_retries", wish.max_retries, where)
    limit = task.max_retries if wish.max_retries is None else wish.max_retries
    if limit is not None and count_of(run, RETRIES_KEY) >= limit:
        error = wish.exc or MaxRetriesExceededError(
            f"task {task.name}[{format_task_id(run.id)}] asked for more than {limit} retries"
        )
        asked[run.id, run.attempt] = error
        raise error
    if wish.countdown is None and wish.eta is None:
        options["countdown"] = task.default_retry_delay
    ext = _facts(task, options, where)
    now_ms = timing.now_ms()
    delay_ms = max(0, ext.pop("eta", now_ms) - now_ms)
    found = Retry(exc=wish.exc, when=wish.eta or options["countdown"])
    found.plan = RetryPlan(delay_ms, _new_arguments(task, run, wish), ext)
    return found


def _facts(task: Task[Any, Any], options: dict[str, Any], where: str) -> dict[str, Any]:
    complete: CallOptions = options  # type: ignore[assignment]  # its keys are checked
    ext = task.app.rules.facts_of_call(complete, task, where)
    if options.get("priority") == 0:
        ext["pri"] = 0  # it may have had another one
    if options.get("headers") is not None:
        ext["h"] = dict(options["headers"])
    return ext


def _new_arguments(task: Task[Any, Any], run: RunTask, wish: Wish) -> bytes | None:
    if wish.args is None and wish.kwargs is None:
        return None
    old_args, old_kwargs = decode_arguments(run.body)
    args = old_args if wish.args is None else wish.args
    kwargs = old_kwargs if wish.kwargs is None else wish.kwargs
    check_arguments(args, kwargs, f"{task.name}.retry()")
    signature = task.call_signature
    signature.match(*args, **kwargs)
    return task.app.encode_arguments(args, kwargs, signature.names)


def requeue_delay_ms(requeues: int) -> int:
    """How long a task waits after it rejected itself for the so-many-th time: one that nobody
    takes keeps no worker busy with asking."""
    return min(REQUEUE_DELAY_MS << min(requeues - 1, _DOUBLINGS_MAX), REQUEUE_DELAY_MS_MAX)


def automatic(task: Task[Any, Any], run: RunTask, exc: BaseException) -> Wish | None:
    """What a task asks for by itself after this error; None: nothing."""
    if not task.autoretry_for or not isinstance(exc, _classes(task.autoretry_for)):
        return None
    if isinstance(exc, _classes(task.dont_autoretry_for)):
        return None
    countdown = task.retry_kwargs.get("countdown")
    if task.retry_backoff:
        countdown = backoff_s(task, count_of(run, RETRIES_KEY))
    return Wish(exc=exc, countdown=countdown, max_retries=task.retry_kwargs.get("max_retries"))


def backoff_s(task: Task[Any, Any], retries: int) -> float:
    """Seconds before the next retry of a task with ``retry_backoff``."""
    # True counts as 1.
    whole = float(task.retry_backoff) * 2 ** min(retries, _DOUBLINGS_MAX)
    longest = min(whole, task.retry_backoff_max)
    return random.uniform(0, longest) if task.retry_jitter else longest  # noqa: S311 - no secret


def _classes(classes: Any) -> tuple[type[BaseException], ...]:
    found: tuple[type[BaseException], ...] = classes  # made a tuple when it was set
    return found


def is_expected(task: Task[Any, Any], exc: BaseException) -> bool:
    """Whether the task said that it may raise this."""
    return isinstance(exc, _classes(task.throws))
