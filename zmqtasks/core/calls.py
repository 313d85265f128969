"""A call on its way to its owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from zmqtasks.limits import INPUT_BYTES
from zmqtasks.wire.messages import Kind, Outcome, UpdateRecord

#: Key in a task's facts: ``[ids of the tasks that it waits for, shape]``; the shape (of
#: ``wire.joined``) makes their results the first argument, None: they are none.
INPUTS_KEY = "in"
#: Status of the made-up outcome that tells a ticket that nobody knows its task.
UNKNOWN_STATUS = 255


class Call(NamedTuple):
    """One call to own. ``body`` is the encoded arguments, ``ext`` see ``TaskRecord``."""

    id: bytes
    kind: Kind
    body: bytes
    ext: dict[str, Any] | None


def weight(body: bytes, ext: Mapping[str, Any] | None) -> int:
    """Bytes of a call, where its facts may have many: of what it waits for."""
    found = ext.get(INPUTS_KEY) if ext is not None else None
    # It may come from anybody, and is looked at later.
    ids = found[0] if isinstance(found, (list, tuple)) and found else None
    return len(body) + (INPUT_BYTES * len(ids) if isinstance(ids, (list, tuple)) else 0)


class Ticket(Protocol):
    """Receives outcomes and news; ``AsyncResult`` and ``ResultSet`` hold one each."""

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """The task's final outcome. Called on the I/O thread: must not block or raise."""

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """News of the running task; as ``settled``, and never after it."""
