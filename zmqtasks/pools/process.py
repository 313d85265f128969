"""The default pool: one process for each slot, forked from a warm fork server.

Nothing here blocks after ``start``: orders go to the fork server and into socketpairs,
and the loop calls back when something is readable. A child is dead when the fork server
has collected it (a task may have closed the socket, or handed it to a process of its
own, so end of file alone proves nothing: it only makes us kill what is left).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from zmqtasks.errors import AppLoadError
from zmqtasks.limits import CHILD_EXIT_MS, CHILD_RESTART_MS_MAX, CHILD_RESTART_MS_MIN
from zmqtasks.pools.base import PoolConfig, PoolHost
from zmqtasks.pools.children import Child, OutputPipe
from zmqtasks.pools.protocol import (
    Answer,
    ChildOutcome,
    ChildReady,
    FromChild,
    LogRecord,
    RunTask,
    StopChild,
)
from zmqtasks.pools.spawner import Spawner, exit_reason
from zmqtasks.pools.stream import batch_bytes_max
from zmqtasks.wire.messages import CatalogEntry

log = logging.getLogger("zmqtasks.pools")

#: A start that takes longer is reported each time this passes.
_LOADING_NOTICE_S: Final = 10.0


class ProcessPool:
    """Runs attempts in child processes.

    Args:
        config: goes to the children as it is.
        slots: how many processes; ``slots`` may be set until ``start``.
    """

    def __init__(self, config: PoolConfig, slots: int = 1) -> None:
        self.slots = slots
        self._config = config
        self._bytes_max = batch_bytes_max(config.payload_bytes_max)
        self._spawner: Spawner | None = None
        self._host_or_none: PoolHost | None = None
        self._serials = 0
        #: The present child of each slot; None: none yet, or dead and not replaced.
        self._slots: list[Child | None] = [None]
        #: What the first child said of the application; None: not loaded yet.
        self._loaded: ChildReady | None = None
        #: What was written while there was no host.
        self._early: list[LogRecord] = []
        self._children: dict[int, Child] = {}
        #: Ends in a row without a child that became ready.
        self._failures = 0
        self._timers: set[threading.Timer] = set()
        self._stopped = False

    @property
    def _host(self) -> PoolHost:
        assert self._host_or_none is not None, "the pool was not started"
        return self._host_or_none

    # --- start and stop ----------------------------------------------------------------

    def launch(self) -> None:
        """Start the fork server without waiting; ``load`` does it otherwise.

        To be called first thing in the process, before threads and slow imports, so
        that the application is loaded meanwhile.
        """
        if self._spawner is None:
            self._spawner = Spawner(self._config)

    def load(self) -> Mapping[str, Any]:
        """Load the application in the first child; ``start`` does it otherwise.

        Must be called in a thread that lives as long as the pool.

        Returns:
            The settings that the application makes, by name.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """
        return self._load().conf

    def _load(self) -> ChildReady:
        if self._loaded is None:
            try:
                self.launch()
                self._await_server()
                self._loaded = self._await_ready(self._open_child(0))
            except BaseException:
                self.stop()
                raise
        return self._loaded

    def start(self, host: PoolHost) -> list[CatalogEntry]:
        """Load the application if need be and start the slots.

        Must be called in the thread of :meth:`load`. ``host.slot_ready`` follows for
        each slot once the loop runs.

        Returns:
            The tasks of the application.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """
        catalog = self._load().catalog
        first = self._slots[0]
        assert self._spawner is not None
        assert first is not None
        self._host_or_none = host
        for record in self._early:
            host.call_soon(host.slot_request, 0, record)
        self._early.clear()
        host.register(self._spawner.fileno(), self._on_server)
        first.watch(host, self._on_child, self._on_pipe)
        host.call_soon(host.slot_ready, 0)
        self._slots += [None] * (self.slots - 1)
        for slot in range(1, self.slots):
            self._spawn(slot)
        return catalog

    def _await_server(self) -> None:
        """Wait until the server has imported the application."""
        threads = self._await_up()
        if threads == 0:
            return
        # Children of a process with threads inherit locked locks, and a failed import
        # leaves halves behind: begin again and let each child import for itself.
        if threads > 0:
            log.info("preload.off threads=%d reason=application_starts_threads", threads)
        self._end_server()
        self._config = msgspec.structs.replace(self._config, preload="")
        self.launch()
        self._await_up()

    def _await_up(self) -> int:
        for report in self._reports():
            if report["op"] == "up":
                return int(report["threads"])
        raise AppLoadError(
            f"loading {self._config.app!r} ended the process that imported it: {self._end_server()}"
        )

    def _reports(self) -> Iterator[dict[str, Any]]:
        """What the server reports, until it is gone. Blocks."""
        begun = time.monotonic()
        while self._spawner is not None:
            reports = self._spawner.receive(_LOADING_NOTICE_S)
            if reports is None:
                return
            if not reports:
                self._notice_loading(begun)
            yield from reports

    def _notice_loading(self, begun: float) -> None:
        log.warning("app.loading app=%s seconds=%d", self._config.app, time.monotonic() - begun)

    def _await_ready(self, child: Child) -> ChildReady:
        """Wait for the first child: it loads the application, or says why not."""
        child.sock.settimeout(_LOADING_NOTICE_S)
        begun = time.monotonic()
        ready: ChildReady | None = None
        while ready is None:
            try:
                batches, trouble, _ = child.read(reads_max=1)
            except TimeoutError:
                self._notice_loading(begun)
                continue
            if trouble:
                reason = trouble if "wrote" in trouble else self._await_exit(child.serial)
                output = "\n".join(line for pipe in child.pipes for line in pipe.rest())
                raise AppLoadError(
                    f"loading {self._config.app!r} ended the process: {reason}", output
                )
            for batch in batches:
                for message in batch:
                    if isinstance(message, ChildReady):
                        if message.error:
                            raise AppLoadError(message.error, message.traceback)
                        child.ready = True
                        child.pid = message.pid
                        ready = message
                    elif isinstance(message, LogRecord):
                        self._early.append(message)
        return ready

    def _await_exit(self, serial: int) -> str:
        for report in self._reports():
            if report["op"] == "exit" and report["serial"] == serial:
                return exit_reason(report["status"])
        return "ended together with the fork server"

    def stop(self) -> None:
        """End all slots: idle ones run their exit handlers, others are killed."""
        if self._stopped:
            return
        self._stopped = True
        for timer in list(self._timers):
            timer.cancel()
        self._let_go()
        if self._spawner is not None and self._host_or_none is not None:
            with contextlib.suppress(KeyError, ValueError):  # start() may not have got there
                self._host.unregister(self._spawner.fileno())
        self._end_server()
        for child in list(self._children.values()):
            # What ended meanwhile still counts, and exit handlers may have printed.
            self._read_rest(child)
            self._drop(child)

    def _let_go(self) -> None:
        """Tell the idle children to stop and wait for them, not longer than a second."""
        leaving = set()
        for child in self._children.values():
            if child.ready and not child.unanswered:
                child.send(self._host_or_none, [StopChild()])
                leaving.add(child.serial)
        deadline = time.monotonic() + CHILD_EXIT_MS / 1000
        while leaving and self._spawner is not None:
            reports = self._spawner.receive(max(0.0, deadline - time.monotonic()))
            if not reports:
                break
            leaving -= {report.get("serial") for report in reports if report["op"] == "exit"}

    def _end_server(self) -> str:
        spawner, self._spawner = self._spawner, None
        return spawner.close() if spawner is not None else "was not running"

    # --- what the loop asks for --------------------------------------------------------

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """Hand these to the slot. Those for a dead slot vanish: ``slot_died`` follows."""
        child = self._slots[slot]
        if child is not None:
            child.unanswered.extend(tasks)
            child.send(self._host, tasks)

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request of that slot."""
        child = self._slots[slot]
        if child is not None:
            child.send(self._host, [answer])

    def kill(self, slot: int) -> None:
        """Kill the slot's process group; ``slot_died`` follows."""
        child = self._slots[slot]
        if child is not None:
            self._kill(child, "killed on request")

    def pids(self) -> list[int]:
        """Process ids of the children that are ready, for status and tests."""
        return [child.pid for child in self._slots if child is not None and child.ready]

    def _kill(self, child: Child, reason: str) -> None:
        if self._spawner is not None and child.serial in self._children:
            child.kill_reason = child.kill_reason or reason
            self._spawner.kill(child.serial)

    # --- children ----------------------------------------------------------------------

    def _open_child(self, slot: int) -> Child:
        assert self._spawner is not None
        self._serials += 1
        child = Child(slot, self._serials, self._bytes_max)
        child.open(self._spawner.spawn)
        self._slots[slot] = child
        self._children[child.serial] = child
        return child

    def _spawn(self, slot: int) -> None:
        """Fill an empty slot; ``slot_ready`` follows."""
        if self._stopped or self._spawner is None or self._slots[slot] is not None:
            return
        try:
            child = self._open_child(slot)
        except OSError as exc:
            self._spawn_later(slot, str(exc))
            return
        child.watch(self._host, self._on_child, self._on_pipe)

    def _spawn_later(self, slot: int, reason: str) -> None:
        delay_ms = self._next_delay_ms()
        log.error("child.failed slot=%d reason=%s again_ms=%d", slot, reason, delay_ms)
        self._later(delay_ms, self._spawn, slot)

    def _on_child(self, child: Child) -> None:
        """The child's socket is readable."""
        self._read(child)

    def _read(self, child: Child) -> bool:
        """Take a turn's share of what the child wrote; returns whether more may be there."""
        batches, trouble, more = child.read()
        for batch in batches:
            self._take(child, batch)
        if trouble:
            # Nothing more can be said to this child: make sure that it ends. Mostly it
            # is ending by itself, and how is worth knowing.
            child.unwatch(self._host, child.sock.fileno())
            self._later(CHILD_EXIT_MS, self._kill, child, trouble)
        return more

    def _take(self, child: Child, batch: Sequence[FromChild]) -> None:
        outcomes: list[ChildOutcome] = []
        for message in batch:
            if isinstance(message, ChildOutcome):
                outcomes.append(message)
                continue
            if outcomes:
                self._done(child, outcomes)
                outcomes = []
            if isinstance(message, ChildReady):
                self._on_ready(child, message)
            else:
                self._host.slot_request(child.slot, message)
        if outcomes:
            self._done(child, outcomes)

    def _done(self, child: Child, outcomes: list[ChildOutcome]) -> None:
        unanswered = child.unanswered
        for _ in range(min(len(outcomes), len(unanswered))):
            unanswered.popleft()
        self._host.slot_done(child.slot, outcomes)

    def _on_ready(self, child: Child, ready: ChildReady) -> None:
        if ready.error:
            log.error("app.failed slot=%d reason=%s\n%s", child.slot, ready.error, ready.traceback)
            return
        child.ready = True
        child.pid = ready.pid
        self._failures = 0
        self._host.slot_ready(child.slot)

    def _on_pipe(self, child: Child, pipe: OutputPipe) -> None:
        lines = pipe.read()
        if not pipe.open:
            # A closed pipe stays readable for ever.
            child.unwatch(self._host, pipe.fd)
        self._pass_on(child, pipe, lines)

    def _pass_on(self, child: Child, pipe: OutputPipe, lines: list[str]) -> None:
        for record in child.records(pipe, lines):
            self._host.slot_request(child.slot, record)

    # --- deaths ------------------------------------------------------------------------

    def _on_server(self) -> None:
        """The fork server reports something."""
        assert self._spawner is not None
        reports = self._spawner.receive()
        if reports is None:
            self._on_server_gone()
            return
        for report in reports:
            child = self._children.get(report.get("serial", 0))
            if report["op"] == "exit" and child is not None:
                self._on_exit(child, exit_reason(report["status"]))

    def _on_exit(self, child: Child, reason: str) -> None:
        """The child is dead and collected; take what it still wrote, then say so."""
        self._read_rest(child)
        if child.kill_reason:
            reason = f"{child.kill_reason}: {reason.replace('; out of memory?', '')}"
        self._drop(child)
        if child.ready:
            self._host.slot_died(child.slot, f"process {child.pid} {reason}")
            self._spawn(child.slot)
        else:
            self._spawn_later(child.slot, reason)

    def _read_rest(self, child: Child) -> None:
        if not child.registered:
            return
        while child.sock.fileno() in child.registered and self._read(child):
            pass
        for pipe in child.pipes:
            self._pass_on(child, pipe, pipe.rest())

    def _drop(self, child: Child) -> None:
        self._children.pop(child.serial, None)
        if self._slots[child.slot] is child:
            self._slots[child.slot] = None
        child.close(self._host_or_none)

    def _on_server_gone(self) -> None:
        """Its children die with it; begin anew."""
        assert self._spawner is not None
        self._host.unregister(self._spawner.fileno())
        reason = self._end_server()
        delay_ms = self._next_delay_ms()
        log.error("forkserver.gone reason=%s again_ms=%d", reason, delay_ms)
        self._later(delay_ms, self._relaunch)
        for child in list(self._children.values()):
            self._on_exit(child, f"ended with the fork server, which {reason}")

    def _relaunch(self) -> None:
        if self._stopped or self._spawner is not None:
            return
        self.launch()
        assert self._spawner is not None
        self._host.register(self._spawner.fileno(), self._on_server)
        for slot in range(len(self._slots)):
            self._spawn(slot)

    def _next_delay_ms(self) -> int:
        delay_ms = CHILD_RESTART_MS_MIN << min(self._failures, 10)
        self._failures += 1
        return min(CHILD_RESTART_MS_MAX, delay_ms)

    def _later(self, delay_ms: int, function: Callable[..., None], *args: Any) -> None:
        """Run on the loop's thread after a while, unless the pool is stopped."""

        def ring() -> None:
            self._timers.discard(timer)
            if not self._stopped:
                self._host.call_soon(function, *args)

        timer = threading.Timer(delay_ms / 1000, ring)
        timer.daemon = True
        self._timers.add(timer)
        timer.start()
