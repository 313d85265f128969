from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from zmqtasks.cli.errors import one_line, reporting_errors
from zmqtasks.errors import AppLoadError, ConfigError, ZmqTasksError


def _run(error: Exception) -> tuple[int, str]:
    @click.command()
    def command() -> None:
        with reporting_errors():
            raise error

    result = CliRunner().invoke(command)
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_error_is_one_line_on_stderr_and_exit_code_2() -> None:
    assert _run(ConfigError("port 5000 is taken;\n  choose another")) == (
        2,
        "zmqtasks: error: port 5000 is taken; choose another\n",
    )


def test_application_error_shows_the_traceback_first() -> None:
    code, text = _run(AppLoadError("cannot import tasks", "Traceback:\n  line 1\nBoom\n"))
    assert code == 2
    assert text == "Traceback:\n  line 1\nBoom\nzmqtasks: error: cannot import tasks\n"


def test_error_without_a_message_is_named_by_its_class() -> None:
    assert one_line(ZmqTasksError()) == "ZmqTasksError"


def test_other_exceptions_are_bugs_and_pass() -> None:
    with pytest.raises(LookupError), reporting_errors():
        raise LookupError
