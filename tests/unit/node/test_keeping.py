"""Values that stores keep like outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.node.clients import settings_in
from zmqtasks.errors import StoreError
from zmqtasks.node.client import Client
from zmqtasks.wire.messages import Kind, Status, TaskState

GROUP = Kind("shop", "zmqtasks.group", "", "")
ID = b"g" * 16
STORE = b"a-store!"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(settings_in(tmp_path))
    yield client
    client.close()


def test_nothing_is_kept_where_no_store_is_in_sight(client: Client) -> None:
    with pytest.raises(StoreError, match=r"zmqtasks\.group 67676767.* no node with the role store"):
        client.keep(GROUP, ID, b"value", 0.01)
    assert client.on_loop(lambda: client.runtime.mesh.log.head) == 0


def test_it_is_kept_once_a_store_has_confirmed_it(client: Client) -> None:
    log = client.runtime.mesh.log
    client.on_loop(lambda: log.store_seen(STORE))
    with pytest.raises(StoreError, match=r"no store has confirmed it after 0\.01 s"):
        client.keep(GROUP, ID, b"value", 0.01)
    client.on_loop(lambda: log.stored(STORE, 2))
    client.conditions.wait(lambda: log.stores[STORE] == 2, 10)
    client.on_loop(lambda: log.stored(STORE, 1 << 30))
    client.on_loop(lambda: log.stores.update({STORE: 1 << 30}))
    client.keep(GROUP, ID, b"value", 10)
    record = client.states([ID], 10)[ID]
    assert record.state == TaskState.SETTLED
    assert record.outcome is not None
    assert (record.outcome.status, record.outcome.body) == (Status.SUCCESS, b"value")
    assert record.info == {"name": "zmqtasks.group", "queue": ""}
