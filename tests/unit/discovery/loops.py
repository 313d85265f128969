"""A loop that turns when the test says so."""

from __future__ import annotations

import queue
import select
import time
from collections.abc import Callable
from typing import Any

from zmqtasks.core.links import Candidate

#: Far more than anything here takes; only a failing test waits for it.
LIMIT_S = 20.0
MESH = b"mesh----"


class Turns:
    """What ways of finding peers need of a loop; ``call_soon`` from any thread."""

    def __init__(self) -> None:
        self.readers: dict[Any, Callable[[], None]] = {}
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = (
            queue.SimpleQueue()
        )

    def register(self, obj: Any, callback: Callable[[], None], /) -> None:
        self.readers[obj] = callback

    def unregister(self, obj: Any, /) -> None:
        del self.readers[obj]

    def call_soon(self, fn: Callable[..., Any], /, *args: Any) -> None:
        self._calls.put((fn, args))

    def settle(self) -> None:
        """Do everything that waits now."""
        while True:
            ready = select.select(list(self.readers), [], [], 0)[0]
            for fd in ready:
                if fd in self.readers:
                    self.readers[fd]()
            if not self._run_calls() and not ready:
                return

    def run(self, until: Callable[[], object]) -> None:
        """Turn until something is true."""
        end = time.monotonic() + LIMIT_S
        while not until():
            assert time.monotonic() < end, f"not within {LIMIT_S} s"
            self.settle()
            if not until():
                select.select(list(self.readers), [], [], 0.01)

    def _run_calls(self) -> bool:
        ran = False
        while not self._calls.empty():
            fn, args = self._calls.get()
            fn(*args)
            ran = True
        return ran


class Ears:
    """Listener and gone callback in one."""

    def __init__(self) -> None:
        self.heard: list[Candidate] = []
        self.ended: list[tuple[bytes, int]] = []

    def listener(self, candidate: Candidate) -> None:
        self.heard.append(candidate)

    def gone(self, node: bytes, epoch: int) -> None:
        self.ended.append((node, epoch))


def candidate(letter: bytes, epoch: int = 1, **changes: Any) -> Candidate:
    """A node that listens on loopback."""
    made = Candidate(
        letter * 8, epoch, MESH, "default", "", ("tcp://127.0.0.1:7000",), b"host----",
        ("worker",), "local",
    )  # fmt: skip
    return made._replace(**changes)
