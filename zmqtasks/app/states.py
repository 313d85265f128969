"""The states of a task as users see them, under Celery's names.

Source: docs/promises.md, "How a task can end".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zmqtasks.node.gateway import UNKNOWN_STATUS
from zmqtasks.wire.messages import StateRecord, Status, TaskState

#: Not finished, and no worker has it: it waits for one, for its time, or for other tasks.
PENDING = "PENDING"
#: A worker has it and was not seen running it.
RECEIVED = "RECEIVED"
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
#: The same under Celery's other name.
PROPAGATE_STATES = EXCEPTION_STATES
#: States that say that the task failed.
FAILED_STATES = frozenset({FAILURE, DEAD})
#: States of tasks that have not ended; they may have given themselves others.
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, RETRY})
ALL_STATES = UNREADY_STATES | READY_STATES

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
    """The state of a task without a final outcome."""
    if record.state == TaskState.PENDING:
        return pending_state(record.info)
    return STATE_OF_OPEN.get(record.state, PENDING)


def pending_state(facts: Mapping[str, Any]) -> str:
    """Which kind of PENDING it is, of what its owner or a worker tells.

    One that was retried, and that no worker has again, is in RETRY.
    """
    if facts.get("worker"):
        return RECEIVED
    return RETRY if facts.get("retries") else PENDING
