"""Damaged journals are reported with what can be saved, and that is saved."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqtasks.core.owned import OwnedRecord, Progress, given_to, incoming_from
from zmqtasks.errors import JournalCorrupt, JournalError
from zmqtasks.journals.salvage import count_open, examine, salvage
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned, task_id

_COUNT = 400


def write(folder: Path) -> None:
    """A journal of 400 tasks, closed, so that all is in the database."""
    journal = SqliteJournal(folder)
    journal.open()
    puts = [owned(number) for number in range(_COUNT)]
    puts[9] = owned(9, mark=incoming_from(b"giver"))
    journal.commit(puts, sync=True)
    changes = [Progress(task_id(7), 2, 1), Progress(task_id(8), 1, 0, given_to(b"taker"))]
    journal.commit((), changes, sync=True)
    journal.close()


def killed(script: Callable[[SqliteJournal], None], folder: Path) -> None:
    """Let a forked process work on a journal and kill it: the log stays as it is."""
    pid = os.fork()
    if pid == 0:
        try:
            journal = SqliteJournal(folder)
            journal.open()
            script(journal)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def load(folder: Path) -> list[OwnedRecord]:
    journal = SqliteJournal(folder)
    journal.open()
    try:
        return list(journal.load())
    finally:
        journal.close()


def sql(folder: Path, statement: str) -> None:
    db = sqlite3.connect(folder / "tasks.db")
    with db:
        db.execute(statement)
    db.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    write(folder)
    return folder


def test_a_whole_journal_has_no_damage(folder: Path) -> None:
    found = examine(folder)
    assert (len(found.records), found.damages, found.expected_count) == (_COUNT, (), _COUNT)
    assert found.records == load(folder)
    assert count_open(folder) == _COUNT


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert examine(tmp_path / "none") == ([], (), None)
    assert count_open(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("statement", "saved", "damage"),
    [
        ("UPDATE tasks SET body = x'00' WHERE seq = 9", _COUNT - 1, "task in row 9: its checksum"),
        ("UPDATE tasks SET attempt = 9 WHERE seq = 9", _COUNT - 1, "task in row 9: its checksum"),
        ("UPDATE tasks SET id = 'text' WHERE seq = 9", _COUNT - 1, "task in row 9: its checksum"),
        ("UPDATE tasks SET sum = NULL", 0, "NOT NULL"),
        ("DELETE FROM tasks WHERE seq > 300", 300, "400 tasks should be there, and 300 can"),
        ("UPDATE tasks SET seq = 5000 WHERE seq = 9", _COUNT - 1, "task in row 5000"),
        ("DELETE FROM progress", _COUNT, "not in the state in which the last commit left"),
        ("UPDATE progress SET attempt = 1", _COUNT, "progress of row 8: its checksum"),
        ("UPDATE progress SET mark = x'3E'", _COUNT, "progress of row 8: its checksum"),
        ("UPDATE progress SET mark = NULL WHERE seq = 9", _COUNT, "progress of row 9: its"),
        ("UPDATE tasks SET mark = x'' WHERE seq = 10", _COUNT - 1, "task in row 10: its checksum"),
        ("UPDATE kinds SET data = x'00'", 0, "kind 1: its checksum"),
        ("DELETE FROM meta", _COUNT, "the table meta is empty"),
        ("UPDATE meta SET tasks = 399", _COUNT, "the table meta: its checksum"),
        ("DROP TABLE kinds", 0, "no such table"),
        ("DROP TABLE tasks", 0, "no such table"),
    ],
)
def test_a_changed_row_is_reported_and_the_others_are_saved(
    folder: Path, statement: str, saved: int, damage: str
) -> None:
    try:
        sql(folder, statement)
    except sqlite3.IntegrityError as exc:
        assert damage in str(exc)  # noqa: PT017 - SQLite itself refuses such a row
        return
    with pytest.raises(JournalCorrupt) as caught:
        load(folder)
    error = caught.value
    assert damage in str(error.damages)
    assert error.savable_count == saved
    assert str(folder) in str(error)
    assert f"{saved} tasks can be saved" in str(error)
    # It stays damaged until somebody decides.
    with pytest.raises(JournalCorrupt):
        load(folder)
    done = salvage(folder)
    assert done.task_count == saved
    assert len(load(folder)) == saved
    assert (done.kept_at / "tasks.db").exists()
    assert examine(folder).damages == ()


def test_what_is_saved_is_in_the_hands_it_was_in(folder: Path) -> None:
    sql(folder, "DELETE FROM tasks WHERE seq = 300")
    salvage(folder)
    marks = {record.id: record.mark for record in load(folder) if record.mark}
    assert marks == {task_id(8): given_to(b"taker"), task_id(9): incoming_from(b"giver")}


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_is_reported_or_does_no_harm(folder: Path, seed: int) -> None:
    expected = load(folder)
    path = folder / "tasks.db"
    _flip(path, random.Random(seed).randrange(path.stat().st_size))
    try:
        found = load(folder)
    except JournalError as exc:
        if isinstance(exc, JournalCorrupt):
            salvage(folder)
            saved = load(folder)
            assert {record.id for record in saved} <= {record.id for record in expected}
            changed = (task_id(7), task_id(8))
            assert all(record in expected or record.id in changed for record in saved), (
                "saved something that was never put"
            )
    else:
        # It hit something that is not used.
        assert found == expected


def test_most_of_a_journal_with_a_destroyed_page_is_saved(folder: Path) -> None:
    path = folder / "tasks.db"
    data = bytearray(path.read_bytes())
    page = data.index(task_id(200)) // 4096
    data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt) as caught:
        load(folder)
    assert caught.value.savable_count is not None
    assert _COUNT - 120 < caught.value.savable_count < _COUNT
    done = salvage(folder)
    assert done.task_count == caught.value.savable_count
    saved = {record.id for record in load(folder)}
    # On both sides of the hole.
    assert {task_id(0), task_id(_COUNT - 1)} <= saved


def test_a_file_that_is_no_database_is_reported_and_kept(folder: Path) -> None:
    (folder / "tasks.db").write_bytes(b"no database " * 1_000)
    with pytest.raises(JournalCorrupt, match="0 tasks can be saved"):
        load(folder)
    done = salvage(folder)
    assert (done.kept_at / "tasks.db").read_bytes().startswith(b"no database")
    assert load(folder) == []


# --- the log --------------------------------------------------------------------------------


def test_a_torn_end_that_was_not_synced_is_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"

    def script(journal: SqliteJournal) -> None:
        journal.commit([owned(1)], sync=True)
        journal.commit([owned(2)], sync=False)

    killed(script, folder)
    _damage_last_page(folder / "tasks.db-wal")
    assert load(folder) == [owned(1)]


def test_damage_to_what_had_been_synced_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"

    def script(journal: SqliteJournal) -> None:
        for number in range(1, 4):
            journal.commit([owned(number)], sync=True)

    killed(script, folder)
    _damage_last_page(folder / "tasks.db-wal")
    for _ in range(2):
        with pytest.raises(JournalCorrupt, match="rows 3 to 3 had been synced") as caught:
            load(folder)
        assert caught.value.savable_count == 2
    # The log as it was, for whoever can read more from it.
    assert (folder / "tasks.db-wal.damaged").stat().st_size > 4096
    assert salvage(folder).task_count == 2
    assert load(folder) == [owned(1), owned(2)]


@pytest.fixture(scope="module")
def synced_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of a killed process with all of its tasks in the log, and synced."""
    folder = tmp_path_factory.mktemp("log") / "tasks"

    def script(journal: SqliteJournal) -> None:
        for number in range(30):
            drops = [task_id(number - 1)] if number % 3 == 2 else []
            journal.commit([owned(number)], (), drops, sync=True)

    killed(script, folder)
    return folder


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_in_a_synced_log_is_reported_or_does_no_harm(
    synced_log: Path, tmp_path: Path, seed: int
) -> None:
    expected = [owned(number) for number in range(30) if number % 3 != 1]
    folder = tmp_path / "tasks"
    shutil.copytree(synced_log, folder)
    log = folder / "tasks.db-wal"
    used = len(log.read_bytes().rstrip(b"\0"))
    _flip(log, random.Random(seed).randrange(used))
    try:
        found = load(folder)
    except JournalCorrupt as exc:
        # What the missing commits dropped is open again: better twice than never.
        assert "synced" in str(exc.damages)  # noqa: PT017 - may not be raised
        assert (folder / "tasks.db-wal.damaged").stat().st_size > used // 2
        assert salvage(folder).task_count <= len(expected) + 1
    else:
        assert found == expected


def test_a_removed_log_or_database_is_reported(tmp_path: Path) -> None:
    def script(journal: SqliteJournal) -> None:
        journal.commit([owned(1)], sync=True)

    for name in ("tasks.db-wal", "tasks.db"):
        folder = tmp_path / name
        killed(script, folder)
        (folder / name).unlink()
        with pytest.raises(JournalCorrupt):
            load(folder)


def test_a_database_from_an_older_day_is_reported(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tasks.db", tmp_path / "backup")
    journal = SqliteJournal(folder)
    journal.open()
    journal.commit((), (), [task_id(1)], sync=True)
    journal.close()
    shutil.copy(tmp_path / "backup", folder / "tasks.db")
    with pytest.raises(JournalCorrupt, match="had been synced and are"):
        load(folder)


def test_a_damaged_mark_is_no_damage_of_the_journal(folder: Path) -> None:
    for content in (b"", bytes(36), b"x" * 36):
        (folder / "synced").write_bytes(content)
        assert len(load(folder)) == _COUNT


def _damage_last_page(log: Path) -> None:
    """The last page that was written; behind it the room set aside is empty."""
    data = bytearray(log.read_bytes())
    while data and not data[-1]:
        data.pop()
    data[-1] ^= 0xFF
    with log.open("r+b") as file:
        file.write(data)
