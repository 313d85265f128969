"""Hosts on one network that a test can cut: network namespaces on a bridge.

Each host has one interface, ``lan0``, and a cable to a switch in a namespace of its own.
Root is needed, and the ``ip`` command.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess

from tests.e2e.lan import Namespaces, ip

_numbers = itertools.count()
#: Nobody's: what is sent there is gone, and the sender is not told.
_NOWHERE = "02:00:00:00:00:01"


class Bridge(Namespaces):
    """A switch and so many hosts; a context manager.

    Args:
        count: hosts, named by their numbers from 0.
    """

    def __init__(self, count: int) -> None:
        # Of the form that `tests.e2e.lan` clears away after a killed run.
        base = f"zt-{os.getpid()}-{next(_numbers)}"
        self.switch = f"{base}-switch"
        self.hosts = [f"{base}-h{number}" for number in range(count)]
        self.addresses = [f"10.78.1.{number + 1}" for number in range(count)]
        self._made: list[str] = []
        self._unplugged: set[int] = set()
        self._cut: set[tuple[int, int]] = set()

    def make(self) -> None:
        """See ``Namespaces``."""
        self._add(self.switch)
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")
        for number, (host, address) in enumerate(zip(self.hosts, self.addresses, strict=True)):
            port = f"port{number}"
            self._add(host)
            ip("link", "add", "lan0", "netns", host, "type", "veth",
               "peer", "name", port, "netns", self.switch)  # fmt: skip
            ip("-n", self.switch, "link", "set", port, "master", "br0")
            ip("-n", self.switch, "link", "set", port, "up")
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "addr", "add", f"{address}/24", "dev", "lan0")
            ip("-n", host, "link", "set", "lan0", "up")

    def _add(self, name: str) -> None:
        ip("netns", "add", name)
        self._made.append(name)

    def remove(self) -> None:
        """Take everything away; a namespace takes its interfaces with it."""
        while self._made:
            ip("netns", "del", self._made.pop())

    # --- harm -----------------------------------------------------------------------------

    def unplug(self, host: int) -> None:
        """Pull the cable of a host."""
        ip("-n", self.switch, "link", "set", f"port{host}", "down")
        self._unplugged.add(host)

    def cut(self, source: int, target: int) -> None:
        """What one host sends to another vanishes; the other way is open still."""
        ip("-n", self.hosts[source], "neigh", "replace", self.addresses[target],
           "lladdr", _NOWHERE, "dev", "lan0", "nud", "permanent")  # fmt: skip
        self._cut.add((source, target))

    def part(self, one: int, other: int) -> None:
        """Two hosts do not reach each other; who talks to both does."""
        self.cut(one, other)
        self.cut(other, one)

    def heal(self) -> None:
        """All is well again."""
        for host in self._unplugged:
            ip("-n", self.switch, "link", "set", f"port{host}", "up")
        for source, target in self._cut:
            ip("-n", self.hosts[source], "neigh", "replace", self.addresses[target],
               "lladdr", self._hardware_address(target), "dev", "lan0",
               "nud", "reachable")  # fmt: skip
        self._unplugged.clear()
        self._cut.clear()

    def _hardware_address(self, host: int) -> str:
        command = ["ip", "-n", self.hosts[host], "-json", "link", "show", "dev", "lan0"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return str(json.loads(done.stdout)[0]["address"])
