"""A broker is killed again and again while tasks are handed to it; no task is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.chaos.evidence import value_of
from tests.chaos.fleet import Fleet, running_fleet
from tests.e2e.harness import NodeProcess

WORKERS = [f"w{number}" for number in range(1, 5)]


class Broker:
    """The broker and its present incarnation."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.kills = 0
        #: Kills at which it held tasks that it had taken.
        self.hits = 0
        self.node = self._start()

    def _start(self) -> NodeProcess:
        return self.fleet.mesh.start_node(roles="broker", name="b1")

    def kill(self) -> None:
        """SIGKILL it while it has tasks, and start it again: it goes on from its journal."""
        held = self._held()
        self.node.kill()
        self.kills += 1
        self.hits += held > 0
        self.node = self._start()

    def _held(self) -> int:
        nodes = json.loads(self.fleet.mesh.cli("status", "--json").stdout)["nodes"]
        return sum(node["producer"]["open"] for node in nodes if node["name"] == "b1")


@pytest.mark.parametrize(
    ("tasks", "rate", "kills", "limit_s"),
    [
        pytest.param(300, 150, 2, 60.0, marks=pytest.mark.e2e, id="short"),
        pytest.param(
            10_000, 150, 30, 400.0, id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(600)],
        ),
    ],
)  # fmt: skip
def test_no_task_is_lost_while_the_broker_is_killed(
    tmp_path: Path, tasks: int, rate: int, kills: int, limit_s: float
) -> None:
    """Every task goes through the broker, which takes tasks, deals them and settles them
    when it is killed."""
    with running_fleet(tmp_path, WORKERS, "--concurrency", "2") as fleet:
        broker = Broker(fleet)
        client = fleet.feed(tasks, rate, ZMQTASKS_QUEUE_ROUTES="*=broker")
        begun = time.monotonic()
        fleet.harm(broker.kill, tasks // (kills + 1), lambda: broker.hits >= kills, limit_s)
        values = fleet.values(limit_s)
        took_s = time.monotonic() - begun

        wrong = [n for n, value in enumerate(values) if value != value_of(n)]
        assert not wrong, f"wrong values for {wrong[:10]}"
        fleet.evidence.look()
        starts = [(run.number, run.attempt) for run in fleet.evidence.runs]
        assert len(set(starts)) == len(starts), "an attempt was started twice: two owners had it"
        assert {number for number, _ in starts} == set(range(len(values)))
        print(
            f"\n{len(values)} tasks through a broker in {took_s:.1f} s, all values right; it was "
            f"killed {broker.kills} times, {broker.hits} of them with open tasks; "
            f"{fleet.evidence.duplicates} runs too many"
        )
        broker.node.stop()
        fleet.stop(client)
