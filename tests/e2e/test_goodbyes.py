"""Leaving is told apart from dying, also by processes that live for a moment only."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e


def test_short_processes_are_not_taken_for_dead_ones(mesh: Mesh) -> None:
    node = mesh.start_node(name="w1")
    store = mesh.start_node(roles="store", name="s1")
    for _ in range(4):
        mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
        assert mesh.cli("status").returncode == 0
    assert node.stop() == 0
    assert store.stop() == 0
    assert "lost " not in node.log
    assert "lost " not in store.log


def test_goodbye_does_not_wait_for_a_frozen_peer(mesh: Mesh) -> None:
    frozen = mesh.start_node(name="w1")
    other = mesh.start_node(roles="store", name="s1")
    frozen.signal(signal.SIGSTOP)
    try:
        assert other.stop() == 0
    finally:
        frozen.signal(signal.SIGCONT)
