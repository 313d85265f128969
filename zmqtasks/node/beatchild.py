"""The process that has the application of a beat: schedules and calls are its code.

It is asked when entries are due and makes the calls of ticks, which the node owns and sends. One
that dies, or does not answer, is replaced; what it was asked is asked again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from zmqtasks.core.beat import BeatEntry
from zmqtasks.errors import AppLoadError
from zmqtasks.pools.spawner import exit_reason

_LOG = logging.getLogger("zmqtasks.node")

#: Both directions: messages, each behind its length.
LENGTH: Final = struct.Struct("!I")
_MESSAGE_BYTES_MAX: Final = 256 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
#: A start that takes longer is reported each time this passes, in seconds.
_LOADING_NOTICE_S: Final = 10.0
#: A process that ended at once would be started at full speed, in milliseconds.
_AGAIN_MS: Final = 1_000
#: It is replaced when one question takes longer, in milliseconds.
_ANSWER_MS: Final = 30_000

#: The path is set first, so that it finds exactly what this process finds.
_PROGRAM: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from zmqtasks.app.beatmain import main; main(int(sys.argv.pop()))"
)


class BeatStart(msgspec.Struct, frozen=True):
    """What the process is told first."""

    app: str
    #: {setting: value} of the node's command line, which calls shall obey too.
    flags: dict[str, Any]


class BeatApp(msgspec.Struct, frozen=True):
    """What it says when it has loaded the application; ``error``: it has not."""

    name: str = ""
    entries: list[BeatEntry] = []
    #: Settings that the application makes, for nodes.
    conf: dict[str, Any] = {}
    error: str = ""
    traceback: str = ""


class BeatChild:
    """One such process after another.

    Args:
        start: what it needs to know.
    """

    def __init__(self, start: BeatStart) -> None:
        self.start = start
        self.app = BeatApp()
        #: Told each answer, on the loop's thread, and "" or why there will be none.
        self.answered: Callable[[list[Any]], None] = lambda answer: None
        self.broke: Callable[[str], None] = lambda why: None
        self._loop: Any = None
        self._buffer = bytearray()
        self._out = bytearray()
        self._is_closed = False
        #: Questions that it has not answered, and how often it has answered any.
        self._open_count = self._turns = 0
        self._launch()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 ('' means it)
        with theirs:
            # The arguments are fixed but for the path; no shell.
            self._process = subprocess.Popen(  # noqa: S603
                [
                    sys.executable, "-c", _PROGRAM, str(theirs.fileno()), json.dumps(path),
                ],
                stdin=subprocess.DEVNULL, stdout=2, pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )  # fmt: skip
        self._socket = ours
        self._buffer.clear()
        self._out.clear()
        self._open_count = 0
        ours.sendall(_packed(self.start))

    # --- before there is a loop ---------------------------------------------------------------

    def load(self) -> Mapping[str, Any]:
        """Wait until it has the application; returns the settings that this makes.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """
        self._socket.settimeout(_LOADING_NOTICE_S)
        waited_s = 0.0
        while not (messages := self._unpacked()):
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                waited_s += _LOADING_NOTICE_S
                _LOG.warning("app.loading app=%s seconds=%d", self.start.app, waited_s)
                continue
            if not data:
                reason = exit_reason(self._process.wait())
                raise AppLoadError(f"loading {self.start.app!r} ended the process: {reason}")
            self._buffer += data
        self.app = _as_app(messages[0])
        if self.app.error:
            raise AppLoadError(self.app.error, self.app.traceback)
        return self.app.conf

    def close(self) -> None:
        """End the process."""
        self._is_closed = True
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    # --- on the loop --------------------------------------------------------------------------

    def attach(self, loop: Any) -> None:
        """From now on it is read on this loop."""
        self._loop = loop
        self._socket.setblocking(False)
        loop.register(self._socket.fileno(), self._read)

    def ask(self, *question: Any) -> None:
        """Send a question, or an order; the answer goes to ``answered``."""
        self._out += _packed(question)
        self._open_count += 1
        if self._open_count == 1:
            self._loop.call_later(_ANSWER_MS, self._check, self._process, self._turns)
        self._write()

    def _check(self, process: Any, turns: int) -> None:
        if process is not self._process or self._is_closed or not self._open_count:
            return
        if turns == self._turns:
            self._replace(f"it has not answered for {_ANSWER_MS // 1000} s")
        else:
            self._loop.call_later(_ANSWER_MS, self._check, process, self._turns)

    def _write(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            self._loop.register_writable(self._socket.fileno(), self._write)
        except OSError:
            return  # it has ended, which is read

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._replace("it has ended")
            return
        self._buffer += data
        for answer in self._unpacked():
            self._turns += 1
            self._open_count -= 1
            self.answered(answer)

    def _replace(self, why: str) -> None:
        if self._is_closed:
            return
        self._loop.unregister(self._socket.fileno())
        self.close()
        self._is_closed = False
        self._open_count = 0
        status = exit_reason(self._process.returncode)
        self.broke(f"the process that has the application of this beat: {why} ({status})")
        self._loop.call_later(_AGAIN_MS, self._begin_again)

    def _begin_again(self) -> None:
        """Its first message says that it has the application again."""
        if not self._is_closed:
            self._launch()
            self._open_count = 1
            self.attach(self._loop)

    def _unpacked(self) -> list[Any]:
        found, buffer = [], self._buffer
        while len(buffer) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer)
            end = LENGTH.size + size
            if size > _MESSAGE_BYTES_MAX or len(buffer) < end:
                break
            found.append(msgspec.msgpack.decode(bytes(buffer[LENGTH.size : end])))
            del buffer[:end]
        return found


def _packed(message: object) -> bytes:
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


def _as_app(message: Any) -> BeatApp:
    return msgspec.convert(message, BeatApp)
