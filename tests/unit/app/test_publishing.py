"""Signals about submitting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.task import Task
from zmqtasks.errors import ConfigError, MeshOverloaded
from zmqtasks.signals import after_task_publish, before_task_publish


@pytest.fixture
def add(app: App) -> Task[Any, Any]:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    told: list[tuple[str, dict[str, Any]]] = []

    def before(**named: Any) -> None:
        told.append(("before", named))

    def after(**named: Any) -> None:
        told.append(("after", named))

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    yield told
    before_task_publish.disconnect(before)
    after_task_publish.disconnect(after)


def test_both_tell_of_the_call_with_celerys_arguments(
    add: Task[Any, Any], told: list[tuple[str, dict[str, Any]]]
) -> None:
    result = add.apply_async((1,), {"y": 2}, headers={"own": 1}, queue="other", time_limit=4)
    assert [name for name, _ in told] == ["before", "after"]
    for _, named in told:
        assert named["sender"] == "add"
        assert named["body"] == ((1,), {"y": 2}, {})
        assert (named["exchange"], named["routing_key"]) == ("", "other")
        headers = named["headers"]
        assert (headers["id"], headers["task"], headers["own"]) == (result.id, "add", 1)
        assert (headers["timelimit"], headers["retries"]) == ([4.0, None], 0)
        assert headers["root_id"] == result.id
    assert told[0][1]["properties"] == {"correlation_id": result.id}


def test_headers_that_a_receiver_adds_travel(add: Task[Any, Any], gateway: InlineGateway) -> None:
    @before_task_publish.connect(sender="add")
    def trace(headers: dict[str, Any], **named: Any) -> None:
        headers["traceparent"] = "00-1"

    add.delay(1)
    add.delay_many([(1,), (2,)])
    assert [call.ext for call in gateway.calls] == [{"h": {"traceparent": "00-1"}}] * 3
    before_task_publish.disconnect(trace, sender="add")
    add.delay(1)
    assert gateway.calls[-1].ext is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("id", "another", "changed 'id', which is a fact"), ("list", [], "header 'list' is of type")],
)
def test_what_a_receiver_may_not_do_is_refused(
    add: Task[Any, Any], gateway: InlineGateway, key: str, value: object, message: str
) -> None:
    @before_task_publish.connect
    def change(headers: dict[str, Any], **named: Any) -> None:
        headers[key] = value

    with pytest.raises(ConfigError, match=message):
        add.delay(1)
    assert not gateway.calls
    before_task_publish.disconnect(change)


def test_call_that_is_not_accepted_is_not_told_as_published(
    add: Task[Any, Any], gateway: InlineGateway, told: list[tuple[str, dict[str, Any]]]
) -> None:
    gateway.room = 0
    with pytest.raises(MeshOverloaded):
        add.delay(1)
    assert [name for name, _ in told] == ["before"]


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_each_of_many_calls_is_told(
    add: Task[Any, Any], told: list[tuple[str, dict[str, Any]]], durability: str
) -> None:
    add.durability = durability
    results = add.delay_many([(1,), {"x": 2}])
    assert [name for name, _ in told] == ["before", "before", "after", "after"]
    assert [named["headers"]["id"] for _, named in told[2:]] == results.ids


def test_shortcut_of_delay_is_back_when_nobody_is_connected(add: Task[Any, Any]) -> None:
    def receiver(**named: Any) -> None: ...

    before_task_publish.connect(receiver)
    add.delay(1)
    assert add._plain_kind is None
    before_task_publish.disconnect(receiver)
    add.delay(1)
    assert add._plain_kind is not None
