"""JournalWriter: order, merging, full and failing disks, damage, bounds, adoption, closing."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.core.owned import OwnedRecord, Progress
from zmqtasks.errors import JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals.base import Journal
from zmqtasks.journals.memory import MemoryDisk, MemoryJournal
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.node.journaling import JournalListener, JournalOptions, JournalWriter
from zmqtasks.testing.journal_contract import owned, task_id

#: Longer than any step takes; only a failing test waits for it.
PATIENCE_S = 20.0
OPTIONS = JournalOptions(retry_ms_min=1, retry_ms_max=2)
FOLDER = Path("journal")


class Watched(MemoryJournal):
    """A memory journal that notes its commits, fails on demand and can be held up."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        super().__init__(FOLDER, self.disk)
        #: (ids put, ids progressed, ids dropped, synced) of each commit that succeeded.
        self.commits: list[tuple[list[int], list[int], list[int], bool]] = []
        self.tries = 0
        #: Taken one by one by the commits to come; then all succeed.
        self.failures: list[Exception] = []
        #: Commits with new tasks that are this large have no room.
        self.too_large = 1 << 60
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.commit_begun = threading.Event()
        self.was_closed = False

    def commit(
        self,
        puts: Sequence[OwnedRecord] = (),
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> None:
        self.commit_begun.set()
        assert self.may_commit.wait(PATIENCE_S)
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        if sum(len(record.body) for record in puts) >= self.too_large:
            raise JournalFull("too large")
        super().commit(puts, progress, drops, sync=sync)
        number = [_number(record.id) for record in puts]
        changed = [_number(change.id) for change in progress]
        self.commits.append((number, changed, [_number(task) for task in drops], sync))

    def close(self) -> None:
        self.was_closed = True
        super().close()

    def held(self) -> list[OwnedRecord]:
        return list(self.disk.contents[FOLDER].written.values())


def _number(task: bytes) -> int:
    return int.from_bytes(task[5:], "big")


class Loop:
    """The node's loop: what is called soon is run by the test, on its thread."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = (
            queue.SimpleQueue()
        )
        self.committed: list[int] = []
        self.refused: list[tuple[list[int], JournalError]] = []
        self.room_count = 0
        self.broken: list[JournalError] = []
        self.listener = JournalListener(
            self.committed.extend,
            lambda numbers, error: self.refused.append((numbers, error)),
            self._room,
            self.broken.append,
        )

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
        self.writers: list[JournalWriter] = []

    def writer(self, journal: Journal, options: JournalOptions = OPTIONS) -> JournalWriter:
        writer = JournalWriter(journal, self.loop.call_soon, self.loop.listener, options)
        self.writers.append(writer)
        writer.start()
        return writer

    def held_up(self, journal: Watched, options: JournalOptions = OPTIONS) -> JournalWriter:
        """A writer that is busy with batch 0, task 0, until ``may_commit`` is set."""
        journal.may_commit.clear()
        writer = self.writer(journal, options)
        assert writer.write(0, [owned(0)], sync=False)
        assert journal.commit_begun.wait(PATIENCE_S)
        return writer


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for writer in bench.writers:
        writer.close(0.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "zmqtasks-journal"]


# --- batches --------------------------------------------------------------------------------


def test_a_batch_is_told_after_its_commit(bench: Bench) -> None:
    journal = Watched()
    writer = bench.writer(journal)
    assert writer.write(7, [owned(1), owned(2)], [Progress(task_id(1), 2, 0)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed)
    assert bench.loop.committed == [7]
    assert journal.held() == [owned(1, attempt=2), owned(2)]
    assert writer.backlog() == (0, 0, "")


def test_a_start_gives_what_is_open(bench: Bench) -> None:
    disk = MemoryDisk()
    writer = bench.writer(Watched(disk))
    writer.write(1, [owned(1), owned(2)], sync=False)
    assert writer.close(PATIENCE_S) == 0
    again = JournalWriter(Watched(disk), bench.loop.call_soon, bench.loop.listener, OPTIONS)
    bench.writers.append(again)
    assert again.start() == [owned(1), owned(2)]


def test_batches_that_wait_share_one_commit_that_syncs_if_one_must(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal)
    for number in range(1, 4):
        writer.write(number, [owned(number)], (), [task_id(number - 1)], sync=number == 2)
    assert writer.backlog().changes == 7
    journal.may_commit.set()
    bench.loop.run_until(lambda: len(bench.loop.committed) == 4)
    assert bench.loop.committed == [0, 1, 2, 3]
    assert journal.commits == [([0], [], [], False), ([1, 2, 3], [], [0, 1, 2], True)]
    assert journal.held() == [owned(3)]


def test_a_merge_has_bounds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqtasks.node.journaling.JOURNAL_MERGE_TASKS_MAX", 3)
    journal = Watched()
    writer = bench.held_up(journal)
    writer.write(1, [owned(1), owned(2)], sync=False)
    writer.write(2, [owned(3)], sync=False)
    writer.write(3, [owned(number) for number in range(4, 9)], sync=False)
    journal.may_commit.set()
    bench.loop.run_until(lambda: len(bench.loop.committed) == 4)
    assert [commit[0] for commit in journal.commits] == [[0], [1, 2, 3], [4, 5, 6, 7, 8]]


def test_a_task_that_comes_back_is_not_dropped_with_its_earlier_self(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal)
    writer.write(1, (), (), [task_id(0)], sync=True)
    writer.write(2, [owned(0, body=b"again")], sync=True)
    journal.may_commit.set()
    bench.loop.run_until(lambda: bench.loop.committed == [0, 1, 2])
    assert journal.held() == [owned(0, body=b"again")]


# --- a full disk ----------------------------------------------------------------------------


def test_a_full_disk_refuses_new_tasks_and_goes_on_with_old_ones(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Watched()
    writer = bench.writer(journal)
    writer.write(1, [owned(1), owned(2)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed == [1])
    journal.disk.bytes_max = journal.disk.used_bytes()
    writer.write(2, [owned(3)], [Progress(task_id(2), 2, 0)], sync=True)
    bench.loop.run_until(lambda: bench.loop.refused)
    (numbers, error) = bench.loop.refused[0]
    assert numbers == [2]
    assert isinstance(error, JournalFull)
    assert journal.held() == [owned(1), owned(2, attempt=2)]
    assert "holds" in writer.backlog().failing
    # Room comes from what settles.
    writer.write(3, (), (), [task_id(1)], sync=False)
    bench.loop.run_until(lambda: 3 in bench.loop.committed)
    writer.write(4, [owned(4)], sync=True)
    bench.loop.run_until(lambda: 4 in bench.loop.committed)
    bench.loop.run_until(lambda: bench.loop.room_count == 1)
    assert bench.loop.committed == [1, 3, 4]
    assert writer.backlog() == (0, 0, "")
    messages = [record.getMessage().split()[0] for record in caplog.records]
    assert messages == ["journal.failing", "journal.recovered"]


def test_a_large_batch_without_room_does_not_take_others_with_it(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal)
    journal.too_large = 10_000
    writer.write(1, [owned(1)], sync=True)
    writer.write(2, [owned(2, body=b"x" * 10_000)], [Progress(task_id(1), 2, 0)], sync=True)
    writer.write(3, [owned(3), owned(4)], (), [task_id(1)], sync=True)
    journal.may_commit.set()
    bench.loop.run_until(lambda: bench.loop.committed == [0, 1, 3])
    assert [numbers for numbers, _ in bench.loop.refused] == [[2]]
    # Task 1 was put and dropped by the same group.
    assert journal.held() == [owned(0), owned(3), owned(4)]


def test_progress_of_a_task_that_was_put_apart_is_not_lost(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal)
    journal.too_large = 10_000
    writer.write(1, [owned(1)], sync=True)
    writer.write(2, [owned(2, body=b"x" * 10_000)], [Progress(task_id(1), 2, 1)], sync=True)
    journal.may_commit.set()
    bench.loop.run_until(lambda: bench.loop.committed == [0, 1])
    assert journal.held() == [owned(0), owned(1, attempt=2, strikes=1)]


def test_what_settles_is_tried_until_it_is_written(bench: Bench) -> None:
    journal = Watched()
    writer = bench.writer(journal)
    writer.write(1, [owned(1), owned(2)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed == [1])
    journal.failures = [JournalFull("not even that")] * 20
    writer.write(2, (), [Progress(task_id(2), 3, 0)], [task_id(1)], sync=False)
    bench.loop.run_until(lambda: bench.loop.committed == [1, 2])
    assert bench.loop.refused == []
    assert journal.held() == [owned(2, attempt=3)]


def test_a_new_batch_is_tried_at_once_while_others_wait_for_room(bench: Bench) -> None:
    journal = Watched()
    options = OPTIONS._replace(retry_ms_min=3_600_000, retry_ms_max=3_600_000)
    writer = bench.writer(journal, options)
    journal.failures = [JournalFull("full"), JournalFull("full")]
    writer.write(1, (), (), [task_id(1)], sync=False)
    while len(journal.failures) == 2:
        assert journal.commit_begun.wait(PATIENCE_S)
    writer.write(2, [owned(2)], sync=True)
    bench.loop.run_until(lambda: sorted(bench.loop.committed) == [1, 2])


# --- a failing disk -------------------------------------------------------------------------


def test_a_failing_disk_is_tried_again_before_tasks_are_refused(bench: Bench) -> None:
    journal = Watched()
    writer = bench.writer(journal)
    journal.failures = [JournalError("input/output error")] * (OPTIONS.tries - 1)
    writer.write(1, [owned(1)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed == [1])
    assert bench.loop.refused == []
    journal.failures = [JournalError("input/output error")] * OPTIONS.tries
    writer.write(2, [owned(2)], (), [task_id(1)], sync=True)
    bench.loop.run_until(lambda: bench.loop.refused)
    (numbers, error) = bench.loop.refused[0]
    assert (numbers, str(error)) == ([2], "input/output error")
    assert not isinstance(error, JournalFull)
    # What settled is written as soon as the disk works.
    writer.write(3, [owned(3)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed == [1, 3])
    assert journal.held() == [owned(3)]


@pytest.mark.parametrize("failure", [JournalCorrupt("page 7"), RuntimeError("a bug")])
def test_a_damaged_journal_is_told_and_nothing_more_is_taken(
    bench: Bench, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    journal = Watched()
    writer = bench.held_up(journal)
    journal.failures = [failure]
    writer.write(1, [owned(1)], sync=True)
    writer.write(2, (), (), [task_id(0)], sync=True)
    journal.may_commit.set()
    bench.loop.run_until(lambda: bench.loop.broken)
    assert isinstance(bench.loop.broken[0], JournalError)
    while writer.write(9, sync=False):
        bench.loop.run_waiting()
    told = [number for numbers, _ in bench.loop.refused for number in numbers]
    bench.loop.run_waiting()
    assert 1 not in bench.loop.committed
    assert set(told) <= {0, 1}
    assert not writer.adopt(Path("x"), lambda records, is_last, reason: None)
    assert len(bench.loop.broken) == 1
    assert caplog.records


# --- bounds ---------------------------------------------------------------------------------


def test_past_its_bound_it_takes_no_new_tasks_and_tells_when_there_is_room(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal, OPTIONS._replace(backlog_tasks_max=4))
    assert writer.write(1, [owned(number) for number in range(1, 4)], sync=True)
    assert not writer.write(2, [owned(5)], sync=True)
    # What settles is always taken.
    assert writer.write(3, (), (), [task_id(0)], sync=False)
    bench.loop.run_waiting()
    assert bench.loop.room_count == 0
    journal.may_commit.set()
    bench.loop.run_until(lambda: bench.loop.room_count)
    assert writer.write(2, [owned(5)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed == [0, 1, 3, 2])
    assert bench.loop.room_count == 1


def test_bytes_are_bounded_as_well(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal, OPTIONS._replace(backlog_bytes_max=10_000))
    assert writer.write(1, [owned(1, body=b"x" * 8_000)], sync=True)
    assert not writer.write(2, [owned(2, body=b"x" * 2_000)], sync=True)
    assert writer.write(3, [owned(3)], sync=True)
    journal.may_commit.set()
    bench.loop.run_until(lambda: bench.loop.committed == [0, 1, 3])


# --- adoption -------------------------------------------------------------------------------


def _filled(disk: MemoryDisk, count: int) -> Path:
    folder = Path("inherited-000001")
    journal = MemoryJournal(folder, disk)
    journal.open()
    journal.commit([owned(number) for number in range(100, 100 + count)], sync=True)
    journal.close()
    return folder


def test_another_journal_is_adopted_piece_by_piece(bench: Bench) -> None:
    disk = MemoryDisk()
    folder = _filled(disk, 2_500)
    journal = Watched(disk)
    writer = bench.writer(journal)
    answers: list[tuple[int, bool, str]] = []
    assert writer.adopt(
        folder, lambda records, is_last, reason: answers.append((len(records), is_last, reason))
    )
    bench.loop.run_until(lambda: answers and answers[-1][1])
    assert answers == [(1_000, False, ""), (1_000, False, ""), (500, False, ""), (0, True, "")]
    assert len(journal.held()) == 2_500


def test_what_was_left_in_the_slot_is_taken_over_at_the_start(bench: Bench) -> None:
    disk = MemoryDisk()
    folder = _filled(disk, 2)
    writer = JournalWriter(Watched(disk), bench.loop.call_soon, bench.loop.listener, OPTIONS)
    bench.writers.append(writer)
    assert writer.start([folder, Path("gone")]) == [owned(100), owned(101)]


def test_a_failed_adoption_is_told_and_does_no_harm(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tasks.db").write_bytes(b"no database" * 1_000)
    writer = bench.writer(SqliteJournal(tmp_path / "tasks"))
    answers: list[tuple[int, bool, str]] = []
    writer.adopt(
        tmp_path / "damaged",
        lambda records, is_last, reason: answers.append((len(records), is_last, reason)),
    )
    bench.loop.run_until(lambda: answers)
    count, is_last, reason = answers[0]
    assert (count, is_last) == (0, True)
    assert "damaged" in reason
    writer.write(1, [owned(1)], sync=True)
    bench.loop.run_until(lambda: bench.loop.committed == [1])


def test_an_adoption_that_the_end_cut_off_is_told(bench: Bench) -> None:
    disk = MemoryDisk()
    folder = _filled(disk, 10)
    journal = Watched(disk)
    writer = bench.held_up(journal)
    answers: list[tuple[int, bool, str]] = []
    writer.adopt(
        folder, lambda records, is_last, reason: answers.append((len(records), is_last, reason))
    )
    closing = threading.Thread(target=writer.close, args=(PATIENCE_S,))
    closing.start()
    while writer.write(5, sync=False):
        pass
    journal.may_commit.set()
    closing.join()
    bench.loop.run_until(lambda: answers)
    assert answers == [(0, True, "journal is closed")]
    assert len(disk.contents[folder].written) == 10


# --- closing --------------------------------------------------------------------------------


def test_closing_writes_what_waits_and_syncs(bench: Bench) -> None:
    journal = Watched()
    writer = bench.held_up(journal)
    for number in range(1, 5):
        writer.write(number, [owned(number)], sync=False)
    journal.may_commit.set()
    assert writer.close(PATIENCE_S) == 0
    assert journal.was_closed
    journal.disk.lose_unsynced()
    assert len(journal.held()) == 5
    bench.loop.run_until(lambda: len(bench.loop.committed) == 5)
    assert not writer.write(6, [owned(6)], sync=True)


def test_closing_tells_how_much_could_not_be_written(bench: Bench) -> None:
    journal = Watched()
    journal.failures = [JournalError("no disk")] * 1_000_000
    writer = bench.writer(journal, OPTIONS._replace(tries=1_000_000))
    writer.write(1, [owned(1), owned(2)], (), [task_id(3)], sync=True)
    assert writer.close(0.05) == 3
    assert journal.was_closed


def test_closing_one_that_never_started_does_nothing() -> None:
    loop = Loop()
    assert JournalWriter(Watched(), loop.call_soon, loop.listener).close(0.0) == 0
