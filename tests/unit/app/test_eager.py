"""Tasks that run in the process that calls them end as they would on a worker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, GroupResult, Reject, Task, TaskExpired, TaskRejected, group, signals
from zmqtasks.app import current
from zmqtasks.errors import ConfigError, PayloadTypeError


class _NoGateway:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the gateway was asked for {name}")


@pytest.fixture
def app(gateway: InlineGateway) -> App:
    """An App whose calls must not reach any gateway."""
    current.install(_NoGateway())
    return App("shop")


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def test_values_go_through_the_encoding(app: App, add: Any) -> None:
    @app.task(name="same")
    def same(x: Any) -> Any:
        return [x, type(x).__name__]

    class Words(list[str]):
        pass

    assert add.apply((1,), {"y": 2}).get() == 3
    assert same.apply((Words(["a"]),)).get() == [["a"], "list"]
    with pytest.raises(PayloadTypeError, match="argument 'x'"):
        same.apply((object(),))
    with pytest.raises(TypeError, match="missing 1 required"):
        add.apply()
    with pytest.raises(ConfigError, match="cuontdown"):
        add.apply((1,), cuontdown=1)


def test_errors_are_outcomes_and_raised_when_asked(app: App) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    result = fail.apply()
    assert (result.state, result.ready(), result.failed()) == ("FAILURE", True, True)
    assert isinstance(result.result, ValueError)
    assert "ValueError: no" in (result.traceback or "")
    with pytest.raises(ValueError, match="no"):
        result.get()
    with pytest.raises(ValueError, match="no"):
        fail.apply(throw=True)
    with pytest.raises(ValueError, match="no"):
        group(fail.s()).apply(throw=True)


def test_retries_follow_at_once_with_their_arguments(app: App) -> None:
    seen = []

    @app.task(name="again", bind=True, max_retries=2)
    def again(self: Task[Any, Any], x: int) -> int:
        seen.append((x, self.request.retries, self.request.attempt))
        if x < 2:
            raise self.retry(args=(x + 1,), countdown=1000)
        return x

    result = again.apply((0,))
    assert (result.get(), result.retries) == (2, 2)
    assert seen == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]
    assert again.apply((-1,)).state == "FAILURE"


def test_handlers_and_signals_are_called(app: App) -> None:
    told = []

    class Telling(Task[Any, Any]):
        def on_success(self, retval: Any, *args: Any) -> None:
            told.append(retval)

    @app.task(name="it", base=Telling)
    def it() -> str:
        return "value"

    @signals.task_prerun.connect
    def prerun(task_id: Any = None, **kwargs: Any) -> None:
        told.append(task_id)

    try:
        result = it.apply()
    finally:
        signals.task_prerun.disconnect(prerun)
    assert told == [result.id, "value"]


def test_a_task_knows_that_it_runs_eagerly_and_its_caller_does_not(app: App) -> None:
    @app.task(name="who", bind=True)
    def who(self: Task[Any, Any]) -> list[Any]:
        self.update_state(state="PROGRESS", meta=1)
        request = self.request
        return [
            request.is_eager,
            request.queue,
            request.headers,
            request.id,
            bool(request.hostname),
        ]

    @app.task(name="outer", bind=True)
    def outer(self: Task[Any, Any]) -> list[Any]:
        inner = who.apply()
        return [inner.get()[3] != self.request.id, self.request.id]

    result = who.apply(queue="slow", headers={"a": 1}, task_id="mine")
    assert result.get() == [True, "slow", {"a": 1}, result.id, True]
    assert result.id == app.AsyncResult("mine").id
    outside = outer.apply()
    assert outside.get() == [True, outside.id]
    assert who.request.called_directly


def test_other_endings_are_the_same(app: App, add: Any) -> None:
    @app.task(name="decline")
    def decline() -> None:
        raise Reject("not me", requeue=True)

    with pytest.raises(TaskRejected):
        decline.apply().get()
    with pytest.raises(TaskExpired):
        add.apply((1,), expires=datetime(2020, 1, 1, tzinfo=UTC)).get()


def test_coroutines_and_generators_run(app: App) -> None:
    @app.task(name="later")
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    @app.task(name="lines")
    def lines() -> Any:
        yield 1
        yield 2
        return "end"

    async def main() -> list[int]:
        return [later.apply((1,)).get(), (await later.aapply((2,))).get(), await later.apply((3,))]

    assert later.apply((0,)).get() == 1
    assert asyncio.run(main()) == [2, 3, 4]
    result = lines.apply()
    assert (result.get(), result.items_count) == ("end", 2)
    with pytest.raises(ValueError, match="was not kept"):
        result.stream()


def test_signatures_groups_and_maps_run(app: App, add: Any) -> None:
    assert add.s(1).apply((2,)).get() == 3
    assert add.map([1, 2]).apply().get() == [1, 2]
    result = group(add.s(1), group(add.s(2))).apply((10,))
    assert isinstance(result, GroupResult)
    assert result.get() == [11, 12]
    assert result.revoke() == dict.fromkeys(result.ids, "settled")
    result.forget()
    assert add.chunks([(1, 2), (3,)], 1).apply().get() == [[3], [3]]


def test_nothing_is_submitted_when_everything_is_eager(app: App, add: Any) -> None:
    app.conf.task_always_eager = True
    assert add.delay(1, 2).get() == 3
    assert add.apply_async((1,), countdown=1000, durability="disk").get() == 1
    assert asyncio.run(add.adelay(4)).get() == 4
    assert add.delay_many([(1,), {"x": 2}]).get() == [1, 2]
    assert add.s(1).delay(2).get() == 3
    assert group(add.s(i) for i in range(3)).delay().get() == [0, 1, 2]
    assert asyncio.run(group([add.s(1)]).adelay()).get() == [1]
    assert add.map([1]).delay().get() == [1]
    assert add.chunks([(1, 2), (3,)], 1)().get() == [[3], [3]]
    assert app.send_task("add", (1,)).get() == 1
    with pytest.raises(ConfigError, match="does not have the task"):
        app.send_task("far.away")


def test_eager_errors_propagate_when_the_setting_says_so(app: App) -> None:
    app.conf.update(task_always_eager=True, task_eager_propagates=True)

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    for call in (fail.delay, fail.apply, fail.s().delay, group(fail.s()).delay):
        with pytest.raises(ValueError, match="no"):
            call()
    assert fail.apply(throw=False).failed()


def test_a_task_that_is_defined_again_runs_anew(app: App) -> None:
    def define(value: int) -> Any:
        @app.task(name="same")
        def function() -> int:
            return value

        return function

    assert [define(1).apply().get(), define(2).apply().get()] == [1, 2]
