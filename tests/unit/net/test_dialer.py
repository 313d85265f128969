"""Races of plain connects over Unix sockets and loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.limits import ENDPOINTS_PER_PEER_MAX
from zmqtasks.net import dialer as dialer_module
from zmqtasks.net.dialer import PROBE_AGAIN_MS, PROBE_MS, RACE_MS, STAGGER_MS, Dialer, rank
from zmqtasks.net.poller import Poller

HERE, ELSEWHERE = b"here----", b"elsewher"


class Turns:
    """A loop and a clock that go on when the test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_000
        self.writers: dict[int, Callable[[], None]] = {}
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def register_writable(self, fd: Any, callback: Callable[[], None], /) -> None:
        self.writers[fd] = callback

    def unregister(self, fd: Any, /) -> None:
        self.writers.pop(fd, None)

    def call_soon(self, fn: Callable[..., Any], /, *args: Any) -> None:
        self.calls.append((fn, args))

    def run(self, until: Callable[[], object]) -> None:
        """Serve writable descriptors and calls, with the clock standing still."""
        while not until():
            poller = Poller()
            for fd in self.writers:
                poller.register(fd, read=False, write=True)
            ready = [] if self.calls else poller.poll(10_000)
            assert ready or self.calls, "nothing happened"
            for fd, _, _ in ready:
                callback = self.writers.pop(fd, None)
                if callback is not None:
                    callback()
            calls, self.calls = self.calls, []
            for fn, args in calls:
                fn(*args)


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def dialer(turns: Turns) -> Iterator[Dialer]:
    made = Dialer(turns, HERE, lambda: turns.now_ms)
    yield made
    made.close()
    assert turns.writers == {}


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def unix_listener(own_directories: Path) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(own_directories / "w.r"))
        sock.listen()
        yield f"ipc://{own_directories / 'w.r'}"


@pytest.fixture
def closed_port() -> Iterator[str]:
    """Bound, so that nobody else takes it, but not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address whose connect neither succeeds nor fails: its backlog is full."""
    with socket.socket() as sock, socket.socket() as filler:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        filler.connect(address)
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(address)
        yield f"tcp://127.0.0.1:{address[1]}"
        for other in others:
            other.close()


def dial(dialer: Dialer, turns: Turns, *endpoints: str, host_id: bytes = HERE) -> str:
    winners: list[str] = []
    dialer.dial(endpoints, host_id, winners.append)
    turns.run(lambda: winners)
    assert dialer.advance(turns.now_ms) is None
    return winners[0]


def probe(dialer: Dialer, turns: Turns, endpoint: str) -> str:
    verdicts: list[str] = []
    dialer.probe(endpoint, verdicts.append)
    while not verdicts:
        turns.run(lambda: not turns.writers and not turns.calls)
        turns.now_ms = dialer.advance(turns.now_ms) or turns.now_ms
    return verdicts[0]


def test_the_unix_socket_wins_on_the_same_host(
    dialer: Dialer, turns: Turns, listener: str, unix_listener: str
) -> None:
    assert dial(dialer, turns, listener, unix_listener) == unix_listener


def test_a_unix_socket_reaches_into_another_network_namespace(
    dialer: Dialer, turns: Turns, unix_listener: str
) -> None:
    assert dial(dialer, turns, unix_listener, host_id=ELSEWHERE) == unix_listener


def test_a_left_over_socket_file_does_not_hide_the_address_that_works(
    dialer: Dialer, turns: Turns, listener: str, own_directories: Path
) -> None:
    stale = own_directories / "stale.r"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    assert dial(dialer, turns, f"ipc://{stale}", listener) == listener


def test_a_refused_address_does_not_hold_up_the_next(
    dialer: Dialer, turns: Turns, closed_port: str, listener: str
) -> None:
    assert dial(dialer, turns, closed_port, listener) == listener


def test_nobody_answering_is_said(dialer: Dialer, turns: Turns, closed_port: str) -> None:
    assert dial(dialer, turns, closed_port) == ""
    assert dial(dialer, turns, "junk", "ipc:///nowhere/x.r", "tcp://some.name:5") == ""
    assert dial(dialer, turns) == ""


def test_the_callback_never_comes_from_within_the_call(
    dialer: Dialer, turns: Turns, unix_listener: str
) -> None:
    winners: list[str] = []
    dialer.dial([unix_listener], HERE, winners.append)
    assert winners == []
    assert len(turns.calls) == 1


def test_a_slow_address_is_overtaken_after_the_stagger(
    dialer: Dialer, turns: Turns, hanging: str, listener: str
) -> None:
    winners: list[str] = []
    dialer.dial([hanging, listener], HERE, winners.append)
    due = dialer.advance(turns.now_ms)
    assert due == turns.now_ms + STAGGER_MS
    turns.now_ms += STAGGER_MS
    dialer.advance(turns.now_ms)
    turns.run(lambda: winners)
    assert winners == [listener]


def test_a_race_ends_in_time(dialer: Dialer, turns: Turns, hanging: str) -> None:
    winners: list[str] = []
    dialer.dial([hanging], HERE, winners.append)
    assert dialer.advance(turns.now_ms) == turns.now_ms + RACE_MS
    turns.now_ms += RACE_MS
    assert dialer.advance(turns.now_ms) is None
    turns.run(lambda: winners)
    assert winners == [""]


def test_what_may_not_be_dialled_is_left_out(turns: Turns, listener: str) -> None:
    dialer = Dialer(turns, HERE, lambda: 0, lambda endpoint: "no key")
    assert dial(dialer, turns, listener) == ""


def test_a_probe_tells_a_listener_from_none(
    dialer: Dialer, turns: Turns, listener: str, closed_port: str, unix_listener: str
) -> None:
    assert probe(dialer, turns, listener) == "accepted"
    assert probe(dialer, turns, unix_listener) == "accepted"
    assert probe(dialer, turns, closed_port) == "refused"
    assert probe(dialer, turns, "ipc:///nowhere/x.r") == "refused"
    assert probe(dialer, turns, "tcp://some.name:5") == "timeout"
    assert probe(dialer, turns, "junk") == "timeout"


def test_a_listener_that_closes_after_the_first_probe_is_seen_to_be_gone(
    dialer: Dialer, turns: Turns
) -> None:
    verdicts: list[str] = []
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        dialer.probe(f"tcp://127.0.0.1:{sock.getsockname()[1]}", verdicts.append)
        turns.run(lambda: not turns.writers and not turns.calls)
        assert verdicts == []
    assert dialer.advance(turns.now_ms) == turns.now_ms + PROBE_AGAIN_MS[0]
    turns.now_ms += PROBE_AGAIN_MS[0]
    dialer.advance(turns.now_ms)
    turns.run(lambda: verdicts)
    assert verdicts == ["refused"]


def test_a_probe_without_an_answer_proves_nothing(
    dialer: Dialer, turns: Turns, hanging: str
) -> None:
    verdicts: list[str] = []
    dialer.probe(hanging, verdicts.append)
    turns.now_ms += PROBE_MS
    dialer.advance(turns.now_ms)
    turns.run(lambda: verdicts)
    assert verdicts == ["timeout"]


def test_a_full_backlog_of_a_unix_socket_is_somebody(
    dialer: Dialer, turns: Turns, own_directories: Path
) -> None:
    path = str(own_directories / "busy.r")
    fillers = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(0)
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(path)
        assert probe(dialer, turns, f"ipc://{path}") == "accepted"
        for filler in fillers:
            filler.close()


def test_closing_drops_races_without_a_word(dialer: Dialer, turns: Turns, hanging: str) -> None:
    winners: list[str] = []
    dialer.dial([hanging], HERE, winners.append)
    dialer.close()
    assert (winners, turns.calls, turns.writers) == ([], [], {})


def test_the_nearest_addresses_come_first(
    monkeypatch: pytest.MonkeyPatch, unix_listener: str
) -> None:
    import ipaddress

    networks = [ipaddress.ip_network("192.168.1.0/24"), ipaddress.ip_network("192.168.0.0/16")]
    monkeypatch.setattr(dialer_module, "interface_networks", lambda: networks)
    texts = [
        "tcp://[fe80::1%eth0]:1", "tcp://8.8.8.8:1", "tcp://[2001:db8::1]:1", "tcp://10.0.0.1:1",
        "tcp://192.168.7.1:1", "tcp://192.168.1.1:1", "tcp://127.0.0.1:1", unix_listener,
    ]  # fmt: skip
    assert [str(one) for one in rank(texts, HERE, HERE)] == [
        unix_listener, "tcp://127.0.0.1:1", "tcp://192.168.1.1:1", "tcp://192.168.7.1:1",
        "tcp://10.0.0.1:1", "tcp://[2001:db8::1]:1", "tcp://8.8.8.8:1", "tcp://[fe80::1%eth0]:1",
    ]  # fmt: skip


def test_loopback_of_another_host_is_not_ours(unix_listener: str) -> None:
    texts = ["tcp://127.0.0.1:1", "tcp://10.0.0.1:1"]
    assert [one.host for one in rank(texts, ELSEWHERE, HERE)] == ["10.0.0.1"]
    assert [one.host for one in rank(texts, b"", HERE)] == ["127.0.0.1", "10.0.0.1"]


def test_a_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert rank([f"ipc://{tmp_path / 'file'}"], HERE, HERE) == []


def test_only_so_many_addresses_are_tried(
    dialer: Dialer, turns: Turns, closed_port: str, listener: str
) -> None:
    port = closed_port.rpartition(":")[2]
    many = [f"tcp://127.0.1.{n}:{port}" for n in range(ENDPOINTS_PER_PEER_MAX)]
    assert dial(dialer, turns, *many, listener) == ""
