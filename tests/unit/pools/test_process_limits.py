"""Time limits, cancellation by signal: the attempt that is meant ends, and no other."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from zmqtasks.pools import process
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.process import ProcessPool
from zmqtasks.pools.protocol import ChildOutcome, RunTask
from zmqtasks.testing.pool_host import Rig, started, wait_until_ended
from zmqtasks.wire.messages import Status

CONFIG = PoolConfig(app="tests.unit.pools.pool_tasks")


@pytest.fixture(scope="module")
def pool_rig() -> Iterator[Rig]:
    with started(ProcessPool(CONFIG, 1)) as rig:
        yield rig


@pytest.fixture
def rig(pool_rig: Rig) -> Rig:
    pool_rig.host.forget()
    return pool_rig


def limited(rig: Rig, name: str, *args: object, soft_ms: int = 0, hard_ms: int = 0) -> RunTask:
    task = rig.task(name, *args)
    task.soft_ms, task.hard_ms = soft_ms, hard_ms
    return task


def outcome_of(rig: Rig, task: RunTask) -> ChildOutcome:
    return next(o for o in rig.host.outcomes if o.id == task.id)


class TestHardLimit:
    def test_ends_the_attempt_whatever_it_does(self, rig: Rig) -> None:
        task = limited(rig, "hold_the_interpreter", hard_ms=50)
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.ready)
        (outcome,) = rig.host.outcomes
        assert (outcome.id, outcome.status) == (task.id, Status.TIME_LIMIT)
        assert outcome.error == "ran longer than its time limit of 0.05 s"
        assert outcome.run_us >= 50_000
        assert rig.host.blamed == [(0, False)]
        assert rig.value("add", 1, 2) == 3

    def test_others_in_its_batch_go_back_without_blame(self, rig: Rig) -> None:
        quick, slow, other = (
            rig.task("add", 1, 1),
            limited(rig, "sleep_on", "x", hard_ms=50),
            rig.task("add", 2, 2),
        )
        rig.pool.run(0, [quick, slow, other])
        rig.host.until(lambda: rig.host.ready)
        assert [(o.id, o.status) for o in rig.host.outcomes] == [
            (quick.id, Status.SUCCESS),
            (slow.id, Status.TIME_LIMIT),
        ]
        assert rig.host.blamed == [(0, False)]

    def test_outcome_that_died_with_the_limited_task_is_told_of(self, rig: Rig) -> None:
        """The process cannot say that a task before it ended: nothing of it runs any more."""
        quick, slow = rig.task("add", 1, 1), limited(rig, "hold_the_interpreter", hard_ms=50)
        rig.pool.run(0, [quick, slow, rig.task("add", 2, 2)])
        rig.host.until(lambda: rig.host.ready)
        assert outcome_of(rig, slow).status == Status.TIME_LIMIT
        told = len(rig.host.outcomes) == 2
        assert rig.host.blamed == [(0 if told else 1, False)]

    def test_time_begins_when_the_task_does(self, rig: Rig) -> None:
        """Waiting behind a task that takes longer than the limit costs nothing of it."""
        slow = rig.task("nap", 0.3)
        tasks = [slow, *(limited(rig, "nap", 0.0, hard_ms=100) for _ in range(3))]
        assert {outcome.status for outcome in rig.run(*tasks)} == {Status.SUCCESS}

    def test_soft_limit_comes_first_and_the_hard_one_does_not_wait_for_it(self, rig: Rig) -> None:
        caught = rig.run(limited(rig, "tidy_up", 0.0, soft_ms=20, hard_ms=5_000))[0]
        assert caught.status == Status.SUCCESS
        task = limited(rig, "tidy_up", 1000.0, soft_ms=20, hard_ms=100)
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.ready)
        assert outcome_of(rig, task).status == Status.TIME_LIMIT

    def test_many_limited_tasks_that_keep_their_limits_are_left_alone(self, rig: Rig) -> None:
        for _ in range(20):
            rig.run(*[limited(rig, "add", 1, n, hard_ms=40) for n in range(100)])
        rig.run(*[limited(rig, "nap", 0.005, hard_ms=1_000) for n in range(10)])
        assert rig.host.died == []


class TestTermination:
    def terminate(
        self, rig: Rig, name: str, *args: object, signum: int = signal.SIGTERM
    ) -> RunTask:
        """Start it, and end it when it has said something."""
        task = rig.task(name, *args)
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signum)
        rig.host.until(lambda: rig.host.ready)
        return task

    @pytest.mark.parametrize(
        "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL]
    )
    def test_ends_the_attempt_that_runs(self, rig: Rig, signum: signal.Signals) -> None:
        task = self.terminate(rig, "sleep_on", "here", signum=signum)
        (outcome,) = rig.host.outcomes
        assert (outcome.id, outcome.status) == (task.id, Status.CANCELLED)
        assert outcome.error == f"ended by {signum.name} on request"
        assert rig.host.blamed == [(0, False)]
        assert rig.value("add", 1, 2) == 3

    def test_task_that_ignores_the_signal_is_ended_by_force(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(process, "CHILD_EXIT_MS", 20)
        task = self.terminate(rig, "hold_out", int(signal.SIGTERM))
        assert outcome_of(rig, task).status == Status.CANCELLED
        assert rig.value("add", 1, 2) == 3

    def test_task_that_ends_by_itself_at_the_signal_is_cancelled_too(self, rig: Rig) -> None:
        task = self.terminate(rig, "end_well", int(signal.SIGTERM))
        assert outcome_of(rig, task).status == Status.CANCELLED

    def test_what_follows_in_the_batch_does_not_meet_the_signal(self, rig: Rig) -> None:
        task, after = rig.task("end_well", int(signal.SIGTERM)), rig.task("sleep_on", "after")
        rig.pool.run(0, [task, after])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signal.SIGTERM)
        rig.host.until(lambda: rig.host.ready)
        assert [record.text for record in rig.host.logs] == ["waiting"]
        assert [outcome.id for outcome in rig.host.outcomes] == [task.id]
        assert rig.host.blamed == [(0, False)]

    def test_a_task_that_waits_is_cancelled_without_harm_to_the_one_that_runs(
        self, rig: Rig
    ) -> None:
        running, waiting = rig.task("wait_until_cancelled"), rig.task("add", 1, 1)
        rig.pool.run(0, [running, waiting])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, waiting.id, 1, Status.CANCELLED, signal.SIGKILL)
        rig.pool.cancel(0, running.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: len(rig.host.outcomes) == 2)
        assert [o.status for o in rig.host.outcomes] == [Status.SUCCESS, Status.CANCELLED]
        assert rig.host.died == []

    def test_signal_for_a_task_that_has_just_ended_hits_nobody(self, rig: Rig) -> None:
        for _ in range(30):
            rig.host.forget()
            task, after = rig.task("add", 1, 1), rig.task("nap", 0.002)
            rig.pool.run(0, [task, after])
            rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signal.SIGKILL)
            rig.host.until(lambda: rig.host.died or len(rig.host.outcomes) == 2)
            if rig.host.died:
                rig.host.until(lambda: rig.host.ready)
                assert [o.id for o in rig.host.outcomes] == [task.id]
            assert outcome_of(rig, task).status in (Status.SUCCESS, Status.CANCELLED)
            statuses = {o.status for o in rig.host.outcomes if o.id == after.id}
            assert statuses <= {Status.SUCCESS}

    def test_what_the_task_had_started_ends_too(self, rig: Rig) -> None:
        task = rig.task("start_sleeper_and_wait")
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signal.SIGTERM)
        rig.host.until(lambda: rig.host.ready)
        wait_until_ended(int(rig.host.logs[0].text))
