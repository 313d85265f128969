"""What becomes of attempts that end without an outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zmqtasks.core.calls import Call
from zmqtasks.core.cancelling import CancellingTasks
from zmqtasks.core.custody import Custody
from zmqtasks.core.dealing import always_auto
from zmqtasks.core.held import AMONG_KEY, STRIKES_KEY
from zmqtasks.core.inputs import REPLACED_KEY
from zmqtasks.core.lanes import (
    ASKED_KEY,
    ONCE_KEY,
    REQUEUES_KEY,
    RETRIES_KEY,
    Lane,
    OwnedTask,
    count_in,
    is_guarded,
    may_have_started,
)
from zmqtasks.core.owned import Durability
from zmqtasks.core.requirements import kind_for
from zmqtasks.limits import ADDRESSEE_MISSED_MS, AMONG_MAX, STRIKES_MAX
from zmqtasks.wire.messages import RetryRecord, Status


class Attempts(CancellingTasks):
    """Follows one attempt by another, for the Dispatcher.

    Args: see :class:`OwnedTasks`.
    """

    def __init__(
        self, tasks_max: int, bytes_max: int, custody: Custody | None = None,
        routes: Callable[[str], str] = always_auto,
    ) -> None:  # fmt: skip
        super().__init__(tasks_max, bytes_max, custody, routes)
        #: For `status` and tests.
        self.redelivered_count = 0
        self.retried_count = 0

    # --- time -----------------------------------------------------------------------------

    def _look_at_clock(self, now_ms: int) -> None:
        """Let those go on whose time has come, and those not whose time has ended."""
        for task in self.waiting.come_due():
            if task.offered:
                continue  # put back, it goes on
            if task.is_unsure:
                task.is_unsure = False
                self._go_on(task)
            else:
                self._place(task)
        self.cancel(
            [task.id for task in self.waiting.come_late() if not task.started], Status.EXPIRED
        )
        self.waiting.looked(now_ms)

    # --- tasks for one node -----------------------------------------------------------------

    def _forsake(self, node: str, reason: str) -> None:
        """This node (id in hex) is gone, and nobody else may run the tasks that are for it."""
        lanes = [lane for lane in self.lanes.values() if lane.node == node]
        if not lanes:
            return
        for task in list(self.tasks.values()):
            is_settled = task.outcome is not None or task.offered or task.id in self._putting
            if task.lane.node != node or is_settled:
                continue
            task.attempt += 1  # the last one may still report an outcome
            self._thinned[task.lane.kind] = task.lane
            if not self._is_cancelled(task):
                task.is_waiting = task.is_unsure = False
                self._settle_here(task, Status.WORKER_LOST, reason)
        in_use = {id(task.lane) for task in self.tasks.values()}
        for lane in lanes:
            if id(lane) not in in_use:
                del self.lanes[lane.kind]

    def _missed(self) -> Iterator[tuple[Lane, int]]:
        """Tasks for one node that cannot run them, and when that has been so for too long."""
        for lane in self.lanes.values():
            if lane.node and lane.ready and not lane.workers and lane.unserved_since_ms >= 0:
                yield lane, lane.unserved_since_ms + ADDRESSEE_MISSED_MS

    def _forsake_missed(self, now_ms: int) -> None:
        """Nobody else may run the tasks for nodes that had gone before they were submitted."""
        there = {link.peer[1:9].hex() for link in self.workers}
        for lane in [lane for lane, late_ms in self._missed() if late_ms <= now_ms]:
            reason = f"the only worker that may run it (node {lane.node}) is not in sight"
            if lane.node in there:
                reason = f"the only worker that may run it cannot: {self.dealer.why_waiting(lane)}"
            self._forsake(lane.node, reason)

    # --- lost ones ------------------------------------------------------------------------

    def _blamed(self, ran: Sequence[OwnedTask]) -> set[bytes]:
        """The ids of those tasks that ran on a dead worker that get a strike for it.

        The only one does. Of several nobody knows which it was, if any, so it is noted
        that each was there. Those that were there twice are kept apart from then on, so of
        those at a third one at most is there for the third time: it is to blame.
        """
        if len(ran) < 2:
            return {task.id for task in ran}
        counts = [self._note_among(task) for task in ran]
        most = max(counts)
        first = {task.id for task, count in zip(ran, counts, strict=True) if count == most}
        return first if most > AMONG_MAX and len(first) == 1 else set()

    def _note_among(self, task: OwnedTask) -> int:
        """One more worker died under it and others; returns how many so far."""
        count = count_in(task.ext, AMONG_KEY) + 1
        task.ext = {**(task.ext or {}), AMONG_KEY: count}
        if count >= AMONG_MAX:
            # In a process of its own it may be found out before it takes all with it.
            task.ext[STRIKES_KEY] = task.strikes
        if task.is_written:
            self.written.changed(task)
        return count

    def _redeliver(self, task: OwnedTask, reason: str, *, strike: bool, ran: bool = True) -> None:
        """Its attempt came to nothing; ``ran``: it may have been running."""
        task.worker = None
        task.fetching = None
        task.started = False
        name = task.lane.kind.name
        self.stories.tell(task.id, "lost", attempt=task.attempt, reason=reason, strike=strike)
        if task.id in self._cancelling:
            task.attempt += 1
            self._is_cancelled(task)
            return
        if ran and is_guarded(task.lane.kind, task.ext):
            task.attempt += 1  # the last one may still report an outcome
            text = f"{reason} and {name} is not idempotent, so it is not started again"
            self._settle_here(task, Status.WORKER_LOST, text)
            return
        if strike:
            task.strikes += 1
            if task.strikes >= STRIKES_MAX:
                task.attempt += 1
                self._settle_here(task, Status.DEAD, (
                    f"{name} was running when {task.strikes} workers or their children died, "
                    "so it is not tried again"
                ))  # fmt: skip
                return
        self._next_attempt(task)

    def _next_attempt(self, task: OwnedTask) -> None:
        task.attempt += 1
        task.is_guarded = True
        task.is_retry = False
        self.redelivered_count += 1
        if task.is_written:
            self.written.next_attempt(task)
        else:
            self._ready(task)

    def _go_on(self, task: OwnedTask) -> None:
        """Resumed, and no worker has claimed its attempt."""
        if task.id in self._cancelling:
            task.attempt += 1
            self._is_cancelled(task)
        elif is_guarded(task.lane.kind, task.ext) and may_have_started(task):
            reason = "its owner was restarted, and no worker has told of it since"
            self._redeliver(task, reason, strike=False)
        else:
            self._next_attempt(task)

    # --- those that ask for another one -----------------------------------------------------

    def _retry(self, task: OwnedTask, record: RetryRecord) -> None:
        """Its attempt has ended and asks for another one.

        That is so for a task that is not idempotent as well: it says itself that what it
        did may be done again.
        """
        if task.worker is not None:
            task.worker.held.pop(task.id, None)
            self.dealer.is_touched |= task.worker.apart == task.id
        task.worker = task.fetching = None
        task.started = False
        if self._cancelling and self._is_cancelled(task):
            return
        if REPLACED_KEY in (record.ext or {}):
            self._replace(task, record)
            return
        event = "retry" if record.counts else "requeue"
        self.stories.tell(
            task.id, event, attempt=task.attempt, error=record.error, in_ms=record.delay_ms
        )
        ext = {**(task.ext or {}), **(record.ext or {})}
        key = RETRIES_KEY if record.counts else REQUEUES_KEY
        ext[key] = count_in(task.ext, key) + 1
        ext.pop("eta", None)
        if record.delay_ms > 0:
            ext["eta"] = self.wall_ms + record.delay_ms
        if task.lane.is_noted or ONCE_KEY in ext:
            ext[ASKED_KEY] = task.attempt
        task.ext = ext
        task.lane = self.dealer.lane_of(kind_for(task.lane.kind, ext))
        if isinstance(record.body, bytes):
            self.open_bytes += len(record.body) - len(task.body)
            task.body = record.body
        self.retried_count += 1
        self._again(task, has_new_body=record.body is not None)

    def _again(self, task: OwnedTask, *, has_new_body: bool) -> None:
        task.attempt += 1
        task.is_guarded = False
        task.is_retry = True
        self.waiting.watch(task)
        if task.is_written:
            self.written.renewed(task, has_new_body=has_new_body)
        else:
            self._ready(task)

    def _replace(self, task: OwnedTask, record: RetryRecord) -> None:
        """Others take its place: own them, and let it wait for the last one."""
        self.stories.tell(task.id, "replaced", attempt=task.attempt)
        carried = self._unpacked(record.body, task.id) if record.body is not None else []
        is_whole = bool(carried) and all(len(each.id) == 16 for each in carried)
        if record.body is not None and not is_whole:
            self._settle_here(task, Status.FAILURE, "what was to take its place cannot be read")
            return
        is_durable = task.durability is Durability.DISK
        for each in carried:
            call = Call(each.id, each.kind, each.body, each.ext)
            self._own_call(call, is_durable=each.is_durable or is_durable)
        task.ext = {**(task.ext or {}), **(record.ext or {})}
        self._again(task, has_new_body=False)
