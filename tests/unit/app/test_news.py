"""What callers see of running tasks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import news
from zmqtasks.app.app import App
from zmqtasks.app.news import News, Update
from zmqtasks.app.result import AsyncResult
from zmqtasks.errors import ItemsLost, TimeoutError
from zmqtasks.limits import STREAM_AHEAD_BYTES, STREAM_AHEAD_COUNT
from zmqtasks.wire.messages import Outcome, UpdateRecord
from zmqtasks.wire.payload import encode_value

PATIENCE_S = 20.0


@pytest.fixture
def result(app: App, gateway: InlineGateway) -> AsyncResult[Any]:
    """Of a call that runs until it is released."""
    gateway.hold = True

    @app.task(name="divide")
    def divide(x: int) -> float:
        return 6 / x

    return divide.delay(2)


def say(result: AsyncResult[Any], value: Any, *, state: str = "", number: int = -1) -> None:
    task_id = result._task_id
    result.updated(task_id, UpdateRecord(task_id, 1, number, state, encode_value(value)))


def items(result: AsyncResult[Any], *values: Any, first: int = 0) -> None:
    for number, value in enumerate(values, first):
        say(result, value, number=number)


def test_items_that_came_before_anybody_looked_are_given(
    result: AsyncResult[Any], gateway: InlineGateway
) -> None:
    items(result, "a", "b")
    gateway.release()
    assert list(result.stream(timeout=PATIENCE_S)) == ["a", "b"]
    assert result.get(timeout=5) == 3.0
    assert list(result.stream()) == []


def test_stream_waits_for_items_and_ends_with_the_task(
    result: AsyncResult[Any], gateway: InlineGateway
) -> None:
    stream = result.stream(timeout=PATIENCE_S)
    items(result, 0)
    assert next(stream) == 0

    def go_on() -> None:
        items(result, 1, 2, first=1)
        gateway.release()

    thread = threading.Thread(target=go_on)
    thread.start()
    assert list(stream) == [1, 2]
    thread.join()


def test_stream_can_be_awaited(result: AsyncResult[Any], gateway: InlineGateway) -> None:
    def go_on() -> None:
        items(result, 1, first=1)
        gateway.release()

    async def read() -> list[Any]:
        found = []
        async for item in result.stream(timeout=PATIENCE_S):
            found.append(item)
            if item == 0:
                threading.Thread(target=go_on).start()
        return found

    items(result, 0)
    assert asyncio.run(read()) == [0, 1]


def test_items_of_a_later_attempt_are_not_given_twice(
    result: AsyncResult[Any], gateway: InlineGateway
) -> None:
    items(result, "a", "b")
    items(result, "a", "b", "c")  # after its worker was lost
    gateway.release()
    assert list(result.stream()) == ["a", "b", "c"]


def test_stream_raises_what_the_task_raised_after_its_items(
    app: App, gateway: InlineGateway
) -> None:
    gateway.hold = True
    result = app.task(name="fail")(lambda: 1 / 0).delay()
    items(result, 1)
    gateway.release()
    stream = result.stream()
    assert next(stream) == 1
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert list(result.updates()) == []


def test_items_that_never_came_are_missed(result: AsyncResult[Any]) -> None:
    items(result, "a")
    items(result, "d", first=3)
    stream = result.stream()
    assert next(stream) == "a"
    with pytest.raises(ItemsLost, match="items 1 to 2 did not reach this process"):
        next(stream)


def test_items_that_nobody_reads_are_given_up_beyond_a_limit(
    result: AsyncResult[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "STREAM_KEPT_BYTES_MAX", 199)
    items(result, 1, 2, 3, 4)
    stream = result.stream()
    assert [next(stream) for _ in range(3)] == [1, 2, 3], "what surrounds them counts too"
    with pytest.raises(ItemsLost, match="bytes of items waited to be read"):
        next(stream)


def test_updates_give_the_last_state_once(result: AsyncResult[Any], gateway: InlineGateway) -> None:
    updates = result.updates(timeout=PATIENCE_S)
    say(result, 1, state="A")
    say(result, 2, state="B")
    assert next(updates) == Update("B", 2)
    say(result, 3, state="B")
    gateway.release()
    assert list(updates) == [Update("B", 3)]


def test_time_is_for_all_of_it(result: AsyncResult[Any]) -> None:
    with pytest.raises(TimeoutError, match=r"stream\(\) of task .* has not ended after 0 s"):
        next(result.stream(timeout=0))

    async def wait() -> None:
        async for _ in result.updates(timeout=0):
            pass

    with pytest.raises(TimeoutError, match=r"updates\(\) of task"):
        asyncio.run(wait())


def test_state_and_info_show_what_the_task_says(
    result: AsyncResult[Any], gateway: InlineGateway
) -> None:
    assert (result.state, result.info) == ("PENDING", None)
    told = {"state": "COOKING", "meta": encode_value({"dish": "soup"})}
    gateway.info[result._task_id] = told
    assert (result.state, result.info) == ("COOKING", {"dish": "soup"})
    gateway.release()
    assert (result.state, result.info) == ("SUCCESS", 3.0)


def test_handles_of_many_calls_have_their_own_news(app: App, gateway: InlineGateway) -> None:
    gateway.hold = True
    results = app.task(name="same")(lambda x: x).delay_many([(1,), (2,)])
    task_id = results[1]._task_id
    results.updated(task_id, UpdateRecord(task_id, 1, 0, "", encode_value("item")))
    gateway.release()
    assert list(results[1].stream()) == ["item"]
    assert list(results[0].stream()) == []


def test_tasks_cannot_follow_others(result: AsyncResult[Any], gateway: InlineGateway) -> None:
    gateway.inside_task = True
    for follow in (result.updates, result.stream):
        with pytest.raises(RuntimeError, match="not offered inside a task"):
            follow()


def test_call_without_an_owner_has_no_news(app: App, gateway: InlineGateway) -> None:
    gateway.hold = True
    result = app.task(name="it")(len).apply_async(("x",), delivery="at_most_once")
    for follow in (result.updates, result.stream):
        with pytest.raises(ValueError, match="it has no owner to pass on"):
            follow()


def test_state_from_before_it_was_followed_does_not_replace_a_later_one(
    result: AsyncResult[Any],
) -> None:
    task_id = result._task_id
    before = UpdateRecord(task_id, 0, -1, "BEFORE", encode_value(1))
    updates = result.updates(timeout=PATIENCE_S)
    result.updated(task_id, before)
    assert next(updates) == Update("BEFORE", 1)
    say(result, 2, state="LATER")
    result.updated(task_id, before)
    assert next(updates) == Update("LATER", 2)


def test_items_that_had_not_come_when_the_task_ended_are_missed(
    result: AsyncResult[Any],
) -> None:
    items(result, "a")
    value = encode_value("end")
    outcome = Outcome(result._task_id, 1, 0, 1, 0, 0, 0, len(value), value, {"it": 3})
    result.settled(result._task_id, outcome)
    stream = result.stream()
    assert next(stream) == "a"
    with pytest.raises(ItemsLost, match="items 1 to 2 did not reach this process"):
        next(stream)
    assert result.get() == "end"


# --- readers that are behind ------------------------------------------------------------------


def _item(number: int, size: int = 1) -> UpdateRecord:
    return UpdateRecord(bytes(16), 1, number, "", encode_value(b"x" * size))


def test_a_task_pauses_while_its_reader_is_behind_and_goes_on_when_it_has_read() -> None:
    news = News()
    told: list[bool] = []
    news.pace = lambda is_behind: told.append(is_behind())
    for number in range(STREAM_AHEAD_COUNT + 10):
        news.take(_item(number))
    assert told == [], "nobody reads, so nobody is behind"
    news.reads(1)
    assert told == [True]
    for _ in range(11):
        news.next_item()
    assert told == [True, False]
    news.take(_item(STREAM_AHEAD_COUNT + 10))
    assert told == [True, False, True]
    news.reads(-1)
    assert told == [True, False, True, False]


def test_few_large_items_make_a_reader_late_as_well() -> None:
    news = News()
    told: list[bool] = []
    news.pace = lambda is_behind: told.append(is_behind())
    news.reads(1)
    for number in range(3):
        news.take(_item(number, STREAM_AHEAD_BYTES // 2))
    assert told == [False, True]
