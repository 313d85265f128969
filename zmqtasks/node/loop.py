"""The one thread of a process that owns its sockets.

Each turn: wait, drain what is ready, run what other threads asked for, then let the
machines work on all of it at once (``turn``). Other threads reach the loop by a deque
and a wake-up that is only written when the loop may be asleep.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from zmqtasks.net.poller import Poller

_LOG = logging.getLogger("zmqtasks.node")


class Loop:
    """Waits for sockets and file descriptors and calls back.

    Only :meth:`call_soon`, :meth:`wake` and :meth:`stop` may be called from other
    threads.
    """

    def __init__(self) -> None:
        self._poller = Poller()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._readers: dict[Any, Callable[[], None]] = {}
        self._writers: dict[Any, Callable[[], None]] = {}
        #: (when, number, function, args): a heap; the number keeps functions from comparison.
        self._timers: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._timer_number = 0
        self._woken = False
        self._stopping = False
        self._wake_read, self._wake_write = _wake_pair()
        self._poller.register(self._wake_read)

    # --- from any thread ----------------------------------------------------------------

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` on the loop's thread."""
        self._calls.append((function, args))
        if not self._woken:
            self.wake()

    def wake(self) -> None:
        """End the present wait, if there is one."""
        self._woken = True
        # A full pipe means that a wake-up is under way already; a closed one, that the
        # loop has ended.
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\1\0\0\0\0\0\0\0")

    def stop(self) -> None:
        """Make ``run`` return after this turn."""
        self._stopping = True
        self.wake()

    # --- on the loop's thread -----------------------------------------------------------

    def register(self, obj: Any, callback: Callable[[], None]) -> None:
        """Call back whenever a socket or file descriptor is readable."""
        self._readers[obj] = callback
        self._poller.register(obj, True, obj in self._writers)

    def register_writable(self, obj: Any, callback: Callable[[], None]) -> None:
        """Call back once, when it takes bytes."""
        self._writers[obj] = callback
        self._poller.register(obj, obj in self._readers, True)

    def unregister(self, obj: Any) -> None:
        """Call back no more."""
        self._readers.pop(obj, None)
        self._writers.pop(obj, None)
        self._poller.unregister(obj)

    def call_later(self, delay_ms: float, function: Callable[..., Any], *args: Any) -> None:
        """Run ``function(*args)`` after so many milliseconds, not before."""
        self._timer_number += 1
        due = time.monotonic() + delay_ms / 1000
        heapq.heappush(self._timers, (due, self._timer_number, function, args))

    def run(self, turn: Callable[[], int], awake: Callable[[], None]) -> None:
        """Turn until stopped.

        Args:
            turn: works on what has come in; returns how long to wait for more, in
                milliseconds.
            awake: called after each wait, before anything is drained.
        """
        try:
            while not self._stopping:
                timeout_ms = turn()
                if self._timers:
                    timeout_ms = min(timeout_ms, self._ring())
                self._woken = False
                if self._calls or self._stopping:
                    timeout_ms = 0
                ready = self._poller.poll(timeout_ms)
                awake()
                self._serve(ready)
                self._woken = True
                for _ in range(len(self._calls)):
                    function, args = self._calls.popleft()
                    function(*args)
        finally:
            os.close(self._wake_read)
            if self._wake_write != self._wake_read:
                os.close(self._wake_write)

    def _ring(self) -> int:
        """Run what is due; returns the milliseconds to the next, rounded up."""
        timers, now = self._timers, time.monotonic()
        if timers[0][0] > now:
            return math.ceil((timers[0][0] - now) * 1000)
        while timers and timers[0][0] <= now:
            _, _, function, args = heapq.heappop(timers)
            function(*args)
        return 0  # the machines shall see what came of it

    def _serve(self, ready: list[tuple[Any, bool, bool]]) -> None:
        for obj, readable, writable in ready:
            if obj == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(obj, 4096)
                continue
            if writable:
                writer = self._writers.pop(obj, None)
                if writer is not None:
                    self._poller.register(obj, obj in self._readers, False)
                    writer()
            if readable:
                reader = self._readers.get(obj)
                if reader is not None:
                    reader()


def _wake_pair() -> tuple[int, int]:
    """One eventfd where there are such, else a pipe."""
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
