"""A broker is killed again and again while tasks are handed to it; no task is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.evidence import value_of
from tests.chaos.fleet import Fleet, found_in_journals, running_fleet, sum_of
from tests.e2e.harness import NodeProcess

WORKERS = [f"w{number}" for number in range(1, 5)]


class Broker:
    """The broker and its present incarnation."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.node = self._start()
        self.killed: list[NodeProcess] = []

    def _start(self) -> NodeProcess:
        return self.fleet.mesh.start_node(roles="broker", name="b1")

    def kill(self) -> None:
        """SIGKILL it, and start it again. It goes on with what its journal holds, unless
        another node of its host was faster and took that over."""
        self.node.kill()
        self.killed.append(self.node)
        self.node = self._start()

    @property
    def hits(self) -> int:
        """Kills at which it had tasks, as far as it is known yet."""
        return len(found_in_journals(self.fleet.mesh.nodes))

    def check(self, values: list[int]) -> None:
        """All values are right, and no task ran more often than it had to."""
        wrong = [n for n, value in enumerate(values) if value != value_of(n)]
        assert not wrong, f"wrong values for {wrong[:10]}"
        # Nobody can be asked how many tasks a killed one had redelivered. But only what it
        # had found in its journal it may have.
        redelivered = sum_of(self.fleet.mesh, "redelivered") + sum(found_in_journals(self.killed))
        self.fleet.evidence.check(range(len(values)), redelivered)


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

        broker.check(values)
        print(
            f"\n{len(values)} tasks through a broker in {took_s:.1f} s, all values right; it was "
            f"killed {len(broker.killed)} times, {broker.hits} of them with tasks "
            f"({sum(found_in_journals(fleet.mesh.nodes))}); "
            f"{fleet.evidence.duplicates} runs too many"
        )
        broker.node.stop()
        fleet.stop(client)
