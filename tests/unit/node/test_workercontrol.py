"""What a worker makes of what it is told, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.node.workercontrol import queue_of, rates_text, slots_text, with_limits
from zmqtasks.pools.protocol import TaskFacts

OLD = TaskFacts(soft_ms=1_000, hard_ms=5_000, rate="3/s")


@pytest.mark.parametrize(
    ("args", "soft_ms", "hard_ms"),
    [
        ({"soft": 2}, 2_000, 5_000),
        ({"hard": 8.5, "soft": None}, 1_000, 8_500),
        ({"soft": 0, "hard": 0}, 0, 0),
        ({"soft": "0.5"}, 500, 5_000),
    ],
)
def test_a_time_limit_that_is_not_given_stays(
    args: dict[str, Any], soft_ms: int, hard_ms: int
) -> None:
    new = with_limits(OLD, args)
    assert (new.soft_ms, new.hard_ms, new.rate) == (soft_ms, hard_ms, "3/s")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "say what limit it shall have"),
        ({"soft": None, "hard": None}, "say what limit it shall have"),
        ({"soft": 5}, "soft 5 s, hard 5 s: .* the soft one below the hard one"),
        ({"soft": -1}, "seconds, 0 for none"),
    ],
)
def test_time_limits_that_cannot_be_are_refused(args: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        with_limits(OLD, args)


def test_answers_say_what_counts_now() -> None:
    assert rates_text({"rate_limit": "10/m"}) == "10/m"
    assert rates_text({"rate_limit": 5, "mesh_rate_limit": None}) == "5/s"
    assert rates_text({"rate_limit": "0", "mesh_rate_limit": "7/h"}) == (
        "none, 7/h for all workers together"
    )
    with pytest.raises(ConfigError, match="say how often it may start"):
        rates_text({"rate_limit": None})
    assert slots_text(1, None) == "1 slot"
    assert slots_text(3, (8, 2)) == "3 slots, autoscale 2 to 8"


@pytest.mark.parametrize("queue", ["", "a b", "a,b", "x" * 129, 7])
def test_a_queue_that_no_call_could_name_is_not_served(queue: object) -> None:
    assert queue_of({"queue": "mail"}) == "mail"
    with pytest.raises(ConfigError, match="is not a queue name"):
        queue_of({"queue": queue})
