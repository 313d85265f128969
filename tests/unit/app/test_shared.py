"""Shared tasks belong to every App."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App, shared_task
from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.errors import ConfigError


def test_a_shared_task_is_usable_before_any_app_exists(gateway: InlineGateway) -> None:
    @shared_task
    def double(x: int) -> int:
        """Twice."""
        return 2 * x

    assert double(2) == 4
    assert double.__doc__ == "Twice."
    with pytest.raises(ConfigError, match="no App yet"):
        double.delay(2)
    first = App("first")
    assert double.delay(2).get() == 4
    second = App("second")
    assert double.delay_many([(1,), (2,)]).get() == [2, 4]
    assert first.tasks.keys() == second.tasks.keys() == {f"{__name__}.double", *BUILT_IN}
    assert [call.kind.app for call in gateway.calls] == ["first", "second", "second"]
    assert double.app is second


def test_apps_that_exist_already_get_it_too(app: App) -> None:
    @shared_task(bind=True, name="named", queue="slow")
    def named(self: Any, x: int) -> list[Any]:
        return [self.app.name, x]

    assert app.tasks["named"].queue == "slow"
    assert named(1) == ["shop", 1]
    assert named.apply_async((1,)).get() == ["shop", 1]
    assert named.name == "named"


def test_wrong_options_are_refused_when_decorated(gateway: InlineGateway) -> None:
    with pytest.raises(ConfigError, match="did you mean 'queue'"):
        shared_task(quee="x")  # type: ignore[call-overload]


def test_options_of_a_shared_task_are_those_of_the_current_app(app: App) -> None:
    @shared_task(name="named")
    def named(x: int) -> int:
        return x

    named.queue = "slow"
    assert app.tasks["named"].queue == "slow"
    assert pickle.loads(pickle.dumps(named)) is app.tasks["named"]
