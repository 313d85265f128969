"""Worker nodes are killed again and again while chords run: no body is stuck, none is wrong."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.harness import Mesh, NodeProcess, running_mesh

_WORKERS = 3
_EVERY_S = 1.0
_APP = """
    import time

    from zmqtasks import App

    app = App("shop")


    @app.task
    def part(chord, number):
        time.sleep(0.002)  # else the short form would end before a worker is killed
        return [chord, number]


    @app.task
    def total(parts, chord):
        return [chord, len(parts), sum(number for _, number in parts), {each for each, _ in parts}]
"""
#: Prints a line when all are submitted, then what the bodies have made, and how they ended.
_CLIENT = """
    import json
    from zmqtasks import chord
    from tasks import part, total

    results = [
        chord([part.s(number, n) for n in range({size})], total.s(number)).delay()
        for number in range({count})
    ]
    print("submitted", flush=True)
    wrong = []
    for number, result in enumerate(results):
        found = result.get(timeout={wait_s}, propagate=False)
        if found != [number, {size}, sum(range({size})), {{number}}]:
            wrong.append([number, repr(found)])
    states = sorted({{result.state for result in results}})
    print("done", json.dumps([wrong, states]), flush=True)
"""


class Size(NamedTuple):
    """How much is done in one form of the test."""

    chords: int
    members: int
    limit_s: float


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(100, 50, 60.0), marks=pytest.mark.e2e, id="short"),
        pytest.param(
            Size(1_000, 100, 900.0), id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(1_100)],
        ),
    ],
)  # fmt: skip
def test_every_chord_ends_with_all_its_results_while_workers_are_killed(
    tmp_path: Path, size: Size
) -> None:
    with running_mesh(tmp_path) as mesh:
        mesh.write("tasks.py", _APP)
        numbers = itertools.count(1)
        workers = [_worker(mesh, numbers) for _ in range(_WORKERS)]
        for worker in workers:
            worker.wait_log("is up")
        begun_s = time.monotonic()
        code = _CLIENT.format(count=size.chords, size=size.members, wait_s=size.limit_s)
        client = mesh.start(code)
        kills = _kill_until_it_ends(mesh, client, workers, numbers, size.limit_s)
        took_s = time.monotonic() - begun_s
        assert client.wait() == 0, client.log
        wrong, states = json.loads(client.log.split("done ")[-1])
        print(f"\n{size.chords} chords of {size.members} in {took_s:.1f} s, {kills} nodes killed")
        assert (wrong, states) == ([], ["SUCCESS"])
        assert kills > 0


def _worker(mesh: Mesh, numbers: itertools.count[int]) -> NodeProcess:
    return mesh.start_node("--concurrency", "2", name=f"w{next(numbers)}", ready=False)


def _kill_until_it_ends(
    mesh: Mesh, client: NodeProcess, workers: list[NodeProcess], numbers: itertools.count[int],
    limit_s: float,
) -> int:  # fmt: skip
    """One worker each second is killed, and another one started; returns how many."""
    chance = random.Random(1)
    deadline_s = time.monotonic() + limit_s
    kills = 0
    while client.process.poll() is None:
        assert time.monotonic() < deadline_s, f"a chord is stuck\n{client.log}"
        try:
            client.process.wait(_EVERY_S)
        except subprocess.TimeoutExpired:
            index = chance.randrange(len(workers))
            workers[index].kill()
            kills += 1
            workers[index] = _worker(mesh, numbers)
    return kills
