"""The journals that come with zmqtasks keep their contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqtasks.journals.memory import MemoryDisk, MemoryJournal
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing import JournalContract, MakeJournal


class TestMemoryJournal(JournalContract):
    @pytest.fixture
    def make_journal(self) -> MakeJournal:
        disk = MemoryDisk()
        return lambda folder: MemoryJournal(folder, disk)


class TestSqliteJournal(JournalContract):
    @pytest.fixture
    def make_journal(self) -> MakeJournal:
        return SqliteJournal


class TestSqliteJournalInAFolderWithAnOddName(JournalContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "a %20#? b ü"

    @pytest.fixture
    def make_journal(self) -> MakeJournal:
        return SqliteJournal
