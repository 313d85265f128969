"""What a whole node does when its journal fails; others run it as a process (tests/e2e)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from zmqtasks.core.calls import Call
from zmqtasks.core.owned import OwnedRecord, Progress
from zmqtasks.errors import JournalCorrupt, JournalError
from zmqtasks.journals.slots import JournalSlots
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.node import journalkeeper
from zmqtasks.node.serve import Node
from zmqtasks.settings import NodeSettings
from zmqtasks.wire.messages import Kind

PATIENCE_S = 20.0
KIND = Kind("shop", "tasks.add", "", "default")


@pytest.fixture
def settings(own_directories: Path, tmp_path: Path) -> NodeSettings:
    return NodeSettings(
        mesh="unit",
        roles=("broker",),
        mdns=False,
        runtime_dir=str(own_directories),
        state_dir=str(tmp_path / "state"),
        cache_dir=str(tmp_path / "cache"),
    )


class Failing(SqliteJournal):
    """One that turns out damaged by the first commit with new tasks."""

    def commit(
        self,
        puts: Sequence[OwnedRecord] = (),
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> None:
        if puts:
            raise JournalCorrupt(f"{self._folder} is damaged (zmqtasks journal salvage it)")
        super().commit(puts, progress, drops, sync=sync)


@pytest.fixture
def node(settings: NodeSettings) -> Iterator[Node]:
    node = Node(settings, None)
    yield node
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("zmqtasks-")]


def own(node: Node) -> None:
    """Let it own a task that is not written yet."""
    runtime = node.runtime
    call = Call(runtime.node + bytes(8), KIND, b"", None)
    runtime.loop.call_soon(lambda: runtime.mesh.submit([call], runtime.now_ms))


def test_a_node_whose_journal_turns_out_damaged_stops_with_the_remedy(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journalkeeper, "SqliteJournal", Failing)
    node.start()
    with caplog.at_level(logging.ERROR, "zmqtasks.node"):
        own(node)
        assert node.run() == 1
    (told,) = [record.getMessage() for record in caplog.records if record.name == "zmqtasks.node"]
    assert told.startswith("the node failed: ")
    assert "zmqtasks journal salvage" in told


def test_what_a_node_owns_when_it_ends_is_written_down_and_left_to_others(
    node: Node, settings: NodeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    node.start()
    own(node)
    with caplog.at_level(logging.INFO, "zmqtasks.node"):
        node.stop()
        assert node.run() == 0
    folder = Path(settings.state_dir) / "unit" / "journal" / "0"
    assert f"1 task stays in journal {folder}, for the next node on this host" in caplog.messages
    (left,) = JournalSlots(Path(settings.state_dir) / "unit" / "journal").left_behind()
    assert (left.number, left.open_count, left.damage) == (0, 1, "")


def test_a_node_without_a_journal_says_what_is_lost_with_it(
    settings: NodeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    Path(settings.state_dir).write_text("no folder")
    node = Node(replace(settings, roles=("store",), store="memory://"), None)
    node.start()
    own(node)
    with caplog.at_level(logging.ERROR, "zmqtasks.node"):
        node.stop()
        assert node.run() == 1
    told = caplog.messages[-1]
    assert told.startswith("1 task is lost: no node takes over what waits here, and state_dir ")
    assert settings.state_dir in told


def test_a_broker_that_gets_no_journal_does_not_start(settings: NodeSettings) -> None:
    Path(settings.state_dir).mkdir()
    journal = Path(settings.state_dir) / "unit"
    journal.mkdir(mode=0o700)
    (journal / "journal").write_text("no folder")
    with pytest.raises(JournalError, match=r"a broker cannot do without a journal: .*check its"):
        Node(settings, None).start()
