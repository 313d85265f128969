"""Tasks that others take the place of, and that add members to their chord."""

from __future__ import annotations

from typing import Any

import pytest

from zmqtasks import App, chord, group
from zmqtasks.app import childmain
from zmqtasks.app.replaced import added
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.inputs import REPLACED_KEY
from zmqtasks.core.resultlog import ADDED_KEY
from zmqtasks.limits import CARRIED_BYTES_MAX, CHILD_SUBMIT_COUNT_MAX
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.protocol import REQUEUE_STATUS, ChildOutcome, RunTask
from zmqtasks.pools.running import set_running_here
from zmqtasks.wire.carried import unpack_calls
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_error, encode_arguments

TASK_ID = bytes(range(16))


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


@pytest.fixture
def total(app: App) -> Any:
    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return total


@pytest.fixture
def become(app: App) -> Any:
    @app.task(name="become", bind=True)
    def become(self: Any, sig: Any) -> None:
        self.replace(sig)

    return become


@pytest.fixture
def join(app: App) -> Any:
    @app.task(name="join", bind=True)
    def join(self: Any, *sigs: Any) -> str:
        for sig in sigs:
            self.add_to_chord(sig)
        return "joined"

    return join


def run(app: App, name: str, *args: Any, **facts: Any) -> ChildOutcome:
    """One attempt, as a worker's process runs it."""
    task = RunTask(
        TASK_ID, 1, app.name, name, "slow", b"owner123", encode_arguments(args, {}), facts
    )
    set_running_here(task)
    try:
        program = childmain.AppProgram(app, (), PoolConfig(app.name), lambda record: None)
        return program.execute(task)
    finally:
        set_running_here(None)


def error_of(outcome: ChildOutcome) -> Exception:
    assert outcome.status == Status.FAILURE
    return decode_error(outcome.body)


# --- replace ------------------------------------------------------------------------------


def test_the_owner_is_told_what_takes_the_place_of_a_task(
    app: App, add: Any, become: Any, gateway: Any
) -> None:
    outcome = run(app, "become", add.s(1) | add.s(2), h={"a": 1})
    assert (outcome.status, outcome.error) == (REQUEUE_STATUS, "")
    assert outcome.ext is not None
    first, second = unpack_calls(outcome.ext["body"])
    assert outcome.ext["ext"] == {INPUTS_KEY: [[second.id], 0], REPLACED_KEY: 1}
    assert (second.ext or {})[INPUTS_KEY] == [[first.id], 0]
    assert {(each.ext or {})["p"] for each in (first, second)} == {TASK_ID}
    assert not gateway.calls


def test_a_group_takes_a_place_with_one_that_gathers_its_results(
    app: App, add: Any, become: Any, gateway: Any
) -> None:
    outcome = run(app, "become", group(add.s(1), add.s(2)))
    assert outcome.ext is not None
    *members, gather = unpack_calls(outcome.ext["body"])
    assert [each.kind.name for each in members] == ["add", "add"]
    assert (gather.kind.name, gather.kind.queue) == ("zmqtasks.accumulate", "slow")


def test_a_task_that_was_called_directly_cannot_be_replaced(add: Any, become: Any) -> None:
    with pytest.raises(RuntimeError, match="it was called directly"):
        become(add.s(1))


def test_what_cannot_take_a_place_is_refused(app: App, add: Any, become: Any, gateway: Any) -> None:
    many = group([add.s(1)] * CHILD_SUBMIT_COUNT_MAX)
    assert "can go together" in str(error_of(run(app, "become", many)))
    assert "at_most_once" in str(error_of(run(app, "become", add.s(1), o=b"node-123")))


def test_eagerly_what_takes_the_place_runs_at_once(add: Any, total: Any, become: Any) -> None:
    assert become.apply((add.s(1, 2) | add.s(4),)).get() == 7
    assert become.apply((group(add.s(1), add.s(2)),)).get() == [1, 2]
    assert become.apply((become.s(add.s(1, 2)),)).get() == 3
    failed = become.apply((add.s("one", 2),))
    with pytest.raises(TypeError):
        failed.get()


# --- add_to_chord -------------------------------------------------------------------------


def test_the_owner_is_told_which_calls_join_the_chord(
    app: App, add: Any, join: Any, gateway: Any
) -> None:
    outcome = run(app, "join", add.s(1), add.s(2) | add.s(3), g=b"group-0123456789", ch=1)
    assert outcome.status == Status.SUCCESS
    assert outcome.ext is not None
    calls = unpack_calls(outcome.ext[ADDED_KEY])
    assert [each.is_for_inputs for each in calls] == [True, False, True]
    assert [(each.ext or {}).get("ch") for each in calls] == [1, None, 1]
    assert {(each.ext or {}).get("g") for each in calls} == {b"group-0123456789", None}
    assert not added


def test_what_cannot_join_a_chord_is_refused(app: App, add: Any, join: Any, gateway: Any) -> None:
    assert "no member of a chord" in str(error_of(run(app, "join", add.s(1), g=b"x")))
    assert "add each" in str(error_of(run(app, "join", group(add.s(1)), ch=1)))
    large = add.s("x" * CARRIED_BYTES_MAX)
    assert "can travel" in str(error_of(run(app, "join", large, ch=1)))
    assert not added


def test_eagerly_what_joins_a_chord_runs_with_it(add: Any, total: Any, join: Any) -> None:
    @join.app.task(name="gather")
    def gather(values: list[Any]) -> list[Any]:
        return values

    made = chord([join.s(add.s(1, 2), join.s(add.s(5))), add.s(1)], gather.s())
    assert made.apply().get() == ["joined", 1, 3, "joined", 5]
