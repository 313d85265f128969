"""Journals in memory, on a disk that can lose what was not synced: for tests and the simulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from zmqtasks.core.owned import OwnedRecord, Progress
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.limits import JOURNAL_INHERIT_TASKS


class _Content:
    """What is in one journal."""

    def __init__(self) -> None:
        #: {task id: task} in the order first put: what a killed process leaves behind.
        self.written: dict[bytes, OwnedRecord] = {}
        #: The same as of the last sync: what a power loss leaves behind.
        self.synced: dict[bytes, OwnedRecord] = {}


class MemoryDisk:
    """The journals of one imagined host. All of its methods are the faults that it can have."""

    def __init__(self) -> None:
        #: {folder: content}.
        self.contents: dict[Path, _Content] = {}
        #: Bytes of arguments that it can hold, None: without end.
        self.bytes_max: int | None = None

    def lose_unsynced(self) -> None:
        """The power fails: every journal is as it was at its last sync."""
        for content in self.contents.values():
            content.written = dict(content.synced)

    def used_bytes(self) -> int:
        """Bytes of arguments that it holds."""
        return sum(
            len(record.body)
            for content in self.contents.values()
            for record in content.written.values()
        )


class MemoryJournal:
    """Implements ``Journal``; its content lasts as long as the disk given to it."""

    def __init__(self, folder: Path, disk: MemoryDisk) -> None:
        """Make no change to the disk yet.

        Args:
            folder: the name of the journal; no file is made.
            disk: where its content is.
        """
        self._folder = folder
        self._disk = disk
        self._content: _Content | None = None

    def open(self) -> None:
        """See ``Journal.open``."""
        self._content = self._disk.contents.setdefault(self._folder, _Content())

    def load(self) -> Iterator[OwnedRecord]:
        """See ``Journal.load``."""
        yield from list(self._checked().written.values())

    def commit(
        self,
        puts: Sequence[OwnedRecord] = (),
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> None:
        """See ``Journal.commit``."""
        content = self._checked()
        held = content.written
        unwanted = set(drops)
        fresh: dict[bytes, OwnedRecord] = {}
        for record in puts:
            if record.id not in held and record.id not in unwanted:
                fresh.setdefault(record.id, record)
        self._need_room(sum(len(record.body) for record in fresh.values()))
        held.update(fresh)
        for task_id, attempt, strikes, mark in progress:
            known = held.get(task_id)
            if known is not None:
                held[task_id] = msgspec.structs.replace(
                    known,
                    attempt=attempt,
                    strikes=strikes,
                    mark=known.mark if mark is None else mark,
                )
        for task_id in drops:
            held.pop(task_id, None)
        if sync:
            content.synced = dict(held)

    def inherit(self, folder: Path) -> Iterator[list[OwnedRecord]]:
        """See ``Journal.inherit``. Here a task is in one of the two, never in both."""
        self._checked()
        source = self._disk.contents.get(folder)
        while source is not None and source.written:
            piece = list(source.written.values())[:JOURNAL_INHERIT_TASKS]
            content = self._checked()
            for record in piece:
                content.written.setdefault(record.id, record)
                del source.written[record.id]
            content.synced = dict(content.written)
            source.synced = dict(source.written)
            yield piece
        self._disk.contents.pop(folder, None)

    def close(self) -> None:
        """See ``Journal.close``."""
        content, self._content = self._content, None
        if content is not None:
            content.synced = dict(content.written)

    def _checked(self) -> _Content:
        if self._content is None:
            raise JournalError(f"journal {self._folder} is not open")
        return self._content

    def _need_room(self, need: int) -> None:
        limit = self._disk.bytes_max
        if need and limit is not None and self._disk.used_bytes() + need > limit:
            raise JournalFull(f"journal {self._folder}: its disk holds {limit} bytes at most")
