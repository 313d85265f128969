"""Which App and which gateway a call uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.errors import ConfigError

ROOT = Path(__file__).parents[3]


def test_the_app_made_last_is_the_current_one(gateway: InlineGateway) -> None:
    with pytest.raises(ConfigError, match="no App yet"):
        current.current_app()
    first, second = App("first"), App("second")
    assert current.current_app() is second
    assert set(current.all_apps()) == {first, second}


def test_an_installed_gateway_serves_all_apps(app: App, gateway: InlineGateway) -> None:
    assert current.gateway(app) is gateway
    other = InlineGateway()
    current.install(other)
    assert current.gateway(app) is other
    assert current.gateway(App("late")) is other


def test_apps_with_equal_settings_share_a_client(
    gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zmqtasks.node.client

    monkeypatch.setattr(zmqtasks.node.client, "Client", lambda settings: InlineGateway())
    monkeypatch.setattr(current, "_clients", {})
    current.install(None)
    one, same, other = App("one"), App("same"), App("other", mesh="garden")
    assert current.gateway(one) is current.gateway(same)
    assert current.gateway(one) is current.gateway(one)
    assert current.gateway(other) is not current.gateway(one)


def test_a_forked_process_opens_its_own_client(
    gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zmqtasks.node.client

    monkeypatch.setattr(zmqtasks.node.client, "Client", lambda settings: InlineGateway())
    monkeypatch.setattr(current, "_clients", {})
    current.install(None)
    app = App("shop")
    parents = current.gateway(app)
    child = os.fork()
    if child == 0:
        os._exit(0 if current.gateway(app) is not parents else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert current.gateway(app) is parents


def test_importing_and_defining_tasks_needs_no_sockets() -> None:
    script = (
        "import sys, zmqtasks\n"
        "assert not {m for m in sys.modules if m.startswith('zmqtasks.app')}\n"
        "app = zmqtasks.App('shop')\n"
        "@app.task\n"
        "def add(x, y): return x + y\n"
        "assert add(1, 2) == 3\n"
        "print({'zmq', 'zeroconf', 'asyncio', 'numpy'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "set()\n"


def test_asyncio_that_another_thread_is_importing_is_no_running_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The I/O thread imports it with zeroconf, some time after the first call."""
    half_way = ModuleType("asyncio.events")
    monkeypatch.setitem(sys.modules, "asyncio.events", half_way)
    assert not current.in_running_loop()
