from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from zmqtasks.cli import COMMANDS, INSTEAD, main
from zmqtasks.version import __version__


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"zmqtasks {__version__}\n")


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output for name in COMMANDS)


def test_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(main, ["no-such-command"])
    assert result.exit_code == 2
    assert "no-such-command" in result.stderr


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("worker", "zmqtasks node --app MODULE"), ("nodes", "did you mean 'node'?")],
)
def test_what_was_likely_meant_by_an_unknown_command_is_said(typed: str, hint: str) -> None:
    result = CliRunner().invoke(main, [typed, "--loglevel", "info"])
    assert result.exit_code == 2
    assert f"No such command {typed!r}; " in result.stderr
    assert hint in result.stderr


def test_an_option_before_its_command_is_told_where_it_belongs() -> None:
    result = CliRunner().invoke(main, ["-A", "tasks", "worker"])
    assert result.exit_code == 2
    assert "No such option '-A'. Options follow their command: zmqtasks node" in result.stderr


def test_commands_of_celery_are_explained_or_offered_and_not_both() -> None:
    assert not INSTEAD.keys() & COMMANDS.keys()


def test_module_is_the_command_and_starts_without_sockets() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['zmqtasks', '--version']\n"
        "try:\n    runpy.run_module('zmqtasks', run_name='__main__')\n"
        "except SystemExit as exc:\n    assert not exc.code\n"
        "assert 'zmq' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"zmqtasks {__version__}\n"
