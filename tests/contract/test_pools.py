"""Every pool keeps the same promises, or refuses what it cannot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from zmqtasks.pools.base import Pool, PoolConfig
from zmqtasks.pools.registry import make_pool as pool_by_name
from zmqtasks.pools.solo import SoloPool
from zmqtasks.testing import PoolContract
from zmqtasks.testing.pool_features import CONFIG
from zmqtasks.testing.pool_host import Rig, started


class TestProcessPool(PoolContract):
    @staticmethod
    def make_pool(config: PoolConfig) -> Pool:
        return pool_by_name("process", config)


class TestThreadPool(PoolContract):
    @staticmethod
    def make_pool(config: PoolConfig) -> Pool:
        return pool_by_name("thread", config)


class TestAsyncioPool(PoolContract):
    @staticmethod
    def make_pool(config: PoolConfig) -> Pool:
        return pool_by_name("asyncio", config)


# The tasks need the main thread, and with it the signal that pytest-timeout would use.
@pytest.mark.timeout(method="thread")
class TestSoloPool(PoolContract):
    """The tests run in a thread of their own, see conftest.py."""

    #: Pools whose tasks the main thread is to run.
    main_thread_pools: SimpleQueue[SoloPool | None]

    @staticmethod
    def make_pool(config: PoolConfig) -> Pool:
        return pool_by_name("solo", config)

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        pool = SoloPool(CONFIG)
        type(self).main_thread_pools = SimpleQueue()
        with started(pool) as rig:
            rig.host.forget()
            self.main_thread_pools.put(pool)
            yield rig

    def test_runs_in_the_main_thread(self, rig: Rig) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert rig.value("is_main_thread")
