"""Peers that are closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.unit.net.pumping import Peer

MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer() -> Iterator[MakePeer]:
    made: list[Peer] = []

    def make(letter: bytes, **config: object) -> Peer:
        made.append(Peer(letter, **config))
        return made[-1]

    yield make
    for peer in made:
        peer.transport.close()
