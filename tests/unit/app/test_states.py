"""Each status has a state, and each state is of one sort."""

from __future__ import annotations

import pytest

from zmqtasks.app import states
from zmqtasks.wire.messages import StateRecord, Status, TaskState


def test_every_status_and_open_state_has_a_name() -> None:
    assert set(Status) <= states.STATE_OF_STATUS.keys()
    assert set(TaskState) - {TaskState.SETTLED} == states.STATE_OF_OPEN.keys()
    named = {*states.STATE_OF_STATUS.values(), *states.STATE_OF_OPEN.values()}
    assert named | {states.RETRY, states.RECEIVED} == states.ALL_STATES


def test_sorts_of_states_are_consistent() -> None:
    assert states.FAILED_STATES < states.EXCEPTION_STATES < states.READY_STATES
    assert not states.UNREADY_STATES & states.READY_STATES
    assert {states.SUCCESS, states.IGNORED} == states.READY_STATES - states.EXCEPTION_STATES


@pytest.mark.parametrize(
    ("state", "info", "name"),
    [
        (TaskState.PENDING, {}, "PENDING"),
        (TaskState.PENDING, {"retries": 0}, "PENDING"),
        (TaskState.PENDING, {"retries": 2}, "RETRY"),
        (TaskState.PENDING, {"worker": "w1"}, "RECEIVED"),
        (TaskState.PENDING, {"worker": "w1", "retries": 1}, "RECEIVED"),
        (TaskState.STARTED, {"retries": 2, "worker": "w1"}, "STARTED"),
        (99, {"retries": 2}, "PENDING"),
    ],
)
def test_a_task_between_two_attempts_is_in_retry_and_one_that_a_worker_has_in_received(
    state: int, info: dict[str, object], name: str
) -> None:
    assert states.state_of(StateRecord(b"i" * 16, state, info, None)) == name
