"""Durable calls: what the thread that submits them hears, and when it hears nothing."""

from __future__ import annotations

import pytest

from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.errors import SubmitRejected, SubmitUnknown
from zmqtasks.node.accepting import Acceptance, Acceptances
from zmqtasks.node.tickets import Tickets
from zmqtasks.wire.messages import Kind, Outcome

KIND = Kind("shop", "tasks.add", "", "default")
A, B = b"a" * 16, b"b" * 16


class _Ticket:
    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        raise AssertionError("nobody settles what was refused")


def _acceptance(*ids: bytes) -> Acceptance:
    return Acceptance([Call(task_id, KIND, b"", None) for task_id in ids], _Ticket())


def test_accepted_calls_return() -> None:
    acceptances, mine = Acceptances(Tickets()), _acceptance(A)
    acceptances.accepted(fx.CallsAccepted(acceptances.begin(mine)))
    mine.wait(0)


def test_refused_calls_say_why_and_wait_for_nothing() -> None:
    tickets = Tickets()
    acceptances, mine = Acceptances(tickets), _acceptance(A, B)
    for call in mine.calls:
        tickets.add(call.id, mine.ticket)
    acceptances.refused(fx.CallsRefused(acceptances.begin(mine), "the disk is full"))
    with pytest.raises(SubmitRejected, match=r"^the disk is full; nothing was submitted$"):
        mine.wait(0)
    assert not len(tickets)


def test_wait_that_ends_first_leaves_it_unknown_and_names_the_remedy() -> None:
    acceptances, mine = Acceptances(Tickets()), _acceptance(A)
    acceptances.begin(mine)
    with pytest.raises(SubmitUnknown, match=r"did not say within 0\.01 s .* idempotency_key"):
        mine.wait(0.01)


def test_end_of_the_loop_ends_all_waits() -> None:
    acceptances, mine = Acceptances(Tickets()), _acceptance(A, B)
    acceptances.begin(mine)
    acceptances.abandon()
    with pytest.raises(SubmitUnknown, match=r"before this process left the mesh .*these 2 calls"):
        mine.wait(0)


def test_calls_under_way_are_found_by_their_ids() -> None:
    acceptances, first, second = Acceptances(Tickets()), _acceptance(A), _acceptance(B)
    token = acceptances.begin(first)
    acceptances.begin(second)
    assert acceptances.of(B) is second
    acceptances.accepted(fx.CallsAccepted(token))
    assert acceptances.of(A) is None
