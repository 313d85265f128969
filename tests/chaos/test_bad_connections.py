"""The way between a client and its workers is slow, broken or silent; no task is lost.

Client and workers share no directory and the client takes itself for another host's, so
that every byte between them goes through a proxy, as through a tunnel.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.proxy import CLEAR, Proxy, Route, Way, Weather
from tests.e2e.harness import NodeProcess

_WORKERS = ["w1", "w2"]
_ELSEWHERE = """
import zmqtasks.node.runtime as runtime
runtime.host_id = lambda: b"far away"
"""
_LISTENS = re.compile(r"tcp://127\.0\.0\.1:(\d+)")


class Far:
    """A fleet that can be reached by way of a proxy and not otherwise."""

    def __init__(self, fleet: Fleet, proxy: Proxy, away: Path) -> None:
        self.fleet = fleet
        self.proxy = proxy
        self.draw = random.Random(3)
        self._away = str(away)
        for worker in fleet.workers.values():
            match = _LISTENS.search(worker.node.wait_log("listens on"))
            assert match is not None, worker.node.log
            proxy.lead(int(match[1]))

    def feed(self, count: int, rate: int) -> NodeProcess:
        """Start the client; see ``Fleet.feed``."""
        peers = ",".join(f"127.0.0.1:{route.port}" for route in self.proxy.routes)
        return self.fleet.feed(
            count, rate, before=_ELSEWHERE, ZMQTASKS_PEERS=peers, ZMQTASKS_RUNTIME_DIR=self._away
        )

    def owner(self) -> dict[str, int]:
        """What the client says of its tasks."""
        return self.fleet.owner(self._away)

    # --- trouble --------------------------------------------------------------------------

    def wear(self, weather: Weather) -> None:
        """The same weather everywhere."""
        for route in self.proxy.routes:
            route.weather = weather

    def half_open(self) -> None:
        """One of the routes loses its connections for one side."""
        self.proxy.half_open(self._one())

    def stall(self, shortest_s: float, longest_s: float) -> None:
        """One way of one route carries nothing for a while."""
        route = self._one()
        ways: list[Way] = ["up", "down"]
        route.weather = Weather(stalled=frozenset((self.draw.choice(ways),)))
        time.sleep(self.draw.uniform(shortest_s, longest_s))
        route.weather = CLEAR

    def _one(self) -> Route:
        return self.draw.choice(self.proxy.routes)


class Trouble(NamedTuple):
    """What goes on while the client works."""

    name: str
    #: From the beginning.
    weather: Weather = CLEAR
    #: Done each time so many tasks have come to their end.
    hurt: Callable[[Far], None] = lambda far: None
    every_count: int = 100
    #: It takes so long that workers are given up.
    loses_workers: bool = False
    #: Of each worker.
    slots: int = 2
    #: Calls a second, half of what the workers can do.
    rate: int = 100


#: A worker's credit is some work ahead of its slots, whatever the way is like, so that on
#: a slow one it is mostly idle.
DELAY = Trouble("delay", Weather(delay_s_max=0.5), slots=8, rate=20)
SLICES = Trouble("slices", Weather(slice_bytes=1))
RESET = Trouble("reset", Weather(reset_bytes=(1_000, 40_000)), loses_workers=True)
HALF_OPEN = Trouble("half-open", hurt=Far.half_open, every_count=200, loses_workers=True)
#: Silence is counted from what was heard last, which may be a heartbeat of a second ago,
#: and after it the connection is made anew: together less than ``lost_ms``.
STALL = Trouble("stall", hurt=lambda far: far.stall(0.5, 2.5), every_count=150)
LONG_STALL = Trouble(
    "long stall", hurt=lambda far: far.stall(5.5, 7.0), every_count=300, loses_workers=True
)


@contextmanager
def _far_fleet(folder: Path, away: Path, slots: int = 2) -> Iterator[Far]:
    flags = ("--concurrency", str(slots), "--listen", "127.0.0.1")
    with running_fleet(folder, _WORKERS, *flags) as fleet, Proxy(seed=5) as proxy:
        yield Far(fleet, proxy, away)


@pytest.mark.e2e
def test_a_peer_at_the_other_end_of_a_tunnel_is_dialled(
    tmp_path: Path, own_directories: Path
) -> None:
    """Loopback of another host is nobody's way, but where the user says so it leads there."""
    with _far_fleet(tmp_path, own_directories / "away") as far:
        client = far.feed(1, 1)
        values = far.fleet.values(20.0)
        far.fleet.check(values, far.owner())
        assert all(route.accepted_count for route in far.proxy.routes)
        assert sum(route.bytes_count for route in far.proxy.routes) > 0
        far.fleet.stop(client)


_LONG = [pytest.mark.chaos, pytest.mark.timeout(300)]
_SHORT = [
    pytest.param(trouble._replace(every_count=60), 120, marks=pytest.mark.e2e, id=trouble.name)
    for trouble in (RESET, STALL)
]
_FULL = [
    pytest.param(trouble, 2_000, marks=_LONG, id=f"full {trouble.name}")
    for trouble in (DELAY, SLICES, RESET, HALF_OPEN, STALL, LONG_STALL)
]


@pytest.mark.parametrize(("trouble", "count"), [*_SHORT, *_FULL])
def test_no_task_is_lost_on_a_bad_connection(
    tmp_path: Path, own_directories: Path, trouble: Trouble, count: int
) -> None:
    with _far_fleet(tmp_path, own_directories / "away", trouble.slots) as far:
        far.wear(trouble.weather)
        client = far.feed(count, trouble.rate)
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1
            trouble.hurt(far)

        most = count // trouble.every_count
        far.fleet.harm(step, trouble.every_count, lambda: steps == most, 200.0)
        values = far.fleet.values(90.0)
        far.wear(CLEAR)
        owner = far.owner()

        far.fleet.check(values, owner)
        routes, duplicates = far.proxy.routes, far.fleet.evidence.duplicates
        print(
            f"\n{trouble.name}: {len(values)} tasks, all values right; "
            f"{sum(route.accepted_count for route in routes)} connections, "
            f"{sum(route.cut_count for route in routes)} cut, "
            f"{sum(route.bytes_count for route in routes)} bytes; "
            f"{owner['redelivered']} redeliveries, {duplicates} runs too many, "
            f"{owner['refused']} late outcomes refused"
        )
        if not trouble.loses_workers:
            assert owner["redelivered"] == duplicates == 0
        far.fleet.stop(client)
