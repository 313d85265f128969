"""Worker nodes are killed again and again while they run tasks; no task is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.evidence import summary
from tests.chaos.fleet import running_fleet

WORKERS = [f"w{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    ("tasks", "kills", "limit_s"),
    [
        pytest.param(3_000, 4, 60.0, marks=pytest.mark.e2e, id="short"),
        pytest.param(
            20_000, 20, 400.0, id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(600)],
        ),
    ],
)  # fmt: skip
def test_no_task_is_lost_while_workers_are_killed(
    tmp_path: Path, tasks: int, kills: int, limit_s: float
) -> None:
    """One node a second, each while it runs a task, and started again at once."""
    with running_fleet(tmp_path, WORKERS, "--concurrency", "1") as fleet:
        client = fleet.feed(tasks, limit_s)
        begun = time.monotonic()
        fleet.harm(fleet.kill_worker, 1.0, lambda: fleet.hits >= kills)
        values = fleet.values(client, limit_s)
        took_s = time.monotonic() - begun
        owner = fleet.owner()

        fleet.check(values, owner)
        latencies = fleet.evidence.redelivery_ms(fleet.kills)
        print(
            f"\n{len(values)} tasks in {took_s:.1f} s, all values right; {len(fleet.kills)} nodes "
            f"killed, {fleet.hits} of them while they ran a task; "
            f"{owner['redelivered']} redeliveries, {len(fleet.evidence.runs) - len(values)} runs "
            f"too many, {owner['refused']} late outcomes refused\n{summary(latencies)}"
        )
        fleet.stop(client)
