"""Apps: registering tasks, catalogs, calls by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.app.result import AsyncResult
from zmqtasks.errors import ConfigError, TaskFailed


def test_tasks_are_registered_by_name(app: App) -> None:
    @app.task
    def first(x: int) -> int:
        return x

    @app.task(name="other", queue="slow")
    def second() -> None: ...

    assert app.tasks.keys() - BUILT_IN == {first.name, "other"}
    assert (app.tasks[first.name], app.tasks["other"]) == (first, second)
    assert first.name == f"{__name__}.first"
    assert second.queue == "slow"
    assert repr(second) == "<Task: other of shop>"


def test_the_catalog_says_what_a_worker_can_run(app: App) -> None:
    @app.task(name="b")
    def b(x: int) -> int:
        return x

    @app.task(name="a", bind=True)
    def a(self: Any, x: int) -> int:
        return x

    entries = [entry for entry in app.catalog() if entry.name not in BUILT_IN]
    assert [(entry.app, entry.name) for entry in entries] == [("shop", "a"), ("shop", "b")]
    assert entries[0].digest == entries[1].digest
    assert entries[1].signature == "(x: 'int') -> 'int'"


def test_two_functions_cannot_have_one_name_but_one_can_be_defined_again(app: App) -> None:
    def define() -> Any:
        @app.task(name="same")
        def function() -> None: ...

        return function

    assert define() is not define()
    with pytest.raises(ConfigError, match="'same' of App\\('shop'\\) is taken by"):
        app.task(name="same")(len)


def test_what_is_no_function_is_refused(app: App) -> None:
    with pytest.raises(ConfigError, match="is no function"):
        app.task(3)  # type: ignore[call-overload]

    @app.task
    def task() -> None: ...

    with pytest.raises(ConfigError, match="directly above def"):
        app.task(task)


def test_tasks_can_be_any_callable(app: App) -> None:
    assert app.add_task(max, name="max").delay(1, 2).get() == 2
    assert app.add_task(lambda x: x, name="same").delay(1).get() == 1


def test_send_task_calls_what_this_process_need_not_have(app: App, gateway: InlineGateway) -> None:
    result = app.send_task("elsewhere.add", (1,), {"y": 2}, queue="fast", headers={"a": 1})
    [call] = gateway.calls
    assert call.kind.name == "elsewhere.add"
    assert call.kind.digest == ""
    assert call.kind.queue == "fast"
    with pytest.raises(LookupError, match=r"no task elsewhere\.add"):
        result.get(timeout=5)


def test_send_task_uses_the_task_that_is_here(app: App, gateway: InlineGateway) -> None:
    @app.task(name="here", queue="slow")
    def here(x: int) -> int:
        return x

    assert app.send_task("here", (1,)).get() == 1
    assert gateway.calls[0].kind.queue == "slow"


def test_queues_of_call_task_and_app_win_in_this_order(gateway: InlineGateway) -> None:
    app = App("shop", default_queue="third")

    @app.task(queue="second")
    def queued() -> None: ...

    @app.task
    def plain() -> None: ...

    queued.apply_async(queue="first")
    queued.delay()
    plain.delay()
    assert [call.kind.queue for call in gateway.calls] == ["first", "second", "third"]


def test_handles_can_be_made_from_ids(app: App) -> None:
    @app.task
    def task() -> int:
        return 7

    result = task.delay()
    for again in (app.AsyncResult(result.id), task.AsyncResult(result.id), AsyncResult(result.id)):
        assert again.get(timeout=5) == 7


def test_errors_of_tasks_are_raised_with_their_own_type(app: App) -> None:
    class Local(Exception):
        pass

    @app.task
    def fails(kind: str) -> None:
        raise {"value": ValueError("no"), "local": Local("odd")}[kind]

    with pytest.raises(ValueError, match="no") as caught:
        fails.delay("value").get()
    assert "raise {" in caught.value.remote_traceback  # type: ignore[attr-defined]
    with pytest.raises(TaskFailed, match="Local: odd") as failed:
        fails.delay("local").get()
    assert "raise {" in (failed.value.traceback or "")


def test_a_result_that_cannot_travel_is_an_error_of_the_task(app: App) -> None:
    @app.task
    def task() -> object:
        return {"a": [object()]}

    with pytest.raises(TypeError, match=r"the result, \['a'\]\[0\]: type object"):
        task.delay().get()
