"""Peers that a user named."""

from __future__ import annotations

import threading

import pytest

from tests.unit.discovery.loops import Ears, Turns, candidate
from zmqtasks.discovery import static
from zmqtasks.discovery.static import StaticPeers, address_candidate, resolve


def test_addresses_are_told_at_once() -> None:
    turns, ears = Turns(), Ears()
    peers = StaticPeers([("192.0.2.1", 7), ("2001:db8::1", 8)], turns)
    peers.start(ears.listener, ears.gone)
    peers.announce(candidate(b"W"))
    turns.settle()
    assert [one.endpoints for one in ears.heard] == [
        ("tcp://192.0.2.1:7",),
        ("tcp://[2001:db8::1]:8",),
    ]
    assert {(one.node, one.source) for one in ears.heard} == {(None, "static")}
    peers.stop()


def test_each_address_of_a_name_is_a_candidate() -> None:
    turns, ears = Turns(), Ears()
    peers = StaticPeers([("workers", 7)], turns, lambda host: ["192.0.2.1", "192.0.2.2"])
    peers.start(ears.listener, ears.gone)
    turns.run(lambda: len(ears.heard) == 2)
    assert ears.heard == [address_candidate("192.0.2.1", 7), address_candidate("192.0.2.2", 7)]
    peers.stop()


def test_a_name_that_is_unknown_now_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(static, "_RETRY_S_MIN", 0.001)
    turns, ears, tries = Turns(), Ears(), iter(range(10))

    def resolver(host: str) -> list[str]:
        if next(tries) < 3:
            raise OSError(f"{host} unknown")
        return ["192.0.2.1"]

    peers = StaticPeers([("late.example", 7)], turns, resolver)
    peers.start(ears.listener, ears.gone)
    turns.run(lambda: ears.heard)
    peers.stop()
    assert caplog.text.count("late.example unknown") == 1


def test_a_lookup_that_hangs_holds_up_neither_others_nor_the_end() -> None:
    turns, ears, release = Turns(), Ears(), threading.Event()

    def resolver(host: str) -> list[str]:
        release.wait()
        return ["192.0.2.9"]

    peers = StaticPeers([("slow", 7), ("192.0.2.1", 7)], turns, resolver)
    peers.start(ears.listener, ears.gone)
    turns.settle()
    assert len(ears.heard) == 1
    peers.stop()
    release.set()
    thread = peers._thread
    assert thread is not None
    thread.join()
    turns.settle()
    assert len(ears.heard) == 1


def test_the_system_is_asked_for_names() -> None:
    assert {"127.0.0.1", "::1"} & set(resolve("localhost"))
    with pytest.raises((OSError, UnicodeError)):
        resolve("no such host")
