"""Carries batches of changes from the node's loop into its journal.

A journal waits for a disk, which the loop must not. So a :class:`JournalWriter` runs its
journal in a thread of its own and tells the loop through ``call_soon`` what became of
each batch:

* Batches are committed in the order given. Those that wait are merged into one commit, so
  that one fsync serves many: while the disk is busy, more come together.
* When the disk is full, new tasks are *refused*, with the reason, for the owner to refuse
  them to its caller. What settled or progressed is kept and tried until it is written.
* When the disk fails otherwise, the same is tried a few times before tasks are refused.
* When the journal is damaged, nothing can be relied on any longer: ``broken`` is told once,
  and whatever waits is refused.
* What waits is bounded. Past the bound ``write`` does not take new tasks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from zmqtasks.core.calls import weight
from zmqtasks.core.owned import OwnedRecord, Progress
from zmqtasks.errors import JournalCorrupt, JournalError, JournalFull
from zmqtasks.journals.base import Journal
from zmqtasks.limits import (
    JOURNAL_BACKLOG_BYTES_MAX,
    JOURNAL_BACKLOG_TASKS_MAX,
    JOURNAL_MERGE_BYTES_MAX,
    JOURNAL_MERGE_TASKS_MAX,
    JOURNAL_RETRY_MS_MAX,
    JOURNAL_RETRY_MS_MIN,
    JOURNAL_TRIES,
)

logger = logging.getLogger("zmqtasks.node.journaling")

#: What a task costs beside its body, roughly; bounds a backlog of small tasks.
_TASK_BYTES = 300
#: Given to the journal to close, beyond the time for what waits, seconds.
_CLOSE_GRACE_S = 2.0

#: Called with tasks that are in the own journal now, whether they are the last ones, and
#: "" or why it ended early; then what is left stays where it is.
AdoptCallback: TypeAlias = Callable[[list[OwnedRecord], bool, str], None]


class JournalListener(NamedTuple):
    """What the node's loop wants to hear; all are called on its thread."""

    #: These batches (numbers given to ``write``) are committed, and synced where asked for.
    committed: Callable[[list[int]], None]
    #: The new tasks of these batches are not in the journal: certain with ``JournalFull``;
    #: else a restart may find them. What else was in the batches is written later, untold.
    refused: Callable[[list[int], JournalError], None]
    #: ``write`` or the disk refused since the last call of this, and there is room again;
    #: for a disk, the next batch that could be written is what tells.
    room: Callable[[], None]
    #: The journal is damaged; nothing will be written any more.
    broken: Callable[[JournalError], None]


class JournalOptions(NamedTuple):
    """Bounds and times of a JournalWriter, for all of which there are good defaults."""

    #: For the log.
    name: str = "journal"
    retry_ms_min: int = JOURNAL_RETRY_MS_MIN
    retry_ms_max: int = JOURNAL_RETRY_MS_MAX
    #: How often new tasks are tried on a failing disk before they are refused.
    tries: int = JOURNAL_TRIES
    backlog_tasks_max: int = JOURNAL_BACKLOG_TASKS_MAX
    backlog_bytes_max: int = JOURNAL_BACKLOG_BYTES_MAX


class JournalBacklog(NamedTuple):
    """What is not committed yet, for ``status``."""

    #: New tasks, progress and drops together.
    changes: int
    bytes: int
    #: Why the disk does not take it, "" when it does.
    failing: str


class _Batch:
    """What is still to be written of one call of ``write``."""

    __slots__ = ("bytes", "count", "drops", "number", "progress", "puts", "refused", "sync")

    def __init__(
        self,
        number: int,
        puts: Sequence[OwnedRecord],
        progress: Sequence[Progress],
        drops: Sequence[bytes],
        *,
        sync: bool,
    ) -> None:
        self.number = number
        self.puts = puts
        self.progress = progress
        self.drops = drops
        self.sync = sync
        #: As when it came, for the bounds.
        self.count = len(puts) + len(progress) + len(drops)
        self.bytes = self.count * _TASK_BYTES
        self.bytes += sum(weight(record.body, record.ext) for record in puts)
        self.bytes += sum(len(change.body) for change in progress if change.body)
        self.refused = False


class _Adoption(NamedTuple):
    folder: Path
    callback: AdoptCallback


class _Takeover(NamedTuple):
    """An adoption under way."""

    adoption: _Adoption
    pieces: Iterator[list[OwnedRecord]]


class JournalWriter:
    """One journal, one thread. ``start`` first, or ``open``; all other methods may be called
    from any thread, never block but ``close``, and answer through ``call_soon``."""

    def __init__(
        self,
        journal: Journal,
        call_soon: Callable[..., None],
        listener: JournalListener,
        options: JournalOptions = JournalOptions(),  # noqa: B008 - immutable
    ) -> None:
        """Does no input or output.

        Args:
            journal: not opened; nobody else may use it.
            call_soon: runs a function on the loop's thread; callable from any thread.
            listener: told what became of the batches.
            options: bounds and times.
        """
        self._journal = journal
        self._call_soon = call_soon
        self._listener = listener
        self._options = options
        self._thread: threading.Thread | None = None
        self._takeover: _Takeover | None = None
        #: Failures of the batches under way, one after another.
        self._failures = 0
        #: Told as broken.
        self._is_broken = False
        #: The disk was full when new tasks were tried last.
        self._is_full = False

        #: Guards all below, which both threads use; notified when there is something to do.
        self._changed = threading.Condition(threading.Lock())
        self._batches: deque[_Batch] = deque()
        self._adoptions: deque[_Adoption] = deque()
        #: Of all batches not done yet, also of those under way.
        self._count = 0
        self._bytes = 0
        self._failing = ""
        self._has_refused = False
        self._is_closed = False
        self._close_at_s = 0.0

    def start(self, inherited: Sequence[Path] = ()) -> list[OwnedRecord]:
        """Open the journal and start the thread. Arguments and results as of ``open``."""
        records = self.open(inherited)
        self._thread = threading.Thread(target=self._run, name="zmqtasks-journal", daemon=True)
        self._thread.start()
        return records

    def open(self, inherited: Sequence[Path] = ()) -> list[OwnedRecord]:
        """Open the journal and read it; blocks until that is done. ``serve`` follows, in the
        same thread.

        Args:
            inherited: journals to take over first (``Slot.inherited``): those that a
                process with this slot had not finished taking over.

        Returns:
            All tasks in it, which this node owns.

        Raises:
            ConfigError, JournalError: as ``Journal.open`` and ``load``; then nothing runs.
        """
        self._journal.open()
        try:
            for folder in inherited:
                for _ in self._journal.inherit(folder):
                    pass
            records = list(self._journal.load())
        except BaseException:
            with suppress(JournalError):
                self._journal.close()
            raise
        self._thread = threading.current_thread()
        return records

    def serve(self) -> None:
        """Be the writer's thread until it is closed."""
        self._run()

    def write(
        self,
        batch_no: int,
        puts: Sequence[OwnedRecord] = (),
        progress: Sequence[Progress] = (),
        drops: Sequence[bytes] = (),
        *,
        sync: bool,
    ) -> bool:
        """Write a batch, with the meaning of ``Journal.commit``.

        ``listener.committed`` gets its number when all of it is in the journal, or
        ``listener.refused`` when its new tasks are not.

        Returns:
            False when the batch was not taken: it has new tasks and too much waits already
            (then ``listener.room`` follows), or the writer is closed or broken.
        """
        options = self._options
        batch = _Batch(batch_no, puts, progress, drops, sync=sync)
        with self._changed:
            if self._is_closed:
                return False
            # One that is over the bounds all by itself passes when nothing else waits. What
            # settles is bounded by what is open, and must not be lost.
            is_full = self._count > 0 and (
                self._count + batch.count > options.backlog_tasks_max
                or self._bytes + batch.bytes > options.backlog_bytes_max
            )
            if is_full and puts:
                self._has_refused = True
                return False
            self._batches.append(batch)
            self._count += batch.count
            self._bytes += batch.bytes
            self._changed.notify()
        return True

    def adopt(self, folder: Path, callback: AdoptCallback) -> bool:
        """Take over another journal, which lies in this one's slot (``take_over`` has put
        it there), piece by piece between the batches.

        Returns:
            False when the writer is closed or broken.
        """
        with self._changed:
            if self._is_closed:
                return False
            self._adoptions.append(_Adoption(folder, callback))
            self._changed.notify()
        return True

    def backlog(self) -> JournalBacklog:
        """What waits, and why."""
        with self._changed:
            return JournalBacklog(self._count, self._bytes, self._failing)

    def close(self, timeout_s: float) -> int:
        """Write what waits, sync, close the journal and end the thread; blocks for that long.

        The listener is still told of what got written, if the loop runs on.

        Args:
            timeout_s: how long to try on a disk that fails.

        Returns:
            How many changes could not be written.
        """
        with self._changed:
            if not self._is_closed:
                self._is_closed = True
                self._close_at_s = time.monotonic() + timeout_s
            self._changed.notify()
        if self._thread is None:
            return 0
        self._thread.join(timeout_s + _CLOSE_GRACE_S)
        return self.backlog().changes

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as exc:
            logger.critical("journal.stopped journal=%s", self._options.name, exc_info=exc)
            self._break(JournalError(f"{self._options.name} stopped by an error in its writer"))
        finally:
            self._end_adoptions(f"{self._options.name} is closed")
            with suppress(JournalError):
                # Syncs what was only written.
                self._journal.close()

    def _turn(self) -> bool:
        """One commit and one piece to take over; False: end."""
        group = self._take_group()
        if group:
            self._carry_out(group)
        if self._takeover is not None or self._next_takeover():
            self._take_piece()
        elif not group:
            return self._wait()
        return True

    def _wait(self) -> bool:
        """Until there is something to do; False: closed, and nothing is left."""
        with self._changed:
            while not self._batches and not self._adoptions:
                if self._is_closed:
                    return False
                self._changed.wait()
        return True

    def _take_group(self) -> list[_Batch]:
        """The first batches that can be committed together; none when nothing waits."""
        group: list[_Batch] = []
        count = size = 0
        gone: set[bytes] = set()
        with self._changed:
            while self._batches:
                batch = self._batches[0]
                count += batch.count
                size += batch.bytes
                if group and (
                    count > JOURNAL_MERGE_TASKS_MAX
                    or size > JOURNAL_MERGE_BYTES_MAX
                    # A commit puts before it drops, so what comes back has to wait.
                    or (gone and any(record.id in gone for record in batch.puts))
                ):
                    break
                gone.update(batch.drops)
                group.append(self._batches.popleft())
        return group

    def _carry_out(self, group: list[_Batch]) -> None:
        """Commit a group, or settle what cannot be; what is left goes back to the front."""
        error: JournalError | None = None
        # Whether a full disk has room again, only new tasks can tell.
        is_telling = not self._is_full or any(batch.puts for batch in group)
        try:
            try:
                self._commit(group)
            except JournalFull as exc:
                error = exc
                self._failures += 1
                self._carry_out_apart(group)
        except JournalCorrupt as exc:
            self._put_back(group)
            self._break(exc)
            return
        except JournalError as exc:
            error = exc
            self._failures += 1
            if self._failures >= self._options.tries:
                self._refuse([batch for batch in group if batch.puts], exc)
        # One that has nothing (left) to write is done when all before it are.
        done: list[_Batch] = []
        left: list[_Batch] = []
        for batch in group:
            is_written = not (batch.puts or batch.progress or batch.drops)
            (done if is_written and not (left and error is not None) else left).append(batch)
        if error is not None:
            self._is_full = isinstance(error, JournalFull)
            self._note_failure(error)
        self._put_back(left)
        self._note_done(done, is_well=error is None and is_telling)
        if left:
            # Whether there is room may differ for what comes; whether the disk works not.
            self._pause(len(left) if isinstance(error, JournalFull) else None)

    def _commit(self, group: Sequence[_Batch], *, puts: bool = True) -> None:
        """One commit of all, or of all but the new tasks."""
        self._journal.commit(
            [record for batch in group for record in batch.puts] if puts else (),
            [change for batch in group for change in batch.progress],
            [task_id for batch in group for task_id in batch.drops],
            sync=any(batch.sync for batch in group),
        )
        for batch in group:
            batch.progress = batch.drops = ()
            if puts:
                batch.puts = ()

    def _carry_out_apart(self, group: list[_Batch]) -> None:
        """There is no room for all: first what makes room, then one batch after another, so
        that a large one does not take small ones with it."""
        # Both may be about new tasks of the same group, whose turn comes after them here.
        progress = [change for batch in group for change in batch.progress]
        gone = {task_id for batch in group for task_id in batch.drops}
        with suppress(JournalFull):
            self._commit([batch for batch in group if batch.progress or batch.drops], puts=False)
        for batch in group:
            puts = [record for record in batch.puts if record.id not in gone]
            try:
                if puts:
                    self._journal.commit(puts, progress, sync=batch.sync)
            except JournalFull as exc:
                self._refuse([batch], exc)
            else:
                batch.puts = ()

    def _refuse(self, batches: list[_Batch], error: JournalError) -> None:
        if not batches:
            return
        for batch in batches:
            batch.puts = ()
            batch.refused = True
        with self._changed:
            self._has_refused = True
        self._call_soon(self._listener.refused, [batch.number for batch in batches], error)

    def _put_back(self, group: list[_Batch]) -> None:
        with self._changed:
            self._batches.extendleft(reversed(group))

    def _note_done(self, done: list[_Batch], *, is_well: bool) -> None:
        options = self._options
        with self._changed:
            self._count -= sum(batch.count for batch in done)
            self._bytes -= sum(batch.bytes for batch in done)
            has_recovered = is_well and bool(self._failing)
            if is_well:
                self._failing = ""
            # Half, so that it is not told and refused in turns.
            tell_room = (
                is_well
                and self._has_refused
                and 2 * self._count <= options.backlog_tasks_max
                and 2 * self._bytes <= options.backlog_bytes_max
            )
            if tell_room:
                self._has_refused = False
        if is_well:
            self._failures = 0
            self._is_full = False
        if has_recovered:
            logger.warning("journal.recovered journal=%s", options.name)
        numbers = [batch.number for batch in done if not batch.refused]
        if numbers:
            self._call_soon(self._listener.committed, numbers)
        if tell_room:
            self._call_soon(self._listener.room)

    def _note_failure(self, error: JournalError) -> None:
        reason = str(error)
        with self._changed:
            is_news, self._failing = not self._failing, reason
            count = self._count
        if is_news:
            logger.warning(
                "journal.failing journal=%s backlog=%d: %s; new tasks are refused until it works",
                self._options.name,
                count,
                reason,
            )

    def _pause(self, known_count: int | None) -> None:
        """Wait before trying again, but not beyond the end.

        Args:
            known_count: wait only until more batches than these are there.
        """
        until_s = time.monotonic() + self._delay_ms() / 1000
        with self._changed:
            was_closed = self._is_closed
            while self._is_closed == was_closed and (
                known_count is None or len(self._batches) <= known_count
            ):
                now_s = time.monotonic()
                if was_closed and now_s >= self._close_at_s:
                    # Given up: what is left is counted by ``close``.
                    self._batches.clear()
                    return
                if now_s >= until_s:
                    return
                end_s = min(until_s, self._close_at_s) if was_closed else until_s
                self._changed.wait(end_s - now_s)

    def _delay_ms(self) -> int:
        """Ever longer while it fails."""
        options = self._options
        return min(options.retry_ms_max, options.retry_ms_min << min(self._failures - 1, 16))

    def _break(self, error: JournalError) -> None:
        """Nothing more can be written: tell everybody who waits."""
        with self._changed:
            self._is_closed = True
            self._failing = str(error)
            waiting = [batch.number for batch in self._batches if batch.puts]
            self._batches.clear()
        if not self._is_broken:
            self._is_broken = True
            logger.critical("journal.broken journal=%s: %s", self._options.name, error)
            self._call_soon(self._listener.broken, error)
        if waiting:
            self._call_soon(self._listener.refused, waiting, error)
        self._end_adoptions(str(error))

    # --- taking over ----------------------------------------------------------------------

    def _next_takeover(self) -> bool:
        with self._changed:
            if not self._adoptions:
                return False
            adoption = self._adoptions.popleft()
        self._takeover = _Takeover(adoption, self._journal.inherit(adoption.folder))
        return True

    def _take_piece(self) -> None:
        takeover = self._takeover
        assert takeover is not None
        callback = takeover.adoption.callback
        with self._changed:
            is_closed = self._is_closed
        if is_closed:
            # It goes on at the next start.
            self._end_adoptions(f"{self._options.name} is closed")
            return
        try:
            piece = next(takeover.pieces, None)
        except JournalError as exc:
            self._takeover = None
            logger.warning("journal.adopt_failed folder=%s: %s", takeover.adoption.folder, exc)
            self._call_soon(callback, [], True, str(exc))
            return
        if piece is None:
            self._takeover = None
            self._call_soon(callback, [], True, "")
        else:
            self._call_soon(callback, piece, False, "")

    def _end_adoptions(self, reason: str) -> None:
        with self._changed:
            adoptions = list(self._adoptions)
            self._adoptions.clear()
        takeover, self._takeover = self._takeover, None
        if takeover is not None:
            adoptions.insert(0, takeover.adoption)
            close = getattr(takeover.pieces, "close", None)
            if close is not None:
                close()
        for adoption in adoptions:
            self._call_soon(adoption.callback, [], True, reason)
