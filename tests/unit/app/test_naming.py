"""Names of apps and tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.app.naming import check_app_name, check_task_name, function_name, module_of
from zmqtasks.errors import ConfigError

ROOT = Path(__file__).parents[3]
SCRIPT = "from zmqtasks import App\napp = App('shop')\n@app.task\ndef add(): ...\nprint(add.name)\n"


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 64, "é", 3, None])
def test_bad_app_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError):
        check_app_name(name)


@pytest.mark.parametrize("name", ["", " ", "a\nb", None])
def test_bad_task_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError):
        check_task_name(name, "here")


def test_a_task_is_named_by_module_and_function() -> None:
    assert module_of(check_app_name, "shop") == "zmqtasks.app.naming"
    assert function_name(check_app_name) == "check_app_name"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["tasks.py"], "tasks.add"),
        (["-m", "pkg.tasks"], "pkg.tasks.add"),
        (["-c", SCRIPT], "shop.add"),
    ],
)
def test_a_task_of_a_script_takes_its_importable_name(
    tmp_path: Path, command: list[str], name: str
) -> None:
    (tmp_path / "pkg").mkdir()
    for path in ("tasks.py", "pkg/tasks.py"):
        (tmp_path / path).write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == name + "\n"
