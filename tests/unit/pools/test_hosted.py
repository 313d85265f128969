"""Slots that share a process: what the suite for all pools does not try."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.limits import SUSPECTS_AT_ONCE
from zmqtasks.node.slots import plan_of
from zmqtasks.pools.base import PoolConfig, PoolPlan
from zmqtasks.pools.hosted import HostedPool
from zmqtasks.pools.protocol import RunTask
from zmqtasks.settings import load_settings
from zmqtasks.testing.pool_host import Rig, started, wait_until_ended
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_value

CONFIG = PoolConfig(app="tests.unit.pools.pool_tasks")


def planned(kind: str, **plan: Any) -> HostedPool:
    pool = HostedPool(CONFIG, kind)
    pool.plan(PoolPlan(**plan))
    return pool


@pytest.fixture(params=["thread", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run_in_all_slots(rig: Rig, name: str) -> list[RunTask]:
    """A task that runs until it is cancelled in each slot, all of them running."""
    tasks = [rig.task(name) for _ in range(rig.pool.slots)]
    for slot, task in enumerate(tasks):
        rig.pool.run(slot, [task])
    rig.host.until(lambda: len(rig.host.logs) == len(tasks))
    return tasks


def test_gpus_by_id_are_refused_since_all_tasks_share_one_environment(kind: str) -> None:
    settings = load_settings({"resources": ("gpu=id:0:3",), "pool": kind}, env={}).settings
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        HostedPool(CONFIG, kind).plan(plan_of(settings))


def test_all_slots_are_in_one_process(kind: str) -> None:
    with started(planned(kind, slots=4), 4) as rig:
        for slot in range(4):
            rig.pool.run(slot, [rig.task("process_id")])
        rig.host.until(lambda: len(rig.host.outcomes) == 4)
        (pid,) = {decode_value(outcome.body) for outcome in rig.host.outcomes}
        assert pid != os.getpid()


class TestDeaths:
    @pytest.fixture
    def rig(self, kind: str) -> Iterator[Rig]:
        with started(planned(kind, slots=3), 3) as rig:
            rig.host.forget()
            yield rig

    def test_all_that_ran_are_suspects_and_none_is_to_blame(self, rig: Rig) -> None:
        run_in_all_slots(rig, "wait_until_cancelled")
        rig.pool.kill(0)
        rig.host.until(lambda: len(rig.host.ready) == 3)
        assert sorted(slot for slot, _ in rig.host.died) == [0, 1, 2]
        assert rig.host.blamed == [(0, True)] * 3
        assert rig.host.alone == [False] * 3

    def test_one_that_ran_alone_is_to_blame_and_what_waited_behind_it_is_not(
        self, rig: Rig
    ) -> None:
        rig.pool.run(1, [rig.task("add", 1, 2)])
        rig.host.until(lambda: rig.host.outcomes)
        rig.pool.run(0, [rig.task("die_by", int(signal.SIGKILL)), rig.task("add", 1, 2)])
        rig.host.until(lambda: rig.host.ready)
        assert [slot for slot, _ in rig.host.died] == [0]
        assert (rig.host.blamed, rig.host.alone) == ([(0, True)], [True])

    def test_suspect_runs_in_a_process_of_its_own_beside_the_others(self, rig: Rig) -> None:
        main = rig.value("process_id")
        other = rig.task("wait_until_cancelled")
        rig.pool.run(1, [other])
        rig.host.until(lambda: rig.host.logs)
        own = rig.value("process_id", k=0)
        assert own != main
        wait_until_ended(own)
        assert rig.value("process_id") == main
        rig.pool.cancel(1, other.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: rig.host.outcomes[-1].id == other.id)
        assert rig.host.died == []

    def test_suspect_that_dies_takes_nobody_along(self, rig: Rig) -> None:
        bystanders = [rig.task("wait_until_cancelled") for _ in range(2)]
        for slot, task in enumerate(bystanders, 1):
            rig.pool.run(slot, [task])
        rig.host.until(lambda: len(rig.host.logs) == 2)
        rig.pool.run(0, [rig.task("die_by", int(signal.SIGKILL), attempt=2, k=0)])
        rig.host.until(lambda: rig.host.ready)
        assert [slot for slot, _ in rig.host.died] == [0]
        assert (rig.host.blamed, rig.host.alone) == ([(0, True)], [True])
        for slot, task in enumerate(bystanders, 1):
            rig.pool.cancel(slot, task.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: len(rig.host.outcomes) == 2)


def test_many_suspects_have_few_processes(kind: str) -> None:
    count = 3 * SUSPECTS_AT_ONCE
    with started(planned(kind, slots=count), count) as rig:
        for slot in range(count):
            rig.pool.run(slot, [rig.task("process_id", k=0)])
        rig.host.until(lambda: len(rig.host.outcomes) == count)
        pids = {decode_value(outcome.body) for outcome in rig.host.outcomes}
        assert len(pids) <= SUSPECTS_AT_ONCE
        wait_until_ended(*pids)
        assert rig.host.died == []


def test_process_that_is_replaced_ends_what_it_has_beside_the_new_one(kind: str) -> None:
    with started(planned(kind, slots=2, tasks_max=2), 2) as rig:
        old = rig.task("wait_until_cancelled")
        rig.pool.run(1, [old])
        rig.host.until(lambda: rig.host.logs)
        pids = {rig.value("process_id") for _ in range(6)}
        assert len(pids) >= 3
        rig.pool.cancel(1, old.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: rig.host.outcomes[-1].id == old.id)
        assert decode_value(rig.host.outcomes[-1].body) == "cancelled"
        assert rig.host.died == []
    wait_until_ended(*pids)


def test_thread_of_a_task_sees_no_other_task() -> None:
    """Of several that run, none is the one that it belongs to."""
    with started(planned("thread", slots=2), 2) as rig:
        other = rig.task("wait_until_cancelled")
        rig.pool.run(1, [other])
        rig.host.until(lambda: rig.host.logs)
        assert rig.value("seen_by_its_thread") is None
        rig.pool.cancel(1, other.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: rig.host.outcomes[-1].id == other.id)


def test_function_that_cannot_be_ended_goes_on_and_says_so() -> None:
    with started(planned("asyncio", slots=1)) as rig:
        task = rig.task("wait_until_cancelled")
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signal.SIGTERM)
        rig.host.until(lambda: rig.host.outcomes)
        assert rig.host.outcomes[0].status == Status.SUCCESS
        rig.host.until(lambda: len(rig.host.logs) == 2)
        assert "cannot be ended" in rig.host.logs[1].text


def test_exit_in_what_a_coroutine_left_behind_does_not_end_the_loop() -> None:
    with started(planned("asyncio", slots=1)) as rig:
        rig.value("leave_an_exit_behind")
        assert rig.value("slow_add", 1, 2)[0] == 3
        assert rig.host.died == []
