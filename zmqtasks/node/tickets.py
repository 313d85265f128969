"""Who in this process waits for which task, and what they are told of it."""

from __future__ import annotations

from collections.abc import Iterable

from zmqtasks.core.calls import UNKNOWN_STATUS, Ticket
from zmqtasks.wire.messages import Outcome, StateRecord, TaskState, UpdateRecord


class Tickets:
    """The tickets of tasks that have not settled. Used on the I/O thread, but ``add``.

    Bounded by what is open: a ticket goes with its task's outcome.
    """

    def __init__(self) -> None:
        #: {task id: who waits for its outcome}; the first waiter stands alone, as nearly
        #: every task has just one.
        self._first: dict[bytes, Ticket] = {}
        self._more: dict[bytes, list[Ticket]] = {}

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._first

    def __len__(self) -> int:
        return len(self._first)

    def add(self, task_id: bytes, ticket: Ticket) -> None:
        """Tell this ticket of the task; from any thread."""
        if self._first.setdefault(task_id, ticket) is not ticket:
            self._more.setdefault(task_id, []).append(ticket)

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Tell everybody who waits for these."""
        first, more = self._first, self._more
        for outcome in outcomes:
            task_id = outcome.id
            ticket = first.pop(task_id, None)
            if ticket is not None:
                ticket.settled(task_id, outcome)
            if more:
                for other in more.pop(task_id, ()):
                    other.settled(task_id, outcome)

    def updated(self, updates: Iterable[UpdateRecord]) -> None:
        """Tell everybody who waits for these what they say of themselves."""
        for record in updates:
            ticket = self._first.get(record.id)
            if ticket is not None:
                ticket.updated(record.id, record)
                for other in self._more.get(record.id, ()):
                    other.updated(record.id, record)

    def drop(self, ids: Iterable[bytes]) -> None:
        """Nobody will be told of these."""
        for task_id in ids:
            self._first.pop(task_id, None)
            self._more.pop(task_id, None)

    def take_back(self, ids: Iterable[bytes], ticket: Ticket) -> None:
        """This ticket waits no longer for these; others still may."""
        for task_id in ids:
            # Handles of one task are equal, so they are told apart by identity.
            others = [other for other in self._more.pop(task_id, ()) if other is not ticket]
            if self._first.get(task_id) is ticket:
                del self._first[task_id]
                if others:
                    self._first[task_id] = others.pop(0)
            if others:
                self._more[task_id] = others


def unknown_outcome(task_id: bytes, text: str = "") -> Outcome:
    """What a ticket is told of a task that nobody knows; ``text``: why, as a clause."""
    ext = {"e": text} if text else None
    return Outcome(task_id, 0, UNKNOWN_STATUS, 0, -1, 0, 0, 0, b"", ext)


def said_before(record: StateRecord) -> UpdateRecord:
    """The state that a running task gave itself before it was followed, as news. Its attempt
    is 0: news that were on their way may have overtaken it."""
    state, meta = record.info["state"], record.info.get("meta")
    return UpdateRecord(record.id, 0, -1, str(state), meta if isinstance(meta, bytes) else b"")


def pending_if_unknown(record: StateRecord) -> StateRecord:
    """Not everybody has answered, so nobody may say that it is unknown."""
    if record.state != TaskState.UNKNOWN:
        return record
    return StateRecord(record.id, TaskState.PENDING, {"why": "not all nodes answered"}, None)


def describe_state(record: StateRecord) -> str:
    """What is known of a task, as a clause for messages that name its id."""
    info = record.info
    name, worker = info.get("name", "it"), info.get("worker")
    if record.state == TaskState.UNKNOWN:
        return "every node that answered does not know it"
    if record.state == TaskState.STARTED:
        return f"{name} is running on {worker} (attempt {info.get('attempt')})"
    if record.state in (TaskState.SETTLED, TaskState.UNSETTLED):
        return f"{name} has ended, its outcome is on its way"
    if worker:
        return f"{name} was handed to {worker} (attempt {info.get('attempt')})"
    return str(info.get("why") or f"{name} waits, no more is known")
