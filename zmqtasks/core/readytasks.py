"""The READY tasks of one kind: by priority, 9 first, and in order within one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from zmqtasks.core.held import AMONG_KEY
from zmqtasks.core.workqueue import priority_of
from zmqtasks.limits import AMONG_MAX

if TYPE_CHECKING:
    from zmqtasks.core.lanes import OwnedTask


class ReadyTasks:
    """A queue for each priority; mostly there is but one."""

    __slots__ = ("apart", "plain", "urgent")

    def __init__(self) -> None:
        #: Those of priority 0.
        self.plain: deque[OwnedTask] = deque()
        #: {priority: tasks}, highest first; only of priorities that were seen.
        self.urgent: dict[int, deque[OwnedTask]] = {}
        #: Those of any priority of which a worker gets one at a time: each may be one that
        #: kills workers.
        self.apart: deque[OwnedTask] = deque()

    def _of(self, task: OwnedTask) -> deque[OwnedTask]:
        count = task.ext.get(AMONG_KEY) if task.ext is not None else 0
        # One that must not run twice ends with its worker.
        if isinstance(count, int) and count >= AMONG_MAX and not task.lane.is_guarded:
            return self.apart
        return self.at(priority_of(task.ext))

    def _all(self) -> Iterator[deque[OwnedTask]]:
        yield self.apart
        yield from self.urgent.values()
        yield self.plain

    def at(self, priority: int) -> deque[OwnedTask]:
        """The tasks of that priority, without those that are kept apart."""
        if not priority:
            return self.plain
        found = self.urgent.get(priority)
        if found is None:
            self.urgent[priority] = found = deque()
            self.urgent = dict(sorted(self.urgent.items(), reverse=True))
        return found

    def priorities(self) -> list[int]:
        """Those of which ``at`` has tasks, highest first."""
        found = [priority for priority, tasks in self.urgent.items() if tasks]
        return [*found, 0] if self.plain else found

    def append(self, task: OwnedTask) -> None:
        """It comes last among those of its priority."""
        self._of(task).append(task)

    def appendleft(self, task: OwnedTask) -> None:
        """It comes first among those of its priority."""
        self._of(task).appendleft(task)

    def first(self) -> OwnedTask | None:
        """What ``popleft`` takes; None if there is nothing."""
        return next(iter(self), None)

    def popleft(self) -> OwnedTask:
        """Take the first of those that are kept apart, or of the highest priority that there
        is."""
        return next((tasks for tasks in self._all() if tasks), self.plain).popleft()

    def remove(self, task: OwnedTask) -> None:
        """Take this one, which is here."""
        next(tasks for tasks in self._all() if task in tasks).remove(task)

    def keep(self, is_kept: Callable[[OwnedTask], bool]) -> None:
        """Forget all others."""
        for tasks in self._all():
            left = [task for task in tasks if is_kept(task)]
            tasks.clear()
            tasks.extend(left)

    def __len__(self) -> int:
        count = len(self.plain) + len(self.apart)
        return count + sum(map(len, self.urgent.values())) if self.urgent else count

    def __iter__(self) -> Iterator[OwnedTask]:
        for tasks in self._all():
            yield from tasks
