"""Calling functions of users when results are there: ``then``, and cancelled waits.

Outcomes come on the I/O thread, which must not run foreign code. Callbacks run in the
asyncio loop in which they were given, else one after the other in a thread for them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Literal, TypeAlias, TypeVar

from zmqtasks.app import timing
from zmqtasks.app.current import in_running_loop
from zmqtasks.errors import ZmqTasksError

_LOG = logging.getLogger("zmqtasks.app")
T = TypeVar("T")

#: Of a wait that is cancelled: leave the task alone, revoke it, or end it if it runs, too.
RevokeOnCancel: TypeAlias = bool | Literal["terminate"]


class _Thread:
    """The thread for callbacks, which starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_running = False

    def call(self, function: Callable[[], None]) -> None:
        """Call it there, after those before it."""
        self._calls.put(function)
        with self._lock:
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="zmqtasks-then", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._calls.get()()


_thread = _Thread()


def _after_fork_in_child() -> None:
    global _thread
    _thread = _Thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def caller(function: Callable[[T], object], argument: T) -> Callable[[], None]:
    """A waiter that has ``function(argument)`` called where it was asked for; see above."""

    def call() -> None:
        try:
            function(argument)
        except Exception:  # noqa: BLE001 - foreign code, and nobody else could be told
            _LOG.exception("a callback given to then() of %r raised", argument)

    if not in_running_loop():
        return lambda: None if timing.clock().call_soon(call) else _thread.call(call)
    import asyncio

    loop = asyncio.get_running_loop()

    def call_in_loop() -> None:
        # A loop that was closed has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(call)

    return call_in_loop


def check_revoke_on_cancel(method: str, value: object) -> None:
    """Whether it says what to do.

    Raises:
        ValueError: it does not.
    """
    if value not in (True, False, "terminate"):
        raise ValueError(
            f"{method}(revoke_on_cancel={value!r:.75}): is True, 'terminate' to end what runs, "
            "too, or False"
        )


async def revoke_as_cancelled(
    revoke: Callable[[bool], Awaitable[object]], how: RevokeOnCancel
) -> None:
    """Somebody's wait was cancelled: revoke what it waited for, as far as they want that.

    The cancellation goes on when owners were told, or a second one comes.
    """
    if not how:
        return
    import asyncio

    telling = asyncio.ensure_future(revoke(how == "terminate"))
    try:
        await asyncio.shield(telling)
    except (ZmqTasksError, RuntimeError) as exc:
        _LOG.warning("a wait was cancelled, and what it waited for could not be revoked: %s", exc)
