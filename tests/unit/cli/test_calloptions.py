"""Options of calls from the command line become those of ``apply_async``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import click
import pytest
from click.testing import CliRunner

from zmqtasks.app.options import CALL_OPTIONS
from zmqtasks.cli.call import call
from zmqtasks.cli.calloptions import call_options, from_flags


def options(*words: str) -> tuple[dict[str, Any], str]:
    """What the words give, and what is said of them."""
    found: dict[str, Any] = {}

    @click.command()
    @call_options
    def command(**flags: Any) -> None:
        found.update(from_flags(flags))
        assert not flags

    said = CliRunner().invoke(command, words)
    return found, said.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {}),
        ("--countdown 1.5", {"countdown": 1.5}),
        ("--eta 2026-03-01T06:00", {"eta": datetime.fromisoformat("2026-03-01T06:00")}),
        (
            "--eta 2026-03-01T06:00+01:00",
            {"eta": datetime(2026, 3, 1, 6, tzinfo=timezone(timedelta(hours=1)))},
        ),
        ("--expires 60", {"expires": 60.0}),
        ("--expires 2026-03-01T06:00", {"expires": datetime.fromisoformat("2026-03-01T06:00")}),
        ("--priority 0", {"priority": 0}),
        ("--tag cuda --tag x86", {"tags": ["cuda", "x86"]}),
        ("--resource gpu=1 --resource ram_mb=4000", {"resources": {"gpu": 1, "ram_mb": 4000}}),
        ("--header batch=7 --header who=ann", {"headers": {"batch": 7, "who": "ann"}}),
        ("--time-limit 9 --soft-time-limit 8", {"time_limit": 9, "soft_time_limit": 8}),
        ("--task-id may --idempotency-key k", {"task_id": "may", "idempotency_key": "k"}),
    ],
)
def test_options_are_those_of_apply_async(words: str, expected: dict[str, Any]) -> None:
    found, _ = options(*words.split())
    assert found == expected
    assert found.keys() <= CALL_OPTIONS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--eta noon", "'noon' is no time; write for example 2026-03-01T06:00"),
        ("--expires noon", "write seconds from now, or for example"),
        ("--resource gpu", "'gpu' is no pair; write NAME=VALUE"),
        ("--resource gpu=all", "'all' is no number"),
        ("--header =7", "'=7' is no pair"),
    ],
)
def test_bad_values_are_refused_with_what_to_write(words: str, said: str) -> None:
    found, output = options(*words.split())
    assert (found, said in " ".join(output.split())) == ({}, True), output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--countdown 1 --eta 2026-03-01T06:00", "countdown and eta both say when"),
        ("--priority 12", "priority is a whole number from 0 to 9"),
        ("--time-limit 5 --soft-time-limit 5", "soft_time_limit 5 is not below time_limit 5"),
    ],
)
def test_contradictions_are_refused_before_the_mesh_is_looked_for(words: str, said: str) -> None:
    result = CliRunner().invoke(call, ["tasks.add", "1", *words.split()])
    assert f"zmqtasks call: {said}" in str(result.exception)


def test_every_option_of_apply_async_is_there_or_means_nothing_here() -> None:
    there = {param.name for param in call.params}
    #: How it is waited for, and what is shown to others, a command says by itself; a script
    #: makes workflows.
    elsewhere = {"delivery", "require_worker", "argsrepr", "kwargsrepr", "shadow", "ignore_result"}
    elsewhere |= {"link", "link_error", "stamps"}
    assert CALL_OPTIONS - there == elsewhere
