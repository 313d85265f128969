from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from zmqtasks.errors import ConfigError
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.registry import make_pool
from zmqtasks.pools.solo import SoloPool
from zmqtasks.settings import load_settings

CONFIG = PoolConfig(app="tests.unit.pools.pool_tasks")


class MyPool(SoloPool):
    pass


def offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Packages that have a pool "mine"."""
    points = [metadata.EntryPoint("mine", value, "zmqtasks.pools") for value in values]

    def entry_points(group: str, **_: Any) -> list[metadata.EntryPoint]:
        assert group == "zmqtasks.pools"
        return points

    monkeypatch.setattr(metadata, "entry_points", entry_points)


@pytest.mark.parametrize("name", ["process", "thread", "asyncio", "solo"])
def test_pools_of_zmqtasks_are_found_by_name(name: str) -> None:
    assert make_pool(name, CONFIG).features


def test_pool_of_ones_own_is_found_by_module_and_class() -> None:
    name = f"{__name__}:MyPool"
    assert load_settings({"pool": name}, env={}).settings.pool == name
    assert type(make_pool(name, CONFIG)).__name__ == "MyPool"


def test_pool_of_another_package_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(monkeypatch, f"{__name__}:MyPool")
    assert load_settings({"pool": "mine"}, env={}).settings.pool == "mine"
    assert type(make_pool("mine", CONFIG)).__name__ == "MyPool"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((), "no package here offers a pool 'mine'"),
        (("a:B", "c:D"), "several packages offer a pool 'mine': a:B, c:D; keep one"),
        (("no_such_module:Pool",), "cannot be imported from no_such_module:Pool"),
        (("zmqtasks.pools.solo:Nothing",), "Nothing"),
    ],
)
def test_pool_that_cannot_be_had_says_why(
    monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], words: str
) -> None:
    offer(monkeypatch, *values)
    with pytest.raises(ConfigError, match=words):
        make_pool("mine", CONFIG)
