"""Two hosts on a network of their own: network namespaces joined by a cable.

Each side has one interface, ``lan0``, and shares with the other nothing but the cable:
own loopback, own addresses, own runtime, state and cache directories. Root is needed,
and the ``ip`` command.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.harness import Mesh

_NAMESPACES = Path("/run/netns")
_NAME = re.compile(r"zt-(\d+)-\d+-\w+")
_numbers = itertools.count()


class Namespaces(ABC):
    """A network that is made when a ``with`` block begins, and is gone after it."""

    def __enter__(self) -> Self:
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @abstractmethod
    def make(self) -> None:
        """Make it; what was made is removed even if this fails half way."""

    @abstractmethod
    def remove(self) -> None:
        """Remove what was made of it."""


class Lan(Namespaces):
    """A network that lasts as long as the ``with`` block.

    Args:
        routed: the sides are in different subnets and a third namespace forwards between
            them. Multicast for the local network (224.0.0.0/24, so mDNS too) never passes
            a router, while everything else does.
    """

    def __init__(self, routed: bool = False) -> None:
        base = f"zt-{os.getpid()}-{next(_numbers)}"
        self.routed = routed
        self.a, self.b, self._router = f"{base}-a", f"{base}-b", f"{base}-r"
        self.a_address = "10.77.1.1"
        self.b_address = "10.77.2.1" if routed else "10.77.1.2"

    def make(self) -> None:
        """See ``Namespaces``."""
        for name in (self.a, self.b):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        if not self.routed:
            ip("link", "add", "lan0", "netns", self.a, "type", "veth",
               "peer", "name", "lan0", "netns", self.b)  # fmt: skip
            _set_up(self.a, "lan0", self.a_address)
            _set_up(self.b, "lan0", self.b_address)
            return
        ip("netns", "add", self._router)
        for name, port, address in (
            (self.a, "port1", self.a_address), (self.b, "port2", self.b_address)
        ):  # fmt: skip
            gateway = address.rpartition(".")[0] + ".254"
            ip("link", "add", "lan0", "netns", name, "type", "veth",
               "peer", "name", port, "netns", self._router)  # fmt: skip
            _set_up(name, "lan0", address)
            _set_up(self._router, port, gateway)
            ip("-n", name, "route", "add", "default", "via", gateway)
        forward = "open('/proc/sys/net/ipv4/ip_forward', 'w').write('1')"
        in_namespace(self._router, forward)

    def remove(self) -> None:
        """Take everything away; a namespace takes its interfaces with it."""
        for name in (self.a, self.b, self._router):
            if (_NAMESPACES / name).exists():
                ip("netns", "del", name)

    def cut(self) -> None:
        """Take the link of one side down."""
        ip("-n", self.a, "link", "set", "lan0", "down")

    def heal(self) -> None:
        """Bring it up again."""
        ip("-n", self.a, "link", "set", "lan0", "up")

    def multicast_arrives(self) -> bool:
        """Whether a datagram to the mDNS group gets from b to a, by trying."""
        wait = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", 5353))
    member = socket.inet_aton("224.0.0.251") + socket.inet_aton("{self.a_address}")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    sock.settimeout(1.0)
    print("ready", flush=True)
    try:
        print(sock.recv(100).decode())
    except TimeoutError:
        print("nothing")
"""
        say = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("{self.b_address}"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    sock.sendto(b"heard", ("224.0.0.251", 5353))
"""
        command = [*entering(self.a), sys.executable, "-c", wait]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "ready\n"
            in_namespace(self.b, say)
            return waiting.stdout.readline() == "heard\n"


class Side(Mesh):
    """A mesh's processes on one host of the network.

    Nothing is configured but its directories and, by ``take_key``, the mesh key.

    Args:
        namespace: of the host.
        folder: for everything but sockets.
        name: of the mesh.
        source: of ``tasks.py``.
    """

    def __init__(self, namespace: str, folder: Path, source: str, name: str = "e2e") -> None:
        folder.mkdir()
        super().__init__(folder, name, source)
        del self.env["ZMQTASKS_MDNS"]
        self.python = (*entering(namespace), sys.executable)
        inode = (_NAMESPACES / namespace).stat().st_ino
        #: The namespace as its processes see it.
        self.network = f"net:[{inode}]"
        self.key_file = folder / "config" / "zmqtasks" / "mesh.key"

    def make_key(self) -> None:
        """``zmqtasks keygen`` at the default path."""
        done = self.cli("keygen")
        assert done.returncode == 0, done.stderr

    def take_key(self, other: Side) -> None:
        """Copy the key of another host."""
        self.key_file.parent.mkdir(parents=True)
        shutil.copy(other.key_file, self.key_file)

    def make_other_key(self) -> str:
        """Make a second key that nobody else has; gives its path."""
        path = self.folder / "other.key"
        done = self.cli("keygen", str(path))
        assert done.returncode == 0, done.stderr
        return str(path)

    def status(self, *flags: str) -> dict[str, Any]:
        """``zmqtasks status --json`` here, with its nodes by name."""
        done = self.cli("status", "--json", *flags)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if found["nodes"] or found["unanswered"] else 1)
        found["nodes"] = {node["name"]: node for node in found["nodes"]}
        return found


@contextlib.contextmanager
def running_sides(*sides: Side) -> Iterator[None]:
    """Close all of them, checks included, whatever happens."""
    with contextlib.ExitStack() as stack:
        for side in sides:
            stack.callback(side.close)
        yield


def need_namespaces() -> None:
    """Skip a test where none can be made; CI has to run it."""
    reason = why_not()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; CI has to run these tests")
    elif reason:
        pytest.skip(reason)


def why_not() -> str:
    """Why namespaces cannot be made here, "" when they can; old ones are removed."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the ip command (package iproute2)"
    _remove_old()
    try:
        with Lan() as lan:
            in_namespace(lan.a, "")
            return ""
    except AssertionError as exc:
        return f"no network namespaces here: {exc}"


def _remove_old() -> None:
    """Namespaces of test runs that were killed."""
    for path in _NAMESPACES.glob("zt-*") if _NAMESPACES.exists() else ():
        match = _NAME.fullmatch(path.name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            ip("netns", "del", path.name)


def _set_up(namespace: str, interface: str, address: str) -> None:
    ip("-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
    ip("-n", namespace, "link", "set", interface, "up")


def entering(namespace: str) -> tuple[str, ...]:
    """What runs a command in a namespace, under the same process id."""
    return ("ip", "netns", "exec", namespace)


def in_namespace(namespace: str, code: str) -> None:
    """Run Python code there."""
    _run([*entering(namespace), sys.executable, "-c", code])


def ip(*args: str) -> None:
    """The ``ip`` command."""
    _run(["ip", *args])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
