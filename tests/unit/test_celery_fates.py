"""Whoever uses what Celery has, and what does not exist here, is told what there is instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zmqtasks.app.app import App
from zmqtasks.app.app_settings import APP_SETTINGS
from zmqtasks.app.options import check_call_options, check_task_options
from zmqtasks.celery_fates import (
    ARGUMENTS,
    AS_IT_IS,
    OPTIONS,
    RENAMED,
    SETTINGS,
    is_so_anyway,
    line_of,
    new_name,
    told_option,
    told_setting,
)
from zmqtasks.celery_names import SETTINGS as NAMES
from zmqtasks.errors import ConfigError
from zmqtasks.settings import SETTING_NAMES, load_settings
from zmqtasks.settings_sources import OF_APPS


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (
            "broker_pool_limit",
            "setting 'broker_pool_limit' of Celery: there is no broker to connect to, nodes find "
            "each other; leave it out (docs/from-celery.md: broker_*)",
        ),
        (
            "broker_heartbeat",
            "setting 'broker_heartbeat' of Celery: nodes hear of each other by heartbeat_ms and "
            "lost_ms; leave it out (docs/from-celery.md: broker_heartbeat*)",
        ),
        (
            "task_serializer",
            "setting 'task_serializer' of Celery is not supported yet; leave it out "
            "(docs/from-celery.md: task_serializer)",
        ),
    ],
)
def test_a_setting_is_told_with_its_reason_and_its_line(setting: str, told: str) -> None:
    assert told_setting(setting) == told


def test_what_is_no_setting_of_celery_is_told_nothing_about() -> None:
    assert told_setting("mehs") is None


def test_an_option_is_told_with_its_reason_and_its_line() -> None:
    assert told_option("producer") == (
        "option 'producer' of Celery: there is no broker to connect to, nodes find each other; "
        "leave it out (docs/from-celery.md: producer)"
    )
    assert told_option("unheard_of").startswith("option 'unheard_of' of Celery is not supported")


def test_every_line_is_reached_by_some_setting() -> None:
    """None stands behind a pattern that takes all of its settings."""
    assert [line for line in SETTINGS if line_of(line.replace("*", "x")) != line] == []


def test_lines_fit_into_a_table() -> None:
    assert not [line for line in [*SETTINGS.values(), *OPTIONS.values()] if "|" in line]


def test_each_setting_of_celery_exists_or_is_refused_with_its_line() -> None:
    for name in sorted(NAMES - SETTING_NAMES - APP_SETTINGS.keys() - RENAMED.keys()):
        value: Any = not AS_IT_IS[name] if name in AS_IT_IS else "x"
        with pytest.raises(ConfigError) as caught:
            App("shop").conf[name] = value
        assert f"setting {name!r} of Celery" in str(caught.value)
        assert f"(docs/from-celery.md: {line_of(name)})" in str(caught.value)


def test_renamed_settings_are_those_of_nodes() -> None:
    assert set(RENAMED.values()) <= SETTING_NAMES


@pytest.mark.parametrize("name", sorted(AS_IT_IS))
def test_what_is_so_anyway_may_be_said_and_its_contrary_not(name: str) -> None:
    value: Any = AS_IT_IS[name]
    contrary = 4 if value == 1 and value is not True else not value
    assert is_so_anyway(name, value)
    assert not is_so_anyway(name, contrary)
    app = App("shop")
    if name in NAMES:
        app.conf[name] = value
        assert dict(app.conf) == {}
        with pytest.raises(ConfigError, match=name):
            app.conf[name] = contrary
        return
    check = check_call_options if name == "retry" else check_task_options
    check({name: value}, "here")
    with pytest.raises(ConfigError, match=f"here: option '{name}' of Celery"):
        check({name: contrary}, "here")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CELERYD_CONCURRENCY", "worker_concurrency"),
        ("CELERYBEAT_SCHEDULE", "beat_schedule"),
        ("CELERY_ALWAYS_EAGER", "task_always_eager"),
        ("CELERY_TASK_ALWAYS_EAGER", "task_always_eager"),
        ("CELERY_RESULT_BACKEND", "result_backend"),
        ("CELERY_TASK_RESULT_EXPIRES", "result_expires"),
        ("CELERYD_TASK_TIME_LIMIT", "task_time_limit"),
        ("BROKER_URL", "broker_url"),
        ("CELERY_NONSENSE", None),
    ],
)
def test_names_in_capitals_have_others_since_celery_4(old: str, new: str | None) -> None:
    assert new_name(old) == new


def test_an_old_name_behind_a_namespace_is_told_its_new_one() -> None:
    told = "setting 'always_eager' is 'task_always_eager' since version 4 of Celery"
    assert told_setting("always_eager") == told
    with pytest.raises(ConfigError, match=told):
        App("shop").config_from_object({"CELERY_ALWAYS_EAGER": True}, namespace="CELERY")
    with pytest.raises(ConfigError, match=r"CELERYBEAT_SCHEDULE would not be read.*beat_schedule"):
        App("shop").config_from_object({"CELERYBEAT_SCHEDULE": {}}, namespace="CELERY")
    App("shop").config_from_object({"CELERYBEAT_SCHEDULE": {}}, namespace="ZMQTASKS")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("worker_concurrency", "setting 'worker_concurrency' of Celery is 'concurrency' here"),
        ("broker_url", "there is no broker to connect to"),
        ("task_always_eager", "only an application sets 'task_always_eager'"),
        ("timezone", "app.conf.timezone = ..."),
    ],
)
def test_environment_and_file_are_told_too(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(env={f"ZMQTASKS_{key.upper()}": "x"}, cwd=tmp_path)
    assert f"environment: ZMQTASKS_{key.upper()}: " in str(caught.value)
    assert words in str(caught.value)
    (tmp_path / "zmqtasks.toml").write_text(f'{key} = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(env={}, cwd=tmp_path)
    assert str(caught.value).startswith("zmqtasks.toml: ")
    assert words in str(caught.value)


def test_all_settings_of_applications_are_known_to_be_theirs() -> None:
    assert APP_SETTINGS.keys() == OF_APPS


@pytest.mark.parametrize("name", sorted(ARGUMENTS.keys() - {"main"}))
def test_arguments_of_celerys_class_are_told(name: str) -> None:
    settings: dict[str, Any] = {name: "x"}
    with pytest.raises(ConfigError) as caught:
        App("shop", **settings)
    assert f"App('shop'): argument {name!r} of Celery(): {ARGUMENTS[name]}" in str(caught.value)
