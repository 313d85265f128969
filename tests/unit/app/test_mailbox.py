"""The mailbox wakes its loop once for all that came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from zmqtasks.app.mailbox import Mailbox, mailbox, wait_for_call


class CountingLoop:
    """Stands for a loop that counts how often it is woken."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.wakes = 0

    def call_soon_threadsafe(self, callback: Callable[..., Any]) -> None:
        self.wakes += 1
        self._loop.call_soon_threadsafe(callback)


def _post_all(box: Mailbox, futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        box.post(future)


def test_a_loop_is_woken_once_for_many_arrivals() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        counting = CountingLoop(loop)
        box = Mailbox(counting)  # type: ignore[arg-type]
        for _ in range(2):
            futures = [loop.create_future() for _ in range(100)]
            thread = threading.Thread(target=_post_all, args=(box, futures))
            thread.start()
            thread.join()
            futures[0].cancel()
            await asyncio.gather(*futures[1:])
        assert counting.wakes == 2

    asyncio.run(main())


def test_each_loop_has_its_own_mailbox() -> None:
    async def mine() -> Mailbox:
        assert mailbox() is mailbox()
        return mailbox()

    assert asyncio.run(mine()) is not asyncio.run(mine())


def test_waiting_for_a_call_ends_with_it_or_with_the_time() -> None:
    async def main() -> None:
        waiting: list[Callable[[], Any]] = []
        assert not await wait_for_call(waiting.append, waiting.remove, 0.001)
        assert not waiting
        called = asyncio.ensure_future(wait_for_call(waiting.append, waiting.remove, 30))
        await asyncio.sleep(0)
        threading.Thread(target=waiting[0]).start()
        assert await called
        # Called already while it registers.
        assert await wait_for_call(lambda waiter: waiter(), lambda waiter: None, None)

    asyncio.run(main())
