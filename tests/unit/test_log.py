"""The logger for tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from zmqtasks.ids import format_task_id
from zmqtasks.log import get_task_logger
from zmqtasks.pools.protocol import RunTask
from zmqtasks.pools.running import set_running


@pytest.fixture
def running() -> Iterator[RunTask]:
    task = RunTask(b"i" * 16, 1, "shop", "tasks.add", "default", b"o" * 8, b"", None)
    set_running(task)
    yield task
    set_running(None)


def test_records_know_their_task(caplog: pytest.LogCaptureFixture, running: RunTask) -> None:
    logger = get_task_logger("some.module")
    assert get_task_logger("some.module") is logger is logging.getLogger("some.module")
    with caplog.at_level(logging.INFO, "some.module"):
        logger.info("at it")
    (record,) = caplog.records
    assert record.__dict__["task_name"] == "tasks.add"
    assert record.__dict__["task_id"] == format_task_id(running.id)


def test_records_from_outside_of_tasks_say_so(caplog: pytest.LogCaptureFixture) -> None:
    get_task_logger("some.module").warning("alone")
    formatter = logging.Formatter("%(task_name)s %(task_id)s %(message)s")
    assert formatter.format(caplog.records[0]) == "None None alone"
