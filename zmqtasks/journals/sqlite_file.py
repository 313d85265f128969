"""The files of an SQLite journal: tables, checksums, and how they are opened.

::

    <folder>/tasks.db       SQLite, write-ahead log beside it
             tasks.db-wal
             synced         the watermark: number of the last commit that was synced

Whether commits that had been synced are missing is told by ``watermark.py``.

What else can go wrong within the database is seen by a checksum in each row, and by the
count and the sum of the checksums of all rows in ``meta``: rows that are missing, or came
back from an older state of a page, show there.

A commit of nothing but new tasks leaves ``meta`` alone and so is a single statement. It
is told by its rows: those behind ``meta.seq`` have numbers without a gap, up to the one in
the watermark.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from zmqtasks.core.owned import Durability, OwnedRecord, Progress, changed_record
from zmqtasks.errors import ConfigError, JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals.watermark import Watermark
from zmqtasks.wire.messages import Kind

#: "zmqj" as a number, in the file's header.
APPLICATION_ID = 0x7A6D716A
#: Raised by one with each change of the tables; each older one needs an upgrade here.
SCHEMA_VERSION = 2

DB_NAME = "tasks.db"
WAL_NAME = "tasks.db-wal"
JOURNAL_ID_BYTES = 16
PAGE_BYTES = 4096

_TABLES = (
    # One row: how the last commit that wrote it left the tasks up to row seq.
    """
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        journal BLOB NOT NULL,
        commit_no INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        tasks INTEGER NOT NULL,
        digest INTEGER NOT NULL,
        sum INTEGER NOT NULL
    )
    """,
    "CREATE TABLE kinds (kind INTEGER PRIMARY KEY, data BLOB NOT NULL, sum INTEGER NOT NULL)",
    # The open tasks; seq is the order in which they came. No index on id: the journal
    # knows where its tasks are, and its one user has read them all.
    """
    CREATE TABLE tasks (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        kind INTEGER NOT NULL,
        durability INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        strikes INTEGER NOT NULL,
        written_ms INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        mark BLOB NOT NULL,
        ext BLOB,
        body BLOB NOT NULL
    )
    """,
    # What changed since a task was put. Apart, so that no body is written again for it.
    # Without a mark, facts or arguments: those of the task still hold.
    """
    CREATE TABLE progress (
        seq INTEGER PRIMARY KEY,
        attempt INTEGER NOT NULL,
        strikes INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        mark BLOB,
        ext BLOB,
        body BLOB
    )
    """,
    # Journals being taken over, and up to which seq of theirs that was done.
    "CREATE TABLE inherited (journal BLOB PRIMARY KEY, upto INTEGER NOT NULL) WITHOUT ROWID",
)

_META_HEAD = struct.Struct(">QQQQ")
_TASK_HEAD = struct.Struct(">QIBQIQIII")
_PROGRESS = struct.Struct(">QQIq")
_PARTS = struct.Struct(">qqq")
_KIND_HEAD = struct.Struct(">I")
_SEQ_MAX = (1 << 63) - 1
#: Stands for the length of an ``ext`` that is not there.
_NO_EXT = 0xFFFFFFFF
#: The sum of all checksums stays within what SQLite calls an integer.
DIGEST_MASK = (1 << 62) - 1

encode_value = msgspec.msgpack.Encoder().encode
decode_kind = msgspec.msgpack.Decoder(Kind).decode
decode_ext = msgspec.msgpack.Decoder(dict[str, Any]).decode

#: A row of ``tasks`` in the order of its columns.
TaskRow = tuple[int, bytes, int, int, int, int, int, int, bytes, bytes | None, bytes]
TASK_COLUMNS = "seq, id, kind, durability, attempt, strikes, written_ms, sum, mark, ext, body"
#: What a row of ``progress`` may have: mark, facts and arguments.
Parts = tuple[bytes | None, bytes | None, bytes | None]
#: A row of ``progress`` in the order of its columns.
ProgressRow = tuple[int, int, int, int, bytes | None, bytes | None, bytes | None]
PROGRESS_COLUMNS = "seq, attempt, strikes, sum, mark, ext, body"


class Meta(NamedTuple):
    """The row of the table ``meta``."""

    journal: bytes
    commit_no: int
    seq: int
    tasks: int
    digest: int


class Changed(NamedTuple):
    """A row of ``progress`` as it is kept in memory: of its parts the checksums only."""

    attempt: int
    strikes: int
    #: Of each of its parts; ``NO_PART`` when that of the task still holds.
    part_sums: tuple[int, int, int]
    checksum: int


#: Of a part that a row does not have.
NO_PART = -1
_NO_PARTS: Parts = (None, None, None)
#: Of a task without a row there.
UNCHANGED = Changed(0, 0, (NO_PART, NO_PART, NO_PART), 0)


class Damage(Exception):
    """One thing found wrong in a journal, as a sentence."""


# --- checksums ----------------------------------------------------------------------------


def meta_sum(meta: Meta) -> int:
    """The checksum of the row of ``meta``."""
    return zlib.crc32(_META_HEAD.pack(*meta[1:]), zlib.crc32(meta.journal))


def task_row(seq: int, kind_no: int, record: OwnedRecord) -> TaskRow:
    """The row of a task, with its checksum."""
    task_id, body, mark, durability = record.id, record.body, record.mark, int(record.durability)
    ext = None if record.ext is None else encode_value(record.ext)
    head = _TASK_HEAD.pack(
        seq, kind_no, durability, record.attempt, record.strikes, record.written_ms, len(mark),
        _NO_EXT if ext is None else len(ext), len(body),
    )  # fmt: skip
    front = task_id + head + mark
    checksum = zlib.crc32(body, zlib.crc32(front + ext if ext else front))
    return (
        seq, task_id, kind_no, durability, record.attempt, record.strikes, record.written_ms,
        checksum, mark, ext, body,
    )  # fmt: skip


def part_sums(parts: Parts, before: Changed = UNCHANGED) -> tuple[int, int, int]:
    """``Changed.part_sums`` of parts that come after others."""
    mark, ext, body = (
        known if part is None else zlib.crc32(part)
        for part, known in zip(parts, before.part_sums, strict=True)
    )
    return mark, ext, body


def progress_sum(seq: int, attempt: int, strikes: int, sums: tuple[int, int, int]) -> int:
    """The checksum of a row of ``progress``."""
    checksum = zlib.crc32(_PROGRESS.pack(seq, attempt, strikes, sums[0]))
    # Version 1 had no more than that.
    return checksum if sums[1:] == (NO_PART, NO_PART) else zlib.crc32(_PARTS.pack(*sums), checksum)


def progress_row(seq: int, change: Progress, before: Changed) -> tuple[Changed, ProgressRow]:
    """What is known of a task after a change, and its row, which leaves alone those parts
    that are there when it brings none."""
    _, attempt, strikes, mark, facts, body = change
    ext = None if facts is None else encode_value(facts)
    sums = part_sums((mark, ext, body), before)
    checksum = progress_sum(seq, attempt, strikes, sums)
    row = (seq, attempt, strikes, checksum, mark, ext, body)
    return Changed(attempt, strikes, sums, checksum), row


def kind_sum(kind_no: int, data: bytes) -> int:
    """The checksum of a row of ``kinds``."""
    return zlib.crc32(data, zlib.crc32(_KIND_HEAD.pack(kind_no)))


def read_task(
    row: TaskRow, kinds: dict[int, Kind], later: Changed | None, parts: Parts | None
) -> OwnedRecord:
    """The task of a row.

    Args:
        row: as it is in ``tasks``.
        kinds: the table of that name.
        later: what changed since it was put.
        parts: those that came with that, if any did.

    Raises:
        Damage: the row is not what was written.
    """
    seq, task_id, kind_no, durability, attempt, strikes, written_ms, checksum, first, ext, body = (
        row
    )
    kind = kinds.get(kind_no)
    if kind is None:
        raise Damage(f"task in row {seq}: its kind {kind_no} is missing")
    try:
        record = OwnedRecord(
            task_id, kind, body, None if ext is None else decode_ext(ext), attempt, strikes,
            Durability(durability), written_ms, first,
        )  # fmt: skip
        is_whole = task_row(seq, kind_no, record)[7] == checksum
    except (TypeError, ValueError, AttributeError, struct.error, msgspec.MsgspecError):
        is_whole = False
    if not is_whole:
        raise Damage(f"task in row {seq}: its checksum does not match its content")
    if later is None:
        return record
    mark, facts, arguments = parts or _NO_PARTS
    if part_sums((mark, facts, arguments)) != later.part_sums:
        raise Damage(f"progress of row {seq}: it changed while it was read")
    new_ext = None if facts is None else decode_ext(facts)
    change = Progress(task_id, later.attempt, later.strikes, mark, new_ext, arguments)
    return changed_record(record, change)


def read_parts(db: sqlite3.Connection, first: int, last: int) -> dict[int, Parts]:
    """{seq: parts} of those rows of ``progress`` that have any."""
    return {
        seq: (mark, ext, body)
        for seq, mark, ext, body in db.execute(
            "SELECT seq, mark, ext, body FROM progress WHERE seq BETWEEN ? AND ? AND "
            "(mark IS NOT NULL OR ext IS NOT NULL OR body IS NOT NULL)",
            (first, last),
        )
    }


def read_meta(db: sqlite3.Connection) -> Meta:
    """What the last commit wrote.

    Raises:
        Damage: it is not there or not what was written.
    """
    row = db.execute("SELECT journal, commit_no, seq, tasks, digest, sum FROM meta").fetchone()
    if row is None:
        raise Damage("the table meta is empty")
    with contextlib.suppress(TypeError, struct.error):
        meta = Meta(*row[:5])
        if meta_sum(meta) == row[5]:
            return meta
    raise Damage("the table meta: its checksum does not match its content")


def read_kinds(db: sqlite3.Connection) -> tuple[dict[int, Kind], list[str]]:
    """The kinds that can be read, and what is wrong with the others."""
    kinds: dict[int, Kind] = {}
    damages: list[str] = []
    for number, data, checksum in db.execute("SELECT kind, data, sum FROM kinds"):
        with contextlib.suppress(TypeError, struct.error, msgspec.MsgspecError):
            if kind_sum(number, data) == checksum:
                kinds[number] = decode_kind(data)
                continue
        damages.append(f"kind {number}: its checksum does not match its content")
    return kinds, damages


def read_progress(
    db: sqlite3.Connection, first: int = 0, last: int = _SEQ_MAX
) -> tuple[dict[int, Changed], list[str]]:
    """{seq: what changed} that can be read, and what is wrong with others."""
    found: dict[int, Changed] = {}
    damages: list[str] = []
    for seq, attempt, strikes, checksum, mark, ext, body in db.execute(
        f"SELECT {PROGRESS_COLUMNS} FROM progress WHERE seq BETWEEN ? AND ?",  # noqa: S608
        (first, last),
    ):
        with contextlib.suppress(TypeError, struct.error):
            sums = part_sums((mark, ext, body))
            if progress_sum(seq, attempt, strikes, sums) == checksum:
                found[seq] = Changed(attempt, strikes, sums, checksum)
                continue
        damages.append(f"progress of row {seq}: its checksum does not match its content")
    return found, damages


# --- opening ------------------------------------------------------------------------------


def connect(folder: Path, *, may_make: bool) -> sqlite3.Connection:
    """A connection to the journal's database.

    Args:
        folder: of the journal; made when missing.
        may_make: make the database when there is none; else that is damage.

    Raises:
        ConfigError: a newer version or another program made it.
        JournalError: see its subclasses.
        Damage: it is no database, or not a whole one.
    """
    path = folder.absolute() / DB_NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise os_error(folder, exc) from exc
    db = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=1.0,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        if _prepare(db, folder, may_make=may_make):
            # SQLite syncs files, and the folder for its log, but not for a new database.
            sync_folder(folder)
            sync_folder(folder.parent)
    except OSError as exc:
        db.close()
        raise os_error(folder, exc) from exc
    except UnicodeDecodeError as exc:
        # SQLite quotes what it cannot read in its message, and Python cannot read that.
        damage = Damage("the names of its tables are damaged")
        close_failed(db, folder, damage)
        raise damage from exc
    except BaseException as exc:
        close_failed(db, folder, exc)
        raise
    return db


def connect_whole(folder: Path) -> tuple[sqlite3.Connection, Meta]:
    """A connection to a journal that has all commits that were synced. Raises as ``connect``."""
    watermark = Watermark(folder).read()
    if watermark is not None and not (folder / DB_NAME).exists():
        raise Damage(f"{DB_NAME} is missing, though commits had been synced")
    db = connect(folder, may_make=watermark is None)
    try:
        meta = read_meta(db)
        lost = what_is_lost(db, meta, watermark)
        if lost:
            raise Damage(lost)
    except BaseException as exc:
        close_failed(db, folder, exc)
        raise
    return db, meta


def what_is_lost(
    db: sqlite3.Connection, meta: Meta, watermark: tuple[bytes, int, int] | None
) -> str:
    """What had been synced by the watermark and is not there, as a sentence; "" when all is."""
    if watermark is None:
        return ""
    journal, commit_no, seq = watermark
    reason = f"had been synced and are missing: {WAL_NAME} was damaged or removed"
    if journal != meta.journal:
        return f"{DB_NAME} is not the one whose commits were synced here"
    if commit_no > meta.commit_no:
        return f"commits {meta.commit_no + 1} to {commit_no} {reason}"
    if commit_no == meta.commit_no:
        last = max(meta.seq, db.execute("SELECT max(seq) FROM tasks").fetchone()[0] or 0)
        if seq > last:
            return f"tasks in rows {last + 1} to {seq} {reason}"
    return ""


def close_failed(db: sqlite3.Connection, folder: Path, exc: BaseException) -> None:
    """Close a journal that turned out damaged. That removes its log, which may be all that
    is left of some tasks: a copy is kept."""
    log = folder / WAL_NAME
    copy = log.with_name(f"{WAL_NAME}.damaged")
    if isinstance(exc, Damage) or (isinstance(exc, sqlite3.Error) and is_damage(exc)):
        with contextlib.suppress(OSError):
            if log.exists() and not copy.exists():
                import shutil  # slow to import, and rarely wanted

                shutil.copyfile(log, copy)
    db.close()


def _prepare(db: sqlite3.Connection, folder: Path, *, may_make: bool) -> bool:
    """Settings and tables; True when the tables were made now."""
    # Our slot's lock keeps other processes away; SQLite's own, taken once and kept, saves
    # the shared memory file and a lock for each commit.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = _check_version(db, folder)
    is_empty = version is None
    if is_empty and not may_make:
        raise Damage(f"{DB_NAME} is empty, though commits had been synced")
    if is_empty:
        # Only possible before the first table: lets the file shrink.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise JournalError(f"journal {folder}: SQLite cannot keep a write-ahead log there ({mode})")
    # For macOS, where fsync alone leaves data in the disk's cache; no effect elsewhere.
    db.execute("PRAGMA fullfsync = ON")
    db.execute("PRAGMA checkpoint_fullfsync = ON")
    db.execute("PRAGMA synchronous = FULL")
    # Some builds of SQLite write zeros over all that is deleted.
    db.execute("PRAGMA secure_delete = OFF")
    # Nothing of ours is text; a damaged row that says so is no reason to fail.
    db.text_factory = bytes
    if version is not None:
        if version < SCHEMA_VERSION:
            _upgrade(db)
        return False
    with transaction(db):
        for statement in _TABLES:
            db.execute(statement)
        meta = Meta(os.urandom(JOURNAL_ID_BYTES), 0, 0, 0, 0)
        db.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?)", (*meta, meta_sum(meta)))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return True


def _upgrade(db: sqlite3.Connection) -> None:
    """Let the tables of an older version have what this one wants."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(progress)")}
    with transaction(db):
        for column in ("ext", "body"):
            if column.encode() not in columns:
                db.execute(f"ALTER TABLE progress ADD COLUMN {column} BLOB")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_version(db: sqlite3.Connection, folder: Path) -> int | None:
    """Of our tables, when they are there; None: the file is empty."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"journal {folder} was written by a newer zmqtasks (schema {version}, this one "
                f"knows {SCHEMA_VERSION}); upgrade zmqtasks here, or let the newer one finish it"
            )
        return int(version)
    if application_id or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise Damage(f"{DB_NAME} is a database of another program")
    return None


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise


def roll_back(db: sqlite3.Connection) -> None:
    """Undo what is under way, if anything is."""
    with contextlib.suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")


def sync_folder(folder: Path) -> None:
    """Make names that were made, changed or removed in the folder survive a power loss.

    Raises:
        OSError: the disk failed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- errors -------------------------------------------------------------------------------

_CORRUPT_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another program has it open: end that one",
    sqlite3.SQLITE_LOCKED: "another program has it open: end that one",
    sqlite3.SQLITE_IOERR: "check its disk, and the user's quota there",
    sqlite3.SQLITE_READONLY: "make its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "make its folder writable for this user",
    sqlite3.SQLITE_PERM: "make its folder writable for this user",
}


def is_damage(exc: sqlite3.Error) -> bool:
    """Does SQLite say that the file is damaged?"""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    # Tables that are not there, in a file that says it is ours.
    return code in _CORRUPT_CODES or (code == sqlite3.SQLITE_ERROR and "no such" in str(exc))


def translated(folder: Path, exc: sqlite3.Error | Damage) -> JournalError:
    """What was found wrong as one of our errors, without a look at what can be saved."""
    if isinstance(exc, Damage):
        return JournalCorrupt(f"journal {folder} is damaged: {exc}", damages=(str(exc),))
    return _from_sqlite(folder, exc)


def _from_sqlite(folder: Path, exc: sqlite3.Error) -> JournalError:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return full_error(folder, str(exc))
    if is_damage(exc):
        return JournalCorrupt(f"journal {folder} is damaged: {exc}", damages=(str(exc),))
    remedy = _REMEDIES.get(code)
    return JournalError(f"journal {folder}: {exc}" + (f" ({remedy})" if remedy else ""))


def os_error(folder: Path, exc: OSError) -> JournalError:
    """The system's error as ours."""
    reason = exc.strerror or str(exc)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return full_error(folder, reason)
    return JournalError(f"journal {folder} cannot be used: {reason}; check its folder and its disk")


def full_error(folder: Path, reason: str) -> JournalFull:
    """No room on the disk."""
    return JournalFull(
        f"journal {folder} has no room ({reason}); free space on its disk, or move the journals: "
        "ZMQTASKS_STATE_DIR"
    )
