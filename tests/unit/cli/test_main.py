from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

from zmqtasks.cli import COMMANDS, main
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
