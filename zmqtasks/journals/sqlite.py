"""The journal of an owner in one SQLite file.

* The write-ahead log makes a commit one append and, with ``sync=True``, one fsync, which
  also covers all commits before it. ``sync=False`` leaves the data to the kernel.
* Rows go in and out in statements of many rows: each statement gives the interpreter lock
  away once, and a busy I/O thread is slow to give it back.
* Tasks leave by the number of their row; which row is whose is kept in memory, as the
  tasks themselves are at their owner. An index on random ids would cost more than all else.
* A full disk: new tasks are refused while there is still a reserve, so that what settles
  can be noted. Room for the log is set aside when it is opened.
* Damage: see ``sqlite_file.py``; what can be saved: ``salvage.py``.

What is ugly here: when the disk fails during the fsync of a commit, nobody can know
whether the commit is in the log. The next one writes over it; only then is the failed one
surely undone. And before that the whole log is written once more: see ``sqlite_log.py``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from zmqtasks.core.marks import merged_record
from zmqtasks.core.owned import OwnedRecord, Progress, merged
from zmqtasks.errors import JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals import sqlite_file as file
from zmqtasks.journals.salvage import corrupt_error, discard, is_gone
from zmqtasks.journals.sqlite_calls import (
    delete_progress_sql,
    delete_sql,
    hold_for_ever,
    in_pieces,
    insert_sql,
    let_go,
    power_of_two,
    progress_sql,
    rows_per_statement,
)
from zmqtasks.journals.sqlite_file import Changed, Damage, Meta, ProgressRow, TaskRow
from zmqtasks.journals.sqlite_log import SMALL_PART, DiskSpace, Log, disk_space
from zmqtasks.journals.watermark import Watermark
from zmqtasks.limits import (
    JOURNAL_CLOSED_FREE_PAGES_MAX,
    JOURNAL_FREE_PAGES_MAX,
    JOURNAL_INHERIT_BYTES,
    JOURNAL_INHERIT_TASKS,
    JOURNAL_RESERVE_BYTES,
    JOURNAL_REWRITE_PAGES_MAX,
    JOURNAL_ROOM_COMMITS,
    JOURNAL_SHRINK_COMMITS,
    JOURNAL_SHRINK_PAGES,
)
from zmqtasks.wire.messages import Kind

#: A row costs this beside its payload, a commit this beside its rows: pages of the
#: tables' ends, of ``meta`` and of the tree above. Twice, in the log and in the database.
_ROW_BYTES = 96
_COMMIT_BYTES = 8 * file.PAGE_BYTES
#: A change of a task, or its end, writes at most so many pages, beside its mark: of the
#: table, of its neighbours when it gets empty, and those that say what is free and where.
_CHANGE_PAGES = 6
#: Rows read at once.
_LOAD_ROWS = 256

_SET_META = "UPDATE meta SET commit_no = ?, seq = ?, tasks = ?, digest = ?, sum = ?"
_LOAD = f"SELECT {file.TASK_COLUMNS} FROM tasks WHERE seq > ? ORDER BY seq LIMIT {_LOAD_ROWS}"  # noqa: S608


class _Change(NamedTuple):
    """A commit as rows, and the state after it."""

    rows: list[TaskRow]
    #: {kind as encoded: its number}, those that are new.
    kinds: dict[bytes, int]
    progress: dict[int, Changed]
    #: The same as rows.
    progress_rows: list[ProgressRow]
    dropped: dict[bytes, int]
    #: Row number in the other journal, when this takes tasks over.
    inherited: tuple[bytes, int] | None
    digest: int

    @property
    def is_empty(self) -> bool:
        return not self.rows and self.only_rows

    @property
    def only_rows(self) -> bool:
        return not (self.kinds or self.progress or self.dropped or self.inherited)

    def pages_max(self, room: int) -> int:
        """Pages that it writes to the log at most, when it takes this room."""
        changes = _CHANGE_PAGES * (len(self.progress) + len(self.dropped))
        return (room // 2 + _COMMIT_BYTES) // file.PAGE_BYTES + changes


class SqliteJournal:
    """Implements ``Journal``."""

    def __init__(self, folder: Path, *, space: DiskSpace = disk_space) -> None:
        """Does no input or output; ``open`` does.

        Args:
            folder: holds the journal and nothing else; made when missing, in a folder
                that exists.
            space: free and all bytes of its disk.
        """
        self._folder = folder
        self._space = space
        self._db: sqlite3.Connection | None = None
        self._pid = 0
        self._watermark = Watermark(folder)
        self._log = Log(folder, space)
        #: As it is in the database; new tasks may have come after it.
        self._meta = Meta(b"", 0, 0, 0, 0)
        #: The sum of all checksums, and how many commits there were since it was opened.
        self._digest = 0
        self._commits = 0
        #: {task id: seq << 32 | checksum} of all open tasks.
        self._held: dict[bytes, int] = {}
        #: {seq: what changed since it was put}.
        self._progress: dict[int, Changed] = {}
        #: {kind as encoded: its number}.
        self._kinds: dict[bytes, int] = {}
        self._last_seq = 0
        self._rows_max = 1
        #: What the connection's ``synchronous`` says now.
        self._is_syncing = True
        #: Commits are in the log that nobody synced.
        self._has_unsynced = False
        #: Bytes that new tasks may take, and commits until that is asked for again.
        self._room = 0
        self._room_commits = 0
        #: No new task is in the log but not in the database.
        self._is_drained = False

    # --- the Journal protocol -------------------------------------------------------------

    def open(self) -> None:
        """See ``Journal.open``."""
        if self._db is not None:
            return
        # What it was told about the disk, the process that left a log behind took along.
        is_doubtful = self._log.exists()
        try:
            db, self._meta = file.connect_whole(self._folder)
            try:
                self._read_state(db)
                self._log.open(db, is_doubtful=is_doubtful)
            except BaseException as exc:
                file.close_failed(db, self._folder, exc)
                self._log.close()
                raise
        except (Damage, sqlite3.Error) as exc:
            error = self._translated(exc)
            if isinstance(error, JournalCorrupt):
                raise corrupt_error(self._folder, error) from exc
            raise error from exc
        self._db, self._pid = db, os.getpid()
        self._is_syncing = True
        self._room_commits = 0
        # What a killed process had not synced is in the log all the same.
        self._has_unsynced = True
        hold_for_ever(db)

    def load(self) -> Iterator[OwnedRecord]:
        """See ``Journal.load``."""
        try:
            for row, record in self._read_tasks(0):
                del row
                yield record
        except JournalCorrupt as exc:
            raise corrupt_error(self._folder, exc, self._db) from exc

    def commit(
        self,
        puts: Sequence[OwnedRecord] = (),
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> None:
        """See ``Journal.commit``."""
        self._write(self._plan(puts, progress, drops), sync=sync)

    def inherit(self, folder: Path) -> Iterator[list[OwnedRecord]]:
        """See ``Journal.inherit``."""
        db = self._checked()
        if is_gone(folder):
            return
        source = SqliteJournal(folder, space=self._space)
        source.open()
        try:
            name = source._meta.journal
            upto = self._inherited_upto(db, name)
            piece: list[OwnedRecord] = []
            size = 0
            for seq, record in source._read_tasks(upto):
                piece.append(record)
                size += len(record.body)
                if len(piece) >= JOURNAL_INHERIT_TASKS or size >= JOURNAL_INHERIT_BYTES:
                    yield self._take_over(piece, (name, seq))
                    piece, size = [], 0
                upto = seq
            if piece:
                yield self._take_over(piece, (name, upto))
        finally:
            # It was only read; whether it can still be written does not matter.
            with contextlib.suppress(JournalError):
                source.close()
        try:
            discard(folder)
        except OSError as exc:
            raise file.os_error(folder, exc) from exc
        with contextlib.suppress(sqlite3.Error):
            # Only now, or a restart would take them again; one that stays does no harm.
            self._checked().execute("DELETE FROM inherited WHERE journal = ?", (name,))

    def close(self) -> None:
        """See ``Journal.close``."""
        db = self._db
        if db is None:
            return
        try:
            if self._pid == os.getpid():
                self.commit(sync=True)
                self._shrink(db, JOURNAL_CLOSED_FREE_PAGES_MAX)
        finally:
            self._db = None
            self._watermark.close()
            self._held, self._progress, self._kinds = {}, {}, {}
            if self._pid == os.getpid():
                let_go(db)
                # Its last act is to fold the log into the database.
                db.close()
            self._log.close()

    # --- reading --------------------------------------------------------------------------

    def _read_state(self, db: sqlite3.Connection) -> None:
        """Where everything is; compares it with what the last commit said there is."""
        kinds, damages = file.read_kinds(db)
        progress, more = file.read_progress(db)
        damages += more
        if damages:
            raise Damage("; ".join(damages))
        meta = self._meta
        held: dict[bytes, int] = {}
        seq = digest = count = 0
        last_seq = meta.seq
        try:
            for seq, task_id, checksum in db.execute("SELECT seq, id, sum FROM tasks ORDER BY seq"):
                held[task_id] = seq << 32 | checksum
                if seq <= meta.seq:
                    digest += checksum
                    count += 1
                    continue
                # Put since then by commits that did nothing else, so none is left out.
                last_seq += 1
                if seq != last_seq:
                    raise Damage(f"rows {last_seq} to {seq - 1} are missing")
        except TypeError:
            raise Damage(f"task in row {seq}: a value of a wrong type") from None
        digest += sum(changed.checksum for changed in progress.values())
        if count != meta.tasks or len(held) != count + last_seq - meta.seq:
            raise Damage(f"{meta.tasks} older tasks should be there, and {count} are")
        if digest & file.DIGEST_MASK != meta.digest:
            raise Damage("some tasks are not in the state in which the last commit left them")
        self._held, self._progress = held, progress
        self._kinds = {file.encode_value(kind): number for number, kind in kinds.items()}
        self._last_seq = last_seq
        self._digest = meta.digest + sum(
            known & 0xFFFFFFFF for known in held.values() if known >> 32 > meta.seq
        )
        self._rows_max = rows_per_statement(db)

    def _read_tasks(self, after: int) -> Iterator[tuple[int, OwnedRecord]]:
        """Row number and task, in order.

        Raises:
            JournalCorrupt: without a look at what can be saved.
        """
        kinds = {number: file.decode_kind(data) for data, number in self._kinds.items()}
        while True:
            db = self._checked()
            try:
                rows = db.execute(_LOAD, (after,)).fetchall()
                parts = file.read_parts(db, rows[0][0], rows[-1][0]) if rows else {}
                for row in rows:
                    seq = row[0]
                    later = self._progress.get(seq)
                    yield seq, file.read_task(row, kinds, later, parts.get(seq))
            except (sqlite3.Error, Damage) as exc:
                raise self._translated(exc) from exc
            if len(rows) < _LOAD_ROWS:
                return
            after = rows[-1][0]

    def _inherited_upto(self, db: sqlite3.Connection, journal: bytes) -> int:
        with self._translating():
            row = db.execute("SELECT upto FROM inherited WHERE journal = ?", (journal,)).fetchone()
        return row[0] if row is not None else 0

    # --- writing --------------------------------------------------------------------------

    def _plan(
        self,
        puts: Sequence[OwnedRecord],
        progress: Sequence[Progress],
        drops: Sequence[bytes],
        inherited: tuple[bytes, int] | None = None,
    ) -> _Change:
        """What a commit changes, without changing anything."""
        held = self._held
        dropped = {task_id: held[task_id] for task_id in drops if task_id in held}
        unwanted = set(drops)
        rows: dict[bytes, TaskRow] = {}
        kinds: dict[bytes, int] = {}
        # Most calls in a row are of one kind.
        last_kind, kind_no = None, 0
        seq, digest = self._last_seq, self._digest
        for record in puts:
            task_id = record.id
            if task_id in held or task_id in unwanted or task_id in rows:
                continue
            if record.kind is not last_kind:
                last_kind = record.kind
                kind_no = self._number_of(last_kind, kinds)
            seq += 1
            rows[task_id] = row = file.task_row(seq, kind_no, record)
            digest += row[7]
        changed: dict[int, Changed] = {}
        changed_rows: list[ProgressRow] = []
        for task_id, change in merged(progress).items():
            known = held.get(task_id)
            at = known >> 32 if known is not None else rows[task_id][0] if task_id in rows else 0
            if at and task_id not in unwanted:
                before = self._progress.get(at, file.UNCHANGED)
                after, changed_row = file.progress_row(at, change, before)
                changed[at] = after
                changed_rows.append(changed_row)
                digest += after.checksum - before.checksum
        for known in dropped.values():
            before = self._progress.get(known >> 32, file.UNCHANGED)
            digest -= (known & 0xFFFFFFFF) + before.checksum
        return _Change(
            list(rows.values()),
            kinds,
            changed,
            changed_rows,
            dropped,
            inherited,
            digest & file.DIGEST_MASK,
        )

    def _number_of(self, kind: Kind, new: dict[bytes, int]) -> int:
        data = file.encode_value(kind)
        number = self._kinds.get(data) or new.get(data)
        if number is None:
            number = new[data] = 1 + len(self._kinds) + len(new)
        return number

    def _write(self, change: _Change, *, sync: bool) -> None:
        db = self._checked()
        if change.is_empty and not (self._log.is_doubtful or (sync and self._has_unsynced)):
            return
        room = self._need_room(db, change)
        meta = self._meta
        is_committing = False
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
            # The next commit undoes a failed one, for good only when it is synced.
            sync |= self._log.is_doubtful
            self._log.settle()
            self._set_syncing(db, sync=sync)
            if change.only_rows and power_of_two(len(change.rows), self._rows_max):
                # The common case, and one that somebody waits for: one statement.
                is_committing = True
                in_pieces(db, insert_sql, change.rows, self._rows_max)
            else:
                meta = self._meta_after(change)
                db.execute("BEGIN IMMEDIATE")
                self._apply(db, change)
                db.execute(_SET_META, (*meta[1:], file.meta_sum(meta)))
                is_committing = True
                db.execute("COMMIT")
        except sqlite3.Error as exc:
            file.roll_back(db)
            self._room_commits = 0
            error = self._translated(exc)
            if is_committing and not (isinstance(error, JournalFull) and self._is_undone(db)):
                self._log.is_doubtful = True
                if isinstance(error, JournalFull):
                    error = JournalError(str(error))
            raise error from exc
        self._committed(change, meta, sync=sync)
        self._room -= room
        self._commits += 1
        self._log.committed(db, change.pages_max(room))
        is_due = self._commits % JOURNAL_SHRINK_COMMITS == 0
        is_due |= bool(change.dropped) and not self._held
        if is_due and self._shrink(db, JOURNAL_FREE_PAGES_MAX):
            self._log.empty(db)

    def _meta_after(self, change: _Change) -> Meta:
        return Meta(
            self._meta.journal,
            self._meta.commit_no + 1,
            change.rows[-1][0] if change.rows else self._last_seq,
            len(self._held) + len(change.rows) - len(change.dropped),
            change.digest,
        )

    def _apply(self, db: sqlite3.Connection, change: _Change) -> None:
        for data, number in change.kinds.items():
            db.execute(
                "INSERT INTO kinds VALUES (?, ?, ?)", (number, data, file.kind_sum(number, data))
            )
        in_pieces(db, insert_sql, change.rows, self._rows_max)
        in_pieces(db, progress_sql, change.progress_rows, self._rows_max)
        gone = [(known >> 32,) for known in change.dropped.values()]
        in_pieces(db, delete_sql, gone, self._rows_max)
        if self._progress:
            changed = [(seq,) for (seq,) in gone if seq in self._progress]
            in_pieces(db, delete_progress_sql, changed, self._rows_max)
        if change.inherited is not None:
            db.execute("INSERT OR REPLACE INTO inherited VALUES (?, ?)", change.inherited)

    def _committed(self, change: _Change, meta: Meta, *, sync: bool) -> None:
        """The commit is in the log: follow it in memory."""
        self._meta = meta
        self._digest = change.digest
        self._kinds.update(change.kinds)
        held = self._held
        for row in change.rows:
            held[row[1]] = row[0] << 32 | row[7]
        if change.rows:
            self._last_seq = change.rows[-1][0]
            self._is_drained = False
        self._progress.update(change.progress)
        for task_id, known in change.dropped.items():
            del held[task_id]
            self._progress.pop(known >> 32, None)
        self._has_unsynced = not sync
        if sync:
            self._watermark.write(meta.journal, meta.commit_no, self._last_seq)

    def _take_over(
        self, piece: list[OwnedRecord], inherited: tuple[bytes, int]
    ) -> list[OwnedRecord]:
        both = [self._merged(record) for record in piece if record.id in self._held]
        self._write(self._plan(piece, both, (), inherited), sync=True)
        return piece

    def _merged(self, theirs: OwnedRecord) -> Progress:
        _, ours = next(self._read_tasks((self._held[theirs.id] >> 32) - 1))
        return merged_record(ours, theirs)

    def _set_syncing(self, db: sqlite3.Connection, *, sync: bool) -> None:
        if sync != self._is_syncing:
            db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            self._is_syncing = sync

    def _is_undone(self, db: sqlite3.Connection) -> bool:
        """Write over what a commit left in the log that ran out of room.

        It ended before the last page of it was whole. But where the log was used before,
        the rest of that page may happen to be there, and a restart would find the commit.
        """
        nothing = self._plan((), (), ())
        meta = self._meta_after(nothing)
        try:
            self._set_syncing(db, sync=True)
            db.execute(_SET_META, (*meta[1:], file.meta_sum(meta)))
        except sqlite3.Error:
            file.roll_back(db)
            return False
        self._committed(nothing, meta, sync=True)
        return True

    # --- room -----------------------------------------------------------------------------

    def _need_room(self, db: sqlite3.Connection, change: _Change) -> int:
        """The room that a commit takes from the disk.

        Raises:
            JournalFull: there is too little, for new tasks also when only the reserve is left.
        """
        grown = sum(len(row[10]) + len(row[9] or b"") + len(row[8]) for row in change.rows)
        grown += sum(len(part or b"") for row in change.progress_rows for part in row[4:])
        grown += _ROW_BYTES * (len(change.rows) + len(change.progress_rows))
        if not grown:
            return 0
        need = 2 * (grown + _COMMIT_BYTES)
        self._room_commits -= 1
        if self._room_commits < 0 or need > self._room:
            try:
                free, whole = self._space(self._folder)
                unused = db.execute("PRAGMA freelist_count").fetchone()[0] * file.PAGE_BYTES
                # The log has room of its own.
                certain = free + unused + self._log.growth_bytes(db)
            except OSError as exc:
                raise file.os_error(self._folder, exc) from exc
            except sqlite3.Error as exc:
                raise self._translated(exc) from exc
            reserve = min(JOURNAL_RESERVE_BYTES, whole // SMALL_PART)
            self._room = max(0, free - reserve) + unused
            self._room_commits = JOURNAL_ROOM_COMMITS
            if need > self._room and (change.rows or grown > certain):
                self._use_reserve(db)
                raise file.full_error(
                    self._folder,
                    f"{free} bytes are free, {reserve} of them are kept for tasks that are open",
                )
        return need

    def _use_reserve(self, db: sqlite3.Connection) -> None:
        """Bring what is in the log into the database while there is room for it. After that
        the log can be used over and over for what settles, even if others fill the disk."""
        if not self._is_drained:
            self._is_drained = self._log.empty(db)

    def _shrink(self, db: sqlite3.Connection, unused_max: int) -> bool:
        """Give pages back to the disk when most of the file is unused.

        Where little is left it is written anew as a whole. Else some pages at a time: each
        of them costs as much as writing it.

        Returns:
            Whether it did. The file gets shorter when the log is emptied.
        """
        with contextlib.suppress(sqlite3.Error):  # tried again later
            unused = db.execute("PRAGMA freelist_count").fetchone()[0]
            used = db.execute("PRAGMA page_count").fetchone()[0] - unused
            if unused <= max(unused_max, used):
                return False
            self._set_syncing(db, sync=False)
            if used <= JOURNAL_REWRITE_PAGES_MAX:
                db.execute("VACUUM")
            else:
                # A script runs to its end; a statement without columns is only begun.
                db.executescript(f"PRAGMA incremental_vacuum({JOURNAL_SHRINK_PAGES})")
            return True
        return False

    # --- errors ---------------------------------------------------------------------------

    def _checked(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalError(f"journal {self._folder} is not open")
        if self._pid != os.getpid():
            raise JournalError(
                f"journal {self._folder} belongs to process {self._pid}, which forked this one; "
                "a forked process opens a journal of its own"
            )
        return self._db

    def _translated(self, exc: sqlite3.Error | Damage) -> JournalError:
        return file.translated(self._folder, exc)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, Damage) as exc:
            raise self._translated(exc) from exc
