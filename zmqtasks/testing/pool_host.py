"""A node of few lines around a pool: its loop, and notes of what the pool reports."""

# ruff: noqa: D102 - see ``PoolHost``

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zmqtasks.pools.base import Pool
from zmqtasks.pools.protocol import (
    Answer,
    ChildOutcome,
    ChildRequest,
    LogRecord,
    QueryRequest,
    RunTask,
    SubmitRequest,
)
from zmqtasks.wire.messages import CatalogEntry
from zmqtasks.wire.payload import decode_error, decode_value, encode_arguments

R = TypeVar("R", SubmitRequest, QueryRequest)

OWNER = b"ownernod"
#: A test that waits longer hangs.
PATIENCE_S = 20.0


def ended(pid: int) -> bool:
    """Whether that process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or read
        return True


def wait_until_ended(*pids: int) -> None:
    """Wait until these processes are gone."""
    deadline = time.monotonic() + PATIENCE_S
    while not all(ended(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.005)


class RecordingHost:
    """Implements ``PoolHost`` with ``select``."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._later: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._soon: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        self.forget()

    def forget(self) -> None:
        """Begin with empty notes."""
        self.ready: list[int] = []
        self.outcomes: list[ChildOutcome] = []
        self.died: list[tuple[int, str]] = []
        #: What ``slot_died`` said of the attempts there.
        self.blamed: list[tuple[int, bool]] = []
        self.alone: list[bool] = []
        self.gone: list[int] = []
        self.requests: list[ChildRequest] = []

    @property
    def logs(self) -> list[LogRecord]:
        return [request for request in self.requests if isinstance(request, LogRecord)]

    @property
    def watched(self) -> set[int]:
        return set(self._callbacks)

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self._callbacks
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        del self._callbacks[fd]
        self._writers.pop(fd, None)

    def register_writable(self, fd: int, callback: Callable[[], None]) -> None:
        self._writers[fd] = callback

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self._soon.append((function, args))
        os.write(self._wake_write, b"x")

    def call_later(self, delay_ms: float, function: Callable[..., None], *args: Any) -> None:
        due = time.monotonic() + delay_ms / 1000
        heapq.heappush(self._later, (due, next(self._numbers), function, args))

    def slot_ready(self, slot: int) -> None:
        self.ready.append(slot)

    def slot_done(self, slot: int, outcomes: Sequence[ChildOutcome]) -> None:
        self.outcomes += outcomes

    def slot_died(
        self, slot: int, reason: str, ended: int = 0, is_running: bool = True,
        is_alone: bool = True,
    ) -> None:  # fmt: skip
        self.died.append((slot, reason))
        self.alone.append(is_alone)
        self.blamed.append((ended, is_running))

    def slot_gone(self, slot: int) -> None:
        self.gone.append(slot)

    def slot_request(self, slot: int, request: ChildRequest) -> None:
        self.requests.append(request)

    def turn(self, timeout_s: float = 1.0) -> None:
        """One turn of the loop."""
        if self._later:
            timeout_s = max(0.0, min(timeout_s, self._later[0][0] - time.monotonic()))
        readable, writable, _ = select.select(
            [self._wake_read, *self._callbacks], list(self._writers), [], timeout_s
        )
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, function, args = heapq.heappop(self._later)
            function(*args)
        while self._soon:
            function, args = self._soon.popleft()
            function(*args)
        for fd in writable:
            if fd in self._writers:
                self._writers.pop(fd)()
        for fd in readable:
            if fd in self._callbacks:
                self._callbacks[fd]()

    def until(self, happened: Callable[[], object]) -> None:
        """Turn until it has happened."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, (self.ready, self.died, self.requests)
            self.turn()

    def close(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)


class Rig:
    """A started pool and its host."""

    def __init__(self, pool: Pool, host: RecordingHost) -> None:
        self.pool = pool
        self.host = host
        self.catalog: list[CatalogEntry] = []
        self._ids = 0

    @property
    def _names(self) -> dict[str, str]:
        return {entry.name.rpartition(".")[2]: entry.name for entry in self.catalog}

    def task(self, name: str, *args: Any, attempt: int = 1, **ext: Any) -> RunTask:
        """An attempt of the task whose name ends so, with a fresh id."""
        self._ids += 1
        return RunTask(
            id=OWNER + self._ids.to_bytes(8, "big"),
            attempt=attempt,
            app="pooltest",
            name=self._names.get(name, name),
            queue="default",
            owner=OWNER,
            body=encode_arguments(args, {}),
            ext=ext or None,
        )

    def run(self, *tasks: RunTask) -> list[ChildOutcome]:
        """Run one batch and wait for all of it."""
        seen = len(self.host.outcomes)
        self.pool.run(0, tasks)
        self.host.until(lambda: len(self.host.outcomes) >= seen + len(tasks))
        found = self.host.outcomes[seen:]
        assert [(o.id, o.attempt) for o in found] == [(t.id, t.attempt) for t in tasks]
        return found

    def value(self, name: str, *args: Any, **ext: Any) -> Any:
        """Run one task that succeeds."""
        outcome = self.run(self.task(name, *args, **ext))[0]
        assert outcome.status == 0, outcome.error
        return decode_value(outcome.body)

    def error(self, name: str, *args: Any) -> Exception:
        """Run one task that fails."""
        outcome = self.run(self.task(name, *args))[0]
        assert outcome.status == 1
        return decode_error(outcome.body)

    def recover(self) -> None:
        """Wait until the first slot works, whatever has just been killed there."""
        while True:
            self.host.forget()
            self.pool.run(0, [self.task("add", 1, 2)])
            self.host.until(lambda: self.host.outcomes or self.host.died or self.host.ready)
            if any(outcome.status == 0 for outcome in self.host.outcomes):
                return
            self.host.until(lambda: 0 in self.host.ready)

    def request(self, kind: type[R]) -> R:
        """Wait for a request of this kind and take it."""
        found: list[R] = []

        def look() -> bool:
            found.extend(r for r in self.host.requests if isinstance(r, kind))
            return bool(found)

        self.host.until(look)
        self.host.requests.remove(found[0])
        return found[0]

    def answer(self, answer: Answer) -> None:
        self.pool.answer(0, answer)


@contextlib.contextmanager
def started(pool: Pool, slots: int = 1) -> Iterator[Rig]:
    """The pool started and ready; stopped in the end, with nothing left watched."""
    host = RecordingHost()
    rig = Rig(pool, host)
    try:
        rig.catalog = pool.start(host)
        host.until(lambda: len(host.ready) >= slots)
        yield rig
    finally:
        pool.stop()
        assert host.watched == set()
        host.close()
