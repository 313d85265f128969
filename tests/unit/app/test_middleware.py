"""Middleware around calls and attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from tests.unit.app.worker import Worker
from zmqtasks.app.app import App
from zmqtasks.app.context import TaskContext
from zmqtasks.app.middleware import OutgoingCall
from zmqtasks.errors import AppLoadError, ConfigError
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_arguments


class Noting:
    """Around everything."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def submit(self, call: OutgoingCall) -> None:
        self.notes.append(f"{self.name} submits {call.task}")

    def run(self, call_next: Callable[[], Any], context: TaskContext) -> Any:
        self.notes.append(f"{self.name} begins {context.name}")
        try:
            return call_next()
        finally:
            self.notes.append(f"{self.name} ends")

    async def arun(self, call_next: Callable[[], Any], context: TaskContext) -> Any:
        self.notes.append(f"{self.name} awaits {context.name}")
        try:
            return await call_next()
        finally:
            self.notes.append(f"{self.name} ends")


def test_first_one_is_the_outermost(gateway: InlineGateway) -> None:
    notes: list[str] = []
    app = App("shop", middleware=[Noting("outer", notes)])
    app.add_middleware(Noting("inner", notes))

    @app.task(name="add")
    def add(x: int) -> int:
        notes.append("runs")
        return x + 1

    add.delay(1)
    assert notes == ["outer submits add", "inner submits add", "runs"]
    notes.clear()
    with Worker(app) as worker:
        assert worker.value("add", 1) == 2
    assert notes == ["outer begins add", "inner begins add", "runs", "inner ends", "outer ends"]


def test_async_tasks_have_it_too(app: App) -> None:
    notes: list[str] = []
    app.add_middleware(Noting("m", notes))

    @app.task(name="add")
    async def add(x: int) -> int:
        notes.append("runs")
        return x + 1

    with Worker(app) as worker:
        assert worker.value("add", 1) == 2
    assert notes == ["m awaits add", "runs", "m ends"]


def test_what_it_raises_or_returns_is_the_end_of_the_attempt(app: App) -> None:
    class Gate:
        def run(self, call_next: Callable[[], Any], context: TaskContext) -> Any:
            if context.args[0] < 0:
                raise ValueError("too small")
            return call_next() if context.args[0] else "instead"

    app.add_middleware(Gate())
    app.task(name="same")(lambda x: x)
    with Worker(app) as worker:
        assert worker.value("same", 1) == 1
        assert worker.value("same", 0) == "instead"
        outcome = worker.run("same", -1)
    assert (outcome.status, outcome.error) == (Status.FAILURE, "ValueError: too small")


def test_submit_may_change_arguments_headers_and_options(app: App, gateway: InlineGateway) -> None:
    class Changing:
        def submit(self, call: OutgoingCall) -> None:
            call.args = (*call.args, 7)
            call.headers["trace"] = "t-1"
            call.options["queue"] = "other"

    @app.task(name="pair")
    def pair(x: int, y: int = 0) -> list[int]:
        return [x, y]

    app.add_middleware(Changing())
    headers = {"own": 1}
    assert pair.apply_async((1,), headers=headers).get(timeout=5) == [1, 7]
    assert headers == {"own": 1}
    (call,) = gateway.calls
    assert call.kind.queue == "other"
    assert call.ext is not None
    assert call.ext["h"] == {"own": 1, "trace": "t-1"}


def test_submit_sees_every_way_to_call(app: App, gateway: InlineGateway) -> None:
    notes: list[str] = []

    @app.task(name="add")
    def add(x: int) -> int:
        return x + 1

    add.delay(0)  # before: its shortcut must not be taken any more
    app.add_middleware(Noting("m", notes))
    add.delay(1)
    add.apply_async((2,))
    app.send_task("unknown", (3,))
    assert add.delay_many([(4,), {"x": 5}]).get(timeout=5) == [5, 6]
    assert notes == ["m submits add"] * 2 + ["m submits unknown"] + ["m submits add"] * 2
    assert [decode_arguments(call.body)[0] for call in gateway.calls[:4]] == [[0], [1], [2], [3]]


def test_what_submit_raises_reaches_the_caller_and_nothing_is_submitted(
    app: App, gateway: InlineGateway
) -> None:
    class Refusing:
        def submit(self, call: OutgoingCall) -> None:
            raise PermissionError(call.task)

    app.add_middleware(Refusing())
    with pytest.raises(PermissionError, match="add"):
        app.task(name="add")(len).delay("x")
    assert not gateway.calls


def test_options_that_submit_makes_up_are_refused(app: App, gateway: InlineGateway) -> None:
    class Wrong:
        def submit(self, call: OutgoingCall) -> None:
            call.options["quue"] = "other"

    app.add_middleware(Wrong())
    with pytest.raises(ConfigError, match="after middleware: unknown option 'quue'"):
        app.task(name="add")(len).delay("x")


def test_one_of_many_calls_cannot_have_a_durability_of_its_own(app: App) -> None:
    class Durable:
        def submit(self, call: OutgoingCall) -> None:
            call.options["durability"] = "disk"

    app.add_middleware(Durable())
    with pytest.raises(ConfigError, match="middleware cannot give one of many calls"):
        app.task(name="add")(len).delay_many([("x",)])


@pytest.mark.parametrize("is_async", [True, False])
def test_middleware_that_would_pass_by_a_task_stops_the_worker(app: App, is_async: bool) -> None:
    class Half:
        def __repr__(self) -> str:
            return "Half()"

    setattr(Half, "run" if is_async else "arun", lambda self, call_next, context: call_next())

    async def later() -> None: ...

    app.add_middleware(Half())
    app.task(name="it")(later if is_async else len)
    with pytest.raises(AppLoadError, match=r"Half\(\) has a?run\(\) only, and task it is"):
        Worker(app).__enter__()


class _NoMethods: ...


class _AsyncRun:
    async def run(self, call_next: Any, context: Any) -> None: ...


class _NoMethod:
    run = 3


@pytest.mark.parametrize(
    ("middleware", "reason"),
    [
        (_NoMethods(), "is no middleware"),
        (_AsyncRun, "is a class"),
        (_AsyncRun(), "must be plain functions"),
        (_NoMethod(), "run of .* is no method"),
    ],
)
def test_what_would_never_be_called_is_refused(app: App, middleware: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        app.add_middleware(middleware)
