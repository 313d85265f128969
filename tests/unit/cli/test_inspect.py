"""`zmqtasks inspect` and `control`: what is typed, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from zmqtasks.app.control import Replies
from zmqtasks.cli.control import control
from zmqtasks.cli.inspect import lines_of, named_arguments, show
from zmqtasks.errors import ConfigError

TASK = "f3cf2bfd-1144-18af-0000-010000000001"


def test_arguments_of_own_commands_are_named_and_json_where_they_are_json() -> None:
    given = named_arguments("control", "set_level", ["level=2", "name=a=b"])
    assert given == {"level": 2, "name": "a=b"}


def test_a_misspelt_command_with_arguments_is_recognized() -> None:
    with pytest.raises(ConfigError, match=r"'tasks.add': .*did you mean the command 'rate_limit'"):
        named_arguments("control", "rate_limt", ["tasks.add", "3/s"])
    with pytest.raises(ConfigError, match=r"NAME=VALUE$"):
        named_arguments("control", "dance", ["wildly"])


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("time_limit", "TASK_NAME [SOFT] [HARD]"),
        ("pool_grow", "[N]"),
        ("autoscale", "MAX [MIN]"),
        ("add_consumer", "QUEUE"),
        ("rate_limit", "TASK_NAME [RATE_LIMIT]"),
    ],
)
def test_usage_shows_what_may_be_left_out(command: str, usage: str) -> None:
    result = CliRunner().invoke(control, [command, "--help"])
    assert f"{command} [OPTIONS] {usage}\n" in result.output


def test_a_task_that_nobody_knows_is_named_and_is_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        show(Replies([]), with_json=False, unknown=[TASK])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"zmqtasks: task {TASK} is known to none of those who answered\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.14 + 0.0000000001, "0.14"), (6.255, "6.255"), (30.0, "30"), (1e6 + 0.25, "1000000.25"),
     (7, "7"), ([], "none"), ({"a": 1.5, "b": None}, "a 1.5, b none")],
)  # fmt: skip
def test_numbers_for_people(value: Any, text: str) -> None:
    assert lines_of("w1", {"x": value, "y": 1}) == ["w1:", f"  x  {text}", "  y  1"]


def test_a_node_that_drains_says_so_in_its_line() -> None:
    answer = {"ok": "pong", "draining": "it finishes what it runs"}
    assert lines_of("w1", answer) == ["w1: pong, draining: it finishes what it runs"]
    assert lines_of("w1", {"error": "no\nway"}) == ["w1: error: no", "way"]
