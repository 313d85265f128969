"""Worlds where things go wrong, and bugs planted to see that it would show."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.__main__ import COMMIT_SEEDS
from tests.simulation.determinism import differing
from tests.simulation.faults import CLASSES, FEATURES
from tests.simulation.mutants import KINDS, MUTANTS
from tests.simulation.seeds import (
    Case,
    of_commit,
    parse_off,
    parse_only,
    present_commit,
    regressions,
)
from tests.simulation.world import World

#: Run each time; PLAIN_LONG by `make simulate`.
PLAIN = 300
PLAIN_LONG = 1_000
#: Parts of the seeds, so that several processes can share them.
PARTS = 4
#: A planted bug must show within so many worlds of its kind; it is expected in one of thirty.
MUTANT_WORLDS = 600
#: Of the kind of each planted bug so many worlds without it.
CLEAN_WORLDS = 2
#: Beyond the seeds of the plain worlds, so that those of no kind are tuned to them.
KIND_SEEDS_FROM = 10_000
#: Every fault strikes, and every feature shows, so often in each part.
FIRED_MIN = 5
#: Worlds of this commit; empty where its id is not known.
COMMIT = present_commit()


def run_all(seeds: range) -> None:
    fired: Counter[str] = Counter()
    for seed in seeds:
        fired += Case(seed).run().faults.fired
    seldom = {name: fired[name] for name in (*CLASSES, *FEATURES) if fired[name] < FIRED_MIN}
    assert not seldom, f"faults or features that hardly ever showed: {seldom}"


@pytest.mark.parametrize("part", range(PARTS))
def test_every_world_settles_each_task_once_and_comes_to_rest(part: int) -> None:
    run_all(range(part, PLAIN, PARTS))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_thousand_worlds_come_to_rest(part: int) -> None:
    run_all(range(PLAIN + part, PLAIN_LONG, PARTS))


# Not in every run: about one world in a thousand still fails for known faults of double failures.
@pytest.mark.chaos
@pytest.mark.parametrize("part", range(PARTS))
def test_worlds_that_no_commit_before_has_seen_come_to_rest(part: int) -> None:
    for case in of_commit(COMMIT, COMMIT_SEEDS if COMMIT else 0)[part::PARTS]:
        case.run()


@pytest.mark.parametrize("case", regressions(), ids=lambda case: str(case.seed))
def test_world_that_once_failed_comes_to_rest(case: Case) -> None:
    case.run()


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


def kind_of(name: str, seeds: range) -> list[Case]:
    """Worlds of the kind where a planted bug shows soonest."""
    on = parse_only(KINDS[MUTANTS[name]])
    return [Case(seed, on=on) for seed in seeds]


def shows(case: Case) -> bool:
    try:
        case.world().run()
    except AssertionError:  # anything else would be a patch that does not fit any more
        return True
    return False


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found(name: str) -> None:
    seeds = range(KIND_SEEDS_FROM, KIND_SEEDS_FROM + MUTANT_WORLDS)
    for case in kind_of(name, seeds[:CLEAN_WORLDS]):
        case.run()
    with MUTANTS[name]():
        worlds = kind_of(name, seeds)
        assert any(map(shows, worlds)), f"{name} shows in none of {len(worlds)} worlds"


# The same by no luck with the seeds: other ones, and each kind is at rest where nothing is planted.
@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found_whatever_the_seeds(name: str) -> None:
    for first in (20_000, 30_000):
        worlds = kind_of(name, range(first, first + 1_000))
        for case in worlds[:50]:
            case.run()
        with MUTANTS[name]():
            assert any(map(shows, worlds)), f"{name} shows in none of {len(worlds)} worlds"


def test_same_seed_same_world_whatever_the_hash_seed() -> None:
    assert differing(range(12), jobs=1) == []


def test_worlds_of_a_commit_are_others_for_each_commit_and_always_the_same() -> None:
    assert of_commit("a" * 40, 50) == of_commit("a" * 40, 50)
    assert set(of_commit("a" * 40, 50)).isdisjoint(of_commit("b" * 40, 50))


def test_a_case_is_replayed_by_one_line() -> None:
    case = Case(4711, parse_off("once,crash"))
    assert case.command == "python -m tests.simulation --seed 4711 --off once,crash"


def test_a_case_of_a_kind_is_replayed_by_one_line() -> None:
    case = Case(4711, on=parse_only("crash,durable"))
    assert case.command == "python -m tests.simulation --seed 4711 --only crash,durable"
