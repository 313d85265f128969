"""What tells that commits of an SQLite journal are missing which had been synced.

SQLite guards its log with checksums, but answers damage in it by leaving out everything
behind the damage, in silence: right for a torn end, wrong for a commit that had been
synced. The *watermark* tells them apart. Each commit has a number, in the table ``meta``;
after a sync the number goes into the watermark, which itself is never synced, so that it
costs next to nothing and is never ahead of what is on the disk. A database that opens with
a lower number than its watermark has lost commits.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

WATERMARK_NAME = "synced"
_HEAD = struct.Struct(">8s16sQQ")
_SUM = struct.Struct(">I")
_MAGIC = b"zmqtasks"


class Watermark:
    """The number of the last commit that was synced, in a file that never is.

    After the process was killed it is exact; after a power loss it may be older than the
    database, which only weakens what it proves.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / WATERMARK_NAME
        self._fd = -1

    def read(self) -> tuple[bytes, int, int] | None:
        """Journal id, commit number and last row; None when there is none, or none to rely
        on: it is only a guard, no data."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        head = data[: _HEAD.size]
        if len(data) != _HEAD.size + _SUM.size or data[_HEAD.size :] != _sealed(head):
            return None
        _, journal, commit_no, seq = _HEAD.unpack(head)
        return journal, commit_no, seq

    def write(self, journal: bytes, commit_no: int, seq: int) -> None:
        """Note a synced commit. One that cannot be written is only older than it could be."""
        head = _HEAD.pack(_MAGIC, journal, commit_no, seq)
        with contextlib.suppress(OSError):
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._fd = os.open(self._path, flags, 0o600)
            os.pwrite(self._fd, head + _sealed(head), 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _sealed(head: bytes) -> bytes:
    return _SUM.pack(zlib.crc32(head))
