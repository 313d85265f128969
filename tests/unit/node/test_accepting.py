"""Durable calls: what the thread that submits them hears, and when it hears nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.errors import SubmitRejected, SubmitUnknown
from zmqtasks.node.accepting import Acceptance, Acceptances
from zmqtasks.node.tickets import Tickets
from zmqtasks.wire.messages import Kind, Outcome, UpdateRecord

KIND = Kind("shop", "tasks.add", "", "default")
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


class _Ticket:
    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        raise AssertionError("nobody settles what was refused")

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        raise AssertionError("nor does it run")


class _Journal:
    """Acceptances, and what they have submitted."""

    def __init__(self) -> None:
        self.tickets = Tickets()
        self.acceptances = Acceptances(self.tickets, self._submit)
        #: {task id: token}, not answered yet.
        self.submitted: dict[bytes, int] = {}

    def _submit(self, calls: Sequence[Call], token: int) -> None:
        for call in calls:
            self.submitted[call.id] = token

    def begin(self, *ids: bytes, after: Acceptance | None = None) -> Acceptance:
        calls = [Call(task_id, KIND, b"", None) for task_id in ids]
        acceptance = Acceptance(calls, _Ticket(), 0.01, self._forget, after)
        for task_id in ids:
            self.tickets.add(task_id, acceptance.ticket)
        self.acceptances.begin(acceptance)
        return acceptance

    def _forget(self, acceptance: Acceptance) -> None:
        self.tickets.take_back([call.id for call in acceptance.calls], acceptance.ticket)

    def accept(self, task_id: bytes) -> None:
        self.acceptances.accepted(fx.CallsAccepted(self.submitted.pop(task_id)))

    def refuse(self, task_id: bytes) -> None:
        token = self.submitted.pop(task_id)
        self.acceptances.refused(fx.CallsRefused(token, "the disk is full"))


def test_accepted_calls_return() -> None:
    journal = _Journal()
    mine = journal.begin(A)
    journal.accept(A)
    mine.wait()
    assert A in journal.tickets


def test_refused_calls_say_why_and_wait_for_nothing() -> None:
    journal = _Journal()
    mine = journal.begin(A, B)
    journal.refuse(A)
    with pytest.raises(SubmitRejected, match=r"^the disk is full; nothing was submitted$"):
        mine.wait()
    assert not len(journal.tickets)


def test_wait_that_ends_first_leaves_it_unknown_and_names_the_remedy() -> None:
    journal = _Journal()
    mine = journal.begin(A)
    with pytest.raises(SubmitUnknown, match=r"did not say within 0\.01 s .* idempotency_key"):
        mine.wait()
    assert not len(journal.tickets), "whoever did not get a handle is told nothing"
    journal.accept(A)


def test_end_of_the_loop_ends_all_waits() -> None:
    journal = _Journal()
    first = journal.begin(A, B)
    second = journal.begin(C, after=first)
    journal.acceptances.abandon()
    with pytest.raises(SubmitUnknown, match=r"before this process left the mesh .*these 2 calls"):
        first.wait()
    with pytest.raises(SubmitRejected, match="left the mesh"):
        second.wait()


def test_calls_under_way_are_found_by_their_ids() -> None:
    journal = _Journal()
    journal.begin(A)
    second = journal.begin(B)
    assert journal.acceptances.of(B) is second
    journal.accept(A)
    assert journal.acceptances.of(A) is None


def test_calls_wait_for_those_before_them() -> None:
    journal = _Journal()
    first = journal.begin(A)
    second = journal.begin(B, after=first)
    third = journal.begin(C, after=second)
    assert list(journal.submitted) == [A]
    journal.accept(A)
    assert list(journal.submitted) == [B]
    journal.accept(B)
    journal.accept(C)
    for acceptance in (first, second, third):
        acceptance.wait()


def test_calls_after_refused_ones_are_refused_too() -> None:
    journal = _Journal()
    first = journal.begin(A)
    second = journal.begin(B, after=first)
    journal.refuse(A)
    late = journal.begin(C, after=second)
    assert not journal.submitted
    for acceptance in (first, second, late):
        with pytest.raises(SubmitRejected, match="the disk is full"):
            acceptance.wait()
    assert not len(journal.tickets)


def test_chain_of_accepted_calls_is_not_kept() -> None:
    journal = _Journal()
    first = journal.begin(A)
    journal.accept(A)
    second = journal.begin(B, after=first)
    assert second.after is None
    assert first.next is None
