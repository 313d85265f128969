"""A journal whose disk loses its power has what was synced, and is whole."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.faulty_disk import run_on


class Size(NamedTuple):
    """How much is done in one form of the test."""

    commits: int
    losses: int
    limit_s: float


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(400, 120, 50.0), id="short"),
        pytest.param(
            Size(10_000, 2_000, 800.0), id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(1_700)],
        ),
    ],
)  # fmt: skip
def test_what_was_synced_is_there_after_the_power_failed(
    faulty_disk: Path, tmp_path: Path, size: Size
) -> None:
    disk, trace, seed = tmp_path / "disk", tmp_path / "trace", 3
    disk.mkdir()
    for mode, *more in ("work",), ("look", size.losses):
        told = run_on(
            faulty_disk, disk, "tests.chaos.journal_power", mode, disk / "tasks", trace,
            size.commits, seed, *more, seconds=size.limit_s,
        )  # fmt: skip
        print("\n" + "\n".join(told))
