"""``app.control.beat`` on beats that are played."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import App, ConfigError
from zmqtasks.app import current, timing
from zmqtasks.app.beats import by_app, told
from zmqtasks.node.survey import SeenNode

NOW_MS = 1_800_000_000_000
TASK_ID = "0190aaaa-0000-4000-8000-000000000001"


def beat(name: str, data: Any = None, *, error: str = "", trouble: str = "") -> SeenNode:
    report: dict[str, Any] | None = {"error": error} if error else {"data": data}
    if trouble:
        report = None
    return SeenNode(f"{name}-id", name, ("beat",), "local", "ipc", "", report, trouble)


def knows(app: str, leader: str, *entries: str, leads: bool = False) -> dict[str, Any]:
    rows = [{"name": entry, "next_ms": 5 if leads else None} for entry in entries]
    return {"app": app, "leads": leads, "leader": leader, "entries": rows}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[InlineGateway]:
    monkeypatch.setattr("zmqtasks.app.beats.now_ms", lambda: NOW_MS)
    gateway = InlineGateway()
    current.install(gateway)
    yield gateway
    current.install(None)


@pytest.fixture
def app() -> App:
    return App("shop")


def test_entries_are_those_of_the_application_as_its_leader_knows_them(
    nodes: InlineGateway, app: App
) -> None:
    nodes.seen = lambda request: [
        beat("b1", knows("shop", "b2", "tidy")),
        beat("b2", knows("shop", "b2", "tidy", leads=True)),
        beat("b3", knows("farm", "b3", "milk", leads=True)),
    ]
    assert app.control.beat.list() == [{"name": "tidy", "next_ms": 5}]
    [asked] = nodes.requests
    assert (asked.what, asked.is_order, asked.roles) == ("beat", False, frozenset({"beat"}))


def test_without_a_beat_of_the_application_it_says_how_to_start_one(
    nodes: InlineGateway, app: App
) -> None:
    nodes.seen = lambda request: [beat("b3", knows("farm", "b3", "milk", leads=True))]
    with pytest.raises(ConfigError, match="no beat of app 'shop' is here; start one: zmqtasks"):
        app.control.beat.list()
    nodes.seen = lambda request: [beat("b1", trouble="lost")]
    with pytest.raises(ConfigError, match="no beat of app 'shop' is here; b1 did not answer"):
        app.control.beat.list()


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_an_order_goes_to_all_beats_with_one_moment_and_the_name_of_the_application(
    nodes: InlineGateway, app: App, what: str
) -> None:
    nodes.seen = lambda request: [
        beat("b1", {"ok": "done"}),
        beat("b2", {"ok": "done"}),
        beat("b3", error="no beat of app shop"),
    ]
    assert getattr(app.control.beat, what)("tidy") is None
    [asked] = nodes.requests
    assert (asked.what, asked.is_order, asked.roles) == (f"beat_{what}", True, frozenset({"beat"}))
    assert asked.args == {"entry": "tidy", "at_ms": NOW_MS, "of_app": "shop"}


def test_a_task_that_is_started_by_hand_has_a_handle(nodes: InlineGateway, app: App) -> None:
    nodes.seen = lambda request: [
        beat("b1", {"ok": "not the leader"}),
        beat("b2", {"ok": "started", "id": TASK_ID}),
    ]
    handle = app.control.beat.run("tidy")
    assert handle.id == TASK_ID
    assert handle.app is app


@pytest.mark.parametrize(
    ("what", "seen", "words"),
    [
        ("pause", [beat("b1", error="no entry 'tydi'")], "beat pause 'tydi': b1: no entry 'tydi'"),
        ("pause", [beat("b1", trouble="frozen")], "beat pause 'tydi': b1 did not answer"),
        ("pause", [], "beat pause 'tydi': no beat is in sight; start one: zmqtasks node"),
        ("run", [beat("b1", {"ok": "not the leader"})], "b1: no beat leads at the moment; try"),
    ],
)
def test_an_order_that_nobody_carried_out_raises_with_the_reasons(
    nodes: InlineGateway, app: App, what: str, seen: list[SeenNode], words: str
) -> None:
    nodes.seen = lambda request: seen
    with pytest.raises(ConfigError) as caught:
        getattr(app.control.beat, what)("tydi")
    assert words in str(caught.value)


async def _in_a_loop(app: App) -> tuple[Any, Any]:
    with pytest.raises(RuntimeError, match=r"use await app.control.beat.apause\(...\)"):
        app.control.beat.pause("tidy")
    listed = await app.control.beat.alist()
    return listed, await app.control.beat.apause("tidy")


def test_in_a_running_loop_the_twins_are_awaited(nodes: InlineGateway, app: App) -> None:
    nodes.seen = lambda request: [
        beat("b1", {"ok": "done"} if request.is_order else knows("shop", "b1", "tidy", leads=True))
    ]
    assert asyncio.run(_in_a_loop(app)) == ([{"name": "tidy", "next_ms": 5}], None)


def test_what_is_not_there_is_named_with_the_nearest(app: App) -> None:
    with pytest.raises(AttributeError, match="has no 'pauze'; did you mean 'pause'"):
        _ = app.control.beat.pauze


def test_answers_are_put_together_by_application() -> None:
    found = by_app({
        "b1": knows("shop", "b2", "tidy"),
        "b2": knows("shop", "b2", "tidy", leads=True),
        "b3": knows("farm", "", "milk"),
        "b4": {"error": "too busy"},
    })  # fmt: skip
    assert [(beats.app, beats.leader, beats.beats) for beats in found] == [
        ("farm", "", ["b3"]),
        ("shop", "b2", ["b1", "b2"]),
    ]
    assert found[1].entries == [{"name": "tidy", "next_ms": 5}]


def test_an_order_was_carried_out_by_those_who_say_so() -> None:
    said = told({"a": {"ok": "paused"}, "b": {"error": "no entry"}, "c": None})
    assert said.done == {"a": "paused"}
    assert said.refused == {"b": "no entry"}


def test_the_moment_of_an_order_is_that_of_the_clock_here(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = InlineGateway()
    current.install(gateway)
    before = timing.now_ms()
    gateway.seen = lambda request: [beat("b1", {"ok": "done"})]
    app.control.beat.pause("tidy")
    current.install(None)
    assert before <= gateway.requests[0].args["at_ms"] <= timing.now_ms()
