"""``zmqtasks call``: run a task by its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.cli.errors import EXIT_OPEN
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, empty_mesh, session
from zmqtasks.cli.showing import as_json, show_outcome
from zmqtasks.errors import NoWorkers, TimeoutError
from zmqtasks.node.client import Client
from zmqtasks.wire.messages import Hello

_NAMES_MAX = 12
_LOOK_EVERY_S = 0.01


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--kwargs", default="{}", metavar="JSON", help="Keyword arguments, a JSON object.")
@click.option("--queue", help="Queue to send it to, instead of the default one.")
@click.option("--app-name", help="The application whose task is meant, where several have it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait for the result; for ever without.",
)
@click.option("--idempotency-key", metavar="TEXT",
              help="Names what the call is about: with the same key and arguments it is the same "
              "task, however often it is called.")  # fmt: skip
@click.option("--no-wait", is_flag=True, help="Print the id and leave the task to the mesh.")
@click.option("--json", "with_json", is_flag=True, help="Print id, state and result as JSON.")
@setting_options([*CLIENT_KEYS, "durability"])
def call(
    name: str, args: tuple[str, ...], kwargs: str, *, queue: str | None, app_name: str | None,
    timeout: float | None, idempotency_key: str | None, no_wait: bool, with_json: bool,
    **flags: Any,
) -> None:  # fmt: skip
    """Run task NAME with ARGS on some worker and print its result.

    Each argument is read as JSON where it is JSON, else taken as text: 2 is a number,
    '"2"' and two are texts. Exit code 1: the task failed; 3: no result in time.
    """
    if no_wait and timeout is not None:
        raise click.UsageError("--no-wait waits for no result: leave --timeout out")
    arguments = [parse_argument(text) for text in args]
    keywords = parse_keywords(kwargs)
    with session(flags, sees_to_tasks=True) as client:
        queue = queue or client.settings.default_queue
        app = App(find_app(client, name, queue, app_name))
        durability: Any = client.settings.durability  # with the flags, which App knows not
        handle = app.send_task(
            name, arguments, keywords, queue=queue, durability=durability,
            idempotency_key=idempotency_key,
        )  # fmt: skip
        if no_wait:
            click.echo(
                as_json({"id": handle.id, "state": handle.state}) if with_json else handle.id
            )
            code = EXIT_OPEN if client.end("the command ended") else 0
        else:
            code = show_result(handle, timeout, with_json=with_json)
    sys.exit(code)


def parse_argument(text: str) -> Any:
    """The value of JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_keywords(text: str) -> dict[str, Any]:
    """Keyword arguments from a JSON object."""
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is not JSON: {exc}", param_hint="--kwargs") from None
    if not isinstance(found, dict):
        raise click.BadParameter(
            f"{text!r} is no JSON object; write for example '{{\"size\": 3}}'",
            param_hint="--kwargs",
        )
    return found


# --- who can run it ---------------------------------------------------------------------


def find_app(client: Client, name: str, queue: str, app_name: str | None) -> str:
    """The application whose task of this name a worker in sight can run.

    Raises:
        NoWorkers: there is none, or more than one; says what there is.
    """

    def found(peers: Sequence[Hello]) -> bool:
        return bool(apps_of(peers, name, queue, app_name))

    peers = client.survey.settle(FIND_S, found)
    apps = apps_of(peers, name, queue, app_name)
    if len(apps) == 1:
        return apps[0]
    if apps:
        names = ", ".join(f"'{app}'" for app in apps)
        raise NoWorkers(f"task '{name}' is in apps {names}: say which with --app-name")
    raise NoWorkers(why_not(client, peers, name, queue, app_name))


def apps_of(peers: Sequence[Hello], name: str, queue: str, app_name: str | None) -> list[str]:
    """Applications with a worker that runs this task from this queue."""
    return sorted({
        entry.app
        for peer in peers if queue in peer.queues
        for entry in peer.catalog if entry.name == name and app_name in (None, entry.app)
    })  # fmt: skip


def why_not(
    client: Client, peers: Sequence[Hello], name: str, queue: str, app_name: str | None
) -> str:
    """Why no worker in sight can run the task, and what they offer instead."""
    workers = [peer for peer in peers if peer.slots]
    if not workers:
        return f"nobody can run '{name}': {empty_mesh(client.settings, client)}"
    knowing = [
        (worker, entry)
        for worker in workers for entry in worker.catalog
        if entry.name == name
    ]  # fmt: skip
    if not knowing:
        names = sorted({entry.name for worker in workers for entry in worker.catalog})
        near = get_close_matches(name, names, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"no worker knows task '{name}'; they know {_listed(names)}{hint}"
    apps = sorted({entry.app for _, entry in knowing})
    if app_name is not None and app_name not in apps:
        return f"task '{name}' is not in app '{app_name}', but in {_listed(apps)}"
    queues = sorted({queue for worker, _ in knowing for queue in worker.queues})
    return (
        f"no worker that knows task '{name}' serves queue '{queue}'; they serve "
        f"{_listed(queues)}: choose one with --queue"
    )


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(f"'{name}'" for name in names[:_NAMES_MAX])
    more = len(names) - _NAMES_MAX
    return f"{text} and {more} more" if more > 0 else text or "none"


# --- what comes of it -------------------------------------------------------------------


def show_result(handle: AsyncResult[Any], timeout: float | None, *, with_json: bool) -> int:
    """Wait for the end and print it; returns the exit code."""
    try:
        handle.get(timeout=timeout, propagate=False)
    except TimeoutError as exc:
        return show_open(handle, str(exc), with_json=with_json)
    return show_outcome(handle, with_json=with_json)


def show_open(handle: AsyncResult[Any], text: str, *, with_json: bool) -> int:
    """Say that it has not finished; returns the exit code."""
    if with_json:
        click.echo(as_json({"id": handle.id, "state": handle.state, "why": text}))
    else:
        click.echo(f"zmqtasks: {text}", err=True)
    return EXIT_OPEN
