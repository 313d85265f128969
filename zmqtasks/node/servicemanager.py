"""What a node tells the service manager that started it: it is up, it is well, it stops.

The protocol of systemd: one datagram of ``NAME=value`` lines to the socket in
``NOTIFY_SOCKET``. Source: sd_notify(3), systemd.service(5) "WatchdogSec=". Without that
variable nothing is said.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

#: How often the status line is looked after when no watchdog wants to hear of us.
_STATUS_MS: Final = 5_000


class ServiceManager:
    """The service manager of this process, as its node sees it.

    Args:
        call_later: of the node's loop, ``(delay_ms, function)``: it is the loop that must be
            seen to be well.
        describe: what the node does now, in a few words.
        environ: of this process.
    """

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], None],
        describe: Callable[[], str],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._call_later = call_later
        self._describe = describe
        self._address = _address_of(environ.get("NOTIFY_SOCKET", ""))
        self._watch_ms = watchdog_ms(environ, os.getpid()) if self._address else 0
        self._status = ""
        self._is_up = False

    def ready(self) -> None:
        """The node is up. On the loop's thread."""
        if self._address:
            self._is_up = True
            self._status = self._describe()
            self._tell("READY=1", f"STATUS={self._status}")
            self._call_later(self._period_ms, self._tick)

    def stopping(self, why: str) -> None:
        """The node drains and ends. Callable from any thread."""
        self._is_up = False
        self._tell("STOPPING=1", f"STATUS={why}")

    def restarting(self, why: str) -> None:
        """The node drains and starts again in the same process. Callable from any thread."""
        self._is_up = False
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_us}", f"STATUS={why}")

    def alive(self) -> None:
        """Begin the time anew that the watchdog grants. Callable from any thread."""
        if self._watch_ms:
            self._tell("WATCHDOG=1")

    @property
    def _period_ms(self) -> float:
        # Half of the time, as sd_watchdog_enabled(3) recommends.
        return min(self._watch_ms / 2, _STATUS_MS) if self._watch_ms else _STATUS_MS

    def _tick(self) -> None:
        self.alive()
        status = self._describe()
        if self._is_up and status != self._status:
            self._status = status
            self._tell(f"STATUS={status}")
        self._call_later(self._period_ms, self._tick)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen is no reason to stop running tasks.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)


def _address_of(text: str) -> str:
    """As ``sendto`` takes it; "" for none, or for a kind that is not known here."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""


def watchdog_ms(environ: Mapping[str, str], pid: int) -> int:
    """How often the watchdog of this process wants to hear of it at least; 0: there is none."""
    if environ.get("WATCHDOG_PID") not in (None, str(pid)):
        return 0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) // 1000 if text.isdecimal() else 0
