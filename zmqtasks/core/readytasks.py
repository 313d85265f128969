"""The READY tasks of one kind: by priority, 9 first, and in order within one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from zmqtasks.core.workqueue import priority_of

if TYPE_CHECKING:
    from zmqtasks.core.lanes import OwnedTask


class ReadyTasks:
    """A queue for each priority; mostly there is but one."""

    __slots__ = ("plain", "urgent")

    def __init__(self) -> None:
        #: Those of priority 0.
        self.plain: deque[OwnedTask] = deque()
        #: {priority: tasks}, highest first; only of priorities that were seen.
        self.urgent: dict[int, deque[OwnedTask]] = {}

    def at(self, priority: int) -> deque[OwnedTask]:
        """The tasks of that priority."""
        if not priority:
            return self.plain
        found = self.urgent.get(priority)
        if found is None:
            self.urgent[priority] = found = deque()
            self.urgent = dict(sorted(self.urgent.items(), reverse=True))
        return found

    def priorities(self) -> list[int]:
        """Those of which there are tasks, highest first."""
        found = [priority for priority, tasks in self.urgent.items() if tasks]
        return [*found, 0] if self.plain else found

    def append(self, task: OwnedTask) -> None:
        """It comes last among those of its priority."""
        self.at(priority_of(task.ext)).append(task)

    def appendleft(self, task: OwnedTask) -> None:
        """It comes first among those of its priority."""
        self.at(priority_of(task.ext)).appendleft(task)

    def first(self) -> OwnedTask | None:
        """What ``popleft`` takes; None if there is nothing."""
        return next(iter(self), None)

    def popleft(self) -> OwnedTask:
        """Take the first one of the highest priority that there is."""
        for tasks in self.urgent.values():
            if tasks:
                return tasks.popleft()
        return self.plain.popleft()

    def remove(self, task: OwnedTask) -> None:
        """Take this one, which is here."""
        self.at(priority_of(task.ext)).remove(task)

    def keep(self, is_kept: Callable[[OwnedTask], bool]) -> None:
        """Forget all others."""
        for tasks in (*self.urgent.values(), self.plain):
            left = [task for task in tasks if is_kept(task)]
            tasks.clear()
            tasks.extend(left)

    def __len__(self) -> int:
        if not self.urgent:
            return len(self.plain)
        return len(self.plain) + sum(len(tasks) for tasks in self.urgent.values())

    def __iter__(self) -> Iterator[OwnedTask]:
        for tasks in self.urgent.values():
            yield from tasks
        yield from self.plain
