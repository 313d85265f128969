"""A process that has all slots of a pool: as threads, or as coroutines of one loop.

Each slot runs what it gets one after the other, and notes in the page that the node shares
which of its attempts it has begun (``page.py``).

Threads start with the first task of their slot and end when it had none for a while. The
main thread reads for all.

With a loop, that has the main thread, and a thread reads. Tasks that are coroutine
functions run in the loop; all others in a few threads, so that they do not block it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Final

from zmqtasks.limits import CHILD_FLUSH_US
from zmqtasks.pools.capture import Capture
from zmqtasks.pools.child import ChildLink, Program, cancelled_outcome, end_with_group
from zmqtasks.pools.page import SLOTS, Words
from zmqtasks.pools.protocol import CancelTask, ChildOutcome, LogRecord, RunTask, StopChild
from zmqtasks.pools.running import set_running_here

#: A slot's thread ends when it had nothing to do for so long, in seconds.
_THREAD_IDLE_S: Final = 60.0
#: Threads for tasks that are no coroutines, in a process with a loop: as many as Python's own
#: executors have.
LOOP_THREADS_COUNT: Final = min(32, (os.cpu_count() or 1) + 4)


def serve(kind: str, link: ChildLink, program: Program, capture: Capture, words: Words) -> None:
    """Run what comes until told to stop.

    Args:
        kind: "thread" or "asyncio".
        link: to the node.
        program: runs tasks.
        capture: of what they write.
        words: of the page shared with the node.
    """
    if kind == "thread":
        ThreadHost(link, program, capture, words).serve()
    else:
        LoopHost(link, program, capture, words).serve()


class _ThreadSlot:
    __slots__ = ("begun", "number", "queue", "thread")

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: SimpleQueue[RunTask] = SimpleQueue()
        self.thread: threading.Thread | None = None
        #: Twice the number of attempts begun.
        self.begun = 0


class ThreadHost:
    """Slots as threads.

    Args:
        link: to the node.
        program: runs tasks.
        capture: of what they write.
        words: of the page shared with the node.
        idle_s: a thread without tasks ends after so many seconds.
    """

    def __init__(
        self, link: ChildLink, program: Program, capture: Capture, words: Words,
        idle_s: float = _THREAD_IDLE_S,
    ) -> None:  # fmt: skip
        self._link = link
        self._program = program
        self._capture = capture
        self._words = words
        self._idle_s = idle_s
        self._slots: dict[int, _ThreadSlot] = {}
        # Guards that a thread ends only when its slot has nothing.
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Run what comes until told to stop."""
        while not isinstance(batch := self._link.next_batch(), StopChild):
            for task in batch:
                slot = self._slots.get(task.slot)
                if slot is None:
                    slot = self._slots[task.slot] = _ThreadSlot(task.slot)
                with self._lock:
                    slot.queue.put(task)
                    if slot.thread is None:
                        self._start(slot)

    def _start(self, slot: _ThreadSlot) -> None:
        name = f"zmqtasks-slot-{slot.number}"
        slot.thread = threading.Thread(target=self._run, args=(slot,), name=name, daemon=True)
        slot.thread.start()

    def _run(self, slot: _ThreadSlot) -> None:
        link, queue = self._link, slot.queue
        cost_us = 0
        while (task := self._next(slot)) is not None:
            outcome = self._attempt(slot, task)
            cost_us += outcome.run_us
            link.gather(outcome)
            if queue.empty() or cost_us > CHILD_FLUSH_US:
                cost_us = 0
                link.flush()
            else:
                link.flush_soon()
        self._program.end_thread()

    def _next(self, slot: _ThreadSlot) -> RunTask | None:
        while True:
            try:
                return slot.queue.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if slot.queue.empty():
                        slot.thread = None
                        return None

    def _attempt(self, slot: _ThreadSlot, task: RunTask) -> ChildOutcome:
        slot.begun += 2
        status = self._link.take_cancel(task)
        if status is not None:
            outcome = cancelled_outcome(task, status)
        else:
            self._words[SLOTS + slot.number] = slot.begun + 1
            set_running_here(task)
            outcome = self._program.execute(task)
            if self._link.is_detached:
                # The task forked and let the copy return: one is enough.
                os._exit(0)
            self._capture.end_task()
            set_running_here(None)
        self._words[SLOTS + slot.number] = slot.begun
        outcome.slot = slot.number
        return outcome


class _LoopSlot:
    __slots__ = ("attempt", "begun", "is_native", "number", "queue", "task")

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: deque[RunTask] = deque()
        #: What runs, None: nothing.
        self.task: asyncio.Task[None] | None = None
        self.attempt: RunTask | None = None
        #: That is a coroutine, so it can be ended.
        self.is_native = False
        #: Twice the number of attempts begun.
        self.begun = 0


class LoopHost:
    """Slots as coroutines; see :class:`ThreadHost`."""

    def __init__(self, link: ChildLink, program: Program, capture: Capture, words: Words) -> None:
        self._link = link
        self._program = program
        self._capture = capture
        self._words = words
        self._slots: dict[int, _LoopSlot] = {}
        #: {attempt: its slot} of those that run.
        self._running: dict[tuple[bytes, int], _LoopSlot] = {}
        #: {attempt that is to be ended: what it ends with}.
        self._ends: dict[tuple[bytes, int], int] = {}
        self._threads = ThreadPoolExecutor(LOOP_THREADS_COUNT, "zmqtasks-task")
        self._context: Context = copy_context()
        self._flushes = False
        self._is_stopping = False
        link.on_forced = self._forced

    def serve(self) -> None:
        """Run what comes until told to stop."""
        with asyncio.Runner() as runner:
            loop = self._loop = runner.get_loop()
            threading.Thread(target=self._read, name="zmqtasks-read", daemon=True).start()
            while not self._is_stopping:
                # What a task started beside itself may raise these through the loop.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_forever()
            runner.run(self._program.end_loop())

    def _read(self) -> None:
        try:
            while True:
                batch = self._link.next_batch()
                self._loop.call_soon_threadsafe(self._take, batch)
                if isinstance(batch, StopChild):
                    return
        except RuntimeError:
            # A loop that a task has closed runs nothing any more.
            end_with_group()

    def _take(self, batch: list[RunTask] | StopChild) -> None:
        if isinstance(batch, StopChild):
            self._is_stopping = True
            self._loop.stop()
            return
        for task in batch:
            slot = self._slots.get(task.slot)
            if slot is None:
                slot = self._slots[task.slot] = _LoopSlot(task.slot)
            slot.queue.append(task)
            if slot.task is None:
                self._go_on(slot)

    def _go_on(self, slot: _LoopSlot) -> None:
        """Begin the slot's next attempt, if it has one."""
        slot.task = None
        while slot.queue:
            task = slot.queue.popleft()
            slot.begun += 2
            status = self._link.take_cancel(task)
            if status is None:
                self._words[SLOTS + slot.number] = slot.begun + 1
                context = self._context.copy()
                context.run(set_running_here, task)
                slot.task = self._loop.create_task(self._attempt(slot, task), context=context)
                return
            self._words[SLOTS + slot.number] = slot.begun
            self._put(slot, cancelled_outcome(task, status))

    async def _attempt(self, slot: _LoopSlot, task: RunTask) -> None:
        outcome = await self._execute(slot, task)
        if self._link.is_detached:
            # The task forked and let the copy return: one is enough.
            os._exit(0)
        self._capture.end_task()
        self._words[SLOTS + slot.number] = slot.begun
        self._put(slot, outcome)
        self._go_on(slot)

    async def _execute(self, slot: _LoopSlot, task: RunTask) -> ChildOutcome:
        program = self._program
        key = task.id, task.attempt
        slot.attempt, slot.is_native = task, program.is_native(task.name)
        self._running[key] = slot
        outcome: ChildOutcome | None
        if slot.is_native:
            outcome = await program.execute_native(task, lambda: key in self._ends)
        else:
            run = copy_context().run
            outcome = await self._loop.run_in_executor(self._threads, run, program.execute, task)
        self._running.pop(key, None)
        status = self._ends.pop(key, None)
        if status is not None and slot.is_native:
            # However it took that it was ended.
            outcome = cancelled_outcome(task, status, "ended on request")
        assert outcome is not None, "an attempt without an outcome was ended"
        return outcome

    def _put(self, slot: _LoopSlot, outcome: ChildOutcome) -> None:
        """Send this with whatever else ends in this turn of the loop."""
        outcome.slot = slot.number
        self._link.gather(outcome)
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        self._flushes = False
        self._link.flush()

    def _forced(self, order: CancelTask) -> None:
        """An attempt is to be ended; in the thread that reads."""
        self._ends[order.id, order.attempt] = order.status
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, order)

    def _end(self, order: CancelTask) -> None:
        key = order.id, order.attempt
        slot = self._running.get(key)
        if slot is None or slot.task is None or slot.attempt is None:
            self._ends.pop(key, None)
            return
        if slot.is_native:
            slot.task.cancel()
            return
        text = "goes on: it is no coroutine, so it runs in a thread, which cannot be ended"
        name = slot.attempt.name
        self._link.tell(LogRecord(order.id, name, "logging", logging.WARNING, "", text))
