"""Handles: waiting from threads and loops, states, errors, other processes' tasks."""

from __future__ import annotations

import asyncio
import builtins
import gc
import pickle
import signal
import threading
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.app.result import AsyncResult
from zmqtasks.errors import (
    DecodeError,
    MaxRetriesExceededError,
    TaskDead,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskRejected,
    TaskRevokedError,
    TaskUnknown,
    TimeLimitExceeded,
    TimeoutError,
    WorkerLostError,
)
from zmqtasks.ids import parse_task_id
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


def test_get_waits_for_another_thread(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    assert (result.state, result.ready(), result.result) == ("PENDING", False, None)
    thread = held.release_in_thread()
    assert result.get(timeout=30) == "x"
    thread.join()
    assert (result.state, result.ready(), result.successful()) == ("SUCCESS", True, True)
    assert result.result == "x"
    assert result.traceback is None
    assert not result.failed()


def test_many_threads_may_wait_for_one_handle(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(result.get(30))) for _ in range(8)]
    for thread in threads:
        thread.start()
    held.release()
    for thread in threads:
        thread.join()
    assert got == ["x"] * 8


def test_time_over_says_what_is_known_of_the_task(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    for _ in range(2):
        with pytest.raises(TimeoutError) as caught:
            result.get(timeout=0.001)
        assert str(caught.value) == (
            f"no result of task {result.id} after 0.001 s: it waits in queue 'default', which no "
            "worker serves"
        )
    assert isinstance(caught.value, builtins.TimeoutError)
    assert result._waiters == []
    held.release()
    assert result.get() == "x"


def test_an_error_is_raised_or_returned(echo: Any) -> None:
    result = echo.delay("error")
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            result.get()
    error = result.get(propagate=False)
    assert type(error) is ValueError
    assert (result.state, result.failed(), result.successful()) == ("FAILURE", True, False)
    assert type(result.result) is ValueError
    assert "raise ValueError" in (result.traceback or "")


@pytest.mark.parametrize(
    ("status", "state", "cls"),
    [
        (Status.FAILURE, "FAILURE", TaskFailed),
        (Status.RETRIES_EXHAUSTED, "FAILURE", MaxRetriesExceededError),
        (Status.EXPIRED, "REVOKED", TaskExpired),
        (Status.CANCELLED, "REVOKED", TaskRevokedError),
        (Status.TIME_LIMIT, "FAILURE", TimeLimitExceeded),
        (Status.WORKER_LOST, "FAILURE", WorkerLostError),
        (Status.DEAD, "DEAD", TaskDead),
        (Status.REJECTED, "REJECTED", TaskRejected),
        (255, "UNKNOWN", TaskUnknown),
        (99, "FAILURE", TaskFailed),
    ],
)
def test_every_ending_has_its_state_and_exception(
    echo: Any, held: InlineGateway, status: int, state: str, cls: type[TaskError]
) -> None:
    for text in ("", "because of that"):
        result = echo.delay("x")
        held.end(held.calls[-1].id, status, text)
        with pytest.raises(cls) as caught:
            result.get(timeout=5)
        assert type(caught.value) is cls
        assert result.id in str(caught.value)
        assert text in str(caught.value)
        assert result.state == state
        assert result.ready()
        assert result.failed() == (state in ("FAILURE", "DEAD"))


def test_an_ignored_task_has_ended_and_returns_none(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    held.end(parse_task_id(result.id), Status.IGNORED)
    assert (result.state, result.ready(), result.successful(), result.failed()) == (
        "IGNORED", True, False, False,
    )  # fmt: skip
    assert (result.get(timeout=5), result.result) == (None, None)
    results = echo.delay_many([("x",), ("y",)])
    held.end(results[0]._task_id, Status.IGNORED)
    held.release()
    assert results.get(timeout=5) == [None, "y"]


def test_facts_come_from_the_outcome_or_from_who_knows_the_task(
    echo: Any, held: InlineGateway
) -> None:
    result = echo.delay("x")
    assert (result.retries, result.queue, result.worker) == (None, None, None)
    held.info[parse_task_id(result.id)] = {"retries": 2, "queue": "fast", "worker": "alice"}
    assert result.state == "RECEIVED"
    assert (result.retries, result.queue, result.worker) == (2, "fast", "alice")
    told = Outcome(parse_task_id(result.id), 3, 0, 1, 0, 0, 0, 0, b"\0\xc0", {"w": "bob", "n": 1})
    result.settled(told.id, told)
    assert (result.retries, result.queue, result.worker) == (1, "fast", "bob")


def test_a_value_of_a_class_that_is_not_here_is_a_clear_error(
    echo: Any, held: InlineGateway
) -> None:
    result = echo.delay("x")
    body = b"\x00\xc7\x12\x0c\x92\xaeno_such:Colour\xa1R"
    held.publish(Outcome(held.calls[0].id, 1, 0, 1, 0, 0, 0, len(body), body, None))
    result.settled(held.calls[0].id, held.outcomes[held.calls[0].id])
    with pytest.raises(DecodeError, match="module no_such cannot be imported here"):
        result.get(timeout=5)


def test_waiting_inside_a_task_is_refused_with_the_remedy(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    results = echo.delay_many([("x",)])
    held.inside_task = True
    for wait in (
        result.get,
        lambda: asyncio.run(result.aget()),
        results.get,
        lambda: asyncio.run(results.aget()),
        lambda: list(results.as_completed()),
    ):
        with pytest.raises(RuntimeError, match="inside a task would hold its worker slot"):
            wait()


def test_keyboard_interrupt_ends_get(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    main = threading.main_thread().ident
    assert main is not None
    # Sent once the main thread waits, which is when its waiter is registered.
    added = threading.Event()
    plain_add = AsyncResult.add_waiter

    class Watched(AsyncResult[Any]):
        __slots__ = ()

        def add_waiter(self, waiter: Any) -> None:
            plain_add(self, waiter)
            added.set()

    watched = Watched.of_submitted(result._task_id, current.current_app(), held)

    ended = threading.Event()

    def interrupt() -> None:
        # Again until it ends: a signal that comes just before the wait does not wake it.
        while added.wait(30) and not ended.is_set():
            signal.pthread_kill(main, signal.SIGINT)
            ended.wait(2)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        watched.get(timeout=60)
    ended.set()
    thread.join()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "3"])
def test_timeout_that_is_no_time_is_refused(echo: Any, held: InlineGateway, timeout: Any) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        echo.delay("x").get(timeout=timeout)
    with pytest.raises(ValueError, match="must be 0 or more"):
        echo.delay_many([("x",)]).get(timeout=timeout)


# --- asyncio ----------------------------------------------------------------------------


def test_await_and_aget_wait_without_blocking(echo: Any, held: InlineGateway) -> None:
    async def main() -> list[Any]:
        results = [echo.delay(i) for i in range(500)]
        waiting = asyncio.gather(*(result.aget(timeout=30) for result in results))
        await asyncio.sleep(0)
        held.release_in_thread()
        done = await waiting
        assert await results[3] == 3
        return list(done)

    assert asyncio.run(main()) == list(range(500))


def test_aget_raises_errors_and_timeouts(echo: Any, held: InlineGateway) -> None:
    async def main() -> None:
        result = echo.delay("error")
        with pytest.raises(TimeoutError, match="which no worker serves"):
            await result.aget(timeout=0.001)
        assert result._waiters == []
        held.release_in_thread()
        with pytest.raises(ValueError, match="no"):
            await result

    asyncio.run(main())


def test_a_cancelled_await_leaves_nothing_behind(echo: Any, held: InlineGateway) -> None:
    async def main() -> None:
        result = echo.delay("x")
        waiting = asyncio.ensure_future(result.aget())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert result._waiters == []
        held.release()
        assert await result == "x"

    asyncio.run(main())


def test_an_outcome_after_its_loop_is_closed_hurts_nobody(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(result.aget())
    loop.run_until_complete(asyncio.sleep(0))
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    held.release()
    assert result.get(timeout=5) == "x"


# --- tasks of other processes -----------------------------------------------------------


def test_a_handle_from_an_id_follows_the_task(app: App, gateway: InlineGateway) -> None:
    result = AsyncResult[str]("another process's task")
    task_id = parse_task_id("another process's task")
    assert result.state == "UNKNOWN"
    gateway.started.add(task_id)
    assert result.state == "STARTED"
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(result.get(timeout=30)))
    thread.start()
    while not gateway.watched:  # the waiting thread has asked by then
        thread.join(0.001)
    gateway.publish(Outcome(task_id, 1, 0, 1, 0, 0, 0, 4, b"\x00\xa2hi", None))
    thread.join()
    assert waiting == ["hi"]
    assert gateway.watched == [task_id]


def test_state_alone_finds_a_settled_outcome(app: App, gateway: InlineGateway) -> None:
    task_id = parse_task_id("done elsewhere")
    gateway.publish(Outcome(task_id, 1, 0, 1, 0, 0, 0, 4, b"\x00\xa2hi", None))
    result = AsyncResult[str]("done elsewhere")
    assert result.result == "hi"
    assert result.successful()
    assert result.get() == "hi"
    assert not gateway.watched


def test_an_id_that_nobody_knows_is_told_at_once(app: App, gateway: InlineGateway) -> None:
    result = AsyncResult[Any]("nobody")
    with pytest.raises(TaskUnknown, match="known to nobody in the mesh"):
        result.get()
    assert result.state == "UNKNOWN"


def test_after_a_fork_a_handle_asks_through_the_new_client(echo: Any, held: InlineGateway) -> None:
    result = echo.delay("x")
    # The forked process: a new gateway that knows nothing of the parent's tickets.
    child = InlineGateway()
    child.started.add(result._task_id)
    current.install(child)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.001)
    assert child.watched == [result._task_id]


def test_forget_drops_the_result(echo: Any, gateway: InlineGateway) -> None:
    result = echo.delay("x")
    result.forget()
    assert gateway.forgotten == [result._task_id]
    with pytest.raises(TaskUnknown, match="its result was forgotten"):
        result.get()


def test_an_id_must_be_a_text(app: App) -> None:
    with pytest.raises(TypeError, match="a task id is a text, not bytes"):
        AsyncResult(b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        AsyncResult("")


def test_handles_compare_hash_print_and_pickle_by_id(echo: Any) -> None:
    result = echo.delay("x")
    again = pickle.loads(pickle.dumps(result))
    assert again == result
    assert {again, result} == {result}
    assert again != "x"
    assert str(result) == result.id == result.task_id
    assert repr(result) == f"<AsyncResult: {result.id}>"


def test_at_most_once_results_need_a_timeout_and_end_as_unknown(
    echo: Any, held: InlineGateway
) -> None:
    result = echo.apply_async(("x",), delivery="at_most_once")
    with pytest.raises(ValueError, match="needs a timeout"):
        result.get()
    with pytest.raises(TaskUnknown, match="sent at most once"):
        result.get(timeout=0.001)
    held.release()
    assert result.get() == "x"


def test_a_handle_that_nobody_keeps_is_freed(echo: Any) -> None:
    import weakref

    result = echo.delay("x")
    result.get()
    alive = weakref.ref(result)
    del result
    gc.collect()
    assert alive() is None
