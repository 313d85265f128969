"""From the I/O thread into asyncio loops: one mailbox for each loop.

Outcomes arrive in batches on the I/O thread. Waking a loop for each of them costs a
system call; the mailbox wakes it once for all that came before it got to look.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from zmqtasks.app import timing

if TYPE_CHECKING:
    from zmqtasks.node.room import Place


class Mailbox:
    """Futures of one loop that are to be resolved."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._woken = False

    def post(self, future: asyncio.Future[None]) -> None:
        """Resolve a future of this loop; from any thread."""
        self._arrived.append(future)
        if not self._woken:
            self._woken = True
            # A loop that was closed has nobody left who waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First, so that whatever arrives from here on wakes the loop again.
        self._woken = False
        arrived = self._arrived
        while arrived:
            future = arrived.popleft()
            if not future.done():
                future.set_result(None)

    async def submit(
        self, line_up: Callable[[Callable[[], None]], Place], attempt: Callable[[Place], None],
        timeout_s: float,
    ) -> None:  # fmt: skip
        """Call ``attempt`` when there is room, or when the time is over.

        Args:
            line_up: ``Gateway.line_up`` for certain calls.
            attempt: submits them, with the place in the line.
            timeout_s: seconds to wait for room.

        Raises:
            MeshOverloaded: no room in time; nothing was submitted.
        """
        granted: asyncio.Future[None] = self._loop.create_future()
        place = line_up(partial(self.post, granted))
        try:
            if not place.is_granted:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await granted
            attempt(place)
        finally:
            place.leave()


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()


def mailbox() -> Mailbox:
    """The mailbox of the running loop."""
    loop = asyncio.get_running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = Mailbox(loop)
    return found


async def wait_for_call(
    register: Callable[[Callable[[], Any]], None],
    unregister: Callable[[Callable[[], Any]], None],
    timeout_s: float | None,
) -> bool:
    """Wait until a callback is called, from whatever thread.

    Args:
        register: takes the callback; may call it at once.
        unregister: called in the end with the same callback.
        timeout_s: seconds to wait at most, None for ever.

    Returns:
        False when the time was over first.
    """
    if timing.clock().is_virtual:
        arrived_here = threading.Event()
        register(arrived_here.set)
        try:
            return timing.wait(arrived_here, timeout_s)
        finally:
            unregister(arrived_here.set)
    box = mailbox()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def arrived() -> None:
        box.post(future)

    register(arrived)
    try:
        async with asyncio.timeout(timeout_s):
            await future
    except TimeoutError:
        return future.done() and not future.cancelled()
    finally:
        unregister(arrived)
    return True
