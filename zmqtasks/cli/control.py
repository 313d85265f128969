"""``zmqtasks control``: tell nodes what to do, end tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import click

from zmqtasks.app.control import signal_number
from zmqtasks.cli.inspect import Commands, ask, destinations, end, show, with_nodes
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import empty_mesh, session
from zmqtasks.cli.showing import as_json
from zmqtasks.errors import ConfigError, NoWorkers
from zmqtasks.node.client import Client
from zmqtasks.node.commands import CONTROL, Command, Param
from zmqtasks.node.revoking import Said, revoke_by_headers, revoke_tasks
from zmqtasks.node.survey import Request

#: Seconds that owners have to answer.
_ANSWER_S = 2.0
_IN_WORDS = {
    "revoked": "will not run, or was ended",
    "running": "runs: it was told, and is ended with --terminate only",
    "settled": "had ended",
    "given": "was given to a node that is not in sight",
    "unknown": "is unknown to all nodes in sight",
    "unanswered": "is unknown to all nodes that answered",
}


def _make(command: Command) -> click.Command:
    @with_nodes
    def run(*, destination: tuple[str, ...], timeout: float, with_json: bool, **given: Any) -> None:
        args = {param.name: given.pop(param.name) for param in command.params}
        request = Request(
            command.name, (), {key: value for key, value in args.items() if value is not None},
            is_order=True, roles=command.roles, destination=destinations(destination),
        )  # fmt: skip
        with session(given) as client:
            replies = ask(client, request, timeout)
        show(replies, with_json=with_json)

    for param in reversed(command.params):
        run = _with_param(run, param)
    positions = (param for param in command.params if not param.flag)
    about = [command.about, *(f"{param.name.upper()}: {param.about}" for param in positions)]
    return click.command(command.name, help="\n\n".join(about))(run)


def _with_param(run: Callable[..., None], param: Param) -> Callable[..., None]:
    if param.flag:
        flag, metavar = param.flag.split()
        return click.option(
            flag, param.name, type=param.type, metavar=metavar, help=param.about
        )(run)  # fmt: skip
    name = param.name.upper()
    metavar = name if param.is_required else f"[{name}]"
    return click.argument(
        param.name, type=param.type, required=param.is_required, metavar=metavar
    )(run)  # fmt: skip


control = Commands(
    "control",
    "Tell the nodes of the mesh what to do, and end tasks. Exit code 1: some did not answer, "
    "or could not do it; 2: there is nobody to tell.",
    CONTROL, _make,
)  # fmt: skip


# --- ending tasks -----------------------------------------------------------------------


def _with_ending(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        setting_options(CLIENT_KEYS),  # added first, shown last
        click.option("--json", "with_json", is_flag=True, help="Print it as JSON."),
        click.option(
            "--signal", default="SIGTERM", show_default=True,
            help="With which a running one is ended; by force soon after.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@control.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--terminate", is_flag=True, help="End those that run: exactly these tasks.")
@_with_ending
def revoke(
    ids: tuple[str, ...], *, terminate: bool, signal: str, with_json: bool, **flags: Any
) -> None:
    """End tasks that have not started; those that run learn of it and go on."""
    args = {"terminate": terminate, "signal": signal_number(signal)}
    _revoke(
        lambda client: revoke_tasks(client.command, ids, args, _ANSWER_S), flags,
        with_json=with_json,
    )  # fmt: skip


@control.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_with_ending
def terminate(ids: tuple[str, ...], *, signal: str, with_json: bool, **flags: Any) -> None:
    """End tasks, also those that run: exactly these."""
    args = {"terminate": True, "signal": signal_number(signal)}
    _revoke(
        lambda client: revoke_tasks(client.command, ids, args, _ANSWER_S), flags,
        with_json=with_json,
    )  # fmt: skip


@control.command("revoke_by_stamped_headers")
@click.argument("headers", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--terminate", is_flag=True, help="End those that run: exactly these tasks.")
@_with_ending
def revoke_by_stamped_headers(
    headers: tuple[str, ...], *, terminate: bool, signal: str, with_json: bool, **flags: Any
) -> None:
    """End all tasks that have one of these headers, as revoke does."""
    wanted: dict[str, list[str]] = {}
    for text in headers:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is no header; write NAME=VALUE")
        wanted.setdefault(name, []).append(value)
    args = {"headers": wanted, "terminate": terminate, "signal": signal_number(signal)}
    _revoke(
        lambda client: revoke_by_headers(client.command, args, _ANSWER_S), flags,
        with_json=with_json,
    )  # fmt: skip


def _revoke(carry_out: Callable[[Client], Said], flags: dict[str, Any], *, with_json: bool) -> None:
    with session(flags) as client:
        said = carry_out(client)
        if not client.find(Request("revoke"), 0) and not said.unanswered:
            raise NoWorkers(empty_mesh(client.settings, client))
    if with_json:
        told = {"tasks": said.states, "unanswered": said.unanswered, "left_out": said.left_out}
        click.echo(as_json(told))
    else:
        for task_id, state in said.states.items():
            click.echo(f"{task_id}  {state:<10}  {_IN_WORDS[state]}")
        if said.left_out:
            click.echo(f"and {said.left_out:,} more, which were revoked too")
        if not said.states:
            click.echo("no task has one of these headers")
    counts = Counter(said.states.values())
    has_failed = bool(counts["unknown"] or counts["given"] or counts["unanswered"])
    end(said.unanswered, has_failed=has_failed)
