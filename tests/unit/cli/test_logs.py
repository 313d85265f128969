"""How log lines look."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from zmqtasks.cli.logs import JsonFormatter, set_up_logging


def record(message: str, *args: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("zmqtasks.pools", logging.WARNING, "", 0, message, args, None)
    made.created = 1_700_000_000.25
    vars(made).update(extra)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter("w1").format(made)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_what_every_line_has() -> None:
    assert line(record("two\nlines of %s", "ü")) == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "WARNING",
        "logger": "zmqtasks.pools",
        "message": "two\nlines of ü",
        "node": "w1",
    }


@pytest.mark.parametrize(
    ("made", "event"),
    [
        (record("child.failed slot=%d", 2), "child.failed"),
        (record("journal.none: no room"), "journal.none"),
        (record("lost w2", event="peer.lost"), "peer.lost"),
        (record("stopped."), None),
        (record("example.com/index.html was fetched"), None),
    ],
)
def test_what_has_a_name_is_an_event(made: logging.LogRecord, event: str | None) -> None:
    assert line(made).get("event") == event


def test_what_a_task_wrote_has_its_id_and_name() -> None:
    found = line(record("tasks.add[7] stdout: hello", task_id="7", task_name="tasks.add",
                        source="stdout", task_text="hello"))  # fmt: skip
    assert (found["task_id"], found["task_name"], found["source"]) == ("7", "tasks.add", "stdout")
    assert found["message"] == "hello"


def test_a_traceback_has_a_field_of_its_own() -> None:
    made = record("it failed")
    try:
        raise ValueError("bad")
    except ValueError:
        made.exc_info = sys.exc_info()
    found = line(made)
    assert found["message"] == "it failed"
    assert found["traceback"].endswith("ValueError: bad")


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    both = [logging.getLogger("zmqtasks"), logging.getLogger()]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in both]
    yield both
    for logger, (handlers, level, propagate) in zip(both, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def test_a_format_that_is_known_later_replaces_the_first_one(
    loggers: list[logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    for logger in loggers:
        logger.handlers.clear()
    set_up_logging("INFO")
    set_up_logging("DEBUG", "json", "w1")
    logging.getLogger("zmqtasks.node").debug("up")
    logging.getLogger("shop").warning("low")
    found = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [(entry["logger"], entry["message"]) for entry in found] == [
        ("zmqtasks.node", "up"),
        ("shop", "low"),
    ]
