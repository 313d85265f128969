"""The node's end of its hook child, which calls receivers of the node's signals.

::

    begin: worker_init --> the loop runs: fire ... --> end: worker_shutdown, within HOOKS_EXIT_MS

A hook child that dies is not replaced: what ``worker_init`` made in it is gone, and to send
that once more would tell receivers of a start that there was not. Tasks do not need it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from zmqtasks.limits import HOOKS_EXIT_MS
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
                log.warning("hooks.waiting signal=worker_init seconds=%d", now - begun)

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Have the receivers of this signal called, after those of earlier ones."""
        if self._child is not None:
            self._pending.append(signal)
            self._child.send(self._host, [FireSignal(signal, dict(args))])

    def end(self) -> None:
        """Send ``worker_shutdown`` and wait for its end, not longer than ``HOOKS_EXIT_MS``.

        To be called when the loop runs no more, before the nursery is stopped, which kills it
        if it is still there.
        """
        child = self._child
        if child is None or "worker_init" in self._pending:  # the start was interrupted
            return
        self.fire("worker_shutdown", {})
        child.send(self._host, [StopChild()])
        child.is_leaving = True
        deadline = time.monotonic() + HOOKS_EXIT_MS / 1000
        while self._child is not None and (left_s := deadline - time.monotonic()) > 0:
            self._nursery.attend(child, left_s)
        if self._child is not None:
            what = (
                f"in receivers of {self._pending[0]}" if self._pending else "in its exit handlers"
            )
            log.warning(
                "hooks.killed pid=%d: it was still %s %d ms after worker_shutdown was sent",
                child.pid, what, HOOKS_EXIT_MS,
            )  # fmt: skip
            self._child = None

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

    def _tell_gone(self, what: str, reason: str) -> None:
        log.error(
            "hooks.gone %s reason=%s: the node goes on without its hook child, so no receiver "
            "of its signals is called any more; restart the node (SIGHUP) to have it again",
            what, reason,
        )  # fmt: skip
