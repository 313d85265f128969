"""Worlds with times, retries, priorities and cancellations, and bugs that they must show."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.extramutants import EXTRA_MUTANTS
from tests.simulation.extras import EXTRAS
from tests.simulation.seeds import Case, parse_case, parse_extras

#: Run each time, in so many parts.
SEEDS, PARTS = 80, 2
#: Each of them shows so often in each part.
FIRED_MIN = 20
#: A planted bug must show within so many worlds.
MUTANT_SEEDS = 200


@pytest.mark.parametrize("part", range(PARTS))
def test_tasks_start_in_time_are_retried_as_asked_and_never_after_they_were_cancelled(
    part: int,
) -> None:
    fired: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        fired += Case(seed, extras=EXTRAS).run().faults.fired
    assert not {name: fired[name] for name in EXTRAS if fired[name] < FIRED_MIN}


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", EXTRA_MUTANTS)
def test_planted_bug_is_found_where_there_are_extras(name: str) -> None:
    with EXTRA_MUTANTS[name]():
        for seed in range(MUTANT_SEEDS):
            try:
                Case(seed, extras=EXTRAS).world().run()
            except AssertionError:  # anything else would be a patch that does not fit any more
                return
    pytest.fail(f"{name} shows in none of {MUTANT_SEEDS} worlds")


def test_a_case_with_extras_is_replayed_by_one_line() -> None:
    case = parse_case("4711:once+times,cancels")
    assert case == Case(4711, ("once",), extras=("times", "cancels"))
    assert case.command == (
        "python -m tests.simulation --seed 4711 --off once --with times,cancels"
    )


def test_an_unknown_extra_is_named_with_those_that_there_are() -> None:
    there = ", ".join(("all", *EXTRAS))
    with pytest.raises(ValueError, match=f"^no such extras: tims; there are {there}$"):
        parse_extras("times,tims")
    with pytest.raises(ValueError, match=f"^no such extras: features; there are {there}$"):
        parse_extras("features")
