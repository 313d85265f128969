"""A thousand worlds where things go wrong, and bugs planted to see that it would show."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.faults import CLASSES
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import World

SEEDS = 1_000
#: Parts of the seeds, so that several processes can share them.
PARTS = 4
#: A planted bug must show within so many worlds.
MUTANT_SEEDS = 1_000
#: Every fault strikes so often in each part.
FIRED_MIN = 20
#: Worlds that failed once; the first word of a line is the seed.
REGRESSIONS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]


def run(seed: int) -> World:
    world = World(seed)
    try:
        world.run()
    except Exception as exc:
        exc.add_note(f"replay it: python -m tests.simulation --seed {seed}")
        raise
    return world


@pytest.mark.parametrize("part", range(PARTS))
def test_every_world_settles_each_task_once_and_comes_to_rest(part: int) -> None:
    fired: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        fired += run(seed).faults.fired
    seldom = {name: fired[name] for name in CLASSES if fired[name] < FIRED_MIN}
    assert not seldom, f"faults that hardly ever struck: {seldom}"


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_world_that_once_failed_comes_to_rest(seed: int) -> None:
    run(seed)


def test_without_faults_nothing_is_redelivered_or_lost() -> None:
    for seed in range(20):
        world = World(seed, off=CLASSES)
        world.run()
        killed = [spec for spec in world.ledger.specs.values() if spec.deed == "kill"]
        if killed or world.owners_changed:
            # A child's death gives back what waited behind it, and a new owner counts what
            # it goes on with.
            continue
        for process in world.processes:
            dispatcher = process.node.dispatcher
            assert dispatcher is None or dispatcher.redelivered_count == 0


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found(name: str) -> None:
    with MUTANTS[name]():
        for seed in range(MUTANT_SEEDS):
            try:
                World(seed).run()
            except AssertionError:  # anything else would be a patch that does not fit any more
                return
    pytest.fail(f"{name} shows in none of {MUTANT_SEEDS} worlds")


def test_same_seed_same_world_whatever_the_hash_seed() -> None:
    script = (
        "from tests.simulation.world import World\n"
        "for seed in range(12):\n"
        "    world = World(seed)\n"
        "    world.run()\n"
        "    print(world.digest, world.events_count, world.now)\n"
    )
    answers = []
    for hash_seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        answers.append(done.stdout)
    assert answers[0].count("\n") == 12
    assert answers[0] == answers[1] == answers[2]
