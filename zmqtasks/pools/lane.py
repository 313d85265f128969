"""A slot of a pool whose slots share a process: which process it has, what it has there."""

from __future__ import annotations

from collections import deque

from zmqtasks.pools.children import Child
from zmqtasks.pools.protocol import RunTask
from zmqtasks.pools.slot import Slot


class Lane(Slot):
    """One slot. ``child`` is where its unanswered tasks are, or those before were."""

    __slots__ = ("unanswered",)

    def __init__(self, number: int) -> None:
        super().__init__(number)
        #: What its child has of it, oldest first.
        self.unanswered: deque[RunTask] = deque()

    @property
    def is_busy(self) -> bool:
        """It has tasks."""
        return bool(self.waiting or self.unanswered)

    def is_bound_elsewhere(self, child: Child) -> bool:
        """Another process has to answer first."""
        return bool(self.unanswered) and self.child is not child

    def forget(self) -> None:
        """What waits goes back with the rest."""
        super().forget()
        self.unanswered.clear()
