"""Type checkers accept right calls of tasks and reject wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).with_name("typing_example.py")
ROOT = Path(__file__).parents[2]


def test_mypy_accepts_right_calls_and_rejects_wrong_ones(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--namespace-packages",
            "--explicit-package-bases", "--follow-imports", "silent",
            "--cache-dir", str(tmp_path), str(EXAMPLE),
        ],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_has_calls_to_reject() -> None:
    assert EXAMPLE.read_text().count("  # type: ignore[") >= 15
