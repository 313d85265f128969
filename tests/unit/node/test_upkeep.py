"""When a node looks after its files, and what it says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.unit.discovery.loops import Turns, candidate
from tests.unit.net.pumping import Peer
from zmqtasks.core import effects as fx
from zmqtasks.discovery.local import LocalDirectory
from zmqtasks.limits import RUNTIME_CHECK_MS, RUNTIME_TOUCH_MS
from zmqtasks.node.upkeep import Upkeep


class Node:
    """The files of a node, and what is said about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.peer = Peer(b"W", ipc_dir=folder)
        self.local = LocalDirectory(folder, Turns())
        self.local.announce(candidate(b"W"))
        self.notes: list[fx.Note] = []
        self.upkeep = Upkeep(folder, self.local, self.peer.transport, self.notes.append, 0)

    def said(self) -> Sequence[tuple[str, str]]:
        said = [(note.level, note.text) for note in self.notes]
        self.notes.clear()
        return said


@pytest.fixture
def node(own_directories: Path) -> Iterator[Node]:
    made = Node(own_directories / "mesh")
    yield made
    made.peer.transport.close()
    made.local.stop()


def test_nothing_is_said_of_files_that_are_there(node: Node) -> None:
    before = {path: path.stat().st_ino for path in node.folder.iterdir()}
    node.upkeep.check()
    assert node.said() == []
    assert {path: path.stat().st_ino for path in node.folder.iterdir()} == before


def test_a_folder_that_vanished_is_made_again_with_one_line(node: Node) -> None:
    names = sorted(path.name for path in node.folder.iterdir())
    shutil.rmtree(node.folder)
    node.upkeep.check()
    node.upkeep.check()
    ((level, text),) = node.said()
    assert level == "warning"
    assert f"vanished from {node.folder} (the whole folder); they are made again" in text
    assert sorted(path.name for path in node.folder.iterdir()) == names
    assert node.folder.stat().st_mode & 0o777 == 0o700


def test_what_vanished_is_named(node: Node) -> None:
    for path in (*node.folder.glob("*.json"), *node.folder.glob("*.r")):
        path.unlink()
    node.upkeep.check()
    ((_, text),) = node.said()
    assert "(its entry, 1 socket)" in text


def test_what_cannot_be_made_again_is_said_once_until_it_works(node: Node) -> None:
    shutil.rmtree(node.folder)
    node.folder.write_text("in the way")
    node.upkeep.check()
    node.upkeep.check()
    ((level, text),) = node.said()
    assert level == "error"
    assert "cannot be made again" in text
    assert "ZMQTASKS_RUNTIME_DIR" in text
    node.folder.unlink()
    node.upkeep.check()
    assert [level for level, _ in node.said()] == ["warning"]
    shutil.rmtree(node.folder)
    node.folder.write_text("in the way again")
    node.upkeep.check()
    assert [level for level, _ in node.said()] == ["error"]
    node.folder.unlink()


def test_it_looks_from_time_to_time(node: Node) -> None:
    shutil.rmtree(node.folder)
    assert node.upkeep.advance(RUNTIME_CHECK_MS - 1) == RUNTIME_CHECK_MS
    assert node.said() == []
    assert node.upkeep.advance(RUNTIME_CHECK_MS) == 2 * RUNTIME_CHECK_MS
    assert len(node.said()) == 1


def test_files_are_touched_once_an_hour(node: Node) -> None:
    for path in node.folder.iterdir():
        os.utime(path, (1, 1))
    node.upkeep.advance(RUNTIME_TOUCH_MS - 1)
    assert {path.stat().st_mtime for path in node.folder.iterdir()} == {1.0}
    node.upkeep.advance(RUNTIME_TOUCH_MS)
    assert min(path.stat().st_mtime for path in node.folder.iterdir()) > 1
    assert node.said() == []
