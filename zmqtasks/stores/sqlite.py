"""``sqlite:///path``: results in one SQLite file; the default of a store node.

All writing happens in one thread with one connection, each batch in one transaction;
reading happens in a second thread with a read-only connection, which the write-ahead
log lets see the last commit without waiting for the writer. ``synchronous=NORMAL``:
what was committed survives the death of the process; a crash of the machine can cost
the commits since the last checkpoint (``?synchronous=FULL`` syncs each commit).

Other processes may read the file meanwhile (``?mode=ro``), and several store nodes of
one host may write to it: each transaction takes the write lock first.

A file that is removed or replaced under us takes what we write with it, and SQLite says
nothing. So its name is looked up after each commit, before anybody is told of it: a batch
that did not get into the file of that name fails, and the next one opens what is there.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

import msgspec

from zmqtasks.core.rows import OutcomeRow, VerdictRow
from zmqtasks.errors import ConfigError, StoreError
from zmqtasks.limits import (
    SQLITE_BUSY_MS,
    STORE_EXPIRE_BYTES_MAX,
    STORE_EXPIRE_ROWS_MAX,
    STORE_READ_IDS_PER_CALL_MAX,
)
from zmqtasks.stores.registry import StoreURL
from zmqtasks.stores.sqlite_schema import Synchronous, connect, snapshot, store_error, transaction
from zmqtasks.wire.messages import Verdict

_T = TypeVar("_T")
#: ``Queryable.list`` hides the builtin in the class body.
_Rows = list[OutcomeRow]
_Record = tuple[Any, ...]

#: In the order of the fields of OutcomeRow, whose last is ``ext``.
_COLUMNS = ", ".join(OutcomeRow.__struct_fields__)
_INT_MAX = (1 << 63) - 1

_INSERT = f"""
    INSERT INTO outcomes ({_COLUMNS})
    VALUES ({", ".join("?" * len(OutcomeRow.__struct_fields__))})
    ON CONFLICT (task_id, attempt) DO UPDATE SET verdict = excluded.verdict
    WHERE outcomes.verdict = {Verdict.NONE:d} AND excluded.verdict <> {Verdict.NONE:d}
"""  # noqa: S608 - made of our own column names
_SET_VERDICT = f"""
    UPDATE outcomes SET verdict = ?
    WHERE task_id = ? AND attempt = ? AND verdict = {Verdict.NONE:d}
"""  # noqa: S608
_KEEP_EARLY = """
    INSERT OR IGNORE INTO early_verdicts (task_id, attempt, verdict, received_ms)
    SELECT ?, ?, ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM outcomes WHERE task_id = ? AND attempt = ?)
"""
#: ``core.rows.final_row`` in SQL: the first settled row, else the first undecided one.
_FINAL = f"""
    NOT EXISTS (
        SELECT 1 FROM outcomes AS other
        WHERE other.task_id = outcomes.task_id AND other.seq <> outcomes.seq AND (
            (other.verdict = outcomes.verdict AND other.seq < outcomes.seq)
            OR (other.verdict = {Verdict.SETTLED:d} AND outcomes.verdict = {Verdict.NONE:d})
        )
    ) AND outcomes.verdict <> {Verdict.REFUSED:d}
"""  # noqa: S608


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def sqlite_url(path: Path) -> str:
    """The store URL of this file."""
    return f"sqlite:///{quote(str(path))}"


def from_url(url: StoreURL) -> SqliteStore:
    """The store of a ``sqlite:///`` URL; three slashes and a relative path, or four.

    Raises:
        ConfigError: no path, a host, or an unknown or bad parameter.
    """
    if url.authority:
        raise ConfigError(
            f"store {url}: {url.authority!r} stands where a host would; write three slashes "
            "before a relative path (sqlite:///results.db), four before an absolute one"
        )
    name = url.path.removeprefix("/")
    if not name or name == ":memory:":
        raise ConfigError(f"store {url} names no file; write sqlite:///results.db, or memory://")
    url.check_params(
        {
            "mode": "rw or ro (only read)",
            "synchronous": "NORMAL or FULL (sync each commit)",
            "busy_ms": "milliseconds to wait for another process's write lock",
        }
    )
    mode = url.params.get("mode", "rw")
    if mode not in ("rw", "ro"):
        raise ConfigError(f"store {url}: mode={mode} must be rw or ro")
    synchronous = url.params.get("synchronous", "NORMAL").upper()
    if synchronous not in ("NORMAL", "FULL"):
        raise ConfigError(f"store {url}: synchronous={synchronous} must be NORMAL or FULL")
    return SqliteStore(
        Path(name).expanduser(),
        read_only=mode == "ro",
        synchronous=cast("Synchronous", synchronous),
        busy_ms=url.int_param("busy_ms", SQLITE_BUSY_MS),
    )


class _FileGone(StoreError):
    """The connection's file has this name no longer."""


def _file_id(path: Path) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"result store {path} cannot be looked at: {exc.strerror}") from exc
    return found.st_dev, found.st_ino


class _Lane:
    """One connection and the one thread that uses it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"zmqtasks-sqlite-{name}")
        self._db: sqlite3.Connection | None = None

    async def open(self, make: Callable[[], sqlite3.Connection]) -> None:
        """Connect in the thread.

        Raises:
            ConfigError, StoreError: from ``make``; the thread is gone then.
        """
        try:
            self._db = await asyncio.get_running_loop().run_in_executor(self._thread, make)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work`` in the thread, after all that was asked for before it.

        Raises:
            StoreError: SQLite refused.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    async def close(self) -> None:
        """Wait for what is under way, then let go of the file and the thread."""
        try:
            await self.do(sqlite3.Connection.close)
        finally:
            self._thread.shutdown(wait=False)

    def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._db is None:
            raise StoreError(f"result store {self._path} is not open")
        try:
            return work(self._db)
        except sqlite3.Error as exc:
            raise store_error(self._path, exc) from exc


class SqliteStore:
    """Implements ``Store`` and ``Queryable`` with an SQLite file."""

    capabilities = frozenset({"queryable"})

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        synchronous: Synchronous = "NORMAL",
        busy_ms: int = SQLITE_BUSY_MS,
        wall_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        """Does no input or output; ``open`` does.

        Args:
            path: the file; its directory is made (0700) when missing.
            read_only: only read, and never make the file.
            synchronous: "FULL" syncs each commit to the disk.
            busy_ms: how long to wait for another process's write lock.
            wall_ms: the clock that dates verdicts whose outcome has not come.
        """
        self._path = path
        self._read_only = read_only
        self._synchronous = synchronous
        self._busy_ms = busy_ms
        self._wall_ms = wall_ms
        self._opening = asyncio.Lock()
        self._is_closed = False
        #: None until open, and for ever with ``read_only``.
        self._writer: _Lane | None = None
        self._reader: _Lane | None = None
        #: Of the file that the writer has open.
        self._file_id: tuple[int, int] | None = None
        #: The file was removed or replaced; what is there is opened when it is needed.
        self._is_gone = False

    async def open(self) -> None:
        """See ``Store.open``."""
        async with self._opening:
            if self._is_closed:
                raise self._closed_error()
            if self._writer is None and not self._read_only:
                # First, since it makes the file that the reader opens.
                self._writer = await self._open_lane("writer", "rw")
                self._file_id = _file_id(self._path)
            if self._reader is None:
                self._reader = await self._open_lane("reader", "ro")
            self._is_gone = False

    async def put_batch(
        self, outcomes: Sequence[OutcomeRow], verdicts: Sequence[VerdictRow]
    ) -> None:
        """See ``Store.put_batch``."""
        writer = await self._for_writing()
        if not outcomes and not verdicts:
            return
        # Copied here, as the caller may change its rows while the thread works.
        records = [_to_record(row) for row in outcomes]
        decided = [
            (verdict.verdict, verdict.task_id, verdict.attempt)
            for verdict in verdicts
            if verdict.verdict != Verdict.NONE
        ]
        now_ms = self._wall_ms()

        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                if records:
                    _put_outcomes(db, records)
                if decided:
                    _put_verdicts(db, decided, now_ms)
            if _file_id(self._path) != self._file_id:
                raise _FileGone(
                    f"result store {self._path} was removed or replaced while this node used it, "
                    "and what was stored went with it; from here on results go into the file that "
                    "is there, or into a new one (stop the store node before you move its file)"
                )

        try:
            await writer.do(work)
        except _FileGone:
            await self._let_go(writer)
            raise

    async def _let_go(self, writer: _Lane) -> None:
        async with self._opening:
            if self._writer is not writer:
                return
            reader, self._reader, self._writer = self._reader, None, None
            self._is_gone = True
            # Not the other way round: the last writer to close removes the log, by its name,
            # and that may be the log of the new file by now.
            await writer.close()
            if reader is not None:
                await reader.close()

    async def get_batch(self, task_ids: Sequence[bytes]) -> Mapping[bytes, _Rows]:
        """See ``Store.get_batch``."""
        reader = await self._for_reading()
        wanted = list(dict.fromkeys(task_ids))
        if not wanted:
            return {}
        records = await reader.do(lambda db: _select_tasks(db, wanted))
        found: dict[bytes, _Rows] = {}
        for record in records:
            found.setdefault(record[0], []).append(_from_record(record))
        return found

    async def delete(self, task_ids: Sequence[bytes]) -> None:
        """See ``Store.delete``."""
        writer = await self._for_writing()
        ids = [(task_id,) for task_id in task_ids]

        def work(db: sqlite3.Connection) -> None:
            with transaction(db):
                db.executemany("DELETE FROM outcomes WHERE task_id = ?", ids)
                db.executemany("DELETE FROM early_verdicts WHERE task_id = ?", ids)

        await writer.do(work)

    async def expire(self, before_ms: int) -> int:
        """See ``Store.expire``."""
        writer = await self._for_writing()
        dropped = 0
        while piece := await writer.do(lambda db: _expire_piece(db, before_ms)):
            dropped += piece
        while await writer.do(lambda db: _expire_early_piece(db, before_ms)):
            pass
        while dropped and await writer.do(_shrink_piece):
            pass
        return dropped

    async def close(self) -> None:
        """See ``Store.close``."""
        # Set first: nothing new gets in while what is under way ends.
        self._is_closed = True
        async with self._opening:
            reader, self._reader = self._reader, None
            writer, self._writer = self._writer, None
            # The last one to close folds the log into the file, which a reader cannot.
            for lane in (reader, writer):
                if lane is not None:
                    await lane.close()

    async def list(
        self,
        *,
        status: int | None = None,
        name: str | None = None,
        since_ms: int | None = None,
        limit: int = 100,
    ) -> _Rows:
        """See ``Queryable.list``. Reads back in time until ``limit`` rows are found."""
        reader = await self._for_reading()
        filters = {"status = ?": status, "name = ?": name, "stored_ms >= ?": since_ms}
        used = {term: value for term, value in filters.items() if value is not None}
        statement = (
            f"SELECT {_COLUMNS} FROM outcomes WHERE {' AND '.join([*used, _FINAL])} "  # noqa: S608
            "ORDER BY stored_ms DESC, seq DESC LIMIT ?"
        )
        arguments = [*used.values(), max(0, limit)]
        records = await reader.do(lambda db: db.execute(statement, arguments).fetchall())
        return [_from_record(record) for record in records]

    async def _open_lane(self, name: str, mode: str) -> _Lane:
        lane = _Lane(self._path, name)
        await lane.open(
            lambda: connect(
                self._path,
                "rw" if mode == "rw" else "ro",
                synchronous=self._synchronous,
                busy_ms=self._busy_ms,
            )
        )
        return lane

    async def _for_writing(self) -> _Lane:
        if self._read_only:
            raise StoreError(f"result store {self._path} was opened with mode=ro, only to read")
        if self._is_gone:
            await self.open()
        return self._checked(self._writer)

    async def _for_reading(self) -> _Lane:
        if self._is_gone:
            await self.open()
        return self._checked(self._reader)

    def _checked(self, lane: _Lane | None) -> _Lane:
        if self._is_closed:
            raise self._closed_error()
        if lane is None:
            raise StoreError(f"result store {self._path} is not open; await open() first")
        return lane

    def _closed_error(self) -> StoreError:
        return StoreError(f"result store {self._path} is closed")


def _to_record(row: OutcomeRow) -> _Record:
    record = msgspec.structs.astuple(row)
    ext = record[-1]
    return (*record[:-1], msgspec.msgpack.encode(ext) if ext else None)


def _from_record(record: _Record) -> OutcomeRow:
    ext = record[-1]
    values = (*record[:-1], msgspec.msgpack.decode(ext) if ext else {})
    return OutcomeRow(*values)


def _put_outcomes(db: sqlite3.Connection, records: list[_Record]) -> None:
    if db.execute("SELECT EXISTS (SELECT 1 FROM early_verdicts)").fetchone()[0]:
        records = [_with_early_verdict(db, record) for record in records]
    try:
        db.executemany(_INSERT, records)
    except OverflowError:
        # A peer can send any 64-bit number; one bad row must not stop all others.
        db.executemany(_INSERT, [_clamped(record) for record in records])


def _with_early_verdict(db: sqlite3.Connection, record: _Record) -> _Record:
    """The record with the verdict that came before it, which is not kept any longer."""
    found = db.execute(
        "SELECT verdict FROM early_verdicts WHERE task_id = ? AND attempt = ?", record[:2]
    ).fetchone()
    if found is None:
        return record
    db.execute("DELETE FROM early_verdicts WHERE task_id = ? AND attempt = ?", record[:2])
    return (*record[:3], found[0], *record[4:])


def _clamped(record: _Record) -> _Record:
    return tuple(min(value, _INT_MAX) if type(value) is int else value for value in record)


def _put_verdicts(db: sqlite3.Connection, decided: list[_Record], now_ms: int) -> None:
    if db.executemany(_SET_VERDICT, decided).rowcount == len(decided):
        return
    # Some were known already (nothing to do) or came before their outcome.
    db.executemany(
        _KEEP_EARLY,
        [
            (task_id, attempt, verdict, now_ms, task_id, attempt)
            for verdict, task_id, attempt in decided
        ],
    )


def _select_tasks(db: sqlite3.Connection, task_ids: list[bytes]) -> list[_Record]:
    records: list[_Record] = []
    # Without it a commit between two pieces could show half of a batch.
    with snapshot(db):
        for chunk in _chunks(task_ids):
            marks = ", ".join("?" * len(chunk))
            records += db.execute(
                f"SELECT {_COLUMNS} FROM outcomes WHERE task_id IN ({marks}) ORDER BY seq",  # noqa: S608
                chunk,
            )
    return records


def _chunks(task_ids: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(task_ids), STORE_READ_IDS_PER_CALL_MAX):
        yield task_ids[start : start + STORE_READ_IDS_PER_CALL_MAX]


def _expire_piece(db: sqlite3.Connection, before_ms: int) -> int:
    """Drop some of the oldest rows; 0 when none is left."""
    with transaction(db):
        oldest = db.execute(
            "SELECT seq, length(body) FROM outcomes WHERE stored_ms < ? ORDER BY stored_ms LIMIT ?",
            (before_ms, STORE_EXPIRE_ROWS_MAX),
        )
        piece: list[tuple[int]] = []
        size = 0
        for seq, body_bytes in oldest.fetchall():
            if piece and size + body_bytes > STORE_EXPIRE_BYTES_MAX:
                break
            size += body_bytes
            piece.append((seq,))
        db.executemany("DELETE FROM outcomes WHERE seq = ?", piece)
    return len(piece)


def _expire_early_piece(db: sqlite3.Connection, before_ms: int) -> bool:
    """Drop some verdicts whose outcome never came; False when none is left.

    No index helps here: normally the table is empty or nearly so.
    """
    with transaction(db):
        cursor = db.execute(
            "DELETE FROM early_verdicts WHERE (task_id, attempt) IN "
            "(SELECT task_id, attempt FROM early_verdicts WHERE received_ms < ? LIMIT ?)",
            (before_ms, STORE_EXPIRE_ROWS_MAX),
        )
        return cursor.rowcount > 0


def _shrink_piece(db: sqlite3.Connection) -> bool:
    """Give free pages back to the disk while they are more than half of the file; what
    is less will be used again soon. False when there is no more to do."""
    free = db.execute("PRAGMA freelist_count").fetchone()[0]
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    if 2 * free <= pages:
        return False
    # Plain execute() steps this only once, which frees one page.
    db.executescript(f"PRAGMA incremental_vacuum({STORE_EXPIRE_ROWS_MAX})")
    return bool(db.execute("PRAGMA freelist_count").fetchone()[0] < free)
