"""What receivers of a node's signals are told, and whose calls they make."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import signals
from zmqtasks.app import current
from zmqtasks.app.app import App
from zmqtasks.app.childmain import AppProgram
from zmqtasks.app.nodehooks import NodeHooks
from zmqtasks.pools.base import PoolConfig
from zmqtasks.settings import NodeSettings

TOLD: list[tuple[str, str, Any]] = []


@pytest.fixture
def told() -> Iterator[list[tuple[str, str, Any]]]:
    """Notes (signal, sender, which gateway calls go through)."""
    TOLD.clear()

    def note(signal: signals.Signal, sender: Any, **named: Any) -> None:
        apps = current.all_apps()
        TOLD.append((signal.name, str(sender), current.gateway(apps[0]) if apps else None))

    for signal in signals.OF_NODES:
        signal.connect(note)
    yield TOLD
    for signal in signals.OF_NODES:
        signal.disconnect(note)


def _program(app: App, name: str = "w1") -> AppProgram:
    return AppProgram(app, (), PoolConfig("tasks", node_name=name), lambda line: None)


def test_sender_is_the_node_and_its_name_when_it_shuts_down(app: App) -> None:
    senders: list[Any] = []

    def receiver(sender: Any, **named: Any) -> None:
        senders.append(sender)

    signals.worker_ready.connect(receiver)
    signals.worker_shutting_down.connect(receiver)
    hooks = NodeHooks(app, "w1", "INFO")
    hooks.fire("worker_ready", {})
    hooks.fire("worker_shutting_down", {"sig": "SIGTERM", "how": "Warm", "exitcode": 0})
    node, name = senders
    assert (node.app, node.hostname, str(node), repr(node)) == (app, "w1", "w1", "<WorkerNode: w1>")
    assert name == "w1"


def test_program_says_whether_anybody_wants_signals_of_this_node(app: App) -> None:
    assert not _program(app).has_hooks

    def receiver(**named: Any) -> None: ...

    signals.worker_shutdown.connect(receiver, sender="w1")
    assert _program(app).has_hooks
    assert not _program(app, "w2").has_hooks


def test_sys_exit_in_a_receiver_is_told(app: App, caplog: pytest.LogCaptureFixture) -> None:
    def receiver(**named: Any) -> None:
        raise SystemExit(4)

    signals.worker_init.connect(receiver)
    with caplog.at_level(logging.ERROR, "zmqtasks.signals"):
        NodeHooks(app, "w1", "INFO").fire("worker_init", {})
    assert "a receiver of signal worker_init called sys.exit(4)" in caplog.text


def test_in_the_nodes_own_process_calls_go_through_a_client(
    app: App,
    gateway: InlineGateway,
    told: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gateway there is that of tasks, and none runs."""
    import zmqtasks.node.client

    class Client:
        ended = ""

        def end(self, reason: str) -> int:
            self.ended = reason
            return 0

    monkeypatch.setattr(zmqtasks.node.client, "Client", lambda settings: Client())
    monkeypatch.setattr(current, "_clients", {})
    program = _program(app)
    program.fire("worker_ready", {})
    assert current.gateway(app) is gateway
    program.close()
    assert [(name, sender) for name, sender, _ in told] == [
        ("worker_ready", "w1"), ("worker_shutdown", "w1"),
    ]  # fmt: skip
    clients = {id(used): used for _, _, used in told}.values()
    assert [client.ended for client in clients] == ["the node ended"]


def test_worker_shutdown_does_not_fire_where_nothing_was_begun(
    app: App, told: list[tuple[str, str, Any]]
) -> None:
    _program(app).close()
    assert told == []


def test_hook_child_that_ends_hands_over_within_its_time(
    gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zmqtasks.node.client

    class Client:
        def __init__(self, settings: NodeSettings) -> None:
            self.exit_wait_s = settings.exit_wait_s

    monkeypatch.setattr(zmqtasks.node.client, "Client", Client)
    monkeypatch.setattr(current, "_clients", {})
    current.install(None)
    hasty, patient = App("hasty", exit_wait_s=1.0), App("patient", exit_wait_s=600.0)
    for app in (hasty, patient):
        current.gateway(app)
    NodeHooks(patient, "w1", "INFO").end()
    assert [current.gateway(app).exit_wait_s for app in (hasty, patient)] == [1.0, 5.0]  # type: ignore[attr-defined]
