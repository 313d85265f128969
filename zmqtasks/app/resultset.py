"""Many results at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from zmqtasks.app import timing
from zmqtasks.app.completing import AsTheyCome
from zmqtasks.app.current import current_app, gateway
from zmqtasks.app.outcomes import RETURNED, error_of, value_of
from zmqtasks.app.result import STATE_TIMEOUT_S, AsyncResult
from zmqtasks.app.setlooks import SetLooks
from zmqtasks.app.thens import (
    RevokeOnCancel,
    caller,
    check_revoke_on_cancel,
    revoke_as_cancelled,
)
from zmqtasks.app.waiting import check_wait
from zmqtasks.errors import TimeoutError
from zmqtasks.ids import format_task_id, parse_task_id
from zmqtasks.node.gateway import Gateway
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.wire.messages import Outcome, TaskState, UpdateRecord

if TYPE_CHECKING:
    from zmqtasks.app.app import App

R = TypeVar("R")

#: Ids that one question to the gateway may have.
_WATCH_COUNT_MAX = 1_000


class ResultSet(AsTheyCome[R], SetLooks[R], Generic[R]):
    """The results of many calls, in the order of the calls.

    Made by ``delay_many``; ``ResultSet([handle, ...])`` collects handles, and those of other
    sets. Cheap for 100,000 calls: no handle exists before it is asked for. Thread-safe for
    waiting; ``add`` and its kin are for one thread.

    Args:
        results: handles to collect; repeated ones are taken once.
        app: the App to ask through; by default the current one.
    """

    # Waiters add themselves first and then look, the gateway's thread does the reverse.

    def __init__(
        self, results: Iterable[AsyncResult[R] | ResultSet[R]] = (), app: App | None = None
    ) -> None:
        self._app = app
        #: Guards ids, positions, outcomes and order where they change.
        self._lock = threading.Lock()
        self._ids: list[bytes] = []
        #: {task id: position}
        self._positions: dict[bytes, int] = {}
        self._outcomes: list[Outcome | None] = []
        #: Positions in the order in which their outcomes came.
        self._order: list[int] = []
        #: How many outcomes are here of those that did not succeed.
        self.failures_count = 0
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
        with self._lock:
            first = len(self._ids)
            self._outcomes.extend([None] * len(task_ids))
            self._positions.update(zip(task_ids, range(first, first + len(task_ids)), strict=True))
            self._ids.extend(task_ids)

    def retract(self, count: int) -> None:
        """The last ``count`` calls were not accepted after all."""
        with self._lock:
            for task_id in self._ids[-count:]:
                del self._positions[task_id]
            del self._ids[-count:]
            del self._outcomes[-count:]

    def built(self) -> None:
        """No more calls will come."""
        self._built = True
        if self.is_complete:
            self._call(self._end_waiters)

    def _collect(self, results: Iterable[AsyncResult[R] | ResultSet[R]]) -> None:
        for handle in results:
            if isinstance(handle, ResultSet):
                self._collect(handle)
                continue
            task_id = parse_task_id(handle.id)
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

    def add(self, result: AsyncResult[R] | ResultSet[R]) -> None:
        """Add a handle, or those of a set; one that is there already changes nothing."""
        self.update([result])

    def update(self, results: Iterable[AsyncResult[R] | ResultSet[R]]) -> None:
        """Add several handles."""
        known = len(self._ids)
        self._collect(results)
        self._built = True
        if self._gateway is not None and self._is_told:
            self._watch(known)

    def remove(self, result: AsyncResult[R] | str) -> None:
        """Remove a handle, given itself or by its id.

        Raises:
            KeyError: it is not there.
        """
        task_id = parse_task_id(str(result))
        with self._lock:
            position = self._positions.get(task_id)
            if position is None:
                raise KeyError(str(result))
            del self._ids[position], self._outcomes[position]
            self._positions = {task_id: at for at, task_id in enumerate(self._ids)}
            self._order = [at - (at > position) for at in self._order if at != position]
            self._handles = {
                at - (at > position): handle
                for at, handle in self._handles.items()
                if at != position
            }
            self.failures_count = sum(
                outcome is not None and outcome.status not in RETURNED for outcome in self._outcomes
            )
        if self.is_complete:
            self._call(self._end_waiters)

    def discard(self, result: AsyncResult[R] | str) -> None:
        """Remove a handle if it is there."""
        if parse_task_id(str(result)) in self._positions:
            self.remove(result)

    def clear(self) -> None:
        """Remove all handles."""
        with self._lock:
            self._ids, self._positions, self._outcomes = [], {}, []
            self._order, self._handles, self.failures_count = [], {}, 0
        self.built()

    # --- the ticket ---------------------------------------------------------------------

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """A final outcome; called by the gateway, on its thread."""
        with self._lock:
            position = self._positions.get(task_id)
            if position is None or self._outcomes[position] is not None:
                return
            self._outcomes[position] = outcome
            self._order.append(position)
            if outcome.status not in RETURNED:
                self.failures_count += 1
            handle = self._handles.get(position) if self._handles else None
        if handle is not None:
            handle.settled(task_id, outcome)
        if self._news_waiters:
            self._call(self._news_waiters)
        if self._end_waiters and (self.failures_count or self.is_complete):
            self._call(self._end_waiters)

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """News of a running task; called by the gateway, on its thread."""
        position = self._positions.get(task_id)
        if position is not None:
            self[position].updated(task_id, record)

    @property
    def is_complete(self) -> bool:
        """Whether all outcomes are here."""
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
        callback: Callable[[str, R], object] | None = None,
    ) -> list[R]:
        """Wait for all results and return them in the order of the calls.

        Args:
            timeout: seconds to wait at most, for all of them; None waits for ever.
            propagate: raise as soon as one has failed; else wait for all and return
                errors in their places.
            disable_sync_subtasks: False: a task may wait here, see ``allow_join_result``.
            callback: called with the id and value of each, in the order of the calls, once
                all are there. The list is empty then, as in Celery.

        Raises:
            TimeoutError: not all in time; it says how many and what one waits for.
            TaskError: or the exception a task raised: the first failed one, in the
                order of the calls, among those finished.
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        if not self._enough(propagate):
            self.expect("get", timeout, disable_sync_subtasks)
            self._wait(self._end_waiters, lambda: self._enough(propagate), timeout)
        return self._conclude(propagate, timeout, callback)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
        callback: Callable[[str, R], object] | None = None,
        revoke_on_cancel: RevokeOnCancel = False,
    ) -> list[R]:
        """Same as ``get()`` without blocking the running asyncio loop.

        Args:
            timeout, propagate, disable_sync_subtasks, callback: as of ``get``.
            revoke_on_cancel: when the asyncio task that awaits this is cancelled, revoke
                those that have not ended; with ``"terminate"`` they are ended if they run. A
                ``timeout`` cancels nothing.
        """
        if not self._enough(propagate):
            import asyncio

            self.expect("aget", timeout, disable_sync_subtasks)
            check_revoke_on_cancel("aget", revoke_on_cancel)
            try:
                await self._await(self._end_waiters, lambda: self._enough(propagate), timeout)
            except asyncio.CancelledError:
                await revoke_as_cancelled(self.arevoke, revoke_on_cancel)
                raise
        if not self._enough(propagate):
            # It asks around, which must not block the loop.
            raise await asyncio.to_thread(self.time_over, timeout)
        return self._conclude(propagate, timeout, callback)

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    #: Celery's names of it: there are two ways there.
    join = join_native = get
    #: The same without blocking the running loop.
    ajoin = ajoin_native = aget

    def expect(
        self, method: str, timeout: float | None, disable_sync_subtasks: bool = True
    ) -> None:
        """See to it that outcomes come here, for who waits for them.

        Raises:
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        self._check_wait(method, timeout, disable_sync_subtasks)
        self._follow()

    def _check_wait(
        self, method: str, timeout: float | None, disable_sync_subtasks: bool = True
    ) -> None:
        check_wait(self.the_app(), method, timeout, disable_sync_subtasks=disable_sync_subtasks)

    @property
    def arrived_count(self) -> int:
        """How many outcomes are here."""
        return len(self._order)

    def arrived(self, index: int) -> int:
        """Position of the call whose outcome came so many others later than the first."""
        return self._order[index]

    def wait_for_news(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until this holds, looked at with each outcome; False when time was over."""
        return self._wait(self._news_waiters, done, timeout)

    async def await_news(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Same as ``wait_for_news`` without blocking the running loop."""
        return await self._await(self._news_waiters, done, timeout)

    def then(
        self,
        callback: Callable[[Self], object],
        on_error: Callable[[Self], object] | None = None,
    ) -> Self:
        """Call a function with this set once all have ended, see ``AsyncResult.then``.

        Args:
            callback: called with this set.
            on_error: called in place of it where one has not succeeded.

        Returns:
            This set.

        Raises:
            RuntimeError: called inside a task, whose process may end before.
        """
        refusal = "its process may end before; submit a task that follows, by a chord"
        check_wait(self.the_app(), "then", 0, refusal=refusal)

        def call(results: Self) -> None:
            has_failed = bool(results.failures_count)
            (on_error if has_failed and on_error is not None else callback)(results)

        tell = caller(call, self)

        def ended() -> None:
            if self.is_complete and ended in self._end_waiters:
                self._end_waiters.remove(ended)
                tell()

        self._end_waiters.append(ended)
        self._follow()
        ended()
        return self

    def _enough(self, propagate: bool) -> bool:
        return self.is_complete or (propagate and self.failures_count > 0)

    def _wait(
        self,
        waiters: list[Callable[[], Any]],
        done: Callable[[], bool],
        timeout: float | None,
    ) -> bool:
        give_up = None if timeout is None else timing.monotonic() + timeout
        arrived = threading.Event()
        waiters.append(arrived.set)
        try:
            while not done():
                left = None if give_up is None else give_up - timing.monotonic()
                if (left is not None and left <= 0) or not timing.wait(arrived, left):
                    return done()
                arrived.clear()
        finally:
            waiters.remove(arrived.set)
        return True

    async def _await(
        self,
        waiters: list[Callable[[], Any]],
        done: Callable[[], bool],
        timeout: float | None,
    ) -> bool:
        from zmqtasks.app.mailbox import wait_for_call

        give_up = None if timeout is None else timing.monotonic() + timeout

        def register(waiter: Callable[[], Any]) -> None:
            waiters.append(waiter)
            if done():
                waiter()

        while not done():
            left = None if give_up is None else give_up - timing.monotonic()
            if not await wait_for_call(register, waiters.remove, left):
                return done()
        return True

    def _conclude(
        self, propagate: bool, timeout: float | None,
        callback: Callable[[str, R], object] | None = None,
    ) -> list[R]:  # fmt: skip
        if propagate and self.failures_count:
            first = min(
                position
                for position in list(self._order)
                if self._at(position).status not in RETURNED
            )
            error = error_of(self._at(first))
            assert error is not None, "only what is returned has no error"
            raise error
        if not self.is_complete:
            raise self.time_over(timeout)
        values: list[Any] = []
        for position in range(len(self._ids)):
            outcome = self._at(position)
            error = error_of(outcome) if outcome.status else None
            value = value_of(outcome) if error is None else error
            if callback is None:
                values.append(value)
            else:
                callback(format_task_id(outcome.id), value)  # type: ignore[arg-type]
        return values

    def _at(self, position: int) -> Outcome:
        outcome = self._outcomes[position]
        assert outcome is not None, "positions in the order have outcomes"
        return outcome

    def _follow(self) -> None:
        current = gateway(self.the_app())
        if self._gateway is current and self._is_told:
            return
        self._is_told = True
        self._gateway = current
        self._watch(0)

    def _watch(self, first: int) -> None:
        """Be told of those from this position on whose handles are not, and would tell us."""
        current = self._gateway
        assert current is not None, "somebody follows them"
        open_ids = [
            task_id
            for position, task_id in enumerate(self._ids[first:], start=first)
            if self._outcomes[position] is None
            and getattr(self._handles.get(position), "_gateway", None) is not current
        ]
        for at in range(0, len(open_ids), _WATCH_COUNT_MAX):
            current.watch(open_ids[at : at + _WATCH_COUNT_MAX], self)

    def time_over(self, timeout: float | None) -> TimeoutError:
        """Not all have come in time; it asks the mesh about the first one missing."""
        missing = next((i for i, outcome in enumerate(self._outcomes) if outcome is None), None)
        after = "" if timeout is None else f" after {timeout:g} s"
        text = f"{len(self._order):,} of {len(self):,} results{after}"
        if missing is not None:
            what = gateway(self.the_app()).describe(self._ids[missing])
            text += f"; the first one missing is call {missing}: {what}"
        return TimeoutError(text)

    # --- looking ------------------------------------------------------------------------

    def look(self) -> None:
        """Get here what is known of those whose outcomes are not: a second for each 1,000."""
        if self.is_complete:
            return
        current = gateway(self.the_app())
        is_told = self._gateway is current and self._is_told
        # Inside a task whoever waits is told once all have ended, so there we only ask.
        if not current.inside_task:
            self._follow()
            # Later outcomes are told, and so are those of our own tasks.
            if is_told:
                return
        missing = self._missing()
        for first in range(0, len(missing), _WATCH_COUNT_MAX):
            ids = missing[first : first + _WATCH_COUNT_MAX]
            for record in current.states(ids, STATE_TIMEOUT_S).values():
                if record.state == TaskState.SETTLED and record.outcome is not None:
                    self.settled(record.id, record.outcome)
                elif record.state == TaskState.UNKNOWN:
                    self.settled(record.id, unknown_outcome(record.id))

    def _missing(self) -> list[bytes]:
        """Whose outcomes are not here."""
        with self._lock:
            pairs = zip(self._ids, self._outcomes, strict=True)
            return [task_id for task_id, outcome in pairs if outcome is None]

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, R], object] | None = None
    ) -> None:
        """Raise the error of the first one, in the order of the calls, that has failed.

        Args:
            propagate: False: only call back.
            callback: called with the id and value, or error, of each that has ended.

        Raises:
            TaskError: or the exception a task raised.
        """
        self.look()
        self.throw_first(propagate, callback)

    #: Celery's other name of it.
    maybe_reraise = maybe_throw

    def throw_first(
        self, propagate: bool = True, callback: Callable[[str, R], object] | None = None
    ) -> None:
        """Same as ``maybe_throw`` of the outcomes that are here, without asking anybody."""
        if propagate and self.failures_count:
            self._conclude(True, 0)
        for position in sorted(self._order) if callback is not None else ():
            handle = self[position]
            handle.maybe_throw(propagate, callback)

    def forget(self) -> None:
        """Drop all results here and in the stores."""
        gateway(self.the_app()).forget(self._ids)

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
            handle = made_by(self._ids[position], self.the_app(), self._gateway)
            # First where `settled` finds it, then a look at what came before.
            handle = self._handles.setdefault(position, handle)
        outcome = self._outcomes[position]
        if outcome is not None:
            handle.settled(self._ids[position], outcome)
        return handle

    def _handle_class(self, position: int) -> type[AsyncResult[Any]]:
        return AsyncResult

    def the_app(self) -> App:
        """The App that it asks through."""
        if self._app is None:
            self._app = current_app()
        return self._app

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return self._ids == other._ids
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can change

    def has(self, task_id: bytes) -> bool:
        """Whether this task, as on the wire, is one of them."""
        return task_id in self._positions

    def __contains__(self, result: object) -> bool:
        return isinstance(result, (AsyncResult, str)) and (
            parse_task_id(str(result)) in self._positions
        )

    def __repr__(self) -> str:
        return f"<ResultSet: {len(self._order):,} of {len(self):,} finished>"
