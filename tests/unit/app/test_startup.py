"""How an application comes to be: its modules, the end of its configuration, the current one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.app.builtin import BUILT_IN
from zmqtasks.app.loader import load_app
from zmqtasks.app.result import AsyncResult
from zmqtasks.errors import AppLoadError, ConfigError


class Project:
    """Modules in a folder, forgotten after the test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        monkeypatch.setattr(sys, "modules", dict(sys.modules))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        for parent in reversed(path.relative_to(self.folder).parents[:-1]):
            (self.folder / parent).mkdir(exist_ok=True)
            (self.folder / parent / "__init__.py").touch()
        path.write_text(text)

    def load(self, text: str) -> App:
        """The App of this module, as a worker loads it."""
        self.write("st_main.py", f"from zmqtasks import App, shared_task\n{text}\n")
        return load_app("st_main", self.folder)


SHARED = "from zmqtasks import shared_task\n@shared_task\ndef {}(): ...\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: InlineGateway) -> Project:
    return Project(tmp_path, monkeypatch)


def names_of(app: App) -> set[str]:
    return set(app.tasks.keys() - BUILT_IN)


# --- modules ------------------------------------------------------------------------------


def test_a_worker_imports_what_imports_and_include_name(project: Project) -> None:
    for name in ("one", "two"):
        project.write(f"st_{name}.py", SHARED.format("f"))
    app = project.load("app = App('shop', include=['st_one'])\napp.conf.imports = ('st_two',)")
    assert names_of(app) == {"st_one.f", "st_two.f"}


def test_tasks_of_packages_are_discovered_where_tasks_run_and_not_before(project: Project) -> None:
    project.write("st_pkg/tasks.py", SHARED.format("f"))
    project.write("st_pkg/jobs.py", SHARED.format("g"))
    project.write("st_bare/other.py", "")
    project.write("st_flat.py", SHARED.format("h"))
    text = "app = App('shop')\napp.autodiscover_tasks(['st_pkg', 'st_bare', 'st_flat'])\n"
    project.write("st_seen.py", text)
    app = project.load(
        f"{text}app.autodiscover_tasks(lambda: ['st_pkg'], related_name='jobs')\n"
        "app.autodiscover_tasks(('st_flat',), related_name=None)\n"
        "import sys\nbefore = {name for name in sys.modules if name.startswith('st_pkg')}"
    )
    assert names_of(app) == {"st_pkg.tasks.f", "st_pkg.jobs.g", "st_flat.h"}
    assert sys.modules["st_main"].before == set()


def test_a_discovered_module_may_discover_others(project: Project) -> None:
    project.write("st_deep/tasks.py", SHARED.format("f"))
    project.write("st_pkg/tasks.py", "from st_main import app\napp.autodiscover_tasks(['st_deep'])")
    app = project.load("app = App('shop')\napp.autodiscover_tasks(['st_pkg'])")
    assert names_of(app) == {"st_deep.tasks.f"}


def test_with_force_modules_are_imported_at_once(project: Project, app: App) -> None:
    project.write("st_pkg/tasks.py", SHARED.format("f"))
    app.autodiscover_tasks(["st_pkg"], force=True)
    assert names_of(app) == {"st_pkg.tasks.f"}


@pytest.mark.parametrize(
    ("text", "words", "trace"),
    [
        ("app = App('x', imports=['st_gone'])", "no module 'st_gone'", ""),
        ("app = App('x')\napp.autodiscover_tasks(['st_gone'])", "no module 'st_gone'", ""),
        (
            "app = App('x')\napp.autodiscover_tasks(['st_bad'])",
            "importing 'st_bad.tasks' failed: ZeroDivisionError",
            "1 / 0",
        ),
        (
            "app = App('x')\n@app.on_after_configure.connect\n"
            "def setup(sender, **more): sender.conf.mehs = 'x'",
            "unknown setting 'mehs'",
            "",
        ),
    ],
)
def test_what_cannot_be_imported_stops_a_worker_and_is_shown(
    project: Project, text: str, words: str, trace: str
) -> None:
    project.write("st_bad/tasks.py", "1 / 0\n")
    with pytest.raises(AppLoadError) as caught:
        project.load(text)
    assert words in str(caught.value)
    assert trace in caught.value.traceback


@pytest.mark.parametrize("packages", ["shop", 3, [None], b"x"])
def test_what_are_no_names_of_packages_is_refused(app: App, packages: Any) -> None:
    with pytest.raises(ConfigError, match=r"names of modules are a list such as \['shop.tasks'\]"):
        app.autodiscover_tasks(packages)
    with pytest.raises(ConfigError, match="imports: names of modules"):
        app.conf.imports = packages


# --- configuration ------------------------------------------------------------------------


def test_settings_come_from_where_a_variable_of_the_environment_says(
    project: Project, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("st_conf.py", "default_queue = 'fast'\nSHOP_TIMEZONE = 'Europe/Paris'\n")
    monkeypatch.delenv("ST_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="ST_CONFIG is not set in the environment; set it"):
        app.config_from_envvar("ST_CONFIG")
    assert app.config_from_envvar("ST_CONFIG", silent=True) is False
    monkeypatch.setenv("ST_CONFIG", "st_conf")
    assert app.config_from_envvar("ST_CONFIG") is True
    app.config_from_envvar("ST_CONFIG", namespace="SHOP")
    assert dict(app.conf) == {"default_queue": "fast", "timezone": "Europe/Paris"}


def test_who_waits_for_the_configuration_may_still_change_it(app: App) -> None:
    told: list[str] = []

    @app.on_after_configure.connect
    def configure(sender: App, source: Any, **more: Any) -> None:
        assert source is sender.conf
        told.append("configured")
        sender.conf.task_default_priority = 7

    @app.on_after_finalize.connect
    def finalize(sender: App, **more: Any) -> None:
        told.append("finalized")
        sender.add_task(lambda: None, name="late")

    assert told == []
    app.send_task("any")
    app.send_task("any")
    app.finalize()
    assert told == ["configured", "finalized"]
    assert "late" in app.tasks
    with pytest.raises(ConfigError, match="in use"):
        app.conf.task_default_priority = 1


# --- which App ----------------------------------------------------------------------------


def test_another_app_can_be_made_the_current_one(gateway: InlineGateway) -> None:
    first, second = App("first"), App("second")
    aside = App("aside", set_as_current=False)
    assert current.current_app() is second
    first.set_current()
    assert current.current_app() is first
    assert AsyncResult("00000000-0000-0000-0000-000000000001").app is first
    aside.set_default()
    assert current.current_app() is aside


def test_the_app_that_a_worker_loads_is_the_current_one(project: Project) -> None:
    app = project.load(
        "@shared_task(name='who')\ndef who(): ...\napp = App('mine')\nother = App('other')"
    )
    assert current.current_app() is app
    assert sys.modules["st_main"].who.app is app
