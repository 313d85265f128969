"""SqliteJournal: failing calls, full disks, forks, versions. Kills, lost power and failing
system calls: tests/chaos."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.small_disk import ballast, small_disk
from zmqtasks.core.owned import OwnedRecord, Progress, given_to
from zmqtasks.errors import ConfigError, JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.journals.sqlite_calls import hold_for_ever
from zmqtasks.journals.sqlite_file import SCHEMA_VERSION
from zmqtasks.limits import JOURNAL_RESERVE_BYTES
from zmqtasks.testing.journal_contract import owned, task_id

_PLENTY = 1 << 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tasks"


def content(folder: Path) -> list[OwnedRecord]:
    journal = SqliteJournal(folder)
    journal.open()
    try:
        return list(journal.load())
    finally:
        journal.close()


# --- calls that fail ------------------------------------------------------------------------


class Failing:
    """A connection whose n-th statement fails, and all after it if asked to."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.countdown = -1
        self.code = sqlite3.SQLITE_IOERR_WRITE
        self.for_ever = False
        self.statements: list[str] = []

    @property
    def in_transaction(self) -> bool:
        return self.db.in_transaction

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        if self.countdown == 0:
            if not self.for_ever:
                self.countdown = -1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self.code
            raise error
        self.countdown -= 1
        return self.db.execute(sql, *arguments)

    def close(self) -> None:
        self.db.close()


def failing(journal: SqliteJournal) -> Failing:
    """Put one between the open journal and its database."""
    assert journal._db is not None
    wrapped = Failing(journal._db)
    hold_for_ever(wrapped)  # type: ignore[arg-type]  # close() gives one reference back
    journal._db = wrapped  # type: ignore[assignment]
    return wrapped


@pytest.fixture
def journal(folder: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(folder)
    journal.open()
    yield journal
    if isinstance(journal._db, Failing):
        journal._db = journal._db.db
    journal.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_FULL])
@pytest.mark.parametrize("nth", range(12))
def test_a_commit_whose_nth_call_fails_changes_nothing_and_can_be_tried_again(
    journal: SqliteJournal, folder: Path, nth: int, code: int
) -> None:
    journal.commit([owned(number) for number in range(4)], [Progress(task_id(3), 2, 0)], sync=True)
    before = list(journal.load())
    db = failing(journal)
    db.countdown, db.code = nth, code
    puts = [owned(number) for number in range(10, 80)]
    change = (puts, [Progress(task_id(2), 5, 1)], [task_id(0), task_id(3)])
    error = _error_of(journal, *change)
    db.countdown = -1
    if error is None:
        # There are not so many statements.
        assert nth >= 9
    else:
        assert isinstance(error, JournalFull) == (code == sqlite3.SQLITE_FULL)
        assert str(folder) in str(error)
        assert list(journal.load()) == before
        journal.commit(*change, sync=False)
    assert [record.id for record in journal.load()] == [
        task_id(number) for number in (1, 2, *range(10, 80))
    ]
    journal.close()
    assert content(folder)[1] == owned(2, attempt=5, strikes=1)


def _error_of(journal: SqliteJournal, *change: Any) -> JournalError | None:
    try:
        journal.commit(*change, sync=False)
    except JournalError as exc:
        return exc
    return None


def settling(journal: SqliteJournal, db: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Note among the statements when the log is written again."""
    settle = journal._log.settle

    def noted() -> None:
        if journal._log.is_doubtful:
            db.statements.append("settle")
        settle()

    monkeypatch.setattr(journal._log, "settle", noted)


def test_after_a_failed_sync_the_log_is_written_again_before_anything_else(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = failing(journal)
    settling(journal, db, monkeypatch)
    # The room (two), BEGIN, kinds, tasks, meta, COMMIT.
    db.countdown, db.code = 6, sqlite3.SQLITE_IOERR_FSYNC
    with pytest.raises(JournalError):
        journal.commit([owned(1)], sync=True)
    assert db.statements[-2:] == ["COMMIT", "ROLLBACK"]
    db.statements.clear()
    journal.commit([owned(2)], sync=True)
    assert db.statements.index("settle") < db.statements.index("BEGIN IMMEDIATE")
    db.statements.clear()
    journal.commit([owned(3)], sync=True)
    assert "settle" not in db.statements
    assert list(journal.load()) == [owned(2), owned(3)]


def test_a_commit_of_nothing_undoes_a_failed_one_too(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = failing(journal)
    settling(journal, db, monkeypatch)
    db.countdown, db.code = 6, sqlite3.SQLITE_IOERR_FSYNC
    with pytest.raises(JournalError):
        journal.commit([owned(1)], sync=True)
    db.statements.clear()
    journal.commit(sync=False)
    # Written over, as by any other commit.
    assert db.statements[0] == "settle"
    assert db.statements[-1] == "COMMIT"
    db.statements.clear()
    journal.commit(sync=False)
    assert db.statements == []


def test_a_commit_that_ran_out_of_room_is_written_over(journal: SqliteJournal) -> None:
    journal.commit([owned(1)], sync=True)
    db = failing(journal)
    db.countdown, db.code = 0, sqlite3.SQLITE_FULL
    with pytest.raises(JournalFull):
        journal.commit([owned(2)], sync=True)
    # What it left in the log may look whole to a restart, by chance.
    assert [sql.split()[:2] for sql in db.statements] == [["INSERT", "INTO"], ["UPDATE", "meta"]]
    journal.commit([owned(5)], sync=False)
    assert list(journal.load()) == [owned(1), owned(5)]


def test_one_that_cannot_be_written_over_may_be_found(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit([owned(1)], sync=True)
    db = failing(journal)
    settling(journal, db, monkeypatch)
    db.countdown, db.code, db.for_ever = 0, sqlite3.SQLITE_FULL, True
    with pytest.raises(JournalError) as caught:
        journal.commit([owned(2)], sync=True)
    # That would say that nothing of it is there, for certain.
    assert not isinstance(caught.value, JournalFull)
    db.countdown = -1
    db.statements.clear()
    journal.commit((), (), [task_id(1)], sync=False)
    assert db.statements[0] == "settle"
    assert list(journal.load()) == []


def test_a_disk_that_fails_for_good_leaves_what_was_there(
    journal: SqliteJournal, folder: Path
) -> None:
    journal.commit([owned(1)], sync=True)
    db = failing(journal)
    db.countdown, db.for_ever = 0, True
    for number in range(2, 5):
        with pytest.raises(JournalError):
            journal.commit([owned(number)], sync=True)
    with pytest.raises(JournalError):
        journal.close()
    assert content(folder) == [owned(1)]


# --- full disks -----------------------------------------------------------------------------


def test_new_tasks_are_refused_before_the_reserve_is_used(folder: Path) -> None:
    free = _PLENTY
    journal = SqliteJournal(folder, space=lambda path: (free, _PLENTY))
    journal.open()
    journal.commit([owned(1)], sync=True)
    free = JOURNAL_RESERVE_BYTES + 1_000_000
    for number in range(2, 200):
        journal.commit([owned(number)], sync=False)
    with pytest.raises(JournalFull, match="ZMQTASKS_STATE_DIR"):
        journal.commit([owned(999, body=bytes(600_000))], sync=True)
    free = JOURNAL_RESERVE_BYTES
    _fill(journal, 200, 200)
    # What settles needs no room.
    journal.commit((), [Progress(task_id(1), 2, 0)], [task_id(2)], sync=True)
    free = _PLENTY
    journal.commit([owned(999, body=bytes(600_000))], sync=True)
    journal.close()


def test_room_that_settled_tasks_left_in_the_file_is_used_again(folder: Path) -> None:
    free = _PLENTY
    journal = SqliteJournal(folder, space=lambda path: (free, _PLENTY))
    journal.open()
    large = [owned(number, body=bytes(100_000)) for number in range(40)]
    journal.commit(large, sync=True)
    free = 0
    journal._room_commits = 0
    with pytest.raises(JournalFull):
        journal.commit([owned(100)], sync=True)
    journal.commit((), (), [record.id for record in large], sync=True)
    journal.commit([owned(100)], sync=True)
    journal.close()
    assert content(folder) == [owned(100)]


def test_on_a_full_disk_open_tasks_settle_and_it_recovers_by_itself(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk, contextlib.ExitStack() as closing:
        journal = SqliteJournal(disk / "tasks")
        journal.open()
        closing.callback(journal.close)
        accepted = _fill(journal, 0)
        assert len(accepted) > 20
        with ballast(disk):
            accepted += _fill(journal, 5_000, 10)
            # Not one byte is free.
            journal.commit((), [Progress(accepted[-1], 2, 1)], accepted[:3], sync=True)
            for start in range(3, len(accepted) - 5):
                journal.commit((), (), [accepted[start]], sync=True)
            assert [record.id for record in journal.load()] == accepted[-5:]
        again = _fill(journal, 6_000)
        assert len(again) > 20
        journal.close()
        loaded = content(disk / "tasks")
        assert [record.id for record in loaded] == [*accepted[-5:], *again]
        assert loaded[4].attempt == 2


def _fill(journal: SqliteJournal, first: int, size: int = 50_000) -> list[bytes]:
    """Put tasks until it is full; the ids of those that it took."""
    accepted: list[bytes] = []
    while True:
        record = owned(first + len(accepted), body=bytes(size))
        try:
            journal.commit([record], sync=True)
        except JournalFull:
            return accepted
        accepted.append(record.id)


def test_a_file_at_its_largest_size_is_full_too(journal: SqliteJournal) -> None:
    assert journal._db is not None
    journal.commit([owned(1)], sync=True)
    journal._db.execute("PRAGMA max_page_count = 40")
    _fill(journal, 2, 10_000)
    journal.commit((), (), [task_id(1)], sync=True)
    journal._db.execute("PRAGMA max_page_count = 4000")
    journal.commit([owned(200, body=bytes(100_000))], sync=True)


def test_the_file_shrinks_after_a_burst(journal: SqliteJournal, folder: Path) -> None:
    records = [owned(number, body=bytes(20_000)) for number in range(2_000)]
    for start in range(0, 2_000, 100):
        journal.commit(records[start : start + 100], sync=False)
    for start in range(0, 2_000, 100):
        journal.commit((), (), [record.id for record in records[start : start + 100]], sync=False)
    for number in range(64 * 25):
        journal.commit([owned(5_000 + number)], (), [task_id(4_999 + number)], sync=False)
    journal.close()
    assert (folder / "tasks.db").stat().st_size < 10_000_000


def _burst(journal: SqliteJournal, count: int, each: int) -> None:
    """So many tasks come, and all but one leave, in commits of so many."""
    for start in range(0, count, each):
        puts = [owned(number, body=bytes(1_000)) for number in range(start, start + each)]
        journal.commit(puts, sync=False)
    for start in range(0, count, each):
        gone = [task_id(number) for number in range(max(1, start), start + each)]
        journal.commit((), (), gone, sync=False)


def test_the_file_is_small_at_once_when_the_last_task_has_left(
    journal: SqliteJournal, folder: Path
) -> None:
    _burst(journal, 20_000, 1_000)
    assert (folder / "tasks.db").stat().st_size > 20_000_000
    journal.commit((), (), [task_id(0)], sync=False)
    assert (folder / "tasks.db").stat().st_size < 2_000_000


def test_the_file_of_a_closed_journal_is_small_and_has_its_tasks(
    journal: SqliteJournal, folder: Path
) -> None:
    _burst(journal, 6_000, 1_000)  # unused pages that an open one keeps
    journal.close()
    assert (folder / "tasks.db").stat().st_size < 100_000
    assert content(folder) == [owned(0, body=bytes(1_000))]


# --- forks ----------------------------------------------------------------------------------


def test_a_forked_child_can_do_no_harm(journal: SqliteJournal, folder: Path) -> None:
    journal.commit([owned(1)], sync=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                journal.commit([owned(2)], sync=True)
            except JournalError as exc:
                status = 0 if "forked" in str(exc) else 2
            # SQLite would fold and remove the log when the connection goes.
            journal.close()
            journal.__dict__.clear()
            gc.collect()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert (folder / "tasks.db-wal").exists()
    journal.commit([owned(3)], sync=True)
    journal.close()
    assert content(folder) == [owned(1), owned(3)]


# --- files ----------------------------------------------------------------------------------


def test_others_may_not_read_it(journal: SqliteJournal, folder: Path) -> None:
    journal.commit([owned(1)], sync=True)
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_kinds_are_stored_once(journal: SqliteJournal, folder: Path) -> None:
    for number in range(5):
        journal.commit([owned(number)], sync=False)
    journal.close()
    with sqlite3.connect(folder / "tasks.db") as db:
        assert db.execute("SELECT count(*) FROM kinds").fetchone() == (1,)
    db.close()
    journal.open()
    journal.commit([owned(9)], sync=False)
    journal.close()
    with sqlite3.connect(folder / "tasks.db") as db:
        assert db.execute("SELECT count(*) FROM kinds").fetchone() == (1,)
    db.close()


def test_a_newer_version_is_refused(journal: SqliteJournal, folder: Path) -> None:
    journal.close()
    db = sqlite3.connect(folder / "tasks.db")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(ConfigError, match="newer"):
        journal.open()
    db = sqlite3.connect(folder / "tasks.db")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.close()
    journal.open()


def test_a_journal_of_version_1_is_read_and_goes_on(journal: SqliteJournal, folder: Path) -> None:
    mark = given_to(b"taker")
    journal.commit([owned(number) for number in range(3)], sync=True)
    journal.commit((), [Progress(task_id(0), 2, 1), Progress(task_id(1), 3, 0, mark)], sync=True)
    journal.close()
    db = sqlite3.connect(folder / "tasks.db")
    for column in ("ext", "body"):
        db.execute(f"ALTER TABLE progress DROP COLUMN {column}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    journal.open()
    older = [owned(0, attempt=2, strikes=1), owned(1, attempt=3, mark=mark), owned(2)]
    assert list(journal.load()) == older
    journal.commit((), [Progress(task_id(1), 4, 0, None, {"n": 1}, b"new")], sync=True)
    journal.close()
    journal.open()
    changed = owned(1, attempt=4, mark=mark, ext={"n": 1}, body=b"new")
    assert list(journal.load()) == [older[0], changed, older[2]]


def test_two_users_at_once_are_refused(journal: SqliteJournal, folder: Path) -> None:
    journal.commit([owned(1)], sync=True)
    script = (
        "import sys; from pathlib import Path; from zmqtasks.journals.sqlite import SqliteJournal\n"
        "SqliteJournal(Path(sys.argv[1])).open()"
    )
    other = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False
    )
    assert "another program has it open" in other.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="check its folder"):
        SqliteJournal(tmp_path / "file" / "tasks").open()


def test_a_database_of_another_program_is_no_journal(folder: Path) -> None:
    folder.mkdir()
    db = sqlite3.connect(folder / "tasks.db")
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(JournalCorrupt, match="another program"):
        SqliteJournal(folder).open()
    db = sqlite3.connect(folder / "tasks.db")
    assert db.execute("SELECT count(*) FROM theirs").fetchone() == (0,)
    db.close()
