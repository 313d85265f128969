"""Contract suites for those who write plug-ins, run by pytest.

A store of your own is proven in ten lines::

    import pytest
    from zmqtasks.testing import DurableStoreContract, MakeStore, QueryableContract

    class TestMyStore(DurableStoreContract, QueryableContract):
        @pytest.fixture
        def make_store(self, tmp_path) -> MakeStore:
            return lambda: MyStore(tmp_path / "results")

Only this package needs pytest.
"""

from __future__ import annotations

import pytest

# Before the import, or failing asserts of the suites would show no values.
pytest.register_assert_rewrite(
    "zmqtasks.testing.journal_contract",
    "zmqtasks.testing.store_contract",
    "zmqtasks.testing.store_promises",
)

from zmqtasks.testing.journal_contract import (  # noqa: E402 - see above
    JournalContract,
    MakeJournal,
)
from zmqtasks.testing.store_contract import MakeStore, StoreContract  # noqa: E402 - see above
from zmqtasks.testing.store_promises import (  # noqa: E402 - see above
    DurableStoreContract,
    QueryableContract,
)

__all__ = [
    "DurableStoreContract",
    "JournalContract",
    "MakeJournal",
    "MakeStore",
    "QueryableContract",
    "StoreContract",
]
