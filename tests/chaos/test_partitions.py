"""Three hosts on a network that falls apart again and again, and hosts that come and go."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.bridge import Bridge
from tests.chaos.evidence import SOURCE, Evidence, now_ns
from tests.chaos.fleet import client_code, owner_of, stored_values
from tests.e2e.harness import NodeProcess, wait_for
from tests.e2e.lan import Side, need_namespaces, running_sides

#: Calls a second, of two workers that can do twice as many.
_RATE = 100


@pytest.fixture(scope="module", autouse=True)
def _namespaces_can_be_made() -> None:
    need_namespaces()


class Hosts:
    """Hosts on a bridge that share a mesh key, and the log of what ran anywhere."""

    def __init__(self, bridge: Bridge, sides: list[Side], evidence: Evidence) -> None:
        self.bridge = bridge
        self.sides = sides
        self.evidence = evidence

    def start_worker(self, host: int, name: str, *flags: str, ready: bool = True) -> NodeProcess:
        """A worker node on one of them."""
        return self.sides[host].start_node(
            "--listen", self.bridge.addresses[host], *flags, name=name, ready=ready,
            CHAOS_NODE=name,
        )  # fmt: skip


@contextlib.contextmanager
def _running_hosts(folder: Path, count: int) -> Iterator[Hosts]:
    log = folder / "runs.log"
    log.touch()
    with contextlib.ExitStack() as stack:
        bridge = stack.enter_context(Bridge(count))
        sides = [
            Side(host, folder / f"h{number}", SOURCE) for number, host in enumerate(bridge.hosts)
        ]
        stack.enter_context(running_sides(*sides))
        for side in sides:
            side.env["CHAOS_LOG"] = str(log)
        sides[0].make_key()
        for side in sides[1:]:
            side.take_key(sides[0])
        evidence = Evidence(log)
        stack.callback(evidence.close)
        yield Hosts(bridge, sides, evidence)


# --- partitions -------------------------------------------------------------------------

#: The client is on host 0, workers on 1 and 2, the store on 2.
_HARM: list[Callable[[Bridge], None]] = [
    lambda bridge: bridge.unplug(1),
    lambda bridge: bridge.cut(0, 2),
    lambda bridge: bridge.part(0, 1),
    lambda bridge: bridge.cut(2, 0),
    lambda bridge: bridge.part(1, 2),
    lambda bridge: bridge.unplug(0),
]


def _drawn(count: int) -> list[float]:
    draw = random.Random(4)
    return [draw.uniform(1.0, 6.0) for _ in range(count)]


@pytest.mark.parametrize(
    ("lengths_s", "clean_s_max"),
    [
        pytest.param([4.5, 1.5], None, marks=pytest.mark.e2e, id="short"),
        pytest.param(
            _drawn(12), 10.0, id="full", marks=[pytest.mark.chaos, pytest.mark.timeout(400)],
        ),
    ],
)  # fmt: skip
def test_no_task_is_lost_while_the_network_falls_apart(
    tmp_path: Path, lengths_s: list[float], clean_s_max: float | None
) -> None:
    with _running_hosts(tmp_path, 3) as hosts:
        near = hosts.sides[0]
        for host in (1, 2):
            hosts.start_worker(host, f"w{host}", "--concurrency", "2")
        store = hosts.sides[2].start_node(
            "--listen", hosts.bridge.addresses[2], roles="store", name="store"
        )
        client = near.start(client_code(tmp_path, 1, _RATE, "stamp"), CHAOS_NODE="client")
        for number, length_s in enumerate(lengths_s):
            _wait_ended(hosts.evidence, 100, client)
            if number == len(lengths_s) - 1:
                (tmp_path / "enough").touch()
            _HARM[number % len(_HARM)](hosts.bridge)
            time.sleep(length_s)
            hosts.bridge.heal()
        healed_s = time.monotonic()
        reports = wait_for(lambda: _clean(near), "everything is idle and clean", 60.0)
        clean_s = time.monotonic() - healed_s
        wait_for((tmp_path / "values").exists, f"the client has all values:\n{client.log}")
        values, ids = json.loads((tmp_path / "values").read_text())
        owner = owner_of(reports)

        hosts.evidence.check(range(len(values)), owner["redelivered"])
        last = hosts.evidence.last_attempts()
        assert values == [[number, last[number]] for number in range(len(values))]
        print(
            f"\n{len(values)} tasks, all values right; {len(lengths_s)} partitions of at most "
            f"{max(lengths_s):.1f} s; {owner['redelivered']} redeliveries, "
            f"{hosts.evidence.duplicates} runs too many, {owner['refused']} late outcomes "
            f"refused; idle and clean {clean_s:.1f} s after the last one"
        )
        assert clean_s_max is None or clean_s <= clean_s_max
        (tmp_path / "leave").touch()
        assert client.wait() == 0, client.log
        for side in hosts.sides[1:]:
            assert [node.stop() for node in side.nodes if node is not store] in ([], [0])
        assert stored_values(near, ids) == values, "the store holds what the caller saw"


def _wait_ended(evidence: Evidence, more: int, client: NodeProcess) -> None:
    """Wait until so many more tasks have come to their end."""
    evidence.look()
    goal = evidence.ended_count + more

    def ended() -> bool:
        evidence.look()
        assert client.process.poll() is None, f"the client ended:\n{client.log}"
        return evidence.ended_count >= goal

    wait_for(ended, f"{more} more tasks end", 40.0)


def _clean(side: Side) -> list[dict[str, Any]]:
    """The reports of all nodes if none has anything to do and all are linked; else none."""
    found = side.status()
    reports = list(found["nodes"].values())
    workers = [report["worker"] for report in reports if "worker" in report]
    stores = [report for report in reports if "store" in report]
    if found["unanswered"] or (len(reports), len(workers), len(stores)) != (4, 2, 1):
        return []
    peers = [peer["state"] for report in reports for peer in report["peers"]]
    logs = [report["results"] for report in reports if "worker" in report]
    is_clean = (
        all(worker["queued"] == worker["running"] == 0 for worker in workers)
        and all(report["producer"]["open"] == 0 for report in reports if "producer" in report)
        and set(peers) == {"up"}
        and all(log["stores"] and set(log["stores"].values()) == {log["head"]} for log in logs)
    )
    return reports if is_clean else []


# --- joining ----------------------------------------------------------------------------

#: One call for each queue; nobody serves them yet.
_CALLS = """
import time
from pathlib import Path
from tasks import stamp

folder = Path({folder!r})
handles = [stamp.apply_async((number,), queue=f"join-{{number}}") for number in range({count})]
last = stamp.apply_async(({count},), queue="stay")
print("submitted", flush=True)
assert [handle.get(timeout=100) for handle in handles] == [[n, 1] for n in range({count})]
print("all joined", flush=True)
assert last.get(timeout=100) == [{count}, 1]
while not (folder / "leave").exists():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("count", "found_ms_max"),
    [
        pytest.param(2, None, marks=pytest.mark.e2e, id="short"),
        pytest.param(10, 3_000, marks=pytest.mark.chaos, id="full"),
    ],
)
def test_who_joins_is_found_and_who_is_killed_leaves_no_ghost(
    tmp_path: Path, count: int, found_ms_max: float | None
) -> None:
    with _running_hosts(tmp_path, 2) as hosts:
        near = hosts.sides[0]
        client = near.start(
            _CALLS.format(folder=str(tmp_path), count=count), CHAOS_NODE="client",
            ZMQTASKS_NAME="caller",
        )  # fmt: skip
        client.wait_log("submitted")
        found_ms, joined = [], []
        for number in range(count):
            joined.append(hosts.start_worker(
                1, f"join-{number}", "--queues", f"join-{number}", "--concurrency", "1"
            ))  # fmt: skip
            up_ns = now_ns()
            found_ms.append(max(0.0, (_wait_start(hosts.evidence, number) - up_ns) / 1e6))
        client.wait_log("all joined")
        for node in joined:
            node.kill()
        killed_s = time.monotonic()
        hosts.start_worker(1, "stay", "--queues", "stay", "--concurrency", "1")
        _wait_start(hosts.evidence, count)

        def is_free_of_ghosts() -> bool:
            found = near.status()
            assert {"caller", "stay"} <= found["nodes"].keys()
            peers = [peer["name"] for node in found["nodes"].values() for peer in node["peers"]]
            return not found["unanswered"] and not any(name.startswith("join-") for name in peers)

        wait_for(is_free_of_ghosts, "no ghost is left", 10.0)
        print(
            f"\n{count} joins, the slowest found {max(found_ms):.0f} ms after it was up; "
            f"no ghost {time.monotonic() - killed_s:.1f} s after all were killed"
        )
        assert found_ms_max is None or max(found_ms) <= found_ms_max
        (tmp_path / "leave").touch()
        assert client.wait() == 0, client.log


def _wait_start(evidence: Evidence, number: int) -> int:
    def start_ns() -> int:
        evidence.look()
        return next((run.start_ns for run in evidence.runs if run.number == number), 0)

    return wait_for(start_ns, f"task {number} begins")
