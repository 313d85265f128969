"""What only the memory store does: it has a bound."""

from __future__ import annotations

import asyncio

import pytest

from zmqtasks.errors import StoreError
from zmqtasks.stores.memory import MemoryStore
from zmqtasks.stores.registry import make_store
from zmqtasks.testing.store_rows import NOW_MS, outcome, task_id, verdict
from zmqtasks.wire.messages import Verdict

_BIG = b"x" * 4_000


def test_a_full_store_refuses_the_whole_batch_and_says_what_to_do() -> None:
    async def scenario() -> None:
        store = MemoryStore(bytes_max=10_000)
        await store.put_batch([outcome(1, body=_BIG)], [])
        with pytest.raises(StoreError, match=r"is full: .* 10000; raise memory://\?bytes_max="):
            await store.put_batch([outcome(2), outcome(3, body=_BIG * 2)], [verdict(1)])
        found = await store.get_batch([task_id(number) for number in range(4)])
        assert found == {task_id(1): [outcome(1, body=_BIG)]}

    asyncio.run(scenario())


def test_a_full_store_still_takes_verdicts_and_repetitions() -> None:
    async def scenario() -> None:
        store = MemoryStore(bytes_max=5_000)
        await store.put_batch([outcome(1, body=_BIG)], [])
        await store.put_batch([outcome(1, body=_BIG)], [verdict(1)])
        (row,) = (await store.get_batch([task_id(1)]))[task_id(1)]
        assert row.verdict == Verdict.SETTLED

    asyncio.run(scenario())


def test_deleting_and_expiring_make_room() -> None:
    async def scenario() -> None:
        store = MemoryStore(bytes_max=10_000)
        for _ in range(5):
            await store.put_batch(
                [outcome(1, body=_BIG), outcome(2, body=_BIG, stored_ms=NOW_MS - 1)], []
            )
            await store.delete([task_id(1)])
            assert await store.expire(NOW_MS) == 1

    asyncio.run(scenario())


def test_its_bound_comes_from_the_url() -> None:
    async def scenario() -> None:
        store = make_store("memory://?bytes_max=3000")
        with pytest.raises(StoreError, match="3000"):
            await store.put_batch([outcome(1, body=_BIG)], [])

    asyncio.run(scenario())
