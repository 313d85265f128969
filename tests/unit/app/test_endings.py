"""What a node is told of attempts that raised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from zmqtasks.app.app import App
from zmqtasks.app.endings import Endings
from zmqtasks.app.outcomes import error_of
from zmqtasks.errors import Ignore, Reject, TaskRejected
from zmqtasks.limits import LOG_LINE_CHARS_MAX
from zmqtasks.pools.protocol import REQUEUE_STATUS, ChildOutcome, LogRecord, RunTask
from zmqtasks.wire.messages import Outcome, Status

Raised = Callable[..., ChildOutcome]


@pytest.fixture
def lines() -> list[LogRecord]:
    return []


@pytest.fixture
def raised(app: App, lines: list[LogRecord]) -> Raised:
    """The outcome of an attempt that raised this."""

    @app.task(name="t", throws=[LookupError, OSError], autoretry_for=(Exception,), max_retries=0)
    def task() -> None: ...

    def raised(
        exc: BaseException, name: str = "t", ext: dict[str, Any] | None = None, level: str = "INFO"
    ) -> ChildOutcome:
        run = RunTask(b"i" * 16, 1, "shop", name, "fast", b"o" * 8, b"", ext)
        try:
            raise exc
        except BaseException as caught:  # noqa: BLE001 - as a child does
            return Endings(app, lines.append, level).raised(run, 5, 7, caught)

    return raised


def test_ignore_ends_it_without_a_word(raised: Raised, lines: list[LogRecord]) -> None:
    outcome = raised(Ignore())
    assert (outcome.status, outcome.body, outcome.error) == (Status.IGNORED, b"", "")
    assert (outcome.started_ms, outcome.run_us, outcome.ext) == (5, 7, None)
    assert [(line.level, line.text) for line in lines] == [(logging.INFO, "ended as IGNORED")]


def test_reject_is_told_with_its_reason(raised: Raised, lines: list[LogRecord]) -> None:
    outcome = raised(Reject(ValueError("no such user")))
    assert (outcome.status, outcome.body) == (Status.REJECTED, b"")
    told = Outcome(outcome.id, 1, outcome.status, 1, 0, 0, 0, 0, b"", {"e": outcome.error})
    error = error_of(told)
    assert type(error) is TaskRejected
    assert str(error).endswith(": rejected: no such user")
    assert lines[0].text == "rejected: no such user"


def test_reject_may_ask_for_another_attempt_which_is_counted(raised: Raised) -> None:
    outcome = raised(Reject("not here", requeue=True))
    assert outcome.status == REQUEUE_STATUS
    assert outcome.ext == {"in": 10, "ext": {"rq": 1}}
    assert raised(Reject(requeue=True), ext={"rq": 4}).ext == {"in": 160, "ext": {"rq": 5}}


def test_a_task_that_rejects_itself_for_ever_comes_back_ever_more_rarely(raised: Raised) -> None:
    for rejected in (20, 1_000_000):
        outcome = raised(Reject(requeue=True), ext={"rq": rejected})
        assert outcome.ext == {"in": 10_000, "ext": {"rq": rejected + 1}}


def test_expected_errors_are_logged_in_one_line(raised: Raised, lines: list[LogRecord]) -> None:
    raised(KeyError("x"))
    assert [(line.level, line.text) for line in lines] == [
        (logging.INFO, "raised after its last retry, as it may: KeyError: 'x'")
    ]


def test_other_errors_are_logged_with_their_traceback(
    raised: Raised, lines: list[LogRecord]
) -> None:
    raised(SystemExit("\udc80"))
    [line] = lines
    assert line.level == logging.ERROR
    first, *trace = line.text.splitlines()
    assert first == "raised: SystemExit: \\udc80"
    assert trace[0] == "Traceback (most recent call last):"
    assert (line.id, line.name, line.stream, line.logger) == (b"i" * 16, "t", "logging", "")


def test_what_nobody_would_log_is_not_sent(raised: Raised, lines: list[LogRecord]) -> None:
    raised(KeyError("x"), level="WARNING")
    assert not lines
    raised(ValueError("x"), level="WARNING")
    assert len(lines) == 1


def test_long_errors_are_cut(raised: Raised, lines: list[LogRecord]) -> None:
    outcome = raised(ValueError("x" * 1_000_000))
    assert len(outcome.error) < 10_000
    assert len(lines[0].text) < LOG_LINE_CHARS_MAX + 100


def test_an_error_whose_text_cannot_be_made_is_told_all_the_same(raised: Raised) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert raised(Odd()).error == "Odd: <its text cannot be made>"


def test_an_attempt_of_a_task_that_is_not_here_fails(raised: Raised) -> None:
    assert raised(LookupError("no task"), name="gone").status == Status.FAILURE
