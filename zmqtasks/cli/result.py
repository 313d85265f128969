"""``zmqtasks result``: look at a task that was submitted elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import click

from zmqtasks.app import states
from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.cli.call import show_open, show_result
from zmqtasks.cli.options import CLIENT_KEYS, setting_options
from zmqtasks.cli.session import FIND_S, empty_mesh, session
from zmqtasks.cli.showing import show_outcome
from zmqtasks.errors import NoWorkers
from zmqtasks.ids import parse_task_id
from zmqtasks.node.tickets import describe_state
from zmqtasks.wire.messages import TaskState


@click.command()
@click.argument("id")
@click.option(
    "--wait", type=click.FloatRange(min=0), metavar="S", help="Wait up to S seconds for its end."
)
@click.option("--json", "with_json", is_flag=True, help="Print id, state and result as JSON.")
@setting_options(CLIENT_KEYS)
def result(id: str, *, wait: float | None, with_json: bool, **flags: Any) -> None:
    """Print the result of task ID.

    Exit code 1: the task failed, or nobody knows it; 3: it has not finished.
    """
    with session(flags) as client:
        handle: AsyncResult[Any] = AsyncResult(id, App("zmqtasks"))
        record = client.states([parse_task_id(id)], FIND_S)[parse_task_id(id)]
        if record.state == TaskState.UNKNOWN and not client.survey.settle(0):
            raise NoWorkers(f"task {handle.id}: {empty_mesh(client.settings, client)}")
        if record.state == TaskState.SETTLED or handle.state == states.UNKNOWN:
            if record.outcome is not None:
                handle.settled(record.id, record.outcome)
            handle.get(timeout=FIND_S, propagate=False)
            code = show_outcome(handle, with_json=with_json)
        elif wait:
            code = show_result(handle, wait, with_json=with_json)
        else:
            text = f"{states.state_of(record)}: {describe_state(record)}"
            code = show_open(handle, text, with_json=with_json)
    sys.exit(code)
