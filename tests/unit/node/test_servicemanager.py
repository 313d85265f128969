"""What a service manager hears, on a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.node.servicemanager import ServiceManager, watchdog_ms


class Timers:
    """Rings when the test says so."""

    def __init__(self) -> None:
        self.set: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, delay_ms: float, function: Callable[[], None]) -> None:
        self.set.append((delay_ms, function))

    def ring(self) -> float:
        delay_ms, function = self.set.pop()
        function()
        return delay_ms


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, own_directories: Path) -> Iterator[Any]:
    path = str(own_directories / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path if request.param == "file" else "\0" + path)
        sock.setblocking(False)
        sock_and_name = sock, path if request.param == "file" else "@" + path
        yield sock_and_name


def heard(sock: socket.socket) -> list[list[str]]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return found


def test_it_hears_of_a_node_from_its_start_to_its_end(listener: Any) -> None:
    sock, name = listener
    timers, doing = Timers(), ["idle"]
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000"}
    manager = ServiceManager(timers, lambda: doing[0], environ)
    manager.ready()
    assert heard(sock) == [["READY=1", "STATUS=idle"]]
    assert timers.ring() == 1500, "half of what the watchdog grants"
    assert heard(sock) == [["WATCHDOG=1"]]
    doing[0] = "busy"
    timers.ring()
    assert heard(sock) == [["WATCHDOG=1"], ["STATUS=busy"]]
    manager.stopping("draining")
    assert heard(sock) == [["STOPPING=1", "STATUS=draining"]]
    timers.ring()
    assert heard(sock) == [["WATCHDOG=1"]], "the loop is well while it drains"


def test_it_hears_of_a_restart_with_the_time(listener: Any) -> None:
    sock, name = listener
    manager = ServiceManager(Timers(), lambda: "", {"NOTIFY_SOCKET": name})
    manager.restarting("soon")
    ((reloading, since, status),) = heard(sock)
    assert (reloading, status) == ("RELOADING=1", "STATUS=soon")
    assert since.removeprefix("MONOTONIC_USEC=").isdecimal()


def test_without_a_service_manager_nothing_is_said_or_timed() -> None:
    timers = Timers()
    manager = ServiceManager(timers, lambda: "", {"WATCHDOG_USEC": "3000000"})
    manager.ready()
    manager.stopping("")
    assert not timers.set


def test_one_that_does_not_listen_is_no_trouble(tmp_path: Path) -> None:
    timers = Timers()
    manager = ServiceManager(timers, lambda: "", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    manager.ready()
    timers.ring()
    manager.stopping("")


@pytest.mark.parametrize(
    ("environ", "ms"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_the_watchdog_may_be_another_process_s(environ: dict[str, str], ms: int) -> None:
    assert watchdog_ms(environ, os.getpid()) == ms
