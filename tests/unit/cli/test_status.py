"""What `zmqtasks status` says beside its table."""

from __future__ import annotations

from typing import Any

from zmqtasks.cli.status import address_lines, load_of, trouble_lines
from zmqtasks.node.survey import SeenNode


def _node(name: str, report: dict[str, Any] | None, trouble: str = "") -> SeenNode:
    return SeenNode("id", name, ("store",), "local", "ipc", "ipc:///x", report, trouble)


def test_ports_are_shown_of_nodes_that_other_hosts_can_reach() -> None:
    reachable = {
        "endpoints": ["ipc:///x.r", "tcp://10.0.0.1:5555", "tcp://10.1.0.1:5555"],
        "pub_endpoints": ["ipc:///x.p", "tcp://10.0.0.1:5556"],
        "pull_endpoints": ["ipc:///x.l", "tcp://10.0.0.1:5557"],
    }
    hidden = {"endpoints": ["ipc:///y.r"], "pub_endpoints": [], "pull_endpoints": []}
    lines = address_lines([_node("alpha", reachable), _node("beta", hidden)])
    shown = "  alpha: tcp://10.0.0.1, ports 5555, 5556, 5557 and 1 more addresses"
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


def test_nodes_that_did_not_answer_are_named() -> None:
    lines = trouble_lines([_node("frozen", None, "no answer in 2 s")])
    assert lines == ["", "no answer from:", "  frozen (store; found by local): no answer in 2 s"]
