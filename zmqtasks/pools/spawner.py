"""The node's end of the fork server: start it, have it spawn and kill children."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from zmqtasks.pools.base import PoolConfig

_READ_BYTES: Final = 64 * 1024
#: The server kills its children when its socket closes; it needs milliseconds.
_EXIT_WAIT_S: Final = 5.0

#: The path is set first, so that the server finds exactly what this process finds.
_PROGRAM: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from zmqtasks.pools.forkserver import main; main(int(sys.argv.pop()))"
)


def exit_reason(status: object) -> str:
    """What an exit status says, for logs.

    Args:
        status: exit code, negated signal number, or a text.
    """
    if not isinstance(status, int):
        return str(status)
    if status >= 0:
        return f"exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    hint = "; out of memory?" if status == -signal.SIGKILL else ""
    return f"killed by signal {-status} ({name}{hint})"


class Spawner:
    """One fork server. Must be constructed in a thread that outlives it."""

    def __init__(self, config: PoolConfig) -> None:
        ours, theirs = socket.socketpair()
        path = [entry or str(os.getcwd()) for entry in sys.path]  # noqa: PTH109 ('' means it)
        with theirs:
            # The arguments are fixed but for the path; no shell.
            self._process = subprocess.Popen(  # noqa: S603
                [
                    sys.executable,
                    *_interpreter_flags(),
                    "-c",
                    _PROGRAM,
                    str(theirs.fileno()),
                    json.dumps(path),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._socket = ours
        self._buffer = b""
        with contextlib.suppress(OSError):
            ours.sendall(msgspec.json.encode(config) + b"\n")

    def fileno(self) -> int:
        """Readable when there is something to :meth:`receive`."""
        return self._socket.fileno()

    def spawn(self, serial: int, slot: int, fds: Sequence[int]) -> None:
        """Fork a child with this socket, stdout, stderr and page; the caller closes them.

        A server that is gone is noticed by :meth:`receive`, not here.
        """
        line = json.dumps({"op": "spawn", "serial": serial, "slot": slot}).encode() + b"\n"
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [line], list(fds))

    def kill(self, serial: int) -> None:
        """Kill that child's process group; its exit is reported as any other."""
        self._order({"op": "kill", "serial": serial})

    def end(self, serial: int, ordinal: int, signum: int) -> None:
        """Send that child a signal if it runs this very attempt (SIGKILL: to its group).

        Whether it did is reported as "looked".
        """
        self._order({"op": "end", "serial": serial, "ordinal": ordinal, "signal": signum})

    def dump_stacks(self) -> None:
        """Have all children write the stacks of their threads to their stderr."""
        self._order({"op": "dump"})

    def _order(self, order: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(order).encode() + b"\n")

    def receive(self, timeout_s: float | None = 0) -> list[dict[str, Any]] | None:
        """What the server reports; None when it is gone.

        Args:
            timeout_s: how long to wait for something (None: for ever).
        """
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return []
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> str:
        """End the server and all its children; says how it ended."""
        self._socket.close()
        try:
            status = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return exit_reason(status)


def _interpreter_flags() -> list[str]:
    """Options like -O, -W and -X of this process, for the server and its children."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]
