"""Journals on a tiny disk that is full, to the last byte, again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.journal_sweep import Oracle, difference, forked, opened
from tests.support.small_disk import ballast, small_disk
from zmqtasks.core.owned import OwnedRecord, Progress, dead_mark
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned

_ROUNDS = 3


def fill(oracle: Oracle, journal: SqliteJournal, first: int, size: int) -> list[OwnedRecord]:
    """Put tasks until one is refused; those that were taken."""
    taken: list[OwnedRecord] = []
    while True:
        record = owned(first + len(taken), body=bytes(size), mark=b">someone")
        failures = oracle.failures
        oracle.commit(journal, [record], sync=len(taken) % 2 == 0)
        if oracle.failures > failures:
            return taken
        taken.append(record)


def live(folder: Path, first: int) -> list[list[OwnedRecord]]:
    """A process on a disk that gets full, and has room again; what it may leave."""
    oracle = Oracle()
    journal = opened(folder)
    oracle.held = {record.id: record for record in journal.load()}
    for start in (first, first + 50_000):
        taken = fill(oracle, journal, start, 20_000)
        assert taken, "nothing fits though there is room"
        with ballast(folder.parent):
            taken += fill(oracle, journal, start + 10_000, 10)
            failures = oracle.failures
            # What is there goes on: in many small commits and in large ones.
            for record in taken[: len(taken) // 2]:
                oracle.commit(journal, (), [Progress(record.id, 2, 1, b"")], sync=True)
            mark = dead_mark([{"event": "lost"}] * 20, "three strikes", 1)
            changes = [Progress(record.id, 3, 3, mark) for record in taken[:10]]
            oracle.commit(journal, (), changes, sync=False)
            for record in taken[2:12]:
                oracle.commit(journal, (), (), [record.id], sync=True)
            dropped = [record.id for record in taken[12 : len(taken) - 5]]
            oracle.commit(journal, (), (), dropped, sync=False)
            assert oracle.failures == failures, "a change of what is there was refused"
        assert list(journal.load()) == oracle.allowed[0]
    # It ends without closing the journal.
    return oracle.allowed


@pytest.mark.parametrize("mib", [1, 2, 4, 16])
def test_a_full_disk_refuses_new_tasks_and_loses_none(tmp_path: Path, mib: int) -> None:
    with small_disk(tmp_path / "disk", mib << 20) as disk:
        for number in range(_ROUNDS):
            allowed = forked(lambda: live(disk / "tasks", 1_000_000 * (number + 1)))  # noqa: B023
            # What it had accepted is found on the full disk too, and can settle there.
            with ballast(disk):
                journal = opened(disk / "tasks")
                found = list(journal.load())
                assert found in allowed, difference(found, allowed)
                journal.commit((), (), [record.id for record in found[:-2]], sync=True)
                assert list(journal.load()) == found[-2:]
            journal.close()
