"""Which attempt runs here, for logs, captured output and ``app.context.current()``.

A context variable, so that tasks side by side in threads or coroutines each see their
own; threads that a task starts itself inherit nothing and see the process's latest where
one runs at a time, else none, unless they run in a copy of the task's context.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from zmqtasks.pools.protocol import RunTask

_task: ContextVar[RunTask | None] = ContextVar("zmqtasks_running_task", default=None)
#: The value for threads without a context of their own.
_latest: list[RunTask | None] = [None]


def set_running(task: RunTask | None) -> None:
    """From now on this attempt runs here (None: nothing does)."""
    _task.set(task)
    _latest[0] = task


def set_running_here(task: RunTask | None) -> None:
    """The same where others run side by side: threads without a context of their own see none."""
    _task.set(task)


def running_task() -> RunTask | None:
    """The attempt that runs here, or None outside of tasks."""
    return _task.get() or _latest[0]


#: Whether this attempt was cancelled while it ran; set by what runs tasks here.
_asks: list[Callable[[RunTask], bool]] = []


def ask_for_cancels(ask: Callable[[RunTask], bool]) -> None:
    """From now on ``ask(task)`` says whether an attempt was cancelled while it ran."""
    _asks[:] = [ask]


def is_cancelled() -> bool:
    """Whether the attempt that runs here was cancelled, so that it may end early.

    False outside of tasks. Cheap: it may be asked in a loop.
    """
    task = running_task()
    return task is not None and bool(_asks) and _asks[0](task)
