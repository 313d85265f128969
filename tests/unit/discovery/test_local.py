"""The same-host directory, with real locks and real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.unit.discovery.loops import Ears, Turns, candidate
from zmqtasks.core.links import Candidate
from zmqtasks.discovery import inotify
from zmqtasks.discovery.local import LocalDirectory
from zmqtasks.errors import ConfigError
from zmqtasks.limits import ENDPOINTS_PER_PEER_MAX


@pytest.fixture
def folder(own_directories: Path) -> Path:
    made = own_directories / "default"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def turns() -> Turns:
    return Turns()


MakeDirectory = Callable[[], LocalDirectory]


@pytest.fixture
def make(folder: Path, turns: Turns) -> Iterator[MakeDirectory]:
    made: list[LocalDirectory] = []

    def directory() -> LocalDirectory:
        made.append(LocalDirectory(folder, turns))
        return made[-1]

    yield directory
    for one in made:
        one.stop()
    assert turns.readers == {}


@pytest.fixture(params=["inotify", "polling"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of seeing changes."""
    if request.param == "polling":

        def none_left() -> NoReturn:
            raise OSError("no inotify instance left")

        monkeypatch.setattr(inotify, "Inotify", none_left)
    return str(request.param)


def listening(directory: LocalDirectory) -> Ears:
    ears = Ears()
    directory.start(ears.listener, ears.gone)
    return ears


def announce_in_child(folder: Path, announced: Candidate) -> int:
    """A process that announces itself and then waits to be killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        LocalDirectory(folder, Turns()).announce(announced)
        os.write(write, b"x")
        signal.pause()
        os._exit(1)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_who_was_there_before_is_found_at_once(make: MakeDirectory, turns: Turns) -> None:
    worker = candidate(b"W", endpoints=("ipc:///x/w.r", "tcp://127.0.0.1:7000"), fingerprint="ab12")
    make().announce(worker)
    ears = listening(make())
    turns.settle()
    assert ears.heard == [worker]


def test_who_comes_later_is_seen(make: MakeDirectory, turns: Turns, way: str) -> None:
    ears = listening(make())
    worker = make()
    worker.announce(candidate(b"W"))
    turns.run(lambda: ears.heard)
    worker.announce(candidate(b"W", roles=("worker", "store")))
    turns.run(lambda: len(ears.heard) == 2)
    assert [one.roles for one in ears.heard] == [("worker",), ("worker", "store")]


def test_a_clean_end_is_seen(make: MakeDirectory, turns: Turns, folder: Path, way: str) -> None:
    ears = listening(make())
    worker = make()
    worker.announce(candidate(b"W"))
    turns.run(lambda: ears.heard)
    worker.stop()
    turns.run(lambda: ears.ended)
    assert ears.ended == [(b"W" * 8, 1)]
    assert list(folder.iterdir()) == []


def test_a_killed_process_is_seen_and_cleaned_up_after(
    make: MakeDirectory, turns: Turns, folder: Path, way: str
) -> None:
    directory = make()
    ears = listening(directory)
    child = announce_in_child(folder, candidate(b"W", epoch=300))
    turns.run(lambda: ears.heard)
    assert directory.is_alive(b"W" * 8, 300) is True
    (folder / f"{(b'W' * 8).hex()}-12c.r").touch()
    kill(child)
    turns.run(lambda: ears.ended)
    assert ears.ended == [(b"W" * 8, 300)]
    assert not directory.is_alive(b"W" * 8, 300)
    assert list(folder.iterdir()) == []


def test_a_killed_process_is_known_dead_before_any_turn(
    make: MakeDirectory, turns: Turns, folder: Path
) -> None:
    directory = make()
    listening(directory)
    child = announce_in_child(folder, candidate(b"W"))
    turns.settle()
    kill(child)
    assert directory.is_alive(b"W" * 8, 1) is False


def test_what_a_killed_process_left_is_not_told(
    make: MakeDirectory, turns: Turns, folder: Path
) -> None:
    kill(announce_in_child(folder, candidate(b"W")))
    assert len(list(folder.iterdir())) == 2
    ears = listening(make())
    turns.settle()
    assert (ears.heard, ears.ended) == ([], [])
    assert list(folder.iterdir()) == []


def test_a_forked_child_does_not_keep_its_parent_alive(
    make: MakeDirectory, turns: Turns, folder: Path
) -> None:
    # Given a process that announced itself and forked, as web servers do,
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        directory = LocalDirectory(folder, Turns())
        directory.start(lambda candidate: None, lambda node, epoch: None)
        directory.announce(candidate(b"W"))
        if os.fork() == 0:
            # Not before fork has returned here, that is, before it let go of the lock.
            os.write(write, os.getpid().to_bytes(4, "big"))
        signal.pause()
    grandchild = int.from_bytes(os.read(read, 4), "big")
    os.close(read)
    os.close(write)
    # When it is killed and its child lives on,
    directory = make()
    ears = listening(directory)
    turns.settle()
    kill(parent)
    # Then it counts as ended.
    try:
        assert directory.is_alive(b"W" * 8, 1) is False
        turns.run(lambda: ears.ended)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_nobody_hears_itself(make: MakeDirectory, turns: Turns) -> None:
    directory = make()
    directory.announce(candidate(b"W"))
    ears = listening(directory)
    directory.announce(candidate(b"W", roles=()))
    turns.settle()
    assert ears.heard == []


def test_two_nodes_of_one_process_see_each_other(make: MakeDirectory, turns: Turns) -> None:
    one, two = make(), make()
    ears_one, ears_two = listening(one), listening(two)
    one.announce(candidate(b"1"))
    two.announce(candidate(b"2"))
    turns.settle()
    assert [heard.node for heard in ears_one.heard] == [b"2" * 8]
    assert [heard.node for heard in ears_two.heard] == [b"1" * 8]
    assert one.is_alive(b"2" * 8, 1) is True


def test_of_whom_nothing_is_known_nothing_is_said(make: MakeDirectory) -> None:
    assert make().is_alive(b"X" * 8, 1) is None


def test_a_stopped_directory_tells_nothing_more(make: MakeDirectory, turns: Turns) -> None:
    directory = make()
    make().announce(candidate(b"W"))
    ears = listening(directory)
    directory.stop()
    directory.stop()
    turns.settle()
    assert ears.heard == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"id": 5}', b"x" * 100_000],
)
def test_a_damaged_entry_is_left_out(
    make: MakeDirectory, turns: Turns, folder: Path, content: bytes
) -> None:
    make().announce(candidate(b"W"))
    (folder / f"{(b'W' * 8).hex()}-1.json").write_bytes(content)
    ears = listening(make())
    turns.settle()
    assert ears.heard == []


def test_an_entry_under_a_wrong_name_is_left_out(
    make: MakeDirectory, turns: Turns, folder: Path
) -> None:
    make().announce(candidate(b"W"))
    make().announce(candidate(b"V"))
    own = (folder / f"{(b'V' * 8).hex()}-1.json").read_bytes()
    (folder / f"{(b'W' * 8).hex()}-1.json").write_bytes(own)
    (folder / "README").write_text("not an entry")
    ears = listening(make())
    turns.settle()
    assert [heard.node for heard in ears.heard] == [b"V" * 8]


def test_only_so_many_addresses_are_kept(make: MakeDirectory, turns: Turns) -> None:
    many = tuple(f"tcp://127.0.0.1:{7000 + n}" for n in range(100))
    make().announce(candidate(b"W", endpoints=many))
    ears = listening(make())
    turns.settle()
    assert ears.heard[0].endpoints == many[:ENDPOINTS_PER_PEER_MAX]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, turns: Turns) -> None:
    directory = LocalDirectory(tmp_path / "missing", turns)
    with pytest.raises(ConfigError, match="ZMQTASKS_RUNTIME_DIR"):
        directory.announce(candidate(b"W"))


def test_other_folders_are_looked_into_where_they_are(
    folder: Path, tmp_path: Path, turns: Turns
) -> None:
    system = tmp_path / "system"
    system.mkdir()
    service = LocalDirectory(system, turns)
    service.announce(candidate(b"S"))
    directory = LocalDirectory(folder, turns, also=[system, tmp_path / "missing"])
    ears = listening(directory)
    turns.settle()
    assert [heard.node for heard in ears.heard] == [b"S" * 8]
    service.stop()
    turns.run(lambda: ears.ended)
    directory.stop()
