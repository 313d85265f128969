"""The stores that come with zmqtasks keep their contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from zmqtasks.stores.memory import MemoryStore
from zmqtasks.stores.registry import make_store as store_of_url
from zmqtasks.stores.sqlite import SqliteStore, sqlite_url
from zmqtasks.testing import DurableStoreContract, MakeStore, QueryableContract, StoreContract


class TestMemoryStore(StoreContract, QueryableContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        return MemoryStore


class TestSqliteStore(DurableStoreContract, QueryableContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: SqliteStore(tmp_path / "results.db")


class TestSqliteStoreFoundByItsUrl(DurableStoreContract, QueryableContract):
    """With a path that needs quoting, and each commit synced."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        url = sqlite_url(tmp_path / "a %20#? b" / "results.db")
        return lambda: store_of_url(f"{url}?synchronous=full")
