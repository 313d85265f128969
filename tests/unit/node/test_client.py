from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.unit.node.clients import settings_in
from zmqtasks.core.calls import Call
from zmqtasks.errors import SubmitRejected
from zmqtasks.node.client import Client
from zmqtasks.wire.messages import Kind

_KIND = Kind("shop", "tasks.add", "", "default")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(settings_in(tmp_path))
    try:
        yield client
    finally:
        client.close()


def test_worker_that_comes_as_the_wait_for_it_ends_is_no_error(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def served_too_late(_kinds: object) -> str:
        time.sleep(0.02)
        return ""

    monkeypatch.setattr(client.dispatcher, "why_unserved", served_too_late)
    client._require_worker([Call(bytes(16), _KIND, b"", None)], 0.001)
    assert client.states([], 1.0) == {}, "the I/O thread goes on"
    assert not client.conditions, "and looks no more"


def test_ports_that_are_set_for_a_node_are_left_to_it(tmp_path: Path) -> None:
    """One ``zmqtasks.toml`` may serve a node and the scripts beside it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = settings_in(
            tmp_path,
            port=min(port, 65_533),
            listen=("127.0.0.1", f"127.0.0.1:{port}", "ipc"),
            advertise=("192.0.2.1:5000",),
        )
        client = Client(settings)
        with closing(client):
            own = client.runtime.finding.own_candidate().endpoints
            assert any(endpoint.startswith("tcp://127.0.0.1:") for endpoint in own)
            assert not any(endpoint.endswith(f":{port}") for endpoint in own)
            assert "tcp://192.0.2.1:5000" not in own


def test_call_after_the_end_names_the_end(client: Client) -> None:
    """As from an exit handler that was registered before zmqtasks was imported."""
    client.close()
    with pytest.raises(SubmitRejected, match="has left the mesh"):
        client.states([], 1.0)


def test_a_process_that_ended_while_it_was_dialled_is_no_trouble(
    client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "there").touch()
    for name in ("gone", "there"):
        where = f"ipc://{tmp_path / name}"
        client.on_loop(partial(client.runtime.on_refused, where, "another mesh key"))
    refused = [one.message for one in caplog.records if "no connection with" in one.message]
    assert [message.partition(": ")[0] for message in refused] == [
        f"no connection with ipc://{tmp_path / 'there'}"
    ]
