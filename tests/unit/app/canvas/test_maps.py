"""One task that calls another one many times: map, starmap and chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from tests.unit.app.worker import Worker
from zmqtasks import App, chunks, group, signature, xmap, xstarmap
from zmqtasks.errors import ConfigError
from zmqtasks.wire.payload import decode_value


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return 10 * x + y

    return add


def run(app: App, call: Any) -> Any:
    """What a worker makes of it."""
    with Worker(app) as worker:
        outcome = worker.run(call["task"], **json.loads(json.dumps(call["kwargs"])))
    return decode_value(outcome.body)


def test_a_worker_calls_the_task_with_each_item(app: App, add: Any) -> None:
    assert run(app, add.map(range(3))) == [0, 10, 20]
    assert run(app, add.starmap([(1, 2), (3,)])) == [12, 30]
    assert xmap(add, [1])() == [10]
    assert xstarmap(add.s(), [(1, 1)])() == [11]


def test_coroutine_functions_are_awaited(app: App) -> None:
    @app.task(name="later")
    async def later(x: int) -> int:
        return x + 1

    assert run(app, later.map([1, 2])) == [2, 3]
    assert run(app, later.starmap([(1,)])) == [2]


def test_the_call_goes_where_calls_of_the_task_go(app: App, gateway: InlineGateway) -> None:
    @app.task(name="train", queue="gpu", tags=["gpu"], priority=4, idempotent=False, time_limit=9)
    def train(x: int) -> int:
        return x

    gateway.hold = True
    train.map([1]).delay()
    train.map([1]).apply_async(queue="other")
    train.chunks([(1,)], 1)()
    kinds = [call.kind for call in gateway.calls]
    assert [(kind.name, kind.queue) for kind in kinds] == [
        ("zmqtasks.map", "gpu"),
        ("zmqtasks.map", "other"),
        ("zmqtasks.starmap", "gpu"),
    ]
    assert all({"req", "idem"} <= dict(kind.ext).keys() for kind in kinds)
    assert all(
        call.ext and (call.ext["pri"], call.ext["tl"]) == (4, [0, 9000]) for call in gateway.calls
    )


def test_chunks_are_a_group_of_tasks_with_so_many_items(app: App, add: Any) -> None:
    made = add.chunks(zip(range(5), range(5), strict=True), 2)
    parts = made.group()
    assert isinstance(parts, group)
    assert [part.kwargs["it"] for part in parts] == [[(0, 0), (1, 1)], [(2, 2), (3, 3)], [(4, 4)]]
    assert [run(app, part) for part in parts] == [[0, 11], [22, 33], [44]]
    assert [each.options["countdown"] for each in parts.skew(start=1)] == [1, 2, 3]


def test_chunks_are_submitted_by_all_ways(app: App, add: Any, gateway: InlineGateway) -> None:
    gateway.hold = True
    items = [(i,) for i in range(4)]
    assert len(add.chunks(items, 2)()) == len(add.chunks(items, 2).delay()) == 2
    assert len(gateway.calls) == 4
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ConfigError, match="n is a number of items"):
            add.chunks(items, wrong)


def test_they_are_the_same_after_their_travels(app: App, add: Any) -> None:
    for made in (add.map([1, 2]), add.starmap([[1, 2]]), add.chunks([[1, 2]], 1)):
        other = signature(json.loads(json.dumps(made)))
        assert type(other) is type(made)
        assert other == made
        assert made.immutable
    assert isinstance(add.chunks([], 1), chunks)
    assert repr(add.map([1])) == "[add(x) for x in [1]]"
    assert repr(add.starmap([(1,)])) == "[add(*x) for x in [(1,)]]"
    assert repr(add.chunks(iter(()), 3)) == "add.chunks(<generator>, 3)"


def test_a_task_that_is_not_there_is_told(app: App) -> None:
    with pytest.raises(ConfigError, match="has no such task"):
        xmap(app.signature("far.away"), [1])()


def test_every_app_has_the_tasks(app: App) -> None:
    assert {"zmqtasks.map", "zmqtasks.starmap"} <= {entry.name for entry in app.catalog()}
