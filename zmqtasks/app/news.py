"""What a caller sees of a running task: its states, and the items that it yields.

News come on the gateway's thread and wait here for whoever looks at them. Of states only
the last one is kept. Items are kept until they are read, up to a limit. An attempt that
follows a lost one begins again with item 0: what came before is not given again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from zmqtasks.app import timing
from zmqtasks.app.current import gateway
from zmqtasks.app.waiting import check_wait
from zmqtasks.errors import ItemsLost, TimeoutError
from zmqtasks.ids import parse_task_id
from zmqtasks.limits import STREAM_AHEAD_BYTES, STREAM_AHEAD_COUNT, STREAM_KEPT_BYTES_MAX
from zmqtasks.wire.messages import UpdateRecord
from zmqtasks.wire.payload import decode_value

if TYPE_CHECKING:
    from zmqtasks.app.result import AsyncResult

T = TypeVar("T")

_NOTHING: Any = object()
#: ``UpdateRecord.number`` of a state.
_STATE = -1
#: What an item weighs beside its payload (measured: about 42 bytes in CPython 3.11).
_ITEM_BYTES: Final = 48


class Update(NamedTuple):
    """A state that a task gave itself by ``self.update_state``."""

    state: str
    meta: Any


class News:
    """What one task has told of itself and nobody has read yet."""

    def __init__(self) -> None:
        #: The last state.
        self.state: UpdateRecord | None = None
        #: How many states have come.
        self.states_count = 0
        #: Encoded items that wait to be read.
        self._items: deque[bytes] = deque()
        self._items_bytes = 0
        #: Number of the item that is to come next.
        self._next = 0
        #: Why the next one will never come, "" if it may.
        self.lost = ""
        #: Called at each news.
        self.waiters: list[Callable[[], Any]] = []
        #: Who has begun to read items, and is at it.
        self._readers_count = 0
        #: The task was to pause when that was looked at last.
        self._is_paused = False
        #: Has somebody look at ``is_behind`` soon.
        self.pace: Callable[[Callable[[], bool]], None] = lambda is_behind: None

    def reads(self, change: int) -> None:
        """One more reader of items (1), or one less (-1)."""
        self._readers_count += change
        self.pace(self._is_behind)

    def _is_behind(self) -> bool:
        """The task had better pause."""
        # First, so that a reader that makes room from here on sees to it that this is asked again.
        self._is_paused = True
        self._is_paused = self._readers_count > 0 and self._is_full()
        return self._is_paused

    def _is_full(self) -> bool:
        return self._items_bytes >= STREAM_AHEAD_BYTES or len(self._items) >= STREAM_AHEAD_COUNT

    def take(self, record: UpdateRecord) -> None:
        """One more; on the gateway's thread."""
        if record.number == _STATE:
            if not record.attempt and self.state is not None:
                return  # said before it was followed, and overtaken by what was said since
            self.state = record
            self.states_count += 1
        elif record.number == self._next and not self.lost:
            size = len(record.meta) + _ITEM_BYTES
            if self._items_bytes + size > STREAM_KEPT_BYTES_MAX:
                self.lost = (
                    f"more than {STREAM_KEPT_BYTES_MAX:,} bytes of items waited to be read; read "
                    "them while the task runs, and as fast as it yields, or let it yield less"
                )
            else:
                self._next += 1
                self._items_bytes += size
                self._items.append(record.meta)
                if self._readers_count and not self._is_paused and self._is_full():
                    self.pace(self._is_behind)
        elif record.number > self._next and not self.lost:
            self.lost = self._missing(record.number)
        for waiter in list(self.waiters):
            waiter()

    def next_item(self) -> Any:
        """The next item, decoded, or ``_NOTHING``.

        Raises:
            ItemsLost: it will never come.
            DecodeError: it cannot be rebuilt in this process.
        """
        if self._items:
            body = self._items.popleft()
            self._items_bytes -= len(body) + _ITEM_BYTES
            if self._is_paused and not self._is_full():
                self.pace(self._is_behind)
            return decode_value(body)
        if self.lost:
            raise ItemsLost(self.lost)
        return _NOTHING

    def check_complete(self, count: int) -> None:
        """The task has ended and yielded so many items.

        Raises:
            ItemsLost: some of them have not come.
        """
        if self._next < count:
            raise ItemsLost(self._missing(count))

    def _missing(self, following: int) -> str:
        return (
            f"items {self._next} to {following - 1} did not reach this process; stream() sees all "
            "items on the handle that its call returned"
        )


class Following(Generic[T]):
    """An iterator over news of a task, also for ``async for``; it ends with the task.

    Args:
        handle: of the task.
        method: what was called, for messages.
        take: gives the next news, or ``_NOTHING``.
        timeout: seconds for all of it, None for ever.
        raises: raise the error of a task that did not succeed, at the end.
    """

    def __init__(
        self,
        handle: AsyncResult[Any],
        method: str,
        take: Callable[[], T],
        timeout: float | None,
        *,
        raises: bool,
    ) -> None:
        self._handle = handle
        self._method = method
        self._take = take
        self._timeout = timeout
        self._raises = raises
        #: What was taken while looking for it, and not given yet.
        self._ahead: deque[T] = deque()
        self._news = handle.news()
        check_wait(handle.app, method, timeout, refusal=_IN_TASKS)
        handle.follow()
        self._give_up = None if timeout is None else timing.monotonic() + timeout

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while (found := self._look(StopIteration)) is _NOTHING:
            self._wait()
        return found

    def _look(self, end: type[Exception]) -> T:
        """The next of them, ``_NOTHING`` yet; raises ``end`` when the task has ended."""
        # In this order: what came before the outcome is seen before it.
        is_over = self._handle.is_settled
        found = self._ahead.popleft() if self._ahead else self._take()
        if found is _NOTHING and is_over:
            if self._raises:
                self._news.check_complete(self._handle.items_count)
                self._handle.conclude()
            raise end
        return found

    def _wait(self) -> None:
        arrived = threading.Event()
        try:
            self._add_waiter(arrived.set)
            if not timing.wait(arrived, self._left()):
                raise self._time_over()
        finally:
            self._remove_waiter(arrived.set)

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while (found := self._look(StopAsyncIteration)) is _NOTHING:
            from zmqtasks.app.mailbox import wait_for_call

            if not await wait_for_call(self._add_waiter, self._remove_waiter, self._left()):
                raise self._time_over()
        return found

    def _add_waiter(self, waiter: Callable[[], Any]) -> None:
        self._news.waiters.append(waiter)
        self._handle.add_waiter(waiter)
        if self._is_news():
            waiter()

    def _remove_waiter(self, waiter: Callable[[], Any]) -> None:
        self._news.waiters.remove(waiter)
        self._handle.remove_waiter(waiter)

    def _is_news(self) -> bool:
        """Something came before the waiter was there to be told."""
        found = self._take()
        if found is not _NOTHING:
            self._ahead.append(found)
        return bool(self._ahead)

    def _left(self) -> float | None:
        return None if self._give_up is None else max(0.0, self._give_up - timing.monotonic())

    def _time_over(self) -> TimeoutError:
        return TimeoutError(
            f"{self._method}() of task {self._handle.id}: it has not ended after "
            f"{self._timeout:g} s"
        )


class Reading(Following[Any]):
    """Reads items. From the first one that is asked for to its end, or until nobody has it any
    more, it holds up a task that yields them faster; see ``core/pacing.py``."""

    _has_begun = False

    def _look(self, end: type[Exception]) -> Any:
        if not self._has_begun:
            self._has_begun = True
            handle = self._handle
            self._news.pace = partial(gateway(handle.app).pace, parse_task_id(handle.id))
            self._news.reads(1)
        try:
            return super()._look(end)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Read no more of it."""
        if self._has_begun:
            self._has_begun = False
            self._news.reads(-1)

    def __del__(self) -> None:
        self.close()


_IN_TASKS = (
    "the news of a task go to the process that called it, and a worker's processes get none; let "
    "the caller follow it"
)


def states_of(news: News) -> Callable[[], Update]:
    """Gives each state that is the last one when it is looked at, once."""
    seen = 0

    def take() -> Update:
        nonlocal seen
        count, record = news.states_count, news.state
        if record is None or count == seen:
            return _NOTHING  # type: ignore[no-any-return]
        seen = count
        return Update(record.state, decode_value(record.meta))

    return take
