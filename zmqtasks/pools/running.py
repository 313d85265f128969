"""Which attempt runs here, for logs, captured output and ``app.context.current()``.

A context variable, so that tasks side by side in threads or coroutines each see their
own; threads that a task starts itself inherit nothing and see the process's latest.
"""

from __future__ import annotations

from contextvars import ContextVar

from zmqtasks.pools.protocol import RunTask

_task: ContextVar[RunTask | None] = ContextVar("zmqtasks_running_task", default=None)
#: The value for threads without a context of their own.
_latest: list[RunTask | None] = [None]


def set_running(task: RunTask | None) -> None:
    """From now on this attempt runs here (None: nothing does)."""
    _task.set(task)
    _latest[0] = task


def running_task() -> RunTask | None:
    """The attempt that runs here, or None outside of tasks."""
    return _task.get() or _latest[0]
