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
        ("broker_url", "amqp://", "setting 'broker_url' of Celery is not supported yet"),
        ("task_acks_late", True, "not supported yet"),
        ("timezone", "UTC", "not supported yet"),
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
