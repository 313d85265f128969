"""The current App and the current task under one name each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from tests.unit.app.worker import Worker
from zmqtasks import current_app, current_task
from zmqtasks.app.app import App
from zmqtasks.errors import ConfigError


def test_current_app_is_the_app_and_gives_what_that_has(gateway: InlineGateway) -> None:
    with pytest.raises(ConfigError, match="no App yet"):
        _ = current_app.conf
    first = App("first")
    assert (current_app(), current_app.name) == (first, "first")
    App("second")
    assert current_app.name == "second"
    assert repr(current_app) == "<current_app: <App: second>>"


def test_current_task_is_the_one_that_runs_here(app: App) -> None:
    @app.task(name="whoami", bind=True)
    def whoami(self: Any, deeper: bool = True) -> list[Any]:
        told = [bool(current_task), current_task.name, current_task.request.id == self.request.id]
        return [*told, current_task(deeper=False)] if deeper else told

    with Worker(app) as worker:
        assert worker.value("whoami") == [True, "whoami", True, [True, "whoami", True]]
    assert not current_task
    assert repr(current_task) == "<current_task: none>"
    with pytest.raises(AttributeError, match="no task runs here"):
        _ = current_task.name
