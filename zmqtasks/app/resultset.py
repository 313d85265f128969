"""Many results at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zmqtasks.app.current import current_app, gateway
from zmqtasks.app.outcomes import RETURNED, error_of, value_of
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.waiting import check_wait
from zmqtasks.errors import TimeoutError
from zmqtasks.ids import format_task_id
from zmqtasks.node.gateway import Gateway
from zmqtasks.wire.messages import Outcome, UpdateRecord

if TYPE_CHECKING:
    from zmqtasks.app.app import App

R = TypeVar("R")

#: Ids that one question to the gateway may have.
_WATCH_COUNT_MAX = 1_000


class ResultSet(Generic[R]):
    """The results of many calls, in the order of the calls.

    Made by ``delay_many``; ``ResultSet([handle, ...])`` collects handles. Cheap for
    100,000 calls: no handle exists before it is asked for. Thread-safe for waiting.

    Args:
        results: handles to collect; repeated ones are taken once.
        app: the App to ask through; by default the current one.
    """

    # Everything below is written by the thread that builds the set (ids) or by the
    # gateway's (outcomes, order), so counting needs no lock. Waiters add themselves
    # first and then look, the gateway's thread does the reverse.

    def __init__(self, results: Iterable[AsyncResult[R]] = (), app: App | None = None) -> None:
        self._app = app
        self._ids: list[bytes] = []
        #: {task id: position}
        self._positions: dict[bytes, int] = {}
        self._outcomes: list[Outcome | None] = []
        #: Positions in the order in which their outcomes came.
        self._order: list[int] = []
        self._failures_count = 0
        self._built = False
        #: {position: handle} of those that were asked for.
        self._handles: dict[int, AsyncResult[R]] = {}
        #: Called when all are complete or one has failed.
        self._end_waiters: list[Callable[[], Any]] = []
        #: Called at each outcome.
        self._news_waiters: list[Callable[[], Any]] = []
        self._gateway: Gateway | None = None
        #: That gateway tells us all outcomes.
        self._is_told = True
        if not isinstance(results, tuple) or results:
            self._collect(results)
            self.built()

    # --- building -----------------------------------------------------------------------

    @classmethod
    def of_submitted(cls, app: App, through: Gateway) -> ResultSet[Any]:
        """An empty set for calls that are submitted with it as ticket; see ``extend``."""
        self: ResultSet[Any] = cls._empty(app)
        self._gateway = through
        # Inside a task nobody is told of what it submits, unless asked to.
        self._is_told = not through.inside_task
        return self

    @classmethod
    def _empty(cls, app: App) -> ResultSet[Any]:
        return cls((), app)

    def extend(self, task_ids: Sequence[bytes]) -> None:
        """More calls, about to be submitted."""
        first = len(self._ids)
        self._outcomes.extend([None] * len(task_ids))
        self._positions.update(zip(task_ids, range(first, first + len(task_ids)), strict=True))
        self._ids.extend(task_ids)

    def retract(self, count: int) -> None:
        """The last ``count`` calls were not accepted after all."""
        for task_id in self._ids[-count:]:
            del self._positions[task_id]
        del self._ids[-count:]
        del self._outcomes[-count:]

    def built(self) -> None:
        """No more calls will come."""
        self._built = True
        if self._complete():
            self._call(self._end_waiters)

    def _collect(self, results: Iterable[AsyncResult[R]]) -> None:
        for handle in results:
            task_id = handle._task_id
            if task_id in self._positions:
                continue
            if self._app is None:
                self._app = handle._app
            self.extend([task_id])
            self._handles[len(self._ids) - 1] = handle
            handle.add_waiter(self._forward(handle))

    def _forward(self, handle: AsyncResult[R]) -> Callable[[], None]:
        def arrived() -> None:
            assert handle._outcome is not None, "waiters are called with the outcome there"
            self.settled(handle._task_id, handle._outcome)

        return arrived

    # --- the ticket ---------------------------------------------------------------------

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """A final outcome; called by the gateway, on its thread."""
        position = self._positions.get(task_id)
        if position is None or self._outcomes[position] is not None:
            return
        self._outcomes[position] = outcome
        self._order.append(position)
        if outcome.status not in RETURNED:
            self._failures_count += 1
        if self._handles:
            handle = self._handles.get(position)
            if handle is not None:
                handle.settled(task_id, outcome)
        if self._news_waiters:
            self._call(self._news_waiters)
        if self._end_waiters and (self._failures_count or self._complete()):
            self._call(self._end_waiters)

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """News of a running task; called by the gateway, on its thread."""
        position = self._positions.get(task_id)
        if position is not None:
            self[position].updated(task_id, record)

    def _complete(self) -> bool:
        return self._built and len(self._order) == len(self._ids)

    @staticmethod
    def _call(waiters: list[Callable[[], Any]]) -> None:
        for waiter in list(waiters):
            waiter()

    # --- waiting ------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """Wait for all results and return them in the order of the calls.

        Args:
            timeout: seconds to wait at most, for all of them; None waits for ever.
            propagate: raise as soon as one has failed; else wait for all and return
                errors in their places.
            disable_sync_subtasks: False: a task may wait here, see ``allow_join_result``.

        Raises:
            TimeoutError: not all in time; it says how many and what one waits for.
            TaskError: or the exception a task raised: the first failed one, in the
                order of the calls, among those finished.
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        if not self._enough(propagate):
            self._check_wait("get", timeout, disable_sync_subtasks)
            self._follow()
            self._wait(self._end_waiters, lambda: self._enough(propagate), timeout)
        return self._conclude(propagate, timeout)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """Same as ``get()`` without blocking the running asyncio loop."""
        if not self._enough(propagate):
            self._check_wait("aget", timeout, disable_sync_subtasks)
            self._follow()
            await self._await_end(propagate, timeout)
        if not self._enough(propagate):
            import asyncio

            # It asks around, which must not block the loop.
            raise await asyncio.to_thread(self._time_over, timeout)
        return self._conclude(propagate, timeout)

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    #: Celery's name of it.
    join = get

    def _check_wait(
        self, method: str, timeout: float | None, disable_sync_subtasks: bool = True
    ) -> None:
        check_wait(self._the_app(), method, timeout, disable_sync_subtasks=disable_sync_subtasks)

    def as_completed(self, timeout: float | None = None) -> Iterator[tuple[int, AsyncResult[R]]]:
        """Yield ``(position of the call, its finished handle)`` as results come.

        Args:
            timeout: seconds for all of it; None waits for ever.

        Raises:
            TimeoutError: not all in time.
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        position = 0
        while position < len(self._ids):
            if position >= len(self._order):
                self._check_wait("as_completed", timeout)
                self._follow()
                left = None if give_up is None else max(0.0, give_up - time.monotonic())
                if not self._wait(self._news_waiters, partial(self._more_than, position), left):
                    raise self._time_over(timeout)
            found = self._order[position]
            position += 1
            yield found, self[found]

    def iterate(self, timeout: float | None = None, propagate: bool = True) -> Iterator[R]:
        """Yield values as they come.

        Args:
            timeout: seconds for all of it; None waits for ever.
            propagate: raise the error of one that failed; else yield it.

        Raises:
            TimeoutError: not all in time.
            TaskError: or the exception a task raised.
        """
        for _, handle in self.as_completed(timeout):
            yield handle.conclude(propagate)

    def iter_native(self, timeout: float | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(task id, facts)`` of results as they come.

        Args:
            timeout: seconds for all of it; None waits for ever.

        Returns:
            Facts are ``task_id``, ``status``, ``result`` and ``traceback``, as handles have
            them.

        Raises:
            TimeoutError: not all in time.
        """
        for _, handle in self.as_completed(timeout):
            yield (
                handle.id,
                {
                    "task_id": handle.id,
                    "status": handle.state,
                    "result": handle.result,
                    "traceback": handle.traceback,
                },
            )

    def _more_than(self, count: int) -> bool:
        return len(self._order) > count

    def _enough(self, propagate: bool) -> bool:
        return self._complete() or (propagate and self._failures_count > 0)

    def _wait(
        self,
        waiters: list[Callable[[], Any]],
        done: Callable[[], bool],
        timeout: float | None,
    ) -> bool:
        give_up = None if timeout is None else time.monotonic() + timeout
        arrived = threading.Event()
        waiters.append(arrived.set)
        try:
            while not done():
                left = None if give_up is None else give_up - time.monotonic()
                if (left is not None and left <= 0) or not arrived.wait(left):
                    return done()
                arrived.clear()
        finally:
            waiters.remove(arrived.set)
        return True

    async def _await_end(self, propagate: bool, timeout: float | None) -> None:
        import asyncio

        from zmqtasks.app.mailbox import wait_for_call

        give_up = None if timeout is None else asyncio.get_running_loop().time() + timeout

        def register(waiter: Callable[[], Any]) -> None:
            self._end_waiters.append(waiter)
            if self._enough(propagate):
                waiter()

        while not self._enough(propagate):
            left = None if give_up is None else give_up - asyncio.get_running_loop().time()
            if not await wait_for_call(register, self._end_waiters.remove, left):
                return

    def _conclude(self, propagate: bool, timeout: float | None) -> list[R]:
        if propagate and self._failures_count:
            first = min(
                position
                for position in list(self._order)
                if self._at(position).status not in RETURNED
            )
            error = error_of(self._at(first))
            assert error is not None, "only what is returned has no error"
            raise error
        if not self._complete():
            raise self._time_over(timeout)
        values: list[Any] = []
        for position in range(len(self._ids)):
            outcome = self._at(position)
            error = error_of(outcome) if outcome.status else None
            values.append(value_of(outcome) if error is None else error)
        return values

    def _at(self, position: int) -> Outcome:
        outcome = self._outcomes[position]
        assert outcome is not None, "positions in the order have outcomes"
        return outcome

    def _follow(self) -> None:
        current = gateway(self._the_app())
        if self._gateway is current and self._is_told:
            return
        self._is_told = True
        first_time = self._gateway is None
        self._gateway = current
        if first_time and self._handles:
            # Collected handles forward to us; each of them knows whom to ask.
            for handle in list(self._handles.values()):
                if handle._outcome is None:
                    handle.follow()
            return
        open_ids = [
            task_id
            for task_id, outcome in zip(self._ids, self._outcomes, strict=False)
            if outcome is None
        ]
        for first in range(0, len(open_ids), _WATCH_COUNT_MAX):
            current.watch(open_ids[first : first + _WATCH_COUNT_MAX], self)

    def _time_over(self, timeout: float | None) -> TimeoutError:
        missing = next((i for i, outcome in enumerate(self._outcomes) if outcome is None), None)
        after = "" if timeout is None else f" after {timeout:g} s"
        text = f"{self.completed_count():,} of {len(self):,} results{after}"
        if missing is not None:
            what = gateway(self._the_app()).describe(self._ids[missing])
            text += f"; the first one missing is call {missing}: {what}"
        return TimeoutError(text)

    # --- looking ------------------------------------------------------------------------

    def completed_count(self) -> int:
        """How many have finished, well or not."""
        return len(self._order)

    def ready(self) -> bool:
        """Whether all have finished."""
        if not self._complete():
            self._follow()
        return self._complete()

    def successful(self) -> bool:
        """Whether all have returned a value."""
        return self.ready() and not self._failures_count

    def failed(self) -> bool:
        """Whether one of them did not succeed."""
        return self._failures_count > 0

    def waiting(self) -> bool:
        """Whether one of them has not finished."""
        return not self.ready()

    def maybe_throw(self) -> None:
        """Raise the error of the first one, in the order of the calls, that has failed.

        Raises:
            TaskError: or the exception a task raised.
        """
        if self._failures_count:
            self._conclude(True, 0)

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Let those that have not started not be run.

        Args:
            terminate: end those that run, too.
            signal: with which they are ended; by force soon after.
            wait: until all have ended.
            timeout: seconds that nodes have to answer about each 1,000 or so (1 by default),
                and again for ``wait``.

        Returns:
            {id: what came of it}, as of ``app.control.revoke``.

        Raises:
            TimeoutError: with ``wait``, not all have ended in time.
            RuntimeError: called inside a task, or in a running asyncio loop (``arevoke``).
        """
        from zmqtasks.app.control import TIMEOUT_S

        if not self._ids:
            return {}
        answer_s = TIMEOUT_S if timeout is None else timeout
        said = self._the_app().control.revoke(self.ids, terminate, signal, answer_s)
        if wait:
            self.get(timeout, propagate=False)
        return said

    async def arevoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Same as ``revoke()`` without blocking the running loop."""
        import asyncio

        return await asyncio.to_thread(self.revoke, terminate, signal, wait, timeout)

    def forget(self) -> None:
        """Drop all results here and in the stores."""
        gateway(self._the_app()).forget(self._ids)

    @property
    def ids(self) -> list[str]:
        """The task ids, in the order of the calls."""
        return [format_task_id(task_id) for task_id in self._ids]

    @property
    def results(self) -> list[AsyncResult[R]]:
        """The handles, in the order of the calls; made now."""
        return list(self)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return (self[position] for position in range(len(self._ids)))

    def __getitem__(self, position: int) -> AsyncResult[R]:
        position = range(len(self._ids))[position]
        handle = self._handles.get(position)
        if handle is None:
            made_by = self._handle_class(position).of_submitted
            handle = made_by(self._ids[position], self._the_app(), self._gateway)
            # First where `settled` finds it, then a look at what came before.
            handle = self._handles.setdefault(position, handle)
        outcome = self._outcomes[position]
        if outcome is not None:
            handle.settled(self._ids[position], outcome)
        return handle

    def _handle_class(self, position: int) -> type[AsyncResult[Any]]:
        return AsyncResult

    def _the_app(self) -> App:
        if self._app is None:
            self._app = current_app()
        return self._app

    def __repr__(self) -> str:
        return f"<ResultSet: {self.completed_count():,} of {len(self):,} finished>"
