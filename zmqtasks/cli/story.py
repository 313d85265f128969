"""``zmqtasks story``: where a task is, and what happened to it."""

from __future__ import annotations

import sys
from typing import Any

import click

from zmqtasks.app.story import Story
from zmqtasks.cli.errors import EXIT_FAILED
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, empty_mesh, left_here, session
from zmqtasks.cli.showing import as_json
from zmqtasks.errors import NoWorkers
from zmqtasks.ids import parse_task_id


@click.command()
@click.argument("id")
@click.option("--json", "with_json", is_flag=True, help="Print all that is known as JSON.")
@setting_options(CLIENT_KEYS)
def story(id: str, *, with_json: bool, **flags: Any) -> None:
    """Show where task ID is: its owner, its worker, why it waits, what happened to it.

    Times are those of this computer's clock and zone. Exit code 1: nobody knows the task.
    """
    with session(flags) as client:
        client.survey.settle(FIND_S)
        view = client.story(parse_task_id(id), FIND_S)
        found = Story(view)
        if not found.is_known and not client.survey.settle(0):
            raise NoWorkers(f"task {found.id}: {empty_mesh(client.settings, client)}")
        left = "" if found.is_known else left_here(client.settings)[1]
    if with_json:
        click.echo(as_json(found.as_dict()))
    else:
        click.echo(str(found), err=not found.is_known)
        if left:
            click.echo(left, err=True)
    sys.exit(0 if found.is_known else EXIT_FAILED)
