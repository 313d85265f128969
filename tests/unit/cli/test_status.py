"""What `zmqtasks status` says beside its table."""

from __future__ import annotations

from typing import Any

from zmqtasks.cli.status import (
    address_lines,
    handoff_lines,
    journal_lines,
    load_of,
    result_lines,
    standing_lines,
    trouble_lines,
)
from zmqtasks.node.survey import SeenNode


def _node(
    name: str, report: dict[str, Any] | None, trouble: str = "", roles: tuple[str, ...] = ("store",)
) -> SeenNode:
    return SeenNode("id", name, roles, "local", "ipc", "ipc:///x", report, trouble)


def _journal(**facts: object) -> dict[str, Any]:
    quiet = {"tasks": 0, "waiting": 0, "failing": "", "resumed": 0, "adopted": 0}
    return {"journal": {"slot": 0, "folder": "/s/0", "lasting": True, **quiet, **facts}}


def test_ports_are_shown_of_nodes_that_other_hosts_can_reach() -> None:
    reachable = {
        "endpoints": ["ipc:///x.r", "tcp://10.0.0.1:5555", "tcp://10.1.0.1:5555"],
        "pub_endpoints": ["ipc:///x.p", "tcp://10.0.0.1:5556"],
        "pull_endpoints": ["ipc:///x.l", "tcp://10.0.0.1:5557"],
    }
    hidden = {"endpoints": ["ipc:///y.r"], "pub_endpoints": [], "pull_endpoints": []}
    lines = address_lines([_node("alpha", reachable), _node("beta", hidden)])
    shown = "  alpha: tcp://10.0.0.1, ports 5555, 5556, 5557 (of 2 addresses)"
    assert lines == ["", "listening:", shown]


def test_store_that_fails_is_named_with_the_reason() -> None:
    store = {"stored": 7, "waiting": 3, "url": "sqlite:///r.db", "failing": "disk is full"}
    node = _node("keeper", {"store": store})
    assert load_of({"store": store}) == "7 rows stored, 3 waiting"
    assert trouble_lines([node]) == [
        "",
        "stores that fail:",
        "  keeper (sqlite:///r.db): disk is full",
    ]


def test_store_that_works_is_no_trouble() -> None:
    store = {"stored": 7, "waiting": 0, "url": "sqlite:///r.db", "failing": ""}
    assert trouble_lines([_node("keeper", {"store": store})]) == []


def test_results_that_wait_on_the_disk_and_those_that_are_lost_are_shown() -> None:
    quiet = {"spilled": 0, "spilled_bytes": 0, "spill_failing": "", "spill_lost": 0, "dropped": 0}
    waiting = {**quiet, "spilled": 9, "spilled_bytes": 3 << 20}
    full = {**waiting, "spill_failing": "no room", "spill_lost": 1, "missed": 1}
    nodes = [
        _node("quiet", {"results": quiet}),
        _node("old", {"results": {**quiet, "dropped": 5}}),
        _node("w1", {"results": waiting}),
        _node("w2", {"results": full}),
    ]
    assert result_lines(nodes) == [
        "",
        "results:",
        "  w1: 3.0 MiB of results wait on its disk for a store",
        "  w2: 3.0 MiB of results wait on its disk for a store, its disk takes no more: no room, "
        "2 records dropped or lost before a store had them",
    ]


def test_nodes_that_did_not_answer_are_named() -> None:
    lines = trouble_lines([_node("frozen", None, "no answer in 2 s")])
    assert lines == ["", "no answer from:", "  frozen (store; found by local): no answer in 2 s"]


def test_what_a_node_owns_is_part_of_its_load() -> None:
    owner = {"open": 2, "dead": 1}
    assert load_of({"roles": ["broker"], "producer": owner}) == "2 open tasks, 1 dead"
    nothing = {"open": 0, "dead": 0}
    assert load_of({"roles": ["broker"], "producer": nothing}) == "0 open tasks"
    worker = {"running": 0, "slots": 1, "queued": 0}
    report = {"roles": ["worker"], "worker": worker, "producer": nothing}
    assert load_of(report) == "0 of 1 slot, 0 queued"
    assert load_of({**report, "producer": owner}).endswith("; 2 open tasks, 1 dead")


def test_journals_are_shown_where_tasks_are_kept() -> None:
    broker = _node("b", _journal(), roles=("broker",))
    owner = _node("w", _journal(tasks=3, waiting=1, resumed=1, adopted=2))
    fleeting = _node("m", _journal(lasting=False))
    others = [_node("x", _journal()), _node("y", {}), _node("z", {"journal": {"slot": None}})]
    assert journal_lines([broker, owner, fleeting, *others]) == [
        "",
        "journals:",
        "  b: /s/0: 0 tasks",
        "  w: /s/0: 3 tasks, 1 change on the way to the disk, 1 there since its start, "
        "2 from ended processes",
        "  m: /s/0: 0 tasks, in memory, gone with the power",
    ]
    assert journal_lines(others) == []


def test_journals_that_fail_or_are_missing_are_trouble() -> None:
    full = _node("b", _journal(failing="no room; free some"))
    missing = _node("w", {"journal": {"slot": None, "failing": "no such folder"}})
    assert trouble_lines([full, missing, _node("x", _journal())]) == [
        "",
        "journals that fail:",
        "  b: no room; free some",
        "  w: no such folder",
    ]


def test_messages_of_strangers_are_trouble_where_there_are_some() -> None:
    none = {"undecodable": 0, "stray": 0}
    pestered = _node("w", {"garbage": {**none, "undecodable": 1_200, "unauthenticated": 3}})
    assert trouble_lines([pestered, _node("x", {"garbage": none}), _node("old", {})]) == [
        "",
        "what strangers sent:",
        "  w: 1,200 that could not be read, 3 without the mesh key; its log says more",
    ]


def test_tasks_between_two_owners_are_shown() -> None:
    busy = _node("b", {"handoff": {"offered": 1, "given": 2, "incoming": 3}})
    quiet = _node("w", {"handoff": {"offered": 0, "given": 0, "incoming": 0}})
    assert handoff_lines([busy, quiet]) == [
        "",
        "being handed over:",
        "  b: 1 task offered to other nodes, "
        "2 tasks given to other nodes, which have not confirmed that yet, "
        "3 tasks offered by other nodes, which have not said yet whose they are",
    ]
    assert handoff_lines([quiet]) == []


def test_tasks_that_are_stuck_between_two_nodes_are_warned_of() -> None:
    standing = {
        "incoming": {"ms": 300_000, "nodes": {"aa": 1, "bb": 2}},
        "given": {"ms": 8_000_000, "nodes": {"cc": 3}},
        "offered": {"ms": 59_999, "nodes": {"bb": 9}},
    }
    keeper = _node("keeper", {"handoff": {"standing": standing}}, roles=("broker",))
    web = _node("web", {"handoff": {"standing": {}}})._replace(node="bb")
    title, first, second, third = standing_lines([keeper, web])[1:]
    assert title == "stuck between two nodes:"
    assert first.startswith(
        "  keeper: 1 task offered by node aa, which has not said whose they are, the oldest for "
        "5 minutes; it is not in sight, and it, or the next node of this mesh on its host"
    )
    assert second == (
        "  keeper: 2 tasks offered by web, which has not said whose they are, the oldest for "
        "5 minutes; it is in sight: see its log"
    )
    assert "3 tasks given to node cc, which has not confirmed that, the oldest for 2 hours" in third
    assert standing_lines([web, _node("old", {})]) == []
