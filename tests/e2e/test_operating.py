"""What somebody sees who runs workers, and looks after them."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e


def test_two_nodes_of_one_name_are_warned_of_and_told_apart(mesh: Mesh) -> None:
    first = mesh.start_node(name="w1")
    second = mesh.start_node(name="w1")
    line = first.wait_log("two nodes of this mesh are called 'w1'")
    assert "--name" in line
    second.wait_log("two nodes of this mesh are called 'w1'")
    told = json.loads(mesh.cli("status", "--json").stdout)
    ids = sorted(node["node"] for node in told["nodes"])
    assert all(node in line for node in ids)
    shown = mesh.cli("status").stdout
    assert all(f"w1@{node}" in shown for node in ids)
    pinged = mesh.cli("inspect", "ping", "-d", f"w1@{ids[0]}")
    assert (pinged.returncode, pinged.stdout) == (0, "w1: pong\n")
