"""From the I/O thread into asyncio loops: one mailbox for each loop.

Outcomes arrive in batches on the I/O thread. Waking a loop for each of them costs a
system call; the mailbox wakes it once for all that came before it got to look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from zmqtasks.errors import MeshOverloaded

#: Seconds between two looks for room while the mesh is full: first and last.
_RETRY_S_MIN = 0.002
_RETRY_S_MAX = 0.05


class Mailbox:
    """Futures of one loop that are to be resolved."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._woken = False
        # Only the first in line asks for room, so that 10,000 waiting callers do not.
        self._line = asyncio.Lock()

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

    async def submit(self, attempt: Callable[[], None], timeout_s: float) -> None:
        """Call ``attempt`` until it no longer raises MeshOverloaded.

        Args:
            attempt: submits without waiting.
            timeout_s: seconds after which its MeshOverloaded is passed on.

        Raises:
            MeshOverloaded: no room in time; nothing was submitted.
        """
        give_up = self._loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(give_up):
                await self._line.acquire()
        except TimeoutError:
            attempt()  # the last try, whose own words say what is full
            return
        try:
            await self._submit_first(attempt, give_up)
        finally:
            self._line.release()

    async def _submit_first(self, attempt: Callable[[], None], give_up: float) -> None:
        delay_s = _RETRY_S_MIN
        while True:
            try:
                attempt()
            except MeshOverloaded:
                left_s = give_up - self._loop.time()
                if left_s <= 0:
                    raise
                await asyncio.sleep(min(delay_s, left_s))
                delay_s = min(delay_s * 2, _RETRY_S_MAX)
            else:
                return


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
