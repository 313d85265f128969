"""Worlds of beats, and bugs that they must show."""

from __future__ import annotations

import pytest

from tests.simulation.beatmutants import BEAT_MUTANTS
from tests.simulation.beats import HALF_AN_HOUR, HOUR_MS, TWO_DAYS, BeatWorld

#: A planted bug must show within so many worlds.
MUTANT_SEEDS = 6


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_each_tick_has_one_recorded_outcome_and_none_is_missing(seed: int) -> None:
    world = BeatWorld(seed, HALF_AN_HOUR)
    world.run()
    assert world.kills_count >= 4
    assert world.known_twice, "both sides of a partition start ticks"


@pytest.mark.chaos
@pytest.mark.timeout(7_200)
def test_two_days_across_a_clock_change_with_the_leader_killed_each_hour() -> None:
    world = BeatWorld(0, TWO_DAYS)
    world.run()
    assert world.now >= 48 * HOUR_MS
    assert world.kills_count >= 46
    assert world.faults.fired["partition"] == len(TWO_DAYS.partitions_ms) == 2
    assert world.known_again, "a leader that dies leaves ticks behind"
    assert world.known_twice


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BEAT_MUTANTS)
def test_planted_bug_of_beats_is_found(name: str) -> None:
    with BEAT_MUTANTS[name]():
        for seed in range(MUTANT_SEEDS):
            try:
                BeatWorld(seed, HALF_AN_HOUR).run()
            except AssertionError:  # anything else would be a patch that does not fit any more
                return
    pytest.fail(f"{name} shows in none of {MUTANT_SEEDS} worlds")
