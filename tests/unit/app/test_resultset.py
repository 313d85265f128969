"""Result sets: order, errors, progress, and no handles before they are asked for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.errors import TaskDead, TimeoutError
from zmqtasks.wire.messages import Status


@pytest.fixture
def echo(app: App) -> Any:
    @app.task(name="echo")
    def echo(value: Any) -> Any:
        if value == "error":
            raise ValueError("no")
        if value == "other":
            raise KeyError("other")
        return value

    return echo


@pytest.fixture
def held(gateway: InlineGateway) -> InlineGateway:
    gateway.hold = True
    return gateway


def calls(count: int) -> list[tuple[int]]:
    return [(i,) for i in range(count)]


def test_values_come_in_the_order_of_the_calls(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many(calls(3000))
    assert (len(results), results.completed_count(), results.ready()) == (3000, 0, False)
    held._held.reverse()
    thread = held.release_in_thread()
    assert results.get(timeout=60) == list(range(3000))
    thread.join()
    assert results.ready()
    assert results.successful()
    assert not results.waiting()
    assert not results._handles


def test_aget_and_await(echo: Any, held: InlineGateway) -> None:
    async def main() -> None:
        results = echo.delay_many(calls(3))
        with pytest.raises(TimeoutError):
            await results.aget(timeout=0.001)
        waiting = asyncio.ensure_future(results.aget(timeout=30))
        await asyncio.sleep(0)
        held.release_in_thread()
        assert await waiting == [0, 1, 2]
        assert await results == [0, 1, 2]
        assert not results._end_waiters

    asyncio.run(main())


def test_time_over_says_how_many_and_what_the_first_missing_waits_for(
    echo: Any, held: InlineGateway
) -> None:
    results = echo.delay_many(calls(5))
    held.release(2)
    with pytest.raises(
        TimeoutError, match=r"2 of 5 results after 0\.001 s; the first one missing is call 2: it "
    ):
        results.get(timeout=0.001)


def test_an_error_is_raised_before_the_others_finish(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many([(1,), ("error",), (3,)])
    thread = held.release_in_thread(2)
    with pytest.raises(ValueError, match="no"):
        results.get(timeout=30)
    thread.join()
    assert results.failed()
    assert not results.ready()
    held.release()
    got = results.get(timeout=30, propagate=False)
    assert (got[0], type(got[1]), got[2]) == (1, ValueError, 3)
    with pytest.raises(ValueError, match="no"):
        asyncio.run(results.aget())


def test_the_first_error_in_the_order_of_the_calls_is_raised(
    echo: Any, held: InlineGateway
) -> None:
    results = echo.delay_many([("other",), ("error",)])
    held._held.reverse()
    held.release()
    with pytest.raises(KeyError, match="other"):
        results.get()


def test_without_propagation_get_waits_for_all(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many([("error",), (2,)])
    held.release(1)
    with pytest.raises(TimeoutError, match="1 of 2"):
        results.get(timeout=0.001, propagate=False)


def test_endings_without_a_body_count_as_errors(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many(calls(2))
    held.end(held.calls[1].id, Status.DEAD)
    with pytest.raises(TaskDead):
        results.get(timeout=5)


def test_as_completed_yields_positions_and_handles_as_they_come(
    echo: Any, held: InlineGateway
) -> None:
    results = echo.delay_many(calls(4))
    held._held.reverse()
    held.release(2)
    completed = results.as_completed(timeout=30)
    assert [next(completed)[0], next(completed)[0]] == [3, 2]
    thread = held.release_in_thread()
    assert [(position, handle.get()) for position, handle in completed] == [(1, 1), (0, 0)]
    thread.join()
    assert not results._news_waiters


def test_as_completed_gives_up_in_time(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many(calls(2))
    held.release(1)
    completed = results.as_completed(timeout=0.01)
    next(completed)
    with pytest.raises(TimeoutError, match="1 of 2"):
        next(completed)


def test_handles_are_made_when_asked_for_and_stay_linked(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many(calls(3))
    handle = results[1]
    assert handle is results[1]
    assert results[-1].id == results.ids[2]
    assert handle.state == "PENDING"
    thread = held.release_in_thread()
    assert handle.get(timeout=30) == 1
    thread.join()
    assert [each.get() for each in results] == [0, 1, 2]
    assert results.results[0].get() == 0
    with pytest.raises(IndexError):
        _ = results[3]


def test_handles_can_be_collected(echo: Any, held: InlineGateway) -> None:
    handles = [echo.delay(i) for i in range(3)]
    held.release(1)
    results = ResultSet([*handles, handles[0]])
    assert len(results) == 3
    assert results.completed_count() == 1
    assert results[2] is handles[2]
    thread = held.release_in_thread()
    assert results.get(timeout=30) == [0, 1, 2]
    thread.join()
    assert ResultSet([]).get() == []


def test_collected_ids_of_another_process_are_followed(echo: Any, held: InlineGateway) -> None:
    ids = [echo.delay(i).id for i in range(2)]
    results = ResultSet([AsyncResult[int](task_id) for task_id in ids])
    thread = threading.Thread(target=lambda: results.get(timeout=30))
    thread.start()
    while len(held.watched) < 2:
        thread.join(0.001)
    held.release()
    thread.join()
    assert results.get() == [0, 1]


def test_after_a_fork_open_tasks_are_watched_in_batches(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many(calls(1500))
    held.release(100)
    child = InlineGateway()
    child.started.update(results._ids)
    current.install(child)
    with pytest.raises(TimeoutError, match="100 of 1,500"):
        results.get(timeout=0.001)
    assert child.watched == results._ids[100:]


def test_forget_names_all_ids(echo: Any, gateway: InlineGateway) -> None:
    results = echo.delay_many(calls(2))
    results.forget()
    assert gateway.forgotten == results._ids


def test_repeated_and_foreign_outcomes_change_nothing(echo: Any, gateway: InlineGateway) -> None:
    results = echo.delay_many(calls(2))
    outcome = gateway.outcomes[gateway.calls[0].id]
    results.settled(outcome.id, outcome)
    results.settled(b"x" * 16, outcome)
    assert results.completed_count() == 2
    assert repr(results) == "<ResultSet: 2 of 2 finished>"
