"""Workers that stop for a while are given up; what they say afterwards changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.evidence import Run, now_ns, summary
from tests.chaos.fleet import Fleet, running_fleet
from tests.e2e.harness import wait_for

# --- one long stop ----------------------------------------------------------------------

_CLIENT = """
import json, time
from pathlib import Path
from tasks import hold, work

folder = Path({folder!r})
handles = [hold.delay(number, str(folder / "gate")) for number in range(2)]
first = [handle.get(timeout=60) for handle in handles]
(folder / "first.new").write_text(json.dumps([first, [handle.id for handle in handles]]))
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


@pytest.mark.parametrize(
    ("frozen_s", "redelivery_ms_max"),
    [
        # Both are longer than lost_ms, after which a worker that says nothing is given up.
        pytest.param(6.0, None, marks=pytest.mark.e2e, id="short"),
        pytest.param(8.0, 8_000, marks=pytest.mark.chaos, id="full"),
    ],
)
def test_the_late_outcome_of_a_frozen_worker_is_refused(
    tmp_path: Path, frozen_s: float, redelivery_ms_max: float | None
) -> None:
    """One node stops alone, its child works on; of the other even the child stops.

    Both come back while the next attempts still run: their outcomes belong to tasks that
    are open, and must not settle them, neither for the caller nor in the store.
    """
    with running_fleet(tmp_path, ["alone", "whole"], "--concurrency", "1") as fleet:
        fleet.add_store()
        client = fleet.mesh.start(
            _CLIENT.format(folder=str(tmp_path)), name="client", CHAOS_NODE="client"
        )
        held = _wait_running(fleet, 2)
        fleet.add("fresh", "--concurrency", "2")
        tree = fleet.tree("whole")
        assert len(tree) == 3, "node, fork server and one child"

        with _stopped([fleet.workers["alone"].node.pid, *tree]) as stopped_ns:
            again = [run for run in _wait_running(fleet, 4) if run not in held]
            (tmp_path / "gate-1").touch()
            time.sleep(max(0.0, frozen_s - (now_ns() - stopped_ns) / 1e9))
        assert [(run.attempt, run.node) for run in again] == [(2, "fresh")] * 2
        latencies = [(run.start_ns - stopped_ns) / 1e6 for run in again]
        print(f"\n2 nodes stopped for {frozen_s:g} s; {summary(latencies)}")
        assert redelivery_ms_max is None or max(latencies) <= redelivery_ms_max

        wait_for(lambda: fleet.owner()["refused"] == 2, "both late outcomes are refused")
        owner = fleet.owner()
        assert (owner["redelivered"], owner["open"]) == (2, 2)
        fleet.evidence.look()
        assert all(run.end_ns is not None for run in held), "they came to their end all the same"
        (tmp_path / "gate-2").touch()
        wait_for(lambda: (tmp_path / "first").exists(), "the next attempts end")
        values, ids = json.loads((tmp_path / "first").read_text())
        assert values == [2, 2]

        (tmp_path / "thawed").touch()
        wait_for(lambda: (tmp_path / "values").exists(), "work goes on", 60.0)
        fleet.evidence.check(range(302), owner["redelivered"])
        working = {run.node for run in fleet.evidence.runs if run.number >= 2}
        assert working == set(fleet.workers), "the thawed workers are used again"
        fleet.leave(client)
        assert fleet.stored(ids) == values
        fleet.close()


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[int]:
    """SIGSTOP, and SIGCONT at the end; gives the time of the first."""
    at_ns = now_ns()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield at_ns
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _wait_running(fleet: Fleet, count: int) -> list[Run]:
    def found() -> list[Run]:
        running = fleet.evidence.running()
        return running if len(running) == count else []

    return wait_for(found, f"{count} tasks run")


# --- many stops -------------------------------------------------------------------------

_WORKERS = [f"w{number}" for number in range(1, 7)]
#: Calls a second: what half of the workers can do.
_RATE = 100
#: Stopped at once.
_STOPS_MAX = 3


class Stop(NamedTuple):
    """A worker that is stopped."""

    worker: str
    until_s: float
    context: contextlib.ExitStack


class Stopper:
    """Stops workers that run a task, some at once, for a while each."""

    def __init__(self, fleet: Fleet, lengths_s: list[float]) -> None:
        self._fleet = fleet
        self._lengths_s = lengths_s
        self._stops: list[Stop] = []
        self.count = 0

    def run(self) -> None:
        """Until all have been stopped and go on."""
        with contextlib.ExitStack() as everybody:
            while self._lengths_s or self._stops:
                if self._lengths_s and len(self._stops) < _STOPS_MAX:
                    self._stop(everybody.enter_context(contextlib.ExitStack()))
                    continue
                time.sleep(0.01)
                for stop in list(self._stops):
                    if time.monotonic() >= stop.until_s:
                        stop.context.close()
                        self._stops.remove(stop)

    def _stop(self, context: contextlib.ExitStack) -> None:
        """The node alone, or with its child: in turn."""
        names = frozenset(stop.worker for stop in self._stops)
        worker = self._fleet.pick(names).node
        pids = self._fleet.tree(worker)
        self.count += 1
        context.enter_context(_stopped(pids if self.count % 2 else pids[:1]))
        until_s = time.monotonic() + self._lengths_s.pop()
        self._stops.append(Stop(worker, until_s, context))


def _drawn(count: int) -> list[float]:
    draw = random.Random(9)
    return [draw.uniform(1.0, 6.0) for _ in range(count)]


@pytest.mark.parametrize(
    "lengths_s",
    [
        pytest.param([1.0, 2.5, 5.0], marks=pytest.mark.e2e, id="short"),
        pytest.param(
            _drawn(40), id="full", marks=[pytest.mark.chaos, pytest.mark.timeout(300)],
        ),
    ],
)  # fmt: skip
def test_nothing_stale_is_recorded_of_workers_that_stop_and_go_on(
    tmp_path: Path, lengths_s: list[float]
) -> None:
    """The value of each task tells its attempt: it is the last one that was started."""
    stops, longest_s = len(lengths_s), max(lengths_s)
    with running_fleet(tmp_path, _WORKERS, "--concurrency", "1") as fleet:
        fleet.add_store()
        client = fleet.feed(1, _RATE, task="stamp")
        stopper = Stopper(fleet, list(lengths_s))
        stopper.run()
        values = fleet.values(60.0)
        owner = fleet.owner()

        assert owner["open"] == 0
        fleet.evidence.check(range(len(values)), owner["redelivered"])
        last = fleet.evidence.last_attempts()
        assert values == [[number, last[number]] for number in range(len(values))]
        overlaps = fleet.evidence.overlaps()
        print(
            f"\n{len(values)} tasks; {stopper.count} of {stops} stops of at most "
            f"{longest_s:.1f} s; {owner['redelivered']} redeliveries, "
            f"{fleet.evidence.duplicates} runs too many, {overlaps} of them beside another, "
            f"{owner['refused']} late outcomes refused, 0 stale ones recorded"
        )
        assert overlaps <= owner["redelivered"]
        fleet.leave(client)
        assert fleet.stored(fleet.ids) == values, "the store holds what the caller saw"
        fleet.close()
