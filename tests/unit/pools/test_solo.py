from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from zmqtasks.errors import AppLoadError, ConfigError
from zmqtasks.pools.base import PoolConfig, PoolPlan
from zmqtasks.pools.protocol import LogRecord, RunTask
from zmqtasks.pools.solo import SoloPool
from zmqtasks.testing.pool_features import PAYLOAD_BYTES_MAX
from zmqtasks.testing.pool_host import PATIENCE_S, RecordingHost, Rig, started
from zmqtasks.wire.payload import decode_value

CONFIG = PoolConfig(
    app="tests.unit.pools.pool_tasks",
    node_name="worker-1",
    payload_bytes_max=PAYLOAD_BYTES_MAX,
)


class ThreadedSoloPool(SoloPool):
    """Runs its tasks in a thread, since the test's own one is the loop.

    The thread starts with the first batch: pytest replaces ``sys.stdout`` between the
    set-up of a test and the test, so capturing must begin in the latter.
    """

    runner: threading.Thread | None = None

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        if self.runner is None:
            self.runner = threading.Thread(target=self.run_forever)
            self.runner.start()
        super().run(slot, tasks)

    def stop(self) -> None:
        super().stop()
        if self.runner is not None:
            self.runner.join(PATIENCE_S)
            assert not self.runner.is_alive()


@contextlib.contextmanager
def solo_rig(config: PoolConfig = CONFIG) -> Iterator[Rig]:
    with started(ThreadedSoloPool(config)) as rig:
        yield rig


def test_stop_interrupts_what_runs() -> None:
    with solo_rig() as rig:
        rig.pool.run(0, [rig.task("spin")])
        rig.host.until(lambda: rig.host.logs)


def test_stop_puts_streams_and_logging_back() -> None:
    before = (sys.stdout, sys.stderr, list(logging.getLogger().handlers), sys.breakpointhook)
    with solo_rig() as rig:
        rig.value("talk", "x")
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, list(logging.getLogger().handlers)) == before[:3]
    assert sys.breakpointhook is before[3]


def test_without_capture_streams_stay() -> None:
    before = sys.stdout
    with solo_rig(PoolConfig(app="tests.unit.pools.pool_tasks", capture=False)) as rig:
        rig.value("add", 1, 2)
        assert sys.stdout is before
        assert rig.host.logs == []


def test_application_that_cannot_be_loaded_is_reported() -> None:
    with pytest.raises(AppLoadError, match="no module 'no_such_module'"):
        SoloPool(PoolConfig(app="no_such_module")).start(RecordingHost())


def test_kill_in_the_main_thread_interrupts_a_blocking_call() -> None:
    # Given a pool in the main thread and its loop beside it
    pool = SoloPool(CONFIG)
    host = RecordingHost()
    rig = Rig(pool, host)
    rig.catalog = pool.start(host)
    values = []

    def loop() -> None:
        try:
            host.until(lambda: host.ready)
            host.forget()
            rig.pool.run(0, [rig.task("block")])
            host.until(lambda: host.logs)
            pool.kill(0)
            host.until(lambda: host.ready)
            values.append(decode_value(rig.run(rig.task("add", 1, 2))[0].body))
        finally:
            pool.stop()

    thread = threading.Thread(target=loop)
    thread.start()
    # When a task blocks for long and is killed
    pool.run_forever()
    thread.join(PATIENCE_S)
    # Then it has ended and the slot works
    assert [slot for slot, _ in host.died] == [0]
    assert values == [3]
    host.close()


def test_settings_of_the_application_are_known_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "solo_app.py").write_text(
        "from zmqtasks import App\n"
        "app = App('pooltest', queues=['mail'], payload_bytes_max=5000)\n"
        "@app.task(name='tests.unit.pools.pool_tasks.blob')\n"
        "def blob(size): return bytes(size)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = ThreadedSoloPool(PoolConfig(app="solo_app"))
    assert {"queues": ("mail",), "payload_bytes_max": 5000}.items() <= pool.load().items()
    assert pool.slots == 1
    with started(pool) as rig:
        assert "tests.unit.pools.pool_tasks.blob" in [entry.name for entry in rig.catalog]
        assert "payload_bytes_max is 5,000" in str(rig.error("blob", 6000))


def test_what_is_told_while_loading_reaches_the_host() -> None:
    line = LogRecord(id=b"", name="", stream="logging", level=20, logger="x", text="loading")
    pool = ThreadedSoloPool(CONFIG)
    pool.load()
    pool._link.tell(line)
    with started(pool) as rig:
        assert rig.host.logs == [line]


def in_main_thread(test: Callable[[Rig], None]) -> Rig:
    """Run a pool in this thread and its loop, with the test, beside it."""
    pool = SoloPool(CONFIG)
    host = RecordingHost()
    rig = Rig(pool, host)
    rig.catalog = pool.start(host)
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            host.until(lambda: host.ready)
            test(rig)
        except BaseException as exc:  # noqa: BLE001 (raised below)
            failures.append(exc)
        finally:
            pool.stop()

    thread = threading.Thread(target=loop)
    thread.start()
    pool.run_forever()
    thread.join(PATIENCE_S)
    host.close()
    if failures:
        raise failures[0]
    return rig


@pytest.mark.parametrize(("name", "args"), [("tidy_up", [0.0]), ("tidy_up_async", ["waiting"])])
def test_soft_limit_is_raised_in_the_task(name: str, args: list[object]) -> None:
    def test(rig: Rig) -> None:
        task = rig.task(name, *args)
        task.soft_ms = 20
        assert "soft time limit of 0.02 s" in decode_value(rig.run(task)[0].body)
        assert rig.value("add", 1, 2) == 3

    in_main_thread(test)


def test_soft_limit_cannot_be_kept_outside_of_the_main_thread() -> None:
    with solo_rig() as rig:
        task = rig.task("add", 1, 2)
        task.soft_ms = 20
        assert "needs its task in the main thread" in rig.run(task)[0].error


def test_hard_limit_of_a_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limited_app.py").write_text(
        "from zmqtasks import App\n"
        "app = App('pooltest')\n"
        "@app.task(time_limit=5)\n"
        "def slow(): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = SoloPool(PoolConfig(app="limited_app"))
    with pytest.raises(ConfigError, match=r"'limited_app.slow' has time_limit=5, which the solo"):
        pool.start(RecordingHost())


def test_what_needs_processes_is_refused() -> None:
    pool = SoloPool(CONFIG)
    pool.plan(PoolPlan())
    with pytest.raises(ConfigError, match="max_memory_per_child cannot be had with the solo pool"):
        pool.plan(PoolPlan(memory_kib_max=1))
