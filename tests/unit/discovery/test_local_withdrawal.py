"""A node that drains is found as such, and lives until its lock is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.core.links import DRAINING, Candidate
from zmqtasks.discovery.local import LocalDirectory

NODE = b"workerAA"


class HandLoop:
    """Runs what is due when told to."""

    def __init__(self) -> None:
        self._callbacks: dict[Any, Callable[[], None]] = {}
        self._soon: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def register(self, obj: Any, callback: Callable[[], None], /) -> None:
        self._callbacks[obj] = callback

    def unregister(self, obj: Any, /) -> None:
        del self._callbacks[obj]

    def call_soon(self, fn: Callable[..., Any], /, *args: Any) -> None:
        self._soon.append((fn, args))

    def turn(self) -> None:
        for callback in list(self._callbacks.values()):
            callback()
        while self._soon:
            fn, args = self._soon.popleft()
            fn(*args)


class Observer:
    """Somebody who looks into the directory, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.found: list[tuple[str, ...]] = []
        self.gone: list[bytes] = []
        self.loop = HandLoop()
        self.directory = LocalDirectory(folder, self.loop)
        self.directory.start(
            lambda candidate: self.found.append(candidate.roles),
            lambda node, epoch: self.gone.append(node),
        )
        self.loop.turn()


def candidate() -> Candidate:
    return Candidate(
        NODE, 1, b"meshhash", "default", "", ("ipc:///nowhere",), b"hostid00", ("worker",), "local"
    )


@pytest.fixture
def worker(tmp_path: Path) -> LocalDirectory:
    directory = LocalDirectory(tmp_path, HandLoop())
    directory.announce(candidate())
    return directory


def draining() -> Candidate:
    return candidate()._replace(roles=(DRAINING,))


def test_draining_node_is_not_taken_for_ended(tmp_path: Path, worker: LocalDirectory) -> None:
    observer = Observer(tmp_path)
    assert observer.found == [("worker",)]
    worker.announce(draining())
    observer.loop.turn()
    assert observer.gone == []
    assert observer.directory.is_alive(NODE, 1) is True
    worker.stop()
    observer.loop.turn()
    assert observer.gone == [NODE]
    assert observer.directory.is_alive(NODE, 1) is not True
    observer.directory.stop()


def test_newcomers_find_a_draining_node_as_that(tmp_path: Path, worker: LocalDirectory) -> None:
    worker.announce(draining())
    newcomer = Observer(tmp_path)
    assert newcomer.found == [(DRAINING,)]
    newcomer.directory.stop()
    worker.stop()
