"""Chains and chords: what is called after what, with which results, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, GroupResult, chain, chord, group, signature
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.errors import ConfigError
from zmqtasks.limits import INPUTS_COUNT_MAX


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return 10 * x + y

    return add


@pytest.fixture
def total(app: App) -> Any:
    @app.task(name="total")
    def total(numbers: list[Any], more: int = 0) -> int:
        return sum(sum(n) if isinstance(n, list) else n for n in numbers) + more

    return total


@pytest.fixture
def fail(app: App) -> Any:
    @app.task(name="fail")
    def fail(x: int = 0) -> None:
        raise ValueError("no")

    return fail


def waits(gateway: InlineGateway) -> list[Any]:
    """For each call the positions of those that it waits for, and the shape."""
    order = [call.id for call in gateway.calls]
    found = [(call.ext or {}).get(INPUTS_KEY) for call in gateway.calls]
    return [each and [[order.index(task_id) for task_id in each[0]], each[1]] for each in found]


# --- chains -------------------------------------------------------------------------------


def test_each_call_of_a_chain_gets_the_result_of_the_one_before(
    add: Any, gateway: InlineGateway
) -> None:
    for made in (
        chain(add.s(1), add.s(2), add.s(3)),
        chain([add.s(1), add.s(2), add.s(3)]),
        add.s(1) | add.s(2) | add.s(3),
        add.s(1) | (add.s(2) | add.s(3)),
        chain(dict(add.s(1)), chain(add.s(2), add.s(3))),
    ):
        gateway.calls.clear()
        assert made.delay().get() == 1023
        assert waits(gateway) == [None, [[0], 0], [[1], 0]]


def test_an_immutable_call_of_a_chain_waits_and_gets_no_result(
    add: Any, gateway: InlineGateway
) -> None:
    assert (add.s(1) | add.si(5) | add.s(3)).delay().get() == 503
    assert waits(gateway) == [None, [[0], None], [[1], 0]]


def test_arguments_and_options_go_to_the_first_call_and_the_id_to_the_last(
    add: Any, gateway: InlineGateway
) -> None:
    made = add.s() | add.s(2)
    result = made.apply_async((4,), {"y": 1}, priority=7, task_id="the last one")
    assert result.get() == 412
    assert [(call.ext or {}).get("pri") for call in gateway.calls] == [7, None]
    assert result.id == app_id("the last one", add)
    assert chain(add.s(1), add.s(2), priority=3).delay().get() == 102
    assert [(call.ext or {}).get("pri") for call in gateway.calls[-2:]] == [3, None]


def app_id(text: str, add: Any) -> str:
    return str(add.app.AsyncResult(text).id)


def test_parents_of_results_lead_back_to_the_first_one(add: Any, total: Any) -> None:
    result: Any = (add.s(1) | group(add.s(2), add.s(3)) | total.s()).delay()
    assert result.get() == 102 + 103
    members = result.parent
    assert isinstance(members, GroupResult)
    first: Any = members[0].parent
    assert (first.get(), first.parent) == (10, None)


def test_results_of_a_long_chain_know_their_parents(add: Any) -> None:
    result: Any = chain(add.si(1) for _ in range(1_500)).delay()
    count = 0
    while result is not None:
        result, count = result.parent, count + 1
    assert count == 1_500


def test_a_chain_ends_as_the_first_call_that_fails(
    add: Any, fail: Any, gateway: InlineGateway
) -> None:
    result: Any = (add.s(1) | fail.s() | add.s(2) | add.s(3)).delay()
    with pytest.raises(ValueError, match="no"):
        result.get()
    assert result.failed()
    assert result.parent.parent.parent.get() == 10


def test_chains_without_calls_are_refused(app: App) -> None:
    with pytest.raises(ConfigError, match="an empty chain"):
        chain()
    with pytest.raises(ConfigError, match="an empty chain"):
        chain([])
    with pytest.raises(TypeError, match="made of signatures"):
        chain(5)  # type: ignore[arg-type]


def test_a_call_that_nobody_would_own_cannot_be_in_a_chain(add: Any) -> None:
    with pytest.raises(ConfigError, match="nothing could come after it"):
        (add.s(1).set(delivery="at_most_once") | add.s(2)).delay()


def test_arguments_that_do_not_fit_are_refused_before_anything_is_submitted(
    add: Any, gateway: InlineGateway
) -> None:
    with pytest.raises(TypeError, match="positional"):
        (add.s(1) | add.s(1, 2)).delay()
    assert not gateway.calls


# --- chords and groups --------------------------------------------------------------------


def test_the_body_of_a_chord_gets_the_list_of_results(
    add: Any, total: Any, gateway: InlineGateway
) -> None:
    header = [add.s(1), add.s(2)]
    for made in (
        chord(header, total.s(more=5)),
        chord(group(header), total.s(more=5)),
        chord((each for each in header), total.s(more=5)),
        group(header) | total.s(more=5),
    ):
        gateway.calls.clear()
        assert made.delay().get() == 35
        assert waits(gateway) == [None, None, [[0, 1], [0, 1]]]
        members = {(call.ext or {}).get("g") for call in gateway.calls[:2]}
        assert len(members - {None}) == 1
    assert chord(header)(total.s()).get() == 30
    assert chord(header, total.si([1])).delay().get() == 1


def test_a_chord_of_nothing_calls_its_body_with_an_empty_list(total: Any) -> None:
    assert chord([], total.s(more=1)).delay().get() == 1
    assert chord([total.s([4])], total.s())().get() == 4


def test_workflows_may_be_nested_to_any_depth(add: Any, total: Any) -> None:
    inner = chord([add.s(1), add.s(2) | add.s(3)], total.s())  # 10 + 203
    made = chain(add.si(0), group(inner, inner | add.s(1)), total.s(), add.s(9))
    # The header's calls get 0 before their own argument.
    assert made.delay().get() == 10 * ((1 + 23) + (10 * (1 + 23) + 1)) + 9


def test_a_group_may_have_chains_and_chords(add: Any, total: Any) -> None:
    made = group(add.s(1) | add.s(2), chord([add.s(1)], total.s()), add.s(7))
    result = made.delay()
    assert result.get() == [102, 10, 70]
    assert asyncio.run(made.adelay()).get() == [102, 10, 70]
    with pytest.raises(ConfigError, match="make the group of a list"):
        group(each for each in [add.s(1) | add.s(2)]).delay()


def test_a_group_after_a_call_gives_its_result_to_all(add: Any) -> None:
    result = (add.s(1) | group(add.s(1), add.s(2))).delay()
    assert isinstance(result, GroupResult)
    assert result.get() == [101, 102]


def test_a_chord_fails_with_its_header_and_without_its_body(
    add: Any, fail: Any, total: Any
) -> None:
    result = chord([add.s(1), fail.s()], total.s()).delay()
    assert result.failed()
    assert "did not run" in str(result.get(propagate=False))


def test_a_body_has_so_many_calls_before_it_at_most(
    add: Any, total: Any, gateway: InlineGateway
) -> None:
    made = chord([add.si(1)] * (INPUTS_COUNT_MAX + 1), total.s())
    with pytest.raises(ConfigError, match=r"waits for 100,000 others at most, and one comes after"):
        made.delay()
    assert not gateway.calls


def test_a_chord_without_a_body_is_refused(add: Any) -> None:
    with pytest.raises(ConfigError, match="has no body"):
        chord([add.s(1)]).delay()


# --- as values ----------------------------------------------------------------------------


def test_workflows_travel_as_dicts(add: Any, total: Any) -> None:
    made = add.s(1) | group(add.s(2), add.s(3) | add.s(4)) | total.s(more=1)
    again = signature(json.loads(json.dumps(made)))
    assert again == made
    assert type(again) is type(made)
    assert again.delay().get() == made.delay().get()


def test_clones_take_more_arguments_for_the_first_calls(add: Any, total: Any) -> None:
    made = add.s() | add.s(2)
    assert made.clone((5,)).delay().get() == 502
    assert made.delay(6).get() == 602
    assert chord([add.s(), add.s()], total.s()).clone((1,)).delay().get() == 20


def test_workflows_are_shown_as_they_are_written(add: Any, total: Any) -> None:
    assert repr(add.s(1) | add.s(2)) == "add(1) | add(2)"
    assert repr(group(add.s(1), add.s(2)) | total.s()) == "group([add(1), add(2)]) | total()"


def test_a_frozen_workflow_is_the_same_tasks_each_time(
    add: Any, total: Any, gateway: InlineGateway
) -> None:
    made = add.s(1) | group(add.s(2), add.s(3) | add.s(4)) | total.s()
    frozen = made.freeze()
    assert made.freeze() == frozen
    assert made.delay() == frozen
    count = len(gateway.calls)
    assert made.delay().get() == frozen.get()
    assert len(gateway.calls) == count
    assert (add.s(1) | add.s(2)).freeze("mine") == add.AsyncResult("mine")


def test_what_only_a_task_can_do_is_refused(add: Any) -> None:
    made = add.s(1) | add.s(2)
    with pytest.raises(ConfigError, match="is no task"):
        _ = made.type


# --- eagerly ------------------------------------------------------------------------------


def test_workflows_run_eagerly_with_the_same_results(add: Any, total: Any, fail: Any) -> None:
    made = add.s(1) | group(add.s(2), add.s(3) | add.s(4)) | total.s(more=1)
    assert made.apply().get() == made.delay().get()
    assert chord([add.s(1)], total.s()).apply().get() == 10
    failed = (add.s(1) | fail.s() | add.s(2)).apply()
    assert failed.failed()
    with pytest.raises(ValueError, match="no"):
        failed.get()


def test_a_call_that_runs_eagerly_waits_only_for_others_that_did(add: Any, fail: Any) -> None:
    done, failed = add.apply((1,)), fail.apply()
    assert add.apply((1,), after=[done]).get() == 10
    result = add.apply((1,), after=[done, failed])
    assert result.failed()
    assert f"because task {failed.id} has not succeeded" in str(result.get(propagate=False))
    with pytest.raises(ConfigError, match="let a worker run it"):
        add.apply((1,), after="some id")
