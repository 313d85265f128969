"""app.conf checks each key when it is set and freezes at the first use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zmqtasks.app.app import App
from zmqtasks.errors import ConfigError


def test_settings_are_set_by_keyword_attribute_key_and_update(app: App) -> None:
    app = App("shop", mesh="garden")
    app.conf.default_queue = "fast"
    app.conf["payload_bytes_max"] = "20480"
    app.conf.update(mdns="no", peers="a:1,b:2")
    assert dict(app.conf) == {
        "mesh": "garden",
        "default_queue": "fast",
        "payload_bytes_max": 20480,
        "mdns": False,
        "peers": ("a:1", "b:2"),
    }
    assert app.settings.mesh == "garden"
    assert app.settings.payload_bytes_max == 20480


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mehs", "x", "unknown setting 'mehs'; did you mean 'mesh'?"),
        ("mesh", "Not A Name", "mesh"),
        ("port", "many", "port"),
        (
            "broker_url",
            "amqp://",
            "setting 'broker_url' of Celery: there is no broker to",
        ),
        ("broker", "redis://", "argument 'broker' of Celery(): there is no broker to"),
        ("backend", "redis://", "argument 'backend' of Celery(): results need no back end"),
        ("broker_heartbeat", 3, "nodes hear of each other by heartbeat_ms and lost_ms"),
        ("task_acks_late", False, "leave it out (docs/from-celery.md: task_acks_late)"),
        ("enable_utc", False, "moments travel in UTC; the setting timezone says what local"),
        ("beat_max_loop_interval", 5, "need no tuning; leave it out (docs/from-celery.md: beat_*)"),
        ("result_serializer", "json", "of Celery is not supported yet; leave it out (docs/from"),
        ("timezone", "Mars/Olympus", "timezone 'Mars/Olympus' is not known here"),
        ("timezone", 3, "a text or a tzinfo"),
        ("task_routes", 3, "3 is no router"),
        ("task_annotations", 3, "task_annotations is a dict"),
        ("task_annotations", {"add": 3}, "task_annotations['add'] is a dict of options"),
        ("task_annotations", {"add": {"base": 3}}, "'base' belongs to the definition of a task"),
        ("task_annotations", {"add": {"rate_limits": 3}}, "did you mean 'rate_limit'?"),
        (
            "task_annotations",
            [{"add": {"rate_limit": "3"}}, {"*": {"priority": 10}}],
            "from 0 to 9",
        ),
        ("task_default_priority", 10, "from 0 to 9"),
        ("task_default_rate_limit", "ten", "'ten' is no rate"),
        ("task_time_limit", 0, "seconds, more than 0"),
        ("task_soft_time_limit", "5", "seconds, more than 0"),
    ],
)
def test_wrong_settings_are_refused_when_set(app: App, key: str, value: Any, words: str) -> None:
    for attempt in (
        lambda: setattr(app.conf, key, value),
        lambda: app.conf.update({key: value}),
        lambda: App("other", **{key: value}),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert words in str(caught.value)
        assert "App('" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("pool", "solo", "--pool, ZMQTASKS_POOL"),
        ("worker_pool", "solo", "--pool, ZMQTASKS_POOL"),
        ("roles", ["store"], "--role, ZMQTASKS_ROLES"),
        ("name", "w1", "--name, ZMQTASKS_NAME"),
        ("app", "tasks", "--app, ZMQTASKS_APP"),
    ],
)
def test_what_a_node_needs_before_it_has_the_app_is_refused(
    app: App, key: str, value: Any, flag: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        app.conf[key] = value
    assert f"App('{app.name}'): {key!r} cannot be set by an application" in str(caught.value)
    assert f"use {flag} or zmqtasks.toml" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["CELERY_TASK_ALWAYS_EAGER", "CELERYD_CONCURRENCY", "CELERYBEAT_SCHEDULE", "BROKER_URL"]
)
def test_settings_of_celery_in_capitals_are_not_passed_over_in_silence(app: App, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} would not be read: settings are in lower case"):
        app.config_from_object({name: 1})


def test_settings_with_the_prefix_of_celery_are_read_by_namespace(app: App) -> None:
    app.config_from_object({"CELERY_TASK_ALWAYS_EAGER": True, "DEBUG": True}, namespace="CELERY")
    assert dict(app.conf) == {"task_always_eager": True}


def test_celerys_names_mean_ours(app: App) -> None:
    app.conf.task_default_queue = "slow"
    app.conf.result_backend = "memory://"
    assert dict(app.conf) == {"default_queue": "slow", "store": "memory://"}
    assert app.conf.task_default_queue == "slow"
    del app.conf.task_default_queue
    assert "default_queue" not in app.conf


def test_what_is_not_set_is_no_attribute(app: App) -> None:
    with pytest.raises(AttributeError, match="not set here"):
        _ = app.conf.mesh
    assert app.conf.get("mesh") is None
    assert "nothing set" in repr(app.conf)


def test_the_environment_takes_precedence(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.default_queue = "fast"
    monkeypatch.setenv("ZMQTASKS_DEFAULT_QUEUE", "slow")
    assert app.settings.default_queue == "slow"


def test_conf_is_frozen_at_the_first_use(app: App) -> None:
    @app.task
    def task() -> None: ...

    task.delay()
    with pytest.raises(ConfigError, match="in use"):
        app.conf.mesh = "x"
    with pytest.raises(ConfigError, match="in use"):
        app.conf.update(mesh="x")
    with pytest.raises(ConfigError, match="in use"):
        del app.conf["mesh"]


def test_config_from_object_takes_objects_modules_and_namespaces(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config_from_object(SimpleNamespace(mesh="a", _private=1, Helper=int))
    assert app.conf.mesh == "a"
    (tmp_path / "settings_for_test.py").write_text(
        "import os\nfrom pathlib import Path\nmesh = 'b'\nDEBUG = True\n"
        "ZMQTASKS_DEFAULT_QUEUE = 'fast'\ndef helper(): ...\nclass Inner: mesh = 'c'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    app.config_from_object("settings_for_test")
    assert app.conf.mesh == "b"
    app.config_from_object("settings_for_test:Inner")
    assert app.conf.mesh == "c"
    app.config_from_object("settings_for_test", namespace="ZMQTASKS")
    assert app.conf.default_queue == "fast"
    for path, words in (("no_such_module", "cannot be imported"), ("os:nothing", "does not exist")):
        with pytest.raises(ConfigError, match=words):
            app.config_from_object(path)


def test_settings_about_tasks_stay_with_the_application(gateway: object) -> None:
    app = App("shop", timezone="Europe/Berlin", task_time_limit=5, payload_bytes_max=20480)
    assert app.conf.for_nodes == {"payload_bytes_max": 20480}
    assert (app.conf.timezone, app.conf.of_tasks("task_time_limit")) == ("Europe/Berlin", 5)
    assert app.conf.of_tasks("task_routes") is None
    assert app.settings.payload_bytes_max == 20480


def test_a_router_function_is_taken_from_a_module_of_settings(app: App) -> None:
    def route(name: str, *_: object, **__: object) -> str:
        return "fast"

    app.config_from_object(SimpleNamespace(task_routes=route, helper=route, port=5000))
    assert dict(app.conf) == {"task_routes": route, "port": 5000}
    app.config_from_object(
        SimpleNamespace(ZMQTASKS_TASK_ROUTES=route, ZMQTASKS_PORT=6000), namespace="ZMQTASKS"
    )
    assert dict(app.conf) == {"task_routes": route, "port": 6000}


def test_annotations_change_options_of_tasks_once_the_application_is_used(app: App) -> None:
    app.conf.task_annotations = [
        {"*": {"max_retries": 9}, "early": {"rate_limit": "5/s"}},
        {"early": {"max_retries": None}},
    ]
    early = app.task(name="early")(lambda: None)
    assert early.max_retries == 3
    _ = app.rules
    late = app.task(name="late")(lambda: None)
    assert [(task.max_retries, task.rate_limit) for task in (early, late)] == [
        (None, "5/s"), (9, None),
    ]  # fmt: skip
