"""The process that runs user code: reads batches, runs them in order, answers in batches.

Theory of operation. The main thread reads a batch from the socketpair, runs its tasks
one after the other and writes their outcomes: at the end of the batch, or when about a
millisecond's worth has gathered. No thread reads beside it, so a no-op task costs a few
microseconds; whoever waits (the main thread for tasks, a thread of a task for an
answer) reads for all who wait. A thread that sleeps while nothing runs sends what an
earlier task of a batch finished when a later one takes long.

Outcomes leave in the order in which tasks came. Which task runs is noted in the page that
this process shares with the node (``page.py``), so when it dies, the node knows which one
to blame. There the node also notes that something was cancelled: then the socket is read
before the next task starts.

End of file on the socket means that the node is gone: this process and everything in
its process group end at once.
"""

from __future__ import annotations

import atexit
import importlib
import itertools
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NoReturn, Protocol, TypeVar

from zmqtasks.errors import AppLoadError, RemoteProtocolError
from zmqtasks.limits import CHILD_FLUSH_US
from zmqtasks.pools import softlimit
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.capture import Capture
from zmqtasks.pools.page import BEGUN, BEGUN_NS, CANCELS, DOOMED, Words
from zmqtasks.pools.protocol import (
    Answer,
    CancelTask,
    ChildOutcome,
    ChildReady,
    ChildRequest,
    FireSignal,
    FromChild,
    QueryRequest,
    RunTask,
    StateUpdate,
    StopChild,
    SubmitRequest,
    TaskFacts,
    ToChild,
)
from zmqtasks.pools.running import ask_for_cancels, running_task, set_running
from zmqtasks.pools.stream import batch_bytes_max, encode_batch, to_child_reader
from zmqtasks.wire.messages import CatalogEntry

T = TypeVar("T")
Question = SubmitRequest | QueryRequest

_READ_BYTES: Final = 64 * 1024
#: Signals that a terminal or service manager means for the node; children ignore them.
_NODE_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
#: What a task costs beside its run time when outcomes are gathered, in microseconds.
_TASK_COST_US: Final = 4
#: Sending this many result bytes counts as a microsecond: 256 KiB fill a batch.
_BYTES_PER_US_SHIFT: Final = 8
#: How often outcomes of a batch in progress are looked after.
_BEHIND_S: Final = 0.005
#: Cancellations remembered for tasks that have not come; older ones are void.
_CANCELLED_MAX: Final = 10_000


class Link(Protocol):
    """What code in the child may say to the node."""

    #: What ``Program.execute`` lets through; everything else is the task's own error.
    passes: tuple[type[BaseException], ...]

    def tell(self, request: ChildRequest) -> None:
        """Send something that is not answered."""

    def ask(self, make: Callable[[int], Question], timeout_s: float | None = None) -> Answer | None:
        """Send the question that ``make(number)`` gives and wait for its answer.

        Returns:
            The answer, or None when none came within ``timeout_s``.
        """


class Program(Protocol):
    """The layer above, as the loop of a child sees it."""

    #: The tasks that the loaded application has.
    catalog: list[CatalogEntry]
    #: The settings that the application itself makes, by name, plain values.
    conf: dict[str, Any]
    #: What a node is to know of its tasks, by name, where there is something.
    facts: dict[str, TaskFacts]
    #: Level of the root logger, those settings considered.
    log_level: str
    #: Somebody wants to be told of signals of the node.
    has_hooks: bool

    @property
    def execute(self) -> Callable[[RunTask], ChildOutcome]:
        """Runs one attempt; whatever the task raises is an outcome, but for ``passes``."""

    def is_native(self, name: str) -> bool:
        """Whether that task is a coroutine function."""

    async def execute_native(
        self, task: RunTask, is_ended: Callable[[], bool]
    ) -> ChildOutcome | None:
        """The same as ``execute`` for a coroutine function, beside others in this loop.

        Returns:
            None if it ended while ``is_ended()`` says that it was to end.
        """

    async def end_loop(self) -> None:
        """Undo what ``execute_native`` did in the running loop, which ends."""

    def end_thread(self) -> None:
        """Undo what ``execute`` did in this thread, which ends."""

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Call the receivers of a signal of the node here (the solo pool has no other place)."""

    def close(self) -> None:
        """Undo what starting the program did to the process (the solo pool stops)."""


def load_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


class ChildLink:
    """The child's end of its socketpair.

    Args:
        sock: blocking stream socket to the node.
        serial: number of this child; its requests are numbered from it, so that a late
            answer to a predecessor in the same slot is never taken for one to it.
        bytes_max: largest batch accepted.
        words: of the page shared with the node.
    """

    passes: tuple[type[BaseException], ...] = ()

    def __init__(self, sock: socket.socket, serial: int, bytes_max: int, words: Words) -> None:
        self._sock: socket.socket | None = sock
        self._reader = to_child_reader(bytes_max)
        self._numbers = itertools.count((serial << 32) + 1)
        self._pending: list[FromChild] = []
        self._send_lock = threading.Lock()
        # Guards what was read but not taken; see _wait.
        self._arrived = threading.Condition()
        self._reading = False
        self._runs: deque[list[RunTask]] = deque()
        self._asked: set[int] = set()
        self._answers: dict[int, Answer] = {}
        #: {attempt: status that it ends with if it has not started}
        self._cancelled: dict[tuple[bytes, int], int] = {}
        self._cancels_read = 0
        self._words = words
        self._fires: deque[FireSignal] = deque()
        self._stopping = False
        #: Called in the thread that reads, for an attempt that is to be ended.
        self.on_forced: Callable[[CancelTask], None] = lambda order: None
        # The thread that sends behind a running task; see _send_behind.
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._behind_started = False
        self._behind_awake = False
        self._batch_runs = False

    # --- sending -----------------------------------------------------------------------

    def tell(self, request: FromChild) -> None:
        """Send something that is not answered; never blocks on another sender."""
        if isinstance(request, StateUpdate):
            request.slot = slot_here()
        self._pending.append(request)
        softlimit.shielded(self._send_unless_sending)

    def _send_unless_sending(self) -> None:
        # Not blocking: a signal handler may print while its own thread is sending. Who sends
        # looks again afterwards, so what was added meanwhile is never left.
        while self._pending and self._send_lock.acquire(blocking=False):
            try:
                self._send_pending()
            finally:
                self._send_lock.release()
        if self._pending:
            self._wake_behind()

    def flush(self) -> None:
        """Send what has gathered."""
        with self._send_lock:
            self._send_pending()
        self._send_unless_sending()

    def gather(self, outcome: ChildOutcome) -> None:
        """Send this with the next ``flush``."""
        self._pending.append(outcome)

    def flush_soon(self) -> None:
        """Flush within milliseconds."""
        self._wake_behind()

    def _send_pending(self) -> None:
        pending = self._pending
        count = len(pending)
        if not count:
            return
        # Others only append meanwhile, so the slice and its removal match.
        batch = pending[:count]
        del pending[:count]
        sock = self._sock
        if sock is None:
            return
        try:
            sock.sendall(encode_batch(batch))
        except OSError:
            end_with_group()

    def _wake_behind(self) -> None:
        if not self._behind_started:
            self._behind_started = True
            threading.Thread(target=self._send_behind, name="zmqtasks-send", daemon=True).start()
        if not self._behind_awake:
            self._wakes.put(None)

    def _send_behind(self) -> None:
        while self._sock is not None:
            self._behind_awake = False
            # In this order: who sets _batch_runs looks at _behind_awake afterwards.
            if not (self._batch_runs or self._pending):
                self._wakes.get()
            self._behind_awake = True
            time.sleep(_BEHIND_S)
            self.flush()

    # --- receiving ---------------------------------------------------------------------

    def ask(self, make: Callable[[int], Question], timeout_s: float | None = None) -> Answer | None:
        """Send a question and wait for its answer (None: none within the time)."""
        if self._sock is None:
            raise RuntimeError(
                "this process was forked by a task and has no way to the mesh; "
                "submit from the task itself"
            )
        return softlimit.shielded(self._ask, make, timeout_s)

    def _ask(self, make: Callable[[int], Question], timeout_s: float | None) -> Answer | None:
        number = next(self._numbers)
        self._asked.add(number)
        try:
            question = make(number)
            question.slot = slot_here()
            self._pending.append(question)
            self.flush()
            return self._wait(lambda: self._answers.pop(number, None), timeout_s)
        finally:
            self._asked.discard(number)
            self._answers.pop(number, None)

    def _wait(self, take: Callable[[], T | None], timeout_s: float | None = None) -> T | None:
        """Wait until ``take()`` gives something; one of all who wait reads for them."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        arrived = self._arrived
        with arrived:
            while True:
                found = take()
                if found is not None:
                    return found
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                if self._reading:
                    arrived.wait(left)
                    continue
                self._reading = True
                arrived.release()
                try:
                    batches = self._read(left)
                finally:
                    arrived.acquire()
                    self._reading = False
                    arrived.notify_all()
                for batch in batches:
                    self._sort(batch)

    def _read(self, left_s: float | None) -> list[list[ToChild]]:
        sock = self._sock
        if sock is None:
            os._exit(0)
        try:
            if left_s is not None and not select.select([sock], [], [], left_s)[0]:
                return []
            data = sock.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            end_with_group()
        try:
            return self._reader.feed(data)
        except RemoteProtocolError:
            traceback.print_exc()
            end_with_group()

    def _sort(self, batch: list[ToChild]) -> None:
        runs: list[RunTask] = []
        for message in batch:
            if isinstance(message, RunTask):
                runs.append(message)
            elif isinstance(message, Answer):
                if message.request in self._asked:
                    self._answers[message.request] = message
            elif isinstance(message, CancelTask):
                if len(self._cancelled) >= _CANCELLED_MAX:
                    self._cancelled.clear()
                if message.is_forced:
                    self.on_forced(message)  # before the task can see that it was cancelled
                self._cancelled[message.id, message.attempt] = message.status
                self._cancels_read += 1
            elif isinstance(message, FireSignal):
                self._fires.append(message)
            else:
                self._stopping = True
        if runs:
            self._runs.append(runs)

    def next_batch(self) -> list[RunTask] | StopChild:
        """Wait for the next tasks, or to be told to stop."""
        if self._runs:
            return self._runs.popleft()
        return self._wait(self._take_batch) or StopChild()

    def _take_batch(self) -> list[RunTask] | StopChild | None:
        if self._runs:
            return self._runs.popleft()
        return StopChild() if self._stopping else None

    def next_signal(self) -> FireSignal | StopChild:
        """The same in a hook child, for signals of the node."""
        return self._wait(self._take_signal) or StopChild()

    def _take_signal(self) -> FireSignal | StopChild | None:
        if self._fires:
            return self._fires.popleft()
        return StopChild() if self._stopping else None

    # --- the loop ----------------------------------------------------------------------

    def serve(self, execute: Callable[[RunTask], ChildOutcome], capture: Capture) -> None:
        """Run what comes until told to stop."""
        out, err, pending, runs = capture.stdout, capture.stderr, self._pending, self._runs
        words, clock_ns = self._words, time.monotonic_ns
        cost_us = 0
        begun = 0
        while True:
            tasks = self.next_batch()
            if isinstance(tasks, StopChild):
                return
            if pending or len(tasks) > 1:
                self._batch_runs = True
                if not self._behind_awake:
                    self._wake_behind()
            for task in tasks:
                begun += 2
                if words[CANCELS] and self._ends_unstarted(task):
                    words[BEGUN] = begun
                    continue
                if task.hard_ms:
                    words[BEGUN_NS] = clock_ns()
                words[BEGUN] = begun + 1
                set_running(task)
                outcome = execute(task)
                if self._sock is None:
                    # The task forked and let the copy return: one loop is enough.
                    os._exit(0)
                words[BEGUN] = begun
                if out.partial or err.partial:
                    capture.end_task()
                pending.append(outcome)
                cost_us += (
                    outcome.run_us + _TASK_COST_US + (len(outcome.body) >> _BYTES_PER_US_SHIFT)
                )
                if cost_us > CHILD_FLUSH_US:
                    self.flush()
                    cost_us = 0
            set_running(None)
            # Small batches that wait already are answered together, unless the next one
            # is under suspicion and must find nothing unanswered before it.
            if not runs or runs[0][0].attempt > 1:
                self.flush()
                cost_us = 0
                self._batch_runs = False

    def _ends_unstarted(self, task: RunTask) -> bool:
        """Whether this one was cancelled before it started; its outcome is pending then."""
        self._read_cancels()
        if self._words[DOOMED]:
            # A task was ended and did not let that end this process: nothing else shall
            # meet the signal that may still come, nor the end by force.
            self.flush()
            os._exit(0)
        status = self._cancelled.pop((task.id, task.attempt), None)
        if status is None:
            return False
        self._pending.append(cancelled_outcome(task, status))
        return True

    def take_cancel(self, task: RunTask) -> int | None:
        """The status of this attempt, which is not started, if it was cancelled."""
        if not self._words[CANCELS]:
            return None
        self._read_cancels()
        return self._cancelled.pop((task.id, task.attempt), None)

    @property
    def is_detached(self) -> bool:
        """This is a process that a task forked."""
        return self._sock is None

    def _read_cancels(self) -> None:
        """Take in all cancellations that were sent."""
        wanted = self._words[CANCELS]
        if self._cancels_read < wanted:
            self._wait(lambda: self._cancels_read >= wanted or None)

    def is_cancelled(self, task: RunTask) -> bool:
        """Whether this attempt, which runs here, was cancelled."""
        if self._sock is None:
            return False
        if self._cancels_read < self._words[CANCELS]:
            softlimit.shielded(self._read_cancels)
        return (task.id, task.attempt) in self._cancelled

    def terminated(self, signum: int, _frame: object) -> None:
        """SIGINT or SIGTERM came: for the node, unless the running attempt is to end."""
        if self._words[DOOMED] and self._sock is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def detach(self) -> None:
        """In a process that a task forked: leave the socket to the parent."""
        sock, self._sock = self._sock, None
        self._pending.clear()
        self._send_lock = threading.Lock()
        self._arrived = threading.Condition()
        self._reading = False
        if sock is not None:
            sock.close()


def slot_here() -> int:
    """The slot of the attempt that runs here."""
    task = running_task()
    return task.slot if task is not None else 0


def cancelled_outcome(
    task: RunTask, status: int, text: str = "cancelled before it started"
) -> ChildOutcome:
    """Of an attempt that did not start, or was ended."""
    return ChildOutcome(task.id, task.attempt, status, int(time.time() * 1000), 0, b"", text)


def ignore(_signum: int, _frame: object) -> None:
    """A handler and not SIG_IGN: programs that tasks start get the default back."""


def set_up(link: ChildLink, config: PoolConfig) -> Capture:
    """What every child begins with: what signals do, what becomes of its output and its forks."""
    for number in _NODE_SIGNALS:
        if signal.getsignal(number) is ignore:  # else the application has its own handler
            signal.signal(number, link.terminated)
    capture = Capture(link.tell)
    if config.capture:
        capture.start_streams()
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _NODE_SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _NODE_SIGNALS),
        after_in_child=partial(_after_fork, link, capture),
    )
    return capture


def run_child(sock: socket.socket, serial: int, config: PoolConfig, words: Words) -> None:
    """Everything a child does between its fork and its exit."""
    link = ChildLink(sock, serial, batch_bytes_max(config.payload_bytes_max), words)
    capture = set_up(link, config)
    ask_for_cancels(link.is_cancelled)
    if config.hosting:
        softlimit.install_watchdog()
    else:
        softlimit.install()
    program, ready = load_program(link, config)
    capture.end_task()
    link.tell(ready)
    link.flush()
    if program is None:
        return
    if config.capture:
        capture.start_logging(program.log_level)
    if config.hosting:
        from zmqtasks.pools import hosting  # most children are none

        hosting.serve(config.hosting, link, program, capture, words)
    else:
        link.serve(program.execute, capture)
    atexit._run_exitfuncs()
    capture.end_task()
    link.flush()


def load_program(link: Link, config: PoolConfig) -> tuple[Program | None, ChildReady]:
    """Load the application: the program and its catalog, or None and the reason."""
    try:
        program: Program = load_function(config.program)(link, config)
    except BaseException as exc:  # noqa: BLE001 (user code: everything is reported)
        return None, load_failure(exc)
    ready = ChildReady(
        os.getpid(), program.catalog, "", "", program.conf, program.facts, program.has_hooks
    )
    return program, ready


def load_failure(exc: BaseException) -> ChildReady:
    """What a child says instead of being ready. Called where the exception is handled."""
    if isinstance(exc, AppLoadError):
        return ChildReady(os.getpid(), [], str(exc), exc.traceback)
    # An application may also leave by SystemExit while it is imported.
    reason = f"loading the application failed: {type(exc).__name__}: {exc}"
    return ChildReady(os.getpid(), [], reason, traceback.format_exc())


def _after_fork(link: ChildLink, capture: Capture) -> None:
    """In a process that a task forked (``multiprocessing``, ``os.fork``).

    It must hold neither the socket (the node would not see this child's end) nor the
    signal handlers (``Process.terminate`` would do nothing, which is why these signals
    are held back until here).
    """
    link.detach()
    capture.detach()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NODE_SIGNALS)


def end_with_group() -> NoReturn:
    """End this process and all that its tasks started, now: the node is gone."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
