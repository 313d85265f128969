"""Slots are looked at without disturbing who has them, and mended one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from zmqtasks.core.owned import (
    OwnedRecord,
    Progress,
    dead_mark,
    given_to,
    incoming_from,
)
from zmqtasks.errors import JournalError
from zmqtasks.journals.inspection import JournalReport, look_into, mend, slot_folders
from zmqtasks.journals.slots import JournalSlots, LeftBehind, Slot
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.journals.sqlite_file import SCHEMA_VERSION
from zmqtasks.testing.journal_contract import owned, task_id


@pytest.fixture
def slots(tmp_path: Path) -> JournalSlots:
    return JournalSlots(tmp_path / "journal")


def put(folder: Path, records: Sequence[OwnedRecord], changes: Sequence[Progress] = ()) -> None:
    journal = SqliteJournal(folder)
    journal.open()
    journal.commit(records, changes, sync=True)
    journal.close()


def left(slots: JournalSlots, *records: OwnedRecord) -> Path:
    """The folder of a slot that was left behind with these tasks."""
    slot = slots.claim_free(only_empty=True)
    put(slot.journal_folder, records)
    slot.release()
    return slot.folder


def damage(journal: Path, statement: str = "UPDATE tasks SET body = x'00' WHERE seq = 2") -> None:
    db = sqlite3.connect(journal / "tasks.db")
    with db:
        db.execute(statement)
    db.close()


def content(slot: Slot) -> list[OwnedRecord]:
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    try:
        return list(journal.load())
    finally:
        journal.close()


# --- looking --------------------------------------------------------------------------------


def test_the_slots_are_listed_by_number(slots: JournalSlots, tmp_path: Path) -> None:
    assert slot_folders(tmp_path / "journal") == []
    claimed = [slots.claim_free() for _ in range(11)]
    assert slot_folders(tmp_path / "journal") == [slot.folder for slot in claimed]


def test_a_slot_in_use_is_not_looked_into(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    journal = SqliteJournal(slot.journal_folder)
    journal.open()
    journal.commit([owned(1)], sync=True)
    report = look_into(slot.folder)
    assert (report.is_held, report.node, report.journals) == (True, slot.node.hex(), ())
    journal.commit([owned(2)], sync=True)
    journal.close()


def test_an_empty_slot_has_nothing_to_tell(slots: JournalSlots) -> None:
    unused, empty = slots.claim_free(), slots.claim_free()
    put(empty.journal_folder, ())
    for slot in (unused, empty):
        slot.release()
        report = look_into(slot.folder)
        assert (report.is_held, report.journals, report.kept_aside) == (False, (), ())
        assert not report.is_damaged


def test_tasks_are_counted_by_the_hands_they_are_in(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    records = [
        owned(1), owned(2), owned(3, mark=incoming_from(b"a")), owned(4, mark=dead_mark([], "", 1)),
        owned(5), owned(6, mark=b"?"),
    ]  # fmt: skip
    put(slot.journal_folder, records, [Progress(task_id(5), 1, 0, given_to(b"b"))])
    slot.release()
    (found,) = look_into(slot.folder).journals
    hands = {"owned": 2, "offered": 1, "given": 1, "dead": 1, "unknown": 1}
    assert found == JournalReport(slot.journal_folder, 6, hands, 6, ())


def test_journals_not_merged_yet_are_looked_into_too(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead.journal_folder, [owned(1), owned(2)])
    put(mine.journal_folder, [owned(3)])
    dead.release()
    (moved,) = slots.take_over(0, mine)
    mine.release()
    report = look_into(mine.folder)
    assert [(found.folder, found.open_count) for found in report.journals] == [
        (mine.journal_folder, 1),
        (moved, 2),
    ]


def test_damage_is_told_with_what_can_be_saved(slots: JournalSlots) -> None:
    folder = left(slots, owned(1), owned(2), owned(3))
    damage(folder / "tasks")
    report = look_into(folder)
    (found,) = report.journals
    assert report.is_damaged
    assert (found.open_count, found.expected_count) == (2, 3)
    assert found.damages[0].startswith("task in row 2: its checksum")


def test_one_of_a_newer_version_is_trouble_and_no_damage(slots: JournalSlots) -> None:
    folder = left(slots, owned(1))
    damage(folder / "tasks", f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    report = look_into(folder)
    assert not report.is_damaged
    assert "newer zmqtasks" in report.trouble
    with pytest.raises(JournalError, match="newer zmqtasks"):
        mend(folder)


def test_a_folder_that_is_no_slot_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        look_into(tmp_path)
    with pytest.raises(JournalError, match="there is no journal"):
        mend(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


# --- mending --------------------------------------------------------------------------------


def test_what_was_saved_can_be_adopted_and_the_damaged_one_is_kept(slots: JournalSlots) -> None:
    folder = left(slots, owned(1), owned(2), owned(3, mark=given_to(b"n")))
    damage(folder / "tasks")
    damaged = (folder / "tasks" / "tasks.db").read_bytes()
    ((found, saved),) = mend(folder)
    assert (found.open_count, saved.task_count) == (2, 2)
    assert (saved.kept_at / "tasks.db").read_bytes() == damaged
    report = look_into(folder)
    assert not report.is_damaged
    assert report.kept_aside == (saved.kept_at,)
    # As any other that was left behind.
    mine = slots.claim_free(only_empty=True)
    assert slots.left_behind() == [LeftBehind(0, 2, "")]
    (moved,) = slots.take_over(0, mine)
    journal = SqliteJournal(mine.journal_folder)
    journal.open()
    assert list(journal.inherit(moved)) == [[owned(1), owned(3, mark=given_to(b"n"))]]
    journal.close()
    # A second damage does not overwrite what was kept of the first.
    put(folder / "tasks", [owned(1), owned(2)])
    damage(folder / "tasks")
    assert len(look_into(folder).journals) == 1
    mend(folder)
    assert len(look_into(folder).kept_aside) == 2


def test_only_what_is_damaged_is_mended(slots: JournalSlots) -> None:
    dead, mine = slots.claim_free(), slots.claim_free()
    put(dead.journal_folder, [owned(1), owned(2)])
    put(mine.journal_folder, [owned(3)])
    dead.release()
    (moved,) = slots.take_over(0, mine)
    damage(moved)
    mine.release()
    before = (mine.journal_folder / "tasks.db").read_bytes()
    ((found, saved),) = mend(mine.folder)
    assert (found.folder, saved.task_count) == (moved, 1)
    assert (mine.journal_folder / "tasks.db").read_bytes() == before
    assert mend(mine.folder) == []
    # The copy that was kept is no journal to merge.
    again = slots.claim(1)
    assert again is not None
    assert again.inherited() == [moved]
    assert again.heir_of() == [dead.node]
    assert content(again) == [owned(3)]


def test_a_slot_in_use_is_not_mended(slots: JournalSlots) -> None:
    slot = slots.claim_free()
    put(slot.journal_folder, [owned(1), owned(2)])
    damage(slot.journal_folder)
    with pytest.raises(JournalError, match="in use by process"):
        mend(slot.folder)
    slot.release()
    assert len(mend(slot.folder)) == 1
