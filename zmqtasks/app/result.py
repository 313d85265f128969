"""Handles of submitted tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zmqtasks.app import states
from zmqtasks.app.current import current_app, gateway
from zmqtasks.app.news import Following, News, Update, states_of
from zmqtasks.app.outcomes import RETURNED, error_of, traceback_of, value_of
from zmqtasks.app.waiting import check_wait
from zmqtasks.core.resultlog import ITEMS_KEY
from zmqtasks.errors import TaskUnknown, TimeoutError
from zmqtasks.ids import format_task_id, parse_task_id
from zmqtasks.node.gateway import Gateway
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.wire.messages import Outcome, StateRecord, TaskState, UpdateRecord
from zmqtasks.wire.payload import decode_value

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.resultset import ResultSet
    from zmqtasks.app.story import Story

R = TypeVar("R")

#: Seconds that `state` and its kin wait for nodes to answer about foreign tasks.
STATE_TIMEOUT_S = 1.0

#: Facts of a state: the one that the task gave itself, and what it told with it, encoded.
SAID_STATE, SAID_META = "state", "meta"

#: Guards lists of waiters, which exist only for handles that somebody waits for.
_waiters_lock = threading.Lock()


class AsyncResult(Generic[R]):
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
    ) -> R:
        """Wait for the result and return it.

        Args:
            timeout: seconds to wait at most; None waits for ever.
            propagate: raise the task's error; else return it.
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
                if not arrived.wait(timeout):
                    self._time_over(timeout)
            finally:
                self.remove_waiter(arrived.set)
        return self.conclude(propagate)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Same as ``get()`` without blocking the running asyncio loop."""
        if self._outcome is None:
            import asyncio

            from zmqtasks.app.mailbox import wait_for_call

            self._check_wait("aget", timeout, disable_sync_subtasks)
            self.follow()
            if not await wait_for_call(self.add_waiter, self.remove_waiter, timeout):
                # It asks around, which must not block the loop.
                await asyncio.to_thread(self._time_over, timeout)
        return self.conclude(propagate)

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
        return Following(self, "stream", self.news().next_item, timeout, raises=True)

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

    def conclude(self, propagate: bool = True) -> R:
        """The value of a task that has ended, or its error raised or returned."""
        outcome = self._outcome
        assert outcome is not None, "the wait ended without an outcome"
        if outcome.status in RETURNED:
            value: R = value_of(outcome)
            return value
        error = error_of(outcome)
        assert error is not None, "only what is returned has no error"
        if propagate:
            raise error
        return error  # type: ignore[return-value]  # Celery's meaning of propagate=False

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
    def parent(self) -> AsyncResult[Any] | ResultSet[Any] | None:
        """The result that it waited for, where it is part of a workflow; else None."""
        return None

    @property
    def items_count(self) -> int:
        """How many items the task, which has ended, yielded."""
        outcome = self._outcome
        found = (outcome.ext or {}).get(ITEMS_KEY) if outcome is not None else None
        return found if isinstance(found, int) else 0

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is here, without asking anybody."""
        return self._outcome is not None

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, DEAD, REVOKED, IGNORED, REJECTED, UNKNOWN.

        Or what the task calls its state itself (``self.update_state``) while it runs. For a
        task of another process this asks the mesh, for a second at most.
        """
        found = self._look()
        if isinstance(found, Outcome):
            return states.STATE_OF_STATUS.get(found.status, states.FAILURE)
        if found is None:
            return states.PENDING
        said = found.info.get(SAID_STATE)
        return said if isinstance(said, str) else states.state_of(found)

    status = state

    def ready(self) -> bool:
        """Whether ``get()`` would return or raise at once."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task returned a value; False while it has not finished."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task failed (FAILURE or DEAD); False while it has not finished."""
        return self.state in states.FAILED_STATES

    @property
    def result(self) -> R | Exception | None:
        """The value, the exception if it did not succeed, None while it is not finished."""
        outcome = self._look()
        if not isinstance(outcome, Outcome):
            return None
        error = error_of(outcome)
        return value_of(outcome) if error is None else error

    @property
    def info(self) -> Any:
        """The same as ``result``; while the task runs, what it told with its last state."""
        found = self._look()
        if isinstance(found, Outcome):
            return self.result
        told = found.info.get(SAID_META) if found is not None else None
        return decode_value(told) if isinstance(told, bytes) else None

    @property
    def traceback(self) -> str | None:
        """The remote traceback as text, None where there is none."""
        outcome = self._look()
        return traceback_of(outcome) if isinstance(outcome, Outcome) else None

    @property
    def retries(self) -> int | None:
        """How often it was retried because it raised; None where nobody tells."""
        found = self._told("retries", "n")
        return found if isinstance(found, int) else None

    @property
    def queue(self) -> str | None:
        """The queue that it went to; None where nobody tells."""
        return _text(self._told("queue"))

    @property
    def worker(self) -> str | None:
        """Name of the node that has it or ran it last; None where nobody tells."""
        return _text(self._told("worker", "w"))

    def _told(self, key: str, outcome_key: str = "") -> object:
        """A fact from the outcome, else from whoever knows the task."""
        outcome = self._outcome
        if outcome is not None and outcome.ext and outcome_key in outcome.ext:
            return outcome.ext[outcome_key]
        answers = gateway(self.app).states([self._task_id], STATE_TIMEOUT_S)
        record = answers.get(self._task_id)
        if record is None:
            return None
        told = record.outcome.ext if record.outcome is not None else None
        return record.info.get(key, (told or {}).get(outcome_key))

    def story(self) -> Story:
        """Where the task is, who owns it, its attempts, and why it waits.

        It asks every node of the mesh. ``print(result.story())`` shows it.

        Raises:
            RuntimeError: called inside a task.
        """
        from zmqtasks.app.story import Story

        return Story(gateway(self.app).story(self._task_id, STATE_TIMEOUT_S))

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
        """Drop the result here and in the stores; it cannot be read again."""
        gateway(self.app).forget([self._task_id])
        if self._outcome is not None:
            self._outcome = unknown_outcome(self._task_id, "its result was forgotten")

    def _look(self) -> Outcome | StateRecord | None:
        """The outcome, else what nodes know, None when there was no answer in time."""
        if self._outcome is not None:
            return self._outcome
        answers = gateway(self.app).states([self._task_id], STATE_TIMEOUT_S)
        record = answers.get(self._task_id)
        if record is None or self._outcome is not None:
            return self._outcome
        if record.state == TaskState.SETTLED and record.outcome is not None:
            self.settled(self._task_id, record.outcome)
            return record.outcome
        return record

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


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_new = object.__new__
