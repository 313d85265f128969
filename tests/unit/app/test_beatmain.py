"""The process of a beat that has the application."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from zmqtasks import App, chain, group
from zmqtasks.app import current
from zmqtasks.app.beatmain import BeatProgram, TickGateway
from zmqtasks.core.beat import BeatEntry
from zmqtasks.core.lanes import FIRST_KEY
from zmqtasks.errors import ConfigError, SubmitRejected
from zmqtasks.wire.payload import decode_arguments

TICK = bytes(range(16))


class Broken:
    """A schedule that raises, but not when it is looked at first."""

    def next_after(self, moment: datetime) -> datetime | None:
        if moment.year > 2000:
            return None
        raise RuntimeError("no moon")


@pytest.fixture
def gateway() -> Iterator[TickGateway]:
    made = TickGateway()
    current.install(made)  # type: ignore[arg-type]
    yield made
    current.install(None)


def program(gateway: TickGateway, **entries: dict[str, Any]) -> BeatProgram:
    app = App("shop")

    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="once", idempotent=False)
    def once() -> None:
        pass

    app.conf.beat_schedule = {
        name: {"schedule": 10, **entry, "task": entry["task"](app) if callable(entry["task"])
               else entry["task"]}
        for name, entry in entries.items()
    }  # fmt: skip
    return BeatProgram(app, gateway)


def test_the_node_is_told_of_entries_as_its_machine_has_them(gateway: TickGateway) -> None:
    told = program(gateway, sums={"task": "add", "args": (1,), "missed": "all"}).describe()
    assert told.name == "shop"
    assert told.entries == [BeatEntry("sums", "add", "every 10 s", "all", "allow", True)]


def test_it_says_when_an_entry_is_due(gateway: TickGateway) -> None:
    beat = program(gateway, sums={"task": "add", "args": (1,)})
    assert beat.answer(["plan", "sums", 5_000, 25_000]) == [
        "planned", "sums", 5_000, 25_000, [10_000, 20_000], False, 30_000,
    ]  # fmt: skip


def test_a_schedule_that_raises_is_an_answer(gateway: TickGateway) -> None:
    beat = program(gateway, moon={"task": "add", "args": (1,), "schedule": Broken()})
    assert beat.answer(["plan", "moon", 0, 1]) == ["unplanned", "moon", "RuntimeError: no moon"]


def test_the_call_of_a_tick_has_its_id_arguments_and_options(gateway: TickGateway) -> None:
    entry = {"task": "add", "args": (1,), "kwargs": {"y": 2},
             "options": {"queue": "low", "durability": "disk"}}  # fmt: skip
    what, task_id, calls, is_durable = program(gateway, sums=entry).answer(
        ["make", "sums", TICK, 1]
    )
    assert (what, task_id, is_durable) == ("made", TICK, True)
    assert [call.id for call in calls] == [TICK]
    assert (calls[0].kind.name, calls[0].kind.queue) == ("add", "low")
    args, kwargs = decode_arguments(calls[0].body)
    assert [*args, *kwargs.values()] == [1, 2]


def test_a_workflow_has_the_same_ids_each_time_and_the_last_one_is_the_tick_s(
    gateway: TickGateway,
) -> None:
    def flow(app: App) -> Any:
        add = app.tasks["add"]
        return chain(add.s(1), add.s(2), add.s(3))

    beat = program(gateway, flow={"task": flow})
    first = [call.id for call in beat.answer(["make", "flow", TICK, 1])[2]]
    again = beat.answer(["make", "flow", TICK, 1_001])[2]
    assert len(set(first)) == 3
    assert TICK in first
    assert [call.id for call in again] == first
    assert {call.ext[FIRST_KEY] for call in again} == {1_001}


def test_one_task_of_a_group_has_the_id_of_the_tick(gateway: TickGateway) -> None:
    def both(app: App) -> Any:
        return group(app.tasks["add"].s(1), app.tasks["add"].s(2))

    calls = program(gateway, both={"task": both}).answer(["make", "both", TICK, 1])[2]
    assert [call.id == TICK for call in calls] == [False, True]


def test_what_is_not_idempotent_is_not_started_again(gateway: TickGateway) -> None:
    beat = program(gateway, once={"task": "once"})
    assert beat.answer(["make", "once", TICK, 1])[0] == "made"
    what, task_id, text = beat.answer(["make", "once", TICK, 1_001])
    assert (what, task_id) == ("unmade", TICK)
    assert "is not idempotent, so it is not started again" in text


def test_a_task_that_is_not_here_is_called_by_its_name(gateway: TickGateway) -> None:
    calls = program(gateway, far={"task": "else.where"}).answer(["make", "far", TICK, 1])[2]
    assert calls[0].kind.name == "else.where"


def test_an_application_that_runs_its_tasks_itself_has_no_beat(gateway: TickGateway) -> None:
    app = App("shop")
    app.conf.task_always_eager = True
    with pytest.raises(ConfigError, match="the beat itself would run its tasks"):
        BeatProgram(app, gateway)


def test_calls_outside_of_ticks_are_refused(gateway: TickGateway) -> None:
    app = App("shop")

    @app.task
    def add(x: int) -> int:
        return x

    with pytest.raises(SubmitRejected, match="a beat submits ticks only"):
        add.delay(1)
