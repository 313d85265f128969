"""Options that do not exist are refused with the nearest name, never stored."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import options
from zmqtasks.app.app import App
from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.app.options import (
    CALL_OPTIONS,
    TASK_ATTRIBUTES,
    TASK_OPTIONS,
    check_call_options,
)
from zmqtasks.app.task import Task
from zmqtasks.errors import ConfigError
from zmqtasks.limits import INPUTS_COUNT_MAX

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"quee": "x"}, "unknown option 'quee'; did you mean 'queue'?; attributes of your own"),
        ({"zzzzzz": 1}, "there are attributes, autoretry_for, base, bind, default_retry_delay"),
        ({"acks_late": False}, "option 'acks_late' of Celery: a task that has not ended is always"),
        ({"idempotent": 1}, "idempotent must be True or False"),
        ({"durability": "dusk"}, "did you mean 'disk'?"),
        ({"priority": 10}, "whole number from 0 to 9"),
        ({"priority": True}, "whole number from 0 to 9"),
        ({"expires": "soon"}, "expires is seconds from now or a datetime"),
        ({"expires": 10**400}, "expires is seconds from now"),
        ({"time_limit": 0}, "time_limit is seconds, more than 0"),
        ({"soft_time_limit": float("inf")}, "soft_time_limit is seconds, more than 0"),
        ({"soft_time_limit": 5, "time_limit": 5}, "soft_time_limit 5 is not below time_limit 5"),
        ({"rate_limit": "10/d"}, "rate_limit: '10/d' is no rate"),
        ({"mesh_rate_limit": -1}, "mesh_rate_limit: -1 is no rate"),
        ({"rate_limit": []}, "rate_limit: [] is no rate"),
        ({"resources": ["gpu"]}, "resources is a dict of names and amounts"),
        ({"resources": {"gpu": "1"}}, "'gpu' is a number, not '1'"),
        ({"resources": {"gpu": 0.5}}, "GPUs are given whole"),
        ({"tags": "cuda"}, "tags is a list of texts, not 'cuda'"),
        ({"tags": ["a b"]}, "'a b' is no tag"),
        ({"max_retries": -1}, "max_retries is a whole number, 0 or more, or None for no end"),
        ({"max_retries": 2.5}, "max_retries is a whole number"),
        ({"default_retry_delay": None}, "default_retry_delay is seconds, 0 or more"),
        ({"autoretry_for": ("ValueError",)}, "autoretry_for is a tuple of exception classes"),
        ({"throws": [int]}, "throws is a tuple of exception classes, not <class 'int'>"),
        ({"retry_backoff": "yes"}, "retry_backoff is True, False, or the first delay"),
        ({"retry_backoff_max": 0}, "retry_backoff_max is seconds, more than 0"),
        ({"retry_jitter": 1}, "retry_jitter must be True or False"),
        ({"retry_kwargs": 5}, "retry_kwargs is a dict"),
        ({"retry_kwargs": {"queue": "x"}}, "retry_kwargs has max_retries and countdown"),
        ({"retry_kwargs": {"countdown": -1}}, "retry_kwargs['countdown'] is seconds, 0 or more"),
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
def test_wrong_task_options_are_refused(app: App, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:

        @app.task(**given)
        def task() -> None: ...

    assert words in str(caught.value)
    assert app.tasks.keys() == BUILT_IN.keys()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task_ids": "x"}, "did you mean 'task_id'?"),
        ({"compression": 3}, "option 'compression' of Celery is not supported yet"),
        ({"countdown": "3"}, "countdown is seconds from now"),
        ({"countdown": float("nan")}, "countdown is seconds from now"),
        ({"countdown": 1e12}, "countdown is seconds from now, below 1000000000, not"),
        ({"eta": 3}, "eta is a datetime, not 3; for seconds from now there is countdown"),
        ({"eta": NOON, "countdown": 3}, "countdown and eta both say when"),
        ({"countdown": 3, "expires": 2}, "it would expire ("),
        ({"eta": NOON.replace(year=2999), "expires": NOON}, "so it would never run"),
        ({"priority": -1}, "whole number from 0 to 9"),
        ({"time_limit": 2, "soft_time_limit": 2.5}, "soft_time_limit 2.5 is not below"),
        ({"argsrepr": 3}, "argsrepr is the text to show"),
        ({"kwargsrepr": "\udc80"}, "lone surrogate"),
        ({"resources": {"1x": 1}}, "no name of a resource"),
        ({"tags": [1]}, "tags is a list of texts"),
        ({"delivery": "at_most_once", "countdown": 3}, "nobody would hold it until it is due"),
        ({"delivery": "at_most_once", "eta": NOON}, "nobody would hold it until it is due"),
        ({"delivery": "at_most_once", "expires": 3}, "nobody would end it when it expires"),
        ({"delivery": "at_most_once", "resources": {"gpu": 1}}, "nobody would choose a worker"),
        ({"delivery": "at_most_once", "tags": ["x"]}, "nobody would choose a worker"),
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
    app: App, gateway: InlineGateway, given: dict[str, Any], words: str
) -> None:
    @app.task
    def task() -> None: ...

    for call in (task.apply_async, lambda **o: app.send_task("other", **o)):
        with pytest.raises(ConfigError) as caught:
            call(**given)
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
            "priority": 9,
            "time_limit": 2.5,
            "soft_time_limit": 1,
            "argsrepr": "(...)",
            "kwargsrepr": "",
            "resources": {},
            "tags": (),
        },
        "here",
    )
    check_call_options({"countdown": -3, "expires": NOON}, "here")


def test_every_option_is_checked() -> None:
    unchecked = {"queue"}  # where it is used
    assert options._CALL_CHECKS.keys() | unchecked == CALL_OPTIONS
    assert options._TASK_CHECKS.keys() == TASK_ATTRIBUTES < TASK_OPTIONS
    assert all(hasattr(Task, name) for name in TASK_ATTRIBUTES)
    celerys = options._CELERY_CALL_OPTIONS | options._CELERY_TASK_OPTIONS
    assert not celerys & (CALL_OPTIONS | TASK_OPTIONS)


def test_options_of_a_base_class_that_do_not_exist_here_are_refused(app: App) -> None:
    class Late(Task[Any, Any]):
        abstract = True
        acks_late = False
        track_started = True

    with pytest.raises(
        ConfigError,
        match=r"Late: option 'acks_late' of Celery: a task that has not ended is always redel",
    ):
        app.task(base=Late)(len)


def test_options_of_a_base_class_are_defaults_and_checked(app: App) -> None:
    class Patient(Task[Any, Any]):
        max_retries = None
        autoretry_for = OSError
        queue = "slow"

    class Wrong(Task[Any, Any]):
        priority = 10

    patient = app.task(base=Patient, name="patient", queue="fast")(len)
    assert (patient.max_retries, patient.autoretry_for) == (None, (OSError,))
    assert (patient.queue, patient.priority) == ("fast", None)
    with pytest.raises(ConfigError, match=r"task wrong: priority is a whole number"):
        app.task(base=Wrong, name="wrong")(len)


def test_options_that_are_changed_are_checked_and_count_from_then_on(
    app: App, gateway: InlineGateway
) -> None:
    @app.task(name="add")
    def add(x: int) -> int:
        return x

    add.delay(1)
    add.priority = 7
    add.queue = "fast"
    add.delay(1)
    with pytest.raises(ConfigError, match=r"task add: priority is a whole number"):
        add.priority = 70
    assert [(call.kind.queue, call.ext) for call in gateway.calls] == [
        ("default", None),
        ("fast", {"pri": 7}),
    ]


@pytest.mark.parametrize("name", sorted(CALL_OPTIONS | TASK_OPTIONS))
def test_every_option_is_documented(name: str) -> None:
    page = Path(__file__).parents[3] / "docs" / "howto" / "tasks.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert any(f"`{name}`" in row.split("|")[1] for row in rows)


# --- after --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, b"id", [3], {"a": 1}, iter(())])
def test_what_a_call_cannot_wait_for_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"add: after is a"):
        check_call_options({"after": value}, "add")


def test_a_call_waits_for_so_many_others_at_most() -> None:
    ids = [f"task {number}" for number in range(INPUTS_COUNT_MAX + 1)]
    check_call_options({"after": ids[1:]}, "add")
    with pytest.raises(ConfigError, match=r"after names 100,001 tasks, .* 100,000 at most"):
        check_call_options({"after": ids}, "add")


def test_at_most_once_has_nobody_who_waits_for_others() -> None:
    with pytest.raises(ConfigError, match="which after asks for"):
        check_call_options({"after": ["x"], "delivery": "at_most_once"}, "add")
