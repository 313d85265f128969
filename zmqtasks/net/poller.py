"""Waiting for sockets and file descriptors together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

# Plain integers: arithmetic on pyzmq's enum members costs more than a poll of one socket.
_IN = int(zmq.POLLIN)
_OUT = int(zmq.POLLOUT)
_ERR = int(zmq.POLLERR)
_READABLE = _IN | _ERR
_WRITABLE = _OUT | _ERR

#: A ZeroMQ socket or a file descriptor.
Pollable = Any


class Poller:
    """A set of ZeroMQ sockets and file descriptors that can be waited for.

    Level-triggered: what is not drained is reported again. Not thread-safe.
    """

    def __init__(self) -> None:
        self._poller = zmq.Poller()

    def register(self, obj: Pollable, read: bool = True, write: bool = False) -> None:
        """Watch ``obj``; registering it again replaces what is watched for.

        Args:
            obj: a socket from ``Transport.sockets()`` or a file descriptor.
            read: report when it can be read (or its other end is gone).
            write: report when it can be written (or its other end is gone).
        """
        self._poller.register(obj, (_IN if read else 0) | (_OUT if write else 0))

    def modify(self, obj: Pollable, read: bool, write: bool) -> None:
        """Change what a registered object is watched for."""
        self.register(obj, read, write)

    def unregister(self, obj: Pollable) -> None:
        """Stop watching; an unknown object is no error, since it may have just ended."""
        try:
            self._poller.unregister(obj)
        except KeyError:
            return

    def poll(self, timeout_ms: int) -> list[tuple[Pollable, bool, bool]]:
        """Wait until something is ready.

        Args:
            timeout_ms: longest wait in milliseconds; 0 looks and returns, -1 waits on.

        Returns:
            ``(obj, readable, writable)`` in the order of registration. An object in
            error is both, so that whoever serves it meets the error.
        """
        ready: Sequence[tuple[Any, int]] = self._poller.poll(timeout_ms)
        return [(obj, events & _READABLE != 0, events & _WRITABLE != 0) for obj, events in ready]
