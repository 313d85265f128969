"""Tasks that every App has: they call another task many times, one item after the other, in
the process of one attempt. ``canvas/maps.py`` has the signatures that make use of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zmqtasks.app.task import Task

MAP, STARMAP = "zmqtasks.map", "zmqtasks.starmap"


def _map(self: Task[Any, Any], task: dict[str, Any], it: list[Any]) -> Any:
    """Call a task with each item."""
    return _call_each(_task_of(self, task), [(item,) for item in it])


def _starmap(self: Task[Any, Any], task: dict[str, Any], it: list[Any]) -> Any:
    """Call a task with the arguments in each item."""
    return _call_each(_task_of(self, task), it)


def _task_of(self: Task[Any, Any], task: dict[str, Any]) -> Task[Any, Any]:
    from zmqtasks.app.canvas.signature import signature  # many processes never need it

    return signature(task, app=self.app).type


def _call_each(task: Task[Any, Any], calls: Iterable[Sequence[Any]]) -> Any:
    return _await_each(task, calls) if task.is_async else [task(*args) for args in calls]


async def _await_each(task: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> list[Any]:
    return [await task(*args) for args in calls]


#: {name: function}; each gets its task first.
BUILT_IN: dict[str, Callable[..., Any]] = {MAP: _map, STARMAP: _starmap}
