"""What the machines of a node want in its journal, gathered into few writes.

A journal waits for a disk, so whoever puts something there goes on in a callback, once it
is committed. All that comes in during one turn makes at most two writes: new tasks, which
a full disk refuses, and changes of tasks that are there, which it never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias

from zmqtasks.core.effects import Effect, JournalWrite
from zmqtasks.core.owned import OwnedRecord, Progress

#: Called with "" when it is in the journal, else with the reason why it is not.
Then: TypeAlias = Callable[[str], None]

_NO_JOURNAL = "this process has no journal"


class Custody:
    """The journal as machines see it. ``effects`` is drained each turn.

    Args:
        has_journal: False: nothing can be written, and whoever asks is told so.
    """

    def __init__(self, has_journal: bool) -> None:
        self.has_journal = has_journal
        self.effects: list[Effect] = []
        #: {batch: whom to tell}, of all writes that are under way.
        self._waiting: dict[int, list[Then]] = {}
        #: {batch: ids of its new tasks} until it is known whether they are in the journal.
        self._new: dict[int, list[bytes]] = {}
        self._batch = 0
        self._puts: list[OwnedRecord] = []
        self._put_thens: list[Then] = []
        self._puts_sync = False
        self._progress: list[Progress] = []
        self._drops: list[bytes] = []
        self._change_thens: list[Then] = []
        self._changes_sync = False

    # --- what machines ask for ------------------------------------------------------------

    def put(self, records: Sequence[OwnedRecord], then: Then, *, sync: bool) -> None:
        """Hold these tasks from now on.

        Args:
            then: told how it went; a task that is refused is not in the journal.
            sync: they survive a power loss once ``then`` is called.
        """
        if not self.has_journal:
            then(_NO_JOURNAL)
            return
        self._puts += records
        self._put_thens.append(then)
        self._puts_sync |= sync

    def note(self, progress: Sequence[Progress], then: Then | None, *, sync: bool) -> None:
        """Note changes of tasks that are held; never refused."""
        if self.has_journal:
            self._progress += progress
        self._changed(then, sync)

    def drop(self, ids: Sequence[bytes], then: Then | None, *, sync: bool) -> None:
        """Hold these tasks no longer; never refused."""
        if self.has_journal:
            self._drops += ids
        self._changed(then, sync)

    def _changed(self, then: Then | None, sync: bool) -> None:
        if not self.has_journal:
            if then is not None:
                then("")
            return
        if then is not None:
            self._change_thens.append(then)
        self._changes_sync |= sync

    # --- the end of a turn ----------------------------------------------------------------

    def flush(self) -> None:
        """What was asked for in this turn becomes writes."""
        if self._puts or self._put_thens:
            puts, self._puts = self._puts, []
            thens, self._put_thens = self._put_thens, []
            sync, self._puts_sync = self._puts_sync, False
            batch = self._next(thens)
            self._new[batch] = [record.id for record in puts]
            self.effects.append(JournalWrite(batch, puts, [], [], sync))
        if self._progress or self._drops or self._change_thens:
            progress, self._progress = self._progress, []
            drops, self._drops = self._drops, []
            thens, self._change_thens = self._change_thens, []
            sync, self._changes_sync = self._changes_sync, False
            self.effects.append(JournalWrite(self._next(thens), [], progress, drops, sync))

    def _next(self, thens: list[Then]) -> int:
        self._batch += 1
        self._waiting[self._batch] = thens
        return self._batch

    def is_putting(self, ids: Iterable[bytes]) -> bool:
        """Whether one of these comes into the journal is not known yet."""
        new = [record.id for record in self._puts]
        asked = frozenset(ids)
        return any(not asked.isdisjoint(part) for part in (new, *self._new.values()))

    @property
    def is_writing(self) -> bool:
        """Something is under way, or will be at the end of this turn."""
        return bool(
            self._waiting or self._puts or self._progress or self._drops or self._change_thens
        )

    # --- what became of it ----------------------------------------------------------------

    def committed(self, batches: Sequence[int]) -> None:
        """These writes are in the journal."""
        for batch in batches:
            self._new.pop(batch, None)
            for then in self._waiting.pop(batch, ()):
                then("")

    def refused(self, batches: Sequence[int], text: str, *, is_certain: bool) -> None:
        """The new tasks of these writes are not in the journal.

        Args:
            batches: numbers of ``JournalWrite`` effects.
            text: the reason, for people.
            is_certain: False: the disk has failed, and a restart might find them after all.
                Then they are taken out again before anybody hears that they are not there.
        """
        for batch in batches:
            ids = self._new.get(batch, [])
            told = partial(self._refused, batch, self._waiting.pop(batch, []), text)
            if is_certain or not ids:
                told("")
            else:
                self.drop(ids, told, sync=False)

    def _refused(self, batch: int, thens: Sequence[Then], text: str, _done: str) -> None:
        self._new.pop(batch, None)
        for then in thens:
            then(text)
