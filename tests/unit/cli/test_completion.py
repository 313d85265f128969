"""Completion in shells: the script, and what it asks us."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from zmqtasks.cli import COMMANDS, main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_understands(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_ZMQTASKS_COMPLETE" in done.output
    if shutil.which(shell):
        check = subprocess.run(
            [shell, "-n"],
            input=done.output,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (check.returncode, check.stderr) == (0, "")


def completed(*words: str) -> list[str]:
    complete = ShellComplete(main, {}, "zmqtasks", "_ZMQTASKS_COMPLETE")
    *before, last = words
    return [item.value for item in complete.get_completions(list(before), last)]


def test_commands_and_flags_are_completed() -> None:
    assert completed("") == list(COMMANDS)
    assert completed("sta") == ["status"]
    assert "--drain-timeout-s" in completed("node", "--dr")
    assert completed("completion", "f") == ["fish"]


def test_an_unknown_shell_is_an_error_with_those_that_are_known() -> None:
    done = CliRunner().invoke(main, ["completion", "tcsh"])
    assert done.exit_code == 2
    assert "bash" in done.output


def test_values_of_settings_that_are_known_are_completed() -> None:
    assert completed("node", "--pool", "") == ["process", "thread", "asyncio", "solo"]
    assert completed("node", "--role", "s") == ["store"]
    assert completed("node", "-l", "warn") == ["WARNING"]
    assert completed("node", "--queues", "") == []
