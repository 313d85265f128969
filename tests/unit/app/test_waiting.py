"""Waiting for results inside of tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import allow_join_result
from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.resultset import ResultSet


@pytest.fixture
def inside(app: App, gateway: InlineGateway) -> tuple[AsyncResult[Any], ResultSet[Any]]:
    """Handles that a task looks at, of tasks that have not ended."""
    gateway.hold = True
    task = app.task(name="double")(lambda x: 2 * x)
    found = task.delay(1), task.delay_many([(2,), (3,)])
    gateway.inside_task = True
    return found


def test_refusal_names_the_remedies(inside: tuple[AsyncResult[Any], ResultSet[Any]]) -> None:
    for handle in inside:
        with pytest.raises(RuntimeError, match=r"get\(disable_sync_subtasks=False\), or 'with zmq"):
            handle.get(timeout=1)
        with pytest.raises(RuntimeError, match=r"aget\(disable_sync_subtasks=False\)"):
            asyncio.run(handle.aget(timeout=1))


def test_task_that_says_so_may_wait(
    inside: tuple[AsyncResult[Any], ResultSet[Any]], gateway: InlineGateway
) -> None:
    result, results = inside
    thread = gateway.release_in_thread()
    assert result.get(timeout=20, disable_sync_subtasks=False) == 2
    assert asyncio.run(results.aget(timeout=20, disable_sync_subtasks=False)) == [4, 6]
    thread.join()


def test_block_that_allows_it_ends_again(
    inside: tuple[AsyncResult[Any], ResultSet[Any]], gateway: InlineGateway
) -> None:
    result, results = inside
    with allow_join_result():
        thread = gateway.release_in_thread(1)
        assert result.get(timeout=20) == 2
        thread.join()
    with pytest.raises(RuntimeError, match="would hold its worker slot"):
        results.get(timeout=20)
