"""Soft time limits: SoftTimeLimitExceeded raised inside the task, which may go on from there.

Where one task runs at a time, its function is interrupted by a timer's signal, whatever
it does; a task that uses ``signal.alarm`` or ``setitimer(ITIMER_REAL)`` itself takes the
timer away. Where several run side by side, a watchdog has their threads raise it.

A coroutine must not be interrupted while its loop does something else: the exception is
raised in it where it waits, or at once if it is what runs.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from functools import lru_cache, partial
from types import FrameType
from typing import Any, TypeVar

from zmqtasks.errors import SoftTimeLimitExceeded
from zmqtasks.pools.watchdog import Target, Watch, Watchdog, raise_nothing

T = TypeVar("T")

#: Called by the signal, while something is limited here.
_alarm: list[Callable[[], None]] = []
#: What interrupts here instead of the signal, if anything.
_watchdog: list[Watchdog] = []


def install() -> None:
    """Make soft limits possible in this process; in its main thread."""
    _watchdog.clear()
    signal.signal(signal.SIGALRM, _on_alarm)


def install_watchdog() -> None:
    """Make soft limits possible in this process, in all of its threads."""
    _watchdog[:] = [Watchdog()]


def _on_alarm(_signum: int, _frame: FrameType | None) -> None:
    if _alarm:
        _alarm.pop()()


def call(function: Callable[..., Any], soft_ms: int, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function that may run for so many milliseconds.

    Raises:
        SoftTimeLimitExceeded: in the function, at whatever it does then.
    """
    if _watchdog:
        return _call_watched(_watchdog[0], partial(function, *args, **kwargs), soft_ms)

    def exceed() -> None:
        raise exceeded(soft_ms)

    _start(exceed, soft_ms)
    try:
        return function(*args, **kwargs)
    finally:
        _stop()


def _call_watched(watchdog: Watchdog, function: Callable[[], Any], soft_ms: int) -> Any:
    target = Target(_class_for(soft_ms))
    watchdog.targets[target.thread] = target
    watch = watchdog.start(soft_ms, target.interrupt)
    try:
        return function()
    finally:
        # Interrupted in these lines, it ends as any other that took too long.
        with watchdog.lock:
            watchdog.targets.pop(target.thread, None)
            if watch.is_over:
                raise_nothing()
            watch.is_over = True


def shielded(function: Callable[..., T], /, *args: Any) -> T:
    """Call a function that a watchdog must not interrupt halfway: others need what it holds.

    Raises:
        SoftTimeLimitExceeded: afterwards, if the time of the task was over meanwhile.
    """
    if _watchdog and _watchdog[0].targets:
        target = _watchdog[0].targets.get(threading.get_ident())
        if target is not None:
            return _watchdog[0].shielded(target, function, *args)
    return function(*args)


async def run(coroutine: Coroutine[Any, Any, T], soft_ms: int) -> T:
    """The same coroutine with a limit, to be run by a loop of the main thread (with a
    watchdog: of any).

    Raises:
        SoftTimeLimitExceeded: in the coroutine, where it waits or at whatever it does then.
    """
    interruptible = (
        _Watched(coroutine, soft_ms, _watchdog[0])
        if _watchdog
        else _Interruptible(coroutine, soft_ms)
    )
    interruptible.start()
    try:
        found: T = await interruptible
        return found
    finally:
        interruptible.stop()


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
        self._start_timer()

    def _start_timer(self) -> None:
        _start(self._exceed, self._soft_ms)

    def stop(self) -> None:
        """It ended."""
        _stop()

    def _exceed(self) -> None:
        """The signal came."""
        if self._is_active:
            raise exceeded(self._soft_ms)
        self._come_due()

    def _come_due(self) -> None:
        self._is_due = True
        self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        """End the wait; what that throws into the coroutine is exchanged."""
        if self._is_due and self._task is not None:
            self._task.cancel()

    def _enter(self) -> None:
        self._is_active = True

    def _leave(self) -> None:
        self._is_active = False

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
            # What interrupts in the few instructions around the next step is raised here, so
            # the coroutine ends without having had a chance to catch it.
            self._enter()
            try:
                waited = coroutine.send(value) if exc is None else coroutine.throw(exc)
            except StopIteration as stop:
                return stop.value
            finally:
                self._leave()
            try:
                value, exc = (yield waited), None
            except BaseException as caught:  # noqa: BLE001 (it is the coroutine's)
                value, exc = None, caught


class _Watched(_Interruptible):
    """The same, interrupted from another thread."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], soft_ms: int, watchdog: Watchdog
    ) -> None:
        super().__init__(coroutine, soft_ms)
        self._watchdog = watchdog
        self._target = Target(_class_for(soft_ms))
        self._watch: Watch | None = None

    def _start_timer(self) -> None:
        self._watch = self._watchdog.start(self._soft_ms, self._exceed)

    def stop(self) -> None:
        """It ended."""
        with self._watchdog.lock:
            if self._watch is not None:
                self._watch.is_over = True

    def _exceed(self) -> None:
        """The time is over; in the watchdog's thread, with its lock held."""
        if self._is_active:
            self._target.interrupt()
        else:
            self._come_due()

    def _enter(self) -> None:
        with self._watchdog.lock:
            self._is_active = True
            self._watchdog.targets[self._target.thread] = self._target

    def _leave(self) -> None:
        # Nothing that was meant for the coroutine may be raised in the loop.
        with self._watchdog.lock:
            self._is_active = False
            self._watchdog.targets.pop(self._target.thread, None)
            if self._watch is not None and self._watch.is_over:
                raise_nothing()


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


def _text(soft_ms: int) -> str:
    return f"ran longer than its soft time limit of {soft_ms / 1000:g} s"


def exceeded(soft_ms: int) -> SoftTimeLimitExceeded:
    """The exception for a limit."""
    return SoftTimeLimitExceeded(_text(soft_ms))


@lru_cache(maxsize=256)
def _class_for(soft_ms: int) -> type[SoftTimeLimitExceeded]:
    """A class whose instances say what ``exceeded`` says: another thread can be given a class
    to raise, and nothing else."""

    def made(self: SoftTimeLimitExceeded, *args: Any) -> None:
        SoftTimeLimitExceeded.__init__(self, *(args or (_text(soft_ms),)))

    origin = SoftTimeLimitExceeded
    names = {"__module__": origin.__module__, "__qualname__": origin.__qualname__}
    return type(origin.__name__, (origin,), {**names, "__doc__": origin.__doc__, "__init__": made})
