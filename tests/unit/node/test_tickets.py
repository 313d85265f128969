"""Who is told of which outcome."""

from __future__ import annotations

from zmqtasks.node.tickets import Tickets, describe_state, unknown_outcome
from zmqtasks.wire.messages import Outcome, StateRecord, Status, TaskState, UpdateRecord

A, B = b"a" * 16, b"b" * 16


class _Ticket:
    """Equal to every other one, as the handles of one task are."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        assert outcome.id == task_id
        self.told.append(task_id)

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        assert record.id == task_id
        self.told.append(record.meta)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ticket)

    def __hash__(self) -> int:
        return 1


def _outcome(task_id: bytes) -> Outcome:
    return Outcome(task_id, 1, Status.SUCCESS, 1, -1, 0, 0, 0, b"", None)


def test_every_waiter_is_told_once() -> None:
    tickets, one, two = Tickets(), _Ticket(), _Ticket()
    tickets.add(A, one)
    tickets.add(A, two)
    tickets.add(A, one)
    tickets.add(B, two)
    tickets.settled([_outcome(A), _outcome(A)])
    assert (one.told, two.told) == ([A], [A])
    assert A not in tickets
    assert len(tickets) == 1


def test_every_waiter_is_told_the_news_until_the_task_has_settled() -> None:
    tickets, one, two = Tickets(), _Ticket(), _Ticket()
    tickets.add(A, one)
    tickets.add(A, two)
    news = [UpdateRecord(task_id, 1, -1, "HALF", b"half") for task_id in (A, B)]
    tickets.updated(news)
    tickets.settled([_outcome(A)])
    tickets.updated(news)
    assert (one.told, two.told) == ([b"half", A], [b"half", A])


def test_ticket_that_is_taken_back_leaves_the_others_waiting() -> None:
    tickets, one, two = Tickets(), _Ticket(), _Ticket()
    tickets.add(A, one)
    tickets.add(A, two)
    tickets.take_back([A, B], one)
    tickets.settled([_outcome(A)])
    assert (one.told, two.told) == ([], [A])


def test_second_waiter_can_be_taken_back() -> None:
    tickets, one, two = Tickets(), _Ticket(), _Ticket()
    tickets.add(A, one)
    tickets.add(A, two)
    tickets.take_back([A], two)
    tickets.take_back([A], two)
    tickets.settled([_outcome(A)])
    assert (one.told, two.told) == ([A], [])


def test_dropped_tasks_tell_nobody() -> None:
    tickets, one = Tickets(), _Ticket()
    tickets.add(A, one)
    tickets.drop([A, B])
    tickets.settled([_outcome(A)])
    assert not one.told


def test_state_is_described_as_a_clause() -> None:
    def said(state: int, **info: object) -> str:
        return describe_state(StateRecord(A, state, info, None))

    assert said(TaskState.UNKNOWN) == "every node that answered does not know it"
    assert said(TaskState.STARTED, name="t", worker="w", attempt=2) == (
        "t is running on w (attempt 2)"
    )
    assert said(TaskState.SETTLED, name="t") == "t has ended, its outcome is on its way"
    assert said(TaskState.PENDING, name="t", worker="w", attempt=1) == (
        "t was handed to w (attempt 1)"
    )
    assert said(TaskState.PENDING, why="no worker") == "no worker"
    assert said(TaskState.PENDING, name="t") == "t waits, no more is known"
    assert unknown_outcome(A).id == A
