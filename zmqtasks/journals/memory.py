"""Journals in memory, on a disk with the faults of one: for tests and the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from zmqtasks.core.marks import merged_record
from zmqtasks.core.owned import OwnedRecord, Progress, changed_record
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.limits import JOURNAL_INHERIT_TASKS


class _Change(NamedTuple):
    """A commit."""

    puts: dict[bytes, OwnedRecord]
    progress: Sequence[Progress]
    drops: Sequence[bytes]

    def apply(self, held: dict[bytes, OwnedRecord]) -> None:
        for task_id, record in self.puts.items():
            held.setdefault(task_id, record)
        for change in self.progress:
            known = held.get(change.id)
            if known is not None:
                held[change.id] = changed_record(known, change)
        for task_id in self.drops:
            held.pop(task_id, None)


class _Content:
    """What is in one journal."""

    def __init__(self) -> None:
        #: {task id: task} in the order first put: what a killed process leaves behind.
        self.written: dict[bytes, OwnedRecord] = {}
        #: The same as of the last sync, and the commits since then.
        self.synced: dict[bytes, OwnedRecord] = {}
        self.unsynced: list[_Change] = []
        #: A commit that failed, and is on the disk all the same.
        self.doubtful: _Change | None = None

    def commit(self, change: _Change, *, sync: bool) -> None:
        change.apply(self.written)
        self.unsynced.append(change)
        # One that comes after a failed one undoes that first.
        self.doubtful = None
        if sync:
            self.sync()

    def sync(self) -> None:
        for change in self.unsynced:
            change.apply(self.synced)
        self.unsynced.clear()

    def settle_doubt(self) -> None:
        """Whoever opens it finds what is on the disk."""
        if self.doubtful is not None:
            self.commit(self.doubtful, sync=False)

    def cut(self, kept_count: int) -> _Content:
        """What is left when only so many of the commits since the last sync are."""
        left = _Content()
        left.synced = dict(self.synced)
        left.unsynced = self.unsynced[:kept_count]
        left.sync()
        left.written = dict(left.synced)
        if kept_count >= len(self.unsynced):
            left.doubtful = self.doubtful
        return left


class MemoryDisk:
    """The journals of one imagined host, and the faults that its disk can have.

    Nothing here goes by chance or by a clock: each fault comes when it is called for.

    * A *killed process* needs no call: forget its ``MemoryJournal`` without closing it, and
      open another one for the same folder.
    * *Power loss*: :meth:`lose_unsynced`, for all journals of the disk at once; then open
      new ones. Those of before write to nowhere.
    * *A full disk*: set ``bytes_max``; set it to None when there is room again.
    * *A failing disk*: :meth:`fail_commits`.
    """

    def __init__(self) -> None:
        #: {folder: content}.
        self.contents: dict[Path, _Content] = {}
        #: Bytes of arguments and marks that it can hold, None: without end. Past it new
        #: tasks are refused with ``JournalFull``; progress and drops always pass.
        self.bytes_max: int | None = None
        self._failures = 0
        self._failures_last = False

    def lose_unsynced(self, kept_count: Callable[[int], int] = lambda count: 0) -> None:
        """The power fails: each journal is as it was at its last sync, or a little later.

        Args:
            kept_count: given the number of commits since the last sync, for each journal
                that has any, says how many of them had reached the disk: the first ones.
                The one after those was torn, and is cut off.
        """
        self.contents = {
            folder: content.cut(kept_count(len(content.unsynced)) if content.unsynced else 0)
            for folder, content in self.contents.items()
        }

    def fail_commits(self, count: int, *, on_disk: bool = False) -> None:
        """The next commits fail with ``JournalError``, whosever they are; so do pieces of
        ``inherit``, which then change nothing. A commit that changes nothing, has nothing to
        sync and no failed commit to undo does not touch the disk and so does not fail.

        Args:
            count: of commits; replaces what is left of an earlier call. 0: the disk works.
            on_disk: what failed is on the disk all the same: whoever opens the journal
                before the next commit on it succeeds finds it done, also after a power
                loss if the commits before it are kept. Whoever has it open never sees it.
        """
        self._failures = count
        self._failures_last = on_disk

    def used_bytes(self) -> int:
        """Bytes of arguments and marks that it holds."""
        return sum(
            _size(record)
            for content in self.contents.values()
            for record in content.written.values()
        )

    def _fails(self) -> bool:
        if not self._failures:
            return False
        self._failures -= 1
        return True


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
        if self._content is None:
            self._content = self._disk.contents.setdefault(self._folder, _Content())
            self._content.settle_doubt()

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
        unwanted = set(drops)
        fresh: dict[bytes, OwnedRecord] = {}
        for record in puts:
            if record.id not in content.written and record.id not in unwanted:
                fresh.setdefault(record.id, record)
        change = _Change(fresh, tuple(progress), tuple(drops))
        self._need_room(sum(_size(record) for record in fresh.values()))
        if not (any(change) or content.doubtful or (sync and content.unsynced)):
            return
        if self._disk._fails():
            if self._disk._failures_last:
                content.doubtful = change
            raise self._failed()
        content.commit(change, sync=sync)

    def inherit(self, folder: Path) -> Iterator[list[OwnedRecord]]:
        """See ``Journal.inherit``. Here a task is in one of the two, never in both."""
        self._checked()
        source = self._disk.contents.get(folder)
        if source is not None:
            source.settle_doubt()
        while source is not None and source.written:
            piece = list(source.written.values())[:JOURNAL_INHERIT_TASKS]
            content = self._checked()
            if self._disk._fails():
                raise self._failed()
            ids = [record.id for record in piece]
            both = [
                merged_record(content.written[record.id], record)
                for record in piece
                if record.id in content.written
            ]
            content.commit(_Change({record.id: record for record in piece}, both, ()), sync=True)
            source.commit(_Change({}, (), ids), sync=True)
            yield piece
        self._disk.contents.pop(folder, None)

    def close(self) -> None:
        """See ``Journal.close``."""
        content, self._content = self._content, None
        if content is not None and content.doubtful is None:
            content.sync()

    def _checked(self) -> _Content:
        if self._content is None:
            raise JournalError(f"journal {self._folder} is not open")
        return self._content

    def _failed(self) -> JournalError:
        return JournalError(f"journal {self._folder}: its disk fails, as it was told to")

    def _need_room(self, need: int) -> None:
        limit = self._disk.bytes_max
        if need and limit is not None and self._disk.used_bytes() + need > limit:
            raise JournalFull(f"journal {self._folder}: its disk holds {limit} bytes at most")


def _size(record: OwnedRecord) -> int:
    return len(record.body) + len(record.mark)
