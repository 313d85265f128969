"""Routes by name, pattern and function, and who overrules whom."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.routes import Router
from zmqtasks.errors import ConfigError

BY_NAME = {
    "tasks.*": {"queue": "all", "priority": 1},
    re.compile(r"(video|image)\..+"): "media",
    "tasks.pay": {"queue": "money"},
    "tasks.[xy]": "unreached",
}


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("tasks.pay", {"queue": "money"}),
        ("tasks.add", {"queue": "all", "priority": 1}),
        ("tasks.x", {"queue": "all", "priority": 1}),
        ("video.cut", {"queue": "media"}),
        ("my.video.cut", {}),
        ("other", {}),
    ],
)
@pytest.mark.parametrize(
    "routes", [BY_NAME, list(BY_NAME.items()), [BY_NAME], [list(BY_NAME.items())]]
)
def test_names_come_before_patterns_and_patterns_in_their_order(
    routes: Any, name: str, route: dict[str, Any]
) -> None:
    router = Router(routes)
    assert router.route(name, (), {}, {}, None) == route
    assert not router.is_dynamic


def test_the_first_router_with_a_route_decides() -> None:
    def by_size(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
        return "big" if len(args[0]) > 3 else None

    router = Router([by_size, {"a.*": "small"}])
    assert router.is_dynamic
    assert router.route("a.b", ("xxxx",), {}, {}, None) == {"queue": "big"}
    assert router.route("a.b", ("x",), {}, {}, None) == {"queue": "small"}
    assert router.route("b", ("x",), {}, {}, None) == {}


def test_a_router_is_imported_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    router, dotted = Router("late_routes:route"), Router(["late_routes.table"])
    with pytest.raises(ConfigError, match="the router 'late_routes:route' cannot be imported"):
        router.route("a", (), {}, {}, None)
    module = ModuleType("late_routes")
    module.route = lambda *_, task: {"queue": "q", "priority": None}  # type: ignore[attr-defined]
    module.table = {"a": "t"}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "late_routes", module)
    assert router.route("a", (), {}, {}, None) == {"queue": "q"}
    assert dotted.route("a", (), {}, {}, None) == {"queue": "t"}


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        (3, "3 is no router"),
        ([3], "3 is no router"),
        ({3: "x"}, "3 is neither the name of a task, nor a glob"),
        ({"a": 3}, "task_routes['a']: a route is a queue or a dict of options, not 3"),
        ({"a": {"queue": "a b"}}, "task_routes['a']: queue = 'a b': "),
        ({"a": {"quee": "x"}}, "a route cannot say 'quee'; it may have expires, priority, queue"),
        ({"a": {"countdown": 3}}, "a route cannot say 'countdown'"),
        ({"a": {"priority": 10}}, "from 0 to 9"),
        ([[("a", "x"), "b"]], "'b' is no pair"),
    ],
)
def test_wrong_routes_are_refused_when_set(app: App, routes: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        app.conf.task_routes = routes
    assert words in str(caught.value)


def test_a_function_that_gives_no_route_is_named(app: App) -> None:
    def route(*_: Any, **__: Any) -> int:
        return 5

    app.conf.task_routes = route
    with pytest.raises(ConfigError, match=r"route\(\) for task a: a route is a queue or a dict"):
        app.send_task("a")


def test_the_call_is_heard_before_its_task_before_a_route(app: App, gateway: InlineGateway) -> None:
    app.conf.update(task_routes={"*": {"queue": "routed", "priority": 3}}, task_default_priority=1)
    plain = app.task(name="plain")(lambda: None)
    own = app.task(name="own", queue="own", priority=5)(lambda: None)
    plain.delay()
    own.delay()
    own.apply_async(queue="call", priority=7)
    own.apply_async(queue=None, priority=0)
    plain.delay_many([()])
    app.send_task("elsewhere")
    assert [(call.kind.queue, call.ext) for call in gateway.calls] == [
        ("routed", {"pri": 3}),
        ("own", {"pri": 5}),
        ("call", {"pri": 7}),
        ("own", None),
        ("routed", {"pri": 3}),
        ("routed", {"pri": 3}),
    ]


def test_a_route_by_name_leaves_delay_as_fast_as_it_was(app: App, gateway: InlineGateway) -> None:
    app.conf.task_routes = {"plain": "fast"}
    plain = app.task(name="plain")(lambda: None)
    plain.delay()
    assert plain._plain_kind is not None
    plain.delay()
    assert [call.kind.queue for call in gateway.calls] == ["fast", "fast"]
    assert gateway.calls[0].kind is gateway.calls[1].kind


def test_a_function_sees_each_call(app: App, gateway: InlineGateway) -> None:
    seen: list[Any] = []

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> str:
        seen.append((name, options, task))
        return f"q{args[0] if args else kwargs['x']}"

    app.conf.task_routes = [route]
    add = app.task(name="add", priority=2)(lambda x: x)
    add.delay(1)
    add.delay(2)
    add.apply_async((), {"x": 3}, headers={"a": 1})
    assert add.delay_many([(4,), {"x": 5}] * 600).get(timeout=5) == [4, 5] * 600
    app.send_task("other", (6,))
    assert [call.kind.queue for call in gateway.calls[:5]] == ["q1", "q2", "q3", "q4", "q5"]
    assert gateway.calls[-1].kind.queue == "q6"
    assert seen[2] == ("add", {"priority": 2, "headers": {"a": 1}}, add)
    assert seen[-1] == ("other", {}, None)


def test_routes_cannot_change_once_they_are_used(app: App, gateway: InlineGateway) -> None:
    app.send_task("a")
    with pytest.raises(ConfigError, match="cannot change any more"):
        app.conf.task_routes = {"a": "b"}
