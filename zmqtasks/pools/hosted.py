"""The pools whose slots share a process: ``thread`` and ``asyncio``.

All slots run in one child, the main one (``hosting.py`` is its inside). When it is to be
replaced, another one is started ahead and becomes the main one when it is ready; the old
one ends when it has answered what it has.

When a process dies in which one attempt was running, that one is to blame. When several
were, nobody can say which of them did it. They go back as *suspects*: none of them has a
strike, and each runs in a process of its own from then on, here and wherever else slots
share one. So a task that ends its process is found at its next attempt, and one that was
only near it never pays for that but by running again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from zmqtasks.core.held import STRIKES_KEY
from zmqtasks.errors import ConfigError
from zmqtasks.limits import LEAVING_AT_ONCE, SUSPECTS_AT_ONCE
from zmqtasks.pools import base
from zmqtasks.pools.base import PoolConfig, PoolPlan
from zmqtasks.pools.children import Child
from zmqtasks.pools.forked import ForkedPool
from zmqtasks.pools.lane import Lane
from zmqtasks.pools.protocol import (
    Answer,
    CancelTask,
    ChildOutcome,
    ChildRequest,
    RunTask,
    ToChild,
)

log = logging.getLogger("zmqtasks.pools")

_COMMON: Final = frozenset({base.SOFT_LIMIT, base.RECYCLE, base.RESIZE, base.MANY, base.CHILDREN})
#: By kind.
_FEATURES: Final = {"thread": _COMMON, "asyncio": _COMMON | {base.TERMINATE}}


class HostedPool(ForkedPool[Lane]):
    """Runs attempts side by side in one child process.

    Args:
        config: goes to the child.
        kind: "thread" or "asyncio".
        slots: how many run at once; see also :meth:`plan`.
    """

    def __init__(self, config: PoolConfig, kind: str, slots: int = 1) -> None:
        super().__init__(msgspec.structs.replace(config, hosting=kind), slots, Lane)
        self.kind = kind
        self.features = _FEATURES[kind]
        #: Gets what comes; None: it died, or it ended for having nothing to do.
        self._main: Child | None = None
        self._successor: Child | None = None
        #: The last successor failed: no other one for a while.
        self._holds_off = False
        #: The main process holds too much memory.
        self._is_heavy = False
        #: {process for suspects: the slot whose task it has}.
        self._wards: dict[Child, Lane | None] = {}
        #: Slots whose suspect waits for such a process.
        self._suspects: deque[Lane] = deque()
        #: {process: {slot: how many of its attempts it has answered}}, of all that live.
        self._answered: dict[Child, dict[int, int]] = {}
        #: What goes to processes at the end of the loop's turn.
        self._unsent: dict[Child, list[ToChild]] = {}

    # --- start and stop ----------------------------------------------------------------

    def _take_first(self, child: Child) -> None:
        self._main = child
        self._answered[child] = {}

    def plan(self, plan: PoolPlan) -> None:
        """How many slots, and when the process is replaced; until ``start``.

        Raises:
            ConfigError: this pool, or this system, cannot do that.
        """
        if plan.gives_gpus:
            raise ConfigError(
                "resources: a task is told which GPUs it has by CUDA_VISIBLE_DEVICES, which all "
                f"tasks of the {self.kind} pool share; write gpu=NUMBER and choose in the "
                "task, or use the process pool"
            )
        super().plan(plan)

    def _begin(self) -> None:
        self._slots = {number: Lane(number) for number in range(self.slots)}
        self._host.call_soon(self.child_ready, self._main)

    # --- what the loop asks for --------------------------------------------------------

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """Hand these to the slot. Those for a dead slot vanish: ``slot_died`` follows."""
        lane = self._slots.get(slot)
        if lane is None or not lane.is_told:
            return
        lane.waiting.extend(tasks)
        self._forward(lane)

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request of a process: its number says which one asked."""
        child = self._nursery.by_serial(answer.request >> 32)
        if child is not None:
            child.send(self._host, [answer])

    def cancel(self, slot: int, task_id: bytes, attempt: int, status: int, signum: int) -> None:
        """Do not start this attempt; with a signal, and a loop, end it if it is a coroutine.

        One that runs in a thread cannot be ended: it may ask whether it was cancelled.
        """
        lane = self._slots.get(slot)
        if lane is None:
            return
        is_forced = bool(signum) and base.TERMINATE in self.features
        order = CancelTask(task_id, attempt, status, is_forced)
        if any(task.id == task_id and task.attempt == attempt for task in lane.unanswered):
            assert lane.child is not None
            self._flush()
            lane.child.cancel(self._host, [order])
        else:
            lane.cancel(order)

    def kill(self, slot: int) -> None:
        """Kill the process that has the slot's tasks, and what others have there too."""
        lane = self._slots.get(slot)
        child = lane.child if lane is not None and lane.unanswered else self._main
        if child is not None:
            self._nursery.kill(child, "killed on request")

    def pids(self) -> list[int]:
        """Process ids of the children that are ready, for status and tests."""
        return [child.pid for child in self._answered if child.ready]

    # --- tasks to processes ------------------------------------------------------------

    def _forward(self, lane: Lane) -> None:
        """Give what waits in the slot to the process that is to have it, if that can be."""
        if not lane.waiting:
            self._close_slot(lane)
            return
        if STRIKES_KEY in (lane.waiting[0].ext or ()):
            if not lane.unanswered and lane not in self._suspects:
                self._suspects.append(lane)
                self._admit()
            return
        main = self._main
        if main is None:
            self._fill()
            return
        if not main.ready or main.is_leaving or lane.is_bound_elsewhere(main):
            return
        self._give(lane, main, self._room(main, len(lane.waiting)))
        self._start_ahead(main)

    def _room(self, main: Child, wanted: int) -> int:
        """How many more tasks this process may get."""
        most = self._plan.tasks_max
        if not most or self._leaving_count >= LEAVING_AT_ONCE:
            return wanted
        return max(0, most - main.sent)

    def _give(self, lane: Lane, child: Child, count: int) -> None:
        tasks, cancels = lane.take(count)
        if not tasks:
            return
        for task in tasks:
            task.slot = lane.number
        lane.child = child
        lane.unanswered.extend(tasks)
        child.sent += len(tasks)
        if not self._unsent:
            self._host.call_soon(self._flush)
        self._unsent.setdefault(child, []).extend(tasks)
        if cancels:
            self._flush()
            child.cancel(self._host, cancels)

    def _flush(self) -> None:
        """Many slots get something in one turn: one write for all."""
        unsent, self._unsent = self._unsent, {}
        for child, messages in unsent.items():
            child.send(self._host, messages)

    def _close_slot(self, slot: Lane) -> None:
        if slot.is_closing and not slot.is_busy and self._slots.get(slot.number) is slot:
            del self._slots[slot.number]

    def _open_slot(self, slot: Lane) -> None:
        self._tell(slot)

    def _tell(self, lane: Lane) -> None:
        """The slot can be used, if there is a process for it."""
        main = self._main
        if not lane.is_told and not lane.is_closing and main is not None and main.ready:
            lane.is_told = True
            self._host.slot_ready(lane.number)

    # --- suspects ----------------------------------------------------------------------

    def _admit(self) -> None:
        """Give suspects to processes that have nothing, as far as there may be such."""
        wards = self._wards
        for child, busy_with in list(wards.items()):
            if not busy_with and child.ready and not child.is_leaving and self._suspects:
                lane = wards[child] = self._suspects.popleft()
                self._give(lane, child, 1)
        starting = sum(1 for child in wards if not child.ready)
        may_start = len(wards) < SUSPECTS_AT_ONCE and not self._holds_off
        if len(self._suspects) > starting and may_start:
            started = self._open()
            if started is not None:
                wards[started] = None
                self._admit()

    def _open(self) -> Child | None:
        """Start a process; None if that cannot be now."""
        if not self._nursery.is_open:
            return None  # see server_ready
        try:
            child = self._nursery.open(0)
        except OSError as exc:
            self._failed(str(exc))
            return None
        self._answered[child] = {}
        return child

    # --- processes ---------------------------------------------------------------------

    def _fill(self) -> None:
        """Start a main process if there is none."""
        if self._main is None and not self._holds_off:
            self._main = self._open()

    def _failed(self, reason: str) -> None:
        """A process could not be started: try again later, and let nothing wait for it."""
        delay_ms = self._nursery.failed(f"pool={self.kind}", reason)
        self._nursery.later(delay_ms, self._try_again)
        self._holds_off = True
        for lane in list(self._slots.values()):
            if lane.is_told and not lane.unanswered and (self._main is None or lane.waiting):
                self._give_back(lane, reason)
        self._suspects.clear()

    def _try_again(self) -> None:
        self._holds_off = False
        self._fill()
        self._go_on()

    def _go_on(self) -> None:
        for lane in list(self._slots.values()):
            self._tell(lane)
            self._forward(lane)
        self._admit()

    @property
    def _leaving_count(self) -> int:
        """Processes that were replaced and still have something."""
        stay = len(self._wards) + (self._main is not None) + (self._successor is not None)
        return len(self._answered) - stay

    def _start_ahead(self, main: Child) -> None:
        """Start the successor of the main process if that is to be replaced soon."""
        if self._successor is not None or self._holds_off or main is not self._main:
            return
        is_due = self._is_heavy or self._is_nearly_used_up(main)
        if is_due and self._leaving_count < LEAVING_AT_ONCE:
            self._successor = self._open()

    def _end_idle(self) -> None:
        """End the main process if it had nothing to do for too long."""
        main, idle_s = self._main, self._plan.idle_ms / 1000
        left_s = idle_s
        if main is not None and main.ready and main.is_idle and not self._successor:
            left_s = main.idle_since + idle_s - time.monotonic()
            if left_s <= 0 and not any(lane.waiting for lane in self._slots.values()):
                self._main = None
                self._nursery.dismiss(main)
                left_s = idle_s
        self._nursery.later(max(left_s, 0.001) * 1000, self._end_idle)

    # --- what children do --------------------------------------------------------------

    def child_ready(self, child: Child) -> None:
        """See ``Parent``."""
        child.idle_since = time.monotonic()
        if child in self._wards:
            self._rest(child)
            return
        if child is self._successor:
            self._start_s = child.idle_since - child.begun_at
            former, self._main, self._successor = self._main, child, None
            self._is_heavy = False
            if former is not None:
                self._rest(former)
        if child is self._main:
            self._go_on()

    def child_asks(self, child: Child, request: ChildRequest) -> None:
        """See ``Parent``."""
        self._host.slot_request(getattr(request, "slot", 0), request)

    def child_done(self, child: Child, outcomes: list[ChildOutcome]) -> None:
        """See ``Parent``."""
        by_slot: dict[int, list[ChildOutcome]] = {}
        for outcome in outcomes:
            by_slot.setdefault(outcome.slot, []).append(outcome)
        child.answered += len(outcomes)
        answered = self._answered[child]
        for number, group in by_slot.items():
            lane = self._slots.get(number)
            if lane is None or lane.child is not child:
                continue
            for _ in range(min(len(group), len(lane.unanswered))):
                lane.unanswered.popleft()
            answered[number] = answered.get(number, 0) + len(group)
            self._host.slot_done(number, group)
            self._forward(lane)
        if child is self._main and not self._is_heavy and self._is_too_heavy(child):
            self._is_heavy = True
            self._start_ahead(child)
        if child.is_idle:
            child.idle_since = time.monotonic()
            self._rest(child)

    def _rest(self, child: Child) -> None:
        """A process has nothing left: the next suspect, or its end."""
        if not child.is_idle or child is self._main or child.is_leaving:
            return
        if child in self._wards:
            self._wards[child] = None
            self._admit()
            if self._wards[child] is not None:
                return
            del self._wards[child]
        self._nursery.dismiss(child)

    def child_looked(self, child: Child, ordinal: int, hit: bool) -> None:
        """See ``Parent``; nothing is ended from outside here."""

    # --- deaths ------------------------------------------------------------------------

    def child_ended(self, child: Child, reason: str) -> None:
        """See ``Parent``."""
        answered = self._answered.pop(child, {})
        self._unsent.pop(child, None)
        self._wards.pop(child, None)
        if self._nursery.is_stopped:
            return
        if child.ready:
            reason = f"process {child.pid} {reason}"
        if child is self._successor:
            self._successor = None
        was_main = child is self._main
        if was_main:
            self._main, self._successor = self._successor, None
            self._is_heavy = False
        self._bury(child, answered, reason)
        if not child.ready:
            self._failed(reason)
        elif was_main:
            self._fill()
        self._go_on()

    def _bury(self, child: Child, answered: Mapping[int, int], reason: str) -> None:
        """Tell the host what became of what its slots had there."""
        lanes = [lane for lane in self._slots.values() if lane.child is child and lane.unanswered]
        looks = [child.look_at(lane.number) for lane in lanes]
        running = sum(1 for look in looks if look.is_running)
        if running > 1:
            names = ", ".join(sorted({lane.unanswered[0].name for lane in lanes})[:8])
            log.warning(
                "child.died pool=%s running=%d tasks=%s reason=%s: each of these runs in a process "
                "of its own next", self.kind, running, names, reason,
            )  # fmt: skip
        for lane, look in zip(lanes, looks, strict=True):
            ended = look.begun - answered.get(lane.number, 0) - look.is_running
            self._give_back(lane, reason, max(0, ended), look.is_running, running <= 1)

    def _give_back(
        self, slot: Lane, reason: str, ended: int = 0, is_running: bool = False,
        is_alone: bool = True,
    ) -> None:  # fmt: skip
        super()._give_back(slot, reason, ended, is_running, is_alone)
        self._close_slot(slot)

    def server_ready(self) -> None:
        """See ``Parent``."""
        if any(not lane.is_told or lane.waiting for lane in self._slots.values()):
            self._fill()
            self._go_on()


def thread_pool(config: PoolConfig) -> HostedPool:
    """Slots are threads of one child."""
    return HostedPool(config, "thread")


def asyncio_pool(config: PoolConfig) -> HostedPool:
    """Slots are coroutines of one loop in one child."""
    return HostedPool(config, "asyncio")
