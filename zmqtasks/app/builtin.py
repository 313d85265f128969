"""Tasks that every App has: two that call another task many times, one item after the other, in
the process of one attempt, and one that gathers the results of a group. ``canvas/maps.py`` and
``canvas/replacing.py`` make use of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zmqtasks.app.task import Task

MAP, STARMAP, ACCUMULATE = "zmqtasks.map", "zmqtasks.starmap", "zmqtasks.accumulate"


def _map(self: Task[Any, Any], task: dict[str, Any], it: list[Any]) -> Any:
    """Call a task with each item."""
    return _call_each(_task_of(self, task), [(item,) for item in it])


def _starmap(self: Task[Any, Any], task: dict[str, Any], it: list[Any]) -> Any:
    """Call a task with the arguments in each item."""
    return _call_each(_task_of(self, task), it)


def _accumulate(self: Task[Any, Any], results: list[Any]) -> list[Any]:
    """Give the results of a group, so that one call stands for all of it."""
    return results


def _task_of(self: Task[Any, Any], task: dict[str, Any]) -> Task[Any, Any]:
    from zmqtasks.app.canvas.signature import signature  # many processes never need it

    return signature(task, app=self.app).type


def _call_each(task: Task[Any, Any], calls: Iterable[Sequence[Any]]) -> Any:
    return _await_each(task, calls) if task.is_async else [task(*args) for args in calls]


async def _await_each(task: Callable[..., Any], calls: Iterable[Sequence[Any]]) -> list[Any]:
    return [await task(*args) for args in calls]


#: {name: function}; each gets its task first.
BUILT_IN: dict[str, Callable[..., Any]] = {
    MAP: _map,
    STARMAP: _starmap,
    ACCUMULATE: _accumulate,
}
