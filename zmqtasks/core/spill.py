"""The part of a result log that lies on the disk, as the log sees it.

::

    over the log's memory bound --SpillWrite--> disk --spilled--> the log lets go of it
    a store's or an owner's turn --SpillRead--> disk --spill_read--> ``Replays``
    a store has it               --SpillTrim--> disk --spill_trimmed-->

One write is under way at a time, and what it holds stays in memory until it is on the
disk: a disk that fails costs nothing but memory. Rows carry all there is to know, so what
has its verdict leaves nothing in memory. Of an outcome that its owner has not decided on a
*stub* stays: whose it is, and what DONE says of it; until it is decided, and its row says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmqtasks.core.effects import Effect, SpillTrim, SpillWrite
from zmqtasks.core.spillrows import EMPTY, UNDECIDED, SpillChange, SpillRow, SpillState
from zmqtasks.limits import SPILL_RETRY_MS


class Spill:
    """What of one log is on the disk. ``effects`` is drained each turn."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        #: What lies there, as last heard.
        self.state: SpillState = EMPTY
        #: No position above this was ever written.
        self.high = 0
        #: {position: whether it had its decision}, being written.
        self.writing: dict[int, bool] = {}
        #: Why the disk does not take more, "" when it does.
        self.failing = ""
        #: Rows that could not be read again.
        self.lost_count = 0
        self._retry_ms = 0
        #: The same for changes, which need no room; the write under way is one.
        self._retry_change_ms = 0
        self._is_change = False
        self._batch = 0
        #: Last asked for: ``(upto, before_ms)``, and whether that is under way.
        self._trimmed = (0, 0)
        self._is_trimming = False
        #: Rows whose entry went from the log, and tasks to forget.
        self._gone: list[int] = []
        self._forgotten: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """Nothing is there, nor on its way."""
        return not self.state.row_count and not self.writing

    # --- writing --------------------------------------------------------------------------

    def can_write(self, now_ms: int) -> bool:
        """No write is under way, and the disk took the last one or may take one again."""
        return not self.writing and (not self.failing or now_ms >= self._retry_ms)

    def can_change(self, now_ms: int) -> bool:
        """The same for rows that are there: a disk that is full still takes that."""
        return not self.writing and now_ms >= self._retry_change_ms

    def write(self, rows: Sequence[SpillRow], changes: Sequence[SpillChange] = ()) -> None:
        """Put these rows on the disk, none of which is there; change others that are."""
        self._batch += 1
        self._is_change = not rows
        self.writing = {row.position: row.need != UNDECIDED for row in rows}
        self.writing.update((change.position, True) for change in changes)
        self.effects.append(SpillWrite(self._batch, list(rows), list(changes)))

    def written(self, error: str, state: SpillState, now_ms: int) -> dict[int, bool]:
        """The write has ended; returns what of ``writing`` is on the disk."""
        done, self.writing = self.writing, {}
        self.state = state
        if error:
            self.failing = error
            if self._is_change:
                self._retry_change_ms = now_ms + SPILL_RETRY_MS
            else:
                self._retry_ms = now_ms + SPILL_RETRY_MS
            return {}
        if not self._is_change:
            self.failing = ""
        self.high = max(self.high, *done)
        return done

    # --- letting go -----------------------------------------------------------------------

    def drop(self, position: int) -> None:
        """This row is wanted no more."""
        self._gone.append(position)

    def forget(self, task_id: bytes) -> None:
        """The outcomes of this task are wanted no more, if their owner has decided."""
        if not self.is_empty:
            self._forgotten.append(task_id)

    def trim(self, upto: int, before_ms: int) -> None:
        """Let go of what needed a store up to a position, or was logged before a time.

        Reads, writes and trims are carried out in the order given, so what is being
        written is trimmed too.
        """
        if self.is_empty:
            self._gone.clear()
            self._forgotten.clear()
            return
        wanted = (upto, before_ms)
        if self._is_trimming or not (self._gone or self._forgotten or wanted != self._trimmed):
            return
        self._trimmed = wanted
        self._is_trimming = True
        gone, self._gone = self._gone, []
        forgotten, self._forgotten = self._forgotten, []
        self.effects.append(SpillTrim(upto, before_ms, gone, forgotten))

    def trimmed(self, state: SpillState) -> None:
        """What was to go is gone."""
        self._is_trimming = False
        self.state = state

    # --- for people -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        return {
            "spilled": self.state.row_count,
            "spilled_bytes": self.state.bytes,
            "spill_failing": self.failing,
            "spill_lost": self.lost_count,
        }
