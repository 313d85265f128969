"""The slots of the pool, and what goes to them.

Tasks that take microseconds go to a slot many at a time, so that it never waits for the
node; others one at a time, so that none waits behind another one while a slot is free. How
long tasks take is known by kind. A task that was running when a worker or child died runs
alone: it may have been the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from zmqtasks.core.effects import RunInSlot
from zmqtasks.core.gates import START, Gates
from zmqtasks.core.held import STRIKES_KEY, HeldTask, SlotState, is_suspect
from zmqtasks.core.workqueue import WorkQueue
from zmqtasks.limits import STARTED_REPORT_MS

#: Work that a slot may hold beyond the task it runs: bridges node and child.
_BUDGET_US = 2_000
_COUNT_MAX = 256
#: A task that runs for so many times as long as others of its kind is stuck, for all that
#: is known of it.
_STUCK_TIMES = 4
#: It is not before this: a busy machine stops anything for a moment.
_STUCK_MS_MIN = 50


class Slots:
    """What runs, and what may run next.

    Args:
        count_max: how many slots there are to be.
        queue: what waits for one.
        gates: what may keep a task from starting.
        kept_from: told of a task that its gate keeps from starting, and for how long its
            owner should keep such tasks (``gates.WAITS``: it waits there).
    """

    def __init__(
        self, count_max: int, queue: WorkQueue, gates: Gates,
        kept_from: Callable[[HeldTask, int], None],
    ) -> None:  # fmt: skip
        #: {slot number: state}, the slots that exist now.
        self.states: dict[int, SlotState] = {}
        self.count_max = count_max
        self._queue = queue
        self._gates = gates
        self._kept_from = kept_from

    @property
    def running_count(self) -> int:
        """Attempts in slots."""
        return sum([len(state.pending) for state in self.states.values()])

    def load(self) -> tuple[int, int, int]:
        """Attempts in slots; slots that there are, or that there will be; how many of them
        run what takes long, or may."""
        running = count = slow_count = 0
        for state in self.states.values():
            pending = state.pending
            running += len(pending)
            if not state.is_closing:
                count += 1
                if pending and (state.is_stuck or pending[0].stat.is_slow):
                    slow_count += 1
        return running, max(1, count or self.count_max), slow_count

    @property
    def are_blocked(self) -> bool:
        """All that run something that takes long: whatever waits for them waits long."""
        is_open = False
        for state in self.states.values():
            if not state.is_closing:
                if not state.is_blocked:
                    return False
                is_open = True
        return is_open

    # --- giving -----------------------------------------------------------------------------

    def feed(self, now_ms: int) -> list[RunInSlot]:
        """Give what waits to slots with room, the emptiest first."""
        queue = self._queue
        effects: list[RunInSlot] = []
        slots = [item for item in self.states.items() if not item[1].is_closing]
        slots.sort(key=lambda item: len(item[1].pending))
        if self._gates:
            for task in self._gates.due(now_ms):
                queue.push_first(task)
            effects += self._start_fitting(slots, now_ms)
        for position, (number, state) in enumerate(slots):
            if not queue.count:
                break
            share = ceil(queue.count / (len(slots) - position))
            was_idle = not state.pending
            batch = self._batch_for(state, share, now_ms)
            if batch:
                if was_idle:
                    state.since_ms = now_ms
                state.pending.extend(batch)
                effects.append(RunInSlot(number, batch))
        return effects

    def _start_fitting(self, slots: list[tuple[int, SlotState]], now_ms: int) -> list[RunInSlot]:
        effects: list[RunInSlot] = []
        for number, state in slots:
            task = None if state.pending else self._gates.fitting(state, now_ms)
            if task is not None:
                state.since_ms, state.budget_us = now_ms, _BUDGET_US
                state.pending.append(task)
                effects.append(RunInSlot(number, [task]))
        return effects

    def _batch_for(self, state: SlotState, count_max: int, now_ms: int) -> list[HeldTask]:
        """As many as keep the slot busy for its budget; at least one if it is idle."""
        batch: list[HeldTask] = []
        pending = len(state.pending)
        if pending and (
            state.budget_us > _BUDGET_US / 2 or state.is_stuck or is_suspect(state.pending[-1])
        ):
            return batch
        queue = self._queue
        room = min(count_max, _COUNT_MAX - pending)
        lane = queue.lane()
        while len(batch) < room and (lane or (lane := queue.lane())):
            task = lane[0]
            stat = task.stat
            mean_us, ext, gate = stat.mean_us, task.ext, stat.gate
            is_alone = (
                stat.may_last
                or state.budget_us + mean_us > _BUDGET_US
                or (ext is not None and STRIKES_KEY in ext)
                or (gate is not None and bool(gate.needs.amounts))
            )
            if is_alone and (pending or batch):
                break
            lane.popleft()
            queue.count -= 1
            if stat.is_slow:
                queue.slow_count -= 1
            if gate is not None:
                answer = self._gates.admit(task, state, now_ms)
                if answer != START:
                    self._kept_from(task, answer)
                    continue
            batch.append(task)
            if is_alone:
                state.budget_us = _BUDGET_US
                break
            state.budget_us += mean_us
        return batch

    # --- time -------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        waits = [
            state.since_ms + (_stuck_ms(state) if state.pending[0].reported else STARTED_REPORT_MS)
            for state in self.states.values()
            if state.pending and not (state.pending[0].reported and state.is_blocked)
        ]
        return min(waits, default=None)

    def tick(self, now_ms: int) -> tuple[list[HeldTask], bool]:
        """Look at what has been running for a while.

        Returns:
            Tasks that count as started now; whether some run for longer than was thought.
        """
        started: list[HeldTask] = []
        is_news = False
        for state in self.states.values():
            if not state.pending or now_ms < state.since_ms + STARTED_REPORT_MS:
                continue
            task = state.pending[0]
            if not task.reported:
                task.reported = True
                started.append(task)
            if not state.is_blocked and now_ms >= state.since_ms + _stuck_ms(state):
                state.is_stuck = is_news = True
                task.stat.lasts((now_ms - state.since_ms) * 1_000)
        return started, is_news


def _stuck_ms(state: SlotState) -> int:
    """How long its first task may run before it counts as stuck."""
    return max(_STUCK_MS_MIN, int(_STUCK_TIMES * state.pending[0].stat.mean_us / 1_000))
