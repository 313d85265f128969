"""Handles of submitted tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from zmqtasks.app import timing
from zmqtasks.app.current import current_app, gateway
from zmqtasks.app.lineage import AnyResult, Lineage
from zmqtasks.app.looking import Look, Looks
from zmqtasks.app.news import Following, News, Reading, Update, states_of
from zmqtasks.app.outcomes import RETURNED, error_of, value_of
from zmqtasks.app.states import UNKNOWN
from zmqtasks.app.thens import (
    RevokeOnCancel,
    caller,
    check_revoke_on_cancel,
    revoke_as_cancelled,
)
from zmqtasks.app.waiting import check_wait
from zmqtasks.errors import TaskUnknown, TimeoutError
from zmqtasks.ids import format_task_id, parse_task_id
from zmqtasks.node.gateway import Gateway
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.wire.messages import Outcome, TaskState, UpdateRecord

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.story import Story

R = TypeVar("R")

#: Seconds that `state` and its kin wait for nodes to answer about foreign tasks.
STATE_TIMEOUT_S = 1.0

#: Guards lists of waiters, which exist only for handles that somebody waits for.
_waiters_lock = threading.Lock()


class AsyncResult(Looks[R], Lineage[R], Generic[R]):
    """The result of a task, there or yet to come.

    Returned by ``delay`` and ``apply_async``; ``AsyncResult(id)`` looks at a task that
    was submitted elsewhere. Awaiting it is the same as ``aget()``. Thread-safe.

    Args:
        id: the task's id, as ``handle.id`` gave it.
        app: the App to ask through; by default the current one.
    """

    __slots__ = ("__weakref__", "_app", "_gateway", "_news", "_outcome", "_task_id", "_waiters")

    _app: App | None
    #: The gateway that will tell us the outcome, None before anybody asked.
    _gateway: Gateway | None
    #: What it told of itself; None before it did, or anybody asked.
    _news: News | None
    _outcome: Outcome | None
    _task_id: bytes
    _waiters: list[Callable[[], Any]] | None

    def __init__(self, id: str, app: App | None = None) -> None:
        if not isinstance(id, str):
            raise TypeError(f"a task id is a text, not {type(id).__name__}")
        self._task_id = parse_task_id(id)
        self._app = app
        self._gateway = None
        self._news = None
        self._outcome = None
        self._waiters = None

    @classmethod
    def of_submitted(cls, task_id: bytes, app: App, gateway: Gateway | None) -> AsyncResult[Any]:
        """The handle of a call that is submitted through ``gateway`` with it as ticket."""
        self: AsyncResult[Any] = _new(cls)
        self._task_id = task_id
        self._app = app
        # Inside a task nobody is told of what it submits, unless asked to.
        self._gateway = None if gateway is None or gateway.inside_task else gateway
        self._news = None
        self._outcome = None
        self._waiters = None
        return self

    # --- the ticket ---------------------------------------------------------------------

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """The task's final outcome; called by the gateway, on its thread."""
        if self._outcome is None:
            self._outcome = outcome
        # A waiter adds itself first and then looks for the outcome, we do the reverse:
        # one of the two sees the other.
        if self._waiters is not None:
            self._call_waiters()

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """News of the running task; called by the gateway, on its thread."""
        self.news().take(record)

    def news(self) -> News:
        """What the task tells of itself, for ``news.py``."""
        found = self._news
        if found is None:
            with _waiters_lock:
                found = self._news = self._news or News()
        return found

    def _call_waiters(self) -> None:
        with _waiters_lock:
            waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter()

    def add_waiter(self, waiter: Callable[[], Any]) -> None:
        """Call this once the outcome is there, on whatever thread; must not block."""
        with _waiters_lock:
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
        if self._outcome is not None:
            self._call_waiters()

    def remove_waiter(self, waiter: Callable[[], Any]) -> None:
        """Undo ``add_waiter``; no error when it was called already."""
        with _waiters_lock:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    # --- waiting ------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
        callback: Callable[[str, R], object] | None = None,
    ) -> R:
        """Wait for the result and return it.

        Args:
            timeout: seconds to wait at most; None waits for ever.
            propagate: raise the task's error; else return it.
            callback: called with the task's id and what is returned, before that.
            disable_sync_subtasks: False: a task may wait here, see ``allow_join_result``.

        Raises:
            TimeoutError: no result in time; it says what is known of the task.
            TaskError: or the exception the task raised: the task did not succeed.
            RuntimeError: called inside a task, which was not allowed to wait.
        """
        if self._outcome is None:
            self._check_wait("get", timeout, disable_sync_subtasks)
            self.follow()
            arrived = threading.Event()
            self.add_waiter(arrived.set)
            try:
                if not timing.wait(arrived, timeout):
                    self._time_over(timeout)
            finally:
                self.remove_waiter(arrived.set)
        return self.conclude(propagate, callback)

    #: Celery's older name of it.
    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
        callback: Callable[[str, R], object] | None = None,
        revoke_on_cancel: RevokeOnCancel = False,
    ) -> R:
        """Same as ``get()`` without blocking the running asyncio loop.

        Args:
            timeout, propagate, disable_sync_subtasks, callback: as of ``get``.
            revoke_on_cancel: when the asyncio task that awaits this is cancelled, revoke the
                task that it waits for; with ``"terminate"`` it is ended if it runs. A
                ``timeout`` cancels nothing.
        """
        if self._outcome is None:
            import asyncio

            from zmqtasks.app.mailbox import wait_for_call

            self._check_wait("aget", timeout, disable_sync_subtasks)
            check_revoke_on_cancel("aget", revoke_on_cancel)
            self.follow()
            try:
                is_there = await wait_for_call(self.add_waiter, self.remove_waiter, timeout)
            except asyncio.CancelledError:
                await revoke_as_cancelled(self.arevoke, revoke_on_cancel)
                raise
            if not is_there:
                # It asks around, which must not block the loop.
                await asyncio.to_thread(self._time_over, timeout)
        return self.conclude(propagate, callback)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _check_wait(self, method: str, timeout: float | None, disable_sync_subtasks: bool) -> None:
        check_wait(self.app, method, timeout, disable_sync_subtasks=disable_sync_subtasks)

    def updates(self, timeout: float | None = None) -> Following[Update]:
        """Follow the states that the task gives itself (``self.update_state``).

        For ``for`` and ``async for``: gives ``(state, meta)`` pairs until the task has ended.
        Who is slow sees the last state only.

        Args:
            timeout: seconds for all of it; None waits for ever.

        Raises:
            TimeoutError: it has not ended in time.
            RuntimeError: called inside a task.
        """
        return Following(self, "updates", states_of(self.news()), timeout, raises=False)

    def stream(self, timeout: float | None = None) -> Following[Any]:
        """Follow the items that a generator task yields, each given once and in order.

        For ``for`` and ``async for``; it ends when the task has ended, and raises what the
        task raised. ``get()`` then has what the generator returned.

        Args:
            timeout: seconds for all of it; None waits for ever.

        Raises:
            ItemsLost: the next item did not reach this process, or was not read in time.
            TimeoutError: it has not ended in time.
            TaskError: or the exception the task raised.
            RuntimeError: called inside a task.
        """
        return Reading(self, "stream", self.news().next_item, timeout, raises=True)

    def follow(self) -> None:
        """See to it that some gateway of this process tells us the outcome."""
        current = gateway(self.app)
        # Not ours either: what was submitted by the parent of a forked process.
        if self._gateway is not current:
            self._gateway = current
            current.watch([self._task_id], self)

    def _time_over(self, timeout: float | None) -> None:
        """The wait is over.

        Raises:
            TimeoutError: with what is known of the task.
        """
        if self._outcome is not None:
            return
        what = gateway(self.app).describe(self._task_id)
        raise TimeoutError(f"no result of task {self.id} after {timeout:g} s: {what}")

    def conclude(
        self, propagate: bool = True, callback: Callable[[str, R], object] | None = None
    ) -> R:
        """The value of a task that has ended, or its error raised or returned."""
        outcome = self._outcome
        assert outcome is not None, "the wait ended without an outcome"
        value: R = _concluded(outcome, propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, R], object] | None = None
    ) -> R:
        """The value of a task that has ended, or its error raised; of one that has not, the
        None that ``result`` has.

        Args:
            propagate: raise the error; else return it.
            callback: called with the task's id and what is returned, before that.

        Raises:
            TaskError: or the exception the task raised.
        """
        return self._thrown(self._seen(), propagate, callback)

    #: Celery's other name of it.
    maybe_reraise = maybe_throw

    async def amaybe_throw(
        self, propagate: bool = True, callback: Callable[[str, R], object] | None = None
    ) -> R:
        """Same as ``maybe_throw()`` without blocking the running loop."""
        return self._thrown(await self._aseen(), propagate, callback)

    def _thrown(
        self, seen: Look, propagate: bool, callback: Callable[[str, R], object] | None
    ) -> R:
        if self._outcome is not None:
            return self.conclude(propagate, callback)
        is_unknown = seen.state == UNKNOWN
        # Of what has not ended Celery returns None, too.
        return _concluded(unknown_outcome(self._task_id), propagate) if is_unknown else None  # type: ignore[return-value]

    def then(
        self,
        callback: Callable[[Self], object],
        on_error: Callable[[Self], object] | None = None,
    ) -> Self:
        """Call a function with this result once the task has ended.

        In the running asyncio loop, if there is one, else in a thread for such callbacks, one
        after the other. What they raise is logged. They end with this process: what must
        happen is a task of its own (``link``, a chain).

        Args:
            callback: called with this result.
            on_error: called in place of it where ``get()`` would raise.

        Returns:
            This result.

        Raises:
            RuntimeError: called inside a task, whose process may end before.
        """
        self._check_follow("then")

        def call(result: Self) -> None:
            is_error = result._outcome is not None and result._outcome.status not in RETURNED
            (on_error if is_error and on_error is not None else callback)(result)

        self.follow()
        self.add_waiter(caller(call, self))
        return self

    def _check_follow(self, method: str) -> None:
        """A process that runs tasks may end, or run the next one, before a result is there."""
        refusal = "its process may end before; submit a task that follows, by link= or a chain"
        check_wait(self.app, method, None, refusal=refusal)

    # --- looking ------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The task's id: a UUID."""
        return format_task_id(self._task_id)

    @property
    def task_id(self) -> str:
        """Same as ``id``."""
        return format_task_id(self._task_id)

    @property
    def children(self) -> list[AnyResult]:
        """What came of it: of a task that has ended the first 256 tasks that it submitted, of
        a part of a workflow also those that waited for it."""
        ids = self._seen().children_ids
        return [AsyncResult(format_task_id(task_id), self._app) for task_id in ids]

    @property
    def items_count(self) -> int:
        """How many items the task, which has ended, yielded."""
        return Look(self._outcome, None).items_count

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is here, without asking anybody."""
        return self._outcome is not None

    def _seen(self) -> Look:
        return self.look() if self._outcome is None else Look(self._outcome, None)

    def look(self) -> Look:
        """All that is known of the task, asked for once, also where its outcome is here.

        It takes a second at most.
        """
        answers = gateway(self.app).states([self._task_id], STATE_TIMEOUT_S)
        record = answers.get(self._task_id)
        if record is not None and record.state == TaskState.SETTLED and record.outcome is not None:
            self.settled(self._task_id, record.outcome)
        return Look(self._outcome, record)

    def story(self) -> Story:
        """Where the task is, who owns it, its attempts, and why it waits.

        It asks every node of the mesh. ``print(result.story())`` shows it.

        Raises:
            RuntimeError: called inside a task.
        """
        from zmqtasks.app.story import Story

        return Story(gateway(self.app).story(self._task_id, STATE_TIMEOUT_S))

    async def astory(self) -> Story:
        """Same as ``story()`` without blocking the running loop."""
        import asyncio

        return await asyncio.to_thread(self.story)

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Let the task not be run.

        Args:
            terminate: end it if it runs: exactly this attempt, and no other task.
            signal: with which it is ended; by force soon after.
            wait: until it has ended.
            timeout: seconds that nodes have to answer (1 by default), and again for ``wait``.

        Returns:
            "revoked"; "running" (it goes on, unless ``terminate``), "settled" (it had ended),
            "given", "unknown", "unanswered", as of ``app.control.revoke``.

        Raises:
            TimeoutError: with ``wait``, it has not ended in time.
            RuntimeError: called inside a task, or in a running asyncio loop (``arevoke``).
        """
        from zmqtasks.app.control import TIMEOUT_S

        said = self.app.control.revoke(
            self.id, terminate, signal, TIMEOUT_S if timeout is None else timeout
        )
        if wait and said[self.id] in ("revoked", "running"):
            self.get(timeout, propagate=False)
        return said[self.id]

    async def arevoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Same as ``revoke()`` without blocking the running loop."""
        import asyncio

        return await asyncio.to_thread(self.revoke, terminate, signal, wait, timeout)

    def forget(self) -> None:
        """Drop the result here and in the stores; it cannot be read again. So are those of
        what came before it in a workflow."""
        if self.parent is not None:
            self.parent.forget()
        gateway(self.app).forget([self._task_id])
        self._forgotten()

    def _forgotten(self) -> None:
        if self._outcome is not None:
            self._outcome = unknown_outcome(self._task_id, "its result was forgotten")

    async def aforget(self) -> None:
        """Same as ``forget()`` without blocking the running loop."""
        import asyncio

        await asyncio.to_thread(self.forget)

    @property
    def app(self) -> App:
        """The App that it asks through."""
        if self._app is None:
            self._app = current_app()
        return self._app

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self._task_id == other._task_id
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._task_id)

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncResult, (self.id,)


class AtMostOnceResult(AsyncResult[R]):
    """Handle of a call with ``delivery="at_most_once"``, whose result may never come."""

    __slots__ = ()

    def _check_wait(self, method: str, timeout: float | None, disable_sync_subtasks: bool) -> None:
        super()._check_wait(method, timeout, disable_sync_subtasks)
        if timeout is None:
            raise ValueError(
                f"{method}() of a call with delivery='at_most_once' needs a timeout: the task or "
                f"its result may be lost, and nobody would know; use {method}(timeout=...)"
            )

    def updates(self, timeout: float | None = None) -> Following[Update]:
        """Refused: nobody owns the task, so nobody passes its news on.

        Raises:
            ValueError: always.
        """
        raise self._refusal("updates")

    def stream(self, timeout: float | None = None) -> Following[Any]:
        """Refused, as ``updates``.

        Raises:
            ValueError: always.
        """
        raise self._refusal("stream")

    @staticmethod
    def _refusal(method: str) -> ValueError:
        return ValueError(
            f"{method}() of a call with delivery='at_most_once': it has no owner to pass on what "
            "the task tells; leave delivery out"
        )

    def _time_over(self, timeout: float | None) -> None:
        if self._outcome is None:
            raise TaskUnknown(
                f"no result of task {self.id} after {timeout:g} s; it was sent at most once, so "
                "the task or its result may have been lost"
            )


def _concluded(outcome: Outcome, propagate: bool) -> Any:
    error = error_of(outcome)
    if error is None:
        return value_of(outcome)
    if propagate:
        raise error
    return error  # Celery's meaning of propagate=False


_new = object.__new__
