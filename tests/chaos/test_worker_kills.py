"""Worker nodes are killed again and again while they run tasks; no task is lost."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.evidence import p99, summary
from tests.chaos.fleet import running_fleet

_WORKERS = [f"w{number}" for number in range(1, 9)]
#: One kill each time so many tasks have come to their end.
_EVERY_COUNT = 333
#: Calls a second: about two thirds of what the workers that are left can do, so that the
#: time to the next attempt tells how soon the loss was noticed and not how long a queue is.
_RATE = 215
#: Half of the victims come back at once, the others after this.
_AWAY_S = 5.0


class Size(NamedTuple):
    """How much is done in one form of the test."""

    tasks: int
    kills: int
    limit_s: float
    #: Judged on hundreds of kills only, on a machine that does nothing else.
    p99_ms_max: float | None = None


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(1_400, 4, 60.0), marks=pytest.mark.e2e, id="short"),
        pytest.param(
            Size(100_000, 300, 900.0, p99_ms_max=500), id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(1_100)],
        ),
    ],
)  # fmt: skip
def test_no_task_is_lost_while_workers_are_killed(tmp_path: Path, size: Size) -> None:
    with running_fleet(tmp_path, _WORKERS, "--concurrency", "1") as fleet:
        client = fleet.feed(size.tasks, _RATE)
        begun_s = time.monotonic()
        away_s = itertools.cycle([0.0, _AWAY_S])
        fleet.harm(
            lambda: fleet.kill_worker(next(away_s)), _EVERY_COUNT,
            lambda: fleet.hits >= size.kills, size.limit_s,
        )  # fmt: skip
        values = fleet.values(size.limit_s)
        took_s = time.monotonic() - begun_s
        owner = fleet.owner()

        fleet.check(values, owner)
        latencies = fleet.evidence.redelivery_ms(fleet.kills)
        print(
            f"\n{len(values)} tasks in {took_s:.1f} s, all values right, none dead; "
            f"{len(fleet.kills)} nodes killed, {fleet.hits} of them while they ran a task; "
            f"{owner['redelivered']} redeliveries, {fleet.evidence.duplicates} runs too many, "
            f"{owner['refused']} late outcomes refused\n{summary(latencies)}"
        )
        assert len(latencies) >= size.kills
        if size.p99_ms_max is not None:
            assert p99(latencies) <= size.p99_ms_max
        fleet.stop(client)
