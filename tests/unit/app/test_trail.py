"""What outcomes tell of the tasks that attempts submit."""

from __future__ import annotations

import pytest

from zmqtasks.app import trail
from zmqtasks.core.resultlog import CHILDREN_KEY
from zmqtasks.limits import CHILDREN_TOLD_MAX
from zmqtasks.pools.protocol import RunTask


def run(number: int, attempt: int = 1) -> RunTask:
    return RunTask(number.to_bytes(16, "big"), attempt, "app", "name", "q", b"o" * 8, b"", None)


def ids(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def test_each_attempt_tells_of_its_own_and_once() -> None:
    first, second, other = run(1), run(1, attempt=2), run(2)
    trail.note(first, ids(10))
    trail.note(second, ids(11))
    trail.note(second, ids(12))
    assert trail.taken(second) == {CHILDREN_KEY: b"".join(ids(11, 12))}
    assert trail.taken(second) == {}
    assert trail.taken(first) == {CHILDREN_KEY: ids(10)[0]}
    assert trail.taken(other) == {}
    assert trail.submitted == {}


def test_only_the_first_ones_are_told() -> None:
    trail.note(run(1), ids(*range(CHILDREN_TOLD_MAX - 1)))
    trail.note(run(1), ids(1, 2, 3))
    assert len(trail.taken(run(1))[CHILDREN_KEY]) == 16 * CHILDREN_TOLD_MAX


def test_what_attempts_left_behind_that_nobody_asks_about_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trail, "_ATTEMPTS_MAX", 3)
    for number in range(10):
        trail.note(run(number), ids(1))
        assert len(trail.submitted) <= 3
    trail.submitted.clear()
