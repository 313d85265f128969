"""Results that wait on the disk for a store: a private SQLite file without a name.

The file is removed from its folder as soon as it is open, so that the system frees it
however the process ends, and nothing has to be tidied up. It is never synced: what is in
it counts no longer than the process. When nothing is left in it, it is given back to the
disk as a whole.

What a row holds has a checksum. A damaged row is left out, counted and deleted: the others do not
depend on it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

import msgspec

from zmqtasks.core.resultlog import without_body
from zmqtasks.core.spillrows import (
    EMPTY,
    UNDECIDED,
    SpillChange,
    SpillPiece,
    SpillRow,
    SpillState,
)
from zmqtasks.errors import ConfigError, JournalError, JournalFull
from zmqtasks.limits import (
    SPILL_RESERVE_BYTES,
    SPILL_TRIM_BYTES_MAX,
    SPILL_TRIM_ROWS_MAX,
)
from zmqtasks.wire.messages import Kind, Outcome, Verdict, VerdictRecord

#: What a row takes beside its payload, roughly.
_ROW_BYTES = 200
_PAGE_BYTES = 4096
#: Of a disk smaller than 16 times the reserve, one part in so many is left free.
_SMALL_PART = 16
#: Pages that SQLite keeps in memory, in KiB.
_CACHE_KIB = 1024

_TABLE = """
    CREATE TABLE rows (
        position INTEGER PRIMARY KEY,
        need INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        size INTEGER NOT NULL,
        decision INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        id BLOB,
        record BLOB NOT NULL
    )
"""
# A table of its own: SQLite writes a row that changes as a whole, and keeps in memory what
# it was, until the transaction ends.
_BODIES = "CREATE TABLE bodies (position INTEGER PRIMARY KEY, body BLOB NOT NULL)"
_INDEX = "CREATE INDEX rows_of ON rows (id) WHERE id IS NOT NULL"
_INSERT = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_BODY = "INSERT OR REPLACE INTO bodies VALUES (?, ?)"
_DELETES = ("DELETE FROM rows WHERE position = ?", "DELETE FROM bodies WHERE position = ?")
_CHANGE = "UPDATE rows SET need = ?, decision = ? WHERE position = ?"
_SELECT = """
    SELECT position, size, need, at_ms, decision, sum, record, ifnull(body, x'')
    FROM rows LEFT JOIN bodies USING (position)
"""

_Record = tuple[Kind | None, Outcome | None, VerdictRecord | None]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class SpillFile:
    """One file, made with the first write. For one thread only.

    Args:
        folder: tells where it lies, with the first write; made (0700) when missing. A
            ConfigError of it is one of the disk's.
        bytes_max: of the file.
        reserve_bytes: left free on the disk.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        bytes_max: int,
        reserve_bytes: int = SPILL_RESERVE_BYTES,
    ) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._reserve_bytes = reserve_bytes
        self._db: sqlite3.Connection | None = None
        self._dir: Path | None = None
        #: What is in the file.
        self.state: SpillState = EMPTY

    def write(self, rows: Sequence[SpillRow], changes: Sequence[SpillChange] = ()) -> None:
        """Put rows in, and change rows that are here, all or nothing.

        Raises:
            JournalFull: there is no room for them.
            JournalError: the folder or the disk cannot be used.
        """
        values = [_values(row) for row in rows]
        bodies = [(row.position, body) for row in rows if (body := _body(row))]
        size = sum(value[3] for value in values)
        with self._translated():
            db = self._opened()
            if rows:
                self._check_room(db, size)
            with _transaction(db):
                db.executemany(_INSERT, values)
                db.executemany(_INSERT_BODY, bodies)
                db.executemany(_CHANGE, ((c.need, c.decision, c.position) for c in changes))
            if not rows:
                return
            count, total, low = self.state
            first = min(row.position for row in rows)
            self.state = SpillState(
                count + len(rows), total + size, min(low, first) if low else first
            )

    def read(self, first: int, last: int, count_max: int, bytes_max: int) -> SpillPiece:
        """Rows of a range of positions, at least one if there is one.

        Raises:
            JournalError: the disk cannot be read.
        """
        if self._db is None:
            return SpillPiece([], last)
        rows: list[SpillRow] = []
        lost: dict[int, int] = {}
        size = 0
        upto = last
        with self._translated():
            found = self._db.execute(
                f"{_SELECT} WHERE position BETWEEN ? AND ? ORDER BY position", (first, last)
            )
            for values in found:
                row = _row(values)
                if row is None:
                    lost[values[0]] = values[1]
                    continue
                rows.append(row)
                size += row.outcome.size if row.outcome is not None else 0
                if len(rows) >= count_max or size >= bytes_max:
                    upto = row.position
                    break
            found.close()
            self._delete(lost)
        return SpillPiece(rows, upto, len(lost))

    def find(self, ids: Sequence[bytes]) -> list[SpillRow]:
        """The last outcome of each of these tasks that is here and was not refused.

        Raises:
            JournalError: the disk cannot be read.
        """
        if self._db is None:
            return []
        rows: list[SpillRow] = []
        with self._translated():
            for task_id in ids:
                values = self._db.execute(
                    f"{_SELECT} WHERE id = ? AND decision <> ? ORDER BY position DESC LIMIT 1",
                    (task_id, Verdict.REFUSED),
                ).fetchone()
                row = _row(values) if values is not None else None
                if row is not None:
                    rows.append(row)
        return rows

    def trim(self, upto: int, before_ms: int) -> bool:
        """Delete a piece of what needed a store up to a position, or is older than a time.

        Returns:
            Whether there is more to delete.

        Raises:
            JournalError: the disk cannot be written.
        """
        if self._db is None:
            return False
        with self._translated():
            gone = self._stored(upto)
            if before_ms > 0:
                gone.update(self._older(before_ms))
            self._delete(gone)
            return len(gone) >= SPILL_TRIM_ROWS_MAX or sum(gone.values()) >= SPILL_TRIM_BYTES_MAX

    def drop(self, positions: Sequence[int], ids: Sequence[bytes]) -> None:
        """Delete these rows, and the outcomes of these tasks whose owner has decided.

        Raises:
            JournalError: the disk cannot be written.
        """
        if self._db is None:
            return
        with self._translated():
            gone: dict[int, int] = {}
            size = 0
            for rows in self._named(positions, ids):
                gone.update(rows)
                size += sum(rows.values())
                if size >= SPILL_TRIM_BYTES_MAX or len(gone) >= SPILL_TRIM_ROWS_MAX:
                    self._delete(gone)
                    gone, size = {}, 0
            self._delete(gone)

    def close(self) -> None:
        """Give the file back to the disk; the next write makes another."""
        db, self._db = self._db, None
        self.state = EMPTY
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    # --- the file -------------------------------------------------------------------------

    def _named(self, positions: Sequence[int], ids: Sequence[bytes]) -> Iterator[dict[int, int]]:
        """{position: size} of each of these that is here."""
        by_position = "SELECT position, size FROM rows WHERE position = ?"
        by_id = "SELECT position, size FROM rows WHERE id = ? AND need <> ?"
        queries: list[tuple[str, tuple[int | bytes, ...]]] = [
            *((by_position, (position,)) for position in positions),
            *((by_id, (task_id, UNDECIDED)) for task_id in ids),
        ]
        for query in queries:
            if self._db is None:
                return
            yield dict(self._db.execute(*query))

    def _stored(self, upto: int) -> dict[int, int]:
        """{position: size} of a piece of what needed a store up to there."""
        assert self._db is not None
        found = self._db.execute(
            "SELECT position, size FROM rows WHERE position <= ? AND need <= ? ORDER BY position "
            "LIMIT ?",
            (upto, upto, SPILL_TRIM_ROWS_MAX),
        )
        return _piece(found)

    def _older(self, before_ms: int) -> dict[int, int]:
        """The same for what was logged before a time: the first ones, as positions rise with
        time."""
        assert self._db is not None
        found = self._db.execute(
            "SELECT position, size, at_ms FROM rows ORDER BY position LIMIT ?",
            (SPILL_TRIM_ROWS_MAX,),
        )
        old = takewhile(lambda values: values[2] < before_ms, found)
        return _piece((position, size) for position, size, _ in old)

    def _delete(self, gone: Mapping[int, int]) -> None:
        """Delete these rows, given as {position: size}."""
        if not gone or self._db is None:
            return
        with _transaction(self._db):
            for delete in _DELETES:
                self._db.executemany(delete, ((position,) for position in gone))
        count = self.state.row_count - len(gone)
        if count <= 0:
            self.close()
            return
        (low,) = self._db.execute("SELECT min(position) FROM rows").fetchone()
        self.state = SpillState(count, self.state.bytes - sum(gone.values()), low)

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._dir = folder = self._folder()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in folder.glob("*.db"):
                # Of a process that was killed right here; one that is here now does it anyway.
                path.unlink(missing_ok=True)
            fd, name = tempfile.mkstemp(suffix=".db", dir=folder)
            os.close(fd)
            try:
                self._db = _connect(name, self._bytes_max)
            finally:
                Path(name).unlink(missing_ok=True)
        return self._db

    def _check_room(self, db: sqlite3.Connection, size: int) -> None:
        """Raise JournalFull where other programs would find the disk full."""
        assert self._dir is not None
        status = os.statvfs(self._dir)
        reserve = min(self._reserve_bytes, status.f_blocks * status.f_frsize // _SMALL_PART)
        free = status.f_bavail * status.f_frsize
        if free >= reserve + size:
            return
        (unused,) = db.execute("PRAGMA freelist_count").fetchone()
        if unused * _PAGE_BYTES < size:
            raise JournalFull(
                f"only {free} bytes are free on the disk of {self._dir}, of which {reserve} are "
                "left to others; free space there, or choose another state_dir "
                "(ZMQTASKS_STATE_DIR)"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise JournalFull(
                    f"{self.state.bytes} bytes of results wait in {self._dir} and there is no room "
                    f"for more ({exc}): result_spill_bytes_max is {self._bytes_max}; raise it, or "
                    "free space on that disk"
                ) from exc
            raise JournalError(f"results in {self._dir}: {exc}; check that disk") from exc
        except ConfigError as exc:
            raise JournalError(f"results cannot wait on the disk: {exc}") from exc
        except OSError as exc:
            reason = exc.strerror or str(exc)
            raise JournalError(
                f"results cannot be written to {self._dir}: {reason}; make it writable, or choose "
                "another state_dir (ZMQTASKS_STATE_DIR)"
            ) from exc


def _connect(name: str, bytes_max: int) -> sqlite3.Connection:
    db = sqlite3.connect(name, isolation_level=None)
    try:
        db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        # All or nothing within the process; nothing is to survive it.
        db.execute("PRAGMA journal_mode = MEMORY")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute(_TABLE)
        db.execute(_BODIES)
        db.execute(_INDEX)
        db.execute(f"PRAGMA max_page_count = {max(bytes_max // _PAGE_BYTES, 16)}")
    except BaseException:
        db.close()
        raise
    return db


def _piece(found: Iterable[tuple[int, int]]) -> dict[int, int]:
    """As many of these as one transaction may delete."""
    piece: dict[int, int] = {}
    total = 0
    for position, size in found:
        piece[position] = size
        total += size
        if total >= SPILL_TRIM_BYTES_MAX:
            break
    return piece


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise


def _body(row: SpillRow) -> bytes:
    if row.outcome is None:
        return b""
    assert isinstance(row.outcome.body, bytes)
    return row.outcome.body


def _values(row: SpillRow) -> tuple[int, int, int, int, int, int, bytes | None, bytes]:
    outcome, body = row.outcome, _body(row)
    task_id = None
    if outcome is not None:
        task_id = outcome.id
        outcome = without_body(outcome)
    record = _encode((row.kind, outcome, row.verdict))
    check = _check(row.position, record, body)
    size = len(body) + _ROW_BYTES
    return row.position, row.need, row.at_ms, size, row.decision, check, task_id, record


def _row(values: tuple[int, int, int, int, int, int, bytes, bytes]) -> SpillRow | None:
    """The row, or None when it is damaged."""
    position, _, need, at_ms, decision, check, record, body = values
    try:
        if check != _check(position, record, body):
            return None
        kind, outcome, verdict = _decode(record)
    except (msgspec.DecodeError, TypeError, ValueError):
        return None
    if outcome is not None:
        outcome.body = body
    return SpillRow(position, need, at_ms, kind, outcome, verdict, Verdict(decision))


def _check(position: int, record: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(record, position & 0xFFFFFFFF))
