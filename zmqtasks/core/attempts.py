"""What becomes of attempts that end without an outcome."""

from __future__ import annotations

from collections.abc import Callable

from zmqtasks.core.custody import Custody
from zmqtasks.core.dealing import always_auto
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.settling import SettlingTasks
from zmqtasks.limits import STRIKES_MAX
from zmqtasks.wire.messages import Status


class Attempts(SettlingTasks):
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

    def _redeliver(self, task: OwnedTask, reason: str, *, strike: bool, ran: bool = True) -> None:
        """Its attempt came to nothing; ``ran``: it may have been running."""
        task.worker = None
        task.fetching = None
        task.started = False
        name = task.lane.kind.name
        self.stories.tell(task.id, "lost", attempt=task.attempt, reason=reason, strike=strike)
        if ran and task.lane.is_guarded:
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
        self.redelivered_count += 1
        if task.is_written:
            self.written.next_attempt(task)
        else:
            self._ready(task)

    def _go_on(self, task: OwnedTask) -> None:
        """Resumed, and no worker has claimed its attempt."""
        if task.lane.is_guarded and task.attempt > 0:
            reason = "its owner was restarted, and no worker has told of it since"
            self._redeliver(task, reason, strike=False)
        else:
            self._next_attempt(task)
