"""A call with a time limit goes to workers whose pools can keep it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.machines import ADD, WORKER, link_to, of, sent, task_id, worker_hello
from tests.unit.core.lone_owner import LINK, SECOND, Owner
from zmqtasks.core.calls import Call
from zmqtasks.core.diagnosis import WARN_AFTER_MS
from zmqtasks.core.effects import Effect, Note
from zmqtasks.core.links import LinkId
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.core.requirements import announced, kind_for
from zmqtasks.limits import RESUME_GRACE_MS
from zmqtasks.wire.messages import Credit, Retry, RetryRecord, Tasks

HARD = {"tl": [0, 5_000]}


@pytest.fixture
def owner() -> Owner:
    return Owner()


def worker(owner: Owner, link: LinkId, *can: str) -> None:
    hello = worker_hello(link.peer[1:9])
    hello.ext = announced([], {}, can)
    owner.machine.link_up(link, hello)
    owner.machine.received(link, Credit(10), 0)


def call(number: int, ext: dict[str, Any] | None = None) -> Call:
    return Call(task_id(number), ADD, b"args", ext)


def given(effects: list[Effect], link: LinkId) -> list[int]:
    """Numbers of the tasks that were sent to this worker."""
    return [
        int.from_bytes(task.id[-8:], "big")
        for message in sent([e for e in effects if getattr(e, "link", None) == link], Tasks)
        for task in message.tasks
    ]


def test_it_goes_past_the_workers_that_cannot(owner: Owner) -> None:
    worker(owner, LINK, "soft_limit")
    worker(owner, SECOND, "soft_limit", "hard_limit")
    owner.machine.submit([call(n, HARD if n % 2 else None) for n in range(8)], 0)
    effects = owner.turn()
    assert {1, 3, 5, 7} <= set(given(effects, SECOND))
    assert given(effects, LINK)
    assert len(given(effects, LINK)) + len(given(effects, SECOND)) == 8


def test_it_waits_with_the_reason_and_keeps_nothing_else_waiting(owner: Owner) -> None:
    worker(owner, LINK, "soft_limit")
    owner.machine.submit([call(1, HARD), call(2)], 0)
    assert given(owner.turn(), LINK) == [2]
    (warning,) = of(owner.turn(WARN_AFTER_MS), Note)
    assert warning.text.startswith(f"task '{ADD.name}' (app 'shop', queue 'default') waits: ")
    assert "hard time limit (time_limit)" in warning.text
    state = owner.machine.state_of(task_id(1))
    assert state is not None
    assert "--pool process" in state.info["why"]
    worker(owner, SECOND, "hard_limit")
    assert given(owner.turn(WARN_AFTER_MS), SECOND) == [1]


def test_that_no_worker_can_keep_it_is_known_before_it_is_submitted(owner: Owner) -> None:
    worker(owner, LINK, "soft_limit")
    assert owner.machine.why_unserved([ADD]) == ""
    assert "hard time limit" in owner.machine.why_unserved([kind_for(ADD, HARD)])


def test_a_retry_with_another_limit_goes_by_that_one(owner: Owner) -> None:
    worker(owner, LINK, "soft_limit")
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.machine.received(LINK, Retry(5, [RetryRecord(task_id(1), 1, 0, True, "", None, HARD)]), 0)
    assert not given(owner.turn(), LINK)
    worker(owner, SECOND, "hard_limit")
    assert given(owner.turn(), SECOND) == [1]
    again = RetryRecord(task_id(1), 2, 0, True, "", None, {"tl": [0, 0]})
    owner.machine.link_paused(SECOND, True)
    owner.machine.received(SECOND, Retry(5, [again]), 0)
    assert given(owner.turn(), LINK) == [1]


def test_a_restart_keeps_it_from_workers_that_cannot(owner: Owner) -> None:
    """Also where an earlier version has written the journal, without what it asks of a pool."""
    owner.machine.resume([OwnedRecord(task_id(1), ADD, b"args", HARD, attempt=1)])
    worker(owner, LINK, "soft_limit")
    owner.turn()
    owner.turn(RESUME_GRACE_MS)
    assert not given(owner.commit(RESUME_GRACE_MS), LINK)
    worker(owner, SECOND, "hard_limit")
    assert given(owner.turn(RESUME_GRACE_MS), SECOND) == [1]


def test_a_worker_of_an_earlier_version_is_tried(owner: Owner) -> None:
    owner.machine.link_up(link_to(WORKER, "in"), worker_hello())
    owner.machine.received(LINK, Credit(10), 0)
    owner.machine.submit([call(1, HARD)], 0)
    assert given(owner.turn(), LINK) == [1]
