"""A journal whose disk loses its power: what had been synced is there, nothing else is wrong.

``python -m tests.chaos.journal_power work FOLDER TRACE COMMITS SEED``, with
``tests/support/faulty_disk.c`` preloaded, makes commits and writes down all that reaches
the disk, in TRACE. It sees to it that each synced commit returns only when nothing of it is
unsynced. The same numbers make the same commits. Now and then a call fails.

``python -m tests.chaos.journal_power look FOLDER TRACE COMMITS SEED LOSSES``, with the same
numbers, makes of the trace what a disk may hold whose power failed somewhere in it: what
was synced, and of the rest any part, down to single sectors. It opens that as a journal and
sees to it that what is found is what was promised.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.support.faulty_disk import FaultyDisk, Step, read_trace
from zmqtasks.core.owned import OwnedRecord, Progress, given_to, incoming_from, merged
from zmqtasks.errors import JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals import sqlite, sqlite_log
from zmqtasks.journals.sqlite import SqliteJournal
from zmqtasks.testing.journal_contract import owned

_SECTOR_BYTES = 512
#: Limits of a journal for which a checkpoint comes after a few commits already, as pages of
#: the log, and pages are given back as soon as most are unused.
_SMALL = {
    (sqlite_log, "JOURNAL_CHECKPOINT_PAGES"): 40,
    (sqlite, "JOURNAL_SHRINK_COMMITS"): 2,
    (sqlite, "JOURNAL_FREE_PAGES_MAX"): 10,
    (sqlite, "JOURNAL_CLOSED_FREE_PAGES_MAX"): 0,
    (sqlite, "JOURNAL_REWRITE_PAGES_MAX"): 40,
}
#: A call fails in this part of the commits.
_FAILING_PART = 0.05
#: The journal is closed and opened again after so many commits.
_REOPEN_EVERY = 150


class Commit(NamedTuple):
    """One commit."""

    puts: list[OwnedRecord]
    progress: list[Progress]
    drops: list[bytes]
    sync: bool

    def apply(self, held: dict[bytes, OwnedRecord]) -> dict[bytes, OwnedRecord]:
        """What is held after it, as a copy."""
        after = dict(held)
        for record in self.puts:
            after.setdefault(record.id, record)
        for change in merged(self.progress).values():
            if change.id in after:
                mark = after[change.id].mark if change.mark is None else change.mark
                after[change.id] = msgspec.structs.replace(
                    after[change.id], attempt=change.attempt, strikes=change.strikes, mark=mark
                )
        for dropped in self.drops:
            after.pop(dropped, None)
        return after


# --- the program ------------------------------------------------------------------------------


def make_commits(count: int, seed: int) -> Iterator[Commit]:
    """An owner's life: about thirty tasks are open, and now and then but a few."""
    choice = random.Random(seed)
    open_ids: list[bytes] = []
    number = 0
    for turn in range(count):
        most = 30 if turn % 40 < 30 else 3
        puts = []
        for _ in range(choice.choice((0, 1, 1, 1, 2, 7))):
            number += 1
            body = choice.randbytes(choice.choice((10, 200, 200, 3_000, 20_000)))
            mark = choice.choice((b"", b"", incoming_from(b"giver")))
            puts.append(owned(number, body=body, mark=mark))
        progress = [
            Progress(task, choice.randint(2, 9), 1, choice.choice((None, b"", given_to(b"taker"))))
            for task in choice.sample(open_ids, min(len(open_ids), choice.choice((0, 0, 1, 4))))
        ]
        open_ids += [record.id for record in puts]
        choice.shuffle(open_ids)
        drops, open_ids = open_ids[most:], open_ids[:most]
        yield Commit(puts, progress, drops, sync=choice.random() < 0.5)


def note_of(number: int, what: int) -> int:
    """How the trace says that a commit begins, returned, or is certainly not there."""
    return 3 * number + what


BEGUN, RETURNED, REFUSED = range(3)


def is_open(journal: SqliteJournal) -> bool:
    """Opened just now, as far as the disk allows; damage is no answer to its failures."""
    try:
        journal.open()
    except JournalCorrupt:
        raise
    except JournalError:
        return False
    return True


class _Watched(SqliteJournal):
    """Whether anything of a commit was unsynced before pages were given back after it, which
    may fail without harm."""

    def __init__(self, folder: Path, disk: FaultyDisk) -> None:
        super().__init__(folder)
        self.disk = disk
        self.were_dirty: list[bool] = []

    def _shrink(self, db: sqlite3.Connection, unused_max: int) -> bool:
        self.were_dirty.append(self.disk.is_dirty("tasks.db-wal"))
        return super()._shrink(db, unused_max)


def work(folder: Path, trace: Path, count: int, seed: int) -> None:
    """Make the commits."""
    for (module, name), value in _SMALL.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    disk = FaultyDisk()
    disk.trace(trace)
    journal = _Watched(folder, disk)
    journal.open()
    commits = list(make_commits(count, seed))
    choice = random.Random(seed)
    unsynced = failed = 0
    for number, commit in enumerate(commits):
        if number % _REOPEN_EVERY == _REOPEN_EVERY - 1:
            with contextlib.suppress(JournalError):
                journal.close()
            while not is_open(journal):
                failed += 1
        if choice.random() < _FAILING_PART:
            disk.fail_sync(choice.randint(1, 3))
        elif choice.random() < _FAILING_PART:
            disk.fail(choice.randint(1, 12), choice.choice((errno.EIO, errno.ENOSPC)))
        # Most that fail are tried again, some are left and others come after them.
        tries = choice.choice((1, 3, 3, 3))
        while tries:
            tries -= 1
            syncs = disk.syncs
            journal.were_dirty.clear()
            disk.note(note_of(number, BEGUN))
            try:
                journal.commit(commit.puts, commit.progress, commit.drops, sync=commit.sync)
            except JournalError as exc:
                failed += 1
                if isinstance(exc, JournalFull):
                    disk.note(note_of(number, REFUSED))
                continue
            disk.note(note_of(number, RETURNED))
            if commit.sync and any(commit[:3]):
                were_dirty = journal.were_dirty or [disk.is_dirty("tasks.db-wal")]
                assert not any(were_dirty), f"commit {number} returned unsynced"
            elif not commit.sync:
                unsynced += disk.syncs == syncs
            break
        assert not disk.broken_rule, f"commit {number}: {disk.broken_rule}"
        disk.work()
    # What need not be synced is not, but where a checkpoint comes, as it often does here.
    assert unsynced * 4 > sum(not commit.sync for commit in commits), unsynced
    print(f"{failed} commits failed")


# --- what a power loss leaves -----------------------------------------------------------------


class _Pending:
    """A change of a file, and what is known of it."""

    def __init__(self, step: Step) -> None:
        self.step = step
        #: It is on the disk.
        self.is_synced = False
        #: A sync of it failed: whether it is on the disk is not known, and stays so.
        self.is_forgotten = False


class _File:
    """A file on the disk: what is there for sure, and what may be."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[_Pending] = []

    def sync(self, *, failed: bool) -> None:
        for change in self.pending:
            if failed:
                change.is_forgotten |= not change.is_synced
            else:
                change.is_synced |= not change.is_forgotten
        self._settle()

    def _settle(self) -> None:
        """What is on the disk for sure, and what went before it at the same place."""
        later: set[tuple[int, int]] = set()
        left: list[_Pending] = []
        for change in reversed(self.pending):
            step = change.step
            at, end = step.at, step.at + len(step.data)
            if change.is_forgotten and any(a <= at and end <= b for a, b in later):
                continue
            left.append(change)
            if change.is_synced and step.op == "W":
                later.add((at, end))
            elif change.is_synced and step.op == "T" and not at:
                self.durable.clear()
                break
        left.reverse()
        while left and left[0].is_synced:
            _apply(self.durable, left.pop(0).step)
        self.pending = left

    def image(self, choice: random.Random) -> bytes:
        """One of the contents that it may have."""
        content = bytearray(self.durable)
        # Some disks lose nearly all of it, others nearly nothing.
        kept = choice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for change in self.pending:
            step = change.step
            if change.is_synced or step.op != "W":
                if change.is_synced or choice.random() < kept:
                    _apply(content, step)
                continue
            start = 0
            while start < len(step.data):
                end = min(len(step.data), start + _SECTOR_BYTES - (step.at + start) % _SECTOR_BYTES)
                if choice.random() < kept:
                    _apply(content, Step("W", 0, step.at + start, step.data[start:end]))
                start = end
        return bytes(content)


def _apply(content: bytearray, step: Step) -> None:
    if step.op == "T":
        del content[step.at :]
    if len(content) < step.at:
        content.extend(bytes(step.at - len(content)))
    if step.op == "W":
        content[step.at : step.at + len(step.data)] = step.data


class _Disk:
    """All files of a trace, and the names that they have."""

    def __init__(self) -> None:
        self.paths: dict[int, str] = {}
        #: {path: file}, as the process sees it.
        self.files: dict[str, _File] = {}
        #: {path: file}, as it is on the disk for sure, and what came since, in order.
        self.names: dict[str, _File] = {}
        self.renamed: list[tuple[str, _File | None]] = []

    def follow(self, step: Step) -> None:
        """What the process did next."""
        path = self.paths.get(step.file, "")
        if step.op == "F":
            self.paths[step.file] = step.data.decode()
        elif step.op == "C":
            self.files[path] = _File()
            self.renamed.append((path, self.files[path]))
        elif step.op == "U":
            del self.files[path]
            self.renamed.append((path, None))
        elif step.op == "X":
            if path in self.files:
                self.files[path].sync(failed=True)
        elif step.op == "S":
            if path in self.files:
                self.files[path].sync(failed=False)
            # Syncing a folder settles the names in it.
            left = []
            for name, file in self.renamed:
                if str(Path(name).parent) == path:
                    self._settle(self.names, name, file)
                else:
                    left.append((name, file))
            self.renamed = left
        elif step.op in "WTA" and path in self.files:
            self.files[path].pending.append(_Pending(step))
        else:
            assert step.op == "N", step

    @staticmethod
    def _settle(names: dict[str, _File], name: str, file: _File | None) -> None:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file

    def image(self, choice: random.Random) -> dict[str, bytes]:
        """{path: content}, one of those that it may have."""
        names = dict(self.names)
        for name, file in self.renamed[: choice.randint(0, len(self.renamed))]:
            self._settle(names, name, file)
        return {name: file.image(choice) for name, file in names.items()}


class Image(NamedTuple):
    """What a disk may hold after its power failed."""

    files: dict[str, bytes]
    #: Commits that returned, in order; the first so many of them are there for sure.
    done: list[int]
    surely: int
    #: Those that failed since the last one returned, and the one that is under way: one of
    #: them may be there, if all of ``done`` is.
    doubtful: list[int]


def images(
    trace: Path, commits: list[Commit], moments: Iterable[int], choice: random.Random
) -> Iterator[Image]:
    """One image for each of these moments, as numbers of steps."""
    disk = _Disk()
    wanted = sorted(moments)
    done: list[int] = []
    doubtful: list[int] = []
    surely = 0
    for count, step in enumerate(read_trace(trace)):
        while wanted and wanted[0] == count:
            wanted.pop(0)
            yield Image(disk.image(choice), list(done), surely, list(doubtful))
        if step.op == "N":
            number, what = divmod(step.at, 3)
            if what == BEGUN:
                doubtful.append(number)
            elif what == RETURNED:
                done.append(number)
                doubtful.clear()
                if commits[number].sync:
                    surely = len(done)
            else:
                doubtful.remove(number)
        disk.follow(step)


# --- looking at it ----------------------------------------------------------------------------


class States:
    """What is held after the first n commits that returned, for growing n."""

    def __init__(self, commits: list[Commit]) -> None:
        self._commits = commits
        self._known: dict[int, dict[bytes, OwnedRecord]] = {0: {}}

    def allowed(self, image: Image) -> list[list[OwnedRecord]]:
        """What may be found."""
        known, last = self._known, len(image.done)
        for count in range(max(known) + 1, last + 1):
            known[count] = self._commits[image.done[count - 1]].apply(known[count - 1])
        for count in [count for count in known if count < image.surely]:
            del known[count]
        states = [known[count] for count in range(image.surely, last + 1)]
        states += [self._commits[number].apply(known[last]) for number in image.doubtful]
        return [list(state.values()) for state in states]


def content_of(image: Image, folder: Path, place: Path) -> list[OwnedRecord]:
    """What a journal has that is opened on such a disk."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path, content in image.files.items():
        # Its name is to be there as well.
        if Path(path).parent == folder and str(folder) in image.files:
            (place / Path(path).name).write_bytes(content)
    journal = SqliteJournal(place)
    journal.open()
    try:
        return list(journal.load())
    finally:
        journal.close()


def look(folder: Path, trace: Path, count: int, seed: int, losses: int) -> None:
    """Let the power fail so many times, each time from the beginning."""
    commits = list(make_commits(count, seed))
    choice = random.Random(seed)
    ops = "".join(step.op for step in read_trace(trace))
    # Half of them soon after a sync that failed, where there is most to go wrong.
    failed = [number for number, op in enumerate(ops) if op == "X"]
    moments = [choice.randrange(len(ops)) for _ in range(losses // 2)]
    moments += [choice.choice(failed) + choice.randrange(1, 60) for _ in range(losses // 2)]
    states = States(commits)
    for image in images(trace, commits, moments, choice):
        found = content_of(image, folder, folder.with_name("after"))
        assert found in states.allowed(image), (
            f"neither what {image.surely} to {len(image.done)} commits made, nor one of "
            f"{image.doubtful} after those"
        )
    print(f"{count} commits in {len(ops)} steps, {losses} power losses")


def main() -> None:
    """See the module."""
    mode, folder, trace, *numbers = sys.argv[1:]
    if mode == "work":
        work(Path(folder), Path(trace), *map(int, numbers))
    else:
        look(Path(folder), Path(trace), *map(int, numbers))


if __name__ == "__main__":
    main()
