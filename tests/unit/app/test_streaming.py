"""What running tasks tell of themselves, on their side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from tests.unit.app.worker import Worker
from zmqtasks.app.app import App
from zmqtasks.limits import STREAM_AHEAD_BYTES, STREAM_AHEAD_COUNT, UPDATE_BYTES_MAX
from zmqtasks.pools import running
from zmqtasks.wire.messages import Status
from zmqtasks.wire.payload import decode_value


def test_states_go_out_with_what_they_tell(app: App) -> None:
    @app.task(name="work", bind=True)
    def work(self: Any) -> str:
        self.update_state(state="COOKING", meta={"dish": "soup"})
        self.update_state(self.request.id, "SERVING")
        self.progress(1, 2, "half")
        return "done"

    with Worker(app) as worker:
        assert worker.value("work") == "done"
        assert worker.updates == [
            ("COOKING", -1, {"dish": "soup"}),
            ("SERVING", -1, None),
            ("PROGRESS", -1, {"current": 1, "total": 2, "message": "half"}),
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "SUCCESS"}, "its owner, which alone decides"),
        ({"state": None}, "must be a text"),
        ({"state": "x" * 101}, "must be a text of 1 to 100"),
        ({"task_id": "another", "state": "X"}, "tells of itself only"),
        ({"state": "X", "meta": object()}, "object"),
        ({"state": "X", "meta": b"x" * (UPDATE_BYTES_MAX + 1)}, "262,144"),
    ],
)
def test_what_a_task_cannot_tell_is_refused(
    app: App, arguments: dict[str, Any], message: str
) -> None:
    @app.task(name="work", bind=True)
    def work(self: Any) -> None:
        self.update_state(**arguments)

    with Worker(app) as worker:
        outcome = worker.run("work")
        assert outcome.status == Status.FAILURE
        assert message in outcome.error
        assert not worker.updates


def test_plain_calls_tell_nobody(app: App) -> None:
    @app.task(name="work", bind=True)
    def work(self: Any) -> bool:
        self.progress(1)
        return bool(self.is_aborted())

    assert work() is False


def test_task_learns_that_it_was_cancelled(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="work", bind=True)
    def work(self: Any) -> bool:
        return bool(self.is_aborted())

    with Worker(app) as worker:
        monkeypatch.setattr(running, "_asks", [lambda task: task.attempt == 2])
        assert worker.value("work") is False
        assert worker.attempt("work", (), {}, attempt=2).body != worker.run("work").body


def test_items_are_numbered_and_the_value_is_what_the_generator_returns(app: App) -> None:
    @app.task(name="count")
    def count(n: int) -> Generator[int, None, str]:
        yield from range(n)
        return "counted"

    with Worker(app) as worker:
        outcome = worker.run("count", 3)
        assert (decode_value(outcome.body), outcome.ext) == ("counted", {"it": 3})
        assert worker.updates == [("", 0, 0), ("", 1, 1), ("", 2, 2)]


def test_async_generators_stream_too(app: App) -> None:
    @app.task(name="count", bind=True)
    async def count(self: Any, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    with Worker(app) as worker:
        assert worker.value("count", 2) is None
        assert worker.updates == [("", 0, 0), ("", 1, 1)]


def test_generator_that_raises_has_told_its_items_and_is_ended(app: App) -> None:
    ended: list[str] = []

    @app.task(name="count")
    def count() -> Iterator[Any]:
        try:
            yield 1
            yield object()
        finally:
            ended.append("ended")

    with Worker(app) as worker:
        outcome = worker.run("count")
        assert outcome.status == Status.FAILURE
        assert "object" in outcome.error
        assert worker.updates == [("", 0, 1)]
        assert outcome.ext == {"it": 1}
    assert ended == ["ended"]


def test_plain_call_of_a_generator_task_gives_the_generator(app: App) -> None:
    @app.task
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    assert list(count(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("count", "size", "pauses"),
    [
        (STREAM_AHEAD_COUNT - 1, 1, []),
        (2 * STREAM_AHEAD_COUNT + 1, 1, [STREAM_AHEAD_COUNT, 2 * STREAM_AHEAD_COUNT]),
        (11, STREAM_AHEAD_BYTES // 5, [5, 10]),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_generator_pauses_until_its_owner_has_what_it_yielded(
    app: App, is_async: bool, count: int, size: int, pauses: list[int]
) -> None:
    @app.task(name="plain")
    def plain(count: int, size: int) -> Iterator[bytes]:
        yield from (bytes(size) for _ in range(count))

    @app.task(name="async")
    async def coroutine(count: int, size: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield bytes(size)

    with Worker(app) as worker:
        worker.value("async" if is_async else "plain", count, size)
        assert len(worker.updates) == count
        assert [told for _, told in worker.asked] == pauses
        assert {(asked.parent, len(asked.calls)) for asked, _ in worker.asked} <= {(b"i" * 16, 0)}
