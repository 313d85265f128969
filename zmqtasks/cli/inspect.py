"""``zmqtasks inspect``: ask nodes what they have, do and are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from zmqtasks.app.app import App
from zmqtasks.app.commands import known_commands
from zmqtasks.app.control import TIMEOUT_S, Replies, as_typed, give
from zmqtasks.app.story import time_text
from zmqtasks.cli.calloptions import parse_argument
from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import empty_mesh, session
from zmqtasks.cli.showing import as_json
from zmqtasks.errors import ConfigError, NoWorkers
from zmqtasks.ids import format_task_id, parse_task_id
from zmqtasks.node.client import Client
from zmqtasks.node.commands import INSPECT, Command
from zmqtasks.node.survey import Request
from zmqtasks.settings_sources import nearest

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Commands(click.Group):
    """A group whose commands come from a table.

    Args:
        known: the table.
        make: makes one of them.
    """

    def __init__(
        self, name: str, about: str, known: dict[str, Command],
        make: Callable[[Command], click.Command],
    ) -> None:  # fmt: skip
        super().__init__(name, help=about)
        self._known = known
        self._make = make

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names for ``--help``."""
        return [*super().list_commands(ctx), *self._known]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in self._known:
            return self._make(self._known[cmd_name])
        return found or _custom(self.name or "", cmd_name)


def _custom(group: str, name: str) -> click.Command:
    """A command that an application of the mesh may have."""

    @click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
    @with_nodes
    def run(
        arguments: tuple[str, ...], *, destination: tuple[str, ...], timeout: float,
        with_json: bool, **flags: Any,
    ) -> None:  # fmt: skip
        given = named_arguments(group, name, arguments)
        with session(flags) as client:
            if not client.find(Request(name), timeout):
                raise NoWorkers(empty_mesh(client.settings, client))
            task = f"zmqtasks.{group}.{name}"
            replies = give(App("zmqtasks"), task, given, destinations(destination), timeout)
        show(replies, with_json=with_json)

    about = f"A command of an application, made with @app.{group}_command."
    return click.command(name, help=about)(run)


def named_arguments(group: str, name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a command of an application was given.

    Raises:
        ConfigError: not written as NAME=VALUE; more so when another command was meant.
    """
    pairs = [text.partition("=") for text in arguments]
    for text, equals, _ in pairs:
        if not equals:
            likely = nearest(name, known_commands(group))
            hint = f"; did you mean the command {likely!r}?" if likely else ""
            raise ConfigError(
                f"{group} {name}: {text!r}: arguments of a command that an application has are "
                f"written as NAME=VALUE{hint}"
            )
    return {key: parse_argument(value) for key, _, value in pairs}


def with_nodes(command: _Command) -> _Command:
    """Add the options that say who is asked, for how long, and how it is shown."""
    for option in (
        setting_options(CLIENT_KEYS),  # added first, shown last
        click.option("--json", "with_json", is_flag=True, help="Print it as JSON."),
        click.option(
            "--timeout", type=click.FloatRange(min=0), default=TIMEOUT_S, show_default=True,
            metavar="S", help="Wait for answers for S seconds.",
        ),
        click.option(
            "-d", "--destination", multiple=True, metavar="NODE",
            help="Ask only nodes of this name, or pattern such as 'gpu-*'; may be repeated.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def destinations(given: Sequence[str]) -> list[str] | None:
    """Names, one by one or with commas; None: all."""
    names = [name.strip() for text in given for name in text.split(",")]
    return [name for name in names if name] or None


def _make(command: Command) -> click.Command:
    @with_nodes
    def run(
        ids: tuple[str, ...] = (), *, destination: tuple[str, ...], timeout: float,
        with_json: bool, **flags: Any,
    ) -> None:  # fmt: skip
        args = {param.name: flags.pop(param.name) for param in command.params}
        request = Request(
            command.name, [parse_task_id(text) for text in ids], args, roles=command.roles,
            destination=destinations(destination),
        )  # fmt: skip
        with session(flags) as client:
            replies = ask(client, request, timeout)
        if not command.has_ids:
            show(replies, with_json=with_json)
            return
        as_typed(replies)
        known = {task_id for answer in replies.values() for task_id in answer}
        lost = [text for text in ids if format_task_id(parse_task_id(text)) not in known]
        show(replies, with_json=with_json, unknown=lost)

    for param in command.params:
        run = click.option(param.flag, param.name, is_flag=True, help=param.about)(run)
    if command.has_ids:
        run = click.argument("ids", nargs=-1, required=True, metavar="ID...")(run)
    return click.command(command.name, help=command.about)(run)


inspect = Commands(
    "inspect",
    "Ask the nodes of the mesh. Exit code 1: some did not answer; 2: there is nobody to ask.",
    INSPECT, _make,
)  # fmt: skip


def ask(client: Client, request: Request, timeout: float) -> Replies:
    """Give a request to nodes.

    Raises:
        NoWorkers: nobody is there whom it is for.
    """
    seen = client.command(request, timeout)
    if not [node for node in seen if node.found_by != "self"]:
        peers = client.find(Request(request.what), 0)
        if not peers:
            raise NoWorkers(empty_mesh(client.settings, client))
        there = ", ".join(f"{peer.name} ({', '.join(peer.roles)})" for peer in peers)
        if request.roles:
            wanted = " and ".join(f"{role}s" for role in sorted(request.roles))
            start = f"zmqtasks node --role {min(request.roles)}"
            raise NoWorkers(f"{request.what} is for {wanted} ({start}); there is only {there}")
    return Replies(seen)


# --- showing ----------------------------------------------------------------------------


def show(replies: Replies, *, with_json: bool, unknown: Sequence[str] = ()) -> None:
    """Print the answers and end the command.

    Args:
        replies: the answers.
        with_json: as one object for programs.
        unknown: ids of tasks that nobody who answered knows.
    """
    if with_json:
        click.echo(as_json({
            "replies": replies, "unanswered": replies.unanswered, "left_out": replies.left_out,
        }))  # fmt: skip
    else:
        for name, answer in replies.items():
            for line in lines_of(name, answer):
                click.echo(line)
            if name in replies.left_out:
                click.echo(f"  and {replies.left_out[name]:,} more")
    has_failed = any(isinstance(answer, dict) and "error" in answer for answer in replies.values())
    for task_id in unknown:
        click.echo(f"zmqtasks: task {task_id} is known to none of those who answered", err=True)
    end(replies.unanswered, has_failed=has_failed or bool(unknown))


def end(unanswered: dict[str, str], *, has_failed: bool = False) -> None:
    """Name those who did not answer; the exit code tells, too."""
    for name, why in unanswered.items():
        click.echo(f"zmqtasks: no answer from {name}: {why}", err=True)
    sys.exit(EXIT_FAILED if unanswered or has_failed else 0)


def lines_of(name: str, answer: Any) -> list[str]:
    """The answer of one node: short ones in one line, others below its name."""
    if isinstance(answer, dict) and len(answer) == 1 and ("ok" in answer or "error" in answer):
        ((key, value),) = answer.items()
        head, *rest = str(value).splitlines() or [""]
        return [f"{name}: {'error: ' if key == 'error' else ''}{head}", *rest]
    if isinstance(answer, dict) and set(answer) == {"ok", "draining"}:
        return [f"{name}: {answer['ok']}, draining: {answer['draining']}"]
    if not isinstance(answer, (dict, list)):
        return [f"{name}: {_short(answer)}"]
    if not answer:
        return [f"{name}: nothing"]
    return [f"{name}:", *(f"  {line}" for line in _block(answer))]


def _block(answer: dict[str, Any] | list[Any]) -> list[str]:
    if isinstance(answer, dict):
        width = max(len(str(key)) for key in answer)
        return [f"{key!s:<{width}}  {_short(value)}" for key, value in answer.items()]
    return [line_of(entry) for entry in answer]


def line_of(entry: Any) -> str:
    """One entry of a list: a task, a queue, a name."""
    if not isinstance(entry, dict):
        return str(entry)
    if "request" in entry:
        return f"{line_of(entry['request'])}  due {time_text(entry['eta'])[:19]}"
    if "id" not in entry:
        return ", ".join(str(value) for value in entry.values())
    args = entry.get("args", "")
    parts = [entry["id"], f"{entry['name']}{args}", f"queue {entry['queue']}"]
    if entry.get("retries"):
        parts.append(f"retry {entry['retries']}")
    if "time_start" in entry:
        parts.append(f"since {time_text(entry['time_start'])[:19]}")
    return "  ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_short(entry) for entry in value) or "none"
    if value in ("", None):
        return "none"
    if isinstance(value, float):
        return f"{round(value, 3):.12g}"
    return str(value)
