"""Soft time limits: SoftTimeLimitExceeded raised inside the task, which may go on from there.

A task's function is interrupted in its own thread, the main one, by a timer's signal. A
coroutine must not be interrupted while its loop does something else: the exception is
raised in it where it waits, or at once if it is what runs.

A task that uses ``signal.alarm`` or ``setitimer(ITIMER_REAL)`` itself takes the timer away.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import Any, TypeVar

from zmqtasks.errors import SoftTimeLimitExceeded

T = TypeVar("T")

#: Called by the signal, while something is limited here.
_alarm: list[Callable[[], None]] = []


def install() -> None:
    """Make soft limits possible in this process; in its main thread."""
    signal.signal(signal.SIGALRM, _on_alarm)


def _on_alarm(_signum: int, _frame: FrameType | None) -> None:
    if _alarm:
        _alarm.pop()()


def call(function: Callable[..., Any], soft_ms: int, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function that may run for so many milliseconds.

    Raises:
        SoftTimeLimitExceeded: in the function, at whatever it does then.
    """

    def exceed() -> None:
        raise exceeded(soft_ms)

    _start(exceed, soft_ms)
    try:
        return function(*args, **kwargs)
    finally:
        _stop()


async def run(coroutine: Coroutine[Any, Any, T], soft_ms: int) -> T:
    """The same coroutine with a limit, to be run by a loop of the main thread.

    Raises:
        SoftTimeLimitExceeded: in the coroutine, where it waits or at whatever it does then.
    """
    interruptible = _Interruptible(coroutine, soft_ms)
    interruptible.start()
    try:
        found: T = await interruptible
        return found
    finally:
        _stop()


class _Interruptible:
    """Drives a coroutine, and throws the exception into it once."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], soft_ms: int) -> None:
        self._coroutine = coroutine
        self._soft_ms = soft_ms
        self._is_due = False
        #: Its own code is what runs, not the loop or another task.
        self._is_active = False

    def start(self) -> None:
        """Let the time run; within the loop and task that will wait for this."""
        import asyncio  # slow to import, and most applications have no coroutines

        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        _start(self._exceed, self._soft_ms)

    def _exceed(self) -> None:
        """The signal came."""
        if self._is_active:
            raise exceeded(self._soft_ms)
        self._is_due = True
        self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        """End the wait; what that throws into the coroutine is exchanged."""
        if self._is_due and self._task is not None:
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        value: Any = None
        exc: BaseException | None = None
        while True:
            if self._is_due:
                self._is_due = False
                if exc is not None and self._task is not None:
                    self._task.uncancel()
                exc = exceeded(self._soft_ms)
            # A signal in the few instructions around the next step is raised here, so the
            # coroutine ends without having had a chance to catch it.
            self._is_active = True
            try:
                waited = coroutine.send(value) if exc is None else coroutine.throw(exc)
            except StopIteration as stop:
                return stop.value
            finally:
                self._is_active = False
            try:
                value, exc = (yield waited), None
            except BaseException as caught:  # noqa: BLE001 (it is the coroutine's)
                value, exc = None, caught


def _start(alarm: Callable[[], None], soft_ms: int) -> None:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "a soft time limit needs its task in the main thread of the process, which this pool "
            "was not started in"
        )
    _alarm[:] = [alarm]
    signal.setitimer(signal.ITIMER_REAL, soft_ms / 1000)


def _stop() -> None:
    _alarm.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)


def exceeded(soft_ms: int) -> SoftTimeLimitExceeded:
    """The exception for a limit."""
    return SoftTimeLimitExceeded(f"ran longer than its soft time limit of {soft_ms / 1000:g} s")
