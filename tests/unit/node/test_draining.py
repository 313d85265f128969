"""How a node uses the time that it has to stop."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from zmqtasks.node.draining import Draining

TIME_MS = 30_000


class Mesh(SimpleNamespace):
    """One task runs here and nobody is there to take what waits."""

    def __init__(self) -> None:
        super().__init__(is_idle=False, is_deciding=False, tasks_left=1)
        self.membership = SimpleNamespace(pending_dials=lambda: False)
        handoff = SimpleNamespace(unconfirmed=0, is_giving=False, has_takers=False)
        self.ownership = SimpleNamespace(handoff=handoff)
        self.dispatcher = SimpleNamespace(unwritten_count=0)
        self.intake = SimpleNamespace(running_count=1)
        self.drain = lambda: None
        self.leave_tasks = lambda now_ms: None
        self.stay_with_tasks = dict[str, int]


def gone_at(mesh: Mesh, ends_ms: int) -> tuple[int, int]:
    """When the node is gone if its task ends at that time, and how many still ran."""
    left: list[str] = []
    runtime: Any = SimpleNamespace(
        mesh=mesh, leave=left.append, finding=SimpleNamespace(withdraw=lambda: None)
    )
    journal: Any = SimpleNamespace(stop_adopting=lambda: None, folder="0", why_not="")
    draining = Draining(runtime, journal)
    draining.begin(0, TIME_MS)
    now_ms = 0
    while not left:
        if now_ms >= ends_ms:
            mesh.is_idle, mesh.intake.running_count = True, 0
        wait_ms = draining.advance(now_ms)
        assert wait_ms is not None
        now_ms = min(now_ms + wait_ms, ends_ms) if now_ms < ends_ms else now_ms + wait_ms
        assert now_ms <= TIME_MS
    return now_ms, draining.running_left


@pytest.mark.parametrize("ends_ms", [1_000, 24_999, 27_000, 29_700])
def test_a_task_may_run_until_the_time_is_over_also_while_others_are_handed_over(
    ends_ms: int,
) -> None:
    assert gone_at(Mesh(), ends_ms) == (ends_ms, 0)


def test_a_task_that_runs_longer_ends_in_time_for_the_last_words() -> None:
    ended_ms, running_left = gone_at(Mesh(), 10 * TIME_MS)
    assert TIME_MS - 500 < ended_ms < TIME_MS
    assert running_left == 1


def test_who_waits_for_a_store_alone_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    mesh = Mesh()
    mesh.log = SimpleNamespace(is_awaited=True, awaited_count=7)
    runtime: Any = SimpleNamespace(mesh=mesh, finding=SimpleNamespace(withdraw=lambda: None))
    journal: Any = SimpleNamespace(stop_adopting=lambda: None)
    draining = Draining(runtime, journal)
    draining.begin(0, TIME_MS)
    draining.advance(0)
    mesh.intake.running_count = 0
    told = "no task runs here any more; waiting for a store, which lacks results of this node"
    with caplog.at_level(logging.INFO, "zmqtasks.node"):
        wait_ms = draining.advance(2_000)
        assert wait_ms is not None
        assert not caplog.messages
        draining.advance(2_000 + wait_ms)
        draining.advance(9_000)
    assert caplog.messages == [f"{told}: 7 records (at most 22 s)"]
