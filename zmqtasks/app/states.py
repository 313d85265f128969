"""The states of a task as users see them, under Celery's names.

Source: docs/promises.md, "How a task can end".
"""

from __future__ import annotations

from zmqtasks.node.gateway import UNKNOWN_STATUS
from zmqtasks.wire.messages import StateRecord, Status, TaskState

#: Not finished, and not seen running: queued, on its way, or waiting for a worker.
PENDING = "PENDING"
#: A worker runs it.
STARTED = "STARTED"
#: It returned a value.
SUCCESS = "SUCCESS"
#: It raised, ran out of retries or time, or its worker was lost.
FAILURE = "FAILURE"
#: Set aside after its attempts took down several workers; counts as failed.
DEAD = "DEAD"
#: Cancelled or expired before it ran.
REVOKED = "REVOKED"
#: It raised, and waits for its next attempt.
RETRY = "RETRY"
#: It raised ``Ignore``: it ended and says nothing of how.
IGNORED = "IGNORED"
#: It raised ``Reject``: it declined to run.
REJECTED = "REJECTED"
#: Nobody in the mesh knows this task id.
UNKNOWN = "UNKNOWN"

#: States in which ``get()`` returns or raises at once.
READY_STATES = frozenset({SUCCESS, FAILURE, DEAD, REVOKED, IGNORED, REJECTED, UNKNOWN})
#: States in which ``get()`` raises.
EXCEPTION_STATES = frozenset({FAILURE, DEAD, REVOKED, REJECTED, UNKNOWN})
#: States that say that the task failed.
FAILED_STATES = frozenset({FAILURE, DEAD})
ALL_STATES = frozenset({PENDING, STARTED, RETRY}) | READY_STATES

#: {Outcome.status: state}
STATE_OF_STATUS: dict[int, str] = {
    Status.SUCCESS: SUCCESS,
    Status.FAILURE: FAILURE,
    Status.RETRIES_EXHAUSTED: FAILURE,
    Status.EXPIRED: REVOKED,
    Status.CANCELLED: REVOKED,
    Status.TIME_LIMIT: FAILURE,
    Status.WORKER_LOST: FAILURE,
    Status.DEAD: DEAD,
    Status.IGNORED: IGNORED,
    Status.REJECTED: REJECTED,
    UNKNOWN_STATUS: UNKNOWN,
}

#: {StateRecord.state: state} of tasks without a final outcome.
STATE_OF_OPEN: dict[int, str] = {
    TaskState.UNKNOWN: UNKNOWN,
    TaskState.PENDING: PENDING,
    TaskState.STARTED: STARTED,
    # An outcome exists, but it counts only once the owner has settled it.
    TaskState.UNSETTLED: STARTED,
}


def state_of(record: StateRecord) -> str:
    """The state of a task without a final outcome.

    One that was retried and is not seen running again is in RETRY.
    """
    if record.state == TaskState.PENDING and record.info.get("retries"):
        return RETRY
    return STATE_OF_OPEN.get(record.state, PENDING)
