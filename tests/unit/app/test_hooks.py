"""What is called around attempts: handlers of tasks, signals, and of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.app.worker import Worker
from zmqtasks import Ignore, Reject, Task, signals
from zmqtasks.app import hooks
from zmqtasks.app.app import App
from zmqtasks.app.hooks import ExceptionInfo
from zmqtasks.ids import format_task_id
from zmqtasks.pools.protocol import REQUEUE_STATUS, RETRY_STATUS
from zmqtasks.signals import Signal
from zmqtasks.wire.messages import Status

ID = format_task_id(b"i" * 16)
TOLD: list[tuple[Any, ...]] = []
Connect = Callable[..., list[Any]]


class Telling(Task[Any, Any]):
    """Notes what is called."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        TOLD.append(("before_start", task_id, args, kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        TOLD.append(("on_success", retval, task_id, args, kwargs))

    def on_retry(
        self, exc: BaseException | None, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo
    ) -> None:
        TOLD.append(("on_retry", str(exc), task_id, args, kwargs, str(einfo)[:9]))

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo
    ) -> None:
        TOLD.append(("on_failure", str(exc), task_id, args, kwargs, einfo.type))

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Any,
        kwargs: Any,
        einfo: ExceptionInfo | None,
    ) -> None:
        TOLD.append(("after_return", status, str(retval), task_id, args, kwargs, einfo is None))


@pytest.fixture
def told() -> Iterator[list[tuple[Any, ...]]]:
    TOLD.clear()
    yield TOLD
    assert not hooks.begun, "every attempt is told of to its end"


@pytest.fixture
def connected(told: list[tuple[Any, ...]]) -> Iterator[Callable[..., list[Any]]]:
    """Notes these signals, until the test ends."""
    receivers: list[tuple[Signal, Any]] = []

    def note(name: str) -> Any:
        def receiver(signal: Any, sender: Any, **named: Any) -> None:
            told.append((name, getattr(sender, "name", sender), sorted(named)))

        signal: Signal = getattr(signals, name)
        receivers.append((signal, signal.connect(receiver)))
        return receiver

    yield lambda *names: [note(name) for name in names]
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def names_of(told: list[tuple[Any, ...]]) -> list[str]:
    return [entry[0] for entry in told]


def test_handlers_of_a_success_have_celerys_arguments(
    app: App, told: list[tuple[Any, ...]]
) -> None:
    app.task(name="add", base=Telling)(lambda x, y: x + y)
    with Worker(app) as worker:
        assert worker.value("add", 2, y=3) == 5
    assert told == [
        ("before_start", ID, (2,), {"y": 3}),
        ("on_success", 5, ID, (2,), {"y": 3}),
        ("after_return", "SUCCESS", "5", ID, (2,), {"y": 3}, True),
    ]


def test_handlers_of_a_failure_have_celerys_arguments(
    app: App, told: list[tuple[Any, ...]]
) -> None:
    app.task(name="div", base=Telling)(lambda x: 1 / x)
    with Worker(app) as worker:
        assert worker.run("div", 0).status == Status.FAILURE
    text = "division by zero"
    assert told == [
        ("before_start", ID, (0,), {}),
        ("on_failure", text, ID, (0,), {}, ZeroDivisionError),
        ("after_return", "FAILURE", text, ID, (0,), {}, False),
    ]


def test_handlers_of_a_retry_do_not_count_it_as_returned(
    app: App, told: list[tuple[Any, ...]]
) -> None:
    app.task(name="div", base=Telling, autoretry_for=ZeroDivisionError)(lambda x: 1 / x)
    with Worker(app) as worker:
        assert worker.run("div", 0).status == RETRY_STATUS
        assert names_of(told) == ["before_start", "on_retry"]
        assert told[1] == ("on_retry", "division by zero", ID, (0,), {}, "zmqtasks.")
        told.clear()
        assert worker.attempt("div", (0,), {}, ext={"n": 3}).status == Status.RETRIES_EXHAUSTED
        assert names_of(told) == ["before_start", "on_failure", "after_return"]


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (Ignore(), Status.IGNORED),
        (Reject("no"), Status.REJECTED),
        (Reject("later", requeue=True), REQUEUE_STATUS),
    ],
)
def test_attempts_that_end_without_a_value_or_failure_call_no_handler(
    app: App, told: list[tuple[Any, ...]], connected: Connect, exc: Exception, status: int
) -> None:
    @app.task(name="leave", base=Telling)
    def leave() -> None:
        raise exc

    connected("task_postrun", "task_success", "task_failure")
    with Worker(app) as worker:
        assert worker.run("leave").status == status
    assert names_of(told) == ["before_start", "task_postrun"]


def test_handlers_of_async_tasks_are_called(app: App, told: list[tuple[Any, ...]]) -> None:
    @app.task(name="add", base=Telling)
    async def add(x: int) -> int:
        return x + 1

    with Worker(app) as worker:
        assert worker.value("add", 1) == 2
    assert names_of(told) == ["before_start", "on_success", "after_return"]


def test_what_before_start_raises_ends_the_attempt(app: App, told: list[tuple[Any, ...]]) -> None:
    class Picky(Telling):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise LookupError("nothing to begin with")

    app.task(name="never", base=Picky)(lambda: told.append(("ran",)))
    with Worker(app) as worker:
        outcome = worker.run("never")
    assert outcome.status == Status.FAILURE
    assert "nothing to begin with" in outcome.error
    assert names_of(told) == ["on_failure", "after_return"]


@pytest.mark.parametrize("failing", ["on_success", "after_return"])
def test_what_other_handlers_raise_is_logged_and_changes_nothing(
    app: App, told: list[tuple[Any, ...]], connected: Connect, failing: str
) -> None:
    def fail(self: Any, *args: Any) -> None:
        # Not even this ends the process.
        raise SystemExit("no")

    base = type("Failing", (Telling,), {failing: fail})
    app.task(name="add", base=base)(lambda x: x + 1)
    connected("task_internal_error")
    with Worker(app) as worker:
        assert worker.value("add", 1) == 2
        assert f"{failing}() raised, which changes nothing" in worker.log
        assert "SystemExit: no" in worker.log
    (error,) = [entry for entry in told if entry[0] == "task_internal_error"]
    assert error[1:] == (
        "add",
        ["args", "einfo", "exception", "kwargs", "request", "task_id", "traceback"],
    )


def test_handler_that_asks_for_a_retry_is_told_that_it_is_too_late(app: App) -> None:
    class Late(Task[Any, Any]):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            self.retry(throw=False)

    app.task(name="add", base=Late)(lambda x: x + 1)
    with Worker(app) as worker:
        assert worker.value("add", 1) == 2
        assert "asked for a retry, which is too late" in worker.log
        assert worker.value("add", 2) == 3


def test_handlers_see_the_request(app: App, told: list[tuple[Any, ...]]) -> None:
    class Asking(Task[Any, Any]):
        def after_return(self, *args: Any) -> None:
            told.append((self.request.id, self.request.args))

    app.task(name="add", base=Asking)(lambda x: x + 1)
    with Worker(app) as worker:
        worker.run("add", 1)
    assert told == [(ID, [1])]


def test_what_a_task_keeps_in_itself_stays_for_the_process(app: App) -> None:
    class Connected(Task[Any, Any]):
        _connection: Any = None

        @property
        def connection(self) -> Any:
            if self._connection is None:
                self._connection = ["opened"]
            return self._connection

    @app.task(name="use", bind=True, base=Connected)
    def use(self: Any) -> int:
        self.connection.append("used")
        return len(self.connection)

    with Worker(app) as worker:
        assert [worker.value("use") for _ in range(3)] == [2, 3, 4]


def test_base_class_may_call_the_function_itself(app: App) -> None:
    class Doubling(Task[Any, Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().__call__(*args, **kwargs)

    app.task(name="add", base=Doubling)(lambda x: x + 1)
    with Worker(app) as worker:
        assert worker.value("add", 1) == 4


def test_class_is_told_of_the_application_that_it_is_bound_to(gateway: Any) -> None:
    bound: list[App] = []

    class Bound(Task[Any, Any]):
        @classmethod
        def on_bound(cls, app: App) -> None:
            bound.append(app)

    shop = App("shop")
    shop.task(base=Bound)(len)
    assert bound == [shop]


def test_signals_of_an_attempt_come_in_celerys_order(
    app: App, told: list[tuple[Any, ...]], connected: Connect
) -> None:
    app.task(name="div", base=Telling)(lambda x: 1 / x)
    connected("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")
    with Worker(app) as worker:
        worker.run("div", 1)
        success = names_of(told)
        told.clear()
        worker.run("div", 0)
    assert success == [
        "task_prerun",
        "before_start",
        "on_success",
        "task_success",
        "after_return",
        "task_postrun",
    ]
    assert names_of(told) == [
        "task_prerun",
        "before_start",
        "on_failure",
        "task_failure",
        "after_return",
        "task_postrun",
    ]
    assert told[0] == ("task_prerun", "div", ["args", "kwargs", "task", "task_id"])
    assert told[3][2] == ["args", "einfo", "exception", "kwargs", "task_id", "traceback"]
    assert told[5][2] == ["args", "kwargs", "retval", "state", "task", "task_id"]


def test_retry_signal_has_the_request_and_the_reason(
    app: App, told: list[tuple[Any, ...]], connected: Connect
) -> None:
    app.task(name="div", autoretry_for=ZeroDivisionError)(lambda x: 1 / x)
    connected("task_retry")
    with Worker(app) as worker:
        worker.run("div", 0)
    assert told == [("task_retry", "div", ["einfo", "reason", "request"])]


def test_receiver_that_comes_or_goes_while_tasks_run_counts_from_the_next_attempt(
    app: App, told: list[tuple[Any, ...]], connected: Connect
) -> None:
    app.task(name="add")(lambda x: x + 1)
    with Worker(app) as worker:
        worker.run("add", 1)
        (receiver,) = connected("task_success")
        worker.run("add", 1)
        assert names_of(told) == ["task_success"]
        signals.task_success.disconnect(receiver)
        worker.run("add", 1)
        assert names_of(told) == ["task_success"]


def test_task_that_must_not_run_twice_calls_no_handler_when_it_is_not_started(
    app: App, told: list[tuple[Any, ...]]
) -> None:
    app.task(name="pay", base=Telling, idempotent=False)(lambda: None)
    with Worker(app) as worker:
        assert worker.attempt("pay", (), {}, attempt=2).status == Status.WORKER_LOST
    assert not told


def test_process_tells_of_its_beginning_and_its_end(
    app: App, told: list[tuple[Any, ...]], connected: Connect
) -> None:
    connected("worker_process_init", "worker_process_shutdown")
    with Worker(app) as worker:
        worker.program.begin_process()
        assert names_of(told) == ["worker_process_init"]
        worker.program.end_process()
    assert told[1] == ("worker_process_shutdown", None, ["exitcode", "pid"])
