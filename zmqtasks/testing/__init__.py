"""Contract suites for those who write plug-ins, run by pytest.

A store of your own is proven in ten lines::

    import pytest
    from zmqtasks.testing import DurableStoreContract, MakeStore, QueryableContract

    class TestMyStore(DurableStoreContract, QueryableContract):
        @pytest.fixture
        def make_store(self, tmp_path) -> MakeStore:
            return lambda: MyStore(tmp_path / "results")

A pool likewise, by ``PoolContract`` and a static method ``make_pool``. Only the suites need
pytest: they are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zmqtasks.testing.journal_contract import JournalContract, MakeJournal
    from zmqtasks.testing.pool_contract import PoolContract
    from zmqtasks.testing.store_contract import MakeStore, StoreContract
    from zmqtasks.testing.store_promises import DurableStoreContract, QueryableContract

__all__ = [
    "DurableStoreContract",
    "JournalContract",
    "MakeJournal",
    "MakeStore",
    "PoolContract",
    "QueryableContract",
    "StoreContract",
]

#: {name: its module}, imported when the name is used: the tasks of the suite for pools are
#: loaded by processes that do without pytest.
_MODULES = {
    "DurableStoreContract": "store_promises",
    "JournalContract": "journal_contract",
    "MakeJournal": "journal_contract",
    "MakeStore": "store_contract",
    "PoolContract": "pool_contract",
    "QueryableContract": "store_promises",
    "StoreContract": "store_contract",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    # Before the import, or failing asserts of the suites would show no values.
    pytest.register_assert_rewrite(
        *(f"{__name__}.{module}" for module in dict.fromkeys(_MODULES.values()))
    )
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
