"""A slot of the process pool: the process it has, the one that follows, what waits."""

from __future__ import annotations

from collections import deque

from zmqtasks.pools.children import Child
from zmqtasks.pools.protocol import CancelTask, RunTask


class Slot:
    """One slot, as long as the pool has it."""

    __slots__ = (
        "cancels", "child", "holds_off", "is_closing", "is_heavy", "is_told", "number", "successor",
        "waiting",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        #: None: it died and is not replaced yet; or it ended for having nothing to do, and
        #: the next task starts one (``is_told``).
        self.child: Child | None = None
        #: Steps in when the child has nothing left.
        self.successor: Child | None = None
        #: Tasks that no process has yet, and cancellations of some of them.
        self.waiting: deque[RunTask] = deque()
        self.cancels: dict[tuple[bytes, int], CancelTask] = {}
        #: The host counts on it.
        self.is_told = False
        #: It goes when it has nothing left.
        self.is_closing = False
        #: Its process holds too much memory.
        self.is_heavy = False
        #: The last successor failed: no other one for a while.
        self.holds_off = False

    @property
    def takes_directly(self) -> bool:
        """Tasks can go straight to its process."""
        child = self.child
        return (
            child is not None
            and child.ready
            and not child.is_leaving
            and self.successor is None
            and not self.waiting
        )

    @property
    def is_busy(self) -> bool:
        """It has tasks."""
        return bool(self.waiting) or (self.child is not None and bool(self.child.unanswered))

    @property
    def is_asleep(self) -> bool:
        """Its process ended for having nothing to do."""
        return self.is_told and self.child is None

    def take(self, count: int) -> tuple[list[RunTask], list[CancelTask]]:
        """Tasks that have waited longest, and the cancellations of some of them."""
        waiting = self.waiting
        tasks = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        if not self.cancels:
            return tasks, []
        found = [self.cancels.pop((task.id, task.attempt), None) for task in tasks]
        return tasks, [order for order in found if order is not None]

    def cancel(self, order: CancelTask) -> None:
        """Remember to cancel a task that waits, if it does."""
        if any(task.id == order.id and task.attempt == order.attempt for task in self.waiting):
            self.cancels[order.id, order.attempt] = order

    def forget(self) -> None:
        """What waits goes back with the rest."""
        self.waiting.clear()
        self.cancels.clear()
