"""Facts of tasks: from their outcomes, and from nodes that know them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.looking import Look
from zmqtasks.app.result import AsyncResult
from zmqtasks.core.resultlog import ARGUMENTS_KEY, EXTENDED_KEY
from zmqtasks.errors import TaskUnknown
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.wire.messages import Outcome, StateRecord, Status, TaskState
from zmqtasks.wire.payload import encode_arguments, encode_error, encode_value

ID = b"i" * 16


def ended(status: int, body: bytes = b"", started_ms: int = 0, **ext: Any) -> Outcome:
    return Outcome(ID, 1, status, 1, 0, started_ms, 1_500_000, len(body), body, ext)


def test_an_outcome_tells_all_that_the_worker_said() -> None:
    arguments = encode_arguments((1, "a"), {"key": [2]})
    outcome = ended(
        Status.SUCCESS,
        encode_value(7),
        1_700_000_000_000,
        w="w1",
        n=2,
        **{ARGUMENTS_KEY: arguments},
    )
    record = StateRecord(ID, TaskState.SETTLED, {"name": "tasks.add", "queue": "mail"}, outcome)
    assert Look(outcome, record).as_dict() == {
        "state": "SUCCESS",
        "result": 7,
        "traceback": None,
        "name": "tasks.add",
        "queue": "mail",
        "worker": "w1",
        "retries": 2,
        "date_done": datetime(2023, 11, 14, 22, 13, 21, 500_000, UTC),
        "args": [1, "a"],
        "kwargs": {"key": [2]},
    }


def test_what_nobody_tells_is_none() -> None:
    nothing = dict.fromkeys(
        ("result", "traceback", "name", "queue", "worker", "retries", "date_done", "args", "kwargs")
    )
    assert Look(None, None).as_dict() == {"state": "PENDING", **nothing}
    unknown = StateRecord(ID, TaskState.UNKNOWN, {}, None)
    assert Look(None, unknown).as_dict() == {"state": "UNKNOWN", **nothing}
    assert Look(unknown_outcome(ID), None).retries is None


def test_one_that_ended_without_having_run_has_no_date() -> None:
    look = Look(ended(Status.EXPIRED), None)
    assert (look.state, look.date_done, look.retries) == ("REVOKED", None, 0)


def test_an_error_is_the_result_and_info_of_a_failure() -> None:
    look = Look(ended(Status.FAILURE, encode_error(ValueError("no"), "Traceback …")), None)
    assert (type(look.result), type(look.info), look.traceback) == (
        ValueError, ValueError, "Traceback …",
    )  # fmt: skip


def test_a_running_task_is_in_the_state_that_it_gave_itself() -> None:
    info = {"state": "BAKING", "meta": encode_value({"done": 3}), "worker": "w1", "retries": 1}
    look = Look(None, StateRecord(ID, TaskState.STARTED, info, None))
    assert (look.state, look.info, look.worker, look.retries) == ("BAKING", {"done": 3}, "w1", 1)


def test_facts_that_the_outcome_need_not_tell_are_asked_for(
    app: App, gateway: InlineGateway
) -> None:
    result = app.task(name="one")(lambda: 1).delay()
    assert result.is_settled
    assert (result.name, result.queue) == (None, None)
    gateway.info[gateway.calls[0].id] = {"name": "one", "queue": "mail", "worker": "w1"}
    assert (result.name, result.queue, result.worker) == ("one", "mail", "w1")


def test_all_looks_have_twins_for_coroutines(app: App, gateway: InlineGateway) -> None:
    async def main() -> None:
        result = await app.task(name="one")(lambda: 1).adelay()
        assert await result.astate() == "SUCCESS"
        assert (await result.alook()).result == 1
        assert (await result.aready(), await result.asuccessful()) == (True, True)
        assert not await result.afailed()
        assert await result.amaybe_throw() == 1
        await result.aforget()
        assert gateway.forgotten

    asyncio.run(main())


@pytest.mark.parametrize("extended", [False, True])
def test_calls_ask_for_their_arguments_in_outcomes_where_the_setting_says_so(
    gateway: InlineGateway, extended: bool
) -> None:
    app = App("extended", result_extended=extended)
    task = app.task(name="echo")(lambda x: x)
    task.delay(1)
    app.send_task("echo", (1,))
    app.send_task("elsewhere", (1,))
    for call in gateway.calls:
        assert ((EXTENDED_KEY, 1) in call.kind.ext) is extended
    result = task.apply((1,))
    assert (result.args, result.kwargs) == (([1], {}) if extended else (None, None))
    assert (result.name, result.queue) == ("echo", "default")


def test_maybe_throw_raises_what_has_failed_or_is_unknown_and_says_nothing_of_the_rest(
    app: App, gateway: InlineGateway
) -> None:
    told: list[Any] = []
    failed: Any = app.task(name="fail")(lambda: 1 / 0).delay()
    with pytest.raises(ZeroDivisionError):
        failed.maybe_throw()
    assert type(failed.maybe_reraise(propagate=False)) is ZeroDivisionError
    unknown: AsyncResult[Any] = AsyncResult("0b9d7a1e-0000-0000-0000-000000000001", app)
    with pytest.raises(TaskUnknown):
        unknown.maybe_throw()
    gateway.hold = True
    waits: Any = app.task(name="one")(lambda: 1).delay()
    assert waits.maybe_throw(callback=lambda *pair: told.append(pair)) is None
    gateway.release()
    assert waits.maybe_throw(callback=lambda *pair: told.append(pair)) == 1
    assert told == [(waits.id, 1)]
