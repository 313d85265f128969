"""The journal of a client is there when it is needed, and not before."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.node.clients import Told, settings_in
from zmqtasks.core.calls import Call
from zmqtasks.core.owned import Durability
from zmqtasks.errors import SubmitRejected
from zmqtasks.node.client import Client
from zmqtasks.wire.messages import Kind

KIND = Kind("shop", "tasks.add", "", "default")


def _keep(client: Client) -> bytes:
    """A durable call."""
    (task_id,) = client.new_ids(1)
    client.submit([Call(task_id, KIND, b"", None)], Told(), durability=Durability.DISK)
    return task_id


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "zmqtasks-journal"]


def test_client_that_writes_nothing_has_no_journal(tmp_path: Path) -> None:
    with closing(Client(settings_in(tmp_path))) as client:
        assert client.on_loop(client.journal.describe) is None
    assert not (tmp_path / "state_dir").exists()
    assert not _threads()


def test_first_durable_call_claims_a_slot(tmp_path: Path) -> None:
    with closing(Client(settings_in(tmp_path))) as client:
        first, second = _keep(client), _keep(client)
        described = client.on_loop(client.journal.describe)
        assert described is not None
        assert (described["slot"], described["tasks"], described["failing"]) == (0, 2, "")
        assert client.on_loop(lambda: list(client.dispatcher.tasks)) == [first, second]
    assert not _threads()


def test_python_without_sqlite_refuses_durable_calls_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None makes an import fail.
    monkeypatch.setitem(sys.modules, "zmqtasks.node.journalkeeper", None)
    with closing(Client(settings_in(tmp_path))) as client:
        for _ in range(2):
            with pytest.raises(SubmitRejected, match=r"there is no journal: .*journalkeeper"):
                _keep(client)
        (task_id,) = client.new_ids(1)
        client.submit([Call(task_id, KIND, b"", None)], Told())
        assert client.on_loop(lambda: list(client.dispatcher.tasks)) == [task_id]
    assert not _threads()
