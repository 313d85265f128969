"""Callbacks and errbacks of calls: who is called when, with what, and what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, ChordError, chain, chord, group, signature
from zmqtasks.app.timing import span_ms
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.core.offspring import DUE_IN_KEY, ERRBACKS_KEY, EXPIRES_IN_KEY
from zmqtasks.errors import ConfigError
from zmqtasks.wire.carried import CarriedCall, unpack_calls

#: What the errbacks of these tests were called with.
Told = list[tuple[Any, ...]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return 10 * x + y

    return add


@pytest.fixture
def fail(app: App) -> Any:
    @app.task(name="fail")
    def fail(x: int = 0) -> None:
        raise ValueError("no")

    return fail


@pytest.fixture
def total(app: App) -> Any:
    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return total


@pytest.fixture
def newer(app: App, told: Told) -> Any:
    @app.task(name="newer")
    def newer(request: Any, exc: Any, traceback: Any, note: str = "") -> None:
        told.append((request.task, request.args, repr(exc), "ValueError" in traceback, note))

    return newer


@pytest.fixture
def older(app: App, told: Told) -> Any:
    @app.task(name="older")
    def older(task_id: str) -> None:
        told.append((task_id,))

    return older


@pytest.fixture
def plain(app: App, told: Told) -> Any:
    @app.task(name="plain")
    def plain(*args: Any) -> None:
        told.append(("plain", *args))

    return plain


def waits(gateway: InlineGateway) -> list[Any]:
    order = [call.id for call in gateway.calls]
    found = [(call.ext or {}).get(INPUTS_KEY) for call in gateway.calls]
    return [each and [[order.index(task_id) for task_id in each[0]], each[1]] for each in found]


def errbacks(gateway: InlineGateway) -> list[list[CarriedCall]]:
    found = [(call.ext or {}).get(ERRBACKS_KEY) for call in gateway.calls]
    return [unpack_calls(packed) if packed else [] for packed in found]


# --- callbacks ----------------------------------------------------------------------------


def test_a_callback_gets_the_result_and_has_no_part_in_it(add: Any, gateway: InlineGateway) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: add.apply_async((1, 2), link=add.s(3)),
        lambda: add.s(1, 2).apply_async(link=[add.s(3)]),
        lambda: add.s(1, 2).set(link=[add.s(3)]).delay(),
        lambda: signature("add", (1, 2), app=add.app, link=[dict(add.s(3))]).delay(),
        lambda: add.app.send_task("add", (1, 2), link=add.s(3)),
    ]
    for submit in ways:
        assert submit().get() == 12
        assert waits(gateway) == [None, [[0], 0]]
        assert gateway.outcomes[gateway.calls[1].id].status == 0
        gateway.calls.clear()


def test_link_returns_the_callback_and_adds_it_once(add: Any) -> None:
    made, callback = add.s(1), add.s(2)
    assert made.link(callback) is callback
    made.link(callback)
    assert made.options["link"] == [callback]
    assert made.on_error(add.s()) is made
    assert signature(json.loads(json.dumps(made))) == made


def test_callbacks_given_later_come_to_those_that_are_there(
    add: Any, gateway: InlineGateway
) -> None:
    made = add.s(1, 2)
    made.link(add.s(3))
    made.apply_async(link=add.s(4))
    assert waits(gateway) == [None, [[0], 0], [[0], 0]]


def test_a_callback_may_be_a_workflow(add: Any, gateway: InlineGateway) -> None:
    add.apply_async((1, 2), link=[add.s(3) | add.s(4), group(add.s(5), add.s(6))])
    assert waits(gateway) == [None, [[0], 0], [[1], 0], [[0], 0], [[0], 0]]


def test_callbacks_of_workflows_come_after_the_whole(
    add: Any, total: Any, gateway: InlineGateway
) -> None:
    chain(add.s(1), add.s(2)).apply_async(link=add.s(3))
    assert waits(gateway) == [None, [[0], 0], [[1], 0]]
    gateway.calls.clear()
    chord([add.s(1), add.s(2)], total.s()).apply_async(link=add.s(3))
    assert waits(gateway) == [None, None, [[0, 1], [0, 1]], [[2], 0]]
    gateway.calls.clear()
    group(add.s(1), add.s(2)).apply_async(link=total.s())
    assert waits(gateway) == [None, None, [[0, 1], [0, 1]]]


def test_a_member_of_a_group_has_its_own_callback(add: Any, gateway: InlineGateway) -> None:
    member = add.s(1)
    member.link(add.s(2))
    result = group(member, add.s(3)).delay()
    assert result.get() == [10, 30]
    assert waits(gateway) == [None, [[0], 0], None]
    assert "g" not in (gateway.calls[1].ext or {})


def test_a_callback_cannot_be_submitted_unseen(add: Any) -> None:
    member = add.s(1)
    member.link(add.s(2))
    with pytest.raises(ConfigError, match="link makes it a workflow"):
        group(each for each in [member]).delay()


def test_the_callbacks_of_a_call_of_a_chosen_id_have_the_same_ids_each_time(
    add: Any, gateway: InlineGateway
) -> None:
    for _ in range(2):
        add.apply_async((1, 2), task_id="mine", link=[add.s(3) | add.s(4), add.s(5)])
    assert len(gateway.calls) == 4


# --- errbacks -----------------------------------------------------------------------------


def test_errbacks_travel_with_the_call(add: Any, newer: Any, gateway: InlineGateway) -> None:
    add.apply_async((1,), link_error=newer.s(note="n"))
    ((found,),) = errbacks(gateway)
    assert (found.kind.name, found.is_durable) == ("newer", False)
    assert not (found.ext or {}).keys() & {"eta"}


def test_all_calls_of_a_chain_share_its_errback_and_the_body_of_a_chord_has_its_own(
    add: Any, total: Any, newer: Any, gateway: InlineGateway
) -> None:
    chain(add.s(1), add.s(2)).apply_async(link_error=newer.s())
    (first,), (second,) = errbacks(gateway)
    assert (first.id, first.is_for_inputs) == (second.id, False)
    gateway.calls.clear()
    chord([add.s(1), add.s(2)], total.s()).apply_async(link_error=newer.s())
    found = errbacks(gateway)
    assert [len(each) for each in found] == [0, 0, 1]
    assert found[2][0].is_for_inputs


def test_each_call_of_a_group_has_its_errback(add: Any, newer: Any, gateway: InlineGateway) -> None:
    made = group(add.s(1), add.s(2))
    made.link_error(newer.s())
    made.delay()
    assert [len(each) for each in errbacks(gateway)] == [1, 1]


def test_the_countdown_of_an_errback_counts_from_the_failure(
    add: Any, newer: Any, gateway: InlineGateway
) -> None:
    add.apply_async((1,), link_error=newer.s().set(countdown=3, expires=9))
    ((found,),) = errbacks(gateway)
    assert found.ext is not None
    assert (found.ext[DUE_IN_KEY], found.ext[EXPIRES_IN_KEY]) == (span_ms(3), span_ms(9))
    assert not found.ext.keys() & {"eta", "exp"}


def test_the_countdown_of_a_later_call_counts_from_the_one_before(
    add: Any, gateway: InlineGateway
) -> None:
    first, second = add.s(1).set(countdown=3), add.s(2).set(countdown=3)
    (first | second).delay()
    before, after = (call.ext or {} for call in gateway.calls)
    assert "eta" in before
    assert "eta" not in after
    assert after[DUE_IN_KEY] == span_ms(3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"link": 3}, "link is a signature"),
        ({"link_error": ["add"]}, "link_error is a signature"),
        ({"link": {"task": "x"}, "delivery": "at_most_once"}, "know when to call its link"),
        ({"link_error": {"task": "x"}, "delivery": "at_most_once"}, "call its link_error"),
    ],
)
def test_wrong_links_are_refused(add: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        add.apply_async((1,), **options)


def test_what_cannot_be_an_errback_is_refused(add: Any, newer: Any) -> None:
    for errback, words in (
        (add.s() | add.s(1), "not a chain"),
        (newer.s().set(task_id="x"), "cannot have task_id"),
        (newer.s().set(link=add.s()), "cannot have link"),
        (newer.s().set(delivery="at_most_once"), "must not get lost"),
        (newer.s("x" * 100_000), "can travel with a call"),
    ):
        with pytest.raises(ConfigError, match=words):
            add.apply_async((1,), link_error=errback)


def test_an_errback_whose_arguments_fit_in_neither_style_is_refused(
    add: Any, older: Any, newer: Any
) -> None:
    add.apply_async((1,), link_error=[older.s(), newer.s("note")])
    with pytest.raises(TypeError, match="positional"):
        add.apply_async((1,), link_error=newer.s("note", 2, 3, 4))


# --- eagerly ------------------------------------------------------------------------------


def test_eagerly_callbacks_run_after_success_only(
    add: Any, fail: Any, plain: Any, told: Told
) -> None:
    add.apply((1, 2), link=[plain.s("x")])
    fail.apply((1,), link=plain.s())
    assert told == [("plain", 12, "x")]


def test_eagerly_errbacks_of_both_styles_run_after_failure_only(
    add: Any, fail: Any, newer: Any, older: Any, plain: Any, told: Told
) -> None:
    links = [newer.s(note="n"), older.s(), plain.si("own")]
    add.apply((1,), link_error=links)
    assert not told
    failed = fail.apply((7,), link_error=links)
    assert told == [
        ("fail", [7], "ValueError('no')", True, "n"),
        (failed.id,),
        ("plain", "own"),
    ]


def test_eagerly_a_workflow_calls_its_links_as_a_whole(
    add: Any, fail: Any, total: Any, plain: Any, older: Any, told: Told
) -> None:
    chain(add.s(1), add.s(2)).apply(link=plain.s())
    group(add.s(1), add.s(2)).apply(link=plain.s())
    chord([add.s(1), add.s(2)], total.s()).apply(link=plain.s())
    assert told == [("plain", 102), ("plain", [10, 20]), ("plain", 30)]
    told.clear()
    result = chord([add.s(1), fail.s()], total.s()).apply(link_error=older.s())
    assert told == [(result.id,)]
    with pytest.raises(ChordError, match="has not succeeded"):
        result.get()
    told.clear()
    chain(add.s(1), fail.s(), add.s(3)).apply(link_error=older.s())
    assert len(told) == 1
