"""What is called around the attempts of a task: its handlers, and the signals about it.

Nothing is called, and nothing costs anything, for a task whose class has no handlers and
of whose attempts no signal tells anybody. Source: docs/howto/hooks.md.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks import signals
from zmqtasks.app import states
from zmqtasks.app.context import current
from zmqtasks.errors import Retry
from zmqtasks.ids import format_task_id
from zmqtasks.pools.protocol import REQUEUE_STATUS, RETRY_STATUS, RunTask
from zmqtasks.pools.running import running_task
from zmqtasks.wire.messages import Status

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.task import Task

HANDLERS = ("before_start", "on_success", "on_retry", "on_failure", "after_return")
#: Signals about attempts.
_ABOUT_ATTEMPTS = (
    signals.task_prerun,
    signals.task_postrun,
    signals.task_success,
    signals.task_retry,
    signals.task_failure,
    signals.task_internal_error,
)
#: {status: state that hooks are told}; all others are failures.
_STATES = {
    Status.SUCCESS: states.SUCCESS,
    RETRY_STATUS: states.RETRY,
    REQUEUE_STATUS: states.REJECTED,
    Status.REJECTED: states.REJECTED,
    Status.IGNORED: states.IGNORED,
}


class ExceptionInfo:
    """An exception and its traceback, as handlers get it."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
        self.type: type[BaseException] = type(exception)
        self.tb: TracebackType | None = exception.__traceback__

    @property
    def traceback(self) -> str:
        """The traceback as text."""
        return "".join(traceback.format_exception(self.type, self.exception, self.tb))

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


class WithHandlers:
    """Handlers of a task; a base class (``@app.task(base=...)``) overrides what it needs.

    They run in the process that runs the attempt. What ``before_start`` raises ends the
    attempt, as if the function had raised it. What the others raise is logged and changes
    nothing about the outcome.
    """

    def before_start(self, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An attempt begins."""

    def on_success(
        self, retval: Any, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """It returned a value."""

    def on_retry(
        self,
        exc: BaseException | None,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """It asked for another one, because of ``exc`` if there is one."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo,
    ) -> None:
        """It failed."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo | None,
    ) -> None:
        """It returned a value (``status`` SUCCESS) or failed (FAILURE; ``retval`` is the
        exception then)."""

    @classmethod
    def on_bound(cls, app: App) -> None:
        """A task of this class was made for an application."""


class Begun(NamedTuple):
    """An attempt whose end somebody wants to hear of."""

    task: Task[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


#: {(id, attempt): what it began with}, of attempts that run here.
begun: dict[tuple[bytes, int], Begun] = {}


def is_watched(task: Task[Any, Any]) -> bool:
    """Somebody wants to hear of its attempts."""
    return any(signal.has_listeners(task) for signal in _ABOUT_ATTEMPTS) or any(
        getattr(type(task), name) is not getattr(WithHandlers, name) or name in vars(task)
        for name in HANDLERS
    )


def watched(task: Task[Any, Any], run: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a task, telling of the beginning of each attempt."""

    def begin_and_run(*args: Any, **kwargs: Any) -> Any:
        attempt = running_task()
        if attempt is not None:
            begun[attempt.id, attempt.attempt] = Begun(task, args, kwargs)
            task_id = format_task_id(attempt.id)
            signals.task_prerun.send(
                sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs
            )
            task.before_start(task_id, args, kwargs)
        return run(*args, **kwargs)

    return begin_and_run


class Told(NamedTuple):
    """How an attempt ended, for its hooks."""

    run: RunTask
    status: int
    #: The value, or what it raised in the end.
    value: Any


class Ending:
    """Tells the hooks of one task of one attempt that has ended.

    Args:
        start: how the attempt began.
        told: how it ended.
        failed: ``(name of the handler, what it raised)`` goes here.
        passes: exceptions that go through.
    """

    def __init__(
        self,
        start: Begun,
        told: Told,
        failed: Callable[[str, BaseException], None],
        passes: tuple[type[BaseException], ...],
    ) -> None:
        self._task, self._args, self._kwargs = start
        self._id = format_task_id(told.run.id)
        self._value = told.value
        self._state = _STATES.get(told.status, states.FAILURE)
        self._failed = failed
        self._passes = passes

    def tell(self) -> None:
        """Call handlers and send signals, in Celery's order."""
        task, value = self._task, self._value
        if self._state == states.SUCCESS:
            self._call("on_success", value)
            signals.task_success.send(sender=task, result=value)
            self._return(None)
        elif self._state == states.RETRY:
            self._retry(value)
        elif self._state == states.FAILURE:
            self._failure(value)
        signals.task_postrun.send(
            sender=task,
            task_id=self._id,
            task=task,
            args=self._args,
            kwargs=self._kwargs,
            retval=value,
            state=self._state,
        )

    def _retry(self, retry: Retry) -> None:
        info = ExceptionInfo(retry)
        self._call("on_retry", retry.exc, einfo=info)
        signals.task_retry.send(sender=self._task, request=current(), reason=retry, einfo=info)

    def _failure(self, exc: BaseException) -> None:
        info = ExceptionInfo(exc)
        self._call("on_failure", exc, einfo=info)
        self._signal_failure(signals.task_failure, exc, info)
        self._return(info)

    def _return(self, info: ExceptionInfo | None) -> None:
        self._call("after_return", self._state, self._value, einfo=info, tells_info=True)

    def _signal_failure(
        self, signal: signals.Signal, exc: BaseException, info: ExceptionInfo, **more: Any
    ) -> None:
        signal.send(
            sender=self._task,
            task_id=self._id,
            exception=exc,
            args=self._args,
            kwargs=self._kwargs,
            traceback=exc.__traceback__,
            einfo=info,
            **more,
        )

    def _call(
        self, name: str, *first: Any, einfo: ExceptionInfo | None = None, tells_info: bool = False
    ) -> None:
        handler = partial(getattr(self._task, name), *first, self._id, self._args, self._kwargs)
        try:
            if tells_info or einfo is not None:
                handler(einfo)
            else:
                handler()
        except self._passes:
            raise
        # Whatever it is, the attempt has ended as it has.
        except BaseException as exc:  # noqa: BLE001
            self._failed(name, exc)
            info = ExceptionInfo(exc)
            more = {"request": current()}
            self._signal_failure(signals.task_internal_error, exc, info, **more)
