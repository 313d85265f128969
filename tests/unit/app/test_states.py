"""Each status has a state, and each state is of one sort."""

from __future__ import annotations

from zmqtasks.app import states
from zmqtasks.wire.messages import Status, TaskState


def test_every_status_and_open_state_has_a_name() -> None:
    assert set(Status) <= states.STATE_OF_STATUS.keys()
    assert set(TaskState) - {TaskState.SETTLED} == states.STATE_OF_OPEN.keys()
    named = {*states.STATE_OF_STATUS.values(), *states.STATE_OF_OPEN.values()}
    assert named == states.ALL_STATES


def test_sorts_of_states_are_consistent() -> None:
    assert states.FAILED_STATES < states.EXCEPTION_STATES < states.READY_STATES
    assert {states.SUCCESS} == states.READY_STATES - states.EXCEPTION_STATES
