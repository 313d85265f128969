"""Much more is asked for than can be done: callers wait or are told, and memory is bounded."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.fleet import Fleet, running_fleet
from tests.e2e.harness import NodeProcess, wait_for

_BODY_BYTES = 4096
_OPEN_TASKS_MAX = 1_500
_OPEN_BYTES_MAX = 4 * 1024 * 1024
_SLOTS = 2
#: Attempts a second of the caller that does not wait, ten times what two slots can do.
_RATE = 4_000
#: A batch may be under way to the worker beyond what its slots work on, see core/credit.py.
_AHEAD_COUNT_MAX = 513 * _SLOTS

_WARM_COUNT = 800
# What one of them costs a process beside its payload: objects, ids, entries of tables.
_TASK_BYTES = 2_048
_OUTCOME_BYTES = 768

_CLIENT = """
import asyncio, json, threading, time
from collections import deque
from pathlib import Path
from tasks import chew
from zmqtasks import MeshOverloaded

folder, data = Path({folder!r}), bytes({body_bytes})
# Some wait for longer than a second, so that even the journal is open then.
chew.delay_many((number, b"") for number in range({warm_count})).get(timeout=20)
(folder / "warm").touch()
while not (folder / "go").exists():
    time.sleep(0.005)

handles, counts = deque(), dict.fromkeys(("tried", "refused", "patient", "async"), 0)
accepted, values, ended = list(range({warm_count})), {warm_count}, False
numbers = iter(range({warm_count}, 1_000_000_000))
end_s = time.monotonic() + {seconds}


def took(number, handle, kind):
    accepted.append(number)
    handles.append(handle)
    counts[kind] += 1


def patient():
    while time.monotonic() < end_s:
        number = next(numbers)
        took(number, chew.delay(number, data), "patient")


async def hasty():
    tried, begun_s = 0, time.monotonic()
    while time.monotonic() < end_s:
        while tried < (time.monotonic() - begun_s) * {rate}:
            tried += 1
            number = next(numbers)
            try:
                took(number, chew.delay(number, data), "tried")
            except MeshOverloaded:
                counts["refused"] += 1
        await asyncio.sleep(0.005)


async def waiting():
    while time.monotonic() < end_s:
        number = next(numbers)
        took(number, await chew.adelay(number, data), "async")


async def both():
    await asyncio.gather(hasty(), waiting())


def read():
    global values
    while handles or not ended:
        if not handles:
            time.sleep(0.005)
            continue
        assert handles.popleft().get(timeout=60) == len(data)
        values += 1


threads = [threading.Thread(target=patient), threading.Thread(target=read)]
for thread in threads:
    thread.start()
asyncio.run(both())
threads[0].join()
ended = True
threads[1].join()
(folder / "values.new").write_text(json.dumps([accepted, values, counts]))
(folder / "values.new").rename(folder / "values")
while not (folder / "leave").exists():
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3, marks=pytest.mark.e2e, id="short"),
        pytest.param(30, marks=pytest.mark.chaos, id="full"),
    ],
)
def test_overload_is_answered_and_memory_stays_bounded(tmp_path: Path, seconds: int) -> None:
    """A thread that waits, a loop that must not, and a coroutine that may, all at once."""
    with running_fleet(tmp_path, ["w1"], "--concurrency", str(_SLOTS)) as fleet:
        worker = fleet.workers["w1"].node
        client = fleet.mesh.start(
            _CLIENT.format(
                folder=str(tmp_path),
                body_bytes=_BODY_BYTES,
                warm_count=_WARM_COUNT,
                rate=_RATE,
                seconds=seconds,
            ),
            CHAOS_NODE="client",
            ZMQTASKS_OPEN_TASKS_MAX=str(_OPEN_TASKS_MAX),
            ZMQTASKS_OPEN_BYTES_MAX=str(_OPEN_BYTES_MAX),
        )
        wait_for(lambda: _is_there(tmp_path / "warm", client), "the client has warmed up")
        idle = {node: _memory(node, "VmRSS") for node in (client, worker)}
        (tmp_path / "go").touch()
        most_open = _watch(fleet, client, seconds + 60.0)
        accepted, values, counts = json.loads((tmp_path / "values").read_text())
        peak = {node: _memory(node, "VmHWM") for node in (client, worker)}

        _check_runs(fleet.evidence, accepted)
        assert values == len(accepted)
        assert counts["refused"] > counts["tried"]
        assert counts["patient"] > 0
        assert counts["async"] > 0
        assert most_open <= _OPEN_TASKS_MAX
        log_bytes = _report(fleet, "w1")["results"]["bytes"]
        room = {
            client: _client_room(len(accepted)),
            worker: _AHEAD_COUNT_MAX * (_BODY_BYTES + _TASK_BYTES)
            + log_bytes + len(accepted) * _OUTCOME_BYTES,
        }  # fmt: skip
        print(f"\n{len(accepted)} tasks accepted and done, {counts}, at most {most_open} open")
        for node in (client, worker):
            print(
                f"{node.name}: idle {idle[node] >> 10} KiB, at most {peak[node] >> 10} KiB, "
                f"room by its limits {room[node] >> 10} KiB"
            )
            assert peak[node] <= math.ceil(1.1 * (idle[node] + room[node]))
        fleet.stop(client)


def _client_room(done_count: int) -> int:
    """What its limits allow: open tasks and outcomes that are kept.

    The arguments of each open task may be there twice, on their way to the journal.
    """
    return 2 * _OPEN_BYTES_MAX + _OPEN_TASKS_MAX * _TASK_BYTES + done_count * _OUTCOME_BYTES


def _check_runs(evidence: Evidence, accepted: list[int]) -> None:
    """What was accepted ran once, what was refused did not."""
    evidence.look()
    assert sorted(run.number for run in evidence.runs) == sorted(accepted)


def _watch(fleet: Fleet, client: NodeProcess, limit_s: float) -> int:
    """Wait for the end; the most tasks that were open at a time."""
    most_open = 0

    def has_ended() -> bool:
        nonlocal most_open
        most_open = max(most_open, fleet.owner()["open"])
        return _is_there(fleet.mesh.folder / "values", client)

    wait_for(has_ended, "the client comes to its end", limit_s)
    return most_open


def _is_there(path: Path, client: NodeProcess) -> bool:
    assert client.process.poll() is None, f"the client ended:\n{client.log}"
    return path.exists()


def _report(fleet: Fleet, name: str) -> dict[str, Any]:
    reports = json.loads(fleet.mesh.cli("status", "--json").stdout)["nodes"]
    found = next(report for report in reports if report["name"] == name)
    assert isinstance(found, dict)
    return found


def _memory(node: NodeProcess, what: str) -> int:
    """A line of /proc/<pid>/status in bytes: VmRSS is now, VmHWM the most it ever was."""
    text = Path(f"/proc/{node.pid}/status").read_text()
    match = re.search(rf"^{what}:\s+(\d+) kB$", text, re.MULTILINE)
    assert match is not None, text
    return int(match[1]) * 1024
