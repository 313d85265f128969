"""The pool for debugging: tasks run in the node's main thread, the loop beside them.

A debugger works, a profiler sees everything, and nothing protects the node from its
tasks: one that crashes takes the node along, one that holds the GIL delays heartbeats.
``kill`` interrupts the main thread with a signal, so it ends whatever Python code runs
there and blocking calls that Python makes, but no C code that does not return.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final

from zmqtasks.errors import AppLoadError
from zmqtasks.pools import softlimit
from zmqtasks.pools.base import (
    SOFT_LIMIT,
    WAKE,
    PoolConfig,
    PoolHost,
    PoolPlan,
    check_limits,
    check_plan,
)
from zmqtasks.pools.capture import Capture
from zmqtasks.pools.child import Link, Program, Question, cancelled_outcome, load_program
from zmqtasks.pools.protocol import Answer, ChildOutcome, ChildRequest, RunTask, TaskFacts
from zmqtasks.pools.running import ask_for_cancels, set_running
from zmqtasks.wire.messages import CatalogEntry

log = logging.getLogger("zmqtasks.pools")

_SLOT: Final = 0
#: A real-time signal, which applications hardly use; elsewhere the second user signal.
_KILL_SIGNAL: Final = getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 3) + 3


class SlotKilled(BaseException):
    """Raised in the running task by ``kill``; tasks should not catch it."""


class _SoloLink(Link):
    """Requests of tasks to the loop's thread, and its answers."""

    #: A KeyboardInterrupt is the task's own: the node takes signals without raising.
    passes = (SlotKilled,)

    def __init__(self) -> None:
        self.host: PoolHost | None = None
        #: What was told while there was no host.
        self.early: list[ChildRequest] = []
        self._lock = threading.Lock()
        self._number = 0
        self._waiting: dict[int, SimpleQueue[Answer]] = {}

    def tell(self, request: ChildRequest) -> None:
        """Send something that is not answered."""
        if self.host is None:
            self.early.append(request)
        else:
            self.host.call_soon(self.host.slot_request, _SLOT, request)

    def ask(self, make: Callable[[int], Question], timeout_s: float | None = None) -> Answer | None:
        """Send a question and wait for its answer (None: none within the time)."""
        answers: SimpleQueue[Answer] = SimpleQueue()
        with self._lock:
            self._number += 1
            number = self._number
            self._waiting[number] = answers
        try:
            self.tell(make(number))
            # SimpleQueue raises Empty, which only this call can meet.
            return answers.get(timeout=timeout_s)
        except Empty:
            return None
        finally:
            self._waiting.pop(number, None)

    def deliver(self, answer: Answer) -> None:
        """Hand an answer to whoever waits for it, if anybody still does."""
        waiting = self._waiting.get(answer.request)
        if waiting is not None:
            waiting.put(answer)


class SoloPool:
    """One slot in the thread that calls :meth:`run_forever`, which should be the main one.

    Args:
        config: as for every pool; ``capture`` replaces this process's ``sys.stdout``.
    """

    features = frozenset({SOFT_LIMIT, WAKE})

    def __init__(self, config: PoolConfig) -> None:
        self.slots = 1
        self._config = config
        self._link = _SoloLink()
        self._capture = Capture(self._link.tell)
        self._program: Program | None = None
        self._batches: SimpleQueue[Sequence[RunTask] | None] = SimpleQueue()
        #: Signals of the node whose receivers are to be called.
        self._signals: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._stopped = False
        #: {attempt: status} of those sent and not answered that are cancelled.
        self._cancelled: dict[tuple[bytes, int], int] = {}
        self._sent: set[tuple[bytes, int]] = set()
        # Guards the two facts that kill() acts on.
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._running = False

    def launch(self) -> None:
        """There is nothing to begin."""

    def load(self) -> Mapping[str, Any]:
        """Load the application here; ``start`` does it otherwise.

        Returns:
            The settings that the application makes, by name.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """
        return self._load().conf

    @property
    def facts(self) -> Mapping[str, TaskFacts]:
        """Of the tasks that have some, by name; known after ``load``."""
        return self._program.facts if self._program is not None else {}

    def plan(self, plan: PoolPlan) -> None:
        """Nothing can be chosen here.

        Raises:
            ConfigError: it is not what this pool is.
        """
        check_plan("solo", self.features, self._config, plan)

    def _load(self) -> Program:
        if self._program is None:
            program, ready = load_program(self._link, self._config)
            if program is None:
                raise AppLoadError(ready.error, ready.traceback)
            self._program = program
        return self._program

    def start(self, host: PoolHost) -> list[CatalogEntry]:
        """Load the application if need be; ``host.slot_ready`` follows.

        Raises:
            AppLoadError: with the traceback of the failed import.
            ConfigError: a task has a hard time limit.
        """
        catalog = self._load().catalog
        check_limits("solo", self.features, self.facts)
        self._link.host = host
        for request in self._link.early:
            self._link.tell(request)
        self._link.early.clear()
        self._fire("worker_init", {})
        host.call_soon(host.slot_ready, _SLOT)
        return catalog

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Have the application's receivers of this signal called between two tasks."""
        self._signals.append((signal, args))
        self._batches.put(())  # whoever waits for a batch looks

    def _fire_all(self) -> None:
        while self._signals:
            self._fire(*self._signals.popleft())

    def _fire(self, signal: str, args: Mapping[str, Any]) -> None:
        if self._program is not None and self._program.has_hooks:
            self._program.fire(signal, args)

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """Hand these to the main thread."""
        with self._lock:
            self._sent.update((task.id, task.attempt) for task in tasks)
        self._batches.put(tasks)

    def cancel(self, slot: int, task_id: bytes, attempt: int, status: int, signum: int) -> None:
        """Do not start this attempt; one that runs may ask (a signal cannot end it here)."""
        with self._lock:
            if (task_id, attempt) in self._sent:
                self._cancelled[task_id, attempt] = status

    def _is_cancelled(self, task: RunTask) -> bool:
        return (task.id, task.attempt) in self._cancelled

    def resize(self, slots: int) -> None:
        """Not asked for: it is not among the features."""

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request of a task."""
        self._link.deliver(answer)

    def kill(self, slot: int) -> None:
        """Interrupt what runs; ``slot_died`` and ``slot_ready`` follow.

        What runs may not be interruptible (C code): then nothing happens until it ends.
        """
        with self._lock:
            if self._running and self._thread is not None:
                self._running = False
                _interrupt(self._thread)

    def dump_stacks(self) -> None:
        """It has no processes but the node itself, which writes its own."""

    def stop(self) -> None:
        """Make ``run_forever`` return, interrupting what runs."""
        if not self._stopped:
            self._stopped = True
            self._batches.put(None)
            self.kill(_SLOT)

    def run_forever(self) -> None:
        """Run tasks in this thread until ``stop``.

        Raises:
            KeyboardInterrupt: Ctrl-C between two tasks, where nobody handles the signal.
        """
        assert self._program is not None, "the pool was not started"
        previous: Any = None
        main = threading.current_thread() is threading.main_thread()
        if main:
            previous = signal.signal(_KILL_SIGNAL, _raise_killed)
            softlimit.install()
        ask_for_cancels(self._is_cancelled)
        hook = sys.breakpointhook
        if self._config.capture:
            self._capture.start_streams()
            self._capture.start_logging(self._program.log_level)
            sys.breakpointhook = self._debug
        self._thread = threading.get_ident()
        try:
            while (batch := self._batches.get()) is not None and not self._stopped:
                self._fire_all()
                self._run_batch(batch)
            self._fire_all()
        finally:
            self._thread = None
            set_running(None)
            self._capture.restore()
            self._program.close()
            sys.breakpointhook = hook
            if main:
                signal.signal(_KILL_SIGNAL, previous)

    def _run_batch(self, batch: Sequence[RunTask]) -> None:
        host = self._link.host
        assert host is not None
        assert self._program is not None
        execute = self._program.execute
        try:
            for task in batch:
                if self._stopped:
                    return
                key = task.id, task.attempt
                status = self._cancelled.get(key)
                if status is None:
                    outcome = self._run_one(execute, task)
                else:
                    outcome = cancelled_outcome(task, status)
                self._forget(key)
                host.call_soon(host.slot_done, _SLOT, [outcome])
        except SlotKilled:
            self._forget_batches()
            host.call_soon(host.slot_died, _SLOT, "interrupted on request")
            host.call_soon(host.slot_ready, _SLOT)
        finally:
            set_running(None)

    def _run_one(self, execute: Callable[[RunTask], ChildOutcome], task: RunTask) -> ChildOutcome:
        set_running(task)
        try:
            with self._lock:
                self._running = True
            outcome = execute(task)
        finally:
            # Nobody interrupts from here on; a signal that came just before is raised
            # in the next few instructions, still inside _run_batch.
            with self._lock:
                self._running = False
        self._capture.end_task()
        return outcome

    def _forget(self, *keys: tuple[bytes, int]) -> None:
        with self._lock:
            for key in keys:
                self._sent.discard(key)
                self._cancelled.pop(key, None)

    def _forget_batches(self) -> None:
        """A slot that died takes what waited in it along, as a child would."""
        self._forget(*self._sent)
        while not self._batches.empty():
            if self._batches.get() is None:
                self._batches.put(None)
                return

    def _debug(self, *args: Any, **kwargs: Any) -> None:
        """``breakpoint()``: give the terminal back, for good, and start the debugger."""
        import pdb

        self._capture.restore()
        pdb.Pdb(*args, **kwargs).set_trace(sys._getframe(1))


def _raise_killed(_signum: int, _frame: FrameType | None) -> None:
    raise SlotKilled


def _interrupt(thread: int) -> None:
    if thread == threading.main_thread().ident:
        signal.pthread_kill(thread, _KILL_SIGNAL)
        return
    # Elsewhere (tests, embedding) Python can only be asked to raise between bytecodes.
    with contextlib.suppress(ValueError):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread), ctypes.py_object(SlotKilled)
        )
