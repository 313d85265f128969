"""What a beat knows of ticks, on the disk: so that one that is started again knows what was missed.

One file for each application of a mesh in the state directory. Several beats of one host
share it: what they write is put together with what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from zmqtasks.core.ticks import TickLedger
from zmqtasks.wire.beat import BeatRecord

_LOG = logging.getLogger("zmqtasks.node")

_VERSION: Final = 1


class _Content(msgspec.Struct, array_like=True):
    version: int
    mesh: str
    app: str
    entries: list[BeatRecord]


class BeatFile:
    """The file of one application.

    Args:
        folder: where state is kept.
        mesh, app: whose ticks they are.
    """

    def __init__(self, folder: Path, mesh: str, app: str) -> None:
        # Names of applications may have any characters.
        name = f"{re.sub('[^A-Za-z0-9_.-]', '_', app)[:100]}-{zlib.crc32(app.encode()):08x}"
        self.path = folder / f"beat-{name}.msgpack"
        self._mesh = mesh
        self._app = app
        self._waiting: list[BeatRecord] | None = None
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._is_told = False

    def read(self) -> list[BeatRecord]:
        """What is in it; nothing when there is none, or it is damaged, which is said."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as exc:
            self._tell("cannot be read", exc)
            return []
        try:
            return self._decode(data)
        except msgspec.MsgspecError as exc:
            aside = self.path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                self.path.rename(aside)
            _LOG.error(
                "%s is damaged (%s) and was moved to %s: which ticks were missed is not known",
                self.path, exc, aside,
            )  # fmt: skip
            return []

    def _decode(self, data: bytes) -> list[BeatRecord]:
        content = msgspec.msgpack.decode(data, type=_Content)
        if (content.version, content.mesh, content.app) != (_VERSION, self._mesh, self._app):
            raise msgspec.ValidationError("it is of another application or version")
        return content.entries

    # --- writing --------------------------------------------------------------------------

    def save(self, entries: list[BeatRecord]) -> None:
        """Write this soon; only the last one of several is written."""
        with self._condition:
            self._waiting = entries
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="zmqtasks-beat-file", daemon=True
                )
                self._thread.start()
            self._condition.notify()

    def close(self) -> None:
        """Write what waits, and end."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._waiting is None and not self._is_closed:
                    self._condition.wait()
                entries, self._waiting = self._waiting, None
            if entries is None:
                return
            try:
                self._write(entries)
            except OSError as exc:
                self._tell("cannot be written", exc)
            else:
                self._is_told = False

    def _write(self, entries: Sequence[BeatRecord]) -> None:
        lock = self.path.with_suffix(".lock")
        with lock.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # until it is closed
            ledger = TickLedger(self._mesh, self._app)
            ledger.merge(self.read())
            ledger.merge(entries)
            whole = [record for piece in ledger.take_all() for record in piece]
            content = _Content(_VERSION, self._mesh, self._app, whole)
            part = self.path.with_suffix(".part")
            with part.open("wb") as file:
                file.write(msgspec.msgpack.encode(content))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)

    def _tell(self, what: str, exc: OSError) -> None:
        if not self._is_told:
            self._is_told = True
            _LOG.error(
                "%s %s (%s): a beat that is started again will not know what it missed",
                self.path, what, exc.strerror,
            )  # fmt: skip
