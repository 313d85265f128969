"""How often tasks may start."""

from __future__ import annotations

import pytest

from zmqtasks.core.rates import RateLimit, RateLimits, interval_of, rate_text
from zmqtasks.errors import ConfigError


@pytest.mark.parametrize(("rate", "interval_ms"), [
    ("10/s", 100), ("100/m", 600), ("5/h", 720_000), ("10", 100), (10, 100), (0.5, 2_000),
    ("0.5/s", 2_000), (" 2 / m ", 30_000), (None, 0), ("", 0), (0, 0), ("0/s", 0),
])  # fmt: skip
def test_rates_are_written_as_in_celery(rate: str | float | None, interval_ms: float) -> None:
    assert interval_of(rate) == interval_ms


@pytest.mark.parametrize("rate", ["fast", "10/d", "-1/s", "10/", "/s", "nan", "inf/s", "1/s/s"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(ConfigError, match="10/s, 100/m or 5/h"):
        interval_of(rate)


@pytest.mark.parametrize(("rate", "text"), [
    ("10/s", "10/s"), (" 2 / m ", "2/m"), (5, "5/s"), (0.5, "0.5/s"), ("10", "10/s"),
    (None, ""), (0, ""), ("0/h", ""),
])  # fmt: skip
def test_rates_are_told_in_one_form(rate: str | float | None, text: str) -> None:
    assert rate_text(rate) == text


def limit_of(rate: str) -> RateLimit:
    limits = RateLimits()
    limits.change("tasks.add", rate, None)
    limit = limits.of("tasks.add")
    assert limit is not None
    return limit


def test_starts_are_spread_evenly() -> None:
    limit = limit_of("10/s")
    assert [limit.take(0) for _ in range(3)] == [0, 100, 200]
    assert limit.wait_ms(250) == 50
    assert limit.wait_ms(300) == 0


def test_what_was_not_used_is_not_saved_up() -> None:
    limit = limit_of("10/s")
    limit.take(0)
    assert [limit.take(60_000) for _ in range(2)] == [60_000, 60_100]


def test_rate_is_kept_although_it_is_looked_after_late() -> None:
    limit = limit_of("200/s")
    starts = [limit.take(7) for _ in range(201)]
    assert starts[-1] == 1_007


def test_start_that_does_not_happen_is_free_for_another() -> None:
    limit = limit_of("5/h")
    limit.take(0)
    limit.give_back()
    assert limit.wait_ms(1) == 0


def test_rate_of_the_mesh_is_shared_by_its_workers() -> None:
    limits = RateLimits()
    limits.change("tasks.add", "10/s", "10/s")
    limits.change("tasks.mul", "10/s", None)
    assert limits.is_shared
    limits.share([{"tasks.add"}, {"tasks.add", "tasks.mul"}, {"tasks.mul"}])
    found = {name: limits.of(name) for name in ("tasks.add", "tasks.mul", "tasks.sub")}
    assert {name: limit and limit.interval_ms for name, limit in found.items()} == {
        "tasks.add": 300, "tasks.mul": 100, "tasks.sub": None,
    }  # fmt: skip


def test_rate_can_be_changed_and_taken_away() -> None:
    limits = RateLimits()
    limits.change("tasks.add", "1/h", "1/h")
    limit = limits.of("tasks.add")
    assert limit is not None
    limit.take(0)
    limits.change("tasks.add", "10/s", "")
    assert limit.wait_ms(0) == 0
    assert limit.interval_ms == 100
    limits.change("tasks.add", "", None)
    assert limits.of("tasks.add") is None
    assert not limits.is_shared


def test_rates_that_hold_now_can_be_told() -> None:
    limits = RateLimits()
    limits.change("tasks.add", "10/s", 100)
    limits.change("tasks.mul", None, "5/m")
    limits.change("tasks.sub", "1/h", None)
    assert limits.describe() == {
        "tasks.add": {"rate_limit": "10/s", "mesh_rate_limit": "100/s"},
        "tasks.mul": {"mesh_rate_limit": "5/m"},
        "tasks.sub": {"rate_limit": "1/h"},
    }
    limits.change("tasks.add", 0, None)
    limits.change("tasks.sub", "", None)
    with pytest.raises(ConfigError):
        limits.change("tasks.mul", None, "often")
    assert limits.describe() == {
        "tasks.add": {"mesh_rate_limit": "100/s"}, "tasks.mul": {"mesh_rate_limit": "5/m"},
    }  # fmt: skip


def test_a_worker_learns_what_all_were_told_and_the_later_order_wins() -> None:
    early, late = RateLimits(), RateLimits()
    early.ordered("tasks.add", "10/s", 1_000)
    early.ordered("tasks.mul", "5/m", 1_000)
    assert late.newer_orders(early.orders, {"tasks.add"}) == [("tasks.add", "10/s")]
    assert late.newer_orders(early.orders, {"tasks.add"}) == []
    late.ordered("tasks.add", 0, 2_000)
    assert late.newer_orders(early.orders, {"tasks.add"}) == []
    assert early.newer_orders(late.orders, {"tasks.add"}) == [("tasks.add", "")]


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {"t": 1},
        {"t": ["10/s"]},
        {"t": [b"10/s", 1]},
        {"t": ["often", 1]},
        {"t": ["1", "x"]},
    ],
)
def test_orders_that_make_no_sense_are_not_learned(said: object) -> None:
    assert RateLimits().newer_orders(said, {"t"}) == []
