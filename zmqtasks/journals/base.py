"""The contract of a journal: a folder that holds the open tasks of one owner.

``zmqtasks.testing.JournalContract`` says in tests what is said here in words.

A journal has one user at a time, who sees to that by the lock of its slot
(``journals/slots.py``), and its methods are called by one thread at a time. They block.

What a commit survives:

=====================  ==========================  ==========================
commit                 the process is killed       the power fails
=====================  ==========================  ==========================
``sync=True``          kept                        kept, with all before it
``sync=False``         kept                        may be lost, the last ones
                                                   first
=====================  ==========================  ==========================

Damage is reported, never passed over: what comes out is what went in, all of it, or
:class:`zmqtasks.errors.JournalCorrupt` says what is missing. The only thing that is cut
off in silence is the torn end of commits that were not synced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from zmqtasks.core.owned import OwnedRecord, Progress


class Journal(Protocol):
    """Keeps open tasks. Every method may raise ``JournalError``; after one that is no
    ``JournalCorrupt`` the same call may be tried again, on the same journal."""

    def open(self) -> None:
        """Open it, and make it when it is missing; on an open journal it does nothing.

        Raises:
            ConfigError: it can never be used here (a newer version wrote it).
            JournalCorrupt: it is damaged, or what was synced is missing.
            JournalFull: it is new and has no room.
        """

    def load(self) -> Iterator[OwnedRecord]:
        """All open tasks in the order in which they were first put.

        To be used up before the next commit. Nothing may be done with the tasks before
        the iterator has ended, since it may still find damage.

        Raises:
            JournalCorrupt: a record or its place is damaged.
        """

    def commit(
        self,
        puts: Sequence[OwnedRecord] = (),
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> None:
        """Put tasks, then note progress, then drop tasks: all of it or nothing.

        An id that is held already is not put again: what was put first stands. Progress
        and drops of ids that are not held are nothing; so an id may be put and dropped
        at once. A commit without puts needs no room on the disk as long as others leave
        the little that the journal has set aside.

        Args:
            puts: tasks to hold from now on; not changed later by the caller.
            progress: new attempts, strikes and marks, and what else is new; of several for
                one task the last counts, of marks, facts and arguments the last one given.
                A mark has at most ``JOURNAL_MARK_BYTES_MAX`` bytes and means nothing to
                the journal.
            drops: ids of tasks that are held no longer.
            sync: this commit and all before it survive a power loss.

        Raises:
            JournalFull: no room on the disk. Certain: nothing of it is in the journal.
            JournalError: the disk failed. Uncertain: until the next commit succeeds, a
                restart may find it done.
        """

    def inherit(self, folder: Path) -> Iterator[list[OwnedRecord]]:
        """Take over all tasks of another journal, which nobody else uses, piece by piece.

        Each piece was synced before it is given; the other journal is removed before the
        iterator ends. Commits may come between two pieces. Given up or killed at any
        moment and begun again, it goes on with what is left: no task comes twice, even
        if it was dropped here in the meantime, and none is left out. A task that is held
        here already comes in its piece too; what the two journals say of it is merged in
        the same commit, as ``core.marks.merged_record`` has it.

        Args:
            folder: the other journal, of the same kind as this one. One that does not
                exist has been taken over.

        Raises:
            JournalCorrupt: the other one is damaged; what was not given yet is left as
                it is.
        """

    def close(self) -> None:
        """Sync what was committed and release everything; a second call does nothing.
        Other calls after it raise ``JournalError``."""
