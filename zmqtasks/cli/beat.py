"""``zmqtasks beat``: periodic tasks, and what became of their ticks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from zmqtasks.app.beats import AppBeats, by_app, order, question, told, why_not
from zmqtasks.app.control import TIMEOUT_S
from zmqtasks.app.story import time_text
from zmqtasks.cli.inspect import ask, end
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import session
from zmqtasks.cli.showing import as_json
from zmqtasks.wire.messages import Status
from zmqtasks.words import counted

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: {count in an entry: what is said of it, after the number}
_COUNTS = {
    "open": "running",
    "missed": "missed",
    "overlap": "left out for an overlap",
    "skipped_paused": "left out while paused",
    "twice": "started twice",
    "again": "started again",
}


@click.group()
def beat() -> None:
    """Look at periodic tasks, pause, resume and start them.

    Nodes with the role beat start them; one of them leads. Orders go to all, and hold whoever
    leads.
    """


def _with_options(command: _Command) -> _Command:
    timeout = click.option(
        "--timeout", type=click.FloatRange(min=0), default=TIMEOUT_S, show_default=True,
        metavar="S", help="Wait for answers for S seconds.",
    )  # fmt: skip
    of = click.option("--of", "of_app", metavar="APP", help="Of this application only.")
    json_flag = click.option("--json", "with_json", is_flag=True, help="Print it as JSON.")
    return json_flag(of(timeout(setting_options(CLIENT_KEYS)(command))))


@beat.command("list")
@_with_options
def list_entries(*, of_app: str | None, timeout: float, with_json: bool, **flags: Any) -> None:
    """List the periodic tasks of all applications.

    Numbers are of the last 100 ticks of each. Exit code 1: a beat did not answer, or none
    has any; 2: there is no beat.
    """
    with session(flags) as client:
        replies = ask(client, question(), timeout)
        mesh = client.settings.mesh
    found = [beats for beats in by_app(replies) if of_app in (None, beats.app)]
    if with_json:
        apps = [beats._asdict() for beats in found]
        click.echo(as_json({"mesh": mesh, "apps": apps, "unanswered": replies.unanswered}))
    else:
        for beats in found:
            click.echo(heading(beats))
            for line in table(beats.entries):
                click.echo(line)
        if not found:
            whose = "" if of_app is None else f" of app '{of_app}'"
            click.echo(f"mesh '{mesh}': no beat has told of periodic tasks{whose}")
    end(replies.unanswered, has_failed=not found)


def heading(beats: AppBeats) -> str:
    """Which beats an application has."""
    count = counted(len(beats.entries), "periodic task")
    leads = f"{beats.leader} leads" if beats.leader else "none leads"
    return f"app '{beats.app}': {count}; {counted(len(beats.beats), 'beat')}, {leads}"


def table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line an entry, under a heading."""
    rows = [("name", "task", "schedule", "next", "last", "ended as", "")]
    rows += [
        (
            entry["name"], entry["task"], entry["schedule"], _time(entry.get("next_ms")),
            _time(entry.get("last_ms")), _status(entry), _remarks(entry),
        )
        for entry in entries
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return [
        "  ".join(["", *(f"{text:<{width}}" for text, width in line)]).rstrip() for line in lines
    ]


def _time(ms: int | None) -> str:
    return "-" if ms is None else time_text(ms / 1000)[:19]


def _status(entry: Mapping[str, Any]) -> str:
    status = entry.get("last_status")
    if status is None:
        return "-"
    known = status in set(Status)
    return Status(status).name if known else str(status)


def _remarks(entry: Mapping[str, Any]) -> str:
    remarks = ["paused"] if entry.get("paused") else []
    remarks += [f"{entry[key]:,} {words}" for key, words in _COUNTS.items() if entry.get(key)]
    return ", ".join(remarks)


# --- orders -----------------------------------------------------------------------------


def _give(
    what: str, entry: str, of_app: str | None, timeout: float, flags: dict[str, Any],
    with_json: bool,
) -> None:  # fmt: skip
    with session(flags) as client:
        replies = ask(client, order(what, entry, of_app), timeout)
    said = told(replies)
    problem = why_not(what, entry, said, replies.unanswered)
    if with_json:
        click.echo(as_json({
            "done": said.done, "refused": said.refused, "id": said.task_id or None,
            "unanswered": replies.unanswered,
        }))  # fmt: skip
    elif problem is not None:
        click.echo(f"zmqtasks: {problem}", err=True)
    elif said.task_id:
        click.echo(said.task_id)
    else:
        for name, text in said.done.items():
            click.echo(f"{name}: {text}")
    end(replies.unanswered, has_failed=problem is not None)


@beat.command()
@click.argument("name")
@_with_options
def pause(name: str, *, of_app: str | None, timeout: float, with_json: bool, **flags: Any) -> None:
    """Start periodic task NAME no more until it is resumed.

    Ticks that are due meanwhile are counted, and not made up for. Exit code 1: no beat has it,
    or one did not answer.
    """
    _give("pause", name, of_app, timeout, flags, with_json)


@beat.command()
@click.argument("name")
@_with_options
def resume(name: str, *, of_app: str | None, timeout: float, with_json: bool, **flags: Any) -> None:
    """Start periodic task NAME again when it is due.

    Exit code 1: no beat has it, or one did not answer.
    """
    _give("resume", name, of_app, timeout, flags, with_json)


@beat.command()
@click.argument("name")
@_with_options
def run(name: str, *, of_app: str | None, timeout: float, with_json: bool, **flags: Any) -> None:
    """Start periodic task NAME now, once; prints the id of the task.

    Exit code 1: no beat has it, or one did not answer.
    """
    _give("run", name, of_app, timeout, flags, with_json)
