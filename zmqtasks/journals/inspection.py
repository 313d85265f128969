"""Looking at the slots of a host from outside, and mending one: ``zmqtasks journal``.

A slot that a process holds is left alone: what is in it is that process's own affair, and
SQLite would not let us read it. All others are locked while they are looked at, so that
nobody claims or adopts them meanwhile; a node that starts just then takes another one.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zmqtasks.core.owned import Dead, Ended, Given, Incoming, OwnedRecord, parse_mark
from zmqtasks.errors import ConfigError, JournalError
from zmqtasks.journals import salvage
from zmqtasks.journals.salvage import Salvaged
from zmqtasks.journals.slots import identity_of, is_slot, journals_in, lock_slot, slot_numbers
from zmqtasks.journals.sqlite_file import os_error

#: In whose hands a task is (``core.owned``), in a word. The last one: a mark of a version
#: that this one does not know.
HANDS = ("owned", "offered", "given", "dead", "unknown")


class JournalReport(NamedTuple):
    """What is in one journal of a slot."""

    folder: Path
    #: Tasks that can be read, None when it cannot be told.
    open_count: int | None
    #: {one of ``HANDS``: how many of them}.
    hands: dict[str, int]
    #: Tasks that should be there, None when the journal does not say.
    expected_count: int | None
    #: One sentence for each thing found wrong.
    damages: tuple[str, ...]
    #: Why it cannot be read now, damaged or not; "" when it can.
    trouble: str = ""


class SlotReport(NamedTuple):
    """What is in one slot."""

    folder: Path
    #: A process has it; then ``journals`` is empty.
    is_held: bool
    #: Of the last claim; 0 and "" when that cannot be told.
    pid: int
    node: str
    #: Without those that hold nothing and are whole.
    journals: tuple[JournalReport, ...]
    #: Copies of damaged journals that were salvaged.
    kept_aside: tuple[Path, ...]

    @property
    def is_damaged(self) -> bool:
        """Is there anything to salvage?"""
        return any(journal.damages for journal in self.journals)

    @property
    def trouble(self) -> str:
        """Why a journal cannot be read now."""
        return next((journal.trouble for journal in self.journals if journal.trouble), "")


def slot_folders(folder: Path) -> list[Path]:
    """All slots in a folder of slots, by their number.

    Raises:
        JournalError: it cannot be read.
    """
    try:
        return [folder / str(number) for number in slot_numbers(folder)]
    except OSError as exc:
        raise os_error(folder, exc) from exc


def look_into(slot: Path) -> SlotReport:
    """What is in the slot that lies in this folder: every task is read.

    Raises:
        JournalError: there is no such slot, or it cannot be looked at.
    """
    with _locked(slot) as is_ours:
        last = identity_of(slot)
        reports: list[JournalReport] = []
        for path in journals_in(slot) if is_ours else ():
            report = _read(path)
            if report.open_count or report.damages or report.trouble:
                reports.append(report)
        return SlotReport(
            slot,
            is_held=not is_ours,
            pid=last.pid if last is not None else 0,
            node=last.node if last is not None else "",
            journals=tuple(reports),
            kept_aside=tuple(salvage.kept_aside(slot)),
        )


def mend(slot: Path) -> list[tuple[JournalReport, Salvaged]]:
    """Salvage the damaged journals of a slot: what was found, and what was done. What could
    be saved is in the slot again, for whoever adopts it.

    Raises:
        ConfigError: a newer version wrote one.
        JournalError: there is no such slot, a process holds it, or it could not be done.
    """
    with _locked(slot) as is_ours:
        if not is_ours:
            raise JournalError(held_error(slot))
        done = []
        for path in journals_in(slot):
            report = _read(path)
            if report.trouble:
                raise JournalError(report.trouble)
            if report.damages:
                done.append((report, salvage.salvage(path)))
        return done


def held_error(slot: Path) -> str:
    """What to say when a slot is in use."""
    last = identity_of(slot)
    holder = f"process {last.pid}" if last is not None and last.pid else "a process"
    return f"journal {slot} is in use by {holder}: end that one first"


@contextlib.contextmanager
def _locked(slot: Path) -> Iterator[bool]:
    """Is the slot ours as long as this lasts? False: another process has it."""
    try:
        # Or any folder would become one because somebody asks about it.
        if not is_slot(slot):
            raise JournalError(f"there is no journal {slot} (zmqtasks journal list)")
        fd = lock_slot(slot)
    except OSError as exc:
        raise os_error(slot, exc) from exc
    try:
        yield fd >= 0
    finally:
        if fd >= 0:
            os.close(fd)


def _read(path: Path) -> JournalReport:
    try:
        found = salvage.examine(path)
    except (ConfigError, JournalError) as exc:
        return JournalReport(path, None, {}, None, (), str(exc))
    hands = Counter(_hands_of(record) for record in found.records)
    return JournalReport(path, len(found.records), dict(hands), found.expected_count, found.damages)


def _hands_of(record: OwnedRecord) -> str:
    try:
        custodian = parse_mark(record.mark)
    except ValueError:
        return "unknown"
    if isinstance(custodian, Incoming):
        return "offered"
    if isinstance(custodian, Given):
        return "given"
    if isinstance(custodian, Ended):
        return "ended"
    return "dead" if isinstance(custodian, Dead) else "owned"
