"""The processes of a pool: the fork server, the children, how they are heard and how they end.

Which child works for which slot, and with what, is the pool's matter (``forked.py``).

Nothing here blocks after loading: orders go to the fork server and into socketpairs, and
the loop calls back when something is readable. A child is dead when the fork server has
collected it (a task may have closed the socket, or handed it to a process of its own, so
end of file alone proves nothing: it only makes us kill what is left).
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zmqtasks.limits import CHILD_EXIT_MS, CHILD_RESTART_MS_MAX, CHILD_RESTART_MS_MIN
from zmqtasks.pools.base import PoolConfig, PoolHost
from zmqtasks.pools.children import Child, OutputPipe
from zmqtasks.pools.loading import await_ready, await_server
from zmqtasks.pools.protocol import (
    ChildOutcome,
    ChildReady,
    ChildRequest,
    FromChild,
    LogRecord,
    StopChild,
)
from zmqtasks.pools.spawner import Spawner, exit_reason
from zmqtasks.pools.stream import batch_bytes_max

log = logging.getLogger("zmqtasks.pools")


class Parent(Protocol):
    """Who is told of the children."""

    def child_ready(self, child: Child) -> None:
        """It has loaded the application and waits for work."""

    def child_done(self, child: Child, outcomes: list[ChildOutcome]) -> None:
        """Attempts ended in it."""

    def child_asks(self, child: Child, request: ChildRequest) -> None:
        """Code in it submits, asks, reports or logs."""

    def child_looked(self, child: Child, ordinal: int, hit: bool) -> None:
        """What became of ``end``: whether this attempt was running and is being ended."""

    def child_ended(self, child: Child, reason: str) -> None:
        """It is dead, collected, and all it said was taken. Afterwards it is closed."""

    def server_ready(self) -> None:
        """Children can be opened again after the fork server had gone."""


class Nursery:
    """Starts, hears and buries children.

    Args:
        config: goes to the children as it is.
        parent: is told of them, but for those that have another one.
    """

    def __init__(self, config: PoolConfig, parent: Parent) -> None:
        self._config = config
        self._parent = parent
        self._bytes_max = batch_bytes_max(config.payload_bytes_max)
        self._spawner: Spawner | None = None
        self._host: PoolHost | None = None
        self._serials = 0
        #: By serial: all that were started and not collected.
        self._children: dict[int, Child] = {}
        #: Ends in a row without a child that became ready.
        self._failures = 0
        #: What was written while there was no host.
        self._early: list[LogRecord] = []
        self.is_stopped = False
        self._has_let_go = False

    @property
    def is_open(self) -> bool:
        """Whether children can be opened."""
        return self._spawner is not None and not self.is_stopped

    # --- start and stop ----------------------------------------------------------------

    def launch(self) -> None:
        """Start the fork server without waiting, unless there is one."""
        if self._spawner is None:
            self._spawner = Spawner(self._config)

    def load(self) -> tuple[Child, ChildReady]:
        """Wait for the fork server and for the first child, which loads the application.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """
        self.launch()
        assert self._spawner is not None
        self._spawner, self._config = await_server(self._spawner, self._config)
        child = self.open(0)
        ready, self._early = await_ready(child, self._spawner, self._config.app)
        return child, ready

    def watch(self, host: PoolHost) -> None:
        """From now on the loop calls back."""
        assert self._spawner is not None
        self._host = host
        for record in self._early:
            host.call_soon(host.slot_request, 0, record)
        self._early.clear()
        host.register(self._spawner.fileno(), self._on_server)
        for child in self._children.values():
            child.watch(host, self._on_child, self._on_pipe)

    def stop(self) -> None:
        """End all children: idle ones run their exit handlers, others are killed."""
        if self.is_stopped:
            return
        self.is_stopped = True
        self.let_go()
        if self._spawner is not None and self._host is not None:
            with contextlib.suppress(KeyError, ValueError):  # the start may not have got there
                self._host.unregister(self._spawner.fileno())
        self._end_server()
        for child in list(self._children.values()):
            # What ended meanwhile still counts, and exit handlers may have printed.
            self._read_rest(child)
            self._drop(child)

    def let_go(self) -> None:
        """Tell the idle children to stop and wait for them, not longer than a second; those of
        other parents stay. To be called when no loop runs any more; again: does nothing."""
        if self._has_let_go:
            return
        self._has_let_go = True
        leaving = set()
        for child in self._children.values():
            if child.parent is self._parent and child.ready and child.is_idle:
                child.send(self._host, [StopChild()])
                leaving.add(child.serial)
        deadline = time.monotonic() + CHILD_EXIT_MS / 1000
        while leaving and self._spawner is not None:
            reports = self._spawner.receive(max(0.0, deadline - time.monotonic()))
            if not reports:
                break
            for report in reports:
                child_or_none = self._children.get(report.get("serial", 0))
                if child_or_none is not None and child_or_none.parent is not self._parent:
                    self._take_report(child_or_none, report)
            leaving -= {report.get("serial") for report in reports if report["op"] == "exit"}

    def _end_server(self) -> str:
        spawner, self._spawner = self._spawner, None
        return spawner.close() if spawner is not None else "was not running"

    # --- one child ---------------------------------------------------------------------

    def open(self, slot: int, parent: Parent | None = None) -> Child:
        """Start a child for this slot; ``child_ready`` follows.

        Args:
            slot: its number.
            parent: is told of it in place of the usual one.

        Raises:
            OSError: no more descriptors.
        """
        assert self._spawner is not None
        self._serials += 1
        child = Child(slot, self._serials, self._bytes_max, parent or self._parent)
        child.begun_at = time.monotonic()
        child.open(self._spawner.spawn)
        self._children[child.serial] = child
        if self._host is not None:
            child.watch(self._host, self._on_child, self._on_pipe)
        return child

    def attend(self, child: Child, wait_s: float) -> None:
        """Wait until this child or the fork server says something, and take it: where no loop
        runs that would."""
        poll = select.poll()
        fds = set(child.registered)
        if self._spawner is not None:
            fds.add(self._spawner.fileno())
        for fd in fds:
            poll.register(fd, select.POLLIN)
        readable = {fd for fd, _ in poll.poll(wait_s * 1000)}
        if child.registered and child.sock.fileno() in readable:
            self._on_child(child)
        for pipe in child.pipes:
            if pipe.fd in readable:
                self._on_pipe(child, pipe)
        if self._spawner is not None and self._spawner.fileno() in readable:
            self._on_server()

    def by_serial(self, serial: int) -> Child | None:
        """A child that was not collected yet."""
        return self._children.get(serial)

    def kill(self, child: Child, reason: str) -> None:
        """Kill its process group; ``child_ended`` follows."""
        if self._spawner is not None and child.serial in self._children:
            child.is_leaving = True
            child.kill_reason = child.kill_reason or reason
            self._spawner.kill(child.serial)

    def end(self, child: Child, ordinal: int, signum: int) -> None:
        """Send it a signal if it runs this attempt; ``child_looked`` follows."""
        if self._spawner is not None:
            self._spawner.end(child.serial, ordinal, signum)

    def dump_stacks(self) -> None:
        """Have all children write the stacks of their threads to their stderr."""
        if self._spawner is not None:
            self._spawner.dump_stacks()

    def dismiss(self, child: Child) -> None:
        """Have it run its exit handlers and end; ``child_ended`` follows."""
        child.is_leaving = True
        child.send(self._host, [StopChild()])
        self.later(CHILD_EXIT_MS, self.kill, child, "did not end when told to")

    def later(self, delay_ms: float, function: Callable[..., None], *args: Any) -> None:
        """Run on the loop's thread after a while, unless all is stopped by then."""

        def ring() -> None:
            if not self.is_stopped:
                function(*args)

        if self._host is not None:
            self._host.call_later(delay_ms, ring)

    def failed(self, what: str, reason: str) -> int:
        """Log that a child could not be started, or did not become ready.

        Args:
            what: whose child it was, as ``key=value``.
            reason: for people.

        Returns:
            How long to wait before the next try, in milliseconds.
        """
        delay_ms = self._next_delay_ms()
        log.error("child.failed %s reason=%s again_ms=%d", what, reason, delay_ms)
        return delay_ms

    def _next_delay_ms(self) -> int:
        delay_ms = CHILD_RESTART_MS_MIN << min(self._failures, 10)
        self._failures += 1
        return min(CHILD_RESTART_MS_MAX, delay_ms)

    # --- hearing -----------------------------------------------------------------------

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
            self.later(CHILD_EXIT_MS, self.kill, child, trouble)
        return more

    def _take(self, child: Child, batch: Sequence[FromChild]) -> None:
        assert self._host is not None
        outcomes: list[ChildOutcome] = []
        for message in batch:
            if isinstance(message, ChildOutcome):
                outcomes.append(message)
                continue
            if outcomes:
                child.parent.child_done(child, outcomes)
                outcomes = []
            if isinstance(message, ChildReady):
                self._on_ready(child, message)
            else:
                child.parent.child_asks(child, message)
        if outcomes:
            child.parent.child_done(child, outcomes)

    def _on_ready(self, child: Child, ready: ChildReady) -> None:
        if ready.error:
            log.error("app.failed slot=%d reason=%s\n%s", child.slot, ready.error, ready.traceback)
            return
        child.ready = True
        child.pid = ready.pid
        self._failures = 0
        child.parent.child_ready(child)

    def _on_pipe(self, child: Child, pipe: OutputPipe) -> None:
        lines = pipe.read()
        if not pipe.open:
            # A closed pipe stays readable for ever.
            child.unwatch(self._host, pipe.fd)
        self._pass_on(child, pipe, lines)

    def _pass_on(self, child: Child, pipe: OutputPipe, lines: list[str]) -> None:
        assert self._host is not None
        for record in child.records(pipe, lines):
            self._host.slot_request(child.slot, record)

    # --- ends --------------------------------------------------------------------------

    def _on_server(self) -> None:
        """The fork server reports something."""
        assert self._spawner is not None
        reports = self._spawner.receive()
        if reports is None:
            self._on_server_gone()
            return
        for report in reports:
            child = self._children.get(report.get("serial", 0))
            if child is not None:
                self._take_report(child, report)

    def _take_report(self, child: Child, report: dict[str, Any]) -> None:
        if report["op"] == "exit":
            self._on_exit(child, exit_reason(report["status"]))
        elif report["op"] == "looked":
            child.parent.child_looked(child, report["ordinal"], report["hit"])

    def _on_exit(self, child: Child, reason: str) -> None:
        """The child is dead and collected; take what it still wrote, then say so."""
        self._read_rest(child)
        if child.kill_reason:
            reason = f"{child.kill_reason}: {reason.replace('; out of memory?', '')}"
        del self._children[child.serial]
        child.parent.child_ended(child, reason)
        child.close(self._host)

    def _read_rest(self, child: Child) -> None:
        if not child.registered:
            return
        while child.sock.fileno() in child.registered and self._read(child):
            pass
        for pipe in child.pipes:
            self._pass_on(child, pipe, pipe.rest())

    def _drop(self, child: Child) -> None:
        self._children.pop(child.serial, None)
        child.close(self._host)

    def _on_server_gone(self) -> None:
        """Its children die with it; begin anew."""
        assert self._spawner is not None
        assert self._host is not None
        self._host.unregister(self._spawner.fileno())
        reason = self._end_server()
        delay_ms = self._next_delay_ms()
        log.error("forkserver.gone reason=%s again_ms=%d", reason, delay_ms)
        self.later(delay_ms, self._relaunch)
        for child in list(self._children.values()):
            self._on_exit(child, f"ended with the fork server, which {reason}")

    def _relaunch(self) -> None:
        if self._spawner is not None:
            return
        self.launch()
        assert self._spawner is not None
        assert self._host is not None
        self._host.register(self._spawner.fileno(), self._on_server)
        self._parent.server_ready()
