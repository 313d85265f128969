"""The hook child of the pools that have processes."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Callable

import pytest

from zmqtasks.pools import hookchild
from zmqtasks.pools.base import Pool, PoolConfig
from zmqtasks.pools.hosted import HostedPool
from zmqtasks.pools.process import ProcessPool
from zmqtasks.testing.pool_host import Rig, started, wait_until_ended

POOLS: dict[str, Callable[[PoolConfig], Pool]] = {
    "process": ProcessPool,
    "thread": lambda config: HostedPool(config, "thread"),
    "asyncio": lambda config: HostedPool(config, "asyncio"),
}


def config(node_name: str = "w1", app: str = "hook_tasks") -> PoolConfig:
    return PoolConfig(app=f"tests.unit.pools.{app}", node_name=node_name)


def lines(rig: Rig) -> list[str]:
    return [record.text for record in rig.host.logs]


def hook_pid(rig: Rig) -> int:
    (line,) = [line for line in lines(rig) if line.startswith("init of")]
    return int(line.rpartition(" ")[2])


@pytest.mark.parametrize("pool", POOLS)
def test_receivers_are_called_in_a_process_that_is_no_slot(pool: str) -> None:
    with started(POOLS[pool](config())) as rig:
        assert lines(rig) == [f"init of w1 in {hook_pid(rig)}"], "before the start is over"
        assert hook_pid(rig) not in {os.getpid(), *rig.pool.pids()}  # type: ignore[attr-defined]
        rig.pool.fire("worker_ready", {})
        rig.pool.fire("worker_shutting_down", {"how": "Warm"})
        assert rig.value("add", 1, 2) == 3
        rig.host.until(lambda: len(lines(rig)) == 3)
        rig.pool.stop()
        assert lines(rig)[1:] == ["ready", "w1 shuts down: Warm", "shutdown"]
        wait_until_ended(hook_pid(rig))


def test_without_receivers_there_is_no_process_for_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), started(ProcessPool(config(app="pool_tasks"))) as rig:
        rig.pool.fire("worker_ready", {})
        assert rig.value("loaded", ["zmqtasks.pools.hooking", "zmqtasks.app.nodehooks"]) == []
    assert "hooks." not in caplog.text


@pytest.mark.parametrize(
    ("name", "error"),
    [("raises", "ValueError: not so"), ("exits", "called sys.exit(3): the node goes on")],
)
def test_what_a_receiver_raises_is_logged_and_the_next_signals_fire(name: str, error: str) -> None:
    with started(ProcessPool(config(name))) as rig:
        rig.pool.fire("worker_ready", {})
        rig.host.until(lambda: any(error in line for line in lines(rig)))
        rig.pool.stop()
        assert lines(rig)[-1] == "shutdown"


def test_its_death_is_told_with_what_that_means_and_it_is_not_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with started(ProcessPool(config())) as rig:
        pid = hook_pid(rig)
        os.kill(pid, signal.SIGKILL)
        rig.host.until(lambda: "hooks.gone" in caplog.text)
        rig.pool.fire("worker_ready", {})
        assert rig.value("add", 1, 2) == 3
        rig.pool.stop()
        assert lines(rig) == [f"init of w1 in {pid}"]
    (told,) = [message for message in caplog.messages if message.startswith("hooks.")]
    assert f"hooks.gone pid={pid} reason=killed by signal 9" in told
    assert "the node goes on without its hook child" in told


def test_pool_starts_when_it_dies_of_worker_init(caplog: pytest.LogCaptureFixture) -> None:
    with started(ProcessPool(config("dies"))) as rig:
        assert rig.value("add", 1, 2) == 3
    assert re.search(r"reason=exited with code 7 in receivers of worker_init", caplog.text)


def test_it_goes_with_the_fork_server_and_tasks_run_on(caplog: pytest.LogCaptureFixture) -> None:
    with started(ProcessPool(config())) as rig:
        server = rig.pool._nursery._spawner._process.pid  # type: ignore[attr-defined]
        os.kill(server, signal.SIGKILL)
        rig.host.until(lambda: len(rig.host.ready) > 1)
        assert rig.value("add", 1, 2) == 3
        wait_until_ended(hook_pid(rig))
    assert "reason=ended with the fork server" in caplog.text


@pytest.mark.parametrize(
    ("name", "limit", "where"),
    [
        ("hangs", "HOOKS_EXIT_MS", "in receivers of worker_shutdown"),
        ("lingers", "HOOKS_LEAVE_MS", "leaving the mesh, or in its exit handlers"),
    ],
)
def test_what_takes_too_long_at_the_end_is_ended(
    name: str,
    limit: str,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hookchild, limit, 300)
    with started(ProcessPool(config(name))) as rig:
        rig.pool.stop()
        wait_until_ended(hook_pid(rig))
        assert lines(rig)[-1] == "shutdown"
    (told,) = [message for message in caplog.messages if message.startswith("hooks.killed")]
    assert f"after 300 ms it was still {where}" in told
