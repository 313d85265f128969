"""``zmqtasks dead``: tasks that were given up because their workers died of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from zmqtasks.app.story import line_text, time_text
from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, empty_mesh, session
from zmqtasks.cli.showing import as_json
from zmqtasks.errors import ConfigError, NoWorkers
from zmqtasks.ids import ID_TEXT_KEY, format_task_id, learn_text, parse_task_id
from zmqtasks.node.client import Client
from zmqtasks.node.survey import SeenNode
from zmqtasks.words import counted

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: Seconds that a linked node has to answer.
_ANSWER_S = 2.0
#: Dead tasks that one order names: with more of them it would be a large message.
_ORDER_COUNT = 1_000
#: An owner tells so many dead tasks at once or more, and keeps at most ten times as many.
_LOOKS_MAX = 100


@click.group()
def dead() -> None:
    """Look at tasks that were given up, run them again or forget them.

    A task is dead when three workers, or their child processes, died while it ran. Its
    owner keeps it with its arguments. It has ended, so it runs again as a new task.
    """


def _with_settings(command: _Command) -> _Command:
    json_flag = click.option("--json", "with_json", is_flag=True, help="Print it as JSON.")
    return json_flag(setting_options(CLIENT_KEYS)(command))


# --- looking ----------------------------------------------------------------------------


@dead.command("list")
@_with_settings
def list_dead(*, with_json: bool, **flags: Any) -> None:
    """List the dead tasks of all owners in sight, the latest first."""
    with session(flags) as client:
        seen = look(client, ())
        mesh = client.settings.mesh
    tasks = dead_tasks(seen)
    count = sum((node.report or {}).get("count", 0) for node in seen)
    if with_json:
        found = {"mesh": mesh, "dead": tasks, "count": count, "unanswered": silent(seen)}
        click.echo(as_json(found))
        return
    click.echo(f"mesh '{mesh}': {counted(count, 'dead task')}")
    if tasks:
        for line in table(tasks):
            click.echo(line)
        if count > len(tasks):
            click.echo(f"and {count - len(tasks):,} more")
        click.echo("\nzmqtasks dead show ID tells what happened; retry ID runs it again, drop ID "
                   "forgets it")  # fmt: skip
    _name_silent(seen)


def table(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """One line a task, under a heading."""
    rows = [("id", "task", "app", "queue", "died", "owner")]
    rows += [
        (task["id"], task["name"], task["app"], task["queue"], time_text(task["at"])[:19],
         task["owner"])
        for task in tasks
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@dead.command()
@click.argument("id")
@_with_settings
def show(id: str, *, with_json: bool, **flags: Any) -> None:
    """Show what happened to dead task ID.

    Exit code 1: nobody has a dead task of this id.
    """
    with session(flags) as client:
        seen = look(client, [parse_task_id(id)])
    found = dead_tasks(seen)
    if not found:
        _not_there([format_task_id(parse_task_id(id))], seen)
        sys.exit(EXIT_FAILED)
    task = found[0]
    if with_json:
        click.echo(as_json(task))
        return
    for line in told(task):
        click.echo(line)


def told(task: dict[str, Any]) -> list[str]:
    """A dead task in as many lines as it takes."""
    return [
        f"dead task {task['id']}: {task['name']} of app '{task['app']}', queue '{task['queue']}'",
        f"  died:    {time_text(task['at'])}, after {counted(task['attempt'] - 1, 'attempt')}",
        f"  owner:   {task['owner']}",
        f"  because: {task['reason']}",
        "  what happened:",
        *(f"    {line_text(line)}" for line in task.get("story", ())),
    ]


# --- ordering ---------------------------------------------------------------------------


def _with_ids(command: _Command) -> _Command:
    ids = click.argument("ids", nargs=-1, metavar="[ID]...")
    return ids(
        click.option("--all", "is_all", is_flag=True, help="All that `dead list` counts.")(command)
    )


@dead.command()
@_with_ids
@_with_settings
def retry(ids: tuple[str, ...], *, is_all: bool, with_json: bool, **flags: Any) -> None:
    """Run dead tasks again, each as a new task with the same arguments.

    Prints the new ids. Exit code 1: some were not there.
    """
    done, missing, seen = _order("dead.retry", ids, is_all, flags)
    if with_json:
        click.echo(as_json({"retried": done, "unknown": missing, "unanswered": silent(seen)}))
    else:
        for old, new in done.items():
            click.echo(f"{old} runs again as {new}")
    _end("run again", done, missing, seen, with_json=with_json)


@dead.command()
@_with_ids
@_with_settings
def drop(ids: tuple[str, ...], *, is_all: bool, with_json: bool, **flags: Any) -> None:
    """Forget dead tasks and their arguments.

    Exit code 1: some were not there.
    """
    done, missing, seen = _order("dead.drop", ids, is_all, flags)
    if with_json:
        click.echo(as_json({"dropped": list(done), "unknown": missing, "unanswered": silent(seen)}))
    else:
        for old in done:
            click.echo(f"{old} is forgotten")
    _end("forgotten", done, missing, seen, with_json=with_json)


_Done = tuple[dict[str, str], list[str], list[SeenNode]]


def _order(what: str, ids: Sequence[str], is_all: bool, flags: dict[str, Any]) -> _Done:
    """Do it; ``({old id: new id}, ids that are nowhere, the nodes)``."""
    if bool(ids) == is_all:
        raise ConfigError(
            "name the dead tasks by their ids, or say --all"
            if not ids else "--all leaves nothing to name: give ids or --all, not both"
        )  # fmt: skip
    with session(flags) as client:
        if is_all:
            return _order_all(client, what)
        wanted = list(dict.fromkeys(format_task_id(parse_task_id(text)) for text in ids))
        look_for_nodes(client)
        done, seen = _carry_out(client, what, wanted)
    return done, [text for text in wanted if text not in done], seen


def _order_all(client: Client, what: str) -> _Done:
    done: dict[str, str] = {}
    for _ in range(_LOOKS_MAX):
        seen = look(client, ())
        # What is retried may die again meanwhile, under another id.
        wanted = [task["id"] for task in dead_tasks(seen) if task["id"] not in done]
        if not wanted:
            break
        more, seen = _carry_out(client, what, wanted)
        if not more:
            break
        done |= more
    return done, [], seen


def _carry_out(
    client: Client, what: str, wanted: Sequence[str]
) -> tuple[dict[str, str], list[SeenNode]]:
    done: dict[str, str] = {}
    seen: list[SeenNode] = []
    for first in range(0, len(wanted), _ORDER_COUNT):
        ids = [parse_task_id(text) for text in wanted[first : first + _ORDER_COUNT]]
        seen = client.survey.order(what, ids, _ANSWER_S)
        for node in seen:
            answer = node.report or {}
            done |= {_id(old): _id(new) for old, new in answer.get("done", {}).items()}
    return done, seen


def _end(
    words: str, done: dict[str, str], missing: list[str], seen: list[SeenNode], *, with_json: bool
) -> None:
    if not with_json:
        if missing:
            _not_there(missing, seen)
        else:
            if not done:
                click.echo(f"there are no dead tasks, so none is {words}")
            _name_silent(seen)
    sys.exit(EXIT_FAILED if missing else 0)


# --- the nodes --------------------------------------------------------------------------


def look_for_nodes(client: Client) -> None:
    """Link everybody in sight.

    Raises:
        NoWorkers: nobody is there.
    """
    if not client.survey.settle(FIND_S):
        raise NoWorkers(empty_mesh(client.settings, client))


def look(client: Client, ids: Sequence[bytes]) -> list[SeenNode]:
    """Ask everybody in sight for dead tasks: for these, or for all of them."""
    look_for_nodes(client)
    return client.survey.inspect("dead", ids, _ANSWER_S)


def dead_tasks(seen: Sequence[SeenNode]) -> list[dict[str, Any]]:
    """The dead tasks that they told of, the latest first."""
    told = [task for node in seen for task in (node.report or {}).get("dead") or ()]
    for task in told:
        learn_text(task)
        task.pop(ID_TEXT_KEY, None)
    tasks = [
        {**task, "id": _id(task["id"]), "at": task["at_ms"] / 1000, "owner": node.name}
        for node in seen
        for task in (node.report or {}).get("dead") or ()
    ]
    return sorted(tasks, key=lambda task: -task["at"])


def silent(seen: Sequence[SeenNode]) -> list[str]:
    """Names of nodes that did not answer."""
    return [node.name or node.node for node in seen if node.report is None]


def _name_silent(seen: Sequence[SeenNode]) -> None:
    for node in seen:
        if node.report is None:
            who = f"{node.name or node.node} ({', '.join(node.roles)})"
            click.echo(f"zmqtasks: no answer from {who}: {node.trouble}", err=True)


def _not_there(ids: Sequence[str], seen: Sequence[SeenNode]) -> None:
    for text in ids:
        click.echo(f"zmqtasks: no node in sight has a dead task {text}", err=True)
    _name_silent(seen)


def _id(text: str) -> str:
    """An id from a report, as people see it; "" stays "" (there is none)."""
    return format_task_id(bytes.fromhex(text)) if text else ""
