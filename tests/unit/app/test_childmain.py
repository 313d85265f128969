"""What a child makes of the attempts that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.childmain import AppProgram
from zmqtasks.app.outcomes import error_of
from zmqtasks.errors import WorkerLostError
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.protocol import ChildOutcome, LogRecord, RunTask
from zmqtasks.pools.running import set_running
from zmqtasks.wire.messages import Outcome, Status
from zmqtasks.wire.payload import decode_value, encode_arguments

Execute = Callable[..., ChildOutcome]


@pytest.fixture
def execute(app: App, gateway: InlineGateway) -> Iterator[Execute]:
    """Runs an attempt of one of the tasks below, as a child does."""

    @app.task(name="once", idempotent=False)
    def once(x: int) -> int:
        return x + 1

    @app.task(name="once.later", idempotent=False)
    async def later(x: int) -> int:
        return x + 1

    @app.task(name="again")
    def again(x: int) -> int:
        return x + 1

    lines: list[LogRecord] = []
    program = AppProgram(app, (), PoolConfig("tasks"), lines.append)

    def execute(name: str, attempt: int = 1, **facts: Any) -> ChildOutcome:
        body = encode_arguments((1,), {})
        task = RunTask(b"i" * 16, attempt, "shop", name, "default", b"o" * 8, body, None, **facts)
        set_running(task)
        return program.execute(task)

    yield execute
    set_running(None)
    program._forget_loop()


@pytest.mark.parametrize("name", ["once", "once.later", "again"])
def test_first_attempt_runs(execute: Execute, name: str) -> None:
    outcome = execute(name)
    assert (outcome.status, decode_value(outcome.body)) == (Status.SUCCESS, 2)


def test_idempotent_task_runs_again(execute: Execute) -> None:
    assert execute("again", attempt=2).status == Status.SUCCESS


@pytest.mark.parametrize("name", ["once", "once.later"])
def test_task_that_must_not_run_twice_is_not_started_after_an_attempt_that_may_have_run(
    execute: Execute, name: str
) -> None:
    outcome = execute(name, attempt=2)
    assert (outcome.status, outcome.body) == (Status.WORKER_LOST, b"")
    told = Outcome(outcome.id, 2, outcome.status, 1, 0, 0, 0, 0, b"", {"e": outcome.error})
    error = error_of(told)
    assert type(error) is WorkerLostError
    assert f"attempt 1 was lost, and {name} is not idempotent" in str(error)


@pytest.mark.parametrize("name", ["once", "once.later"])
def test_owner_that_knows_the_task_may_send_a_later_attempt_that_is_the_first_to_run(
    execute: Execute, name: str
) -> None:
    assert execute(name, attempt=2, is_guarded=True).status == Status.SUCCESS
