"""Callbacks of users: where they are called, what becomes of their errors, cancelled waits."""

from __future__ import annotations

import asyncio
import logging
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import group
from zmqtasks.app.app import App
from zmqtasks.app.thens import caller


@pytest.fixture
def echo(app: App) -> Any:
    @app.task(name="echo")
    def echo(value: Any) -> Any:
        if value == "error":
            raise ValueError("no")
        return value

    return echo


def test_then_calls_back_in_a_thread_of_its_own_when_the_result_is_there(
    echo: Any, gateway: InlineGateway
) -> None:
    gateway.hold = True
    calls: SimpleQueue[Any] = SimpleQueue()
    result = echo.delay("x")
    assert result.then(lambda found: calls.put((found, threading.current_thread()))) is result
    assert calls.empty()
    gateway.release_in_thread().join()
    found, thread = calls.get(timeout=30)
    assert found is result
    assert thread not in (threading.current_thread(), gateway.thread)
    result.then(lambda found: calls.put(found.get()))  # it is there already
    assert calls.get(timeout=30) == "x"


def test_then_calls_on_error_in_place_of_the_callback(echo: Any) -> None:
    calls: SimpleQueue[Any] = SimpleQueue()
    echo.delay("error").then(calls.put, lambda found: calls.put(type(found.result)))
    assert calls.get(timeout=30) is ValueError
    echo.delay("x").then(lambda found: calls.put("callback"), calls.put)
    assert calls.get(timeout=30) == "callback"
    failed = echo.delay("error").then(calls.put)  # nothing else is there to be called
    assert calls.get(timeout=30) is failed


def test_then_of_a_set_comes_once_when_all_have_ended(echo: Any, gateway: InlineGateway) -> None:
    gateway.hold = True
    calls: SimpleQueue[Any] = SimpleQueue()
    results = group(echo.s("error"), echo.s("b")).delay()
    assert results.then(calls.put, lambda found: calls.put("error")) is results
    gateway.release(1)
    assert len(results._end_waiters) == 1
    gateway.release()
    assert calls.get(timeout=30) == "error"
    assert not results._end_waiters


def test_in_a_running_loop_callbacks_are_called_there(echo: Any, gateway: InlineGateway) -> None:
    gateway.hold = True

    async def main() -> None:
        called: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        result = await echo.adelay("x")
        result.then(lambda found: called.set_result(threading.current_thread()))
        gateway.release_in_thread()
        assert await asyncio.wait_for(called, 30) is threading.current_thread()

    asyncio.run(main())


def test_what_a_callback_raises_is_logged_and_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: SimpleQueue[Any] = SimpleQueue()

    def fail(argument: object) -> None:
        raise ValueError("of the callback")

    with caplog.at_level(logging.ERROR, "zmqtasks.app"):
        caller(fail, "it")()
        caller(calls.put, "other")()
        assert calls.get(timeout=30) == "other"
    assert "a callback given to then() of 'it' raised" in caplog.text
    assert "of the callback" in caplog.text


def test_a_loop_that_was_closed_has_nobody_left_to_call() -> None:
    async def main() -> Any:
        return caller(lambda argument: None, "it")

    asyncio.run(main())()


def test_then_is_refused_inside_a_task(echo: Any, gateway: InlineGateway) -> None:
    result, results = echo.delay("x"), group(echo.s(1)).delay()
    gateway.inside_task = True
    for each in (result, results):
        with pytest.raises(RuntimeError, match="not offered inside a task: its process may end"):
            each.then(print)


async def _cancelled(waiting: Any) -> None:
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("how", "expected"), [(False, []), (True, [False]), ("terminate", [True])])
def test_a_cancelled_wait_revokes_what_it_waited_for_only_where_it_is_to(
    app: App, echo: Any, gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch, how: Any,
    expected: list[bool],
) -> None:  # fmt: skip
    gateway.hold = True
    told: list[tuple[list[str], bool]] = []

    def revoke(ids: Any, terminate: bool, *args: Any) -> dict[str, str]:
        ids = [ids] if isinstance(ids, str) else list(ids)
        told.append((ids, terminate))
        return dict.fromkeys(ids, "revoked")

    monkeypatch.setattr(app.control, "revoke", revoke)

    async def main() -> None:
        result, results = await echo.adelay(1), await group(echo.s(1), echo.s(2)).adelay()
        await _cancelled(result.aget(revoke_on_cancel=how))
        await _cancelled(results.aget(revoke_on_cancel=how))
        assert [ids for ids, _ in told] == [[result.id], results.ids][: 2 * len(expected)]
        assert [terminate for _, terminate in told] == expected * 2

    asyncio.run(main())


def test_a_cancellation_goes_on_where_nobody_could_be_told(
    app: App, echo: Any, gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    gateway.hold = True

    def revoke(*args: Any) -> dict[str, str]:
        raise RuntimeError("no mesh")

    monkeypatch.setattr(app.control, "revoke", revoke)

    async def main() -> None:
        await _cancelled((await echo.adelay(1)).aget(revoke_on_cancel=True))

    asyncio.run(main())
    assert "could not be revoked: no mesh" in caplog.text


def test_another_word_for_revoke_on_cancel_is_refused(echo: Any, gateway: InlineGateway) -> None:
    gateway.hold = True

    async def main() -> None:
        result: Any = await echo.adelay(1)
        with pytest.raises(ValueError, match="is True, 'terminate' to end what runs, too, or"):
            await result.aget(revoke_on_cancel="kill")

    asyncio.run(main())
