"""How a node stops: what it runs ends, what it owns goes to others, what is left is written.

::

    FINISHING --nothing runs here--> GIVING --nobody takes more--> WRITING --> gone
        +--------- the time is nearly over ----^  and nothing runs here,   (journal)
                                                  or the time is over

All of it within the given time. A node that is told again to stop has no more of it: what
runs here runs elsewhere, and what it owns is written down.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.words import counted

if TYPE_CHECKING:
    from zmqtasks.node.journalkeeper import JournalKeeper
    from zmqtasks.node.runtime import Runtime

_LOG = logging.getLogger("zmqtasks.node")

#: Kept of the time for handing over, even if something still runs here.
_GIVING_MS_MAX = 5_000
#: While nothing is on its way to another owner for so long, nobody takes what is left. Longer
#: than one that has refused is left alone (``HANDOFF_RETRY_MS``).
_QUIET_MS = 1_200
#: To write down what is left, and for the last words to peers, when the time is over.
_LAST_WORDS_MS = 200
#: After so long it is said that nothing but a store keeps the node.
_TELL_STORE_MS = 1_000
#: How often what is left is offered to the journal.
_TRIES = 3


class _Phase(Enum):
    """See the picture above."""

    STAYING = 0
    FINISHING = 1
    GIVING = 2
    WRITING = 3
    GONE = 4


class Draining:
    """The end of one node; on its loop's thread.

    Args:
        runtime: of the node; has been opened when ``begin`` is called.
        journal: of the node.
    """

    def __init__(self, runtime: Runtime, journal: JournalKeeper) -> None:
        self._runtime = runtime
        self._journal = journal
        self._phase = _Phase.STAYING
        self._until_ms = 0
        self._give_by_ms = 0
        self._quiet_since_ms = 0
        #: Tasks that still ran here when the time was over: they run elsewhere.
        self.running_left = 0
        #: Tasks that nobody took and no journal kept.
        self.lost_count = 0
        self._tries = 0
        #: Since when only results that no store has keep the node here; None: not now, or told.
        self._store_since_ms: int | None = None
        self._is_store_told = False
        self._is_hurried = False
        #: {name of a node: tasks that it has taken}.
        self._taken: dict[str, int] = {}

    @property
    def has_begun(self) -> bool:
        """The node has been told to stop."""
        return self._phase is not _Phase.STAYING

    def begin(self, now_ms: int, wait_ms: int) -> None:
        """Take nothing new, and be gone within so many milliseconds; again: hurry."""
        until_ms = now_ms + max(wait_ms, _LAST_WORDS_MS)
        if self._phase is _Phase.STAYING:
            self._phase = _Phase.FINISHING
            self._runtime.finding.withdraw()
            self._journal.stop_adopting()
            self._runtime.mesh.drain()
        else:
            until_ms = min(until_ms, self._until_ms)
        self._is_hurried = not wait_ms  # and that was said
        self._until_ms = until_ms
        self._give_by_ms = until_ms - min(_GIVING_MS_MAX, wait_ms // 4)

    def advance(self, now_ms: int) -> int | None:
        """Do what is due, after each turn; returns in how many milliseconds to call again,
        None when that does not matter."""
        mesh = self._runtime.mesh
        if self._phase is _Phase.FINISHING:
            if not mesh.is_idle and now_ms < self._give_by_ms:
                return min(self._give_by_ms - now_ms, self._tell_of_store(now_ms))
            self._phase = _Phase.GIVING
            self._quiet_since_ms = now_ms
            mesh.leave_tasks(now_ms)
            return 0
        if self._phase is _Phase.GIVING:
            wait_ms = max(self._until_given(now_ms), self._until_finished(now_ms))
            if wait_ms > 0:
                return wait_ms
            self._phase = _Phase.WRITING
            self._taken = mesh.stay_with_tasks()
            self._until_ms = max(self._until_ms, now_ms + _LAST_WORDS_MS)
        if self._phase is _Phase.WRITING:
            if mesh.is_deciding and now_ms < self._until_ms:
                return self._until_ms - now_ms
            if self._dispatcher.unwritten_count and self._tries < _TRIES:
                # A journal that had too much to do takes them now.
                self._tries += 1
                self._dispatcher.write_all(now_ms)
                return 0
            self._phase = _Phase.GONE
            self.running_left = mesh.intake.running_count if mesh.intake is not None else 0
            self._tell()
            self._runtime.leave("drained" if mesh.is_idle else "stopped")
            return 0
        return None

    def _tell_of_store(self, now_ms: int) -> int:
        """Say once that nothing runs and a store is waited for; returns in how many milliseconds
        to look again."""
        mesh = self._runtime.mesh
        runs = mesh.intake is not None and mesh.intake.running_count
        if runs or self._is_store_told or not mesh.log.is_awaited:
            self._store_since_ms = None
            return self._until_ms
        if self._store_since_ms is None:
            self._store_since_ms = now_ms
        wait_ms = self._store_since_ms + _TELL_STORE_MS - now_ms
        if wait_ms > 0:
            return wait_ms
        self._is_store_told = True
        _LOG.warning(
            "no task runs here any more; waiting for a store, which lacks results of this node: %s "
            "(at most %d s)",
            counted(mesh.log.awaited_count, "record"), (self._give_by_ms - now_ms) // 1000,
        )  # fmt: skip
        return self._until_ms

    def _until_given(self, now_ms: int) -> int:
        mesh = self._runtime.mesh
        assert mesh.ownership is not None
        handoff = mesh.ownership.handoff
        if not (mesh.tasks_left or handoff.unconfirmed or mesh.is_deciding):
            return 0
        if handoff.is_giving:
            self._quiet_since_ms = now_ms
        may_take = handoff.has_takers or mesh.membership.pending_dials()
        quiet_ms = _QUIET_MS if may_take else 0
        return min(self._quiet_since_ms + quiet_ms, self._until_ms) - now_ms

    def _until_finished(self, now_ms: int) -> int:
        """What still runs while tasks are handed over may end in what is left of the time."""
        return 0 if self._runtime.mesh.is_idle else self._until_ms - _LAST_WORDS_MS - now_ms

    @property
    def _dispatcher(self) -> Dispatcher:
        dispatcher = self._runtime.mesh.dispatcher
        assert dispatcher is not None
        return dispatcher

    def _tell(self) -> None:
        if self.running_left and not self._is_hurried:
            _LOG.warning(
                "the time to drain is over: %s will run elsewhere",
                counted(self.running_left, "running task"),
            )
        if self._taken:
            who = ", ".join(f"{count} to {name}" for name, count in self._taken.items())
            count = sum(self._taken.values())
            _LOG.info("handed over %s: %s", counted(count, "task"), who)
        lost = self.lost_count = self._dispatcher.unwritten_count
        left = self._runtime.mesh.tasks_left - lost
        if left:
            stay = f"{counted(left, 'task')} {'stays' if left == 1 else 'stay'}"
            where = self._journal.folder
            _LOG.info("%s in journal %s, for the next node on this host", stay, where)
        if lost:
            why = self._journal.why_not or "the journal did not take them in time"
            are = f"{counted(lost, 'task')} {'is' if lost == 1 else 'are'}"
            _LOG.error("%s lost: no node takes over what waits here, and %s", are, why)
