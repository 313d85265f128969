"""A call on its way to its owner."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from zmqtasks.wire.messages import Kind, Outcome, UpdateRecord

#: Status of the made-up outcome that tells a ticket that nobody knows its task.
UNKNOWN_STATUS = 255


class Call(NamedTuple):
    """One call to own. ``body`` is the encoded arguments, ``ext`` see ``TaskRecord``."""

    id: bytes
    kind: Kind
    body: bytes
    ext: dict[str, Any] | None


class Ticket(Protocol):
    """Receives outcomes and news; ``AsyncResult`` and ``ResultSet`` hold one each."""

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """The task's final outcome. Called on the I/O thread: must not block or raise."""

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """News of the running task; as ``settled``, and never after it."""
