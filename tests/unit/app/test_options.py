"""Options that do not exist are refused with the nearest name, never stored."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.app.options import CALL_OPTIONS, TASK_OPTIONS, check_call_options
from zmqtasks.app.task import Task
from zmqtasks.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quee": "x"}, "unknown option 'quee'; did you mean 'queue'?; attributes of your own"),
        ({"zzzzzz": 1}, "there are attributes, base, bind, durability, idempotent, name, queue"),
        ({"max_retries": 3}, "option 'max_retries' of Celery is not supported yet"),
        ({"time_limit": 3}, "not supported yet"),
        ({"queue": ""}, "queue"),
        ({"queue": "a b"}, "queue"),
        ({"name": 3}, "printable text"),
        ({"name": "x" * 201}, "200 characters"),
        ({"base": int}, "subclass of zmqtasks.Task"),
        ({"attributes": 3}, "a dict"),
        ({"attributes": {"delay": 3}}, "would hide"),
        ({"attributes": {"name": 3}}, "would hide"),
        ({"attributes": {"_x": 3}}, "no name for a public attribute"),
    ],
)
def test_wrong_task_options_are_refused(app: App, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:

        @app.task(**options)
        def task() -> None: ...

    assert words in str(caught.value)
    assert not app.tasks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task_ids": "x"}, "did you mean 'task_id'?"),
        ({"countdown": 3}, "option 'countdown' of Celery is not supported yet"),
        ({"delivery": "exactly"}, "at_least_once or at_most_once"),
        ({"require_worker": -1}, "seconds, 0 or more"),
        ({"require_worker": True}, "seconds, 0 or more"),
        ({"require_worker": float("nan")}, "seconds, 0 or more"),
        ({"task_id": ""}, "not empty"),
        ({"task_id": 3}, "a text"),
        ({"headers": [1]}, "headers are a dict"),
        ({"headers": {1: 2}}, "names of headers"),
        ({"headers": {"a": [1]}}, "header 'a' is of type list"),
        ({"headers": {"a": 2**64}}, "64 bits"),
        ({"queue": "a b"}, "queue"),
    ],
)
def test_wrong_call_options_are_refused(
    app: App, gateway: InlineGateway, options: dict[str, Any], words: str
) -> None:
    @app.task
    def task() -> None: ...

    for call in (task.apply_async, lambda **o: app.send_task("other", **o)):
        with pytest.raises(ConfigError) as caught:
            call(**options)
        assert words in str(caught.value)
    assert not gateway.calls


def test_good_options_pass() -> None:
    check_call_options(
        {
            "queue": None,
            "task_id": "x",
            "headers": {"a": 1, "b": None, "c": b"", "d": 2.5, "e": True},
            "delivery": "at_most_once",
            "require_worker": 0.5,
            "durability": "memory",
            "idempotency_key": None,
        },
        "here",
    )
    assert {
        "queue", "task_id", "headers", "delivery", "require_worker", "durability",
        "idempotency_key",
    } == CALL_OPTIONS  # fmt: skip
    assert {
        "bind", "name", "queue", "base", "attributes", "durability", "idempotent",
    } == TASK_OPTIONS  # fmt: skip


def test_base_classes_with_handlers_that_nobody_would_call_are_refused(app: App) -> None:
    class Loud(Task[Any, Any]):
        def on_failure(self) -> None: ...

    class Louder(Loud):
        pass

    with pytest.raises(ConfigError, match=r"Loud defines on_failure\(\).*not supported yet"):
        app.task(base=Louder)(len)
