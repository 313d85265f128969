"""An application as a part of a Django project."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.db import connection, connections, transaction

from tests.support.inline_gateway import InlineGateway
from tests.unit.app.worker import Worker
from zmqtasks.app.app import App
from zmqtasks.errors import AppLoadError, ConfigError, PayloadTypeError
from zmqtasks.integrations.django.project import DjangoProject, LikeRequests, install

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.usefixtures("database")


# --- settings and applications --------------------------------------------------------------


def test_settings_of_the_project_are_those_of_the_application(app: App) -> None:
    assert dict(app.conf) == {"default_queue": "from-django"}
    assert str(app.rules.zone) == "Asia/Tokyo"


def test_a_timezone_of_its_own_stands_above_that_of_the_project(app: App) -> None:
    app.conf.timezone = "Europe/Paris"
    assert str(app.rules.zone) == "Europe/Paris"


def test_it_becomes_part_of_the_project_once(app: App) -> None:
    project = app.project
    assert isinstance(project, DjangoProject)
    app.autodiscover_tasks()
    app.config_from_object("django.conf:settings", namespace="ZMQTASKS")
    assert install(app) is project is app.project
    assert [type(each) for each in app.middleware] == [LikeRequests]


def test_an_application_with_other_settings_is_no_part_of_it(gateway: InlineGateway) -> None:
    app = App("shop")
    app.config_from_object({"default_queue": "x"})
    assert app.project is None
    assert app.middleware == []


def test_modules_of_all_installed_applications_are_discovered(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.autodiscover_tasks(related_name="command_line")
    app.import_default_modules()
    assert app.project is not None
    assert app.project.packages() == ["zmqtasks.integrations.django"]
    assert "zmqtasks.integrations.django.command_line" in sys.modules
    # When Django has loaded nothing yet
    monkeypatch.setattr(apps, "apps_ready", False)
    with pytest.raises(ConfigError, match=r"leave force out, or call django\.setup"):
        app.autodiscover_tasks(force=True)


def test_importing_tasks_while_django_loads_applications_is_refused(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "models_ready", False)
    with pytest.raises(AppLoadError, match=r"do that in AppConfig.ready\(\), or later"):
        app.import_default_modules()


def test_a_project_that_could_not_be_loaded_says_why_each_time(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").touch()
    (tmp_path / "broken" / "models.py").write_text("1 / 0\n")
    (tmp_path / "its_settings.py").write_text("INSTALLED_APPS = ['broken']\n")
    (tmp_path / "its_app.py").write_text(
        "from zmqtasks import App\napp = App('shop')\napp.autodiscover_tasks()\n"
    )
    script = (
        "from zmqtasks.app.loader import load_app\n"
        "for _ in range(2):\n"
        "    try: load_app('its_app')\n"
        "    except Exception as exc: print(type(exc).__name__, exc, '1 / 0' in exc.traceback)\n"
    )
    said = "django.setup() with DJANGO_SETTINGS_MODULE=its_settings failed: ZeroDivisionError"
    line = f"AppLoadError {said}: division by zero True\n"
    env = {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "its_settings"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout == line * 2, done.stderr
    # And without knowing which project
    del env["DJANGO_SETTINGS_MODULE"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout.count("DJANGO_SETTINGS_MODULE does not say which; set it where") == 2


def test_without_django_the_extra_is_named(
    gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("shop")
    task = app.add_task(lambda: None, name="none")
    monkeypatch.setitem(sys.modules, "django", None)
    for attempt, where in (
        (app.autodiscover_tasks, r"App\('shop'\).autodiscover_tasks\(\)"),
        (task.delay_on_commit, r"none.apply_async_on_commit\(\)"),
    ):
        with pytest.raises(ConfigError, match=rf"{where} needs Django.*pip install 'zmqtasks\[dj"):
            attempt()


# --- transactions -----------------------------------------------------------------------------


@pytest.fixture
def echo(app: App) -> Any:
    @app.task(name="echo")
    def echo(value: Any, more: int = 0) -> Any:
        return value

    return echo


def test_a_call_waits_for_the_commit(echo: Any, gateway: InlineGateway) -> None:
    value = [1]
    with transaction.atomic():
        first = echo.delay_on_commit(value)
        second = echo.apply_async_on_commit((2,), {"more": 3}, queue="slow", priority=4)
        value.append(2)
        assert gateway.calls == []
    assert [call.kind.queue for call in gateway.calls] == ["from-django", "slow"]
    assert gateway.calls[1].ext == {"pri": 4}
    assert echo.AsyncResult(first).id == first != second


def test_what_is_linked_to_a_call_waits_for_the_commit_too(
    echo: Any, gateway: InlineGateway
) -> None:
    with transaction.atomic():
        task_id = echo.apply_async_on_commit((1,), link=echo.s(2))
        with pytest.raises(TypeError):
            echo.apply_async_on_commit((), link=echo.s(2))
        assert gateway.calls == []
    assert len(gateway.calls) == 2
    assert echo.AsyncResult(task_id).get() == 1


def test_a_call_of_a_transaction_that_is_rolled_back_is_never_made(
    echo: Any, gateway: InlineGateway
) -> None:
    with transaction.atomic():
        echo.delay_on_commit(1)
        transaction.set_rollback(True)
    assert gateway.calls == []


def test_without_a_transaction_it_is_made_at_once(echo: Any, gateway: InlineGateway) -> None:
    echo.delay_on_commit(1)
    assert len(gateway.calls) == 1


def test_what_is_wrong_with_a_call_shows_before_the_commit(
    echo: Any, gateway: InlineGateway
) -> None:
    with transaction.atomic():
        with pytest.raises(TypeError):
            echo.delay_on_commit()
        with pytest.raises(PayloadTypeError):
            echo.delay_on_commit(object())
        with pytest.raises(ConfigError, match="did you mean 'queue'"):
            echo.apply_async_on_commit((1,), quee="x")
    assert gateway.calls == []


def test_eager_calls_wait_for_the_commit_too(app: App) -> None:
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task(name="see", bind=True)
    def see(self: Any, value: int) -> None:
        seen.append((self.request.id, value))

    with transaction.atomic():
        task_id = see.delay_on_commit(1)
        with pytest.raises(TypeError):
            see.delay_on_commit()  # type: ignore[call-arg]
        assert seen == []
    assert seen == [(task_id, 1)]


# --- connections ------------------------------------------------------------------------------


def _use() -> list[bool]:
    """Whether there was a connection, and whether there is one after a query."""
    before = connections["default"].connection is not None
    with connections["default"].cursor() as cursor:
        cursor.execute("select 1")
    return [before, connections["default"].connection is not None]


def test_connections_are_closed_before_and_after_an_attempt(app: App) -> None:
    app.add_task(_use, name="use")

    async def use_async() -> list[bool]:
        return await sync_to_async(_use)()

    app.add_task(use_async, name="use_async")
    with Worker(app) as worker:
        _use()
        for _ in range(2):
            assert worker.value("use") == [False, True]
            assert connection.connection is None
        for _ in range(2):
            assert worker.value("use_async") == [False, True]


def test_connections_are_closed_after_an_attempt_that_failed(app: App) -> None:
    def fail() -> None:
        _use()
        raise ValueError

    app.add_task(fail, name="fail")
    with Worker(app) as worker:
        assert worker.run("fail").status != 0
        assert connection.connection is None


def test_connections_of_who_calls_eagerly_stay_open(app: App) -> None:
    use = app.add_task(_use, name="use")

    async def nothing() -> bool:
        return True

    waits = app.add_task(nothing, name="nothing")
    with transaction.atomic():
        assert use.apply().get() == [True, True]
        assert waits.apply().get() is True
        assert connection.connection is not None


def test_processes_that_are_forked_inherit_no_connection(app: App) -> None:
    _use()
    assert app.project is not None
    app.project.loaded()
    assert connection.connection is None


def test_async_tasks_are_stood_around_by_coroutines() -> None:
    class Context:
        is_eager = False

    async def call_next() -> str:
        return "value"

    found = LikeRequests().arun(call_next, Context())  # type: ignore[arg-type]
    assert asyncio.run(found) == "value"
