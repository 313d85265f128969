"""What came before a result, and what came of it: parents, children, and all of them.

``parent`` is what a part of a workflow waited for. ``children`` are the tasks that a task
submitted, and the parts of a workflow that waited for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from zmqtasks.app import timing
from zmqtasks.errors import TimeoutError

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.canvas.result import GroupResult
    from zmqtasks.app.result import AsyncResult

R = TypeVar("R")

#: The result of a task, or of a group.
AnyResult: TypeAlias = "AsyncResult[Any] | GroupResult[Any]"
#: A result as plain values, as Celery writes it: ``((id, its parent), results of a group)``.
ResultTuple = tuple[tuple[str, Any], Any]


class Lineage(Generic[R]):
    """The part of results that knows their parents and children."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """Of the task or group."""
        raise AssertionError("each kind of result does that in its own way")

    @property
    def parent(self) -> AnyResult | None:
        """The result that it waited for, where it is part of a workflow; else None."""
        return None

    @property
    def children(self) -> Sequence[AnyResult]:
        """What came of it."""
        return ()

    def as_tuple(self) -> ResultTuple:
        """It as plain values, to be sent or kept: ``result_from_tuple`` makes it again."""
        return (self.id, _tuple_of(self.parent)), None

    def as_list(self) -> list[str]:
        """Its id, and those of what came before it."""
        found: list[str] = [self.id]
        before = self.parent
        while before is not None:
            found.append(before.id)
            before = before.parent
        return found

    def iterdeps(self) -> Iterator[tuple[AnyResult | None, AnyResult]]:
        """It and all that came of it: each after the one whose child it is.

        Yields:
            ``(whose child it is, the result)``; None for this one. What has not ended has no
            children yet: wait for it before you go on, as ``collect`` does.
        """
        start: Any = self
        seen = {self.id}
        open_ones: deque[tuple[AnyResult | None, AnyResult]] = deque([(None, start)])
        while open_ones:
            pair = open_ones.popleft()
            yield pair
            for child in pair[1].children:
                if child.id not in seen:
                    seen.add(child.id)
                    open_ones.append((pair[1], child))

    def collect(self, timeout: float | None = None, propagate: bool = True) -> Collecting:
        """Wait for it and for all that came of it, one after the other.

        For ``for`` and ``async for``: gives ``(result, its value)``.

        Args:
            timeout: seconds for all of it; None waits for ever.
            propagate: raise the error of what has failed; else give it.

        Raises:
            TimeoutError: not all in time.
            TaskError: or the exception a task raised.
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        return Collecting(self.iterdeps(), timeout, propagate)

    def get_leaf(self, timeout: float | None = None) -> Any:
        """Wait for it and all that came of it; the value of the last one.

        Args:
            timeout: seconds for all of it; None waits for ever.

        Raises:
            TimeoutError: not all in time.
            TaskError: or the exception a task raised.
        """
        value = None
        for _, value in self.collect(timeout):  # noqa: B007 - the last one is wanted
            pass
        return value

    async def aget_leaf(self, timeout: float | None = None) -> Any:
        """Same as ``get_leaf()`` without blocking the running loop."""
        value = None
        async for _, value in self.collect(timeout):  # noqa: B007
            pass
        return value


class Collecting:
    """An iterator over a result and what came of it, also for ``async for``.

    Args:
        pairs: from ``iterdeps``.
        timeout: seconds for all of it, None for ever.
        propagate: raise errors.
    """

    def __init__(
        self, pairs: Iterator[tuple[AnyResult | None, AnyResult]], timeout: float | None,
        propagate: bool,
    ) -> None:  # fmt: skip
        self._pairs = pairs
        self._timeout = timeout
        self._give_up = None if timeout is None else timing.monotonic() + timeout
        self._propagate = propagate

    def __iter__(self) -> Iterator[tuple[AnyResult, Any]]:
        return self

    def __next__(self) -> tuple[AnyResult, Any]:
        _, found = next(self._pairs)
        return found, found.get(self._left(found), self._propagate)

    def __aiter__(self) -> AsyncIterator[tuple[AnyResult, Any]]:
        return self

    async def __anext__(self) -> tuple[AnyResult, Any]:
        import asyncio

        # It may ask the mesh for children.
        pair = await asyncio.to_thread(next, self._pairs, None)
        if pair is None:
            raise StopAsyncIteration
        return pair[1], await pair[1].aget(self._left(pair[1]), self._propagate)

    def _left(self, found: AnyResult) -> float | None:
        if self._give_up is None:
            return None
        left = self._give_up - timing.monotonic()
        if left <= 0 and not found.ready():
            raise TimeoutError(f"collect(): {found!r} has not ended after {self._timeout:g} s")
        return max(0.0, left)


def _tuple_of(found: AnyResult | None) -> ResultTuple | None:
    return None if found is None else found.as_tuple()


def result_from_tuple(r: Any, app: App | None = None) -> Any:
    """The result that ``as_tuple()`` has written, also when JSON made lists of its tuples.

    Args:
        r: it; results are returned as they are.
        app: the App to ask through; by default the current one.

    Raises:
        ValueError: it was not written so.
    """
    from zmqtasks.app.canvas.result import GroupResult, StepResult
    from zmqtasks.app.result import AsyncResult

    if isinstance(r, (AsyncResult, GroupResult)):
        return r
    try:
        whose, members = r
        task_id, parent = (whose, None) if isinstance(whose, str) else whose
        before = None if parent is None else result_from_tuple(parent, app)
        if members is not None:
            results = [result_from_tuple(each, app) for each in members]
            return GroupResult(task_id, results, app, before)
    except (TypeError, ValueError) as exc:
        raise ValueError(
            f"{r!r:.75} is no result as as_tuple() writes it: ((id, parent), None), or "
            "((id, parent), [results]) of a group"
        ) from exc
    return AsyncResult(task_id, app) if before is None else StepResult.after(task_id, app, before)
