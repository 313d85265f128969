"""Settled outcomes that an owner keeps for late readers."""

from __future__ import annotations

from tests.support.machines import ADD, outcome, task_id
from zmqtasks.core.kept import KeptOutcomes


def kept_numbers(kept: KeptOutcomes) -> list[int]:
    return [number for number in range(10) if kept.get(task_id(number)) is not None]


def test_the_oldest_are_dropped_when_there_are_too_many() -> None:
    kept = KeptOutcomes(count_max=2)
    for number in (1, 2, 3):
        kept.add(outcome(number))
    assert kept_numbers(kept) == [2, 3]
    assert kept.bytes == outcome(2).size + outcome(3).size


def test_the_oldest_are_dropped_when_they_are_too_large() -> None:
    kept = KeptOutcomes(bytes_max=2 * outcome(1).size)
    for number in (1, 2, 3):
        kept.add(outcome(number))
    assert kept_numbers(kept) == [2, 3]


def test_one_that_was_forgotten_and_comes_again_is_kept_as_the_newest() -> None:
    kept = KeptOutcomes(count_max=2)
    kept.add(outcome(1))
    kept.forget(task_id(1))
    kept.forget(task_id(1))
    kept.add(outcome(2))
    kept.add(outcome(1))
    assert kept_numbers(kept) == [1, 2]
    kept.add(outcome(3))
    assert kept_numbers(kept) == [1, 3]


def test_the_kind_of_a_task_is_kept_with_its_outcome() -> None:
    kept = KeptOutcomes()
    kept.add(outcome(1), ADD)
    kept.add(outcome(2))
    assert (kept.kind_of(task_id(1)), kept.kind_of(task_id(2))) == (ADD, None)
    kept.forget(task_id(1))
    assert kept.kind_of(task_id(1)) is None
