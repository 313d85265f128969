"""What a node says to those who run it: its log, and its service manager."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.harness import DEADLINE_S, Mesh, wait_for

pytestmark = pytest.mark.e2e


def test_a_json_log_is_an_object_a_line(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1", "--log-format", "json", name="w1")
    mesh.run("from tasks import talk; talk.delay().get(timeout=10)")
    node.wait_log("logged by the task")
    node.signal(signal.SIGUSR1)
    wait_for(lambda: node.log.count("thread MainThread, most recent call last") == 2, "the stacks")
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.log.splitlines()]
    assert {line["node"] for line in lines} == {"w1"}
    (said,) = [line for line in lines if line["message"] == "said on stdout"]
    assert (said["task_name"], said["source"]) == ("tasks.talk", "stdout")
    assert said["task_id"]
    (logged,) = [line for line in lines if line.get("source") == "shop.orders"]
    assert (logged["message"], logged["level"]) == ("logged by the task", "WARNING")


def _hear(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_a_service_manager_hears_of_start_restart_and_end(
    mesh: Mesh, own_directories: Path
) -> None:
    path = str(own_directories / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(DEADLINE_S)
        node = mesh.start_node("-c", "1", NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
        heard = [_hear(sock)]
        assert heard[0] == ["READY=1", "STATUS=0 tasks of at most 1 running"]
        assert _hear(sock) == ["WATCHDOG=1"]
        node.signal(signal.SIGHUP)
        while heard[-1][0] != "READY=1" or len(heard) == 1:
            heard.append(_hear(sock))
        assert [lines[0] for lines in heard if lines != ["WATCHDOG=1"]] == [
            "READY=1", "RELOADING=1", "READY=1",
        ]  # fmt: skip
        node.signal(signal.SIGTERM)
        while heard[-1][0] != "STOPPING=1":
            heard.append(_hear(sock))
        assert node.wait() == 0
