"""The default pool: one process for each slot, forked from a warm fork server.

A slot outlives its processes. When its process is to be replaced (it has run enough tasks,
holds too much memory), another one is started ahead; it steps in when the old one has
nothing left, and what comes meanwhile waits here. A process that has long been idle ends,
and the next task of its slot starts one. Only a process that *dies* is told to the host:
then everything that its slot had goes back.

A time limit or a cancellation with a signal ends one attempt: see ``page.py``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from zmqtasks.errors import ConfigError
from zmqtasks.limits import CHILD_EXIT_MS
from zmqtasks.pools import base
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.children import Child, Verdict
from zmqtasks.pools.forked import ForkedPool
from zmqtasks.pools.page import Look
from zmqtasks.pools.protocol import (
    Answer,
    CancelTask,
    ChildOutcome,
    ChildRequest,
    RunTask,
)
from zmqtasks.pools.slot import Slot
from zmqtasks.wire.messages import Status


class ProcessPool(ForkedPool[Slot]):
    """Runs attempts in child processes.

    Args:
        config: goes to the children as it is.
        slots: how many processes; see also :meth:`plan`.
    """

    kind = "process"
    features = frozenset(
        {
            base.HARD_LIMIT,
            base.SOFT_LIMIT,
            base.WAKE,
            base.TERMINATE,
            base.TERMINATE_ALL,
            base.MANY,
            base.CHILDREN,
            base.RECYCLE,
            base.RESIZE,
            base.PIN,
        }
    )

    def __init__(self, config: PoolConfig, slots: int = 1) -> None:
        super().__init__(config, slots, Slot)
        #: {(child, attempt): what becomes of it if it is hit} of asked-for ends.
        self._ends: dict[tuple[int, int], Verdict] = {}

    # --- start and stop ----------------------------------------------------------------

    def launch(self) -> None:
        """Start the fork server without waiting; ``load`` does it otherwise.

        Raises:
            ConfigError: this system has no such CPUs.
        """
        _check_cpus(self._config.cpus)
        super().launch()

    def _take_first(self, child: Child) -> None:
        slot = self._slots[0] = Slot(0)
        slot.child = child

    def _begin(self) -> None:
        self._host.call_soon(self.child_ready, self._slots[0].child)
        self.resize(self.slots)

    # --- what the loop asks for --------------------------------------------------------

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """Hand these to the slot. Those for a dead slot vanish: ``slot_died`` follows."""
        found = self._slots.get(slot)
        if found is None or not found.is_told:
            return
        if found.takes_directly and not self._plan.tasks_max:
            assert found.child is not None
            self._give(found.child, tasks)
            return
        found.waiting.extend(tasks)
        self._forward(found)

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request of that slot."""
        found = self._slots.get(slot)
        if found is not None and found.child is not None:
            found.child.send(self._host, [answer])

    def cancel(self, slot: int, task_id: bytes, attempt: int, status: int, signum: int) -> None:
        """Do not start this attempt; with a signal, end it if it is the one that runs."""
        found = self._slots.get(slot)
        if found is None:
            return
        child = found.child
        order = CancelTask(task_id, attempt, status)
        ordinal = child.ordinal_of(task_id, attempt) if child is not None else 0
        if child is None or not ordinal:
            found.cancel(order)
            return
        child.cancel(self._host, [order])
        if signum:
            name = signal.Signals(signum).name
            self._end(child, Verdict(ordinal, status, f"ended by {name} on request"), signum)

    def kill(self, slot: int) -> None:
        """Kill the slot's process group; ``slot_died`` follows."""
        found = self._slots.get(slot)
        if found is None:
            return
        if found.child is not None:
            self._nursery.kill(found.child, "killed on request")
        elif found.is_told:
            self._give_back(found, "killed on request")
            self._fill(found)

    def pids(self) -> list[int]:
        """Process ids of the children that are ready, for status and tests."""
        children = [slot.child for slot in self._slots.values()]
        return [child.pid for child in children if child is not None and child.ready]

    # --- tasks to processes ------------------------------------------------------------

    def _give(self, child: Child, tasks: Sequence[RunTask]) -> None:
        child.run(self._host, tasks)
        least_ms = 0
        for task in tasks:
            if task.hard_ms and (not least_ms or task.hard_ms < least_ms):
                least_ms = task.hard_ms
        if least_ms:
            self._look_within(child, least_ms / 1000)

    def _forward(self, slot: Slot) -> None:
        """Give what waits to the slot's process, as far as that is to get any more."""
        child = slot.child
        if child is None:
            if slot.waiting:
                self._fill(slot)
            return
        if not child.ready or child.is_leaving:
            return
        if slot.successor is None or not slot.successor.ready:
            most = self._plan.tasks_max
            tasks, cancels = slot.take(most - child.sent if most else len(slot.waiting))
            if cancels:
                child.cancel(self._host, cancels)
            if tasks:
                self._give(child, tasks)
        self._start_ahead(slot, child)
        self._rest(slot)

    def _close_slot(self, slot: Slot) -> None:
        self._rest(slot)

    def _rest(self, slot: Slot) -> None:
        """If its process has nothing left: another one steps in, or the slot closes."""
        child = slot.child
        if child is not None and (child.unanswered or child.is_leaving):
            return
        if slot.is_closing and not slot.waiting:
            del self._slots[slot.number]
            for leaving in (child, slot.successor):
                if leaving is not None:
                    self._nursery.dismiss(leaving)
        elif child is not None and slot.successor is not None and slot.successor.ready:
            slot.child, slot.successor = slot.successor, None
            slot.is_heavy = False
            self._nursery.dismiss(child)
            self._forward(slot)

    # --- processes ---------------------------------------------------------------------

    def _open_slot(self, slot: Slot) -> None:
        self._fill(slot)

    def _fill(self, slot: Slot) -> None:
        """Start a process for a slot without one."""
        if slot.child is not None or self._slots.get(slot.number) is not slot:
            return
        if not self._nursery.is_open:
            return  # see server_ready
        try:
            slot.child = self._nursery.open(slot.number)
        except OSError as exc:
            self._fill_later(slot, str(exc))

    def _fill_later(self, slot: Slot, reason: str) -> None:
        delay_ms = self._nursery.failed(f"slot={slot.number}", reason)
        if slot.is_told:
            self._give_back(slot, reason)
        self._nursery.later(delay_ms, self._fill, slot)

    def _start_ahead(self, slot: Slot, child: Child) -> None:
        """Start the successor of a process that is to be replaced soon."""
        if slot.successor is not None or slot.is_closing or slot.holds_off:
            return
        if not self._nursery.is_open:
            return
        if not slot.is_heavy and not self._is_nearly_used_up(child):
            return
        try:
            slot.successor = self._nursery.open(slot.number)
        except OSError as exc:
            self._successor_failed(slot, str(exc))

    def _successor_failed(self, slot: Slot, reason: str) -> None:
        slot.successor = None
        slot.holds_off = True
        delay_ms = self._nursery.failed(f"slot={slot.number}", reason)
        self._nursery.later(delay_ms, self._hold_off_no_more, slot)
        child = slot.child
        if slot.waiting and child is not None and not child.unanswered:
            # They could wait for long.
            slot.child = None
            self._nursery.dismiss(child)
            self._give_back(slot, reason)
            self._nursery.later(delay_ms, self._fill, slot)

    def _hold_off_no_more(self, slot: Slot) -> None:
        slot.holds_off = False
        self._forward(slot)

    def _end_idle(self) -> None:
        """End the processes that had nothing to do for too long."""
        now, idle_s = time.monotonic(), self._plan.idle_ms / 1000
        wait_s = idle_s
        for slot in self._slots.values():
            child = slot.child
            if child is None or not slot.takes_directly or child.unanswered:
                continue
            left_s = child.idle_since + idle_s - now
            if left_s <= 0:
                slot.child = None
                self._nursery.dismiss(child)
            else:
                wait_s = min(wait_s, left_s)
        self._nursery.later(wait_s * 1000, self._end_idle)

    # --- time limits and ends ----------------------------------------------------------

    def _look_within(self, child: Child, wait_s: float) -> None:
        """Look after the time limits of this child no later than in so many seconds."""
        due = time.monotonic() + wait_s
        if not child.look_due or due < child.look_due:
            child.look_due = due
            self._nursery.later(wait_s * 1000, self._look, child, due)

    def _look(self, child: Child, due: float) -> None:
        """End what runs beyond its hard limit; else look again when that can be."""
        if child.look_due != due:
            return  # there is an earlier one
        child.look_due = 0.0
        limits = [task.hard_ms for task in child.unanswered if task.hard_ms]
        if not limits or child.is_leaving:
            return
        wait_s = min(limits) / 1000
        look = child.look()
        task = child.by_ordinal(look.begun) if look.is_running else None
        if task is not None and task.hard_ms:
            left_s = task.hard_ms / 1000 - (time.monotonic_ns() - look.begun_ns) / 1e9
            if left_s <= 0:
                text = f"ran longer than its time limit of {task.hard_ms / 1000:g} s"
                verdict = Verdict(look.begun, Status.TIME_LIMIT, text)
                self._end(child, verdict, signal.SIGKILL)
            else:
                wait_s = min(wait_s, left_s)
        self._look_within(child, wait_s)

    def _end(self, child: Child, verdict: Verdict, signum: int) -> None:
        """End this attempt if it runs; ``child_looked`` follows."""
        key = child.serial, verdict.ordinal
        if key in self._ends and signum != signal.SIGKILL:
            return  # once is enough, but by force
        self._ends.setdefault(key, verdict)
        self._nursery.end(child, verdict.ordinal, signum)

    def child_looked(self, child: Child, ordinal: int, hit: bool) -> None:
        """Whether the attempt was running, and so is being ended."""
        verdict = self._ends.pop((child.serial, ordinal), None)
        if verdict is None or not hit:
            return
        child.verdict = verdict
        child.is_leaving = True
        self._nursery.later(CHILD_EXIT_MS, self._nursery.kill, child, verdict.text)
        slot = self._slots.get(child.slot)
        if slot is not None and slot.successor is None and not slot.is_closing:
            slot.is_heavy = True
            self._start_ahead(slot, child)

    # --- what children do --------------------------------------------------------------

    def child_ready(self, child: Child) -> None:
        """See ``Parent``."""
        slot = self._slots.get(child.slot)
        child.idle_since = time.monotonic()
        if slot is not None and child is slot.successor:
            self._start_s = child.idle_since - child.begun_at
            self._rest(slot)
        elif slot is not None and child is slot.child:
            if not slot.is_told:
                slot.is_told = True
                self._host.slot_ready(slot.number)
            self._forward(slot)

    def child_done(self, child: Child, outcomes: list[ChildOutcome]) -> None:
        """See ``Parent``."""
        unanswered = child.unanswered
        if child.verdict is not None:
            self._pronounce(child, child.verdict, outcomes)
        for _ in range(min(len(outcomes), len(unanswered))):
            unanswered.popleft()
        child.answered += len(outcomes)
        self._host.slot_done(child.slot, outcomes)
        slot = self._slots.get(child.slot)
        if slot is None or slot.child is not child:
            return
        if not slot.is_heavy and self._is_too_heavy(child):
            slot.is_heavy = True
            self._start_ahead(slot, child)
        if not unanswered:
            if self._plan.idle_ms:
                child.idle_since = time.monotonic()
            self._rest(slot)

    def child_asks(self, child: Child, request: ChildRequest) -> None:
        """See ``Parent``."""
        self._host.slot_request(child.slot, request)

    def _pronounce(self, child: Child, verdict: Verdict, outcomes: list[ChildOutcome]) -> None:
        """An attempt that was to be ended ended by itself: it is ended all the same."""
        position = verdict.ordinal - child.answered - 1
        if 0 <= position < len(outcomes):
            outcomes[position] = _outcome_of(verdict, child.unanswered[position], child.look())
            self._nursery.kill(child, verdict.text)

    def child_ended(self, child: Child, reason: str) -> None:
        """See ``Parent``."""
        for key in [key for key in self._ends if key[0] == child.serial]:
            del self._ends[key]
        slot = self._slots.get(child.slot)
        if slot is None or self._nursery.is_stopped:
            return
        if child is slot.successor:
            self._successor_failed(slot, reason)
        elif child is slot.child:
            slot.child = None
            if slot.is_told:
                self._died(slot, child, reason)
            self._replace(slot, child, reason)

    def _died(self, slot: Slot, child: Child, reason: str) -> None:
        """Tell the host what became of what the slot had."""
        look, verdict = child.look(), child.verdict
        ended, is_running = max(0, look.begun - child.answered), look.is_running
        task = child.by_ordinal(verdict.ordinal) if verdict is not None else None
        if verdict is not None and task is not None:
            self._host.slot_done(slot.number, [_outcome_of(verdict, task, look)])
            ended, is_running = verdict.ordinal - child.answered - 1, False
        elif is_running:
            ended -= 1
        if child.ready:
            reason = f"process {child.pid} {reason}"
        self._give_back(slot, reason, ended, is_running)

    def _replace(self, slot: Slot, child: Child, reason: str) -> None:
        successor, slot.successor = slot.successor, None
        slot.is_heavy = False
        if slot.is_closing:
            del self._slots[slot.number]
            if successor is not None:
                self._nursery.dismiss(successor)
        elif successor is not None:
            slot.child = successor
            if successor.ready:
                self.child_ready(successor)
        elif child.ready:
            self._fill(slot)
        else:
            self._fill_later(slot, reason)

    def server_ready(self) -> None:
        """See ``Parent``."""
        for slot in list(self._slots.values()):
            if not slot.is_asleep or slot.waiting:
                self._fill(slot)


def _outcome_of(verdict: Verdict, task: RunTask, look: Look) -> ChildOutcome:
    """How an attempt ended that was ended from outside."""
    run_us = (time.monotonic_ns() - look.begun_ns) // 1000 if task.hard_ms else 0
    started_ms = int(time.time() * 1000) - run_us // 1000
    return ChildOutcome(
        task.id, task.attempt, verdict.status, started_ms, run_us, b"", verdict.text
    )


def _check_cpus(cpus: Sequence[int]) -> None:
    if not cpus or not hasattr(os, "sched_getaffinity"):
        return
    there = os.sched_getaffinity(0)
    missing = sorted(set(cpus) - there)
    if missing:
        raise ConfigError(
            f"cpus: CPU {missing[0]} cannot be used by this process, which may run on "
            f"{', '.join(map(str, sorted(there)))}"
        )
