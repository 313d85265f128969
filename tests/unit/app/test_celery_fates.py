"""Whoever uses what Celery has, and what does not exist here, is told what there is instead."""

from __future__ import annotations

import pytest

from zmqtasks.app.celery_fates import OPTIONS, SETTINGS, line_of, told_option, told_setting


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
