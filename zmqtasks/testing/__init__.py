"""For tests: a mesh in the process of a test, and contract suites for who writes plug-ins.

Tests of an application::

    from zmqtasks.testing import mesh

    with mesh(app) as net:
        result = add.apply_async((2, 3), countdown=3600)
        net.advance(3600)
        assert result.get() == 5

The fixtures for pytest are in ``pytest_plugin``. A store of your own is proven in ten lines::

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
    from zmqtasks.testing.configuring import configured
    from zmqtasks.testing.journal_contract import JournalContract, MakeJournal
    from zmqtasks.testing.pool_contract import PoolContract
    from zmqtasks.testing.store_contract import MakeStore, StoreContract
    from zmqtasks.testing.store_promises import DurableStoreContract, QueryableContract
    from zmqtasks.testing.virtual_mesh import CalledTask, RunOfTask, VirtualMesh, mesh
    from zmqtasks.testing.virtual_time import NeverEnds
    from zmqtasks.testing.virtual_worker import VirtualWorker

__all__ = [
    "CalledTask",
    "DurableStoreContract",
    "JournalContract",
    "MakeJournal",
    "MakeStore",
    "NeverEnds",
    "PoolContract",
    "QueryableContract",
    "RunOfTask",
    "StoreContract",
    "VirtualMesh",
    "VirtualWorker",
    "configured",
    "mesh",
]

#: {name: its module}, imported when the name is used: the tasks of the suite for pools are
#: loaded by processes that do without pytest.
_SUITES = {
    "DurableStoreContract": "store_promises",
    "JournalContract": "journal_contract",
    "MakeJournal": "journal_contract",
    "MakeStore": "store_contract",
    "PoolContract": "pool_contract",
    "QueryableContract": "store_promises",
    "StoreContract": "store_contract",
}
_MODULES = {
    **_SUITES,
    "CalledTask": "virtual_mesh",
    "NeverEnds": "virtual_time",
    "RunOfTask": "virtual_mesh",
    "VirtualMesh": "virtual_mesh",
    "VirtualWorker": "virtual_worker",
    "configured": "configuring",
    "mesh": "virtual_mesh",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _SUITES:
        import pytest

        # Before the import, or failing asserts of the suites would show no values.
        pytest.register_assert_rewrite(
            *(f"{__name__}.{module}" for module in dict.fromkeys(_SUITES.values()))
        )
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
