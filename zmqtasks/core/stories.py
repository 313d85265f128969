"""What happened to tasks, for people: only what is out of the ordinary is told."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from zmqtasks.limits import STORIES_COUNT_MAX, STORY_LINES_MAX


class Stories:
    """{task id: lines}, the oldest dropped when there are too many.

    A task that was sent, ran and settled needs no line: what its owner keeps anyway says
    it all.
    """

    def __init__(self) -> None:
        #: Wall clock of the present turn, milliseconds since 1970: for people only.
        self.wall_ms = 0
        self._lines: OrderedDict[bytes, list[dict[str, Any]]] = OrderedDict()

    def tell(self, task_id: bytes, event: str, **facts: Any) -> None:
        """Add a line: ``at_ms``, ``event`` and plain facts."""
        lines = self._lines.get(task_id)
        if lines is None:
            self._lines[task_id] = lines = []
            if len(self._lines) > STORIES_COUNT_MAX:
                self._lines.popitem(last=False)
        if len(lines) < STORY_LINES_MAX:
            lines.append({"at_ms": self.wall_ms, "event": event, **facts})
        else:  # the beginning and the present matter most
            lines[-1] = {"at_ms": self.wall_ms, "event": event, **facts, "left_out": True}

    def of(self, task_id: bytes) -> list[dict[str, Any]]:
        """The lines of a task, oldest first."""
        return list(self._lines.get(task_id, ()))

    def forget(self, task_id: bytes) -> None:
        """Nobody will ask any more."""
        self._lines.pop(task_id, None)
