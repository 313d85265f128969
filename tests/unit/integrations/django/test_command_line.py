"""``manage.py zmqtasks`` becomes ``zmqtasks``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from django.core.management import CommandError, call_command

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app.app import App
from zmqtasks.integrations.django.command_line import app_spec, command_of


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that has an App, once the test puts it there."""
    module = ModuleType("dj_shop")
    monkeypatch.setitem(sys.modules, "dj_shop", module)
    monkeypatch.setitem(sys.modules, "dj_shop.deeper", module)
    return module


def test_all_arguments_but_djangos_own_are_passed_on(
    gateway: InlineGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "node --role worker --settings=x.y -c 3 --pythonpath /lib --reload".split()
    command, env = command_of(["web/manage.py", "zmqtasks", *words], {"A": "1", "PYTHONPATH": "b"})
    rest = ["node", "--role", "worker", "-c", "3", "--reload"]
    assert command == [sys.executable, "-m", "zmqtasks", *rest]
    assert env == {"A": "1", "PYTHONPATH": os.pathsep.join(["/lib", str(tmp_path / "web"), "b"])}


def test_the_only_app_of_the_project_is_the_one_to_run(
    gateway: InlineGateway, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vars(module)["celery_app"] = App("shop")
    _, env = command_of(["manage.py", "zmqtasks", "node"], {})
    assert env["ZMQTASKS_APP"] == "dj_shop:celery_app"
    # Unless something else names one
    _, env = command_of(["manage.py", "zmqtasks", "node"], {"ZMQTASKS_APP": "other"})
    assert env["ZMQTASKS_APP"] == "other"
    (tmp_path / "zmqtasks.toml").write_text('app = "third"\n')
    _, env = command_of(["manage.py", "zmqtasks", "node"], {})
    assert "ZMQTASKS_APP" not in env


def test_of_several_apps_none_is_chosen(gateway: InlineGateway, module: ModuleType) -> None:
    assert app_spec() == ""
    vars(module).update(one=App("one"), two=App("two"))
    assert app_spec() == ""


def test_it_cannot_be_called_inside_a_process_that_goes_on() -> None:
    with pytest.raises(CommandError, match=r"start it from a shell: python manage\.py zmqtasks"):
        call_command("zmqtasks")
