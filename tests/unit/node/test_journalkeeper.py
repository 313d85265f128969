"""JournalKeeper: two ways to begin, what is refused and why, recovery, damage, describing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from zmqtasks import paths
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.owned import OwnedRecord, Progress, dead_mark, given_to
from zmqtasks.errors import ConfigError, JournalCorrupt, JournalError
from zmqtasks.journals.slots import JournalSlots, identity_of, is_lasting
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.node import journalkeeper as module
from zmqtasks.node.journaling import JournalOptions
from zmqtasks.node.journalkeeper import JournalKeeper
from zmqtasks.node.runtime import Part, Runtime
from zmqtasks.settings import NodeSettings
from zmqtasks.testing.journal_contract import owned
from zmqtasks.wire.messages import Kind

_T = TypeVar("_T")
PATIENCE_S = 20.0
KIND = Kind("shop", "tasks.add", "", "default")


class Process:
    """A process that owns tasks, with the loop in a thread of its own."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.part = Part(
            roles=("producer",),
            dial_roles=frozenset(),
            owns_tasks=True,
            describe_journal=lambda: self.keeper.describe(),
            performers={
                fx.JournalWrite: lambda effect: self.keeper.write(effect),
                fx.CallsAccepted: lambda effect: self._answer(effect.token, ""),
                fx.CallsRefused: lambda effect: self._answer(effect.token, effect.text),
                fx.TasksSettled: lambda effect: None,
                fx.RoomFreed: lambda effect: None,
            },
        )
        self.runtime = Runtime(settings, self.part, None)
        self.keeper = JournalKeeper(self.runtime, self._broke)
        self.broken = threading.Event()
        self._answers: dict[int, str] = {}
        self._told = threading.Condition()
        self._tokens = 0
        self._thread = threading.Thread(target=self._run)
        self._calls = 0

    # --- life ---

    def open(self) -> None:
        """Join the mesh; the keeper has been started."""
        self.runtime.open()
        self.keeper.joined()
        self._thread.start()

    def _run(self) -> None:
        self.runtime.loop.run(self.runtime.turn, self.runtime.awake)

    def close(self) -> int:
        if self._thread.ident is not None:
            self.runtime.loop.stop()
            self._thread.join(PATIENCE_S)
        left = self.keeper.close()
        self.runtime.close()
        return left

    # --- use ---

    def submit(self, *bodies: bytes) -> str:
        """Durable calls; gives the refusal, "" when they are accepted."""
        calls = [Call(self._new_id(), KIND, body, None) for body in bodies]
        self._tokens += 1
        token = self._tokens
        self.on_loop(lambda: self.runtime.mesh.submit_durable(calls, token, self.runtime.now_ms))
        with self._told:
            assert self._told.wait_for(lambda: token in self._answers, PATIENCE_S)
            return self._answers.pop(token)

    def open_count(self) -> int:
        dispatcher = self.runtime.mesh.dispatcher
        assert dispatcher is not None
        return self.on_loop(lambda: len(dispatcher.tasks))

    def on_loop(self, function: Callable[[], _T]) -> _T:
        done = threading.Event()
        result: list[_T] = []

        def call() -> None:
            result.append(function())
            done.set()

        self.runtime.loop.call_soon(call)
        assert done.wait(PATIENCE_S)
        return result[0]

    def describe(self) -> dict[str, object] | None:
        return self.on_loop(self.keeper.describe)

    def wait(self, condition: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_s

    def wait_described(self, key: str, value: object) -> None:
        self.wait(lambda: (self.describe() or {}).get(key) == value)

    def _new_id(self) -> bytes:
        self._calls += 1
        return self.runtime.node + self._calls.to_bytes(8, "big")

    def _answer(self, token: int, text: str) -> None:
        with self._told:
            self._answers[token] = text
            self._told.notify_all()

    def _broke(self, error: JournalError) -> None:
        self.broken.set()


class Host:
    """The folders of one mesh on one host."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self._settings = {
            "mesh": "unit",
            "mdns": False,
            "runtime_dir": str(folder / "run"),
            "cache_dir": str(folder / "cache"),
        }
        self.processes: list[Process] = []

    def settings(self) -> NodeSettings:
        return NodeSettings(state_dir=str(self.state), **self._settings)  # type: ignore[arg-type]

    def slots(self) -> JournalSlots:
        return JournalSlots(paths.journal_dir(self.settings()))

    def slot_folder(self, number: int) -> Path:
        return self.state / "unit" / "journal" / str(number)

    def process(self) -> Process:
        process = Process(self.settings())
        self.processes.append(process)
        return process

    def client(self) -> Process:
        client = self.process()
        client.part.has_journal = True
        threading.Thread(target=client.keeper.serve, name="zmqtasks-journal").start()
        client.open()
        return client

    def node(self) -> Process:
        node = self.process()
        node.keeper.start_node(is_required=False)
        node.open()
        return node

    def leave(self, *numbers: int) -> None:
        """Some process ends with these tasks in its journal."""
        slot = self.slots().claim_free(only_empty=True)
        journal = SqliteJournal(slot.journal_folder)
        journal.open()
        journal.commit([owned(number) for number in numbers], sync=True)
        journal.close()
        slot.release()


@pytest.fixture
def host(own_directories: Path, tmp_path: Path) -> Iterator[Host]:
    host = Host(own_directories)
    host.state = tmp_path / "state"
    yield host
    for process in host.processes:
        process.close()


# --- nodes ----------------------------------------------------------------------------------


def test_a_node_keeps_its_id_and_its_tasks(host: Host) -> None:
    first = host.node()
    assert first.submit(b"1", b"2") == ""
    assert first.close() == 0
    again = host.node()
    assert (again.runtime.node, again.runtime.epoch) == (first.runtime.node, 2)
    assert again.runtime.mesh.hello.node == first.runtime.node
    assert again.open_count() == 2
    assert (again.describe() or {})["resumed"] == 2
    dispatcher = again.runtime.mesh.dispatcher
    assert dispatcher is not None
    for task_id in dispatcher.tasks:
        (line,) = dispatcher.stories.of(task_id)
        assert line["at_ms"] > 1_600_000_000_000, "before the first turn, and yet not in 1970"


def test_a_node_is_the_heir_of_those_before_it(host: Host) -> None:
    host.leave(1, 2)
    host.leave(3)
    left = [identity_of(host.slot_folder(number)) for number in (0, 1)]
    node = host.node()
    assert left[0] is not None
    assert left[1] is not None
    assert node.runtime.node.hex() == left[0].node
    node.wait_described("adopted", 1)
    assert node.open_count() == 3
    assert list(node.runtime.mesh.succession.heir_of) == [bytes.fromhex(left[1].node)]
    node.close()
    again = host.node()
    assert again.open_count() == 3
    assert list(again.runtime.mesh.succession.heir_of) == [bytes.fromhex(left[1].node)]


def test_peers_may_hand_tasks_over_where_they_last(host: Host) -> None:
    node = host.node()
    lasting = is_lasting(host.slot_folder(0))
    assert ("j" in node.runtime.mesh.hello.ext) == lasting
    client = host.client()
    assert client.submit(b"1") == ""
    assert "j" not in client.runtime.mesh.hello.ext


def test_what_is_in_memory_is_said_once_and_not_offered_to_peers(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqtasks.journals.slots.is_lasting", lambda path: False)
    node = host.node()
    assert "j" not in node.runtime.mesh.hello.ext
    with caplog.at_level(logging.WARNING):
        assert node.submit(b"1") == node.submit(b"2") == ""
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"journal {host.slot_folder(0)} is on a file system in memory" in warning
    assert "no power loss" in warning
    assert "ZMQTASKS_STATE_DIR" in warning


def test_a_node_without_a_usable_folder_goes_on_without_a_journal(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.state.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        node = host.node()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert str(host.state) in warning
    assert "ZMQTASKS_STATE_DIR" in warning
    assert "takes over no tasks of others" in warning
    assert node.submit(b"1") == "this process has no journal"
    assert "j" not in node.runtime.mesh.hello.ext
    described = node.describe()
    assert described is not None
    assert described["slot"] is None
    assert str(host.state) in str(described["failing"])


def test_a_broker_does_not_start_without_a_journal(host: Host) -> None:
    host.state.write_text("no folder")
    with pytest.raises(ConfigError, match=rf"a broker cannot do without a journal: .*{host.state}"):
        host.process().keeper.start_node(is_required=True)


def test_a_damaged_journal_stops_the_start(host: Host) -> None:
    host.leave(1)
    database = host.slot_folder(0) / "tasks" / "tasks.db"
    database.write_bytes(database.read_bytes()[:5000])
    with pytest.raises(JournalCorrupt, match=f"zmqtasks journal salvage {host.slot_folder(0)}"):
        host.process().keeper.start_node(is_required=False)
    slot = host.slots().claim(0)
    assert slot is not None, "whoever salvages it can have it"
    slot.release()


def test_a_node_whose_disk_is_full_at_the_start_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: Path) -> object:
        raise JournalError(f"journal {folder} has no room; free some")

    monkeypatch.setattr(SqliteJournal, "open", lambda self: full(self._folder))
    with caplog.at_level(logging.WARNING):
        node = host.node()
    assert "has no room; free some" in caplog.text
    assert not node.part.has_journal
    slot = host.slots().claim(0)
    assert slot is not None
    slot.release()


# --- clients --------------------------------------------------------------------------------


def test_a_client_claims_an_empty_slot_when_it_first_writes(host: Host) -> None:
    host.leave(1)
    client = host.client()
    node = client.runtime.node
    assert client.describe() is None
    assert not host.slot_folder(1).exists()
    assert client.submit(b"1") == ""
    assert client.submit(b"2") == ""
    assert (client.describe() or {})["slot"] == 1
    assert client.runtime.node == node
    identity = identity_of(host.slot_folder(1))
    assert identity is not None
    assert identity.node == node.hex()
    assert client.close() == 0
    heir = host.node()
    heir.wait_described("adopted", 2)
    assert heir.open_count() == 3
    assert list(heir.runtime.mesh.succession.heir_of) == [node]


def test_a_client_is_the_heir_of_the_node_that_left_its_slot_empty(host: Host) -> None:
    node = host.node()
    ended = node.runtime.node
    assert node.close() == 0
    client = host.client()
    assert client.submit(b"1") == ""
    assert (client.describe() or {})["slot"] == 0
    assert list(client.runtime.mesh.succession.heir_of) == [ended]


def test_a_client_whose_folder_is_mended_goes_on(host: Host) -> None:
    host.state.write_text("no folder")
    client = host.client()
    refusal = client.submit(b"1")
    assert str(host.state) in refusal
    assert "ZMQTASKS_STATE_DIR" in refusal
    assert client.open_count() == 0
    assert (client.describe() or {})["failing"] == refusal
    host.state.unlink()
    assert client.submit(b"2") == ""
    assert (client.describe() or {})["failing"] == ""
    assert client.open_count() == 1


def test_calls_that_come_while_the_slot_is_claimed_are_written(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_claim = threading.Event()
    claim_free = JournalSlots.claim_free

    def held_up(self: JournalSlots, *, only_empty: bool, node: bytes) -> object:
        assert may_claim.wait(PATIENCE_S)
        return claim_free(self, only_empty=only_empty, node=node)

    monkeypatch.setattr(JournalSlots, "claim_free", held_up)
    client = host.client()
    refusals: list[str] = []
    threads = [
        threading.Thread(target=lambda: refusals.append(client.submit(b"x"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    client.wait(lambda: client.open_count() == len(threads))
    may_claim.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert refusals == ["", "", ""]


def test_a_client_that_ends_while_it_claims_a_slot_still_writes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has ended when the slot is there."""
    claimed = threading.Event()
    may_open = threading.Event()
    writer_open = SqliteJournal.open

    def held_up(self: SqliteJournal) -> None:
        claimed.set()
        assert may_open.wait(PATIENCE_S)
        writer_open(self)

    monkeypatch.setattr(SqliteJournal, "open", held_up)
    client = host.client()
    call = Call(client._new_id(), KIND, b"last", None)
    client.on_loop(lambda: client.runtime.mesh.submit_durable([call], 99, client.runtime.now_ms))
    assert claimed.wait(PATIENCE_S)
    threading.Timer(0.0, may_open.set).start()
    assert client.close() == 0
    monkeypatch.undo()
    journal = SqliteJournal(host.slot_folder(0) / "tasks")
    journal.open()
    assert [record.id for record in journal.load()] == [call.id]
    journal.close()


# --- disks that fail ------------------------------------------------------------------------


class Disk:
    """Free room on an imagined disk, and what a commit runs into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 1 << 40
        self.failure: JournalError | None = None
        self.may_commit = threading.Event()
        self.may_commit.set()
        disk = self

        class Journal(SqliteJournal):
            def commit(
                self,
                puts: Sequence[OwnedRecord] = (),
                progress: Sequence[Progress] = (),
                drops: Sequence[bytes] = (),
                *,
                sync: bool,
            ) -> None:
                assert disk.may_commit.wait(PATIENCE_S)
                if disk.failure is not None:
                    raise disk.failure
                super().commit(puts, progress, drops, sync=sync)

        monkeypatch.setattr(
            module, "SqliteJournal", partial(Journal, space=lambda folder: (self.free, 1 << 40))
        )


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    # Free room is asked for again with each commit.
    monkeypatch.setattr("zmqtasks.journals.sqlite.JOURNAL_ROOM_COMMITS", 0)
    return Disk(monkeypatch)


@pytest.mark.parametrize("is_node", [True, False])
def test_a_full_disk_refuses_with_reason_and_remedy_and_recovers(
    host: Host, disk: Disk, *, is_node: bool
) -> None:
    process = host.node() if is_node else host.client()
    assert process.submit(b"1") == ""
    disk.free = 1000
    refusal = process.submit(b"2")
    assert f"journal {host.slot_folder(0)}" in refusal
    assert "has no room (1000 bytes are free" in refusal
    assert "free space on its disk, or move the journals: ZMQTASKS_STATE_DIR" in refusal
    process.wait_described("failing", refusal)
    assert process.open_count() == 1
    disk.free = 1 << 40
    assert process.submit(b"3") == ""
    process.wait_described("failing", "")


def test_a_slow_disk_refuses_what_it_cannot_keep_up_with(
    host: Host, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JournalOptions", partial(JournalOptions, backlog_tasks_max=2))
    process = host.node()
    disk.may_commit.clear()
    accepted: list[str] = []
    thread = threading.Thread(target=lambda: accepted.append(process.submit(b"1", b"2")))
    thread.start()
    process.wait_described("waiting", 2)
    refusal = process.submit(b"3")
    assert (
        f"too much waits for the disk (2 changes, 602 bytes) of journal {host.slot_folder(0)}"
        in refusal
    )
    disk.may_commit.set()
    thread.join(PATIENCE_S)
    assert accepted == [""]
    assert process.submit(b"4") == ""


def test_a_journal_that_turns_out_damaged_is_told_and_refuses(host: Host, disk: Disk) -> None:
    client = host.client()
    assert client.submit(b"1") == ""
    disk.failure = JournalCorrupt("journal x is damaged: a page (zmqtasks journal salvage x)")
    assert client.submit(b"2") == str(disk.failure)
    assert client.broken.wait(PATIENCE_S)
    assert client.submit(b"3") == str(disk.failure)
    assert (client.describe() or {})["failing"] == str(disk.failure)


def test_nobody_hears_that_a_damaged_journal_says_whose_a_task_is(host: Host, disk: Disk) -> None:
    """Whoever reads it later goes by what it does say: then two would own the task."""
    client = host.client()
    assert client.submit(b"1") == ""
    told: list[str] = []
    given = Progress(b"some task", 1, 0, given_to(b"thetaker"))
    dead = Progress(b"some task", 1, 3, dead_mark([], "it killed", 0))

    def note(change: Progress) -> None:
        dispatcher = client.runtime.mesh.dispatcher
        assert dispatcher is not None
        dispatcher.custody.note([change], told.append, sync=True)

    disk.may_commit.clear()
    client.on_loop(lambda: note(given))
    client.wait_described("waiting", 1)
    disk.failure = JournalCorrupt("damaged")
    disk.may_commit.set()
    assert client.broken.wait(PATIENCE_S)
    client.on_loop(lambda: note(given))
    client.on_loop(lambda: None)
    assert told == []
    client.on_loop(lambda: note(dead))
    client.on_loop(lambda: None)
    client.on_loop(lambda: None)
    assert told == [""], "that a task has ended so is told"


def test_what_settles_on_a_damaged_journal_still_settles(host: Host, disk: Disk) -> None:
    """A client goes on; a caller must not wait for a note that nobody can write."""
    client = host.client()
    assert client.submit(b"1") == ""
    told: list[str] = []

    def drop() -> None:
        dispatcher = client.runtime.mesh.dispatcher
        assert dispatcher is not None
        dispatcher.custody.drop([b"some task"], told.append, sync=False)

    disk.may_commit.clear()
    client.on_loop(drop)
    client.wait_described("waiting", 1)
    disk.failure = JournalCorrupt("damaged")
    disk.may_commit.set()
    assert client.broken.wait(PATIENCE_S)
    client.on_loop(lambda: None)
    assert told == [""]
    client.on_loop(drop)
    client.on_loop(lambda: None)
    client.on_loop(lambda: None)
    assert told == ["", ""]
