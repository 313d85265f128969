"""Changes of a folder, from the kernel (Linux), through ctypes."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

IN_CLOSE_WRITE = 0x0008
IN_MOVED_TO = 0x0080
IN_DELETE = 0x0200
#: The kernel's queue was too long and events are missing.
IN_Q_OVERFLOW = 0x4000
_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC
_HEADER = struct.Struct("iIII")
_READ_BYTES = 64 * 1024


class Inotify:
    """A queue of changes.

    Raises:
        OSError: the system has no inotify, or this user has no instance left
            (``fs.inotify.max_user_instances``).
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        init = getattr(self._libc, "inotify_init1", None)
        if init is None:
            raise OSError("this system has no inotify")
        #: Readable when changes wait; -1 once closed.
        self.fd: int = init(_IN_NONBLOCK | _IN_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1 failed")

    def watch(self, folder: Path, mask: int) -> int:
        """Report changes in a folder.

        Returns:
            The number by which ``read`` names this folder.

        Raises:
            OSError: the folder cannot be watched.
        """
        number: int = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), mask)
        if number < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {folder}")
        return number

    def read(self) -> list[tuple[int, int, str]]:
        """``(folder number, mask, file name)`` of the changes that wait."""
        changes: list[tuple[int, int, str]] = []
        while True:
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return changes
            offset = 0
            while offset < len(data):
                number, mask, _cookie, length = _HEADER.unpack_from(data, offset)
                offset += _HEADER.size
                name = data[offset : offset + length].rstrip(b"\0")
                changes.append((number, mask, os.fsdecode(name)))
                offset += length

    def close(self) -> None:
        """Stop; again is no harm."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
