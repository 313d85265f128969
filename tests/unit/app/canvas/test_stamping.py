"""Stamps of calls and workflows: which calls carry which."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, StampingVisitor, chain, chord, group, signature
from zmqtasks.errors import ConfigError


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


def stamps(gateway: InlineGateway) -> list[Any]:
    return [(call.ext or {}).get("st") for call in gateway.calls]


def test_a_stamped_call_carries_its_stamps(add: Any, gateway: InlineGateway) -> None:
    made = add.s(1).stamp(batch=7, tags=["a", "b"])
    assert signature(dict(made)).stamp(batch=8).options["stamps"]["batch"] == [8]
    made.delay()
    add.apply_async((1,), stamps={"batch": 7})
    assert stamps(gateway) == [{"batch": [7], "tags": ["a", "b"]}, {"batch": [7]}]


def test_stamps_replace_others_of_their_name_or_come_to_them(add: Any) -> None:
    made = add.s(1).stamp(batch=1, other=2).stamp(batch=3)
    assert made.options["stamps"] == {"batch": [3], "other": [2]}
    made.stamp(append_stamps=True, batch=4)
    assert made.options["stamps"] == {"batch": [3, 4], "other": [2]}


def test_all_calls_of_a_workflow_and_what_they_are_linked_to_are_stamped(
    add: Any, total: Any, gateway: InlineGateway
) -> None:
    linked = add.s(1)
    linked.link(add.s(2))
    linked.link_error(add.si(3))
    flow = chain(linked, chord([add.s(4), add.s(5)], total.s()), group(add.s(6), add.s(7)))
    flow.stamp(batch=7).delay()
    assert stamps(gateway) == [{"batch": [7]}] * 7
    errback = linked.options["link_error"][0]
    assert errback["options"]["stamps"] == {"batch": [7]}


def test_stamps_of_apply_async_are_for_all_calls(add: Any, gateway: InlineGateway) -> None:
    chain(add.s(1), add.s(2)).apply_async(stamps={"batch": 7})
    assert stamps(gateway) == [{"batch": [7]}] * 2


class Visitor(StampingVisitor):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_signature(self, sig: Any, **headers: Any) -> Any:
        self.seen.append(sig.task)
        return {"mine": sig.task, "plain": 1, "stamped_headers": ["mine"]}

    def on_chain_start(self, chain: Any, **headers: Any) -> Any:
        self.seen.append("chain")
        return {"in": "chain"}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        self.seen.append("chain ends")

    def on_group_start(self, group: Any, **headers: Any) -> Any:
        self.seen.append(f"group of {len(group)}")
        return {"in": "group"}

    def on_chord_body(self, sig: Any, **headers: Any) -> Any:
        return {"body": True}

    def on_callback(self, callback: Any, **headers: Any) -> Any:
        return {"callback": True}


def test_a_visitor_says_how_each_part_is_stamped(
    add: Any, total: Any, gateway: InlineGateway
) -> None:
    first = add.s(1)
    first.link(add.s(9))
    visitor = Visitor()
    chain(first, chord([add.s(2)], total.s())).stamp(visitor).delay()
    assert visitor.seen == ["chain", "add", "add", "group of 1", "add", "total", "chain ends"]
    assert stamps(gateway) == [
        {"in": ["chain"], "mine": ["add"]},
        {"in": ["chain"], "callback": [True], "mine": ["add"]},
        {"in": ["group"], "mine": ["add"]},
        {"in": ["group"], "body": [True], "mine": ["total"]},
    ]
    assert {(call.ext or {})["h"]["plain"] for call in gateway.calls} == {1}


@pytest.mark.parametrize(
    ("value", "words"),
    [(3, "stamps are a dict"), ({"a": object()}, "is of type object"), ({1: 2}, "are texts")],
)
def test_wrong_stamps_are_refused(add: Any, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        add.apply_async((1,), stamps=value)


def test_a_running_task_sees_its_stamps(app: App) -> None:
    @app.task(name="look", bind=True)
    def look(self: Any) -> Any:
        return [self.request.stamps, self.request.stamped_headers]

    assert look.s().stamp(batch=7).apply().get() == [{"batch": [7]}, ["batch"]]
    assert look.s().apply().get() == [{}, []]
