"""What a worker calls for an attempt: a task's function, and all that stands around it.

From the outside to the inside: signals and handlers (``hooks.py``), middleware, the sending
of items that it yields (``streaming.py``), what it depends on (``depends.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.app.hooks import is_watched, watched
from zmqtasks.app.middleware import around, check_fits
from zmqtasks.app.streaming import is_generator, streamed
from zmqtasks.app.task import CoroutineTask, Task

_OWN_CALLS = (Task.__call__, CoroutineTask.__call__)


def function_of(task: Task[Any, Any]) -> Callable[..., Any]:
    """The function to call; for most tasks simply theirs.

    Raises:
        ConfigError: middleware does not fit the task, or what it depends on cannot be made.
    """
    run = task.complete_run
    if type(task).__call__ not in _OWN_CALLS:
        run = task  # a base class wants to stand around it itself
    if is_generator(task.run):
        run = streamed(task.app, run)
    middleware = task.app.middleware
    if task.name in BUILT_IN:
        # Plain functions, in applications that may be made for coroutines only.
        middleware = [each for each in middleware if hasattr(each, "run")]
    if middleware:
        check_fits(middleware, task)
        run = around(run, middleware, is_async=task.is_async)
    return watched(task, run) if is_watched(task) else run
