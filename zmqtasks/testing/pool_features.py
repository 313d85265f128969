"""The part of the suite for pools about what not every pool can do."""

# ruff: noqa: D102 - the names of the tests are sentences

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import pytest

from zmqtasks.errors import ConfigError, SoftTimeLimitExceeded
from zmqtasks.pools import base
from zmqtasks.pools.base import Pool, PoolConfig, PoolPlan
from zmqtasks.pools.protocol import RunTask
from zmqtasks.testing.pool_host import RecordingHost, Rig, ended, started, wait_until_ended
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_error, decode_value

#: Makes a pool that is not started.
MakePool = Callable[[PoolConfig], Pool]

TASKS = "zmqtasks.testing.pool_tasks"
#: Setting of the pools under test, so that a result over it is quickly made.
PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
CONFIG = PoolConfig(app=TASKS, node_name="worker-1", payload_bytes_max=PAYLOAD_BYTES_MAX)
#: Slots of the pools under test, where there may be several.
SLOTS_COUNT = 3

_Test = TypeVar("_Test", bound=Callable[..., None])


class Behaviour(NamedTuple):
    """A row of the matrix."""

    text: str
    #: The feature that a pool must have for it, "" for what all have.
    needs: str


def behaviour(text: str, needs: str = "") -> Callable[[_Test], _Test]:
    """Mark a test as the proof of a row of the matrix."""

    def mark(test: _Test) -> _Test:
        test.behaviour = Behaviour(text, needs)  # type: ignore[attr-defined]
        return test

    return mark


def planned(make_pool: MakePool, **plan: Any) -> contextlib.AbstractContextManager[Rig]:
    """A started pool with this plan."""
    pool = make_pool(CONFIG)
    pool.plan(PoolPlan(**plan))
    return started(pool, pool.slots)


def _limited(rig: Rig, name: str, *args: Any, soft_ms: int = 0, hard_ms: int = 0) -> RunTask:
    task = rig.task(name, *args)
    task.soft_ms, task.hard_ms = soft_ms, hard_ms
    return task


class PoolFeatures:
    """What a pool has among its features works, what it has not is refused."""

    @staticmethod
    def make_pool(config: PoolConfig) -> Pool:
        """The pool to be tried, not started; each subclass has its own."""
        raise TypeError(f"the suite needs a static method make_pool, for {config.app}")

    @pytest.fixture(autouse=True)
    def _needs(self, request: pytest.FixtureRequest) -> None:
        row = getattr(request.function, "behaviour", None)
        if row is not None and row.needs and row.needs not in self.make_pool(CONFIG).features:
            pytest.skip(f"the pool has no {row.needs}, see the tests of what it refuses")

    _started: ClassVar[contextlib.ExitStack | None] = None
    _shared: ClassVar[Rig]

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        """A pool with several slots, if it can have them: one for all tests, with new notes."""
        cls = type(self)
        if cls._started is None:
            cls._started = contextlib.ExitStack()
            cls._shared = cls._started.enter_context(planned(self.make_pool, slots=SLOTS_COUNT))
        cls._shared.host.forget()
        yield cls._shared
        try:
            cls._shared.recover()
        except AssertionError:
            cls.teardown_class()  # the next test shall have a better one
            raise

    @classmethod
    def teardown_class(cls) -> None:
        """Stop the pool."""
        if cls._started is not None:
            cls._started.close()
            cls._started = None

    # --- limits -------------------------------------------------------------------------

    @behaviour("Soft time limit", base.SOFT_LIMIT)
    @pytest.mark.parametrize("name", ["sleep_on_async", "spin"])
    def test_soft_limit_is_raised_in_the_task(self, rig: Rig, name: str) -> None:
        outcome = rig.run(_limited(rig, name, soft_ms=20))[0]
        assert outcome.status == Status.FAILURE
        error = decode_error(outcome.body)
        assert isinstance(error, SoftTimeLimitExceeded)
        assert "0.02 s" in str(error)
        assert rig.value("add", 1, 2) == 3
        assert rig.host.died == []

    @behaviour("Soft time limit", base.SOFT_LIMIT)
    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("compute_on", ()),
            ("tidy_up_async", ("waiting",)),
            ("tidy_up_async", ("computing",)),
            ("tidy_up_async", ("gathering",)),
        ],
    )
    def test_task_that_catches_its_soft_limit_may_end_with_a_result(
        self, rig: Rig, name: str, args: tuple[Any, ...]
    ) -> None:
        outcome = rig.run(_limited(rig, name, *args, soft_ms=20))[0]
        assert outcome.status == Status.SUCCESS, outcome.error
        assert "soft time limit of 0.02 s" in decode_value(outcome.body)

    @behaviour("Soft time limit", base.SOFT_LIMIT)
    def test_task_that_is_quicker_hears_nothing_nor_does_the_next(self, rig: Rig) -> None:
        tasks = [_limited(rig, "add", n, 1, soft_ms=30) for n in range(50)]
        assert [decode_value(o.body) for o in rig.run(*tasks)] == list(range(1, 51))
        # Longer than the limit of those before.
        assert "0.1 s" in decode_value(rig.run(_limited(rig, "compute_on", soft_ms=100))[0].body)

    @behaviour("Soft time limit interrupts what blocks (`time.sleep`, a query)", base.WAKE)
    def test_soft_limit_interrupts_a_call_that_blocks(self, rig: Rig) -> None:
        outcome = rig.run(_limited(rig, "tidy_up", 0.0, soft_ms=20))[0]
        assert "soft time limit" in decode_value(outcome.body)

    @behaviour("Hard time limit", base.HARD_LIMIT)
    def test_hard_limit_ends_the_attempt_and_blames_no_other(self, rig: Rig) -> None:
        quick, slow, other = (
            rig.task("add", 1, 1), _limited(rig, "spin", hard_ms=50), rig.task("add", 2, 2),
        )  # fmt: skip
        rig.pool.run(0, [quick, slow, other])
        rig.host.until(lambda: rig.host.ready)
        assert [(o.id, o.status) for o in rig.host.outcomes] == [
            (quick.id, Status.SUCCESS),
            (slow.id, Status.TIME_LIMIT),
        ]
        assert rig.host.blamed == [(0, False)]
        assert rig.value("add", 1, 2) == 3

    @behaviour("Ending a running `async def` task", base.TERMINATE)
    @pytest.mark.parametrize("name", ["sleep_on_async", "insist"])
    def test_running_coroutine_is_ended_by_request_and_no_other(self, rig: Rig, name: str) -> None:
        task, other = rig.task(name), rig.task("wait_until_cancelled_async")
        rig.pool.run(1, [other])
        rig.pool.run(0, [task])
        rig.host.until(lambda: len(rig.host.logs) == 2)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signal.SIGTERM)
        rig.host.until(lambda: rig.host.outcomes)
        assert [(o.id, o.status) for o in rig.host.outcomes] == [(task.id, Status.CANCELLED)]
        rig.pool.cancel(1, other.id, 1, Status.CANCELLED, 0)
        rig.host.until(lambda: len(rig.host.outcomes) == 2)
        assert rig.host.outcomes[1].status == Status.SUCCESS

    @behaviour("Ending any running task", base.TERMINATE_ALL)
    def test_running_function_is_ended_by_request(self, rig: Rig) -> None:
        task = rig.task("sleep_on", "here")
        rig.pool.run(0, [task])
        rig.host.until(lambda: rig.host.logs)
        rig.pool.cancel(0, task.id, 1, Status.CANCELLED, signal.SIGTERM)
        rig.host.until(lambda: rig.host.outcomes)
        assert (rig.host.outcomes[0].id, rig.host.outcomes[0].status) == (
            task.id, Status.CANCELLED,
        )  # fmt: skip

    # --- processes ----------------------------------------------------------------------

    @behaviour("A process that dies is replaced, its task runs again", base.CHILDREN)
    def test_death_is_told_with_its_signal_and_made_good(self, rig: Rig) -> None:
        rig.pool.run(0, [rig.task("die_by", int(signal.SIGSEGV))])
        rig.host.until(lambda: rig.host.ready)
        ((slot, reason),) = rig.host.died
        assert slot == 0
        assert "SIGSEGV" in reason
        assert (rig.host.blamed, rig.host.alone) == ([(0, True)], [True])
        assert rig.value("add", 1, 2) == 3

    @behaviour(
        "A task that ends its process is found out, those near it are not blamed", base.CHILDREN
    )
    def test_only_the_task_that_ends_its_process_is_ever_blamed(self, rig: Rig) -> None:
        killer, near = rig.task("die_by", int(signal.SIGKILL)), rig.task("wait_until_cancelled")
        blamed: list[bytes] = []
        for _ in range(3):
            rig.host.forget()
            rig.pool.run(1, [near])
            rig.host.until(lambda: rig.host.logs)
            rig.pool.run(0, [killer])
            rig.host.until(lambda: rig.host.ready)
            rig.host.until(lambda: len(rig.host.ready) == len(rig.host.died))
            died = dict(zip((slot for slot, _ in rig.host.died), rig.host.alone, strict=True))
            blamed += [(killer, near)[slot].id for slot, alone in died.items() if alone]
            if 1 not in died:
                rig.pool.cancel(1, near.id, near.attempt, Status.CANCELLED, 0)
                rig.host.until(lambda: rig.host.outcomes)
            for task in (killer, near):
                task.attempt += 1
                task.ext = {"k": 0}
        assert len(blamed) >= 2
        assert set(blamed) == {killer.id}

    @behaviour("Nothing is left when it stops", base.CHILDREN)
    def test_stop_ends_what_runs(self) -> None:
        with planned(self.make_pool, slots=2) as rig:
            pid = rig.value("process_id")
            rig.pool.run(1, [rig.task("spin")])
            rig.host.until(lambda: rig.host.logs)
        wait_until_ended(pid)

    @behaviour("`max_tasks_per_child`, `max_memory_per_child`, `child_idle_s`", base.RECYCLE)
    def test_process_is_replaced_after_its_tasks_and_none_is_lost(self) -> None:
        with planned(self.make_pool, slots=1, tasks_max=7) as rig:
            tasks = [rig.task("process_id") for _ in range(60)]
            for at in range(0, 60, 20):
                rig.pool.run(0, tasks[at : at + 20])
            rig.host.until(lambda: len(rig.host.outcomes) == 60)
            assert [outcome.id for outcome in rig.host.outcomes] == [task.id for task in tasks]
            counts = Counter(decode_value(outcome.body) for outcome in rig.host.outcomes)
            assert max(counts.values()) == 7
            assert (rig.host.died, rig.host.ready) == ([], [0])
        wait_until_ended(*counts)

    @behaviour("`max_tasks_per_child`, `max_memory_per_child`, `child_idle_s`", base.RECYCLE)
    def test_process_is_replaced_when_it_holds_too_much_memory(self) -> None:
        with planned(self.make_pool, slots=1, memory_kib_max=1) as rig:
            first = rig.value("process_id")
            seen = {first}

            def is_replaced() -> bool:
                seen.add(rig.value("process_id"))
                return len(seen) > 1

            rig.host.until(is_replaced)
            assert rig.host.died == []

    @behaviour("`max_tasks_per_child`, `max_memory_per_child`, `child_idle_s`", base.RECYCLE)
    def test_process_that_is_idle_ends_and_the_next_task_starts_one(self) -> None:
        with planned(self.make_pool, slots=1, idle_ms=20) as rig:
            first = rig.value("process_id")
            rig.host.until(lambda: ended(first))
            assert rig.value("process_id") != first
            assert rig.host.died == []

    @behaviour("`autoscale`, growing and shrinking", base.RESIZE)
    def test_slots_come_and_go_and_busy_ones_end_what_they_have(self) -> None:
        with planned(self.make_pool, slots=1) as rig:
            rig.pool.resize(3)
            rig.host.until(lambda: sorted(rig.host.ready) == [0, 1, 2])
            task = rig.task("wait_until_cancelled")
            rig.pool.run(2, [task])
            rig.host.until(lambda: rig.host.logs)
            rig.pool.resize(1)
            rig.host.until(lambda: len(rig.host.gone) == 2)
            assert 2 not in rig.host.gone
            rig.pool.resize(2)
            rig.host.until(lambda: len(rig.host.ready) == 4)
            rig.pool.cancel(2, task.id, 1, Status.CANCELLED, 0)
            rig.host.until(lambda: rig.host.outcomes)
            assert rig.value("add", 1, 2) == 3 if 0 not in rig.host.gone else True

    # --- what it cannot do --------------------------------------------------------------

    @pytest.mark.parametrize(
        ("feature", "plan", "config"),
        [
            (base.RECYCLE, {"tasks_max": 1}, {}),
            (base.RECYCLE, {"memory_kib_max": 1}, {}),
            (base.RECYCLE, {"idle_ms": 1}, {}),
            (base.RESIZE, {"is_resized": True}, {}),
            (base.PIN, {}, {"gpus": ("0",)}),
        ],
    )
    def test_plan_that_it_cannot_keep_is_refused(
        self, feature: str, plan: dict[str, Any], config: dict[str, Any]
    ) -> None:
        pool = self.make_pool(PoolConfig(app=TASKS, **config))
        if feature in pool.features:
            pool.plan(PoolPlan(**plan))
            return
        with pytest.raises(ConfigError, match="pool"):
            pool.plan(PoolPlan(**plan))

    def test_limits_of_tasks_that_it_cannot_keep_are_refused(self) -> None:
        pool = self.make_pool(PoolConfig(app=TASKS + ":limited"))
        host = RecordingHost()
        try:
            if {base.HARD_LIMIT, base.SOFT_LIMIT} <= pool.features:
                pool.start(host)
            else:
                with pytest.raises(ConfigError, match=r"bounded|warned") as caught:
                    pool.start(host)
                assert "--pool process" in str(caught.value)
        finally:
            pool.stop()
            host.close()

    @behaviour("CPUs and GPUs for each slot", base.PIN)
    def test_pinning_is_planned(self) -> None:
        self.make_pool(PoolConfig(app=TASKS, gpus=("0", "1"))).plan(PoolPlan(slots=2))
