"""Closed by default: where a node without a mesh key listens, and where it may not."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, NodeProcess

pytestmark = pytest.mark.e2e

#: Column "st" of /proc/net/tcp.
_LISTENING = "0A"


def _listening_addresses(node: NodeProcess) -> set[str]:
    """The TCP addresses on which the kernel accepts connections for a node."""
    inodes = set()
    for entry in Path(f"/proc/{node.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(entry.readlink()))
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/{node.pid}/net/{name}").read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTENING and f"socket:[{columns[9]}]" in inodes:
                    found.add(_address(columns[1].partition(":")[0]))
    return found


def _address(text: str) -> str:
    """An address as the kernel prints it: 32-bit words in the machine's byte order."""
    raw = bytes.fromhex(text)
    words = [raw[at : at + 4] for at in range(0, len(raw), 4)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return str(ipaddress.ip_address(b"".join(words)))


def test_without_a_key_a_node_has_no_port_at_all(mesh: Mesh) -> None:
    node = mesh.start_node("--port", "5560")
    assert "tcp://" not in node.wait_log("listens on ipc://")
    assert node.wait_log("opens no port").endswith("so it does nothing with: port")
    assert "zmqtasks keygen" in node.wait_log("no mesh key")
    assert _listening_addresses(node) == set()
    folder = mesh.runtime / mesh.name
    assert folder.stat().st_mode & 0o777 == 0o700


def test_loopback_without_a_key_is_open_only_when_asked_for_and_warns(mesh: Mesh) -> None:
    node = mesh.start_node("--listen", "127.0.0.1")
    warning = node.wait_log("WARNING")
    assert "without a mesh key every user of this machine can submit tasks" in warning
    assert "zmqtasks keygen" in warning
    assert node.log.count("WARNING") == 1
    assert "tcp://127.0.0.1:" in node.wait_log("listens on")
    assert _listening_addresses(node) == {"127.0.0.1"}


@pytest.mark.parametrize("listen", ["*", "203.0.113.7", "[::]:5570", "127.0.0.1,203.0.113.7"])
def test_any_other_address_needs_a_key(mesh: Mesh, listen: str) -> None:
    done = mesh.cli("node", "--listen", listen)
    assert (done.returncode, done.stdout) == (2, "")
    problem = done.stderr.splitlines()[-1]
    assert problem.startswith("zmqtasks: error: listening on ")
    assert "needs a mesh key: make one with 'zmqtasks keygen'" in problem
    assert "--insecure" in problem


def test_a_key_closes_loopback_to_other_users(mesh: Mesh) -> None:
    key = mesh.folder / "mesh.key"
    assert mesh.cli("keygen", str(key)).returncode == 0
    node = mesh.start_node("--listen", "127.0.0.1", "--key", str(key))
    assert "only members on this host can reach it" in node.wait_log("mesh key")
    assert _listening_addresses(node) == {"127.0.0.1"}
    assert "WARNING" not in node.log


def test_a_worker_that_dials_out_has_no_port_and_works_on_its_host(mesh: Mesh) -> None:
    key = mesh.folder / "mesh.key"
    assert mesh.cli("keygen", str(key)).returncode == 0
    node = mesh.start_node("--dial", "--key", str(key))
    assert "dials brokers and stores of other hosts" in node.wait_log("mesh key")
    assert _listening_addresses(node) == set()
    done = mesh.run(
        "from tasks import add; print(add.delay(2, 3).get(timeout=10))",
        ZMQTASKS_KEY_FILE=str(key), ZMQTASKS_LISTEN="127.0.0.1",
    )  # fmt: skip
    assert done.stdout == "5\n"
