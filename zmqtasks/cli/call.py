"""``zmqtasks call``: run a task by its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import click

from zmqtasks.app.app import App
from zmqtasks.app.options import check_call_options
from zmqtasks.app.result import AsyncResult
from zmqtasks.cli.calloptions import call_options, from_flags, parse_argument
from zmqtasks.cli.errors import EXIT_OPEN
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, empty_mesh, session, silent_text
from zmqtasks.cli.showing import as_json, show_outcome
from zmqtasks.core.diagnosis import is_internal
from zmqtasks.core.links import DRAINING
from zmqtasks.errors import NoWorkers, TimeoutError
from zmqtasks.node.client import Client
from zmqtasks.node.survey import SeenNode
from zmqtasks.wire.messages import Hello

_NAMES_MAX = 12
#: Seconds that a broker has to say whom it reaches.
_ANSWER_S = 2.0


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
@call_options
@click.option("--no-wait", is_flag=True, help="Print the id and leave the task to the mesh.")
@click.option("--json", "with_json", is_flag=True, help="Print id, state and result as JSON.")
@setting_options([*CLIENT_KEYS, "durability"])
def call(
    name: str, args: tuple[str, ...], kwargs: str, *, queue: str | None, app_name: str | None,
    timeout: float | None, no_wait: bool, with_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Run task NAME with ARGS on some worker and print its result.

    Each argument is read as JSON where it is JSON, else taken as text: 2 is a number,
    '"2"' and two are texts. The task is not known here: of its options its limits and retries
    apply, and what else the call needs (tags, resources, priority, expiry) is to be said. Exit
    code 1: the task failed; 3: no result in time.
    """
    if no_wait and timeout is not None:
        raise click.UsageError("--no-wait waits for no result: leave --timeout out")
    arguments = [parse_argument(text) for text in args]
    keywords = parse_keywords(kwargs)
    options = from_flags(flags)
    check_call_options(options, "zmqtasks call")
    with session(flags, sees_to_tasks=True) as client:
        queue = queue or client.settings.default_queue
        app = App(find_app(client, name, queue, app_name))
        durability: Any = client.settings.durability  # with the flags, which App knows not
        handle = app.send_task(
            name, arguments, keywords, queue=queue, durability=durability, **options
        )
        if no_wait:
            click.echo(
                as_json({"id": handle.id, "state": handle.state}) if with_json else handle.id
            )
            code = EXIT_OPEN if client.end("the command ended") else 0
        else:
            code = show_result(handle, timeout, with_json=with_json)
    sys.exit(code)


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


class Runner(NamedTuple):
    """Workers that are alike."""

    queues: Sequence[str]
    #: Pairs of application and task.
    tasks: Sequence[tuple[str, str]]
    #: Name of the broker that reaches them, "" if we do.
    via: str


def find_app(client: Client, name: str, queue: str, app_name: str | None) -> str:
    """The application whose task of this name a worker can run that we, or a broker, reach.

    Raises:
        NoWorkers: there is none, or more than one; says what there is.
    """

    def found(peers: Sequence[Hello]) -> bool:
        return bool(apps_of(runners_of(peers), name, queue, app_name))

    # Without an application named, another one's node may be the next that answers.
    peers = client.survey.settle(FIND_S, found, all_known=app_name is None)
    runners = runners_of(peers)
    apps = apps_of(runners, name, queue, app_name)
    if not apps and any("broker" in peer.roles for peer in peers):
        runners += runners_behind(client.survey.inspect("workers", (), _ANSWER_S))
        apps = apps_of(runners, name, queue, app_name)
        if apps and client.settings.route_of(queue) == "direct":
            raise NoWorkers(why_not_direct(runners, name, queue))
    if len(apps) == 1:
        return apps[0]
    if apps:
        names = ", ".join(f"'{app}'" for app in apps)
        raise NoWorkers(f"task '{name}' is in apps {names}: say which with --app-name")
    if not runners:
        raise NoWorkers(f"nobody can run '{name}': {nobody_text(client, peers)}")
    raise NoWorkers(why_not(runners, name, queue, app_name))


def runners_of(peers: Sequence[Hello]) -> list[Runner]:
    """The workers among our peers."""
    return [
        Runner(peer.queues, [(entry.app, entry.name) for entry in peer.catalog], "")
        for peer in peers
        if peer.slots and DRAINING not in peer.ext
    ]


def runners_behind(seen: Sequence[SeenNode]) -> list[Runner]:
    """The workers that brokers told of."""
    return [
        Runner(worker["queues"], [(app, task) for app, task in worker["tasks"]], node.name)
        for node in seen
        if "broker" in node.roles
        for worker in (node.report or {}).get("workers", ())
    ]


def apps_of(runners: Sequence[Runner], name: str, queue: str, app_name: str | None) -> list[str]:
    """Applications with a worker that runs this task from this queue."""
    return sorted({
        app
        for runner in runners if queue in runner.queues
        for app, task in runner.tasks if task == name and app_name in (None, app)
    })  # fmt: skip


def nobody_text(client: Client, peers: Sequence[Hello]) -> str:
    """What to say when there is no worker."""
    if not peers:
        return empty_mesh(client.settings, client)
    there = ", ".join(_with_roles(peer) for peer in peers[:_NAMES_MAX])
    more = f" and {len(peers) - _NAMES_MAX} more" if len(peers) > _NAMES_MAX else ""
    silent = client.survey.unreached()
    if silent:
        return f"of mesh '{client.settings.mesh}' only {there}{more} answers; {silent_text(silent)}"
    return (
        f"mesh '{client.settings.mesh}' has no workers, only {there}{more}. Start one with: "
        "zmqtasks node --app MODULE"
    )


def _with_roles(peer: Hello) -> str:
    return (
        f"{peer.name} ({', '.join([*peer.roles, *([DRAINING] if DRAINING in peer.ext else [])])})"
    )


def why_not_direct(runners: Sequence[Runner], name: str, queue: str) -> str:
    """Only a broker can give it to a worker, and it may not go there."""
    brokers = sorted({runner.via for runner in runners if runner.via})
    return (
        f"workers that know task '{name}' are reached by {_listed(brokers)} only, and queue "
        f"'{queue}' has the route 'direct', so its tasks go to no broker; give it another route "
        "(ZMQTASKS_QUEUE_ROUTES) or choose another queue with --queue"
    )


def why_not(runners: Sequence[Runner], name: str, queue: str, app_name: str | None) -> str:
    """Why none of these workers can run the task, and what they offer instead."""
    knowing = [(runner, app) for runner in runners for app, task in runner.tasks if task == name]
    if not knowing:
        known = {task for runner in runners for _, task in runner.tasks}
        names = sorted(name for name in known if not is_internal(name))
        near = get_close_matches(name, names, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"no worker knows task '{name}'; they know {_listed(names)}{hint}"
    apps = sorted({app for _, app in knowing})
    if app_name is not None and app_name not in apps:
        return f"task '{name}' is not in app '{app_name}', but in {_listed(apps)}"
    queues = sorted({queue for runner, _ in knowing for queue in runner.queues})
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
