"""What commands make of texts, and texts of values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

import click
import pytest

from zmqtasks.cli.call import (
    Runner,
    apps_of,
    parse_keywords,
    runners_behind,
    runners_of,
    why_not,
    why_not_direct,
)
from zmqtasks.cli.calloptions import parse_argument
from zmqtasks.cli.showing import as_json, as_text
from zmqtasks.cli.status import load_of, waiting_lines
from zmqtasks.node.survey import SeenNode
from zmqtasks.wire.messages import CatalogEntry, Hello


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("-2.5", -2.5),
        ("true", True),
        ("null", None),
        ('"2"', "2"),
        ('[1, {"a": 2}]', [1, {"a": 2}]),
        ("two", "two"),
        ("", ""),
        ("[1,", "[1,"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_argument_is_json_where_it_is_json(text: str, value: object) -> None:
    assert parse_argument(text) == value


def test_keywords_are_a_json_object() -> None:
    assert parse_keywords('{"size": 3}') == {"size": 3}
    with pytest.raises(click.BadParameter, match="no JSON object"):
        parse_keywords("[1]")
    with pytest.raises(click.BadParameter, match="not JSON"):
        parse_keywords("size=3")


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (3, "3"),
        (None, "null"),
        ([1, "ä"], '[1, "ä"]'),
        (Decimal("1.5"), "Decimal('1.5')"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (Point(1), "Point(x=1)"),
    ],
)
def test_values_for_people(value: object, text: str) -> None:
    assert as_text(value) == text


def test_values_for_programs_are_always_json() -> None:
    assert json.loads(as_json({"result": Decimal("1.5")})) == {"result": "Decimal('1.5')"}
    assert "(1, 2)" in json.loads(as_json({"result": {(1, 2): 3}}))
    looped: list[object] = []
    looped.append(looped)
    assert isinstance(json.loads(as_json(looped)), str)


def _worker(app: str, queues: list[str]) -> Hello:
    return Hello(
        bytes(8), 1, 1, 0, 0, bytes(8), 1, 1, [], "w", ["worker"], bytes(8), 1, [], [], [], 2,
        queues, [CatalogEntry(app, "add", "", "()")], {},
    )  # fmt: skip


def test_apps_that_can_run_a_call() -> None:
    peers = [_worker("shop", ["a", "b"]), _worker("bank", ["b"]), _worker("shop", ["b"])]
    workers = runners_of(peers)
    assert apps_of(workers, "add", "a", None) == ["shop"]
    assert apps_of(workers, "add", "b", None) == ["bank", "shop"]
    assert apps_of(workers, "add", "b", "bank") == ["bank"]
    assert apps_of(workers, "add", "c", None) == []
    assert apps_of(workers, "sub", "a", None) == []
    peers[1].ext["draining"] = 1
    assert len(runners_of(peers)) == 2, "it takes no more tasks"
    assert why_not(workers, "sud", "a", None) == "no worker knows task 'sud'; they know 'add'"
    own = [Runner(["a"], [("shop", "add"), ("shop", "zmqtasks.control.set_level")], "w1")]
    assert why_not(own, "sud", "a", None) == "no worker knows task 'sud'; they know 'add'"
    assert "is not in app 'x', but in 'bank', 'shop'" in why_not(workers, "add", "a", "x")
    assert "serves queue 'c'; they serve 'a', 'b'" in why_not(workers, "add", "c", None)


def test_workers_that_only_a_broker_reaches_count_as_well() -> None:
    told = {"workers": [{"names": ["far"], "queues": ["a"], "tasks": [["shop", "add"]]}]}
    seen = [
        SeenNode("00", "keeper", ("broker",), "local", "ipc", "", told, ""),
        SeenNode("01", "silent", ("broker",), "local", "ipc", "", None, "does not answer"),
        SeenNode("02", "w1", ("worker",), "local", "ipc", "", told, ""),
    ]
    runners = runners_behind(seen)
    assert runners == [Runner(["a"], [("shop", "add")], "keeper")]
    assert apps_of(runners, "add", "a", None) == ["shop"]
    assert "reached by 'keeper' only, and queue 'a' has the route" in why_not_direct(
        runners, "add", "a"
    )


def test_load_in_words() -> None:
    worker = {"running": 1, "slots": 2, "queued": 3}
    assert load_of({"draining": True, "worker": worker, "store": {"stored": 7}}) == (
        "draining; 1 of 2 slots, 3 queued; 7 rows stored"
    )
    assert load_of({"producer": {"open": 1}}) == "1 open task"
    assert load_of({}) == ""


def test_what_waits_has_its_reason_once() -> None:
    kind = {"task": "t", "app": "a", "queue": "q", "count": 3}
    why = "task 't' (app 'a', queue 'q') waits: no worker is in sight"
    report = {"producer": {"waiting": [{**kind, "why": why}, {**kind, "why": ""}]}}
    node = SeenNode("00", "p1", ("producer",), "local", "ipc", "", report, "")
    assert waiting_lines([node]) == [
        "",
        "waiting:",
        "  3 × t (app 'a', queue 'q') of p1: no worker is in sight",
        "  3 × t (app 'a', queue 'q') of p1: every worker that can run it is busy",
    ]
