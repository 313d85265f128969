"""Is a world the same each time, down to the last line of its trace?"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.simulation.world import World

_ROOT = Path(__file__).parents[2]
HASH_SEEDS = ("0", "1", "4711")
RUNS = 2


def trace_digest(seed: int) -> str:
    """One line: the seed, and what stands for all that its world did."""
    crc = 0

    def trace(line: str) -> None:
        nonlocal crc
        crc = zlib.crc32(line.encode(), crc)

    world = World(seed, trace=trace)
    end = "rest"
    try:
        world.run()
    except Exception as exc:  # noqa: BLE001 - how it fails has to be the same too
        end = type(exc).__name__
    return f"{seed} {end} {crc:08x} {world.digest:08x} {world.events_count} {world.now}"


def print_digests(seeds: range) -> None:
    """Each world several times, in this process."""
    for seed in seeds:
        for _ in range(RUNS):
            print(trace_digest(seed), flush=True)


def differing(seeds: range, jobs: int) -> list[int]:
    """Seeds whose worlds are not the same in each run, whatever Python's hash seed."""
    with ThreadPoolExecutor(jobs) as pool:
        answers = list(pool.map(lambda hash_seed: _run(seeds, hash_seed), HASH_SEEDS))
    seen: dict[int, set[str]] = {seed: set() for seed in seeds}
    for answer in answers:
        lines = answer.splitlines()
        assert len(lines) == RUNS * len(seeds)
        for line in lines:
            seen[int(line.split()[0])].add(line)
    return [seed for seed, lines_of_it in seen.items() if len(lines_of_it) != 1]


def _run(seeds: range, hash_seed: str) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--digests", f"{seeds.start}:{seeds.stop}"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
