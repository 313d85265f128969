"""Files of the same-host directory that somebody removes while their process lives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.unit.discovery.loops import Ears, Turns, candidate
from zmqtasks import limits
from zmqtasks.discovery import inotify, local
from zmqtasks.discovery.local import LocalDirectory
from zmqtasks.errors import ConfigError

NODE = b"W" * 8
STEM = f"{NODE.hex()}-1"


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def worker(tmp_path: Path, turns: Turns) -> Iterator[LocalDirectory]:
    folder = tmp_path / "mesh"
    folder.mkdir(mode=0o700)
    made = LocalDirectory(folder, turns)
    made.start(lambda candidate: None, lambda node, epoch: None)
    made.announce(candidate(b"W"))
    yield made
    made.stop()


@pytest.fixture
def observer(worker: LocalDirectory, turns: Turns) -> Iterator[LocalDirectory]:
    made = LocalDirectory(worker.folder, turns)
    yield made
    made.stop()


def listening(directory: LocalDirectory, turns: Turns) -> Ears:
    ears = Ears()
    directory.start(ears.listener, ears.gone)
    turns.settle()
    return ears


def remove(worker: LocalDirectory, what: str) -> None:
    if what == "folder":
        shutil.rmtree(worker.folder)
        worker.folder.mkdir(mode=0o700)
        return
    for path in worker.folder.glob(what):
        path.unlink()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nothing", []),
        ("*.lock", ["its lock"]),
        ("*.json", ["its entry"]),
        ("folder", ["its lock", "its entry"]),
    ],
)
def test_what_is_missing_is_told_and_made_again(
    worker: LocalDirectory, turns: Turns, what: str, told: list[str]
) -> None:
    remove(worker, what)
    assert worker.missing() == told
    worker.make_again()
    assert worker.missing() == []
    newcomer = LocalDirectory(worker.folder, turns)
    assert listening(newcomer, turns).heard == [candidate(b"W")]
    assert newcomer.is_alive(NODE, 1) is True
    newcomer.stop()


def test_a_lock_of_somebody_else_is_not_ours(worker: LocalDirectory) -> None:
    lock = worker.folder / f"{STEM}.lock"
    other = worker.folder / "other"
    other.touch()
    other.rename(lock)
    assert worker.missing() == ["its lock"]


@pytest.mark.parametrize("what", ["*.lock", "*.json", "*", "folder"])
def test_who_knows_a_node_does_not_take_it_for_dead(
    worker: LocalDirectory, observer: LocalDirectory, turns: Turns, what: str
) -> None:
    ears = listening(observer, turns)
    remove(worker, what)
    turns.settle()
    assert ears.ended == []
    assert observer.is_alive(NODE, 1) is not False
    worker.make_again()
    observer.make_again()
    turns.settle()
    assert ears.ended == []
    assert observer.is_alive(NODE, 1) is True
    # And its end is seen, in the folder that is there now.
    worker.stop()
    turns.run(lambda: ears.ended)


def test_a_clean_end_is_seen_after_the_files_vanished(
    worker: LocalDirectory, observer: LocalDirectory, turns: Turns
) -> None:
    ears = listening(observer, turns)
    remove(worker, "*")
    turns.settle()
    worker.stop()
    turns.run(lambda: ears.ended)
    assert ears.ended == [(NODE, 1)]


def test_a_newcomer_does_not_bury_an_entry_whose_lock_vanished(
    worker: LocalDirectory, observer: LocalDirectory, turns: Turns
) -> None:
    remove(worker, "*.lock")
    ears = listening(observer, turns)
    assert (ears.heard, ears.ended) == ([candidate(b"W")], [])
    assert (worker.folder / f"{STEM}.json").exists()
    assert observer.is_alive(NODE, 1) is None


def test_an_old_entry_without_a_lock_was_left_behind(
    worker: LocalDirectory, observer: LocalDirectory, turns: Turns
) -> None:
    remove(worker, "*.lock")
    os.utime(worker.folder / f"{STEM}.json", (1, 1))
    assert listening(observer, turns).heard == []
    assert not (worker.folder / f"{STEM}.json").exists()


def test_a_folder_that_was_made_again_is_watched(worker: LocalDirectory, turns: Turns) -> None:
    ears = Ears()
    observer = LocalDirectory(worker.folder, turns)
    observer.start(ears.listener, ears.gone)
    observer.announce(candidate(b"O"))
    remove(worker, "folder")
    observer.make_again()
    late = LocalDirectory(worker.folder, turns)
    late.announce(candidate(b"L"))
    turns.run(lambda: b"L" * 8 in [heard.node for heard in ears.heard])
    late.stop()
    observer.stop()


def test_without_inotify_left_it_is_polled_from_then_on(
    worker: LocalDirectory, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> NoReturn:
        raise OSError("no inotify instance left")

    monkeypatch.setattr(inotify, "Inotify", none_left)
    remove(worker, "folder")
    worker.make_again()
    assert worker.missing() == []
    assert turns.readers == {}


def test_a_folder_that_is_not_there_is_named(worker: LocalDirectory) -> None:
    shutil.rmtree(worker.folder)
    with pytest.raises(ConfigError, match="ZMQTASKS_RUNTIME_DIR"):
        worker.make_again()
    assert worker.missing() == ["its lock", "its entry"]
    worker.folder.mkdir(mode=0o700)
    worker.make_again()
    assert worker.missing() == []


def test_files_are_touched(worker: LocalDirectory) -> None:
    for name in (f"{STEM}.lock", f"{STEM}.json"):
        os.utime(worker.folder / name, (1, 1))
    worker.touch()
    assert min(path.stat().st_mtime for path in worker.folder.iterdir()) > 1
    assert worker.missing() == []
    shutil.rmtree(worker.folder)
    worker.touch()


def test_who_was_never_announced_misses_nothing(observer: LocalDirectory) -> None:
    assert observer.missing() == []
    observer.touch()


def test_only_so_many_locks_are_kept_open(
    worker: LocalDirectory, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOCKS_HELD_MAX", 0)
    observer = LocalDirectory(worker.folder, turns)
    ears = listening(observer, turns)
    assert observer.is_alive(NODE, 1) is True
    remove(worker, "*.lock")
    assert observer.is_alive(NODE, 1) is None
    observer.stop()
    assert limits.LOCKS_HELD_MAX > 0
    assert ears.ended == []
