"""Pool children are killed while they run tasks; their nodes live on, no task is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.evidence import p99, summary
from tests.chaos.fleet import running_fleet
from tests.e2e.harness import wait_for

_SLOTS = 2
#: Calls a second: about two thirds of what two workers can do.
_RATE = 130


class Size(NamedTuple):
    """How much is done in one form of the test."""

    kills: int
    #: One kill each time so many tasks have come to their end.
    every_count: int
    limit_s: float
    p99_ms_max: float | None = None


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(20, 20, 60.0), marks=pytest.mark.e2e, id="short"),
        pytest.param(
            Size(300, 50, 400.0, p99_ms_max=1_000), id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(600)],
        ),
    ],
)  # fmt: skip
def test_a_killed_child_costs_an_attempt_and_nothing_else(tmp_path: Path, size: Size) -> None:
    with running_fleet(tmp_path, ["w1", "w2"], "--concurrency", str(_SLOTS)) as fleet:
        nodes = {worker.node.pid for worker in fleet.workers.values()}
        client = fleet.feed(size.kills * size.every_count, _RATE)
        fleet.harm(
            fleet.kill_child, size.every_count, lambda: fleet.hits >= size.kills, size.limit_s
        )
        values = fleet.values(size.limit_s)
        owner = fleet.owner()

        fleet.check(values, owner)
        latencies = fleet.evidence.redelivery_ms(fleet.kills)
        print(
            f"\n{len(values)} tasks, all values right, none dead; {len(fleet.kills)} children "
            f"killed, {fleet.hits} of them while they ran a task; {owner['redelivered']} "
            f"redeliveries, {fleet.evidence.duplicates} runs too many\n{summary(latencies)}"
        )
        assert len(latencies) >= size.kills
        if size.p99_ms_max is not None:
            assert p99(latencies) <= size.p99_ms_max

        def all_slots() -> bool:
            reports = json.loads(fleet.mesh.cli("status", "--json").stdout)["nodes"]
            workers = [report["worker"] for report in reports if "worker" in report]
            return [worker["slots"] for worker in workers] == [_SLOTS] * len(fleet.workers)

        wait_for(all_slots, "every slot is filled again")
        assert {worker.node.pid for worker in fleet.workers.values()} == nodes
        assert all("died (process" in worker.node.log for worker in fleet.workers.values())
        fleet.stop(client)
