"""The faults that a disk in memory can have, each when it is called for."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqtasks.core.owned import OwnedRecord, Progress, given_to
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.journals.memory import MemoryDisk, MemoryJournal
from zmqtasks.testing.journal_contract import owned, task_id

FOLDER = Path("journal")


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def started(disk: MemoryDisk, folder: Path = FOLDER) -> MemoryJournal:
    """What a process that starts has open."""
    journal = MemoryJournal(folder, disk)
    journal.open()
    return journal


def content(disk: MemoryDisk, folder: Path = FOLDER) -> list[OwnedRecord]:
    return list(started(disk, folder).load())


# --- kills and power loss -------------------------------------------------------------------


def test_a_killed_process_leaves_all_that_it_committed(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1)], sync=True)
    journal.commit([owned(2)], sync=False)
    del journal
    assert content(disk) == [owned(1), owned(2)]


def test_a_power_loss_takes_what_was_not_synced(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1), owned(2)], sync=False)
    journal.commit((), [Progress(task_id(1), 2, 0, given_to(b"n"))], sync=True)
    journal.commit([owned(3)], (), [task_id(1)], sync=False)
    assert content(disk) == [owned(2), owned(3)]
    disk.lose_unsynced()
    assert content(disk) == [owned(1, attempt=2, mark=given_to(b"n")), owned(2)]


def test_a_sync_without_changes_keeps_what_came_before(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1)], sync=False)
    journal.commit(sync=True)
    disk.lose_unsynced()
    assert content(disk) == [owned(1)]


def test_closing_syncs(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1)], sync=False)
    journal.close()
    disk.lose_unsynced()
    assert content(disk) == [owned(1)]


def test_a_torn_end_leaves_the_commits_before_it(disk: MemoryDisk) -> None:
    journal, other = started(disk), started(disk, Path("other"))
    journal.commit([owned(1)], sync=True)
    for number in (2, 3, 4):
        journal.commit([owned(number)], (), [task_id(number - 1)], sync=False)
    other.commit([owned(9)], sync=True)
    asked: list[int] = []

    def kept_count(count: int) -> int:
        asked.append(count)
        return 2

    disk.lose_unsynced(kept_count)
    assert asked == [3]
    assert content(disk) == [owned(3)]
    assert content(disk, Path("other")) == [owned(9)]
    # What is there now is on the disk.
    disk.lose_unsynced()
    assert content(disk) == [owned(3)]


def test_what_a_process_writes_after_the_power_loss_goes_nowhere(disk: MemoryDisk) -> None:
    journal = started(disk)
    disk.lose_unsynced()
    journal.commit([owned(1)], sync=True)
    assert content(disk) == []


# --- full -----------------------------------------------------------------------------------


def test_a_full_disk_refuses_new_tasks_and_takes_all_else(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1), owned(2)], sync=True)
    disk.bytes_max = disk.used_bytes() + 100
    with pytest.raises(JournalFull):
        journal.commit([owned(3, body=bytes(101))], (), [task_id(1)], sync=True)
    assert list(journal.load()) == [owned(1), owned(2)]
    journal.commit((), [Progress(task_id(2), 2, 0, bytes(1_000))], [task_id(1)], sync=True)
    with pytest.raises(JournalFull):
        journal.commit([owned(3)], sync=True)
    disk.bytes_max = None
    journal.commit([owned(3)], sync=True)
    assert [record.id for record in journal.load()] == [task_id(2), task_id(3)]


# --- failing --------------------------------------------------------------------------------


def test_so_many_commits_fail_and_change_nothing(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1)], sync=True)
    disk.fail_commits(2)
    # These two do not touch the disk.
    journal.commit(sync=True)
    journal.commit([owned(1)], (), (), sync=False)
    for _ in range(2):
        with pytest.raises(JournalError):
            journal.commit([owned(2)], (), [task_id(1)], sync=True)
    assert list(journal.load()) == [owned(1)]
    assert content(disk) == [owned(1)]
    journal.commit([owned(3)], sync=True)
    assert content(disk) == [owned(1), owned(3)]


def test_a_failed_commit_may_be_found_by_a_restart(disk: MemoryDisk) -> None:
    journal = started(disk)
    journal.commit([owned(1)], sync=True)
    disk.fail_commits(1, on_disk=True)
    with pytest.raises(JournalError):
        journal.commit([owned(2)], (), [task_id(1)], sync=True)
    assert list(journal.load()) == [owned(1)]
    del journal
    assert content(disk) == [owned(2)]


@pytest.mark.parametrize("next_puts", [[owned(2)], []])
def test_a_failed_commit_is_undone_by_the_next_one(
    disk: MemoryDisk, next_puts: list[OwnedRecord]
) -> None:
    journal = started(disk)
    disk.fail_commits(1, on_disk=True)
    with pytest.raises(JournalError):
        journal.commit([owned(1)], sync=True)
    journal.commit(next_puts, sync=False)
    assert content(disk) == next_puts


@pytest.mark.parametrize(("kept_count", "numbers"), [(0, []), (1, [1]), (2, [1, 2, 3])])
def test_a_failed_commit_survives_a_power_loss_with_all_before_it(
    disk: MemoryDisk, kept_count: int, numbers: list[int]
) -> None:
    journal = started(disk)
    journal.commit([owned(1)], sync=False)
    journal.commit([owned(2)], sync=False)
    disk.fail_commits(1, on_disk=True)
    with pytest.raises(JournalError):
        journal.commit([owned(3)], sync=True)
    disk.lose_unsynced(lambda count: kept_count)
    assert content(disk) == [owned(number) for number in numbers]


def test_a_takeover_that_fails_goes_on_with_what_is_left(disk: MemoryDisk) -> None:
    other, journal = started(disk, Path("other")), started(disk)
    other.commit([owned(number) for number in range(1_500)], sync=True)
    del other
    pieces = journal.inherit(Path("other"))
    taken = next(pieces)
    disk.fail_commits(1)
    with pytest.raises(JournalError):
        next(pieces)
    taken += [record for piece in journal.inherit(Path("other")) for record in piece]
    assert taken == [owned(number) for number in range(1_500)]
    assert list(journal.load()) == taken


def test_a_disk_that_is_told_to_works_again(disk: MemoryDisk) -> None:
    journal = started(disk)
    disk.fail_commits(1_000)
    with pytest.raises(JournalError):
        journal.commit([owned(1)], sync=True)
    disk.fail_commits(0)
    journal.commit([owned(1)], sync=True)
    assert content(disk) == [owned(1)]
