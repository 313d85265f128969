"""What of a result log lies on the disk: one row for each position."""

from __future__ import annotations

from typing import NamedTuple

from zmqtasks.wire.messages import Kind, Outcome, Verdict, VerdictRecord

#: ``SpillRow.need`` of an outcome without a verdict: the log says when it may go.
UNDECIDED = 1 << 62


class SpillRow(NamedTuple):
    """A position of the log: an outcome, or a verdict."""

    position: int
    #: It may go once a store has everything up to here.
    need: int
    #: When it was logged.
    at_ms: int
    kind: Kind | None
    outcome: Outcome | None
    verdict: VerdictRecord | None
    #: The verdict on ``outcome``, as far as it was known.
    decision: Verdict = Verdict.NONE


class SpillChange(NamedTuple):
    """The owner of an outcome that is on the disk has decided."""

    position: int
    #: See ``SpillRow``.
    need: int
    decision: Verdict


class SpillState(NamedTuple):
    """How much is on the disk."""

    row_count: int
    #: Of the payloads, and of what goes with them.
    bytes: int
    #: The first position that is there, 0 when nothing is.
    low: int


class SpillPiece(NamedTuple):
    """What was read of a range of positions."""

    rows: list[SpillRow]
    #: The range was read up to here; a piece has its bounds.
    upto: int
    #: Rows that are damaged, and so lost.
    lost_count: int = 0


EMPTY = SpillState(0, 0, 0)
