"""Tasks whose time has not come, and those whose time ends.

The clock that counts is the wall clock of the owner, as each turn brings it: ``eta`` and
``exp`` are moments of that clock. One that jumps is looked at again every second, so
nothing is later than that.

There is no timer for a task, but a heap for all, whose entries are plain numbers: a moment
and a task id. A task that goes otherwise leaves its entry behind; when those are more than
the others, they are thrown out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from zmqtasks.core.lanes import OwnedTask
from zmqtasks.limits import CLOCK_LOOK_MS, DUE_COUNT_MAX

_ID_BITS = 128
_ID_MASK = (1 << _ID_BITS) - 1
#: Entries from which on it is worth to look for those of tasks that have gone.
_PRUNE_MIN = 1_024


class Moments:
    """Task ids by a moment of the wall clock.

    Args:
        is_current: whether a task still waits for that moment.
    """

    __slots__ = ("_heap", "_is_current", "_prune_at")

    def __init__(self, is_current: Callable[[bytes, int], bool]) -> None:
        self._is_current = is_current
        #: Moment and id as one number: of a million tuples each would cost twice as much.
        self._heap: list[int] = []
        self._prune_at = _PRUNE_MIN

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, task_id: bytes, at_ms: int) -> None:
        """Name this task at that moment."""
        heap = self._heap
        heappush(heap, at_ms << _ID_BITS | int.from_bytes(task_id, "big"))
        if len(heap) >= self._prune_at:
            heap[:] = [entry for entry in heap if self._is_current(_id_in(entry), _ms_in(entry))]
            heapify(heap)
            self._prune_at = max(_PRUNE_MIN, 2 * len(heap))

    def first_ms(self) -> int | None:
        """The next moment, None if there is none."""
        return _ms_in(self._heap[0]) if self._heap else None

    def soonest(self) -> Iterator[bytes]:
        """Those that still wait, the first ones first; so many as are asked for cost time, not
        so many as there are."""
        heap = self._heap
        open_ = [(heap[0], 0)] if heap else []
        while open_:
            entry, index = heappop(open_)
            for child in range(2 * index + 1, min(2 * index + 3, len(heap))):
                heappush(open_, (heap[child], child))
            if self._is_current(_id_in(entry), _ms_in(entry)):
                yield _id_in(entry)

    def due(self, wall_ms: int) -> list[bytes]:
        """Take out those whose moment has come, the first ones first, so many at most as a
        turn should work on."""
        heap = self._heap
        due: list[bytes] = []
        while heap and _ms_in(heap[0]) <= wall_ms and len(due) < DUE_COUNT_MAX:
            entry = heappop(heap)
            if self._is_current(_id_in(entry), _ms_in(entry)):
                due.append(_id_in(entry))
        return due


def _ms_in(entry: int) -> int:
    return entry >> _ID_BITS


def _id_in(entry: int) -> bytes:
    return (entry & _ID_MASK).to_bytes(_ID_BITS // 8, "big")


class Waiting:
    """The moments of a dispatcher's tasks.

    Args:
        tasks: its open tasks.
    """

    def __init__(self, tasks: Mapping[bytes, OwnedTask]) -> None:
        self._tasks = tasks
        #: Wall clock of the present turn.
        self.wall_ms = 0
        #: How often to look whether somebody has set that clock, in milliseconds.
        self.clock_look_ms = CLOCK_LOOK_MS
        self._now_ms = 0
        self._etas = Moments(self._is_waiting)
        self._ends = Moments(self._is_ending)

    def is_early(self, task: OwnedTask) -> bool:
        """It is not to start yet."""
        return eta_of(task) > self.wall_ms

    def is_late(self, task: OwnedTask) -> bool:
        """It is not to start any more."""
        return 0 < end_of(task) <= self.wall_ms

    def wait(self, task: OwnedTask) -> None:
        """It is named by ``come_due`` when its time has come, unless ``is_waiting`` is
        taken from it before."""
        task.is_waiting = True
        self._etas.add(task.id, eta_of(task))

    def watch(self, task: OwnedTask) -> None:
        """It is named by ``come_late`` when its time has ended, if it has an end."""
        end_ms = end_of(task)
        if end_ms:
            self._ends.add(task.id, end_ms)

    def _is_waiting(self, task_id: bytes, at_ms: int) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and task.is_waiting and eta_of(task) == at_ms

    def _is_ending(self, task_id: bytes, at_ms: int) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and task.outcome is None and end_of(task) == at_ms

    def come_due(self) -> list[OwnedTask]:
        """Those that need not wait any longer."""
        due = [self._tasks[task_id] for task_id in self._etas.due(self.wall_ms)]
        for task in due:
            task.is_waiting = False
        return due

    def soonest(self) -> Iterator[OwnedTask]:
        """Those that wait for their time, the first ones first."""
        # One that retried and came back to the same moment has two entries.
        last = b""
        for task_id in self._etas.soonest():
            if task_id != last:
                yield self._tasks[task_id]
            last = task_id

    def come_late(self) -> list[OwnedTask]:
        """Those that have not settled and must not start any more."""
        return [self._tasks[task_id] for task_id in self._ends.due(self.wall_ms)]

    def looked(self, now_ms: int) -> None:
        """This turn has worked on them."""
        self._now_ms = now_ms

    def next_deadline_ms(self) -> int | None:
        """When a turn is wanted next: the clock may have been set meanwhile."""
        moments = [at_ms for at_ms in (self._etas.first_ms(), self._ends.first_ms()) if at_ms]
        if not moments:
            return None
        return self._now_ms + max(0, min(min(moments) - self.wall_ms, self.clock_look_ms))


def eta_of(task: OwnedTask) -> int:
    """Not to start before this moment of the wall clock; 0 when nothing is said."""
    return _moment(task, "eta")


def end_of(task: OwnedTask) -> int:
    """Not to start after this moment of the wall clock; 0 when nothing is said."""
    return _moment(task, "exp")


def _moment(task: OwnedTask, key: str) -> int:
    moment = (task.ext or {}).get(key)
    return moment if isinstance(moment, int) and moment > 0 else 0
