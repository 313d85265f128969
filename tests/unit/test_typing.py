"""Type checkers accept right calls of tasks and reject wrong ones."""

from __future__ import annotations

import json
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


def _pyright(folder: Path, text: str) -> tuple[int, str]:
    (folder / "typing_example.py").write_text(text)
    settings = {
        # Not the repository: pyright would look at all that is in it.
        "include": ["typing_example.py"],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", str(folder), "--pythonpath", sys.executable],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_pyright_accepts_right_calls_and_rejects_wrong_ones(tmp_path: Path) -> None:
    code, said = _pyright(tmp_path, EXAMPLE.read_text())
    assert code == 0, said


def test_pyright_sees_each_wrong_call_where_nothing_hides_it(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    wrong = {
        number for number, line in enumerate(lines, start=1) if "  # type: ignore[" in line
    }  # fmt: skip
    code, said = _pyright(tmp_path, "\n".join(line.split("  # type: ignore[")[0] for line in lines))
    seen = {
        int(line.split("typing_example.py:")[1].split(":")[0])
        for line in said.splitlines()
        if "- error:" in line
    }
    assert (code, seen) == (1, wrong), said


def test_the_example_has_calls_to_reject() -> None:
    assert EXAMPLE.read_text().count("  # type: ignore[") >= 15
