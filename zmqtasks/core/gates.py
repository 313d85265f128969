"""What may keep a task from starting though a slot is free: its rate, and resources in use.

A task that may start within moments waits here, and frees its credit: it blocks nobody. Any
other goes back to its owner, which gives no more of that kind for a while.

Resources: whatever fits may start before a task that came first and does not fit. So that
such a task does not wait for ever, one of them stays here, and starts as soon as it fits;
once it has waited for a second, nothing else gets of what it lacks.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from zmqtasks.amounts import GPUS_KEY, shown
from zmqtasks.core.held import HeldTask, SlotState
from zmqtasks.core.links import LANE
from zmqtasks.core.rates import RateLimit, RateLimits
from zmqtasks.core.requirements import NOTHING, Needs, Stock, format_text, needs_of
from zmqtasks.wire.messages import Kind

#: What ``Gates.admit`` says, if it is not for how long to keep the kind back.
START: Final = 0
WAITS: Final = -1

#: What its rate lets start within this time waits here. Longer than the way to the owner
#: and back, so that the rate is kept.
_SOON_MS = 50
#: How long an owner keeps tasks back that lack resources.
_LACKING_MS = 200
#: How long others may start before one that lacks resources.
_PATIENCE_MS = 1_000


class Gate(NamedTuple):
    """What tasks of one kind have to pass."""

    limit: RateLimit | None
    needs: Needs


class Gates:
    """The gates of a worker, and who waits there.

    Args:
        stock: its resources.
    """

    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.rates = RateLimits()
        #: ``(when it may start, order, task)``, a heap.
        self._due: list[tuple[int, int, HeldTask]] = []
        self._numbers = itertools.count()
        #: Those that lack resources, oldest first, and since when the first one waits.
        self._lacking: list[HeldTask] = []
        self._lacking_since_ms = 0

    def gate_of(self, kind: Kind) -> Gate | None:
        """None: tasks of this kind may always start."""
        limit = self.rates.of(kind.name)
        needs = (needs_of(kind) if kind.ext else NOTHING) or NOTHING
        return Gate(limit, needs) if limit is not None or needs.amounts else None

    # --- passing --------------------------------------------------------------------------

    def admit(self, task: HeldTask, slot: SlotState, now_ms: int) -> int:
        """May it start now?

        Returns:
            ``START``: what it needs is its own now. ``WAITS``: it is kept here. Else for
            how long its owner should keep this kind, in milliseconds.
        """
        gate = task.stat.gate
        assert gate is not None
        limit, needs = gate
        wait_ms = limit.wait_ms(now_ms) if limit is not None and not task.is_due else 0
        if wait_ms and wait_ms > _SOON_MS and task.link != LANE:
            return wait_ms - _SOON_MS // 2
        if wait_ms:
            assert limit is not None
            task.is_due = True
            heapq.heappush(self._due, (limit.take(now_ms), next(self._numbers), task))
            return WAITS
        if needs.amounts and not self._is_free(needs, now_ms):
            if self._lacking and task.link != LANE:
                self.withdraw(task)
                return _LACKING_MS
            self._lacking_since_ms = self._lacking_since_ms if self._lacking else now_ms
            self._lacking.append(task)
            return WAITS
        if limit is not None and not task.is_due:
            limit.take(now_ms)
        self._take(task, needs, slot)
        return START

    def _is_free(self, needs: Needs, now_ms: int) -> bool:
        if not self.stock.fits(needs):
            return False
        if not self._lacking or now_ms < self._lacking_since_ms + _PATIENCE_MS:
            return True
        wanted = self.stock.lacking(_needs(self._lacking[0]))
        return not any(name in wanted for name, _ in needs.amounts)

    def _take(self, task: HeldTask, needs: Needs, slot: SlotState) -> None:
        gpus = self.stock.take(needs, slot.gpus)
        if gpus:
            slot.gpus = gpus
            task.ext = {**(task.ext or {}), GPUS_KEY: gpus}

    def release(self, task: HeldTask) -> None:
        """It has ended, or its slot has."""
        needs = _needs(task)
        if needs.amounts:
            self.stock.give_back(needs, (task.ext or {}).get(GPUS_KEY, ()))

    def withdraw(self, task: HeldTask) -> None:
        """It is let go before it started."""
        gate = task.stat.gate
        if task.is_due and gate is not None and gate.limit is not None:
            gate.limit.give_back()
            task.is_due = False

    # --- waiting --------------------------------------------------------------------------

    def due(self, now_ms: int) -> list[HeldTask]:
        """Take those that their rate lets start now, the first one last."""
        found: list[HeldTask] = []
        while self._due and self._due[0][0] <= now_ms:
            found.append(heapq.heappop(self._due)[2])
        return found[::-1]

    def fitting(self, slot: SlotState, now_ms: int) -> HeldTask | None:
        """Take the task that has waited for resources, if it has them now; they are its own."""
        if not self._lacking or not self.stock.fits(_needs(self._lacking[0])):
            return None
        task = self._lacking.pop(0)
        self._lacking_since_ms = now_ms
        self._take(task, _needs(task), slot)
        return task

    def take(self, is_taken: Callable[[HeldTask], bool]) -> list[HeldTask]:
        """Remove those that are meant from what waits here."""
        taken = [task for task in self if is_taken(task)]
        if taken:
            self._due = [entry for entry in self._due if not is_taken(entry[2])]
            heapq.heapify(self._due)
            self._lacking = [task for task in self._lacking if not is_taken(task)]
        return taken

    def why(self, task: HeldTask) -> str:
        """Why it waits here, in one sentence; "" if it does not."""
        if any(task is entry[2] for entry in self._due):
            return "its rate limit lets it start in a moment"
        if all(task is not other for other in self._lacking):
            return ""
        needs = _needs(task)
        free = [f"{name}={shown(self.stock.free.get(name, 0))}" for name, _ in needs.amounts]
        return f"it needs {format_text(needs)}, and of that only {', '.join(free)} is free"

    def __iter__(self) -> Iterator[HeldTask]:
        """All that wait here."""
        yield from self._lacking
        yield from (task for _, _, task in self._due)

    def __len__(self) -> int:
        return len(self._lacking) + len(self._due)

    def next_deadline_ms(self) -> int | None:
        """When somebody's turn comes."""
        return self._due[0][0] if self._due else None


def _needs(task: HeldTask) -> Needs:
    gate = task.stat.gate
    return gate.needs if gate is not None else NOTHING
