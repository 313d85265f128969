"""The pool of a simulated worker: its children run tasks, submit others, and die."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.simulation.tasks import Spec, offspring, value_of
from zmqtasks.core import effects as fx
from zmqtasks.core.held import REQUEUE_STATUS, RETRY_STATUS, HeldTask, SlotOutcome
from zmqtasks.core.lanes import is_guarded
from zmqtasks.wire.messages import Status, Submit, TaskRecord

if TYPE_CHECKING:
    from tests.simulation.process import Process

#: A child reports what it finished when this much time has passed, milliseconds.
_FLUSH_MS = 1


class Slot:
    """A pool process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.queue: deque[HeldTask] = deque()
        self.done: list[SlotOutcome] = []
        self.done_since_ms = 0
        #: The answer that a "spawn" task waits for, 0 while none does.
        self.request = 0
        #: {(task id, attempt): status} of those that it is not to start.
        self.cancelled: dict[tuple[bytes, int], int] = {}


class SimPool:
    """All children of one process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        self.slots: dict[int, Slot] = {}
        self._requests = 0

    def start(self, count: int) -> None:
        """Its children come up one by one."""
        for number in range(count):
            self.world.after(self.world.rng.randint(0, 50), self._slot_up, number)

    def die(self) -> None:
        """They end with their node."""
        for slot in self.slots.values():
            slot.alive = False

    def _slot_up(self, number: int) -> None:
        process = self.process
        assert process.node.intake is not None
        if process.alive:
            self.slots[number] = Slot(number)
            process.deliver(process.node.intake.slot_ready, number)

    # --- running --------------------------------------------------------------------------

    def run(self, effect: fx.RunInSlot) -> None:
        """See ``RunInSlot``."""
        ledger = self.world.ledger
        ledger.handed(self.process, effect.tasks)
        slot = self.slots[effect.slot]
        if not slot.alive:
            ledger.handed_to_dead(effect.tasks)
        was_idle = not slot.queue
        slot.queue.extend(effect.tasks)
        if was_idle and slot.alive:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        task = slot.queue[0]
        spec = self.world.ledger.spec_of(task)
        status = slot.cancelled.pop((task.id, task.attempt), 0)
        if status:
            self._end(slot, task, status, b"", "cancelled before it started")
            return
        if spec.once and task.attempt > 1 and not is_guarded(task.kind, task.ext):
            # As ``childmain`` does: it was called by its name alone, and its owner cannot know
            # whether an earlier attempt was given away.
            self.world.ledger.refused_in_child(self.process, task)
            self._end(slot, task, Status.WORKER_LOST, b"", "an earlier attempt may have run")
            return
        self.world.ledger.started(self.process, task)
        if spec.deed == "spawn":
            self.world.after(spec.run_ms // 2, self._spawn, slot, task, spec)
        else:
            self.world.after(spec.run_ms, self._finish, slot, task, spec, "")

    def _finish(self, slot: Slot, task: HeldTask, spec: Spec, error: str) -> None:
        if not slot.alive or not self.process.alive:
            return
        if spec.deed == "kill":
            self.kill(slot)
            return
        status, body = value_of(spec)
        wish = self.world.extras.wish(task, spec)
        if wish is not None:
            status = RETRY_STATUS if wish.counts else REQUEUE_STATUS
            self._end(slot, task, status, b"", "again", ext={"in": wish.delay_ms})
            return
        if error:
            status, body = Status.FAILURE, error.encode()
        self._end(slot, task, status, body, error, spec.run_ms * 1_000)

    def _end(
        self, slot: Slot, task: HeldTask, status: int, body: bytes, error: str, run_us: int = 0,
        ext: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        now = self.world.now
        slot.queue.popleft()
        if not slot.done:
            slot.done_since_ms = now
        wall_ms = self.process.wall_ms
        slot.done.append(
            SlotOutcome(task.id, task.attempt, status, wall_ms, run_us, body, error, ext)
        )
        if not slot.queue or now - slot.done_since_ms >= _FLUSH_MS:
            self._flush(slot)
        if slot.queue:
            self._start(slot)

    def _flush(self, slot: Slot) -> None:
        done, slot.done = slot.done, []
        self.process.deliver(self._slot_done, slot.number, done)

    def _slot_done(self, number: int, done: list[SlotOutcome]) -> None:
        assert self.process.node.intake is not None
        self.process.node.intake.slot_done(number, done, self.process.now)

    # --- dying ----------------------------------------------------------------------------

    def kill(self, slot: Slot) -> None:
        """The pool process is gone; the node will see the end of its stream."""
        slot.alive = False
        wait_ms = self.world.rng.randint(0, 20)
        self.world.after(wait_ms, self.process.deliver, self._slot_died, slot.number)

    def _slot_died(self, number: int) -> None:
        """The pool has noticed, so it starts another. It sees how far the child has come."""
        assert self.process.node.intake is not None
        ended = len(self.slots[number].done)
        self.process.node.intake.slot_died(number, "killed", ended)
        self.world.after(self.world.rng.randint(50, 300), self._slot_up, number)

    # --- cancelling -----------------------------------------------------------------------

    def cancel(self, effect: fx.CancelInSlot) -> None:
        """See ``CancelInSlot``. The child hears of it a little later."""
        slot = self.slots[effect.slot]
        self.world.after(self.world.extras.rng.randint(0, 3), self._cancel, slot, effect)

    def _cancel(self, slot: Slot, effect: fx.CancelInSlot) -> None:
        if not slot.alive or not self.process.alive:
            return
        key = (effect.id, effect.attempt)
        if slot.queue and key == (slot.queue[0].id, slot.queue[0].attempt):
            if effect.signum:
                self._terminate(slot, effect)
        elif any(key == (task.id, task.attempt) for task in slot.queue):
            slot.cancelled[key] = effect.status

    def _terminate(self, slot: Slot, effect: fx.CancelInSlot) -> None:
        """Its process ends with the task that it runs."""
        slot.alive = False
        ended = SlotOutcome(
            effect.id, effect.attempt, effect.status, self.process.wall_ms, 0, b"", "ended"
        )
        wait_ms = self.world.extras.rng.randint(0, 20)
        self.world.after(wait_ms, self.process.deliver, self._terminated, slot, ended)

    def _terminated(self, slot: Slot, ended: SlotOutcome) -> None:
        assert self.process.node.intake is not None
        self._slot_done(slot.number, [ended])
        self.process.node.intake.slot_died(slot.number, "ended", len(slot.done), False)
        self.world.after(self.world.extras.rng.randint(50, 300), self._slot_up, slot.number)

    # --- tasks that submit tasks ------------------------------------------------------------

    def _spawn(self, slot: Slot, task: HeldTask, spec: Spec) -> None:
        if not slot.alive or not self.process.alive:
            return
        self._requests += 1
        slot.request = self._requests
        child = self.world.extras.child(offspring(spec, task.attempt))
        self.world.ledger.expect(self.process, child, task.id)
        record = TaskRecord(0, child.id, 1, child.body, {**(child.ext or {}), "p": task.id})
        message = Submit(0, task.id, [child.kind], [record])
        self.process.deliver(self._slot_submits, slot.number, slot.request, task, message)

    def _slot_submits(self, number: int, request: int, task: HeldTask, message: Submit) -> None:
        assert self.process.node.intake is not None
        self.process.node.intake.slot_submits(number, request, task.id, task.attempt, message)

    def answer(self, effect: fx.AnswerSlot) -> None:
        """See ``AnswerSlot``."""
        slot = self.slots[effect.slot]
        if slot.alive and slot.request == effect.request and slot.queue:
            slot.request = 0
            task = slot.queue[0]
            spec = self.world.ledger.specs[task.id]
            if not effect.error:
                self.world.ledger.accepted(offspring(spec, task.attempt).id)
            self.world.after(spec.run_ms // 2, self._finish, slot, task, spec, effect.error)
