"""The child protocol: what a node and the process that runs user code say.

Messages are MessagePack arrays in length-prefixed batches over one socketpair for each
child (never ZeroMQ: a dead child is an end-of-file on its own socket). The first
element of each is its tag. Source: docs/architecture.md, "Execution".

Where one process has several slots, ``slot`` says which one it is about; else it is 0.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from zmqtasks.wire.messages import CatalogEntry, Kind, StateRecord, Status

#: ``ChildOutcome.status`` of attempts that are to be followed by another one: as a retry,
#: or as if they had not been. Never seen outside of the node, unlike a wire Status.
RETRY_STATUS: Final = 100
REQUEUE_STATUS: Final = 101
#: Number of the "slot" of a node's hook child, which runs no tasks.
HOOK_SLOT: Final = -1


class _Frame(msgspec.Struct, array_like=True, gc=False):
    pass


class TaskFacts(msgspec.Struct, array_like=True, frozen=True):
    """What a node needs to know of a task that its children can run.

    Limits are in milliseconds, 0 for none; ``rate`` and ``mesh_rate`` as "10/s" or "" for
    no limit, of this node and of all nodes together.
    """

    soft_ms: int = 0
    hard_ms: int = 0
    rate: str = ""
    mesh_rate: str = ""


def limits_of(ext: dict[str, Any] | None, facts: TaskFacts | None) -> tuple[int, int]:
    """Soft and hard time limit of an attempt in milliseconds, 0 for none.

    Args:
        ext: of its ``TaskRecord``: a call may have limits of its own, in place of each.
        facts: of its task, if anything is to be known of it.
    """
    own = (facts.soft_ms, facts.hard_ms) if facts is not None else (0, 0)
    asked = ext.get("tl") if ext is not None else None
    if asked is None:
        return own
    # From the wire: whoever made it may have put anything there.
    if not isinstance(asked, (list, tuple)) or len(asked) != 2:
        return own
    soft_ms, hard_ms = (
        limit if isinstance(limit, int) and limit > 0 else default
        for limit, default in zip(asked, own, strict=True)
    )
    return soft_ms, hard_ms


# --- node to child ----------------------------------------------------------------------


class RunTask(_Frame, tag="run"):
    """Run one attempt. ``owner``: node id that will own what the task submits.

    ``is_guarded``: its owner knows that the task is not idempotent, so none of its earlier
    attempts can have run. ``soft_ms`` and ``hard_ms``: its time limits, 0 for none.
    """

    id: bytes
    attempt: int
    app: str
    name: str
    queue: str
    owner: bytes
    body: bytes
    ext: dict[str, Any] | None
    is_guarded: bool = False
    soft_ms: int = 0
    hard_ms: int = 0
    slot: int = 0


class Answer(_Frame, tag="answer"):
    """Answer to a ChildRequest: ``error`` is "" or why it was refused."""

    request: int
    error: str
    states: list[StateRecord] = []


class CancelTask(_Frame, tag="cancel"):
    """Do not start this attempt: it ends with ``status``. One that runs already learns of it
    and goes on, or is ended, with ``is_forced`` (only in a process that can end a slot's task;
    else it is the pool's ``cancel`` with a signal that does)."""

    id: bytes
    attempt: int
    status: int = Status.CANCELLED
    is_forced: bool = False


class FireSignal(_Frame, tag="signal"):
    """Call the receivers of one of the node's signals; only to its hook child."""

    name: str
    args: dict[str, Any] = {}


class StopChild(_Frame, tag="stop"):
    """Finish what was sent, then exit."""


# --- child to node ----------------------------------------------------------------------


class ChildReady(_Frame, tag="ready"):
    """The application is loaded (``error`` "") or why not, with the traceback.

    ``conf``: the settings that the application itself makes, by name, plain values; those that
    are about its tasks, to be shown.
    ``facts``: what is to be known of its tasks, by name, where there is something.
    ``has_hooks``: it has receivers of the node's signals.
    """

    pid: int
    catalog: list[CatalogEntry]
    error: str
    traceback: str
    conf: dict[str, Any] = {}
    facts: dict[str, TaskFacts] = {}
    has_hooks: bool = False


class ChildOutcome(_Frame, tag="outcome"):
    """How an attempt ended. ``status`` is a wire Status or one of the two above, ``body`` the
    encoded result or error, ``error`` its short text for logs ("" on success).

    ``ext`` of those that are to be followed by another one: ``in`` milliseconds to wait,
    ``body`` new arguments, ``ext`` facts that replace those of ``TaskRecord.ext``.
    """

    id: bytes
    attempt: int
    status: int
    started_ms: int
    run_us: int
    body: bytes
    error: str
    ext: dict[str, Any] | None = None
    slot: int = 0


class SubmitRequest(_Frame, tag="submit"):
    """Tasks submitted by the running task: ``(kind, id, body, ext)`` each."""

    request: int
    parent: bytes
    attempt: int
    kinds: list[Kind]
    calls: list[tuple[int, bytes, bytes, dict[str, Any] | None]]
    slot: int = 0


class QueryRequest(_Frame, tag="query"):
    """States of tasks; ``wait``: answer when all of them are settled."""

    request: int
    ids: list[bytes]
    wait: bool
    slot: int = 0


class StateUpdate(_Frame, tag="state"):
    """News of the running task: a state of its own making (``number`` -1), or an item that
    it yields (``number`` from 0)."""

    id: bytes
    attempt: int
    state: str
    meta: bytes
    number: int = -1
    slot: int = 0


class ForgetRequest(_Frame, tag="forget"):
    """Drop the kept outcomes of these tasks; not answered."""

    ids: list[bytes]


class SignalFired(_Frame, tag="fired"):
    """The receivers of this signal of the node have been called."""

    name: str


class KeepRequest(_Frame, tag="keep"):
    """Let stores keep this encoded value as if it were the outcome of a task; not answered."""

    kind: Kind
    id: bytes
    body: bytes


class LogRecord(_Frame, tag="log"):
    """A line the task wrote: ``stream`` is "stdout", "stderr" or "logging".

    ``id`` and ``name`` are the task's, empty for what no task wrote.
    """

    id: bytes
    name: str
    stream: str
    level: int
    logger: str
    text: str


ToChild = RunTask | Answer | CancelTask | FireSignal | StopChild
ChildRequest = (
    SubmitRequest
    | QueryRequest
    | StateUpdate
    | ForgetRequest
    | KeepRequest
    | SignalFired
    | LogRecord
)
FromChild = ChildReady | ChildOutcome | ChildRequest
