"""Slots that outlive their processes, and slots that come and go."""

from __future__ import annotations

import os
import select
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.pools.base import PoolConfig, PoolPlan
from zmqtasks.pools.process import ProcessPool
from zmqtasks.pools.protocol import RunTask
from zmqtasks.testing.pool_host import PATIENCE_S, Rig, started, wait_until_ended
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_value

CONFIG = PoolConfig(app="tests.unit.pools.pool_tasks")


def planned(config: PoolConfig = CONFIG, **plan: Any) -> ProcessPool:
    pool = ProcessPool(config)
    pool.plan(PoolPlan(**plan))
    return pool


def pids_of(rig: Rig, tasks: list[RunTask]) -> list[int]:
    """Which process ran each of these ``where`` tasks."""
    rig.host.until(lambda: len(rig.host.outcomes) >= len(tasks))
    found = {outcome.id: decode_value(outcome.body)["pid"] for outcome in rig.host.outcomes}
    return [found[task.id] for task in tasks]


class TestTasksMax:
    @pytest.mark.parametrize(("most", "count"), [(1, 20), (7, 60), (50, 120)])
    def test_each_process_runs_so_many_tasks_and_none_is_lost_or_repeated(
        self, most: int, count: int
    ) -> None:
        with started(planned(tasks_max=most)) as rig:
            tasks = [rig.task("where") for _ in range(count)]
            for at in range(0, count, 20):
                rig.pool.run(0, tasks[at : at + 20])
            pids = pids_of(rig, tasks)
            assert [outcome.id for outcome in rig.host.outcomes] == [task.id for task in tasks]
            counts = Counter(pids)
            assert max(counts.values()) == most
            assert len(counts) == -(-count // most)
            assert rig.host.died == []
            assert rig.host.ready == [0]
        wait_until_ended(*counts)

    def test_successor_is_there_when_the_last_task_ends(self) -> None:
        with started(planned(tasks_max=2)) as rig:
            assert isinstance(rig.pool, ProcessPool)
            rig.value("add", 1, 2)
            rig.pool.run(0, [rig.task("wait_until_cancelled")])
            rig.host.until(lambda: rig.host.logs)
            slot = rig.pool._slots[0]
            rig.host.until(lambda: slot.successor is not None and slot.successor.ready)

    def test_cancelled_task_that_waits_for_the_next_process_does_not_start(self) -> None:
        with started(planned(tasks_max=1)) as rig:
            first, second, third = (rig.task("wait_until_cancelled"), rig.task("nap", 0.0),
                                    rig.task("add", 1, 2))  # fmt: skip
            rig.pool.run(0, [first, second, third])
            rig.host.until(lambda: rig.host.logs)
            rig.pool.cancel(0, second.id, 1, Status.EXPIRED, 0)
            rig.pool.cancel(0, first.id, 1, Status.CANCELLED, 0)
            rig.host.until(lambda: len(rig.host.outcomes) == 3)
            assert [outcome.status for outcome in rig.host.outcomes] == [
                Status.SUCCESS, Status.EXPIRED, Status.SUCCESS,
            ]  # fmt: skip

    def test_pool_stops_while_a_process_is_about_to_step_in(self) -> None:
        with started(planned(tasks_max=1)) as rig:
            assert isinstance(rig.pool, ProcessPool)
            rig.pool.run(0, [rig.task("add", n, n) for n in range(5)])
            successor = rig.pool._slots[0].successor
            assert successor is not None
            # It says that it is ready, and only stopping hears it.
            assert select.select([successor.sock], [], [], PATIENCE_S)[0]
            rig.pool.stop()
            assert rig.pool.pids() == []

    def test_what_waits_for_the_next_process_goes_back_when_the_present_one_dies(self) -> None:
        with started(planned(tasks_max=1)) as rig:
            rig.pool.run(0, [rig.task("exit_with", 3), rig.task("add", 1, 2)])
            rig.host.until(lambda: len(rig.host.ready) == 2)
            assert rig.host.blamed == [(0, True)]
            assert rig.value("add", 3, 4) == 7
            assert len(rig.host.outcomes) == 1


class TestMemory:
    def test_process_that_holds_too_much_is_replaced_after_its_task(self) -> None:
        with started(planned(memory_kib_max=200 * 1024)) as rig:
            first = rig.value("hold_memory", 1)
            assert rig.value("hold_memory", 1) == first
            heavy = rig.value("hold_memory", 250)
            assert heavy == first
            wait_until_replaced(rig, heavy)
            assert rig.value("hold_memory", 1) != heavy
            assert rig.host.died == []

    def test_tasks_that_come_meanwhile_all_run(self) -> None:
        with started(planned(memory_kib_max=200 * 1024)) as rig:
            tasks = [rig.task("hold_memory", 60 if n % 10 == 0 else 1) for n in range(60)]
            for at in range(0, 60, 4):
                rig.pool.run(0, tasks[at : at + 4])
                rig.host.until(lambda at=at: len(rig.host.outcomes) > at)  # type: ignore[misc]
            rig.host.until(lambda: len(rig.host.outcomes) == 60)
            assert [outcome.id for outcome in rig.host.outcomes] == [task.id for task in tasks]
            assert len({decode_value(outcome.body) for outcome in rig.host.outcomes}) > 1
            assert rig.host.died == []


def wait_until_replaced(rig: Rig, pid: int) -> None:
    assert isinstance(rig.pool, ProcessPool)
    pool = rig.pool
    rig.host.until(lambda: pool.pids() and pid not in pool.pids())


class TestIdle:
    def test_process_without_work_ends_and_the_next_task_starts_one(self) -> None:
        with started(planned(idle_ms=30)) as rig:
            assert isinstance(rig.pool, ProcessPool)
            pool = rig.pool
            (pid,) = pool.pids()
            rig.host.until(lambda: not pool.pids())
            wait_until_ended(pid)
            assert rig.host.died == []
            assert rig.value("add", 1, 2) == 3
            assert rig.value("where")["pid"] != pid
            assert rig.host.ready == [0]

    def test_process_that_works_stays(self) -> None:
        with started(planned(idle_ms=50)) as rig:
            rig.run(rig.task("nap", 0.3))
            assert rig.host.died == []

    def test_slot_without_process_can_be_killed_and_closed(self) -> None:
        with started(planned(idle_ms=20, slots=2), slots=2) as rig:
            assert isinstance(rig.pool, ProcessPool)
            pool = rig.pool
            rig.host.until(lambda: not pool.pids())
            pool.resize(1)
            assert rig.host.gone == [1]
            pool.kill(0)
            rig.host.until(lambda: len(rig.host.ready) == 3)
            assert rig.host.blamed == [(0, False)]
            assert rig.value("add", 1, 2) == 3


class TestResize:
    def test_slots_are_added_and_those_without_work_go_first(self) -> None:
        with started(ProcessPool(CONFIG, 1)) as rig:
            rig.pool.resize(3)
            rig.host.until(lambda: sorted(rig.host.ready) == [0, 1, 2])
            assert rig.pool.slots == 3
            held = rig.task("wait_until_cancelled")
            rig.pool.run(2, [held])
            rig.host.until(lambda: rig.host.logs)
            rig.pool.resize(1)
            assert sorted(rig.host.gone) == [0, 1]
            rig.pool.cancel(2, held.id, 1, Status.CANCELLED, 0)
            rig.host.until(lambda: rig.host.outcomes)
            rig.pool.resize(2)
            rig.host.until(lambda: len(rig.host.ready) == 4)
            assert rig.host.ready[3] == 0
            assert rig.host.died == []

    def test_busy_slot_ends_what_it_has_before_it_goes(self) -> None:
        with started(ProcessPool(CONFIG, 2), slots=2) as rig:
            assert isinstance(rig.pool, ProcessPool)
            pids = rig.pool.pids()
            held = [rig.task("wait_until_cancelled") for _ in range(2)]
            for slot in (0, 1):
                rig.pool.run(slot, [held[slot], rig.task("nap", 0.0)])
            rig.host.until(lambda: len(rig.host.logs) == 2)
            rig.pool.resize(1)
            (gone,) = rig.host.gone
            rig.pool.cancel(gone, held[gone].id, 1, Status.CANCELLED, 0)
            rig.host.until(lambda: len(rig.host.outcomes) == 2)
            wait_until_ended(pids[gone])
            assert len(rig.pool.pids()) == 1
            assert rig.host.died == []

    def test_busy_slot_that_dies_on_its_way_out_says_so_and_is_not_replaced(self) -> None:
        with started(ProcessPool(CONFIG, 2), slots=2) as rig:
            for slot in (0, 1):
                rig.pool.run(slot, [rig.task("spin")])
            rig.host.until(lambda: len(rig.host.logs) == 2)
            rig.pool.resize(1)
            (gone,) = rig.host.gone
            rig.pool.kill(gone)
            rig.host.until(lambda: rig.host.died)
            assert rig.host.died[0][0] == gone
            rig.pool.kill(1 - gone)
            rig.host.until(lambda: len(rig.host.ready) == 3)
            assert rig.host.ready[2] == 1 - gone


class TestPinning:
    def test_each_slot_has_its_cpu_and_its_gpu(self) -> None:
        cpus = tuple(sorted(os.sched_getaffinity(0)))[:2]
        config = msgspec.structs.replace(CONFIG, cpus=cpus, gpus=("4", "GPU-5f"))
        with started(ProcessPool(config, 3), slots=3) as rig:
            places = {}
            for slot in range(3):
                task = rig.task("where")
                rig.pool.run(slot, [task])
                rig.host.until(lambda: rig.host.outcomes)
                places[slot] = decode_value(rig.host.outcomes.pop().body)
        assert [places[slot]["cpus"] for slot in range(3)] == [
            [cpus[slot % len(cpus)]] for slot in range(3)
        ]
        assert [places[slot]["gpus"] for slot in range(3)] == ["4", "GPU-5f", "4"]

    def test_successor_has_those_of_its_slot(self) -> None:
        config = msgspec.structs.replace(CONFIG, gpus=("4", "5"))
        with started(planned(config, slots=2, tasks_max=1), slots=2) as rig:
            for n in range(4):
                rig.pool.run(1, [rig.task("where")])
                rig.host.until(lambda n=n: len(rig.host.outcomes) == n + 1)  # type: ignore[misc]
            assert [decode_value(o.body)["gpus"] for o in rig.host.outcomes] == ["5"] * 4

    def test_cpu_that_is_not_there_is_refused_before_a_process_is_started(self) -> None:
        pool = ProcessPool(msgspec.structs.replace(CONFIG, cpus=(0, 4097)))
        with pytest.raises(ConfigError, match="CPU 4097 cannot be used"):
            pool.launch()


class TestBlame:
    """What ``slot_died`` says of the tasks that a process took along."""

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with started(ProcessPool(CONFIG, 1)) as rig:
            yield rig

    def died(self, rig: Rig, happens: Callable[[], None]) -> tuple[int, bool]:
        happens()
        rig.host.until(lambda: len(rig.host.ready) == 2)
        (blame,) = rig.host.blamed
        return blame

    def test_process_that_dies_idle_blames_nobody(self, rig: Rig) -> None:
        assert isinstance(rig.pool, ProcessPool)
        (pid,) = rig.pool.pids()
        assert self.died(rig, lambda: os.kill(pid, signal.SIGKILL)) == (0, False)

    def test_task_that_ran_is_to_blame_and_not_one_that_ended_before_it(self, rig: Rig) -> None:
        """The first without an answer was blamed, whichever ran."""
        tasks = [rig.task("add", n, n) for n in range(3)]
        blame = self.died(
            rig, lambda: rig.pool.run(0, [*tasks, rig.task("exit_with", 1), rig.task("add", 9, 9)])
        )
        assert blame == (3 - len(rig.host.outcomes), True)


def test_descriptors_stay_the_same_while_processes_come_and_go() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with started(planned(tasks_max=3)) as rig:
        rig.run(*[rig.task("add", 1, n) for n in range(30)])
        rig.host.until(lambda: len(rig.pool._nursery._children) <= 2)  # type: ignore[attr-defined]
        before = count()
        rig.run(*[rig.task("add", 1, n) for n in range(90)])
        rig.host.until(lambda: len(rig.pool._nursery._children) <= 2)  # type: ignore[attr-defined]
        assert abs(count() - before) <= 4
