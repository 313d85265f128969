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
from zmqtasks.wire.messages import Outcome, Status


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


def test_results_as_they_come_are_for_coroutines_too(echo: Any, held: InlineGateway) -> None:
    async def main() -> None:
        results = await echo.adelay_many(calls(3))
        held._held.reverse()
        held.release(1)
        completed = results.as_completed(timeout=30)
        position, handle = await anext(completed)
        assert (position, handle.get()) == (2, 2)
        thread = held.release_in_thread()
        assert [position async for position, _ in completed] == [1, 0]
        thread.join()
        assert [value async for value in results.iterate()] == [2, 1, 0]
        assert [handle.id async for handle in results] == results.ids[::-1]
        assert [facts["result"] async for _, facts in results.iter_native()] == [2, 1, 0]
        assert not results._news_waiters

    asyncio.run(main())


def test_coroutines_give_up_in_time_as_well(echo: Any, held: InlineGateway) -> None:
    async def main() -> None:
        results = await echo.adelay_many(calls(2))
        with pytest.raises(TimeoutError, match="0 of 2"):
            await anext(results.iterate(timeout=0.001))

    asyncio.run(main())


def test_join_calls_back_for_each_and_returns_an_empty_list_as_celery_does(echo: Any) -> None:
    results = echo.delay_many([(1,), ("error",)])
    told: list[tuple[str, Any]] = []

    def tell(task_id: str, value: Any) -> None:
        told.append((task_id, value))

    assert results.join(timeout=5, propagate=False, callback=tell) == []
    assert [task_id for task_id, _ in told] == results.ids
    assert (told[0][1], type(told[1][1])) == (1, ValueError)
    told.clear()
    results.maybe_throw(propagate=False, callback=tell)
    assert [task_id for task_id, _ in told] == results.ids
    told.clear()
    assert echo.delay(3).get(callback=tell) == 3
    assert [value for _, value in told] == [3]


def test_counts_are_of_what_succeeded(echo: Any, held: InlineGateway) -> None:
    results = echo.delay_many([(1,), ("error",), (3,)])
    held.release(2)
    assert (results.completed_count(), results.failed(), results.waiting()) == (1, True, True)
    assert repr(results) == "<ResultSet: 2 of 3 finished>"


def test_a_set_of_ids_of_others_knows_at_the_first_look_what_the_mesh_knows(
    echo: Any, gateway: InlineGateway
) -> None:
    ids = [echo.delay(i).id for i in range(3)]
    again: ResultSet[int] = ResultSet([AsyncResult(task_id) for task_id in ids])
    assert (again.completed_count(), again.ready(), again.successful()) == (3, True, True)
    unknown: ResultSet[int] = ResultSet([AsyncResult("0b9d7a1e-0000-0000-0000-000000000001")])
    assert (unknown.ready(), unknown.failed(), unknown.completed_count()) == (True, True, 0)


def test_looks_have_twins_for_coroutines(echo: Any, gateway: InlineGateway) -> None:
    async def main() -> None:
        results = await echo.adelay_many(calls(2))
        assert await results.acompleted_count() == 2
        assert (await results.aready(), await results.awaiting()) == (True, False)
        assert (await results.asuccessful(), await results.afailed()) == (True, False)
        assert await results.ajoin() == [0, 1]
        await results.amaybe_throw()
        await results.aforget()
        assert gateway.forgotten == results._ids

    asyncio.run(main())


def test_members_come_and_go(echo: Any, held: InlineGateway) -> None:
    first, second, third = (echo.delay(i) for i in range(3))
    results: ResultSet[int] = ResultSet([first])
    results.add(second)
    results.add(second)
    results.update([ResultSet([third]), first])
    assert results.results == [first, second, third]
    assert second in results
    assert third.id in results
    assert echo.delay(9) not in results
    held.release(1)
    results.remove(first.id)
    with pytest.raises(KeyError):
        results.remove(first)
    results.discard(first)
    assert (results.ids, results.completed_count()) == ([second.id, third.id], 0)
    held.release()
    assert results.get(timeout=5) == [1, 2]
    results.discard(second)
    assert (results.get(), results[0]) == ([2], third)
    results.clear()
    assert (len(results), results.get(), results.ready()) == (0, [], True)


def test_removing_what_failed_or_is_missing_ends_the_wait(echo: Any, held: InlineGateway) -> None:
    failed, done, missing = echo.delay("error"), echo.delay(1), echo.delay(2)
    results: ResultSet[int] = ResultSet([failed, done, missing])
    held.release(2)
    assert results.failed()
    results.remove(failed)
    assert not results.failed()
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(results.get(timeout=30)))
    waiting.start()
    while not results._end_waiters:
        waiting.join(0.001)
    results.remove(missing)
    waiting.join()
    assert got == [[1]]


def test_members_that_come_to_a_set_that_is_followed_are_followed_too(
    echo: Any, held: InlineGateway
) -> None:
    results: ResultSet[int] = ResultSet([echo.delay(1)])
    assert not results.ready()
    foreign: AsyncResult[int] = AsyncResult(echo.delay(2).id)
    results.add(foreign)
    held.release()
    assert results.get(timeout=5) == [1, 2]
    assert foreign.get(timeout=5) == 2


def test_sets_are_equal_when_they_have_the_same_members(echo: Any) -> None:
    handles = [echo.delay(i) for i in range(2)]
    assert ResultSet(handles) == ResultSet([AsyncResult(handle.id) for handle in handles])
    assert ResultSet(handles) != ResultSet(handles[::-1])
    assert ResultSet(handles) != handles
    with pytest.raises(TypeError, match="unhashable"):
        hash(ResultSet(handles))


def test_inside_a_task_each_look_asks_and_nobody_is_told(echo: Any, held: InlineGateway) -> None:
    held.inside_task = True
    results = echo.delay_many(calls(2))
    assert (results.completed_count(), results.waiting()) == (0, True)
    for call in held.calls:
        assert not held.watched
        held.publish(Outcome(call.id, 1, Status.SUCCESS, 1, 0, 0, 0, 1, b"\x01", None))
        assert results.completed_count() == held.calls.index(call) + 1
    assert results.ready()
