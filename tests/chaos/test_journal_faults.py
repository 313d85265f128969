"""Journals on disks that fail: what was accepted is there, what was refused is not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.support.faulty_disk import run_on

_PROGRAM = "tests.chaos.journal_sweep"
#: The last call of the longest scenario is about the 450th.
_CALLS_MAX = 700


@pytest.mark.parametrize("scenario", ["commits", "takeover", "salvage"])
@pytest.mark.parametrize(("first", "error"), [(1, errno.EIO), (6, errno.ENOSPC)])
def test_one_failing_call_costs_nothing_that_was_accepted(
    faulty_disk: Path, tmp_path: Path, scenario: str, first: int, error: int
) -> None:
    folder = tmp_path / "disk"
    numbers = (first, _CALLS_MAX, 11)
    (reached,) = run_on(faulty_disk, folder, _PROGRAM, scenario, folder, *numbers, error, 0,
                        seconds=60)  # fmt: skip
    assert int(reached) >= 10


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["commits", "takeover", "salvage"])
@pytest.mark.parametrize("for_ever", [0, 1], ids=["once", "for_ever"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_whichever_call_fails_nothing_that_was_accepted_is_lost(
    faulty_disk: Path, tmp_path: Path, scenario: str, for_ever: int, error: int
) -> None:
    folder = tmp_path / "disk"
    (reached,) = run_on(faulty_disk, folder, _PROGRAM, scenario, folder, 1, _CALLS_MAX, 1, error,
                        for_ever, seconds=500)  # fmt: skip
    assert 100 < int(reached) < _CALLS_MAX, "not every call of it was tried"
    print(f"\n{scenario}: each of {reached} calls failed once")
