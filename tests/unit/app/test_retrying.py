"""Attempts that ask for another one, and those that may not any more."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from zmqtasks.app import retrying, timing
from zmqtasks.app.app import App
from zmqtasks.app.childmain import AppProgram
from zmqtasks.app.outcomes import error_of
from zmqtasks.errors import (
    ConfigError,
    MaxRetriesExceededError,
    PayloadTypeError,
    Retry,
    SoftTimeLimitExceeded,
)
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.protocol import RETRY_STATUS, ChildOutcome, LogRecord, RunTask
from zmqtasks.pools.running import set_running
from zmqtasks.wire.messages import Outcome, Status
from zmqtasks.wire.payload import decode_arguments, decode_error, decode_value, encode_arguments

NOW_MS = 1_800_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
Execute = Callable[..., ChildOutcome]


@pytest.fixture
def lines() -> list[LogRecord]:
    """What the node is to log."""
    return []


@pytest.fixture
def execute(app: App, lines: list[LogRecord], monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Defines a task of a function and runs an attempt of it, as a child does.

    Keyword arguments are options of the task, but for ``ext`` and ``attempt`` of the run.
    """
    monkeypatch.setattr(timing, "now_ms", lambda: NOW_MS)

    def execute(function: Any, *args: Any, **options: Any) -> ChildOutcome:
        ext, attempt = options.pop("ext", None), options.pop("attempt", 1)
        facts = {key: options.pop(key) for key in ("soft_ms",) if key in options}
        app.tasks.clear()
        bind = options.pop("bind", True)
        app.task(name="t", bind=bind, **options)(function)
        program = AppProgram(app, (KeyboardInterrupt,), PoolConfig("tasks"), lines.append)
        body = encode_arguments(args, {})
        run = RunTask(b"i" * 16, attempt, "shop", "t", "fast", b"o" * 8, body, ext, **facts)
        set_running(run)
        try:
            return program.execute(run)
        finally:
            set_running(None)
            program._forget_loop()
            assert not retrying.asked

    return execute


def error_in(outcome: ChildOutcome) -> Exception | None:
    """What ``get()`` would raise."""
    told = Outcome(outcome.id, 1, outcome.status, 1, 0, 0, 0, 0, outcome.body, None)
    return error_of(told)


def delay_ms_of(outcome: ChildOutcome) -> int:
    assert outcome.status == RETRY_STATUS, outcome.error
    assert outcome.ext is not None
    delay_ms: int = outcome.ext["in"]
    return delay_ms


# --- self.retry -------------------------------------------------------------------------


def test_retry_ends_the_attempt_and_asks_for_another(
    execute: Execute, lines: list[LogRecord]
) -> None:
    def fetch(self: Any) -> None:
        try:
            raise ConnectionError("no route")
        except ConnectionError as exc:
            self.retry(exc=exc, countdown=2.5)

    outcome = execute(fetch)
    assert (outcome.status, outcome.error) == (RETRY_STATUS, "ConnectionError: no route")
    assert outcome.ext == {"in": 2500}
    error = decode_error(outcome.body)
    assert (type(error), str(error)) == (ConnectionError, "no route")
    assert [(line.level, line.text) for line in lines] == [
        (logging.INFO, "is retried in 2.5 s: ConnectionError: no route")
    ]
    assert (lines[0].id, lines[0].name) == (b"i" * 16, "t")


@pytest.mark.parametrize(
    ("wish", "delay_ms"),
    [
        ({}, 180_000),
        ({"countdown": 0}, 0),
        ({"countdown": -1}, 0),
        ({"eta": NOW + timedelta(minutes=1)}, 60_000),
        ({"eta": NOW - timedelta(minutes=1)}, 0),
        ({"eta": NOW.replace(tzinfo=None) + timedelta(minutes=1)}, 60_000),
    ],
)
def test_when_the_next_attempt_is_due(execute: Execute, wish: Any, delay_ms: int) -> None:
    def fetch(self: Any) -> None:
        self.retry(**wish)

    assert delay_ms_of(execute(fetch)) == delay_ms


def test_default_delay_is_that_of_the_task(execute: Execute) -> None:
    assert delay_ms_of(execute(lambda self: self.retry(), default_retry_delay=7)) == 7000


def test_new_arguments_and_facts_travel_with_the_retry(execute: Execute) -> None:
    def add(self: Any, x: int, y: int = 0) -> None:
        self.retry(
            kwargs={"y": 5}, countdown=1, priority=0, headers={"a": 1}, time_limit=9, expires=60,
            argsrepr="(*)",
        )  # fmt: skip

    ext = execute(add, 3, soft_time_limit=4).ext
    assert ext is not None
    assert decode_arguments(ext["body"]) == ([3], {"y": 5})
    assert ext["ext"] == {
        "pri": 0, "h": {"a": 1}, "tl": [4000, 9000], "exp": NOW_MS + 60_000, "ar": "(*)",
    }  # fmt: skip


def test_retries_are_used_up_at_the_limit_of_the_task(execute: Execute) -> None:
    def fetch(self: Any) -> None:
        raise self.retry(exc=ConnectionError("no route"))

    assert execute(fetch, ext={"n": 2}).status == RETRY_STATUS
    outcome = execute(fetch, ext={"n": 3})
    assert (outcome.status, outcome.ext) == (Status.RETRIES_EXHAUSTED, None)
    error = error_in(outcome)
    assert (type(error), str(error)) == (ConnectionError, "no route")
    assert execute(fetch, max_retries=None, ext={"n": 1000}).status == RETRY_STATUS
    assert execute(fetch, max_retries=0).status == Status.RETRIES_EXHAUSTED


def test_retries_without_an_error_end_in_one_of_their_own(
    execute: Execute, lines: list[LogRecord]
) -> None:
    outcome = execute(lambda self: self.retry(max_retries=1), ext={"n": 1}, max_retries=None)
    error = error_in(outcome)
    assert type(error) is MaxRetriesExceededError
    assert str(error).endswith("asked for more than 1 retries")
    assert outcome.status == Status.RETRIES_EXHAUSTED
    assert lines[-1].level == logging.ERROR
    assert lines[-1].text.startswith(
        "raised after its last retry: MaxRetriesExceededError: task t["
    )


def test_who_catches_the_end_of_its_retries_may_end_otherwise(execute: Execute) -> None:
    def fetch(self: Any, how: str) -> str:
        try:
            self.retry(exc=ConnectionError("no route"))
        except ConnectionError:
            if how == "raise":
                raise LookupError("given up") from None
            return "given up"
        return "unreached"

    outcome = execute(fetch, "return", max_retries=0)
    assert decode_value(outcome.body) == "given up"
    outcome = execute(fetch, "raise", max_retries=0)
    assert (outcome.status, type(error_in(outcome))) == (Status.FAILURE, LookupError)


@pytest.mark.parametrize("how", ["return", "return it", "raise", "raise it"])
def test_a_retry_that_is_not_thrown_follows_however_the_attempt_ends(
    execute: Execute, how: str
) -> None:
    def fetch(self: Any) -> Any:
        retry = self.retry(throw=False, countdown=3, exc=OSError("no"))
        assert isinstance(retry, Retry)
        if how == "raise it":
            raise retry
        if how == "raise":
            raise LookupError("meanwhile")
        return retry if how == "return it" else 5

    outcome = execute(fetch)
    assert (delay_ms_of(outcome), outcome.error) == (3000, "OSError: no")


@pytest.mark.parametrize(
    ("raised", "delay_ms"),
    [
        (Retry(), 180_000),
        (Retry("later", when=5), 5000),
        (Retry("later", when=NOW + timedelta(hours=1)), 3_600_000),
    ],
)
def test_retry_may_be_raised_as_it_is(execute: Execute, raised: Retry, delay_ms: int) -> None:
    def fetch() -> None:
        raise raised

    assert delay_ms_of(execute(fetch, bind=False)) == delay_ms
    outcome = execute(fetch, bind=False, ext={"n": 3})
    assert outcome.status == Status.RETRIES_EXHAUSTED
    assert type(error_in(outcome)) is MaxRetriesExceededError


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({"queue": "slow"}, ConfigError, "queue stays as it is in a retry"),
        ({"task_id": "x"}, ConfigError, "task_id stays as it is in a retry"),
        ({"compression": 3}, ConfigError, "option 'compression' of Celery is not supported yet"),
        ({"countdown": "5"}, ConfigError, "t.retry(): countdown is seconds from now"),
        ({"countdown": 5, "eta": NOW}, ConfigError, "countdown and eta both say when"),
        ({"countdown": 5, "expires": 3}, ConfigError, "it would expire"),
        ({"max_retries": -1}, ConfigError, "t.retry(): max_retries is a whole number"),
        ({"args": (1, 2)}, TypeError, "takes 0 positional arguments"),
        ({"args": "text"}, TypeError, "args is a tuple or list"),
        ({"kwargs": {"x": object()}}, TypeError, "unexpected keyword argument"),
    ],
)
def test_wrong_wishes_are_errors_of_the_task(
    execute: Execute, wish: Any, error: type[Exception], words: str
) -> None:
    def fetch(self: Any) -> None:
        self.retry(**wish)

    outcome = execute(fetch)
    raised = error_in(outcome)
    assert (outcome.status, type(raised)) == (Status.FAILURE, error)
    assert words in str(raised)


def test_new_arguments_that_cannot_travel_are_named(execute: Execute) -> None:
    outcome = execute(lambda self, x=0: self.retry(args=(object(),)))
    assert type(error_in(outcome)) is PayloadTypeError


def test_a_coroutine_may_ask_for_a_retry_too(execute: Execute) -> None:
    async def fetch(self: Any) -> None:
        await asyncio.sleep(0)
        self.retry(countdown=1)

    assert delay_ms_of(execute(fetch)) == 1000


def test_called_directly_it_raises_the_error_or_retry(app: App) -> None:
    @app.task(bind=True)
    def fetch(self: Any, exc: Exception | None) -> None:
        self.retry(exc=exc, countdown=5)

    with pytest.raises(ConnectionError):
        fetch(ConnectionError("no route"))
    with pytest.raises(Retry, match="Task can be retried"):
        fetch(None)


def test_a_task_that_is_called_inside_another_is_called_directly(
    app: App, execute: Execute
) -> None:
    def outer(self: Any) -> list[Any]:
        @app.task(name="inner", bind=True)
        def inner(self: Any) -> None:
            assert self.request.called_directly
            self.retry(exc=LookupError("inner"))

        with pytest.raises(LookupError):
            inner()
        return [self.request.called_directly, self.request.id is None]

    assert decode_value(execute(outer).body) == [False, False]


# --- autoretry_for ----------------------------------------------------------------------


def fail_with(exc: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise exc

    return fail


@pytest.mark.parametrize(
    ("exc", "is_retried"),
    [
        (ConnectionError("x"), True),
        (ConnectionResetError("x"), True),
        (ConnectionRefusedError("x"), False),
        (ValueError("x"), False),
        (SystemExit(3), True),
    ],
)
def test_autoretry_is_for_some_errors_and_not_for_others(
    execute: Execute, exc: BaseException, is_retried: bool
) -> None:
    outcome = execute(
        fail_with(exc), bind=False, autoretry_for=[ConnectionError, SystemExit],
        dont_autoretry_for=ConnectionRefusedError,
    )  # fmt: skip
    assert outcome.status == (RETRY_STATUS if is_retried else Status.FAILURE)
    assert outcome.error.startswith(type(exc).__name__)


def test_autoretry_ends_with_the_error_itself(execute: Execute) -> None:
    options: Any = {"autoretry_for": OSError, "bind": False}
    kwargs = {"retry_kwargs": {"max_retries": 5, "countdown": 2}}
    assert delay_ms_of(execute(fail_with(OSError("x")), ext={"n": 2}, **options)) == 180_000
    assert delay_ms_of(execute(fail_with(OSError("x")), ext={"n": 4}, **options, **kwargs)) == 2000
    for outcome in (
        execute(fail_with(OSError("x")), ext={"n": 3}, **options),
        execute(fail_with(OSError("x")), ext={"n": 5}, **options, **kwargs),
    ):
        assert outcome.status == Status.RETRIES_EXHAUSTED
        assert type(error_in(outcome)) is OSError
        assert "in fail" in getattr(error_in(outcome), "remote_traceback")  # noqa: B009 - untyped


def test_what_retry_raises_at_the_limit_is_not_retried_by_itself(execute: Execute) -> None:
    def fetch(self: Any) -> None:
        self.retry(exc=OSError("x"), max_retries=0)

    outcome = execute(fetch, autoretry_for=OSError, max_retries=10)
    assert outcome.status == Status.RETRIES_EXHAUSTED


def test_a_soft_time_limit_is_an_error_like_others(execute: Execute) -> None:
    outcome = execute(
        fail_with(SoftTimeLimitExceeded("2 s")), bind=False, autoretry_for=(Exception,)
    )
    assert outcome.status == RETRY_STATUS


@pytest.mark.parametrize(
    ("options", "retries", "delay_ms"),
    [
        ({"retry_backoff": True}, 0, 1000),
        ({"retry_backoff": True}, 3, 8000),
        ({"retry_backoff": True}, 20, 600_000),
        ({"retry_backoff": True}, 5000, 600_000),
        ({"retry_backoff": 3}, 2, 12_000),
        ({"retry_backoff": 0.5}, 0, 500),
        ({"retry_backoff": 3, "retry_backoff_max": 5}, 2, 5000),
        ({"retry_backoff": False, "default_retry_delay": 4}, 2, 4000),
        ({"retry_backoff": True, "retry_kwargs": {"countdown": 99}}, 0, 1000),
    ],
)
def test_backoff_doubles_up_to_its_maximum(
    execute: Execute, options: Any, retries: int, delay_ms: int
) -> None:
    outcome = execute(
        fail_with(OSError()), bind=False, autoretry_for=OSError, retry_jitter=False,
        max_retries=None, ext={"n": retries}, **options,
    )  # fmt: skip
    assert delay_ms_of(outcome) == delay_ms


def test_jitter_takes_any_part_of_the_delay(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    monkeypatch.setattr(random, "uniform", uniform)
    outcome = execute(
        fail_with(OSError()), bind=False, autoretry_for=OSError, retry_backoff=True, ext={"n": 2}
    )
    assert (delay_ms_of(outcome), drawn) == (1000, [(0, 4.0)])
