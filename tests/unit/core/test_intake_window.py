"""How much waits at a worker: enough to keep it busy, nothing that others could run."""

from __future__ import annotations

from zmqtasks.core.intake import Intake


def test_nothing_waits_behind_tasks_of_unknown_length() -> None:
    assert Intake(["default"], [], 4).window() == 4


def test_nothing_waits_behind_long_tasks() -> None:
    intake = Intake(["default"], [], 4)
    intake.overall.add(1_000_000)
    assert intake.window() == 4


def test_short_tasks_wait_for_as_long_as_the_way_to_the_owner_takes() -> None:
    intake = Intake(["default"], [], 4)
    intake.overall.add(1_000)
    assert intake.window() == 4 + 40
