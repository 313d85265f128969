"""The write-ahead log of an open SQLite journal: room on the disk, and what failed syncs leave.

SQLite would empty its log by itself, but passes over what fails while it does. That must
not be: when a sync fails, the kernel may take for written what is not on the disk, so that
the next sync of the same file says nothing about it, and a commit that is reported as
synced may still have a hole before it. So the log is emptied here, and after a failure it
is *in doubt*, until all that is in it was written and synced once more.

Room is taken from the disk before it is needed: for the log, and for the database to grow
by, since a log that does not fit into the database cannot be emptied, and then nothing can
be written any longer, not even that a task is done.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from zmqtasks.journals.sqlite_file import DB_NAME, PAGE_BYTES, WAL_NAME, os_error, sync_folder
from zmqtasks.limits import JOURNAL_CHECKPOINT_PAGES

# Source for all three: https://sqlite.org/fileformat2.html, "WAL File Format".
_HEAD_BYTES = 32
_PAGE_HEAD_BYTES = 24
_PAGE_BYTES = PAGE_BYTES + _PAGE_HEAD_BYTES
#: A small disk gives this part of it to each of the reserve and the log.
SMALL_PART = 16
#: Of the log, for the last commit before it is emptied.
_SPARE_PAGES = 64
#: The database has room for so many more; fewer on a small disk.
_GROWTH_PAGES = 256
_COPY_BYTES = 1024 * 1024

#: (free bytes, all bytes) of the disk that a folder lies on.
DiskSpace = Callable[[Path], tuple[int, int]]


def disk_space(folder: Path) -> tuple[int, int]:
    """Free bytes for this user and all bytes of the folder's disk."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


class Log:
    """The log of one journal.

    Args:
        folder: of the journal.
        space: free and all bytes of its disk.
    """

    def __init__(self, folder: Path, space: DiskSpace) -> None:
        self._folder = folder
        self._space = space
        self._fd = -1
        self._db_fd = -1
        #: It is emptied when it has so many pages.
        self._pages = 0
        self._growth_bytes = 0
        #: At least so many more can come before that.
        self._left = 0
        #: It may have something that is not on the disk and that no sync would bring there.
        self.is_doubtful = False

    def exists(self) -> bool:
        """Was it left behind by a process that did not close the journal?"""
        return (self._folder / WAL_NAME).exists()

    def open(self, db: sqlite3.Connection, *, is_doubtful: bool) -> None:
        """Take the room that it needs from the disk now, where that can be done.

        Raises:
            sqlite3.Error, JournalError: it cannot be used.
        """
        _, whole = self._space(self._folder)
        self._pages = max(1, min(JOURNAL_CHECKPOINT_PAGES, whole // SMALL_PART // _PAGE_BYTES))
        room_bytes = (self._pages + _SPARE_PAGES) * _PAGE_BYTES
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # One large commit makes the log longer; it shrinks again.
        db.execute(f"PRAGMA journal_size_limit = {2 * room_bytes}")
        db.execute("SELECT count(*) FROM meta").fetchone()  # the log is there from here on
        try:
            self._fd = os.open(self._folder / WAL_NAME, os.O_RDWR | os.O_CLOEXEC)
            self._db_fd = os.open(self._folder / DB_NAME, os.O_RDWR | os.O_CLOEXEC)
            # SQLite does that too, but does not mind when it fails.
            sync_folder(self._folder)
        except OSError as exc:
            raise os_error(self._folder, exc) from exc
        self.is_doubtful = is_doubtful
        self._left = 0
        self._growth_bytes = min(_GROWTH_PAGES, whole // SMALL_PART // PAGE_BYTES) * PAGE_BYTES
        _set_aside(self._fd, 0, room_bytes)
        self._set_growth_aside(db)

    def close(self) -> None:
        """Let go of the files; a second call does nothing. After the connection is closed:
        SQLite's lock of the database ends with any of its descriptors."""
        for fd in (self._fd, self._db_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._db_fd = -1

    def growth_bytes(self, db: sqlite3.Connection) -> int:
        """The room that the database surely has to grow by, however full the disk is.

        Raises:
            sqlite3.Error: the database cannot be read.
        """
        with contextlib.suppress(OSError):
            return max(0, os.fstat(self._db_fd).st_size - _size_of(db))
        return 0

    def _set_growth_aside(self, db: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            _set_aside(self._db_fd, _size_of(db), self._growth_bytes)

    def settle(self) -> None:
        """End the doubt: write again what is in the log, as it is, and sync that.

        Raises:
            JournalError: the disk still fails.
        """
        if not self.is_doubtful:
            return
        try:
            at = 0
            while piece := os.pread(self._fd, _COPY_BYTES, at):
                # The room that was set aside is zeros.
                used = memoryview(piece.rstrip(b"\0"))
                done = 0
                while done < len(used):
                    done += os.pwrite(self._fd, used[done:], at + done)
                at += len(piece)
            os.fsync(self._fd)
        except OSError as exc:
            raise os_error(self._folder, exc) from exc
        self.is_doubtful = False

    def committed(self, db: sqlite3.Connection, pages_max: int) -> None:
        """A commit was written: empty the log when it is long.

        What fails then is told by the next commit, since this one is in the log.

        Args:
            db: the open connection.
            pages_max: so many pages it may have written, not more.
        """
        self._left -= pages_max
        if self._left > 0:
            return
        length = self._length()
        if length >= self._pages and self.empty(db):
            length = 0
        # When it could not be emptied it is tried again after each commit.
        self._left = self._pages - length

    def empty(self, db: sqlite3.Connection) -> bool:
        """Bring what is in it into the database, after which SQLite uses it from its start.

        Returns:
            False when that failed; when not for want of room, the log is in doubt.
        """
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as exc:
            self.is_doubtful |= getattr(exc, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL
            return False
        # SQLite has cut off what was set aside.
        self._set_growth_aside(db)
        return True

    def _length(self) -> int:
        """How many pages there are, or ``_pages`` when there are more.

        What SQLite has written since it began anew has the salt of the log's head.
        """
        first, last = 0, self._pages
        with contextlib.suppress(OSError):
            salt = os.pread(self._fd, _HEAD_BYTES, 0)[16:24]
            while first < last:
                middle = (first + last) // 2
                at = _HEAD_BYTES + middle * _PAGE_BYTES
                if salt and os.pread(self._fd, _PAGE_HEAD_BYTES, at)[8:16] == salt:
                    first = middle + 1
                else:
                    last = middle
        return last


def _size_of(db: sqlite3.Connection) -> int:
    """Bytes of the database, with what is in the log."""
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    return pages * PAGE_BYTES


def _set_aside(fd: int, at: int, size: int) -> None:
    """Have the disk keep this room for a file, where it can. Zeros behind the end of what it
    has written mean nothing to SQLite."""
    if size and hasattr(os, "posix_fallocate"):
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, at, size)
