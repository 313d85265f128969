"""Other settings for an App for a while."""

from __future__ import annotations

import pytest

from zmqtasks import App
from zmqtasks.app import current
from zmqtasks.errors import ConfigError
from zmqtasks.testing import configured, mesh


def make_app() -> App:
    app = App("configured", set_as_current=False, default_queue="usual")

    @app.task(name="configured.add")
    def add(x: int, y: int) -> int:
        return x + y

    return app


def test_an_app_in_use_has_other_settings_and_then_its_own_again() -> None:
    app = make_app()
    add = app.tasks["configured.add"]
    with mesh(app) as net:
        add.delay(1, 2)
        with configured(app, task_always_eager=True):
            assert add.delay(1, 2).state == "SUCCESS"
        with configured(app, default_queue="other", task_default_priority=7):
            add.delay(1, 2)
        add.delay(1, 2)
        assert [(call.queue, call.priority) for call in net.calls] == [
            ("usual", 0), ("other", 7), ("usual", 0),
        ]  # fmt: skip


def test_settings_that_only_nodes_have_are_taken_back_too() -> None:
    app = make_app()
    with configured(app, mesh="elsewhere", state_dir="/nowhere"):
        assert (app.settings.mesh, app.settings.state_dir) == ("elsewhere", "/nowhere")
        assert current.command_line_flags()
    assert app.settings.mesh == "default"
    assert not current.command_line_flags()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"no_such_thing": 1}, "no_such_thing"),
        ({"task_always_eager": "perhaps"}, "task_always_eager"),
        ({"task_annotations": {}}, "cannot be undone"),
    ],
)
def test_wrong_settings_are_told_and_change_nothing(settings: dict[str, object], text: str) -> None:
    app = make_app()
    before = app.conf
    with pytest.raises(ConfigError, match=text), configured(app, **settings):
        raise AssertionError("it was not refused")
    assert app.conf is before


def test_what_the_application_adds_at_its_first_use_stays() -> None:
    app = make_app()

    @app.on_after_configure.connect
    def complete(sender: App, **named: object) -> None:
        sender.conf.default_queue = "added"

    with configured(app, task_always_eager=True):
        assert app.settings.default_queue == "added"
    assert app.settings.default_queue == "added"
