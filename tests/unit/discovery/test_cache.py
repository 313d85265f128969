"""The peers of the last run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.discovery.loops import Ears, Turns, candidate
from zmqtasks.core.links import Candidate
from zmqtasks.discovery.cache import PEERS_COUNT_MAX, PeerCache

ENDPOINT = "tcp://192.0.2.1:7"


def told(folder: Path) -> list[Candidate]:
    turns, ears = Turns(), Ears()
    cache = PeerCache(folder, turns)
    cache.start(ears.listener, ears.gone)
    cache.announce(candidate(b"W"))
    turns.settle()
    cache.stop()
    return ears.heard


def filled(folder: Path, *peers: Candidate) -> PeerCache:
    cache = PeerCache(folder, Turns())
    for peer in peers:
        cache.remember(peer, ENDPOINT)
    cache.stop()
    return cache


def test_the_last_peers_come_first_with_the_address_that_worked(tmp_path: Path) -> None:
    filled(tmp_path, candidate(b"1"), candidate(b"2"), candidate(b"1", epoch=2))
    heard = told(tmp_path)
    assert [(one.node, one.epoch) for one in heard] == [(b"1" * 8, 2), (b"2" * 8, 1)]
    assert heard[0].endpoints == (ENDPOINT, "tcp://127.0.0.1:7000")
    assert heard[0].source == "cache"


def test_the_next_run_keeps_what_it_read(tmp_path: Path) -> None:
    filled(tmp_path, candidate(b"1"))
    turns, ears = Turns(), Ears()
    cache = PeerCache(tmp_path, turns)
    cache.start(ears.listener, ears.gone)
    cache.remember(candidate(b"2"), ENDPOINT)
    cache.stop()
    assert [one.node for one in told(tmp_path)] == [b"2" * 8, b"1" * 8]


def test_unix_sockets_and_unknown_nodes_are_not_kept(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path, Turns())
    cache.remember(candidate(b"1"), "ipc:///x.r")
    cache.remember(candidate(b"1", node=None), ENDPOINT)
    cache.save()
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_peer_is_not_told(tmp_path: Path) -> None:
    cache = filled(tmp_path, candidate(b"1"), candidate(b"2"))
    cache.forget(b"1" * 8)
    cache.forget(b"x" * 8)
    cache.save()
    assert [one.node for one in told(tmp_path)] == [b"2" * 8]


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    nodes = [n.to_bytes(8, "big") for n in range(PEERS_COUNT_MAX + 5)]
    filled(tmp_path, *(candidate(b"x", node=node) for node in nodes))
    assert [one.node for one in told(tmp_path)] == nodes[:4:-1]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"\xff", b"null"])
def test_a_damaged_file_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "peers.json").write_bytes(content)
    assert told(tmp_path) == []


def test_a_damaged_row_costs_only_itself(tmp_path: Path) -> None:
    filled(tmp_path, candidate(b"1"))
    path = tmp_path / "peers.json"
    path.write_bytes(b'[{"node": 5}, 7, ' + path.read_bytes().removeprefix(b"["))
    assert [one.node for one in told(tmp_path)] == [b"1" * 8]


def test_a_folder_that_is_gone_costs_only_the_cache(tmp_path: Path) -> None:
    assert told(tmp_path / "missing") == []
    filled(tmp_path / "missing", candidate(b"1"))
