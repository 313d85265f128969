"""Multicast DNS, on loopback alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest

from tests.unit.discovery.loops import Ears, Turns, candidate
from zmqtasks.discovery import mdns
from zmqtasks.discovery.interfaces import Interface
from zmqtasks.discovery.mdns import MdnsDiscovery

LOOPBACK = Interface("lo", ("127.0.0.1",), True, True, False)
MakeMdns = Callable[[], MdnsDiscovery]


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A mesh of this test's own: tests that run at the same time share the loopback."""
    monkeypatch.setattr(mdns, "system_interfaces", lambda: [LOOPBACK])
    return os.urandom(8)


@pytest.fixture
def make(turns: Turns, mesh: bytes) -> Iterator[MakeMdns]:
    made: list[MdnsDiscovery] = []

    def discovery() -> MdnsDiscovery:
        made.append(MdnsDiscovery(mesh, turns, interfaces=("127.0.0.1",)))
        return made[-1]

    yield discovery
    for one in made:
        one.stop()
    for one in made:
        one.join(10.0)
        assert one._thread is None or not one._thread.is_alive()


def node_id() -> bytes:
    return os.urandom(8)


def test_nodes_find_each_other_whoever_comes_first(
    make: MakeMdns, turns: Turns, mesh: bytes
) -> None:
    one, two = (
        candidate(b"x", node=node_id(), mesh=mesh, endpoints=(f"tcp://127.0.0.1:{port}",))
        for port in (7001, 7002)
    )
    ears = Ears(), Ears()
    for announced, ear in zip((one, two), ears, strict=True):
        discovery = make()
        discovery.start(ear.listener, ear.gone)
        discovery.announce(announced)
    turns.run(lambda: ears[0].heard and ears[1].heard)
    assert ears[0].heard == [two._replace(source="mdns")]
    assert ears[1].heard == [one._replace(source="mdns")]


def test_a_change_is_told_and_other_meshes_are_not_heard(
    make: MakeMdns, turns: Turns, mesh: bytes
) -> None:
    ears = Ears()
    make().start(ears.listener, ears.gone)
    other = make()
    other.announce(candidate(b"x", node=node_id(), mesh=b"another-"))
    other.start(lambda candidate: None, lambda node, epoch: None)
    worker = make()
    worker.start(lambda candidate: None, lambda node, epoch: None)
    first = candidate(b"x", node=node_id(), mesh=mesh)
    worker.announce(first)
    turns.run(lambda: ears.heard)
    worker.announce(first._replace(epoch=2))
    turns.run(lambda: len(ears.heard) == 2)
    assert [one.epoch for one in ears.heard] == [1, 2]
    worker.stop()
    worker.join(10.0)
    turns.settle()
    assert ears.ended == []


def test_one_that_ends_before_its_delay_never_speaks(turns: Turns, mesh: bytes) -> None:
    discovery = MdnsDiscovery(mesh, turns, delay_s=3600.0)
    discovery.start(lambda candidate: None, lambda node, epoch: None)
    discovery.stop()
    discovery.join(10.0)
    assert discovery._thread is not None
    assert not discovery._thread.is_alive()
    assert discovery._aio is None


def test_without_an_interface_it_waits_for_one(
    turns: Turns, mesh: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[Interface]] = [[LOOPBACK], []]
    monkeypatch.setattr(
        mdns, "system_interfaces", lambda: found.pop() if len(found) > 1 else found[0]
    )
    monkeypatch.setattr(mdns, "_INTERFACES_S", 0.01)
    ears = Ears()
    peers = [MdnsDiscovery(mesh, turns, interfaces=("lo",)) for _ in range(2)]
    peers[0].announce(candidate(b"x", node=node_id(), mesh=mesh))
    peers[1].start(ears.listener, ears.gone)
    peers[0].start(lambda candidate: None, lambda node, epoch: None)
    turns.run(lambda: ears.heard)
    for peer in peers:
        peer.stop()
    for peer in peers:
        peer.join(10.0)


def test_a_failure_of_zeroconf_costs_only_mdns(
    make: MakeMdns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> list[Interface]:
        raise RuntimeError("no network stack")

    monkeypatch.setattr(mdns, "system_interfaces", broken)
    discovery = make()
    discovery.start(lambda candidate: None, lambda node, epoch: None)
    discovery.join(10.0)
    assert "no network stack" in caplog.text
    assert "--peer" in caplog.text


def test_what_zeroconf_complains_of_on_our_thread_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zmqtasks.discovery")
    problem = OSError("Network is unreachable")
    record = logging.LogRecord(
        "zeroconf", logging.WARNING, __file__, 1, "Error with socket %d", (7,),
        (OSError, problem, None),
    )  # fmt: skip
    assert mdns._in_one_line(record)  # somebody else's thread
    record.threadName = "zmqtasks-mdns"
    assert not mdns._in_one_line(record)
    assert caplog.messages == ["mdns.trouble: Error with socket 7; trying on"]
    assert caplog.records[0].exc_info is None
