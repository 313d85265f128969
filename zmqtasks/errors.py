"""Every exception that zmqtasks raises, as one tree.

::

    ZmqTasksError
    ├── ConfigError               a setting, URL, option or file that cannot be used
    ├── AppLoadError              the application module could not be imported
    ├── ProtocolError
    │   ├── LocalProtocolError    we broke a rule: a bug
    │   └── RemoteProtocolError   the peer did: counted, logged once, dropped
    │       ├── DecodeError
    │       ├── FrameTooLarge
    │       └── VersionMismatch
    ├── SecurityError
    │   ├── KeyRequired
    │   └── KeyUnusable
    ├── SubmitError
    │   ├── SubmitRejected        certain: the task was NOT accepted
    │   │   ├── MeshOverloaded
    │   │   ├── NoWorkers
    │   │   ├── PayloadTooLarge
    │   │   └── PayloadTypeError  also a TypeError
    │   └── SubmitUnknown         uncertain: it may run
    ├── TaskError                 raised by AsyncResult.get()
    │   ├── TaskFailed
    │   ├── MaxRetriesExceededError
    │   ├── TimeLimitExceeded
    │   ├── WorkerLostError
    │   │   └── TaskDead
    │   ├── TaskRevokedError
    │   │   └── TaskExpired
    │   ├── TaskRejected
    │   └── TaskUnknown
    ├── TaskPredicate             raised by a task to say how its attempt ends
    │   ├── Retry
    │   ├── Ignore
    │   └── Reject
    ├── SoftTimeLimitExceeded     raised inside a task whose time is nearly over
    ├── TimeoutError              the wait ended, which says nothing about the task
    ├── ItemsLost                 what a task yielded cannot be had here
    ├── StoreError
    └── JournalError              may have happened all the same, see there
        ├── JournalFull           certain: nothing of it was written
        └── JournalCorrupt

Messages name the thing, the reason and the remedy. Foreign exceptions
(``zmq.ZMQError``, ``sqlite3.Error``) are translated where they arise and never
leave the package.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class ZmqTasksError(Exception):
    """Base of every exception raised by zmqtasks."""


class ConfigError(ZmqTasksError):
    """A setting, option, URL or file that cannot be used."""


class AppLoadError(ZmqTasksError):
    """The application could not be loaded; carries the traceback as text."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        #: The traceback of the failed import as text, "" when there is none.
        self.traceback = traceback


class ProtocolError(ZmqTasksError):
    """Abstract: the wire protocol was broken, see the two subclasses."""


class LocalProtocolError(ProtocolError):
    """We broke the protocol: a bug in zmqtasks."""


class RemoteProtocolError(ProtocolError):
    """A peer broke the protocol: its message is counted and dropped."""


class DecodeError(RemoteProtocolError):
    """Bytes that are no message of this protocol."""


class FrameTooLarge(RemoteProtocolError):
    """A message over the limits of ``limits.py``."""


class VersionMismatch(RemoteProtocolError):
    """No protocol version is common to both ends."""


class SecurityError(ZmqTasksError):
    """Something was refused for safety."""


class KeyRequired(SecurityError):
    """An address beyond this host needs a mesh key."""


class KeyUnusable(SecurityError):
    """A key file is missing, unreadable, malformed or readable by others."""


class SubmitError(ZmqTasksError):
    """A call could not be submitted."""


class SubmitRejected(SubmitError):
    """Certain: the task was not accepted and will not run."""


class SubmitUnknown(SubmitError):
    """Uncertain: nobody could say in time whether the task was accepted, so it may run.

    Repeating the call is safe with the ``idempotency_key`` or ``task_id`` that it had.
    """


class MeshOverloaded(SubmitRejected):
    """The queue of open tasks is full and did not drain in time."""


class NoWorkers(SubmitRejected):
    """``require_worker=`` was given and no worker can run the task."""


class PayloadTooLarge(SubmitRejected):
    """Arguments or a result over the size limit; the message has both sizes."""


class PayloadTypeError(SubmitRejected, TypeError):
    """A value that the serializer cannot carry; names its path and type."""


class TaskError(ZmqTasksError):
    """A task did not succeed."""

    def __init__(self, message: str = "", *, traceback: str | None = None) -> None:
        super().__init__(message)
        #: Remote traceback as text, when there is one.
        self.traceback = traceback


class TaskFailed(TaskError):
    """The task raised an exception whose class is not importable here."""

    def __init__(
        self, message: str = "", *, remote_type: str = "", traceback: str | None = None
    ) -> None:
        super().__init__(message, traceback=traceback)
        #: ``module.QualName`` of the remote exception's class.
        self.remote_type = remote_type


class ChordError(TaskFailed):
    """A call did not run, because one of several that it waited for has not succeeded."""


class MaxRetriesExceededError(TaskError):
    """All retries were used."""


class TimeLimitExceeded(TaskError):
    """The task ran longer than its hard time limit."""


class WorkerLostError(TaskError):
    """The worker that ran the task was lost."""


class TaskDead(WorkerLostError):
    """The task was set aside after its attempts took down several workers."""


class TaskRevokedError(TaskError):
    """The task was cancelled."""


class TaskExpired(TaskRevokedError):
    """The task's time was over before it started."""


class TaskRejected(TaskError):
    """The task raised ``Reject``: it declined to run and is not to be run again."""


class TaskUnknown(TaskError):
    """Nobody in the mesh knows this task id."""


class TaskPredicate(ZmqTasksError):
    """Base of what a task raises to say how its attempt ends, instead of failing."""


class Retry(TaskPredicate):
    """The task shall run again; made and raised by ``Task.retry``.

    Args:
        message: text of the exception; by default when and why.
        exc: why it is retried, if because of an error.
        when: seconds from now, or the moment of the next attempt.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc
        self.when = when
        #: What the worker tells the owner; None when the task raised it by itself.
        self.plan: object = None

    def humanize(self) -> str:
        """When, for people."""
        if isinstance(self.when, (int, float)):
            return f"in {self.when:g}s"
        return f"at {self.when}" if self.when else "later"

    def __str__(self) -> str:
        if self.message:
            return self.message
        why = f": {type(self.exc).__name__}: {self.exc}" if self.exc else ""
        return f"Retry {self.humanize()}{why}"


class Ignore(TaskPredicate):
    """The attempt ends and says nothing of how: its state is IGNORED, its result None."""


class Reject(TaskPredicate):
    """The task declines to run.

    Args:
        reason: for the caller and the log.
        requeue: another worker, or this one, shall run it, soon the first time and ever later
            each time; else it ends as REJECTED.
    """

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __str__(self) -> str:
        text = "rejected, to be run again" if self.requeue else "rejected"
        return text if self.reason is None else f"{text}: {self.reason}"


class SoftTimeLimitExceeded(ZmqTasksError):
    """Raised inside a task that has run longer than its soft time limit."""


class TimeoutError(ZmqTasksError, builtins.TimeoutError):
    """A wait ended before the result arrived; the task itself goes on."""


class ItemsLost(ZmqTasksError):
    """Items that a task yielded did not reach this process, or were not read in time."""


class StoreError(ZmqTasksError):
    """A result store could not do what it was asked."""


class JournalError(ZmqTasksError):
    """A journal could not do what it was asked; after a restart it may turn out that it did."""


class JournalFull(JournalError):
    """The disk of a journal has no room: certain that nothing of the request was written."""


class JournalCorrupt(JournalError):
    """A journal is damaged; carries what is wrong and how many tasks can be saved."""

    def __init__(
        self, message: str, *, damages: tuple[str, ...] = (), savable_count: int | None = None
    ) -> None:
        super().__init__(message)
        #: One sentence for each thing found wrong.
        self.damages = damages
        #: Tasks that can still be read, None when that was not looked into.
        self.savable_count = savable_count
