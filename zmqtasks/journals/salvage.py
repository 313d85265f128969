"""What can be saved of a damaged SQLite journal, and removing one that is not needed.

Nothing here runs unless somebody asks for it or damage was found. The damaged files are
never changed but by SQLite's own recovery of its log, of which a copy was kept.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zmqtasks.core.owned import OwnedRecord
from zmqtasks.errors import ConfigError, JournalCorrupt, JournalError
from zmqtasks.journals import sqlite_file as file
from zmqtasks.journals.sqlite_file import Changed, Damage, TaskRow
from zmqtasks.journals.watermark import WATERMARK_NAME, Watermark
from zmqtasks.limits import JOURNAL_DAMAGES_MAX, JOURNAL_PROBES_MAX
from zmqtasks.wire.messages import Kind
from zmqtasks.words import counted

#: Ends the name of a folder whose content is not needed any longer.
_GONE = ".gone"
#: In the name of a copy of a damaged journal.
_KEPT = ".damaged-"


class Examination(NamedTuple):
    """What is in a journal, damaged or not."""

    records: list[OwnedRecord]
    #: One sentence for each thing found wrong; empty: nothing is.
    damages: tuple[str, ...]
    #: Tasks that the last readable commit says there are, None when none says.
    expected_count: int | None


class Salvaged(NamedTuple):
    """What ``salvage`` did."""

    task_count: int
    damages: tuple[str, ...]
    #: Where the damaged journal lies now.
    kept_at: Path


def examine(folder: Path) -> Examination:
    """Read all that can be read of a journal that nobody uses.

    Raises:
        ConfigError: a newer version wrote it.
        JournalError: it cannot be read now.
    """
    watermark = Watermark(folder).read()
    if not (folder / file.DB_NAME).exists():
        missing = (f"{file.DB_NAME} is missing",) if watermark is not None else ()
        return Examination([], missing, None)
    db = None
    try:
        db = file.connect(folder, may_make=watermark is None)
        return _examine(db, watermark)
    except Damage as exc:
        return Examination([], (str(exc),), None)
    except sqlite3.Error as exc:
        if file.is_damage(exc):
            return Examination([], (str(exc),), None)
        raise file.translated(folder, exc) from exc
    finally:
        if db is not None:
            db.close()


def salvage(folder: Path) -> Salvaged:
    """Leave in a damaged journal what can be read of it; a copy as it was is kept beside
    it. The caller holds the slot. Killed half way, the journal is still reported as damaged.

    Raises:
        ConfigError: a newer version wrote it.
        JournalError: it could not be done.
    """
    from zmqtasks.journals.sqlite import SqliteJournal  # it imports this module

    found = examine(folder)
    fresh = folder.with_name(f"{folder.name}.salvaged{_GONE}")
    try:
        discard(fresh)
        journal = SqliteJournal(fresh)
        journal.open()
        try:
            journal.commit(found.records, sync=True)
        finally:
            journal.close()
        kept_at = _keep_aside(folder)
        for name in (file.WAL_NAME, f"{file.WAL_NAME}.damaged"):
            (folder / name).unlink(missing_ok=True)
        (fresh / file.DB_NAME).replace(folder / file.DB_NAME)
        file.sync_folder(folder)
        # Last: until here it says that this is not the database that it knows.
        (folder / WATERMARK_NAME).unlink(missing_ok=True)
        file.sync_folder(folder)
        discard(fresh)
    except OSError as exc:
        raise file.os_error(folder, exc) from exc
    return Salvaged(len(found.records), found.damages, kept_at)


def count_open(folder: Path) -> int:
    """How many tasks the last commit left in a journal that nobody uses; does not read them.

    Raises:
        ConfigError: a newer version wrote it.
        JournalCorrupt: it is seen to be damaged already.
        JournalError: it cannot be read now.
    """
    if not (folder / file.DB_NAME).exists() and Watermark(folder).read() is None:
        return 0
    try:
        db, meta = file.connect_whole(folder)
        try:
            later = _count_behind(db, meta.seq)
        finally:
            db.close()
    except (Damage, sqlite3.Error) as exc:
        error = file.translated(folder, exc)
        if isinstance(error, JournalCorrupt):
            # How much can be saved would take a while.
            error = JournalCorrupt(f"{error} ({remedy(folder)})", damages=error.damages)
        raise error from exc
    return meta.tasks + later


def corrupt_error(
    folder: Path, cause: JournalCorrupt, db: sqlite3.Connection | None = None
) -> JournalCorrupt:
    """The error for a damaged journal, with what can be saved of it.

    Args:
        folder: the journal.
        cause: what was found first.
        db: the open connection, where there is one.
    """
    damages = cause.damages
    count: int | None = None
    with contextlib.suppress(sqlite3.Error, JournalError, ConfigError):
        found = _examine(db, None) if db is not None else examine(folder)
        count = len(found.records)
        damages = tuple(dict.fromkeys((*damages, *found.damages)))[:JOURNAL_DAMAGES_MAX]
    saved = "" if count is None else f"; {counted(count, 'task')} can be saved"
    return JournalCorrupt(
        f"journal {folder} is damaged: {damages[0]}{saved} ({remedy(folder)})",
        damages=damages,
        savable_count=count,
    )


def remedy(folder: Path) -> str:
    """The command that saves what can be saved of a journal in a slot."""
    return f"zmqtasks journal salvage {shlex.quote(str(folder.absolute().parent))}"


# --- folders that are not needed ----------------------------------------------------------


def is_gone(folder: Path) -> bool:
    """Was it removed, or is only the remainder of that left?"""
    return folder.name.endswith(_GONE) or not folder.exists()


def discard(folder: Path) -> None:
    """Remove a journal as a whole: at no moment is there half of one.

    Raises:
        OSError: it is still there.
    """
    import shutil  # slow to import, and rarely wanted

    if not folder.exists():
        return
    gone = folder if folder.name.endswith(_GONE) else folder.with_name(folder.name + _GONE)
    if gone != folder:
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        file.sync_folder(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)


def kept_aside(slot: Path) -> list[Path]:
    """Damaged journals of a slot, as they were before they were salvaged."""
    return sorted(slot.glob(f"*{_KEPT}*"))


def _keep_aside(folder: Path) -> Path:
    import shutil

    number = 1
    while (kept := folder.with_name(f"{folder.name}{_KEPT}{number}")).exists():
        number += 1
    kept.mkdir(mode=0o700)
    try:
        for path in folder.iterdir():
            shutil.copyfile(path, kept / path.name)
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise
    return kept


# --- reading ------------------------------------------------------------------------------


def _examine(db: sqlite3.Connection, watermark: tuple[bytes, int, int] | None) -> Examination:
    damages: list[str] = []
    expected: int | None = None
    try:
        meta = file.read_meta(db)
        lost = file.what_is_lost(db, meta, watermark)
        if lost:
            damages.append(lost)
        expected = meta.tasks + _count_behind(db, meta.seq)
    except (Damage, sqlite3.Error) as exc:
        damages.append(str(exc))
    kinds: dict[int, Kind] = {}
    progress: dict[int, Changed] | None = None
    try:
        kinds, wrong = file.read_kinds(db)
        damages += wrong
    except sqlite3.Error as exc:
        damages.append(f"the table kinds: {exc}")
    try:
        progress, wrong = file.read_progress(db)
        damages += wrong
    except sqlite3.Error as exc:
        damages.append(f"the table progress: {exc}")
    records: dict[bytes, OwnedRecord] = {}
    for row in _rows(db, damages):
        try:
            later = _progress_of(db, row[0]) if progress is None else progress.get(row[0])
            parts = {} if later is None else file.read_parts(db, row[0], row[0])
            record = file.read_task(row, kinds, later, parts.get(row[0]))
        except (Damage, sqlite3.Error) as exc:
            damages.append(str(exc))
        else:
            records.setdefault(record.id, record)
    if expected is not None and expected > len(records):
        damages.append(
            f"{counted(expected, 'task')} should be there, and {len(records):,} can be read"
        )
    return Examination(list(records.values()), tuple(damages[:JOURNAL_DAMAGES_MAX]), expected)


def _progress_of(db: sqlite3.Connection, seq: int) -> Changed | None:
    """What changed about one task, where the table as a whole cannot be read; None also
    when that cannot be: an older state of a task is better than none."""
    with contextlib.suppress(sqlite3.Error):
        return file.read_progress(db, seq, seq)[0].get(seq)
    return None


def _count_behind(db: sqlite3.Connection, seq: int) -> int:
    """How many tasks were put after that row."""
    count: int = db.execute("SELECT count(*) FROM tasks WHERE seq > ?", (seq,)).fetchone()[0]
    return count


def _rows(db: sqlite3.Connection, damages: list[str]) -> Iterator[TaskRow]:
    """All rows of tasks that SQLite can get at: from the front, from the back, and what
    lies between, one by one, where a page can only be reached by its number."""
    first = 0
    try:
        for row in db.execute(f"SELECT {file.TASK_COLUMNS} FROM tasks ORDER BY seq"):  # noqa: S608
            first = row[0]
            yield row
        return
    except sqlite3.Error as exc:
        damages.append(f"the table tasks, behind row {first}: {exc}")
        if "no such table" in str(exc):
            return
    behind: list[TaskRow] = []
    with contextlib.suppress(sqlite3.Error):
        behind += db.execute(
            f"SELECT {file.TASK_COLUMNS} FROM tasks WHERE seq > ? ORDER BY seq DESC",  # noqa: S608
            (first,),
        )
    last = behind[-1][0] if behind else first + JOURNAL_PROBES_MAX
    for seq in range(first + 1, min(last, first + JOURNAL_PROBES_MAX)):
        try:
            yield from db.execute(f"SELECT {file.TASK_COLUMNS} FROM tasks WHERE seq = ?", (seq,))  # noqa: S608
        except sqlite3.Error:
            continue
    yield from reversed(behind)
