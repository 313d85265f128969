"""Everybody is asked once, and what they say is put together."""

from __future__ import annotations

import pytest

from tests.support.machines import link_to, outcome, task_id
from zmqtasks.core.effects import Send
from zmqtasks.core.links import SELF
from zmqtasks.core.polling import Findings, Polls, Suspects
from zmqtasks.limits import HANDOFF_RETRY_MS, OWNER_GONE_MS
from zmqtasks.wire.messages import Query, StateRecord, States, TaskState

A, B = link_to(b"node-001"), link_to(b"node-002")
ONE = task_id(1)


class Poll:
    """One question to A and B."""

    def __init__(self) -> None:
        self.polls = Polls(0)
        self.results: list[Findings] = []
        self.polls.start([ONE], [A, B], self.results.append)
        sends = [effect for effect in self.polls.effects if isinstance(effect, Send)]
        assert [send.link for send in sends] == [A, B]
        assert isinstance(sends[0].message, Query)
        self.request = sends[0].message.request

    def hears(self, link: object, state: TaskState, *, more: bool = False, **info: object) -> None:
        found = outcome(1) if state in (TaskState.SETTLED, TaskState.UNSETTLED) else None
        record = StateRecord(ONE, state, dict(info), found)
        self.polls.answered(link, States(self.request, [record], more))  # type: ignore[arg-type]


def test_result_comes_when_all_have_answered() -> None:
    poll = Poll()
    poll.hears(A, TaskState.UNKNOWN)
    assert poll.results == []
    poll.hears(B, TaskState.UNKNOWN)
    (findings,) = poll.results
    assert not findings[ONE].is_known


def test_who_is_lost_is_not_waited_for() -> None:
    poll = Poll()
    poll.hears(A, TaskState.UNKNOWN)
    poll.polls.link_down(B)
    assert len(poll.results) == 1


def test_long_answer_counts_when_it_is_whole() -> None:
    poll = Poll()
    poll.hears(A, TaskState.UNKNOWN)
    poll.hears(B, TaskState.UNKNOWN, more=True)
    assert poll.results == []
    poll.hears(B, TaskState.PENDING)
    assert poll.results[0][ONE].is_known


def test_everything_that_was_said_is_kept() -> None:
    poll = Poll()
    poll.hears(A, TaskState.PENDING, owned=True, taker=b"node-009", offer=4)
    poll.hears(B, TaskState.PENDING, offer=7)
    finding = poll.results[0][ONE]
    assert finding.owner == b"node-001"
    assert finding.taker == b"node-009"
    assert finding.offer == (7, b"node-002")
    assert finding.settled is None


@pytest.mark.parametrize("state", [TaskState.SETTLED, TaskState.UNSETTLED])
def test_outcomes_are_told_apart(state: TaskState) -> None:
    poll = Poll()
    poll.hears(A, state)
    poll.hears(B, TaskState.UNKNOWN)
    finding = poll.results[0][ONE]
    assert (finding.settled or finding.unsettled) == outcome(1)
    assert (finding.settled is None) == (state == TaskState.UNSETTLED)


def test_nobody_to_ask_is_answered_at_once() -> None:
    polls = Polls(1)
    results: list[Findings] = []
    polls.start([ONE], [], results.append)
    assert len(results) == 1


def test_answers_to_others_are_left_alone() -> None:
    poll = Poll()
    assert not poll.polls.answered(A, States(poll.request - 2, []))
    assert not poll.polls.answered(link_to(b"node-003"), States(poll.request, []))


def test_two_machines_use_different_numbers() -> None:
    numbers: list[int] = []
    for polls in (Polls(0), Polls(1)):
        for _ in range(3):
            polls.start([ONE], [A], lambda findings: None)
        for effect in polls.effects:
            assert isinstance(effect, Send)
            assert isinstance(effect.message, Query)
            numbers.append(effect.message.request)
    assert len(set(numbers)) == 6
    assert max(numbers) < 0


def test_this_node_answers_by_its_own_name() -> None:
    polls, results = Polls(1, b"node-003"), list[Findings]()
    polls.start([ONE], [SELF], results.append)
    (send,) = (effect for effect in polls.effects if isinstance(effect, Send))
    assert isinstance(send.message, Query)
    record = StateRecord(ONE, TaskState.PENDING, {"owned": True}, None)
    polls.answered(SELF, States(send.message.request, [record]))
    assert results[0][ONE].owner == b"node-003"


def test_suspects_are_due_ever_more_seldom_until_they_are_dropped() -> None:
    suspects = Suspects()
    suspects.add(ONE, 5)
    suspects.add(ONE, 9)
    now_ms, waits = 5, []
    for _ in range(9):
        assert suspects.due(now_ms) == [ONE]
        assert suspects.due(now_ms) == []
        next_ms = suspects.next_deadline_ms()
        assert next_ms is not None
        waits.append(next_ms - now_ms)
        now_ms = next_ms
    assert waits[:3] == [HANDOFF_RETRY_MS, 2 * HANDOFF_RETRY_MS, 4 * HANDOFF_RETRY_MS]
    assert waits[-1] == OWNER_GONE_MS
    assert suspects.since_ms(ONE) == 5
    suspects.drop(ONE)
    assert suspects.next_deadline_ms() is None
