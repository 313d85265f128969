"""The node's end of one child: its socket, its output pipes, what is under way with it."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from zmqtasks.errors import RemoteProtocolError
from zmqtasks.limits import LOG_LINE_CHARS_MAX
from zmqtasks.pools.base import PoolHost
from zmqtasks.pools.capture import STREAM_LEVELS
from zmqtasks.pools.page import CANCELS, Look, Page, new_page_fd
from zmqtasks.pools.protocol import CancelTask, FromChild, LogRecord, RunTask, ToChild
from zmqtasks.pools.stacks import StackLines
from zmqtasks.pools.stream import encode_batch, from_child_reader

if TYPE_CHECKING:
    from zmqtasks.pools.nursery import Parent

READ_BYTES: Final = 64 * 1024
#: Descriptors that a child is given: its socket, stdout, stderr, its page.
FDS_PER_CHILD: Final = 4
#: Reads from one descriptor in a turn of the loop, so that others have theirs.
_READS_PER_TURN: Final = 8


class OutputPipe:
    """What a child writes to descriptor 1 or 2 below Python, line by line; the stack of
    a thread as one."""

    __slots__ = ("_partial", "_stacks", "fd", "open", "stream")

    def __init__(self, fd: int, stream: str) -> None:
        self.fd = fd
        self.stream = stream
        #: False once nobody can write to it any more.
        self.open = True
        self._partial = b""
        self._stacks = StackLines()

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
        return list(self._stacks.feed(_pieces(lines)))

    def rest(self) -> list[str]:
        """All that a process which ended has left."""
        lines = self.read()
        if self._partial:
            lines += self._stacks.feed(_pieces([self._partial]))
            self._partial = b""
        return [*lines, *self._stacks.rest()]


def _pieces(lines: Sequence[bytes]) -> Iterator[str]:
    for line in lines:
        for at in range(0, len(line), LOG_LINE_CHARS_MAX) or (0,):
            piece = line[at : at + LOG_LINE_CHARS_MAX]
            yield piece.decode("utf-8", "backslashreplace").rstrip("\r")


class Verdict(NamedTuple):
    """What becomes of an attempt that is ended from outside."""

    #: Its number among those sent to its child.
    ordinal: int
    status: int
    text: str


class Child:
    """One process.

    Args:
        slot: number of the slot that it works for.
        serial: its number; slots are filled again and again.
        bytes_max: largest batch accepted from it.
        parent: is told of it.

    Raises:
        OSError: no more descriptors.
    """

    __slots__ = (
        "_page",
        "_reader",
        "_unsent",
        "_writing",
        "answered",
        "begun_at",
        "idle_since",
        "is_leaving",
        "kill_reason",
        "look_due",
        "parent",
        "pid",
        "pipes",
        "ready",
        "registered",
        "sent",
        "serial",
        "slot",
        "sock",
        "unanswered",
        "verdict",
        "weigh_due",
    )

    def __init__(self, slot: int, serial: int, bytes_max: int, parent: Parent) -> None:
        self.slot = slot
        self.serial = serial
        self.parent = parent
        self.pid = 0
        self.ready = False
        #: It was told to stop, or that it will be killed: it gets nothing more.
        self.is_leaving = False
        #: Why we killed it, "" if we did not.
        self.kill_reason = ""
        #: The attempt that it dies for.
        self.verdict: Verdict | None = None
        #: Tasks sent and not answered, oldest first.
        self.unanswered: deque[RunTask] = deque()
        #: How many were sent, and answered, ever.
        self.sent = 0
        self.answered = 0
        #: When it was asked for, and since when it has nothing to do, in seconds (monotonic).
        self.begun_at = 0.0
        self.idle_since = 0.0
        #: When its time limits are looked after next, in seconds; 0: not at all.
        self.look_due = 0.0
        #: When its memory is looked at next while it is busy, in seconds.
        self.weigh_due = 0.0
        #: Descriptors the loop watches.
        self.registered: set[int] = set()
        self.pipes: list[OutputPipe] = []
        self._page: Page | None = None
        self._reader = from_child_reader(bytes_max)
        #: Bytes that the socket did not take yet.
        self._unsent = bytearray()
        self._writing = False

    def open(self, give: Callable[[int, int, Sequence[int]], None]) -> None:
        """Make socket, pipes and page; ``give(serial, slot, fds)`` passes the ends on."""
        theirs: list[int] = []
        try:
            self.sock, other = socket.socketpair()
            theirs.append(other.detach())
            for stream in ("stdout", "stderr"):
                read, write = os.pipe()
                theirs.append(write)
                os.set_blocking(read, False)
                self.pipes.append(OutputPipe(read, stream))
            theirs.append(new_page_fd())
            self._page = Page(theirs[-1])
            give(self.serial, self.slot, theirs)
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

    def run(self, host: PoolHost, tasks: Sequence[RunTask]) -> None:
        """Have it run these."""
        self.unanswered.extend(tasks)
        self.sent += len(tasks)
        self.send(host, tasks)

    def cancel(self, host: PoolHost, orders: Sequence[CancelTask]) -> None:
        """Have it know these before it begins anything else."""
        self.send(host, orders)
        if self._page is not None:
            self._page.words[CANCELS] += len(orders)

    def ordinal_of(self, task_id: bytes, attempt: int) -> int:
        """The number of an attempt sent and not answered, 0 if it is none of them."""
        for position, task in enumerate(self.unanswered):
            if task.id == task_id and task.attempt == attempt:
                return self.answered + position + 1
        return 0

    def by_ordinal(self, ordinal: int) -> RunTask | None:
        """The attempt of this number, if it was sent and is not answered."""
        position = ordinal - self.answered - 1
        return self.unanswered[position] if 0 <= position < len(self.unanswered) else None

    def look(self) -> Look:
        """What it is doing."""
        return self._page.look() if self._page is not None else Look(0, False, 0)

    def look_at(self, slot: int) -> Look:
        """What one of its several slots is doing."""
        return self._page.look_at(slot) if self._page is not None else Look(0, False, 0)

    @property
    def is_idle(self) -> bool:
        """Everything that was sent to it is answered."""
        return self.sent == self.answered

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
        if self._page is not None:
            self._page.close()
            self._page = None
