"""Dead tasks: settled as DEAD, kept with their arguments for people to look at and retry."""

from __future__ import annotations

from typing import Any, NamedTuple

from zmqtasks.core.owned import OwnedRecord, dead_mark
from zmqtasks.ids import ID_TEXT_KEY
from zmqtasks.limits import DEAD_BYTES_MAX, DEAD_COUNT_MAX


class DeadTask(NamedTuple):
    """One of them."""

    record: OwnedRecord
    #: What happened to it, see ``stories.py``.
    story: list[dict[str, Any]]
    reason: str
    #: Wall clock, milliseconds since 1970: when it was given up.
    at_ms: int

    def mark(self) -> bytes:
        """Its mark in the journal."""
        return dead_mark(self.story, self.reason, self.at_ms)

    def describe(self) -> dict[str, Any]:
        """Plain data for people."""
        record = self.record
        text = (record.ext or {}).get(ID_TEXT_KEY)
        return {
            "id": record.id.hex(),
            **({ID_TEXT_KEY: text} if text else {}),
            "name": record.kind.name,
            "app": record.kind.app,
            "queue": record.kind.queue,
            "attempt": record.attempt,
            "strikes": record.strikes,
            "reason": self.reason,
            "at_ms": self.at_ms,
            "story": self.story,
        }


class DeadTasks:
    """Those of one owner, the oldest forgotten when there are too many."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, DeadTask] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, dead: DeadTask) -> list[bytes]:
        """Keep this one; returns the ids of those that had to go for it."""
        self.remove(dead.record.id)
        self.tasks[dead.record.id] = dead
        self._bytes += len(dead.record.body)
        forgotten: list[bytes] = []
        while len(self.tasks) > 1 and (
            len(self.tasks) > DEAD_COUNT_MAX or self._bytes > DEAD_BYTES_MAX
        ):
            oldest = next(iter(self.tasks))
            self.remove(oldest)
            forgotten.append(oldest)
        return forgotten

    def get(self, task_id: bytes) -> DeadTask | None:
        """The dead task of this id, if there is one."""
        return self.tasks.get(task_id)

    def remove(self, task_id: bytes) -> bool:
        """Keep it no longer; False if there is no such one."""
        dead = self.tasks.pop(task_id, None)
        if dead is None:
            return False
        self._bytes -= len(dead.record.body)
        return True

    def describe(self) -> list[dict[str, Any]]:
        """All of them as plain data, the latest first."""
        return [dead.describe() for dead in reversed(self.tasks.values())]
