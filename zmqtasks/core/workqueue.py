"""What waits in an intake for a slot: by priority, 9 first, and in order of arrival.

There is no more to it: a task of a low priority waits for as long as others come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from zmqtasks.core.held import HeldTask

#: Key in ``TaskRecord.ext``: 1 to 9; 0 without it.
PRIORITY_KEY = "pri"
_PRIORITY_MAX = 9
_NOTHING: deque[HeldTask] = deque(maxlen=0)


def priority_of(ext: dict[str, object] | None) -> int:
    """0 to 9; whatever else was said is brought within these bounds."""
    priority = ext.get(PRIORITY_KEY, 0) if ext else 0
    return min(max(priority, 0), _PRIORITY_MAX) if isinstance(priority, int) else 0


class WorkQueue:
    """Held tasks in the order in which they are to start."""

    def __init__(self) -> None:
        #: By priority, highest first.
        self._lanes: tuple[deque[HeldTask], ...] = tuple(deque() for _ in range(_PRIORITY_MAX + 1))
        self._lowest = self._lanes[_PRIORITY_MAX]
        #: How many there are, and how many of kinds that take long, or may. Whoever takes
        #: from a lane keeps both.
        self.count = 0
        self.slow_count = 0

    def push(self, task: HeldTask) -> None:
        """It comes last among those of its priority."""
        lane = self._lane_of(task) if task.ext else self._lowest
        lane.append(task)
        self.count += 1
        if task.stat.is_slow:
            self.slow_count += 1

    def push_first(self, task: HeldTask) -> None:
        """It comes first among those of its priority."""
        self._lane_of(task).appendleft(task)
        self.count += 1
        if task.stat.is_slow:
            self.slow_count += 1

    def _lane_of(self, task: HeldTask) -> deque[HeldTask]:
        return self._lanes[_PRIORITY_MAX - priority_of(task.ext)]

    def lane(self) -> deque[HeldTask]:
        """The tasks of the highest priority that there is, to be taken from the left; empty
        if there is nothing."""
        for lane in self._lanes:
            if lane:
                return lane
        return _NOTHING

    def take(self, is_taken: Callable[[HeldTask], bool]) -> list[HeldTask]:
        """Remove those that are meant."""
        taken = [task for task in self if is_taken(task)]
        if taken:
            for lane in self._lanes:
                if lane:
                    left = [task for task in lane if not is_taken(task)]
                    lane.clear()
                    lane.extend(left)
            self.count -= len(taken)
            self.recount()
        return taken

    def recount(self) -> None:
        """Some kinds have turned out to be slow, or not to be."""
        self.slow_count = sum(task.stat.is_slow for task in self)

    def __iter__(self) -> Iterator[HeldTask]:
        for lane in self._lanes:
            yield from lane

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return self.count > 0
