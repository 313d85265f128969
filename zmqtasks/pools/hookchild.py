"""The node's end of its hook child, which calls receivers of the node's signals.

::

    begin: worker_init --> the loop runs: fire ... --> end: worker_shutdown, then its exit

A hook child that dies is not replaced: what ``worker_init`` made in it is gone, and to send
that once more would tell receivers of a start that there was not. Tasks do not need it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from zmqtasks.limits import HOOKS_EXIT_MS, HOOKS_LEAVE_MS
from zmqtasks.pools.base import PoolHost
from zmqtasks.pools.children import Child
from zmqtasks.pools.nursery import Nursery
from zmqtasks.pools.protocol import (
    HOOK_SLOT,
    ChildOutcome,
    ChildRequest,
    FireSignal,
    SignalFired,
    StopChild,
)

log = logging.getLogger("zmqtasks.pools")

#: A start that receivers hold up is reported each time this passes, in seconds.
_NOTICE_S: Final = 10.0


class HookChild:
    """One hook child; the nursery tells it of its process (see ``nursery.Parent``).

    Args:
        nursery: starts it; watched by the host already.
        host: of the pool.
    """

    def __init__(self, nursery: Nursery, host: PoolHost) -> None:
        self._nursery = nursery
        self._host = host
        #: None before ``begin`` and once it is gone.
        self._child: Child | None = None
        #: Signals sent whose receivers have not returned, oldest first.
        self._pending: deque[str] = deque()

    def begin(self) -> None:
        """Start it; returns when the receivers of ``worker_init`` have returned, or it is gone.

        To be called before the loop runs.
        """
        try:
            child = self._child = self._nursery.open(HOOK_SLOT, self)
        except OSError as exc:
            self._tell_gone("could not be started", str(exc))
            return
        self.fire("worker_init", {})
        begun = noticed = time.monotonic()
        while self._pending:
            self._nursery.attend(child, _NOTICE_S)
            now = time.monotonic()
            if now - noticed >= _NOTICE_S:
                noticed = now
                log.warning(
                    "hooks.waiting signal=worker_init seconds=%d: the node joins when receivers "
                    "have returned", now - begun,
                )  # fmt: skip

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Have the receivers of this signal called, after those of earlier ones."""
        if self._child is not None:
            self._pending.append(signal)
            self._child.send(self._host, [FireSignal(signal, dict(args))])

    def end(self) -> None:
        """Send ``worker_shutdown`` and wait for its end: for the receivers not longer than
        ``HOOKS_EXIT_MS``, then for what it owns not longer than ``HOOKS_LEAVE_MS``.

        To be called when the loop runs no more, before the nursery is stopped, which kills it
        if it is still there.
        """
        child = self._child
        if child is None or "worker_init" in self._pending:  # the start was interrupted
            return
        self.fire("worker_shutdown", {})
        child.send(self._host, [StopChild()])
        child.is_leaving = True
        if not self._attend(child, lambda: not self._pending, HOOKS_EXIT_MS):
            self._tell_killed(child, f"in receivers of {self._pending[0]}", HOOKS_EXIT_MS)
        elif not self._attend(child, lambda: self._child is None, HOOKS_LEAVE_MS):
            self._tell_killed(child, "leaving the mesh, or in its exit handlers", HOOKS_LEAVE_MS)
        self._child = None

    def _attend(self, child: Child, condition: Callable[[], bool], wait_ms: int) -> bool:
        """Wait for this as long; returns whether it came."""
        deadline = time.monotonic() + wait_ms / 1000
        while not condition():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._nursery.attend(child, left_s)
        return True

    # --- what its process does ------------------------------------------------------------

    def child_ready(self, child: Child) -> None:
        """See ``Parent``."""
        log.info("hooks.started pid=%d", child.pid)

    def child_done(self, child: Child, outcomes: list[ChildOutcome]) -> None:
        """It is given no tasks."""

    def child_asks(self, child: Child, request: ChildRequest) -> None:
        """See ``Parent``."""
        if not isinstance(request, SignalFired):
            self._host.slot_request(HOOK_SLOT, request)
        elif self._pending:
            self._pending.popleft()

    def child_looked(self, child: Child, ordinal: int, hit: bool) -> None:
        """It has no attempts to look after."""

    def child_ended(self, child: Child, reason: str) -> None:
        """See ``Parent``."""
        self._child = None
        if child.is_leaving and not self._pending:
            return
        during = f" in receivers of {self._pending[0]}" if self._pending else ""
        self._pending.clear()
        self._tell_gone(f"pid={child.pid}", reason + during)

    def server_ready(self) -> None:
        """It ended with the old fork server, for good."""

    def _tell_killed(self, child: Child, where: str, wait_ms: int) -> None:
        log.warning(
            "hooks.killed pid=%d: after %d ms it was still %s; calls of its last second that no "
            "other node has are lost",
            child.pid, wait_ms, where,
        )  # fmt: skip

    def _tell_gone(self, what: str, reason: str) -> None:
        log.error(
            "hooks.gone %s reason=%s: the node goes on without its hook child, so no receiver "
            "of its signals is called any more; restart the node (SIGHUP) to have it again",
            what, reason,
        )  # fmt: skip
