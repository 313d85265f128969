"""Answers to REPLAY: positions of the result log again, from memory and from the disk.

A store asks for ranges of positions that it missed, an owner for single outcomes that are
too large for DONE. Either may want far more than fits into a socket, so each link has a
window: what was sent and not acknowledged stays below it, and the rest waits here as
numbers. Of the disk one piece a link is read at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.effects import Effect, Send, SpillRead
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.resultlog import LogEntry, ResultLog, with_kind
from zmqtasks.core.spillrows import SpillPiece, SpillRow
from zmqtasks.limits import (
    BATCH_BYTES_MAX,
    BATCH_COUNT_MAX,
    REPLAY_POSITIONS_MAX,
    REPLAY_READS_MAX,
    REPLAY_WINDOW_BYTES,
)
from zmqtasks.wire.messages import Kind, Outcome, Replay, Results, Trimmed, VerdictRecord

_NOTHING = SpillPiece([], 0)


class _Asker:
    """What one link is still to get."""

    __slots__ = ("first", "is_reading", "last", "wanted")

    def __init__(self) -> None:
        #: A store's range; empty when ``first`` is above ``last``.
        self.first = 1
        self.last = 0
        #: An owner's positions, in the order in which it asked.
        self.wanted: OrderedDict[int, None] = OrderedDict()
        self.is_reading = False

    @property
    def is_done(self) -> bool:
        """There is nothing left to send."""
        return not self.wanted and self.first > self.last


class _Read(NamedTuple):
    """A piece that is being read."""

    link: LinkId
    first: int
    last: int
    owner: bool


class Replays:
    """What peers asked for again. ``effects`` is drained each turn.

    Args:
        log: of this node.
        unacked_bytes: what was sent on a link and not acknowledged.
    """

    def __init__(self, log: ResultLog, unacked_bytes: Callable[[LinkId], int]) -> None:
        self.log = log
        self.effects: list[Effect] = []
        self._unacked_bytes = unacked_bytes
        self._askers: dict[LinkId, _Asker] = {}
        self._reads: dict[int, _Read] = {}
        self._token = 0

    def asked(self, link: LinkId, message: Replay) -> None:
        """A peer wants these positions; of a store the last request counts."""
        asker = self._askers.get(link)
        if asker is None:
            self._askers[link] = asker = _Asker()
        first, last = max(message.first, 1), min(message.last, self.log.head)
        if not message.owner:
            asker.first, asker.last = first, last
            return
        room = REPLAY_POSITIONS_MAX - len(asker.wanted)
        for position in range(first, min(last, first + room - 1) + 1):
            asker.wanted[position] = None

    def link_down(self, link: LinkId) -> None:
        """It gets nothing more."""
        self._askers.pop(link, None)

    @property
    def is_ready(self) -> bool:
        """More can be sent to this very node at once: no acknowledgement will wake it."""
        asker = self._askers.get(SELF)
        return asker is not None and not asker.is_reading and len(self._reads) < REPLAY_READS_MAX

    # --- sending --------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what the windows take; call this each turn."""
        for link, asker in list(self._askers.items()):
            room = REPLAY_WINDOW_BYTES
            if link != SELF:
                room -= self._unacked_bytes(link)
            while room > 0 and not asker.is_reading and not asker.is_done:
                sent = self._next(link, asker)
                if sent < 0:
                    break
                room -= sent
            if asker.is_done and not asker.is_reading:
                del self._askers[link]

    def _next(self, link: LinkId, asker: _Asker) -> int:
        """Send one message, or have it read.

        Returns:
            Its bytes; -1 when nothing can be sent now.
        """
        first = self.log.first
        if asker.wanted:
            position = next(iter(asker.wanted))
            if self._is_on_disk(position):
                return self._read(link, asker, position, position, owner=True)
            del asker.wanted[position]
            return self._send(link, _Part(position, True), position, _NOTHING)
        if asker.first < first:
            asker.first = first
            self.effects.append(Send(link, Trimmed(first - 1)))
            return 1
        last = min(asker.last, asker.first + BATCH_COUNT_MAX - 1)
        if self._is_on_disk(asker.first):
            return self._read(link, asker, asker.first, last, owner=False)
        return self._send_range(link, asker, last, _NOTHING)

    def _is_on_disk(self, position: int) -> bool:
        """All of it, or its payload, may have to be read."""
        entry = self.log.entries.get(position)
        if entry is not None:
            return entry.is_stub
        state = self.log.spill.state
        return bool(state.row_count) and state.low <= position <= self.log.spill.high

    # --- the disk -------------------------------------------------------------------------

    def _read(self, link: LinkId, asker: _Asker, first: int, last: int, *, owner: bool) -> int:
        if len(self._reads) < REPLAY_READS_MAX:
            self._token += 1
            self._reads[self._token] = _Read(link, first, last, owner)
            asker.is_reading = True
            self.effects.append(
                SpillRead(self._token, first, last, BATCH_COUNT_MAX, BATCH_BYTES_MAX)
            )
        return -1

    def read(self, token: int, piece: SpillPiece) -> None:
        """A piece was read; what is damaged is gone."""
        link, first, last, owner = self._reads.pop(token)
        asker = self._askers.get(link)
        if asker is None:
            return
        asker.is_reading = False
        if owner:
            asker.wanted.pop(first, None)
            self._send(link, _Part(first, True), last, piece)
        elif asker.first == first:  # else it has asked for something else meanwhile
            room = REPLAY_WINDOW_BYTES
            while room > 0 and asker.first <= piece.upto:
                room -= self._send_range(link, asker, piece.upto, piece)

    def _send_range(self, link: LinkId, asker: _Asker, last: int, piece: SpillPiece) -> int:
        part = _Part(asker.first, False)
        size = self._send(link, part, last, piece)
        asker.first = part.upto + 1
        return size

    def _send(self, link: LinkId, part: _Part, last: int, piece: SpillPiece) -> int:
        """One message with what there is up to a position, as far as it goes.

        It ends before what is on the disk and was not read.
        """
        size = 1
        bounds = MessageBounds()
        rows = {row.position: row for row in piece.rows}
        for position in range(part.first, last + 1):
            if position > max(piece.upto, part.first) and self._is_on_disk(position):
                break
            record = _record(rows.get(position) or self.log.entries.get(position))
            outcome, _, verdict = record
            if outcome is not None or verdict is not None:
                if not bounds.takes(outcome.body if outcome is not None else b""):
                    break
                part.put(*record)
                size += outcome.size if outcome is not None else 0
            part.upto = position
        self.effects.append(Send(link, part.message()))
        return size


def _record(
    of: SpillRow | LogEntry | None,
) -> tuple[Outcome | None, Kind | None, VerdictRecord | None]:
    if of is None or (isinstance(of, LogEntry) and of.is_stub):
        return None, None, None
    return of.outcome, of.kind, of.verdict


class _Part:
    """One message in the making."""

    def __init__(self, first: int, owner: bool) -> None:
        self.first = first
        self.upto = first - 1
        self.owner = owner
        self._kinds: dict[Kind, int] = {}
        self._outcomes: list[Outcome] = []
        self._verdicts: list[VerdictRecord] = []

    def put(
        self, outcome: Outcome | None, kind: Kind | None, verdict: VerdictRecord | None
    ) -> None:
        """Add what there is of one position."""
        if outcome is not None and kind is not None:
            index = self._kinds.setdefault(kind, len(self._kinds))
            self._outcomes.append(with_kind(outcome, index))
        elif verdict is not None:
            self._verdicts.append(verdict)

    def message(self) -> Results:
        """All that was added."""
        return Results(
            list(self._kinds), self._outcomes, self._verdicts, self.first, self.upto, self.owner
        )
