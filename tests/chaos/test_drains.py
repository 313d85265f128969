"""Workers are asked to stop again and again under load; nobody notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.fleet import running_fleet

_WORKERS = ["w1", "w2", "w3", "w4"]
#: Calls a second, somewhat more than the workers can do, so that each holds tasks that
#: have not started and go to another when it drains.
_RATE = 220
_EVERY_COUNT = 120


@pytest.mark.parametrize(
    "drains",
    [
        pytest.param(3, marks=pytest.mark.e2e, id="short"),
        pytest.param(20, marks=pytest.mark.chaos, id="full"),
    ],
)
def test_a_node_that_drains_costs_no_attempt(tmp_path: Path, drains: int) -> None:
    with running_fleet(tmp_path, _WORKERS, "--concurrency", "1") as fleet:
        client = fleet.feed((drains + 1) * _EVERY_COUNT, _RATE)
        codes: list[int] = []
        fleet.harm(
            lambda: codes.append(fleet.drain_worker()), _EVERY_COUNT,
            lambda: len(codes) == drains, 90.0,
        )  # fmt: skip
        values = fleet.values(60.0)
        owner = fleet.owner()

        assert codes == [0] * drains
        fleet.check(values, owner)
        print(
            f"\n{len(values)} tasks, all values right; {drains} nodes drained; "
            f"{owner['redelivered']} redeliveries, {fleet.evidence.duplicates} runs too many"
        )
        assert owner["redelivered"] == owner["refused"] == fleet.evidence.duplicates == 0
        fleet.stop(client)
