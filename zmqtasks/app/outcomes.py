"""What a final outcome means to the one who waits for it."""

from __future__ import annotations

from typing import Any

from zmqtasks.core.offspring import CAUSE_KEY
from zmqtasks.errors import (
    ChordError,
    MaxRetriesExceededError,
    TaskDead,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskRejected,
    TaskRevokedError,
    TaskUnknown,
    TimeLimitExceeded,
    WorkerLostError,
)
from zmqtasks.ids import format_task_id
from zmqtasks.node.gateway import UNKNOWN_STATUS
from zmqtasks.wire.messages import Outcome, Status
from zmqtasks.wire.payload import decode_error, decode_value

#: {status: (class, what it says when the outcome has no text of its own)}
_ENDINGS: dict[int, tuple[type[TaskError], str]] = {
    Status.FAILURE: (TaskFailed, "failed"),
    Status.RETRIES_EXHAUSTED: (MaxRetriesExceededError, "failed in all of its retries"),
    Status.EXPIRED: (TaskExpired, "expired before it started"),
    Status.CANCELLED: (TaskRevokedError, "was cancelled"),
    Status.TIME_LIMIT: (TimeLimitExceeded, "ran longer than its time limit"),
    Status.WORKER_LOST: (WorkerLostError, "was running on a worker that was lost"),
    Status.DEAD: (TaskDead, "was set aside after its attempts took down several workers"),
    Status.REJECTED: (TaskRejected, "declined to run, and is not to be run again"),
    UNKNOWN_STATUS: (
        TaskUnknown,
        "is known to nobody in the mesh: a wrong id, or its result has expired",
    ),
}
#: Statuses that make ``get()`` return; with IGNORED there is nothing to return.
RETURNED = frozenset({int(Status.SUCCESS), int(Status.IGNORED)})
#: Statuses whose body is the exception that the task raised, if there is a body.
_RAISED = frozenset({Status.FAILURE, Status.RETRIES_EXHAUSTED})


def value_of(outcome: Outcome) -> Any:
    """The value that the task returned, None if it is ignored; for RETURNED statuses only.

    Raises:
        DecodeError: the value cannot be rebuilt in this process.
    """
    return None if outcome.status == Status.IGNORED else decode_value(_body(outcome))


def error_of(outcome: Outcome) -> Exception | None:
    """A fresh exception saying how the task failed, None if ``get()`` returns."""
    status = outcome.status
    if status in RETURNED:
        return None
    if status in _RAISED and outcome.body:
        return decode_error(_body(outcome))
    if status == Status.FAILURE and CAUSE_KEY in (outcome.ext or {}):
        return ChordError(f"task {format_task_id(outcome.id)}: {(outcome.ext or {}).get('e')}")
    cls, ending = _ENDINGS.get(status, (TaskFailed, f"ended with unknown status {status}"))
    text = (outcome.ext or {}).get("e")
    task = f"task {format_task_id(outcome.id)}"
    return cls(f"{task}: {text}" if text else f"{task} {ending}")


def traceback_of(outcome: Outcome) -> str | None:
    """The remote traceback as text, None where there is none."""
    return getattr(error_of(outcome), "remote_traceback", None)


def _body(outcome: Outcome) -> bytes:
    body = outcome.body
    assert isinstance(body, bytes), "the gateway gives outcomes with their bodies"
    return body
