"""``app.control`` on nodes that are played: shapes, who is asked, who did not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, ConfigError, NoWorkers
from zmqtasks.app import current
from zmqtasks.ids import format_task_id
from zmqtasks.node.survey import SeenNode
from zmqtasks.wire.messages import CatalogEntry, Hello


def node(
    name: str, data: Any = None, *, roles: tuple[str, ...] = ("worker",), **more: Any
) -> SeenNode:
    report = None if more.get("trouble") else {"data": data, **more}
    return SeenNode(f"{name}-id", name, roles, "local", "ipc", "", report, more.get("trouble", ""))


@pytest.fixture
def nodes() -> Iterator[InlineGateway]:
    gateway = InlineGateway()
    current.install(gateway)
    yield gateway
    current.install(None)


@pytest.fixture
def app() -> App:
    return App("shop")


def test_inspection_has_an_answer_a_node_and_names_those_without(
    nodes: InlineGateway, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    nodes.seen = lambda request: [
        node("b", ["tasks.add"], left_out=3),
        node("a", ["tasks.add"]),
        node("c", trouble="did not answer"),
    ]
    inspect = app.control.inspect(destination="a*", timeout=0.5)
    with caplog.at_level(logging.WARNING):
        found = inspect.registered()
    assert list(found.items()) == [("a", ["tasks.add"]), ("b", ["tasks.add"])]
    assert found.unanswered == inspect.unanswered == {"c": "did not answer"}
    assert found.left_out == {"b": 3}
    assert "no answer from c (did not answer)" in caplog.text
    [asked] = nodes.requests
    assert (asked.what, asked.destination, asked.roles) == (
        "registered",
        ["a*"],
        frozenset({"worker"}),
    )


def test_applications_are_shown_when_they_have_something_to_tell(
    nodes: InlineGateway, app: App
) -> None:
    nodes.seen = lambda request: [
        node("w", []), node("p", [], roles=("producer",)), node("q", ["x"], roles=("producer",)),
    ]  # fmt: skip
    assert app.control.inspect().scheduled() == {"w": [], "q": ["x"]}


def test_nodes_of_one_name_keep_their_answers_apart(nodes: InlineGateway, app: App) -> None:
    nodes.seen = lambda request: [
        node("w", 1), SeenNode("other", "w", ("worker",), "", "", "", {"data": 2}, ""),
    ]  # fmt: skip
    assert app.control.inspect().stats() == {"w@other": 2, "w@w-id": 1}


def test_commands_answer_in_the_shape_of_celery_with_errors_in_it(
    nodes: InlineGateway, app: App
) -> None:
    nodes.seen = lambda request: [
        node("a", {"ok": "3 slots"}), node("b", error="the pool of this node cannot"),
    ]  # fmt: skip
    assert app.control.pool_grow(2, destination=["a", "b"]) == [
        {"a": {"ok": "3 slots"}}, {"b": {"error": "the pool of this node cannot"}},
    ]  # fmt: skip
    assert app.control.add_consumer("mail", reply=False) is None
    grow, add = nodes.requests
    assert (grow.what, grow.args, grow.is_order) == ("pool_grow", {"n": 2}, True)
    assert (add.args, add.destination) == ({"queue": "mail"}, None)


def test_what_does_not_exist_is_refused_with_what_there_is(nodes: InlineGateway, app: App) -> None:
    with pytest.raises(AttributeError, match="enable_events\\(\\) does not exist here: nothing"):
        app.control.enable_events()
    with pytest.raises(AttributeError, match="did you mean 'active'"):
        app.control.inspect().activ()
    with pytest.raises(ConfigError, match="no command 'dance': no worker in sight has it"):
        app.control.broadcast("dance")
    with pytest.raises(ConfigError, match="did you mean 'revoke'"):
        app.control.broadcast("revok")
    with pytest.raises(ConfigError, match="no command 'registered'; there is inspect registered"):
        app.control.broadcast("registered")
    with pytest.raises(ConfigError, match="signal='LOUD' is no signal"):
        app.control.revoke(format_task_id(bytes(16)), signal="LOUD")
    with pytest.raises(ConfigError, match="name a header"):
        app.control.revoke_by_stamped_headers({})
    assert nodes.requests == []


def worker(name: str, *tasks: str) -> Hello:
    return Hello(
        name.encode().ljust(8), 1, 1, 0, 0, bytes(8), 1, 1, [], name, ["worker"], bytes(8), 1, [],
        [], [], 2, ["default"], [CatalogEntry("shop", task, "", "()") for task in tasks], {},
    )  # fmt: skip


def test_commands_of_applications_name_those_whom_they_do_not_reach(
    nodes: InlineGateway, app: App
) -> None:
    @app.control_command
    def set_level(value: int) -> dict[str, str]:
        return {"ok": f"level {value}"}

    nodes.peers = [worker("w1", "zmqtasks.control.set_level"), worker("w2", "tasks.add")]
    told = app.control.broadcast("set_level", {"value": 3}, ["w1", "w2", "w?", "nobody"])
    assert told == [{"w1": {"ok": "level 3"}}]
    why = "no worker in sight has this name and the command"
    assert app.control.unanswered == {"w2": why, "nobody": why}
    with pytest.raises(ConfigError, match="control set_level: only w1 has it"):
        app.control.broadcast("set_level", {"value": 3}, "w2")
    with pytest.raises(ConfigError, match="did you mean 'set_level'"):
        app.control.broadcast("set_levle", {"value": 3})
    with pytest.raises(ConfigError, match="no command 'set_level'; there is control set_level"):
        app.control.inspect().command("set_level")


def test_a_broadcast_to_a_name_that_nobody_has_says_so(nodes: InlineGateway, app: App) -> None:
    @app.task(name="tasks.add")
    def add() -> None: ...

    nodes.peers = [worker("w1", "tasks.add")]
    assert add.broadcast(destination="w*").workers == ["w1"]
    nodes.peers.append(worker("w1", "tasks.add"))
    nodes.peers[1].node = b"the-2nd!"
    twice = add.broadcast()
    assert twice.workers == [f"w1@{peer.node.hex()}" for peer in nodes.peers]
    assert len(twice.by_worker(timeout=5)) == 2
    with pytest.raises(NoWorkers, match="no worker named w2 in sight has this task"):
        add.broadcast(destination="w2")


def test_waiting_in_a_running_loop_is_refused_and_has_a_twin(
    nodes: InlineGateway, app: App
) -> None:
    nodes.seen = lambda request: [node("a", {"ok": "pong"})]

    async def main() -> Any:
        with pytest.raises(RuntimeError, match=r"await inspect\.aping"):
            app.control.inspect().ping()
        return await app.control.inspect().aping(), await app.control.ashutdown()

    assert asyncio.run(main()) == ({"a": {"ok": "pong"}}, [{"a": {"ok": "pong"}}])


def test_revoke_asks_the_owner_first_and_all_others_only_then(
    nodes: InlineGateway, app: App
) -> None:
    first, second, third = (bytes([number]) * 16 for number in (1, 2, 3))

    def answers(request: Any) -> list[SeenNode]:
        if request.nodes is not None:
            return [node("o", {first.hex(): "revoked", second.hex(): "given"})]
        return [node("o", {second.hex(): "given"}), node("n", {second.hex(): "running"}),
                node("c", trouble="did not answer")]  # fmt: skip

    nodes.seen = answers
    ids = [format_task_id(task_id) for task_id in (first, second, third)]
    said = app.control.revoke(ids, terminate=True)
    assert said == dict(zip(ids, ("revoked", "running", "unanswered"), strict=True))
    assert list(app.control.unanswered) == ["c"]
    to_owner, to_all = nodes.requests
    assert to_owner.nodes == frozenset(task_id[:8] for task_id in (first, second, third))
    assert to_owner.args == {"terminate": True, "signal": 15}
    assert (to_all.nodes, list(to_all.ids)) == (None, [second, third])


def test_twins_for_asyncio_say_what_the_methods_say(nodes: InlineGateway, app: App) -> None:
    @app.task(name="tasks.add")
    def add() -> str:
        return "added"

    task_id = format_task_id(bytes(15) + b"1")
    nodes.seen = lambda request: [
        node("o", {bytes.fromhex(task_id.replace("-", "")).hex(): "revoked"})
    ]
    nodes.peers = [worker("w1", "tasks.add"), worker("w2", "tasks.add")]

    async def main() -> None:
        assert await app.control.arevoke(task_id) == app_said
        assert await add.AsyncResult(task_id).arevoke() == "revoked"
        results = await add.abroadcast(destination="w1")
        assert results.workers == ["w1"]
        with pytest.raises(NoWorkers, match="no worker named w3"):
            await add.abroadcast(destination="w3")
        with pytest.raises(RuntimeError, match=r"use await app\.control\.arevoke"):
            app.control.revoke(task_id)

    app_said = app.control.revoke(task_id)
    asyncio.run(main())
