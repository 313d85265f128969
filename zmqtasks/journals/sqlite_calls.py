"""How the SQLite journal calls SQLite: statements of many rows, and forks."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from zmqtasks.journals.sqlite_file import PROGRESS_COLUMNS, TASK_COLUMNS
from zmqtasks.limits import JOURNAL_ROWS_PER_STATEMENT

_COLUMNS = len(TASK_COLUMNS.split(", "))
_CHANGES = len(PROGRESS_COLUMNS.split(", "))


# --- statements of many rows --------------------------------------------------------------


def rows_per_statement(db: sqlite3.Connection) -> int:
    """How many rows of ``tasks`` one statement can take: a power of two."""
    variables = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    count = JOURNAL_ROWS_PER_STATEMENT
    while count > 1 and count * _COLUMNS > variables:
        count //= 2
    return count


def power_of_two(count: int, count_max: int) -> bool:
    """Is this what ``in_pieces`` does in one statement?"""
    return 0 < count <= count_max and not count & (count - 1)


def in_pieces(
    db: sqlite3.Connection,
    make_sql: Callable[[int], str],
    rows: Sequence[tuple[Any, ...]],
    rows_max: int,
) -> None:
    """Run a statement over rows, in powers of two: SQLite keeps each size prepared."""
    start, size = 0, rows_max
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        piece = rows[start : start + size]
        db.execute(make_sql(size), [value for row in piece for value in row])
        start += size


@functools.cache
def insert_sql(count: int) -> str:
    """New tasks."""
    return f"INSERT INTO tasks ({TASK_COLUMNS}) VALUES {_places(_COLUMNS, count)}"  # noqa: S608


@functools.cache
def progress_sql(count: int) -> str:
    """What changed about tasks."""
    return (
        f"INSERT INTO progress ({PROGRESS_COLUMNS}) VALUES {_places(_CHANGES, count)} "  # noqa: S608
        "ON CONFLICT (seq) DO UPDATE SET attempt = excluded.attempt, strikes = excluded.strikes, "
        "sum = excluded.sum, mark = coalesce(excluded.mark, mark), "
        "ext = coalesce(excluded.ext, ext), body = coalesce(excluded.body, body)"
    )


@functools.cache
def delete_sql(count: int) -> str:
    """Tasks that are held no longer."""
    return f"DELETE FROM tasks WHERE seq IN {_places(count, 1)}"  # noqa: S608


@functools.cache
def delete_progress_sql(count: int) -> str:
    """What had changed about them."""
    return f"DELETE FROM progress WHERE seq IN {_places(count, 1)}"  # noqa: S608


def _places(columns: int, rows: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


# --- forks --------------------------------------------------------------------------------


def hold_for_ever(db: sqlite3.Connection) -> None:
    """One reference more than there is.

    A forked child that ends, or merely drops its copy of the journal, would close the
    connection, and SQLite would then fold and remove the log under the parent's feet.
    This reference keeps the child's copy; the parent gives it back in ``close``.
    """
    import ctypes  # slow to import

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))


def let_go(db: sqlite3.Connection) -> None:
    """Give that reference back."""
    import ctypes

    ctypes.pythonapi.Py_DecRef(ctypes.py_object(db))
