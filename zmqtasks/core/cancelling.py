"""Tasks that their owner ends before their time: cancelled by somebody, or expired.

What nobody has settles at once. What a worker has is the worker's to end, and its outcome
says how it ended; CANCEL asks for that. Until then the cancellation is pending: whatever
comes instead of an outcome (a lost worker, a dead child, a wish for a retry) settles the
task, and no attempt follows. So a task whose cancellation was told never starts after it.

A pending cancellation is among the facts of the task, so it lasts as the task does: in the
journal, if that has the task, and with its next owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from zmqtasks.core.custody import Custody
from zmqtasks.core.dealing import always_auto
from zmqtasks.core.effects import Send
from zmqtasks.core.lanes import Lane, OwnedTask
from zmqtasks.core.links import LinkId
from zmqtasks.core.ownedtasks import CANCELLED_KEY, Cancellation
from zmqtasks.core.settling import SettlingTasks
from zmqtasks.limits import CANCELLED_TOLD_MAX, HANDOFF_IDS_MAX
from zmqtasks.wire.messages import Cancel, Kind, Status

#: What ``cancel`` says of a task: it settles as cancelled whatever comes; a worker has it,
#: or may have it or get it from its next owner, and is asked to end it; it has ended; it is
#: not owned here.
REVOKED, RUNNING, SETTLED, UNKNOWN = "revoked", "running", "settled", "unknown"

_TEXTS = {
    Status.CANCELLED: "it was cancelled before it was started",
    Status.EXPIRED: "it expired before it was started",
}


class CancellingTasks(SettlingTasks):
    """Cancels tasks, for the Dispatcher.

    Args: see :class:`OwnedTasks`.
    """

    def __init__(
        self, tasks_max: int, bytes_max: int, custody: Custody | None = None,
        routes: Callable[[str], str] = always_auto,
    ) -> None:  # fmt: skip
        super().__init__(tasks_max, bytes_max, custody, routes)
        #: {task id: how} of tasks that were given away with their cancellation pending; for
        #: whoever tells their new owners.
        self.given_cancelled: dict[bytes, Cancellation] = {}
        #: Ids of the tasks that were cancelled last.
        self.cancelled: deque[bytes] = deque(maxlen=CANCELLED_TOLD_MAX)
        #: {(worker, how): attempts} to be told at the end of the turn.
        self._cancels: dict[tuple[LinkId, Cancellation], list[tuple[bytes, int]]] = {}
        #: Lanes with tasks among their ready ones that have settled.
        self._thinned: dict[Kind, Lane] = {}

    def cancel(
        self, ids: Iterable[bytes], status: Status = Status.CANCELLED, *,
        terminate: bool = False, signal: int = 15,
    ) -> list[str]:  # fmt: skip
        """End these tasks; returns what is to be said of each, see ``REVOKED`` and others.

        Args:
            ids: of tasks that this node owns, or others.
            status: CANCELLED or EXPIRED.
            terminate: also those that run.
            signal: to the processes of those.
        """
        how = Cancellation(status, terminate, signal if terminate else 0)
        return [self.cancel_so(task_id, how) for task_id in ids]

    def cancel_so(self, task_id: bytes, how: Cancellation) -> str:
        """End this task, as ``cancel`` does."""
        task = self.tasks.get(task_id)
        if task is None:
            return UNKNOWN if self.kept.get(task_id) is None else SETTLED
        if task.outcome is not None:
            return SETTLED
        if how.status is Status.CANCELLED:
            self.cancelled.append(task_id)
        is_putting = task_id in self._putting  # it may still be refused
        if task.is_unsure and task.is_waiting and not task.offered:
            task.is_unsure = False
            task.attempt += 1  # the last one may be somewhere, after all
        if task.worker is None and not (task.offered or task.is_unsure or is_putting):
            self._end(task, how.status)
            return REVOKED
        before = self._cancelling.get(task_id)
        if before is None or how.terminate or before.status is Status.EXPIRED:
            self._cancelling[task_id] = how
            self._ask_worker(task)
            if how.status is Status.CANCELLED:
                self.stories.tell(task_id, "cancel", terminate=how.terminate)
                if not task.offered:  # else the next owner is told when it has the task
                    self._keep(task, how)
        # Whoever it is offered to may give it to a worker before the cancellation is there.
        may_start = task.worker is not None or task.is_unsure or bool(task.offered)
        return RUNNING if may_start else REVOKED

    def _keep(self, task: OwnedTask, how: Cancellation) -> None:
        """Another life of this node shall know it too."""
        task.ext = {**(task.ext or {}), CANCELLED_KEY: how.signal}
        # A new durable task that the journal still gets would be changed before it is there.
        if task.is_written and task.id not in self._putting:
            self.written.changed(task)

    def _ask_worker(self, task: OwnedTask) -> None:
        """If one has it, and it has not ended there."""
        if task.worker is not None and task.fetching is None:
            key = task.worker.link, self._cancelling[task.id]
            self._cancels.setdefault(key, []).append((task.id, task.attempt))

    def _end(self, task: OwnedTask, status: Status) -> None:
        """Nobody has it: it settles."""
        if not task.is_waiting:
            self._thinned[task.lane.kind] = task.lane
        task.is_waiting = False
        self._settle_here(task, status, _TEXTS[status])

    def _is_cancelled(self, task: OwnedTask) -> bool:
        """See ``OwnedTasks``."""
        how = self._cancelling.pop(task.id, None)
        if how is None:
            return False
        task.is_waiting = task.is_unsure = False
        self._settle_here(task, how.status, _TEXTS[how.status])
        return True

    def _expire(self, task: OwnedTask) -> None:
        self._end(task, Status.EXPIRED)

    def give(self, ids: Iterable[bytes]) -> list[OwnedTask]:
        """See ``OwnedTasks.give``."""
        given = super().give(ids)
        for task in given if self._cancelling else ():
            how = self._cancelling.pop(task.id, None)
            if how is not None and how.status is Status.CANCELLED:
                self.given_cancelled[task.id] = how
        return given

    # --- the end of a turn ----------------------------------------------------------------

    def _thin_lanes(self) -> None:
        """Let lanes forget those of their ready tasks that have settled: once a turn, since
        one of them costs as much as all."""
        for lane in self._thinned.values():
            lane.ready.keep(lambda task: task.outcome is None and task.id in self.tasks)
        self._thinned.clear()

    def _send_cancels(self) -> None:
        cancels, self._cancels = self._cancels, {}
        for (link, how), attempts in cancels.items():
            for first in range(0, len(attempts), HANDOFF_IDS_MAX):
                part = attempts[first : first + HANDOFF_IDS_MAX]
                message = Cancel(part, how.status, how.terminate, how.signal)
                self.effects.append(Send(link, message))
