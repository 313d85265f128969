"""Time limits without signals: a thread that interrupts others when their time is over.

Python raises an exception in another thread when that runs Python code next. So what
blocks in C code (a sleep, a query without a timeout of its own) is interrupted when it
returns, not before.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Limits that were kept are forgotten when there are this many more than at the last time.
_PURGE_COUNT: Final = 256


class Watch:
    """One limit that runs."""

    __slots__ = ("alarm", "due", "is_over", "number")

    def __init__(self, due: float, number: int, alarm: Callable[[], None]) -> None:
        self.due = due
        self.number = number
        self.alarm = alarm
        self.is_over = False

    def __lt__(self, other: Watch) -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Target:
    """A thread that does something with a limit, which is interrupted once."""

    __slots__ = ("is_deferred", "kind", "shields_count", "thread")

    def __init__(self, kind: type[BaseException]) -> None:
        self.thread = threading.get_ident()
        #: What it is to raise.
        self.kind = kind
        #: It is in :meth:`Watchdog.shielded` calls, so many in each other.
        self.shields_count = 0
        #: Its time was over meanwhile.
        self.is_deferred = False

    def interrupt(self) -> None:
        """Have it raise, now or when it may; with the lock held."""
        if self.shields_count:
            self.is_deferred = True
        else:
            raise_in(self.thread, self.kind)


class Watchdog:
    """Calls ``alarm`` when time is over, in a thread of its own."""

    def __init__(self) -> None:
        #: Held during an alarm. Whoever is interrupted by it takes it to say that what the
        #: limit was for is over: then nothing comes any more.
        self.lock = threading.Lock()
        #: {thread: what it does with a limit}.
        self.targets: dict[int, Target] = {}
        self._numbers = itertools.count()
        self._new: SimpleQueue[Watch] = SimpleQueue()
        threading.Thread(target=self._run, name="zmqtasks-limits", daemon=True).start()

    def start(self, soft_ms: int, alarm: Callable[[], None]) -> Watch:
        """Call ``alarm`` after so many milliseconds, with the lock held."""
        watch = Watch(time.monotonic() + soft_ms / 1000, next(self._numbers), alarm)
        self._new.put(watch)
        return watch

    def shielded(self, target: Target, function: Callable[..., T], *args: Any) -> T:
        """Call a function that must not be interrupted halfway: it holds what others need.

        Args:
            target: this thread's.
            function: what to call; an interruption comes before it or after it.
            args: its arguments.
        """
        with self.lock:
            target.shields_count += 1
        try:
            # An interruption that is under way comes while this runs.
            for _ in range(2):
                threading.get_ident()
            return function(*args)
        finally:
            with self.lock:
                target.shields_count -= 1
                if target.is_deferred and not target.shields_count:
                    target.is_deferred = False
                    raise_in(target.thread, target.kind)

    def _run(self) -> None:
        heap: list[Watch] = []
        purge_at = _PURGE_COUNT
        while True:
            while heap and heap[0].due <= time.monotonic():
                self._end(heapq.heappop(heap))
            left_s = max(0.0, heap[0].due - time.monotonic()) if heap else None
            with contextlib.suppress(Empty):
                heapq.heappush(heap, self._new.get(timeout=left_s))
            if len(heap) > purge_at:
                heap = [watch for watch in heap if not watch.is_over]
                heapq.heapify(heap)
                purge_at = len(heap) + _PURGE_COUNT

    def _end(self, watch: Watch) -> None:
        with self.lock:
            if not watch.is_over:
                watch.is_over = True
                watch.alarm()


def raise_in(thread: int, kind: type[BaseException]) -> None:
    """Have a thread raise this when it runs Python code next."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def raise_nothing() -> None:
    """Take back what this thread was to raise and has not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.get_ident()), None)
