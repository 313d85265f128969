"""What an attempt may take: limits of its call and of its task."""

from __future__ import annotations

from typing import Any

import pytest

from zmqtasks.pools.protocol import TaskFacts, limits_of

FACTS = TaskFacts(soft_ms=5, hard_ms=7)


@pytest.mark.parametrize(
    ("ext", "facts", "limits"),
    [
        (None, None, (0, 0)),
        ({}, FACTS, (5, 7)),
        ({"tl": [1, 2]}, FACTS, (1, 2)),
        ({"tl": [1, 0]}, FACTS, (1, 7)),
        ({"tl": (0, 2)}, None, (0, 2)),
        ({"tl": "odd"}, FACTS, (5, 7)),
        ({"tl": [1]}, FACTS, (5, 7)),
        ({"tl": [-1, "x"]}, FACTS, (5, 7)),
        ({"tl": {}}, None, (0, 0)),
    ],
)
def test_each_limit_of_a_call_replaces_that_of_its_task(
    ext: dict[str, Any] | None, facts: TaskFacts | None, limits: tuple[int, int]
) -> None:
    assert limits_of(ext, facts) == limits
