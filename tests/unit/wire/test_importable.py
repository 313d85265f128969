"""Import paths of classes, and the importable name of ``__main__``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from zmqtasks.wire import importable


class Outer:
    class Inner:
        pass


def test_path_and_class_are_inverse() -> None:
    path = importable.path_of(Outer.Inner)
    assert path.endswith(":Outer.Inner")
    assert importable.resolve(path) is Outer.Inner


@pytest.mark.parametrize(
    ("main", "name"),
    [
        (
            SimpleNamespace(__spec__=SimpleNamespace(name="pkg.tasks"), __file__="/x/pkg/tasks.py"),
            "pkg.tasks",
        ),
        (SimpleNamespace(__spec__=None, __file__="/x/tasks.py"), "tasks"),
        (SimpleNamespace(__spec__=None, __file__="/x/my-script.py"), None),
        (SimpleNamespace(__spec__=None), None),
    ],
)
def test_main_takes_its_importable_name(
    monkeypatch: pytest.MonkeyPatch, main: ModuleType, name: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert importable.main_module_name() == name


def test_a_script_is_not_imported_a_second_time(tmp_path: Path) -> None:
    script = tmp_path / "tasks.py"
    script.write_text(
        "from zmqtasks.wire.importable import path_of, resolve\n"
        "class Mine: pass\n"
        "print(path_of(Mine), resolve('tasks:Mine') is Mine)\n"
    )
    root = Path(importable.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "tasks:Mine True\n"


@pytest.mark.parametrize("path", ["", "os", "os:", ":x", "os:sep", "a b:c", "os:" + "x" * 999])
def test_what_is_no_path_of_a_class_raises_lookup_error(path: str) -> None:
    with pytest.raises(LookupError):
        importable.resolve(path)


def test_a_module_that_fails_to_import_is_a_lookup_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module_for_test.py").write_text("1/0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LookupError, match="ZeroDivisionError"):
        importable.resolve("broken_module_for_test:Thing")
