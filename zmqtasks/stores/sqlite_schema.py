"""The tables of the SQLite store, their version, and how its file is opened.

One row of ``outcomes`` is one attempt. ``seq`` is the rowid: it grows with each new row
and is never changed by a repetition, so it is the order in which rows were first stored.
``body`` is the last column, so that reading or changing the others never walks the pages
of a large body. ``early_verdicts`` holds verdicts whose outcome has not come yet.

The file says whose it is (``application_id``) and in which version (``user_version``).
A newer version is refused: an older program cannot know what it would break.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from zmqtasks.errors import ConfigError, StoreError
from zmqtasks.limits import SQLITE_CHECKPOINT_PAGES
from zmqtasks.wire.messages import Verdict

#: "zmqt" as a number, in the file's header; ``file`` and we know it by that.
APPLICATION_ID = 0x7A6D7174
#: Raised by one with each change of the tables; each older one needs an upgrade here.
SCHEMA_VERSION = 1

Mode = Literal["rw", "ro"]
Synchronous = Literal["NORMAL", "FULL"]

_TABLES = (
    """
    CREATE TABLE outcomes (
        seq INTEGER PRIMARY KEY,
        task_id BLOB NOT NULL,
        attempt INTEGER NOT NULL,
        status INTEGER NOT NULL,
        verdict INTEGER NOT NULL,
        publisher BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        position INTEGER NOT NULL,
        app TEXT NOT NULL,
        name TEXT NOT NULL,
        queue TEXT NOT NULL,
        worker TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        run_us INTEGER NOT NULL,
        stored_ms INTEGER NOT NULL,
        ext BLOB,
        body BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX outcomes_by_attempt ON outcomes (task_id, attempt)",
    "CREATE INDEX outcomes_by_time ON outcomes (stored_ms)",
    """
    CREATE TABLE early_verdicts (
        task_id BLOB NOT NULL,
        attempt INTEGER NOT NULL,
        verdict INTEGER NOT NULL,
        received_ms INTEGER NOT NULL,
        PRIMARY KEY (task_id, attempt)
    ) WITHOUT ROWID
    """,
)

#: Remedies by SQLite's primary result code.
_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another process holds its write lock; it is tried again",
    sqlite3.SQLITE_LOCKED: "another process holds its write lock; it is tried again",
    sqlite3.SQLITE_FULL: "free space on its disk, or keep results for a shorter time",
    sqlite3.SQLITE_IOERR: "check its disk",
    sqlite3.SQLITE_READONLY: "make the file and its directory writable",
    sqlite3.SQLITE_CANTOPEN: "check the permissions of the file and its directory",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away or restore it",
    sqlite3.SQLITE_NOTADB: "this is no SQLite file: move it away or name another",
}


def store_error(path: Path, exc: sqlite3.Error) -> StoreError:
    """SQLite's error as ours, with what to do about it."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    remedy = _REMEDIES.get(code)
    return StoreError(f"result store {path}: {exc}" + (f" ({remedy})" if remedy else ""))


#: Of a connection that writes: a task has one settled attempt, the first one.
_ONE_SETTLED = f"""
    CREATE TEMP TRIGGER one_settled_{{name}} AFTER {{change}} ON main.outcomes
    WHEN NEW.verdict = {Verdict.SETTLED:d} AND EXISTS (
        SELECT 1 FROM main.outcomes WHERE task_id = NEW.task_id AND attempt <> NEW.attempt
        AND verdict = {Verdict.SETTLED:d}
    )
    BEGIN
        UPDATE outcomes SET verdict = {Verdict.REFUSED:d}
        WHERE task_id = NEW.task_id AND attempt = NEW.attempt;
    END
"""  # noqa: S608 - made of numbers


def connect(
    path: Path, mode: Mode, *, synchronous: Synchronous, busy_ms: int
) -> sqlite3.Connection:
    """A connection to the store's file, which is made when missing (not with "ro").

    Raises:
        ConfigError: the file can never be used (foreign, newer, not permitted).
        StoreError: it cannot be used now.
    """
    path = path.absolute()
    if mode == "rw":
        _make_file(path)
    elif not path.exists():
        raise ConfigError(f"result store {path} does not exist; no store node has written it yet")
    uri = f"file:{quote(str(path))}?mode={mode}"
    try:
        # The store hands a connection to one thread of its own; autocommit is on, since
        # transactions are begun and ended here in words.
        db = sqlite3.connect(
            uri, uri=True, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as exc:
        raise _at_open(path, exc) from exc
    try:
        _prepare(db, path, mode, synchronous, busy_ms)
    except sqlite3.Error as exc:
        db.close()
        raise _at_open(path, exc) from exc
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """All reads inside see the same commit."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:  # not after an error that ended it
            db.execute("COMMIT")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; takes the write lock at once, so it cannot fail half way for it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _make_file(path: Path) -> None:
    """Results may be private: only the user may read them. SQLite gives the log and
    shared-memory files the rights of the main file."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        reason = exc.strerror or str(exc)
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO):
            raise StoreError(f"result store {path} cannot be opened: {reason}") from exc
        raise ConfigError(
            f"result store {path} cannot be opened: {reason}; name a writable file, for example "
            "--store sqlite:////var/lib/zmqtasks/results.db"
        ) from exc


def _at_open(path: Path, exc: sqlite3.Error) -> ConfigError | StoreError:
    error = store_error(path, exc)
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return ConfigError(str(error))
    return error


def _prepare(
    db: sqlite3.Connection, path: Path, mode: Mode, synchronous: Synchronous, busy_ms: int
) -> None:
    # Read as one: another process may be making the tables right now.
    with snapshot(db):
        has_tables = _check_version(db, path)
    if mode == "ro":
        if not has_tables:
            raise ConfigError(f"result store {path} is empty; no store node has written it yet")
        return
    if not has_tables:
        # Only possible before the first table: lets expiry give room back to the disk.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_wal(db, path, busy_ms)
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute(f"PRAGMA wal_autocheckpoint = {SQLITE_CHECKPOINT_PAGES}")
    # A long reader can make the log grow; it shrinks to this at the next checkpoint.
    db.execute(f"PRAGMA journal_size_limit = {4 * SQLITE_CHECKPOINT_PAGES * 4096}")
    with transaction(db):
        # Asked again: another node may have made the tables in the meantime.
        if not _check_version(db, path):
            for statement in _TABLES:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    for change in ("INSERT", "UPDATE OF verdict"):
        db.execute(_ONE_SETTLED.format(name=change.split()[0], change=change))


def _check_version(db: sqlite3.Connection, path: Path) -> bool:
    """True: our tables in our version are there; False: the file is empty.

    Raises:
        ConfigError: neither of them.
    """
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application_id == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"result store {path} was written by a newer zmqtasks (schema {version}, this one "
                f"knows {SCHEMA_VERSION}); upgrade zmqtasks here or name another file"
            )
        return True
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] or application_id:
        raise ConfigError(
            f"result store {path} is a database of another program; name another file"
        )
    return False


def _use_wal(db: sqlite3.Connection, path: Path, busy_ms: int) -> None:
    """Readers and the writer do not block each other in this mode.

    SQLite does not wait for the lock when two processes switch at the same time (it
    reports BUSY at once), so the waiting is done here.
    """
    deadline = time.monotonic() + busy_ms / 1000
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as exc:
            busy = getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise ConfigError(
                f"result store {path}: its file system cannot share memory between processes "
                f"(journal mode {mode}); put the file on a local disk"
            )
        return
