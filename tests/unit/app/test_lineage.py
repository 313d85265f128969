"""Parents, children, and results as plain values."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import GroupResult, chord, group, result_from_tuple
from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.core.resultlog import CHILDREN_KEY
from zmqtasks.errors import TimeoutError
from zmqtasks.ids import parse_task_id
from zmqtasks.wire.messages import Outcome, Status
from zmqtasks.wire.payload import encode_value


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


def test_a_chain_leads_back_and_forth(add: Any) -> None:
    last = (add.s(1) | add.s(2) | add.s(3)).delay()
    middle, first = last.parent, last.parent.parent
    assert (first.get(), middle.get(), last.get()) == (1, 3, 6)
    assert first.parent is None
    assert (first.children, middle.children, last.children) == ([middle], [last], [])
    assert last.as_list() == [last.id, middle.id, first.id]
    assert [value for _, value in first.collect(timeout=5)] == [1, 3, 6]
    assert first.get_leaf(timeout=5) == 6
    assert list(middle.iterdeps()) == [(None, middle), (middle, last)]


def test_a_chord_comes_after_its_header_and_a_group_after_what_is_before_it(
    add: Any, total: Any
) -> None:
    body = chord([add.s(i) for i in range(3)], total.s()).delay()
    assert isinstance(body.parent, GroupResult)
    assert body.parent.get() == [0, 1, 2]
    assert body.parent.parent is None
    assert body.parent[0].children == [body]
    result = (add.s(1) | group(add.s(10), add.s(20) | add.s(5))).delay()
    assert result.parent.get() == result[0].parent.get() == 1
    assert result.parent == result[1].parent.parent
    assert {each.id for each in result.parent.children} == {result[0].id, result[1].parent.id}
    assert [value for _, value in result.collect()] == [[11, 26], 11, 26]


def test_collecting_works_in_coroutines_too(add: Any) -> None:
    async def main() -> None:
        last = await (add.s(1) | add.s(2)).adelay()
        assert [value async for _, value in last.parent.collect(timeout=5)] == [1, 3]
        assert await last.parent.aget_leaf(timeout=5) == 3

    asyncio.run(main())


def test_collecting_gives_up_in_time_and_gives_or_raises_errors(
    app: App, add: Any, gateway: InlineGateway
) -> None:
    gateway.hold = True
    with pytest.raises(TimeoutError):
        list(add.delay(1).collect(timeout=0.001))
    gateway.hold = False
    failed = app.task(name="fail")(lambda: 1 / 0).delay()
    with pytest.raises(ZeroDivisionError):
        list(failed.collect())
    assert [type(value) for _, value in failed.collect(propagate=False)] == [ZeroDivisionError]


def test_children_are_what_the_outcome_names(app: App, gateway: InlineGateway) -> None:
    parent: AsyncResult[str] = AsyncResult("0b9d7a1e-0000-0000-0000-000000000001", app)
    assert parent.children == []
    ids = [bytes([number]) * 16 for number in (1, 2)]
    told = {CHILDREN_KEY: b"".join(ids)}
    body = encode_value("done")
    task_id = parse_task_id(parent.id)
    gateway.publish(Outcome(task_id, 1, Status.SUCCESS, 1, 0, 0, 0, len(body), body, told))
    assert [parse_task_id(child.id) for child in parent.children] == ids


@pytest.mark.parametrize("through_json", [False, True])
def test_a_result_is_made_again_of_its_tuple(app: App, add: Any, through_json: bool) -> None:
    for result in (
        add.delay(1),
        group(add.s(1), add.s(2)).delay(),
        (add.s(1) | group(add.s(10), add.s(20) | add.s(5))).delay(),
    ):
        written = result.as_tuple()
        again = result_from_tuple(json.loads(json.dumps(written)) if through_json else written, app)
        assert again == result
        assert again.as_tuple() == written
        assert again.as_list() == result.as_list()
        assert again.get(timeout=5) == result.get()
        assert result_from_tuple(result) is result


def test_a_plain_result_is_written_as_celery_writes_it(add: Any) -> None:
    result = add.delay(1)
    assert result.as_tuple() == ((result.id, None), None)
    last = (add.s(1) | add.s(2)).delay()
    assert last.as_tuple() == ((last.id, ((last.parent.id, None), None)), None)


@pytest.mark.parametrize("written", [None, 3, "text", ("a",), (("a", "b", "c"), None), ((1, 2), 3)])
def test_what_is_no_result_is_refused(app: App, written: Any) -> None:
    with pytest.raises(ValueError, match="is no result as as_tuple"):
        result_from_tuple(written, app)


def test_forgetting_a_result_forgets_what_came_before_it(add: Any, gateway: InlineGateway) -> None:
    last = (add.s(1) | add.s(2)).delay()
    last.forget()
    assert {call.id for call in gateway.calls} == set(gateway.forgotten)


def test_eager_workflows_have_parents_and_children_as_well(app: App, add: Any, total: Any) -> None:
    last = (add.s(1) | add.s(2)).apply()
    assert (last.parent.get(), last.parent.children) == (1, [last])
    assert last.as_list() == [last.id, last.parent.id]
    body = chord([add.s(1), add.s(2)], total.s()).apply()
    assert isinstance(body.parent, GroupResult)
    assert (body.get(), body.parent.get()) == (3, [1, 2])
    assert [value for _, value in last.parent.collect()] == [1, 3]

    @app.task(name="outer")
    def outer() -> None:
        add.apply((1,))
        add.apply((2,))

    result = outer.apply()
    assert [child.get() for child in result.children] == [1, 2]
