"""How an attempt ended: from what its function raised to what its node is told."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from zmqtasks.app.context import EagerRun
from zmqtasks.app.fact_keys import CHORD_KEY, IGNORED_KEY, SHADOW_KEY
from zmqtasks.app.hooks import Ending, Told, begun
from zmqtasks.app.replaced import Replaced, ReplacedEagerly, added
from zmqtasks.app.retrying import (
    REQUEUES_KEY,
    RetryPlan,
    Wish,
    asked,
    automatic,
    count_of,
    is_expected,
    planned_retry,
    requeue_delay_ms,
)
from zmqtasks.app.streaming import counted
from zmqtasks.app.trail import taken
from zmqtasks.core.resultlog import ADDED_KEY, ITEMS_KEY
from zmqtasks.errors import Ignore, Reject, Retry
from zmqtasks.limits import ERROR_TEXT_CHARS_MAX, LOG_LINE_CHARS_MAX
from zmqtasks.pools.protocol import (
    REQUEUE_STATUS,
    RETRY_STATUS,
    ChildOutcome,
    LogRecord,
    RunTask,
)
from zmqtasks.wire.carried import pack_calls
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import encode_error

if TYPE_CHECKING:
    from zmqtasks.app.app import App

#: Code that calls task functions; what is above it in a traceback is of no interest.
_RUN_LAYERS: Final = (
    *(
        f"{os.sep}zmqtasks{os.sep}app{os.sep}{module}.py"
        for module in ("childmain", "depends", "hooks", "middleware", "streaming")
    ),
    f"{os.sep}contextlib.py",
    f"{os.sep}zmqtasks{os.sep}pools{os.sep}softlimit.py",
    f"{os.sep}asyncio{os.sep}",
)


class MayHaveRun(Exception):
    """An attempt of a task that must not run twice, and that an earlier one may have run."""


class Endings:
    """Makes the outcomes of attempts that did not simply return a value.

    Args:
        app: whose tasks run here.
        tell: sends a line for the node's log.
        log_level: name of the level below which none is sent.
        passes: exceptions that are not the task's own and go through its handlers, too.
    """

    def __init__(
        self,
        app: App,
        tell: Callable[[LogRecord], None],
        log_level: str,
        passes: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._tasks = app.tasks
        self._tell = tell
        self._passes = passes
        self._level: int = logging.getLevelNamesMapping()[log_level]

    def returned(
        self, run: RunTask, started_ms: int, run_us: int, value: Any, body: bytes
    ) -> ChildOutcome:
        """The outcome of one that returned, if there may be more to say about it than that."""
        key = run.id, run.attempt
        ext = _told_of(run) or {}
        joining = added.pop(key, None)
        noted = asked.pop(key, None)
        if isinstance(noted, Retry):
            outcome = self._retry(run, started_ms, run_us, noted)
            self._tell_hooks(run, outcome.status, noted)
            return outcome
        self._tell_hooks(run, Status.SUCCESS, value)
        if joining:
            ext[ADDED_KEY] = joining if isinstance(run, EagerRun) else pack_calls(joining)
        return _outcome(run, Status.SUCCESS, started_ms, run_us, "", body, ext or None)

    def raised(
        self, run: RunTask, started_ms: int, run_us: int, exc: BaseException
    ) -> ChildOutcome:
        """The outcome of one that raised."""
        ext = _told_of(run)
        added.pop((run.id, run.attempt), None)
        outcome, cause = self._ended(run, started_ms, run_us, exc)
        if outcome.ext is None:
            outcome.ext = ext
        if begun:
            status = Status.IGNORED if isinstance(cause, Ignore) else outcome.status
            self._tell_hooks(run, status, cause)
        return outcome

    def forget(self, run: RunTask) -> None:
        """An attempt that was interrupted: nobody is told how it ended."""
        asked.pop((run.id, run.attempt), None)
        begun.pop((run.id, run.attempt), None)
        _told_of(run)
        added.pop((run.id, run.attempt), None)

    def _tell_hooks(self, run: RunTask, status: int, value: Any) -> None:
        start = begun.pop((run.id, run.attempt), None)
        if start is None:
            return

        def failed(name: str, exc: BaseException) -> None:
            self._log(
                run,
                logging.ERROR,
                f"{name}() raised, which changes nothing about the outcome: {short_text(exc)}\n"
                f"{trace_of(exc).rstrip()}",
            )

        Ending(start, Told(run, status, value), failed, self._passes).tell()
        if asked.pop((run.id, run.attempt), None) is not None:
            self._log(run, logging.WARNING, "a handler asked for a retry, which is too late")

    def _ended(
        self, run: RunTask, started_ms: int, run_us: int, exc: BaseException
    ) -> tuple[ChildOutcome, BaseException]:
        """The outcome, and what it comes from in the end."""
        if isinstance(exc, MayHaveRun):
            self._log(run, logging.ERROR, str(exc))
            return _outcome(run, Status.WORKER_LOST, started_ms, run_us, str(exc)), exc
        if isinstance(exc, (Replaced, ReplacedEagerly)):
            asked.pop((run.id, run.attempt), None)
            return self._replaced(run, started_ms, run_us, exc), exc
        if isinstance(exc, Ignore):
            asked.pop((run.id, run.attempt), None)
            self._log(run, logging.INFO, "ended as IGNORED")
            return _outcome(run, Status.IGNORED, started_ms, run_us), exc
        if isinstance(exc, Reject):
            asked.pop((run.id, run.attempt), None)
            return self._reject(run, started_ms, run_us, exc), exc
        try:
            retry = self._asked_for(run, exc)
        # Whatever comes of asking is how the task failed.
        except BaseException as other:  # noqa: BLE001
            exc, retry = other, None
        noted = asked.pop((run.id, run.attempt), None)
        if retry is not None:
            return self._retry(run, started_ms, run_us, retry), retry
        return self._failure(run, started_ms, run_us, exc, is_last=noted is exc), exc

    def _asked_for(self, run: RunTask, exc: BaseException) -> Retry | None:
        """The retry that follows: asked for by raising it, before, or in general."""
        if isinstance(exc, Retry) and exc.plan is not None:
            return exc
        noted = asked.get((run.id, run.attempt))
        if isinstance(noted, Retry):
            return noted
        task = self._tasks.get(run.name)
        if task is None or noted is exc:
            return None
        if isinstance(exc, Retry):
            when: Any = exc.when
            if isinstance(when, datetime):
                return planned_retry(task, run, Wish(exc=exc.exc, eta=when))
            return planned_retry(task, run, Wish(exc=exc.exc, countdown=when))
        wish = automatic(task, run, exc)
        return planned_retry(task, run, wish) if wish is not None else None

    # --- outcomes -----------------------------------------------------------------------

    def _retry(self, run: RunTask, started_ms: int, run_us: int, retry: Retry) -> ChildOutcome:
        plan = retry.plan
        assert isinstance(plan, RetryPlan), "made by planned_retry"
        cause = retry.exc or retry
        text = short_text(cause) if retry.exc else ""
        why = f": {text}" if text else ""
        self._log(run, logging.INFO, f"is retried in {plan.delay_ms / 1000:g} s{why}")
        ext: dict[str, Any] = {"in": plan.delay_ms}
        if plan.body is not None:
            ext["body"] = plan.body
        if plan.ext:
            ext["ext"] = plan.ext
        body = encode_error(cause, trace_of(cause))
        return _outcome(run, RETRY_STATUS, started_ms, run_us, text, body, ext)

    def _replaced(
        self, run: RunTask, started_ms: int, run_us: int, exc: Replaced | ReplacedEagerly
    ) -> ChildOutcome:
        if isinstance(exc, Replaced):
            self._log(run, logging.INFO, f"is {exc}")
            ext = {"in": 0, "body": exc.calls, "ext": exc.ext}
            return _outcome(run, REQUEUE_STATUS, started_ms, run_us, "", b"", ext)
        found = exc.outcome
        error = (found.ext or {}).get("e", "")
        body = found.body if isinstance(found.body, bytes) else b""
        return _outcome(run, found.status, started_ms, run_us, error, body)

    def _reject(self, run: RunTask, started_ms: int, run_us: int, exc: Reject) -> ChildOutcome:
        self._log(run, logging.INFO, str(exc))
        if exc.requeue:
            count = count_of(run, REQUEUES_KEY) + 1
            ext = {"in": requeue_delay_ms(count), "ext": {REQUEUES_KEY: count}}
            return _outcome(run, REQUEUE_STATUS, started_ms, run_us, str(exc), b"", ext)
        return _outcome(run, Status.REJECTED, started_ms, run_us, str(exc))

    def _failure(
        self, run: RunTask, started_ms: int, run_us: int, exc: BaseException, *, is_last: bool
    ) -> ChildOutcome:
        trace, text = trace_of(exc), short_text(exc)
        task = self._tasks.get(run.name)
        ending = "raised after its last retry" if is_last else "raised"
        if task is not None and is_expected(task, exc):
            self._log(run, logging.INFO, f"{ending}, as it may: {text}")
        else:
            self._log(run, logging.ERROR, f"{ending}: {text}\n{trace.rstrip()}")
        status = Status.RETRIES_EXHAUSTED if is_last else Status.FAILURE
        return _outcome(run, status, started_ms, run_us, text, encode_error(exc, trace))

    def _log(self, run: RunTask, level: int, text: str) -> None:
        if level < self._level:
            return
        if len(text) > LOG_LINE_CHARS_MAX:
            text = f"{text[:LOG_LINE_CHARS_MAX]}… ({len(text)} characters)"
        name = (run.ext or {}).get(SHADOW_KEY) or run.name
        self._tell(LogRecord(run.id, name, "logging", level, "", encodable(text)))


def wanted(value: object, ext: Mapping[str, Any]) -> object:
    """What an attempt returned, as others are to have it: nothing, where nobody wants it.

    Args:
        value: as its function returned it.
        ext: the facts of the call.
    """
    # The body of a chord gets what all members return.
    return None if IGNORED_KEY in ext and CHORD_KEY not in ext else value


def _told_of(run: RunTask) -> dict[str, Any] | None:
    """What the outcome of this attempt tells of what it did; asked for once."""
    items = counted.pop((run.id, run.attempt), None)
    found = {} if items is None else {ITEMS_KEY: items}
    return {**found, **taken(run)} or None


def _outcome(
    run: RunTask,
    status: int,
    started_ms: int,
    run_us: int,
    error: str = "",
    body: bytes = b"",
    ext: dict[str, Any] | None = None,
) -> ChildOutcome:
    return ChildOutcome(
        run.id, run.attempt, int(status), started_ms, run_us, body, _cut(encodable(error)), ext
    )


def trace_of(exc: BaseException) -> str:
    """The traceback as text, from the application's first frame on."""
    lines = traceback.format_exception(type(exc), exc, _own_frames_cut(exc.__traceback__))
    return encodable("".join(lines))


def _own_frames_cut(trace: TracebackType | None) -> TracebackType | None:
    found = trace
    while found is not None and any(
        layer in found.tb_frame.f_code.co_filename for layer in _RUN_LAYERS
    ):
        found = found.tb_next
    return found or trace


def short_text(exc: BaseException) -> str:
    """Type and text in one line or so."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 (a foreign __str__)
        text = "<its text cannot be made>"
    return _cut(f"{type(exc).__name__}: {text}" if text else type(exc).__name__)


def _cut(text: str) -> str:
    if len(text) <= ERROR_TEXT_CHARS_MAX:
        return text
    return text[: ERROR_TEXT_CHARS_MAX - 1] + "…"


def encodable(text: str) -> str:
    """Lone surrogates (from file names) cannot travel."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
