"""The node's end of one child: its socket, its output pipes, what is under way with it."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from zmqtasks.errors import RemoteProtocolError
from zmqtasks.limits import LOG_LINE_CHARS_MAX
from zmqtasks.pools.base import PoolHost
from zmqtasks.pools.capture import STREAM_LEVELS
from zmqtasks.pools.protocol import FromChild, LogRecord, RunTask, ToChild
from zmqtasks.pools.stream import encode_batch, from_child_reader

READ_BYTES: Final = 64 * 1024
#: Reads from one descriptor in a turn of the loop, so that others have theirs.
_READS_PER_TURN: Final = 8


class OutputPipe:
    """What a child writes to descriptor 1 or 2 below Python, line by line."""

    __slots__ = ("_partial", "fd", "open", "stream")

    def __init__(self, fd: int, stream: str) -> None:
        self.fd = fd
        self.stream = stream
        #: False once nobody can write to it any more.
        self.open = True
        self._partial = b""

    def read(self) -> list[str]:
        """Lines that are complete now; never blocks."""
        lines: list[bytes] = []
        for _ in range(_READS_PER_TURN):
            try:
                data = os.read(self.fd, READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.open = False
                break
            *whole, self._partial = (self._partial + data).split(b"\n")
            lines += whole
            if len(self._partial) > LOG_LINE_CHARS_MAX:
                lines.append(self._partial)
                self._partial = b""
        return list(_pieces(lines))

    def rest(self) -> list[str]:
        """All that a process which ended has left."""
        lines = self.read()
        if self._partial:
            lines += _pieces([self._partial])
            self._partial = b""
        return lines


def _pieces(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        for at in range(0, len(line), LOG_LINE_CHARS_MAX) or (0,):
            piece = line[at : at + LOG_LINE_CHARS_MAX]
            yield piece.decode("utf-8", "backslashreplace").rstrip("\r")


class Child:
    """One process.

    Args:
        slot: the slot that it fills.
        serial: its number; slots are filled again and again.
        bytes_max: largest batch accepted from it.

    Raises:
        OSError: no more descriptors.
    """

    __slots__ = (
        "_reader",
        "_unsent",
        "_writing",
        "kill_reason",
        "pid",
        "pipes",
        "ready",
        "registered",
        "serial",
        "slot",
        "sock",
        "unanswered",
    )

    def __init__(self, slot: int, serial: int, bytes_max: int) -> None:
        self.slot = slot
        self.serial = serial
        self.pid = 0
        self.ready = False
        #: Why we killed it, "" if we did not.
        self.kill_reason = ""
        #: Tasks sent and not answered, oldest first: the first one runs.
        self.unanswered: deque[RunTask] = deque()
        #: Descriptors the loop watches.
        self.registered: set[int] = set()
        self.pipes: list[OutputPipe] = []
        self._reader = from_child_reader(bytes_max)
        #: Bytes that the socket did not take yet.
        self._unsent = bytearray()
        self._writing = False

    def open(self, give: Callable[[int, tuple[int, int, int]], None]) -> None:
        """Make socket and pipes; ``give(serial, fds)`` passes the child's ends on."""
        theirs: list[int] = []
        try:
            self.sock, other = socket.socketpair()
            theirs.append(other.detach())
            for stream in ("stdout", "stderr"):
                read, write = os.pipe()
                theirs.append(write)
                os.set_blocking(read, False)
                self.pipes.append(OutputPipe(read, stream))
            give(self.serial, (theirs[0], theirs[1], theirs[2]))
        except OSError:
            self.close(None)
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def watch(
        self,
        host: PoolHost,
        on_socket: Callable[[Child], None],
        on_pipe: Callable[[Child, OutputPipe], None],
    ) -> None:
        """Have the loop call back when something can be read."""
        self.sock.setblocking(False)
        self._register(host, self.sock.fileno(), lambda: on_socket(self))
        for pipe in self.pipes:
            self._watch_pipe(host, pipe, on_pipe)

    def _watch_pipe(
        self, host: PoolHost, pipe: OutputPipe, on_pipe: Callable[[Child, OutputPipe], None]
    ) -> None:
        self._register(host, pipe.fd, lambda: on_pipe(self, pipe))

    def _register(self, host: PoolHost, fd: int, callback: Callable[[], None]) -> None:
        host.register(fd, callback)
        self.registered.add(fd)

    def unwatch(self, host: PoolHost | None, fd: int) -> None:
        """Have the loop ignore this descriptor."""
        if fd in self.registered and host is not None:
            self.registered.discard(fd)
            host.unregister(fd)

    def read(self, reads_max: int = _READS_PER_TURN) -> tuple[list[list[FromChild]], str, bool]:
        """Read what is there, within a turn's share.

        Returns:
            Complete batches; why this child cannot be heard any more, or ""; whether
            there may be more to read.

        Raises:
            TimeoutError: the socket is a blocking one with a timeout.
        """
        batches: list[list[FromChild]] = []
        for _ in range(reads_max):
            try:
                data = self.sock.recv(READ_BYTES)
            except BlockingIOError:
                return batches, "", False
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if not data:
                return batches, "closed its connection to the node", False
            try:
                batches += self._reader.feed(data)
            except RemoteProtocolError as exc:
                return batches, f"wrote into its connection to the node: {exc}", False
            if len(data) < READ_BYTES:
                return batches, "", False
        return batches, "", True

    def send(self, host: PoolHost | None, messages: Sequence[ToChild]) -> None:
        """Write what the socket takes and the rest when it takes more (without a host,
        so before the pool's start: nothing). A child that is gone is noticed by reading,
        not here."""
        data = encode_batch(messages)
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._await_writable(host)

    def _await_writable(self, host: PoolHost | None) -> None:
        if not self._writing and host is not None:
            self._writing = True
            host.register_writable(self.sock.fileno(), lambda: self._on_writable(host))

    def _on_writable(self, host: PoolHost) -> None:
        self._writing = False
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Closed or gone: there is nobody to write to.
            self._unsent.clear()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._await_writable(host)

    def records(self, pipe: OutputPipe, lines: Sequence[str]) -> Iterator[LogRecord]:
        """Lines of a pipe as log records of the task that runs (as far as known here)."""
        task = self.unanswered[0] if self.unanswered else None
        for line in lines:
            yield LogRecord(
                id=task.id if task else b"",
                name=task.name if task else "",
                stream=pipe.stream,
                level=STREAM_LEVELS[pipe.stream],
                logger="",
                text=line,
            )

    def close(self, host: PoolHost | None) -> None:
        """Unwatch and close everything."""
        for fd in list(self.registered):
            self.unwatch(host, fd)
        self.sock.close()
        for pipe in self.pipes:
            os.close(pipe.fd)
        self.pipes.clear()
