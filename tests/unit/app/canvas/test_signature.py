"""Calls as values: what they hold, how they change, how they travel, what they submit."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, Signature, maybe_signature, signature, subtask
from zmqtasks.errors import ConfigError, PayloadTypeError
from zmqtasks.wire.payload import decode_value, encode_value


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0, *, z: int = 0) -> int:
        return 100 * x + 10 * y + z

    return add


def test_a_signature_is_a_dict_of_plain_values(add: Any) -> None:
    assert dict(add.s(1, z=2).set(queue="slow")) == {
        "task": "add",
        "args": (1,),
        "kwargs": {"z": 2},
        "options": {"queue": "slow"},
        "subtask_type": None,
        "immutable": False,
        "app": "shop",
    }
    assert "app" not in signature("add")


def test_all_ways_to_make_one_make_the_same(app: App, add: Any) -> None:
    made = add.s(1, 2, z=3).set(countdown=4)
    others = [
        add.signature((1, 2), {"z": 3}, countdown=4),
        add.subtask((1, 2), {"z": 3}, {"countdown": 4}),
        app.signature("add", (1, 2), {"z": 3}, countdown=4),
        signature(add, args=(1, 2), kwargs={"z": 3}, countdown=4),
        subtask("add", (1, 2), {"z": 3}, app=app, countdown=4),
        signature(made),
    ]
    assert all(other == made for other in others)
    assert others[-1] is not made


def test_partial_arguments_come_first_and_names_win(add: Any) -> None:
    assert add.s(2).delay(1).get() == 120
    assert add.s(1, z=5).delay(z=6).get() == 106
    assert add.s(2).apply_async((1,), {"z": 3}).get() == 123
    assert add.s(2)(1) == 120
    assert ~add.s(1, 2) == 120
    assert add.s(3).clone((2,), {"z": 1}).partial((1,))["args"] == (1, 2, 3)


def test_immutable_signatures_take_options_only(add: Any, gateway: InlineGateway) -> None:
    fixed = add.si(1)
    assert fixed.immutable
    assert fixed.delay(7, 8, z=9).get() == 100
    assert fixed(7) == 100
    assert fixed.clone((7,)).args == (1,)
    fixed.apply_async((5,), queue="slow")
    assert gateway.calls[-1].kind.queue == "slow"
    assert add.s(1).set(immutable=True).delay(7).get() == 100


def test_a_signature_is_the_same_after_its_travels(app: App, add: Any) -> None:
    made = add.s(1, z=3).set(priority=2)
    for other in (
        signature(json.loads(json.dumps(made))),
        signature(decode_value(encode_value(made))),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
        Signature.from_dict(dict(made)),
    ):
        assert isinstance(other, Signature)
        assert other == made
        assert other.app is app
        assert other.delay().get() == 103


def test_a_task_gets_a_signature_as_a_dict_that_is_one_again(app: App, add: Any) -> None:
    @app.task(name="call")
    def call(d: dict[str, Any]) -> Any:
        return [type(d).__name__, signature(d)()]

    assert call.delay(add.s(1, 2)).get() == ["dict", 120]


def test_a_copy_shares_neither_arguments_nor_options(add: Any) -> None:
    made = add.s(1, z=1).set(headers={"a": 1})
    other = made.clone()
    other.kwargs["z"] = 2
    other.options["headers"]["a"] = 2
    assert made.kwargs == {"z": 1}
    assert made.options == {"headers": {"a": 1}}


def test_parts_can_be_replaced(add: Any) -> None:
    made = add.s(1, z=1).set(countdown=1)
    other = made.replace(args=(2,), options={"queue": "slow"})
    assert (other.args, other.kwargs, other.options) == ((2,), {"z": 1}, {"queue": "slow"})
    assert made.args == (1,)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cuontdown": 3}, "did you mean 'countdown'"),
        ({"compression": []}, "option 'compression' of Celery is not supported yet"),
        ({"countdown": "x"}, "countdown"),
    ],
)
def test_wrong_options_are_refused_where_they_are_given(
    add: Any, options: dict[str, Any], says: str
) -> None:
    made = add.s(1)
    ways: list[Any] = [
        made.set,
        made.clone,
        add.signature,
        lambda **more: made.apply_async((), {}, **more),
        lambda **more: signature({**made, "options": more}),
    ]
    for give in ways:
        with pytest.raises(ConfigError, match=says):
            give(**options)
    assert made.options == {}
    with pytest.raises(ConfigError, match="countdown and eta"):
        made.set(countdown=1).set(eta=datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "wrong", [{}, {"task": 3}, {"task": "a", "args": "text"}, {"task": "a", "kwargs": 3}]
)
def test_dicts_that_were_no_signature_are_refused(app: App, wrong: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TypeError)):
        signature(wrong)


def test_unknown_types_and_apps_are_refused_by_name(add: Any) -> None:
    with pytest.raises(ConfigError, match="no signatures of type 'chore'; there are chain, chord"):
        signature({"task": "x", "subtask_type": "chore"})
    with pytest.raises(ConfigError, match="of App\\('elsewhere'\\), which this process"):
        signature({**add.s(1), "app": "elsewhere"}).delay()


def test_signatures_are_not_merged_like_dicts(add: Any) -> None:
    with pytest.raises(TypeError, match="only signatures can follow"):
        _ = add.s(1) | 5
    with pytest.raises(ConfigError, match="name"):
        _ = add.s(1) | {"a": 1}
    with pytest.raises(ConfigError, match="name"):
        _ = {"a": 1} | add.s(1)


def test_a_task_that_is_elsewhere_is_submitted_by_name_and_not_run_here(
    app: App, gateway: InlineGateway
) -> None:
    made = app.signature("far.away", (1,))
    made.delay(0)
    assert gateway.calls[-1].kind.name == "far.away"
    with pytest.raises(ConfigError, match="has no such task in this process"):
        made(0)


def test_a_frozen_signature_is_one_task_however_often_it_is_called(
    add: Any, gateway: InlineGateway
) -> None:
    made = add.s(1)
    assert made.id is None
    handle = made.freeze()
    assert made.id == handle.id == made.freeze().id
    assert made.delay().id == made.delay().id == handle.id
    assert len(gateway.calls) == 1
    assert handle.get() == 100


def test_awaitable_twins_do_the_same(add: Any) -> None:
    async def main() -> list[int]:
        return [
            await (await add.s(2).adelay(1)),
            await (await add.s(2).aapply_async((1,), {"z": 1}, queue="slow")),
        ]

    assert asyncio.run(main()) == [120, 121]


def test_it_shows_as_its_call(add: Any) -> None:
    assert repr(add.s(1, "a", z=None)) == "add(1, 'a', z=None)"
    assert add.s(1).reprcall(0, z=2) == "add(0, 1, z=2)"
    assert len(repr(add.s("a" * 1000))) < 150
    assert (add.s(1).name, add.s(1).task, add.s(1).type) == ("add", "add", add)


def test_maybe_signature_takes_what_there_is(app: App, add: Any) -> None:
    made = add.s(1)
    assert maybe_signature(None) is None
    assert maybe_signature(made) is made
    assert maybe_signature(made, clone=True) is not made
    assert maybe_signature({"task": "add", "args": [1]}, app) == made


def test_what_cannot_travel_is_refused_when_it_is_called(add: Any) -> None:
    with pytest.raises(PayloadTypeError, match="argument 'x'"):
        add.s(object()).delay()
    with pytest.raises(TypeError, match="missing 1 required"):
        add.s().delay()
