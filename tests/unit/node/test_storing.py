"""StoreWriter: order, merging, trying again, bounds, lookups, expiry, closing."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.core.rows import OutcomeRow, VerdictRow
from zmqtasks.errors import ConfigError, StoreError
from zmqtasks.node.storing import StoreListener, StoreOptions, StoreWriter
from zmqtasks.stores.base import Store
from zmqtasks.stores.memory import MemoryStore
from zmqtasks.stores.sqlite import SqliteStore
from zmqtasks.testing.store_rows import NOW_MS, outcome, task_id, verdict

#: Longer than any step takes; only a failing test waits for it.
PATIENCE_S = 20.0
OPTIONS = StoreOptions(retry_ms_min=1, retry_ms_max=2, expire_every_ms=1)


class Watched(MemoryStore):
    """A memory store that notes its calls, fails on demand and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[list[int]] = []
        #: Taken one by one by the calls to come; then all succeed.
        self.failures: list[Exception] = []
        #: Reads and writes wait for these.
        self.may_put = threading.Event()
        self.may_read = threading.Event()
        self.may_put.set()
        self.may_read.set()
        self.put_begun = threading.Event()
        self.reads: list[int] = []
        self.expired: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.was_closed = False

    async def put_batch(
        self, outcomes: Sequence[OutcomeRow], verdicts: Sequence[VerdictRow]
    ) -> None:
        self.put_begun.set()
        await _passed(self.may_put)
        self._fail()
        self.puts.append([row.position for row in outcomes])
        await super().put_batch(outcomes, verdicts)

    async def get_batch(self, task_ids: Sequence[bytes]) -> Mapping[bytes, list[OutcomeRow]]:
        await _passed(self.may_read)
        self._fail()
        self.reads.append(len(task_ids))
        return await super().get_batch(task_ids)

    async def expire(self, before_ms: int) -> int:
        self.expired.put(before_ms)
        return await super().expire(before_ms)

    async def close(self) -> None:
        self.was_closed = True
        await super().close()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


async def _passed(gate: threading.Event) -> None:
    """Wait without blocking the store's event loop; the thread ends with the test."""
    if not gate.is_set():
        await asyncio.get_running_loop().run_in_executor(None, gate.wait, PATIENCE_S)


class Loop:
    """The node's loop: what is called soon is run by the test, on its thread."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = (
            queue.SimpleQueue()
        )
        self.stored: list[int] = []
        self.room_count = 0
        self.listener = StoreListener(self.stored.extend, self._room)

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self._calls.put((function, args))

    def run_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            function, args = self._calls.get(timeout=PATIENCE_S)
            function(*args)

    def run_waiting(self) -> None:
        while not self._calls.empty():
            function, args = self._calls.get()
            function(*args)

    def _room(self) -> None:
        self.room_count += 1


class Bench:
    """A writer with its loop; started writers are closed after the test."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.writers: list[StoreWriter] = []

    def writer(self, store: Store, options: StoreOptions = OPTIONS, **others: Any) -> StoreWriter:
        writer = StoreWriter(store, self.loop.call_soon, self.loop.listener, options, **others)
        self.writers.append(writer)
        writer.start()
        return writer

    def read(self, writer: StoreWriter, *numbers: int) -> tuple[dict[bytes, list[OutcomeRow]], str]:
        answers: list[tuple[dict[bytes, list[OutcomeRow]], str]] = []
        writer.read(
            [task_id(number) for number in numbers],
            lambda rows, reason: answers.append((dict(rows), reason)),
        )
        self.loop.run_until(lambda: answers)
        return answers[0]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for writer in bench.writers:
        writer.close(0.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "zmqtasks-store"]


def test_a_batch_is_told_after_its_commit(bench: Bench) -> None:
    writer = bench.writer(Watched())
    assert writer.write(7, [outcome(1)], [verdict(1)])
    bench.loop.run_until(lambda: bench.loop.stored)
    assert bench.loop.stored == [7]
    rows, reason = bench.read(writer, 1, 2)
    assert (list(rows), reason) == ([task_id(1)], "")
    assert writer.backlog() == (0, 0, "")


def test_batches_that_wait_are_committed_together_and_in_order(bench: Bench) -> None:
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store)
    writer.write(0, [outcome(0)], [])
    assert store.put_begun.wait(PATIENCE_S)
    for number in range(1, 6):
        writer.write(number, [outcome(number)], [verdict(number - 1)])
    assert writer.backlog().rows == 11
    store.may_put.set()
    bench.loop.run_until(lambda: len(bench.loop.stored) == 6)
    assert bench.loop.stored == list(range(6))
    assert store.puts == [[0], [1, 2, 3, 4, 5]]


def test_a_merge_has_bounds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqtasks.node.storing.STORE_MERGE_ROWS_MAX", 3)
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store)
    writer.write(0, [outcome(0)], [])
    assert store.put_begun.wait(PATIENCE_S)
    writer.write(1, [outcome(1), outcome(2)], [])
    writer.write(2, [outcome(3)], [])
    writer.write(3, [outcome(number) for number in range(4, 9)], [])
    store.may_put.set()
    bench.loop.run_until(lambda: len(bench.loop.stored) == 4)
    assert store.puts == [[0], [1, 2, 3], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize("failure", [StoreError("disk full"), RuntimeError("a bug of the store")])
def test_a_failing_store_is_tried_again_and_order_stays(
    bench: Bench, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    store = Watched()
    store.failures = [failure] * 4
    writer = bench.writer(store)
    for number in range(3):
        writer.write(number, [outcome(number)], [])
    bench.loop.run_until(lambda: len(bench.loop.stored) == 3)
    assert bench.loop.stored == [0, 1, 2]
    assert [position for put in store.puts for position in put] == [0, 1, 2]
    # Once for the trouble, once for its end; not once a try.
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert str(failure) in messages[0]
    assert "backlog_rows=" in messages[0]
    assert "store.recovered" in messages[1]


def test_the_backlog_tells_why_it_grows(bench: Bench) -> None:
    store = Watched()
    store.failures = [StoreError("no space left")] * 1_000_000
    writer = bench.writer(store)
    writer.write(1, [outcome(1, body=b"x" * 1000)], [])
    while not writer.backlog().failing:
        store.put_begun.wait(PATIENCE_S)
    rows, size, failing = writer.backlog()
    assert (rows, failing) == (1, "no space left")
    assert size > 1000
    store.failures = []
    bench.loop.run_until(lambda: bench.loop.stored)
    assert writer.backlog() == (0, 0, "")


def test_past_its_bound_it_refuses_and_tells_when_there_is_room(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store, OPTIONS._replace(backlog_rows_max=4))
    # One over the bound passes when nothing else waits, else it never could.
    assert writer.write(1, [outcome(number) for number in range(5)], [])
    assert not writer.write(2, [outcome(5)], [])
    assert not writer.write(3, [outcome(6)], [])
    assert [record.getMessage().split()[0] for record in caplog.records] == ["store.full"]
    bench.loop.run_waiting()
    assert bench.loop.room_count == 0
    store.may_put.set()
    bench.loop.run_until(lambda: bench.loop.room_count)
    assert bench.loop.stored == [1]
    assert writer.write(2, [outcome(5)], [])
    bench.loop.run_until(lambda: bench.loop.stored == [1, 2])
    assert bench.loop.room_count == 1


def test_bytes_are_bounded_as_well(bench: Bench) -> None:
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store, OPTIONS._replace(backlog_bytes_max=10_000))
    assert writer.write(1, [outcome(1, body=b"x" * 8_000)], [])
    assert not writer.write(2, [outcome(2, body=b"x" * 2_000)], [])
    assert writer.write(3, [outcome(3)], [])
    store.may_put.set()
    bench.loop.run_until(lambda: bench.loop.stored == [1, 3])


def test_forgetting_does_not_overtake_what_was_written(bench: Bench) -> None:
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store)
    writer.write(1, [outcome(1), outcome(2)], [])
    assert writer.forget([task_id(1)])
    writer.write(2, [outcome(3)], [])
    store.may_put.set()
    bench.loop.run_until(lambda: bench.loop.stored == [1, 2])
    rows, _ = bench.read(writer, 1, 2, 3)
    assert set(rows) == {task_id(2), task_id(3)}


def test_forgetting_spares_what_is_written_after_it(bench: Bench) -> None:
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store)
    writer.write(0, [outcome(9)], [])
    assert store.put_begun.wait(PATIENCE_S)
    writer.write(1, [outcome(1, 1)], [])
    writer.forget([task_id(1)])
    writer.write(2, [outcome(1, 2)], [])
    store.may_put.set()
    bench.loop.run_until(lambda: bench.loop.stored == [0, 1, 2])
    rows, _ = bench.read(writer, 1)
    assert rows == {task_id(1): [outcome(1, 2)]}


def test_a_drain_is_told_after_all_before_it(bench: Bench) -> None:
    store = Watched()
    store.may_put.clear()
    writer = bench.writer(store)
    heard: list[list[int]] = []
    writer.write(1, [outcome(1)], [])
    writer.write(2, [outcome(2)], [])
    assert writer.drain(lambda: heard.append(list(bench.loop.stored)))
    store.may_put.set()
    bench.loop.run_until(lambda: heard)
    assert heard == [[1, 2]]


def test_lookups_do_not_wait_for_the_writing(bench: Bench) -> None:
    store = Watched()
    writer = bench.writer(store)
    writer.write(1, [outcome(1)], [])
    bench.loop.run_until(lambda: bench.loop.stored)
    store.may_put.clear()
    writer.write(2, [outcome(2)], [])
    rows, _ = bench.read(writer, 1, 2)
    assert set(rows) == {task_id(1)}
    store.may_put.set()


def test_lookups_that_wait_are_answered_by_one_call(bench: Bench) -> None:
    store = Watched()
    store.may_read.clear()
    writer = bench.writer(store)
    writer.write(1, [outcome(number) for number in range(5)], [])
    bench.loop.run_until(lambda: bench.loop.stored)
    answers: dict[int, set[bytes]] = {}

    def ask(number: int) -> None:
        def heard(rows: Mapping[bytes, list[OutcomeRow]], _: str) -> None:
            answers[number] = set(rows)

        writer.read([task_id(number), task_id(0)], heard)

    for number in range(6):
        ask(number)
    store.may_read.set()
    bench.loop.run_until(lambda: len(answers) == 6)
    assert answers[3] == {task_id(3), task_id(0)}
    assert answers[5] == {task_id(0)}
    # The first may have been taken before the others came.
    assert len(store.reads) <= 2


def test_a_failed_lookup_says_why(bench: Bench) -> None:
    store = Watched()
    store.failures = [StoreError("connection reset")]
    writer = bench.writer(store)
    assert bench.read(writer, 1) == ({}, "connection reset")
    assert bench.read(writer, 1) == ({}, "")


def test_too_many_lookups_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqtasks.node.storing.STORE_READ_IDS_MAX", 2)
    store = Watched()
    store.may_read.clear()
    writer = bench.writer(store)
    reasons: list[str] = []
    for _ in range(5):
        writer.read([task_id(1), task_id(2)], lambda _rows, reason: reasons.append(reason))
    bench.loop.run_until(lambda: reasons)
    assert "too many questions" in reasons[0]
    store.may_read.set()
    bench.loop.run_until(lambda: len(reasons) == 5)
    assert reasons[-1] == ""


def test_old_results_expire(bench: Bench) -> None:
    store = Watched()
    writer = bench.writer(store, OPTIONS._replace(keep_ms=1_000), wall_ms=lambda: NOW_MS)
    writer.write(1, [outcome(1, stored_ms=NOW_MS - 1_001), outcome(2)], [])
    bench.loop.run_until(lambda: bench.loop.stored)
    # What runs at the commit may have looked before it; the one after has not.
    assert {store.expired.get(timeout=PATIENCE_S) for _ in range(store.expired.qsize() + 3)} == {
        NOW_MS - 1_000
    }
    rows, _ = bench.read(writer, 1, 2)
    assert set(rows) == {task_id(2)}


def test_without_a_time_nothing_expires(bench: Bench) -> None:
    store = Watched()
    writer = bench.writer(store)
    writer.write(1, [outcome(1, stored_ms=1)], [])
    bench.loop.run_until(lambda: bench.loop.stored)
    writer.close(PATIENCE_S)
    assert store.expired.empty()


def test_an_expiry_that_fails_does_not_stop_the_next(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Watched):
        async def expire(self, before_ms: int) -> int:
            self.expired.put(before_ms)
            raise StoreError("locked")

    store = Failing()
    bench.writer(store, OPTIONS._replace(keep_ms=1_000))
    for _ in range(3):
        store.expired.get(timeout=PATIENCE_S)
    assert "store.expire_failed" in caplog.text


def test_closing_stores_what_waits(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    writer = bench.writer(SqliteStore(path))
    for number in range(50):
        writer.write(number, [outcome(number)], [])
    assert writer.close(PATIENCE_S) == 0
    bench.loop.run_waiting()
    assert bench.loop.stored == list(range(50))
    again = bench.writer(SqliteStore(path, read_only=True))
    rows, _ = bench.read(again, *range(50))
    assert len(rows) == 50


def test_closing_gives_up_in_time_and_says_how_many_rows_are_lost(bench: Bench) -> None:
    store = Watched()
    store.failures = [StoreError("gone")] * 1_000_000
    writer = bench.writer(store)
    writer.write(1, [outcome(1), outcome(2)], [verdict(1)])
    assert writer.close(0.01) == 3
    assert store.was_closed
    assert bench.loop.stored == []


def test_closing_tries_once_more_at_once(bench: Bench) -> None:
    store = Watched()
    store.failures = [StoreError("not yet")]
    writer = bench.writer(store, OPTIONS._replace(retry_ms_min=3_600_000, retry_ms_max=3_600_000))
    writer.write(1, [outcome(1)], [])
    while not writer.backlog().failing:
        store.put_begun.wait(PATIENCE_S)
    assert writer.close(PATIENCE_S) == 0
    assert store.puts == [[1]]


def test_a_closed_writer_takes_nothing_and_answers(bench: Bench) -> None:
    writer = bench.writer(Watched())
    assert writer.close(PATIENCE_S) == 0
    assert writer.close(PATIENCE_S) == 0
    assert not writer.write(1, [outcome(1)], [])
    assert not writer.forget([task_id(1)])
    assert not writer.drain(lambda: None)
    rows, reason = bench.read(writer, 1)
    assert rows == {}
    assert "closed" in reason


def test_lookups_under_way_at_the_end_are_answered(bench: Bench) -> None:
    class Stuck(Watched):
        async def get_batch(self, task_ids: Sequence[bytes]) -> Mapping[bytes, list[OutcomeRow]]:
            self.put_begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    store = Stuck()
    writer = bench.writer(store)
    reasons: list[str] = []
    writer.read([task_id(1)], lambda _, reason: reasons.append(reason))
    assert store.put_begun.wait(PATIENCE_S)
    writer.read([task_id(2)], lambda _, reason: reasons.append(reason))
    writer.close(PATIENCE_S)
    bench.loop.run_until(lambda: len(reasons) == 2)
    assert all("closed" in reason for reason in reasons)


@pytest.mark.parametrize("error", [ConfigError("newer schema"), StoreError("refused")])
def test_a_store_that_cannot_open_stops_the_start(bench: Bench, error: Exception) -> None:
    class Shut(Watched):
        async def open(self) -> None:
            raise error

    with pytest.raises(type(error), match=str(error)):
        bench.writer(Shut())
    (writer,) = bench.writers
    assert not writer.write(1, [outcome(1)], [])
    assert writer.close(PATIENCE_S) == 0


def test_what_was_written_before_the_start_is_stored(bench: Bench) -> None:
    writer = StoreWriter(Watched(), bench.loop.call_soon, bench.loop.listener, OPTIONS)
    bench.writers.append(writer)
    assert writer.write(1, [outcome(1)], [])
    writer.start()
    bench.loop.run_until(lambda: bench.loop.stored == [1])


def test_many_threads_may_ask(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    writer = bench.writer(Watched())

    def work(start: int) -> None:
        for number in range(start, start + 100):
            assert writer.write(number, [outcome(number)], [])

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.loop.run_until(lambda: len(bench.loop.stored) == 300)
    assert sorted(bench.loop.stored) == list(range(300))
    assert not caplog.records
