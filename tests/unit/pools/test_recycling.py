from __future__ import annotations

import os

from zmqtasks.pools.recycling import is_nearly_used_up, memory_kib


def test_successor_starts_when_what_is_left_takes_no_longer_than_its_start() -> None:
    # 100 tasks a second, a start of 50 ms: ten tasks ahead.
    assert not is_nearly_used_up(sent=980, tasks_max=1000, age_s=9.8, start_s=0.05)
    assert is_nearly_used_up(sent=990, tasks_max=1000, age_s=9.9, start_s=0.05)
    # Tasks of a minute: with the last one.
    assert not is_nearly_used_up(sent=99, tasks_max=100, age_s=5_940, start_s=0.05)
    assert is_nearly_used_up(sent=100, tasks_max=100, age_s=6_000, start_s=0.05)


def test_process_that_was_given_nothing_yet_needs_none() -> None:
    assert not is_nearly_used_up(sent=0, tasks_max=1, age_s=0.0, start_s=0.05)


def test_memory_of_a_process_is_told_and_of_none_it_is_nothing() -> None:
    assert 1024 < memory_kib(os.getpid()) < 10 * 1024 * 1024
    assert memory_kib(0) == 0
