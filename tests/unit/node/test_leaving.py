"""The end of a process: where its open tasks go, and what people are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.node.clients import PATIENCE_S, Told, settings_in
from zmqtasks import paths
from zmqtasks.core.calls import Call
from zmqtasks.core.owned import Durability
from zmqtasks.journals.slots import JournalSlots
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.node import journalkeeper, leaving
from zmqtasks.node.client import Client
from zmqtasks.node.clientjournal import ClientJournal
from zmqtasks.node.conditions import Conditions
from zmqtasks.node.journaling import JournalOptions
from zmqtasks.node.leaving import Leaving
from zmqtasks.node.serve import Node
from zmqtasks.settings import NodeSettings
from zmqtasks.wire.messages import Kind

KIND = Kind("shop", "tasks.add", "", "default")
BEGIN = "tasks that had not finished when this process ended: "


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return settings_in(tmp_path, exit_wait_s=PATIENCE_S)


@pytest.fixture
def client(settings: NodeSettings) -> Iterator[Client]:
    with closing(Client(settings)) as client:
        yield client


def _submit(client: Client, count: int, durability: Durability = Durability.MEMORY) -> list[bytes]:
    ids = client.new_ids(count)
    calls = [Call(task_id, KIND, b"body", None) for task_id in ids]
    client.submit(calls, Told(), durability=durability)
    return ids


def _left_behind(settings: NodeSettings) -> list[bytes]:
    """Ids of the tasks in the journals of this host."""
    folder = paths.journal_dir(settings)
    ids: list[bytes] = []
    for slot in JournalSlots(folder).left_behind():
        journal = SqliteJournal(folder / str(slot.number) / "tasks")
        journal.open()
        ids += [record.id for record in journal.load()]
        journal.close()
    return ids


def _unusable(tmp_path: Path, **more: object) -> NodeSettings:
    """No journal can be had."""
    (tmp_path / "file").touch()
    return settings_in(tmp_path, state_dir=str(tmp_path / "file"), **more)


def test_nothing_open_is_no_news_and_touches_no_file(
    client: Client, settings: NodeSettings
) -> None:
    assert Leaving(client).run() == ""
    client.close()
    assert not Path(settings.state_dir).exists()


def test_with_nobody_around_all_is_written_down(client: Client, settings: NodeSettings) -> None:
    ids = _submit(client, 3)
    text = f"{BEGIN}3 written to disk here, a node of this host will run them"
    assert Leaving(client).run() == text
    client.close()
    assert _left_behind(settings) == ids


def test_what_is_on_disk_already_is_counted_as_well(client: Client, settings: NodeSettings) -> None:
    ids = _submit(client, 2, Durability.DISK) + _submit(client, 1)
    assert f"{BEGIN}3 written" in Leaving(client).run()
    client.close()
    assert _left_behind(settings) == ids


def test_many_tasks_are_written_in_pieces(
    client: Client, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "JOURNAL_MERGE_TASKS_MAX", 4)
    monkeypatch.setattr(leaving, "JOURNAL_MERGE_BYTES_MAX", 3 * len(b"body"))
    ids = _submit(client, 10)
    assert f"{BEGIN}10 written" in Leaving(client).run()
    client.close()
    assert _left_behind(settings) == ids


def test_a_broker_takes_all_and_nothing_stays(client: Client, settings: NodeSettings) -> None:
    broker = Node(settings_in(Path(settings.state_dir).parent, roles=("broker",), name="b1"), None)
    broker.start()
    try:
        ids = _submit(client, 300)
        assert Leaving(client).run() == f"{BEGIN}300 handed to b1"
        owner = broker.runtime.mesh.dispatcher
        assert owner is not None
        assert set(owner.tasks) == set(ids)
        client.close()
    finally:
        broker.stop()
        assert broker.run() == 0
    assert set(_left_behind(settings)) == set(ids), "in the journal of the broker, and only there"


def test_a_broker_is_preferred_to_whoever_is_linked_first(
    tmp_path: Path, settings: NodeSettings
) -> None:
    nodes = [
        Node(settings_in(tmp_path, roles=(role,), name=role, store="memory://"), None)
        for role in ("store", "broker")
    ]
    try:
        for node in nodes:
            node.start()
        for _ in range(5):
            with closing(Client(settings)) as client:
                _submit(client, 3)
                assert Leaving(client).run() == f"{BEGIN}3 handed to broker"
    finally:
        for node in nodes:
            node.stop()
            assert node.run() == 0


def test_a_store_takes_what_no_better_node_takes(tmp_path: Path, client: Client) -> None:
    node = Node(settings_in(tmp_path, roles=("store",), name="store", store="memory://"), None)
    node.start()
    try:
        _submit(client, 3)
        leaving_ = Leaving(client)
        assert client.conditions.wait(lambda: leaving_._handoff.has_takers, PATIENCE_S)
        assert leaving_.run() == f"{BEGIN}3 handed to store"
    finally:
        node.stop()
        assert node.run() == 0


def test_a_journal_with_too_much_to_do_is_asked_again_when_it_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, exit_wait_s=0.0)
    monkeypatch.setattr(
        journalkeeper, "JournalOptions", partial(JournalOptions, backlog_tasks_max=4)
    )
    goes_on, commit, end = threading.Event(), SqliteJournal.commit, leaving._Piece.end
    refusals: list[str] = []

    def slow_commit(self: SqliteJournal, *args: Any, **more: Any) -> None:
        assert goes_on.wait(PATIENCE_S)
        commit(self, *args, **more)

    def ending(piece: leaving._Piece) -> str:
        goes_on.set()
        refusals.append(end(piece))
        return refusals[-1]

    monkeypatch.setattr(SqliteJournal, "commit", slow_commit)
    monkeypatch.setattr(leaving._Piece, "end", ending)
    with closing(Client(settings)) as client:
        # While the disk is busy with some,
        ids = client.new_ids(3)
        client.begin([Call(task_id, KIND, b"body", None) for task_id in ids], Told())
        assert client.conditions.wait(lambda: client.journal.backlog == 3, PATIENCE_S)
        # others are refused at first, and are on the disk in the end.
        ids += _submit(client, 3)
        assert f"{BEGIN}6 written" in Leaving(client).run()
    assert "too much waits for the disk (3 changes" in refusals[0]
    assert refusals[-1] == ""
    assert _left_behind(settings) == ids


def test_what_did_not_get_to_the_disk_in_time_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _submit(client, 3)
    close = ClientJournal.close
    monkeypatch.setattr(ClientJournal, "close", lambda self: close(self) + 2)
    assert client.end("the test ended") == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("zmqtasks: 2 changes could not be written to the journal of this")


def test_a_process_without_stderr_tells_its_log(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _submit(client, 3)
    monkeypatch.setattr("sys.stderr", None)
    assert client.end("the test ended") == 0
    assert f"{BEGIN}3 written" in caplog.text


def test_without_journal_and_taker_tasks_are_named_with_the_reason(tmp_path: Path) -> None:
    with closing(Client(_unusable(tmp_path, exit_wait_s=0.05))) as client:
        _submit(client, 3)
        text = Leaving(client).run()
    assert text.startswith(f"{BEGIN}3 given up (tasks.add: 3), since the journal does not take")
    assert "ZMQTASKS_STATE_DIR" in text
    assert text.endswith("wait for their results, or raise exit_wait_s")


def test_without_a_journal_tasks_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Client(_unusable(tmp_path, exit_wait_s=PATIENCE_S))) as client:
        (task_id,) = _submit(client, 1)
        wait_on = Leaving._is_kept

        def ends_meanwhile(self: Leaving) -> bool:
            client.dispatcher.tasks.pop(task_id, None)
            return wait_on(self)

        assert not client.on_loop(lambda: wait_on(Leaving(client)))
        monkeypatch.setattr(Leaving, "_is_kept", ends_meanwhile)
        assert Leaving(client).run() == ""


def _interrupting(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Ctrl-C during these waits, counted from 1."""
    wait, waits = Conditions.wait, iter(range(1, 1_000))

    def interrupted(self: Conditions, condition: Callable[[], bool], wait_s: float) -> bool:
        if next(waits) in numbers:
            raise KeyboardInterrupt
        return wait(self, condition, wait_s)

    monkeypatch.setattr(Conditions, "wait", interrupted)


def test_ctrl_c_while_tasks_are_handed_over_writes_them_down(
    client: Client, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = _submit(client, 3)
    _interrupting(monkeypatch, 1)
    assert f"{BEGIN}3 written" in Leaving(client).run()
    client.close()
    assert _left_behind(settings) == ids


def test_second_ctrl_c_gives_them_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Client(_unusable(tmp_path, exit_wait_s=PATIENCE_S))) as client:
        _submit(client, 3)
        _interrupting(monkeypatch, 1, 2)
        assert "3 given up (tasks.add: 3)" in Leaving(client).run()


def test_at_most_once_tasks_without_a_worker_are_given_up_in_the_end(tmp_path: Path) -> None:
    with closing(Client(settings_in(tmp_path, exit_wait_s=0.05))) as client:
        calls = [Call(task_id, KIND, b"", None) for task_id in client.new_ids(2)]
        client.submit(calls, Told(), delivery="at_most_once")
        assert Leaving(client).run() == (
            f"{BEGIN}2 given up (tasks.add: 2); wait for their results, or raise exit_wait_s"
        )
