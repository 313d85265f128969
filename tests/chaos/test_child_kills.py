"""Pool children are killed while they run tasks; their nodes live on, no task is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.evidence import summary
from tests.chaos.fleet import running_fleet
from tests.e2e.harness import wait_for

pytestmark = pytest.mark.e2e
_KILLS = 20
_SLOTS = 2


def test_a_killed_child_costs_an_attempt_and_nothing_else(tmp_path: Path) -> None:
    with running_fleet(tmp_path, ["w1", "w2"], "--concurrency", str(_SLOTS)) as fleet:
        nodes = {worker.node.pid for worker in fleet.workers.values()}
        client = fleet.feed(1_000, 60.0)
        fleet.harm(fleet.kill_child, 0.15, lambda: fleet.hits >= _KILLS)
        values = fleet.values(client, 60.0)
        owner = fleet.owner()

        fleet.check(values, owner)
        print(
            f"\n{len(values)} tasks, all values right; {len(fleet.kills)} children killed, "
            f"{fleet.hits} of them while they ran a task; {owner['redelivered']} redeliveries\n"
            f"{summary(fleet.evidence.redelivery_ms(fleet.kills))}"
        )

        def all_slots() -> bool:
            reports = json.loads(fleet.mesh.cli("status", "--json").stdout)["nodes"]
            workers = [report["worker"] for report in reports if "worker" in report]
            return [worker["slots"] for worker in workers] == [_SLOTS] * len(fleet.workers)

        wait_for(all_slots, "every slot is filled again")
        assert {worker.node.pid for worker in fleet.workers.values()} == nodes
        assert all("died (process" in worker.node.log for worker in fleet.workers.values())
        fleet.stop(client)
