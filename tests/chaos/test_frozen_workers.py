"""Workers that stop for a while are given up; what they say afterwards changes nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.evidence import Run
from tests.chaos.fleet import Fleet, running_fleet
from tests.e2e.harness import wait_for

pytestmark = pytest.mark.e2e
#: Longer than ``lost_ms``, after which a worker that says nothing is given up.
_FROZEN_S = 6.0

_CLIENT = """
import json, time
from pathlib import Path
from tasks import hold, work

folder = Path({folder!r})
handles = [hold.delay(number, str(folder / "gate")) for number in range(2)]
first = [handle.get(timeout=60) for handle in handles]
(folder / "first.new").write_text(json.dumps(first))
(folder / "first.new").rename(folder / "first")
while not (folder / "thawed").exists():
    time.sleep(0.01)
results = work.delay_many((number,) for number in range(2, 302))
assert results.get(timeout=60) == [number * 7 + 1 for number in range(2, 302)]
assert [handle.get(timeout=1) for handle in handles] == first
(folder / "values").touch()
while not (folder / "leave").exists():
    time.sleep(0.01)
"""


def test_the_late_outcome_of_a_frozen_worker_is_refused(tmp_path: Path) -> None:
    """One node stops alone, its child works on; of the other even the child stops.

    Both come back while the next attempts still run: their outcomes belong to tasks that
    are open, and must not settle them.
    """
    with running_fleet(tmp_path, ["alone", "whole"], "--concurrency", "1") as fleet:
        client = fleet.mesh.start(
            _CLIENT.format(folder=str(tmp_path)), name="client", CHAOS_NODE="client"
        )
        held = _wait_running(fleet, 2)
        fleet.add("fresh", "--concurrency", "2")
        tree = fleet.tree("whole")
        assert len(tree) == 3, "node, fork server and one child"
        frozen = [fleet.workers["alone"].node.pid, *tree]

        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        frozen_s = time.monotonic()
        try:
            again = [run for run in _wait_running(fleet, 4) if run not in held]
            (tmp_path / "gate-1").touch()
            time.sleep(max(0.0, frozen_s + _FROZEN_S - time.monotonic()))
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        assert [(run.attempt, run.node) for run in again] == [(2, "fresh")] * 2

        wait_for(lambda: fleet.owner()["refused"] == 2, "both late outcomes are refused")
        owner = fleet.owner()
        assert (owner["redelivered"], owner["open"]) == (2, 2)
        fleet.evidence.look()
        assert all(run.end_ns is not None for run in held), "they came to their end all the same"
        (tmp_path / "gate-2").touch()
        wait_for(lambda: (tmp_path / "first").exists(), "the next attempts end")
        assert (tmp_path / "first").read_text() == "[2, 2]"

        (tmp_path / "thawed").touch()
        wait_for(lambda: (tmp_path / "values").exists(), "work goes on", 60.0)
        fleet.evidence.check(range(302), owner["redelivered"])
        working = {run.node for run in fleet.evidence.runs if run.number >= 2}
        assert working == set(fleet.workers), "the thawed workers are used again"
        fleet.stop(client)


def _wait_running(fleet: Fleet, count: int) -> list[Run]:
    def found() -> list[Run]:
        running = fleet.evidence.running()
        return running if len(running) == count else []

    return wait_for(found, f"{count} tasks run")
