"""Results of a set as they come, for ``for`` and ``async for``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from zmqtasks.app import timing

if TYPE_CHECKING:
    from zmqtasks.app.result import AsyncResult
    from zmqtasks.app.resultset import ResultSet

R = TypeVar("R")
T = TypeVar("T")


class Completed(Generic[T]):
    """An iterator over the results of a set in the order in which they come.

    Args:
        results: the set, whose members must not be removed meanwhile.
        method: what was called, for messages.
        timeout: seconds for all of it, from now on; None for ever.
        make: makes what is given of ``(position, handle)``.
    """

    def __init__(
        self, results: ResultSet[Any], method: str, timeout: float | None,
        make: Callable[[int, AsyncResult[Any]], T],
    ) -> None:  # fmt: skip
        self._results = results
        self._method = method
        self._timeout = timeout
        self._give_up = None if timeout is None else timing.monotonic() + timeout
        self._make = make
        #: How many were given.
        self._count = 0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        results = self._results
        if self._count >= len(results):
            raise StopIteration
        if not self._is_there():
            results.expect(self._method, self._timeout)
            if not results.wait_for_news(self._is_there, self._left()):
                raise results.time_over(self._timeout)
        return self._next()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        results = self._results
        if self._count >= len(results):
            raise StopAsyncIteration
        if not self._is_there():
            results.expect(self._method, self._timeout)
            if not await results.await_news(self._is_there, self._left()):
                import asyncio

                # It asks around, which must not block the loop.
                raise await asyncio.to_thread(results.time_over, self._timeout)
        return self._next()

    def _is_there(self) -> bool:
        return self._results.arrived_count > self._count

    def _next(self) -> T:
        position = self._results.arrived(self._count)
        self._count += 1
        return self._make(position, self._results[position])

    def _left(self) -> float | None:
        return None if self._give_up is None else max(0.0, self._give_up - timing.monotonic())


class PartOfSet(Generic[R]):
    """A part of ``ResultSet``, apart because all of it would be too long to read."""

    def _as_set(self) -> ResultSet[R]:
        return cast("ResultSet[R]", self)  # nothing else is of this class


class AsTheyCome(PartOfSet[R]):
    """The part of a set that gives its results in the order in which they come."""

    def as_completed(self, timeout: float | None = None) -> Completed[tuple[int, AsyncResult[R]]]:
        """``(position of the call, its finished handle)`` as results come.

        For ``for`` and ``async for``.

        Args:
            timeout: seconds for all of it, from now on; None waits for ever.

        Raises:
            TimeoutError: not all in time.
            RuntimeError: called inside a task, which was not allowed to wait.
        """

        def pair(position: int, handle: AsyncResult[R]) -> tuple[int, AsyncResult[R]]:
            return position, handle

        return Completed(self._as_set(), "as_completed", timeout, pair)

    def iterate(self, timeout: float | None = None, propagate: bool = True) -> Completed[R]:
        """Values as they come, for ``for`` and ``async for``.

        Args:
            timeout: seconds for all of it, from now on; None waits for ever.
            propagate: raise the error of one that failed; else give it.

        Raises:
            TimeoutError: not all in time.
            TaskError: or the exception a task raised.
            RuntimeError: called inside a task, which was not allowed to wait.
        """

        def value(_: int, handle: AsyncResult[R]) -> R:
            return handle.conclude(propagate)

        return Completed(self._as_set(), "iterate", timeout, value)

    def iter_native(self, timeout: float | None = None) -> Completed[tuple[str, dict[str, Any]]]:
        """``(task id, facts)`` of results as they come, for ``for`` and ``async for``.

        Facts are ``task_id``, ``status``, ``result`` and ``traceback``, as handles have them.

        Args:
            timeout: seconds for all of it, from now on; None waits for ever.

        Raises:
            TimeoutError: not all in time.
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        return Completed(self._as_set(), "iter_native", timeout, _facts_of)

    def __aiter__(self) -> AsyncIterator[AsyncResult[R]]:
        """The finished handles as results come; a loop without ``async`` has all handles."""
        return Completed(self._as_set(), "async for", None, lambda _, handle: handle).__aiter__()


def _facts_of(_: int, handle: AsyncResult[Any]) -> tuple[str, dict[str, Any]]:
    look = handle._seen()
    facts = {"status": look.state, "result": look.result, "traceback": look.traceback}
    return handle.id, {"task_id": handle.id, **facts}
