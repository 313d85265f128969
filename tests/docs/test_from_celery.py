"""The page for users of Celery: what it names exists, and what it says is refused is."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import zmqtasks
from zmqtasks import signals
from zmqtasks.app.app import App
from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.app.options import (
    CALL_OPTIONS,
    TASK_OPTIONS,
    check_call_options,
    check_task_options,
)
from zmqtasks.celery_fates import ARGUMENTS, AS_IT_IS, OPTIONS, RENAMED, SETTINGS
from zmqtasks.celery_names import CALL_OPTIONS as CELERYS_CALL_OPTIONS
from zmqtasks.celery_names import TASK_OPTIONS as CELERYS_TASK_OPTIONS
from zmqtasks.cli import main as command_line
from zmqtasks.errors import ConfigError
from zmqtasks.settings import SETTING_NAMES

ROOT = Path(__file__).parents[2]


def _generator() -> Any:
    path = ROOT / "docs" / "generate_from_celery.py"
    spec = importlib.util.spec_from_file_location("generate_from_celery", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = _generator()
#: What a name in front of a dot stands for.
OWNERS = {
    "self": zmqtasks.Task,
    "sig": zmqtasks.Signature,
    "Signature": zmqtasks.Signature,
    "AsyncResult": zmqtasks.AsyncResult,
    "task": zmqtasks.Task,
}
#: Headings of other tables.
_OTHER = ("Coming from Celery", "Names before Celery 4")
#: Not of this project.
FOREIGN = re.compile(r"python|platform\.|uuid\.|datetime\.|logging|__init__|True|False")


def rows() -> Iterator[tuple[str, str]]:
    """``(heading, fate)`` of every row."""
    heading = ""
    for line in MADE.page().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        cells = line.strip("|").split(" | ")
        if line.startswith("| ") and len(cells) == 2 and heading not in _OTHER:
            yield heading, cells[1].strip()


def commands() -> dict[str, click.Command]:
    """Every command and subcommand by its words."""
    context = click.Context(command_line)
    found: dict[str, click.Command] = {}
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                deeper = command.get_command(context, sub)
                if deeper is not None:
                    found[f"{name} {sub}"] = deeper
    return found


COMMANDS = commands()
FLAGS = {
    flag
    for command in COMMANDS.values()
    for param in command.params
    for flag in (*param.opts, *param.secondary_opts)
}


def problem(code: str, ours: Any) -> str:
    """Why what stands in backticks does not exist; "" if it does."""
    if FOREIGN.match(code) or code.endswith(".toml"):
        return ""
    missing = [flag for flag in re.findall(r"--[a-z-]+", code) if flag not in {*FLAGS, "--help"}]
    if missing:
        return f"no flag {missing[0]}"
    if code.startswith("--"):
        return ""
    if code.startswith("zmqtasks "):
        words = code.split()[1:3]
        return "" if words[0] in COMMANDS else f"no command {words[0]}"
    path = re.match(r"[A-Za-z_][\w.]*", code)
    return "" if path is not None and _exists(path[0].split("."), ours) else "does not exist"


def _exists(parts: list[str], ours: Any) -> bool:
    first, rest = parts[0], parts[1:]
    if first == "zmqtasks":
        return _is_in(zmqtasks, rest)
    if first == "app":
        if rest[0] != "conf":
            return bool(MADE.has(App, rest[0]))
        return (
            rest[1] in APP_SETTINGS or rest[1] in SETTING_NAMES or hasattr(App("x").conf, rest[1])
        )
    if first in OWNERS and rest:
        return bool(MADE.has(OWNERS[first], rest[0]))
    known = {*SETTING_NAMES, *APP_SETTINGS, *CALL_OPTIONS, *TASK_OPTIONS, "process", "thread"}
    return (
        hasattr(zmqtasks, first)
        or first in known
        or first in ("asyncio", "solo")
        or (ours is not None and bool(MADE.has(ours, first)))
        or hasattr(zmqtasks.Task, first)
        or hasattr(signals, first)
        or MADE.has(App, first)
    )


def _is_in(found: Any, names: list[str]) -> bool:
    for name in names:
        if hasattr(found, name):
            found = getattr(found, name)
            continue
        try:
            found = importlib.import_module(f"{found.__name__}.{name}")
        except ImportError:
            return False
    return True


def test_what_the_page_names_in_place_of_celerys_exists() -> None:
    ours = {kind.title: kind.ours for kind in MADE.KINDS}
    problems = [
        f"{heading}: `{code}`: {why}"
        for heading, fate in rows()
        for code in re.findall(r"`([^`]+)`", fate)
        if (why := problem(code, ours.get(heading)))
    ]
    assert problems == []


def test_a_wrong_name_would_be_noticed() -> None:
    assert problem("zmqtasks nod", None)
    assert problem("--no-such-flag", None)
    assert problem("app.confused", None)
    assert problem("app.conf.nothing", None)
    assert problem("zmqtasks.signals.nothing", None)
    assert problem("getter", zmqtasks.AsyncResult)


@pytest.mark.parametrize(
    ("names", "known", "check"),
    [
        (CELERYS_TASK_OPTIONS, TASK_OPTIONS, check_task_options),
        (CELERYS_CALL_OPTIONS, CALL_OPTIONS, check_call_options),
    ],
)
def test_options_of_celery_exist_or_are_refused_with_their_line(
    names: frozenset[str], known: frozenset[str], check: Any
) -> None:
    page = MADE.PAGE.read_text(encoding="utf-8")
    for name in sorted(names):
        assert f"`{name}`" in page, name
        if name in known:
            continue
        value: Any = not AS_IT_IS[name] if name in AS_IT_IS else "x"
        with pytest.raises(ConfigError) as caught:
            check({name: value}, "here")
        assert f"here: option {name!r} of Celery" in str(caught.value)
        assert f"(docs/from-celery.md: {name})" in str(caught.value)


def test_every_line_that_an_error_names_is_on_the_page() -> None:
    page = MADE.PAGE.read_text(encoding="utf-8")
    missing = [line for line in (*SETTINGS, *RENAMED, *ARGUMENTS) if f"`{line}`" not in page]
    assert missing == []
    of_celery = CELERYS_TASK_OPTIONS | CELERYS_CALL_OPTIONS
    assert sorted(OPTIONS.keys() - of_celery) == []


def test_every_name_of_celery_has_its_line() -> None:
    page = MADE.PAGE.read_text(encoding="utf-8")
    for kind in MADE.KINDS:
        section = page.partition(f"### {kind.title}\n")[2].partition("\n#")[0]
        assert [name for name in MADE.names_of(kind) if f"`{name}`" not in section] == []
    assert [name for name in MADE.NAMES["signals"] if f"`{name}`" not in page] == []
