"""A Django project in this process: one database in a file, no applications but ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.db import connection, connections

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import current, shared
from zmqtasks.app.app import App

if not settings.configured:
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                # In memory it could not be closed.
                "NAME": Path(tempfile.gettempdir()) / "set by the fixture",
            }
        },
        INSTALLED_APPS=["zmqtasks.integrations.django"],
        TIME_ZONE="Asia/Tokyo",
        ZMQTASKS_DEFAULT_QUEUE="from-django",
    )
    django.setup()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[InlineGateway]:
    """The gateway of all Apps of this test, which are forgotten afterwards."""
    inline = InlineGateway()
    monkeypatch.setattr(current, "_apps", type(current._apps)())
    monkeypatch.setattr(current, "_current", None)
    monkeypatch.setattr(shared, "_shared", [])
    before = current._installed
    current.install(inline)
    yield inline
    current.install(before)


@pytest.fixture
def app(gateway: InlineGateway) -> App:
    """An App that belongs to the project."""
    app = App("shop")
    app.config_from_object("django.conf:settings", namespace="ZMQTASKS")
    return app


@pytest.fixture
def database(tmp_path: Path) -> Iterator[None]:
    """An empty database."""
    connections["default"].settings_dict["NAME"] = str(tmp_path / "db.sqlite3")
    yield
    connection.close()
