"""What `--reload` needs; a node that follows its code is tried in tests/e2e/test_reloading.py."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from zmqtasks.cli import main
from zmqtasks.cli.reloading import CodeWatcher
from zmqtasks.errors import ConfigError


def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(ConfigError, match=r"pip install 'zmqtasks\[reload\]'"):
        CodeWatcher(tmp_path, lambda: None)


def test_a_change_of_code_is_told_and_remembered(tmp_path: Path) -> None:
    changed = threading.Event()
    watcher = CodeWatcher(tmp_path, changed.set)
    number = 0
    # It may take a moment until the folder is watched.
    while not changed.wait(0.05):
        number += 1
        (tmp_path / "tasks.py").write_text(f"number = {number}")
        assert number < 400
    watcher.wait()
    watcher.close()


def test_it_is_for_nodes_that_run_code() -> None:
    done = CliRunner().invoke(main, ["node", "--role", "store", "--reload"])
    assert done.exit_code == 2
    assert "--reload is for nodes that load your code" in done.output
