"""The log of a journal: emptied in time, written again when in doubt, with room set aside."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.journals.test_sqlite import Failing, failing, settling
from zmqtasks.core.owned import Progress
from zmqtasks.errors import JournalError
from zmqtasks.journals import sqlite_log
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned, task_id

_EMPTIES = "PRAGMA wal_checkpoint(PASSIVE)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tasks"


@pytest.fixture
def journal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteJournal]:
    """One whose log is long when it has 50 pages."""
    monkeypatch.setattr(sqlite_log, "JOURNAL_CHECKPOINT_PAGES", 50)
    journal = SqliteJournal(folder)
    journal.open()
    yield journal
    if isinstance(journal._db, Failing):
        journal._db = journal._db.db
    journal.close()


def log_of(folder: Path) -> bytes:
    """What is in the log, without the room behind it."""
    return (folder / "tasks.db-wal").read_bytes().rstrip(b"\0")


def test_the_log_is_emptied_when_it_is_long_and_not_before(journal: SqliteJournal) -> None:
    db = failing(journal)
    emptied = []
    for number in range(200):
        journal.commit([owned(number)], (), [task_id(number - 1)] if number else (), sync=False)
        if _EMPTIES in db.statements:
            emptied.append(number)
            db.statements.clear()
    # A commit like these writes two to five pages.
    gaps = [later - before for before, later in itertools.pairwise(emptied)]
    assert gaps
    assert all(8 <= gap <= 30 for gap in gaps), gaps


def test_a_large_commit_is_followed_by_emptying_it(journal: SqliteJournal) -> None:
    db = failing(journal)
    journal.commit([owned(1, body=bytes(100))], sync=False)
    assert _EMPTIES not in db.statements
    journal.commit([owned(2, body=bytes(300_000))], sync=False)
    assert _EMPTIES in db.statements


@pytest.mark.parametrize(
    ("code", "is_doubtful"), [(sqlite3.SQLITE_IOERR_FSYNC, True), (sqlite3.SQLITE_FULL, False)]
)
def test_what_fails_while_it_is_emptied_does_not_fail_the_commit_before(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch, code: int, is_doubtful: bool
) -> None:
    db = failing(journal)
    settling(journal, db, monkeypatch)
    execute = db.execute

    def fails_to_empty(sql: str, *arguments: object) -> sqlite3.Cursor:
        if sql == _EMPTIES:
            db.countdown, db.code = 0, code
        return execute(sql, *arguments)

    monkeypatch.setattr(db, "execute", fails_to_empty)
    journal.commit([owned(1, body=bytes(300_000))], sync=False)
    assert journal._log.is_doubtful == is_doubtful
    monkeypatch.undo()
    settling(journal, db, monkeypatch)
    db.statements.clear()
    journal.commit([owned(2)], sync=False)
    assert ("settle" in db.statements) == is_doubtful
    # Tried again at once, since it is still long.
    assert _EMPTIES in db.statements


def test_the_commit_after_a_failed_one_is_synced(journal: SqliteJournal) -> None:
    journal.commit([owned(1)], sync=False)
    db = failing(journal)
    db.countdown = 0
    with pytest.raises(JournalError):
        journal.commit([owned(2)], sync=False)
    journal.commit([owned(3)], sync=False)
    assert "PRAGMA synchronous = FULL" in db.statements
    db.statements.clear()
    journal.commit([owned(4)], sync=False)
    assert "PRAGMA synchronous = NORMAL" in db.statements


def test_writing_the_log_again_leaves_it_as_it_is(journal: SqliteJournal, folder: Path) -> None:
    for number in range(5):
        journal.commit([owned(number, body=os.urandom(30_000))], sync=False)
    before = log_of(folder)
    assert len(before) > 100_000
    journal._log.is_doubtful = True
    journal._log.settle()
    assert not journal._log.is_doubtful
    assert log_of(folder) == before
    journal.commit([owned(9)], sync=True)
    assert len(list(journal.load())) == 6


def test_it_stays_in_doubt_as_long_as_the_disk_fails(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit([owned(1)], sync=False)
    journal._log.is_doubtful = True

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        for _ in range(2):
            with pytest.raises(JournalError, match="Input/output error"):
                journal.commit([owned(2)], sync=True)
    assert list(journal.load()) == [owned(1)]
    journal.commit([owned(2)], sync=True)
    assert not journal._log.is_doubtful


def test_a_log_that_a_killed_process_left_is_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            journal = SqliteJournal(folder)
            journal.open()
            journal.commit([owned(1)], sync=False)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    journal = SqliteJournal(folder)
    journal.open()
    # What that process was told about the disk died with it.
    assert journal._log.is_doubtful
    journal.commit([owned(2)], sync=False)
    assert not journal._log.is_doubtful
    journal.close()
    journal.open()
    assert not journal._log.is_doubtful
    journal.close()


def test_a_folder_that_cannot_be_synced_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqliteJournal(folder)
    journal.open()
    journal.commit([owned(1)], sync=True)
    journal.close()

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_log, "sync_folder", fails)
        with pytest.raises(JournalError, match="Input/output error"):
            journal.open()
    journal.open()
    assert list(journal.load()) == [owned(1)]
    journal.close()


def test_the_database_has_room_to_grow_by(folder: Path) -> None:
    journal = SqliteJournal(folder)
    journal.open()
    journal.commit([owned(1)], sync=True)
    for _ in range(2):
        size = (folder / "tasks.db").stat().st_size
        assert journal._db is not None
        assert size - journal._log.growth_bytes(journal._db) < 100_000
        assert journal._log.growth_bytes(journal._db) > 500_000
        # Also after SQLite has cut it off.
        journal._log.empty(journal._db)
    journal.close()


def test_changes_without_any_room_are_refused_before_they_block_the_log(folder: Path) -> None:
    free = 1 << 40
    journal = SqliteJournal(folder, space=lambda path: (free, 1 << 40))
    journal.open()
    journal.commit([owned(number) for number in range(40)], sync=True)
    free = 0
    journal._room_commits = 0
    notes = [Progress(task_id(number), 2, 1, bytes(60_000)) for number in range(40)]
    with pytest.raises(JournalError):
        journal.commit((), notes, sync=True)
    # There is room for a few, and for all that ends.
    journal.commit((), notes[:5], sync=True)
    journal.commit((), (), [task_id(number) for number in range(5, 40)], sync=True)
    assert [record.strikes for record in journal.load()] == [1] * 5
    journal.close()
