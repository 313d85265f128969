"""An App whose calls run inline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import current, shared
from zmqtasks.app.app import App


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
    return App("shop")
