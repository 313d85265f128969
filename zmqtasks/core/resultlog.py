"""The publisher's side of results: a numbered log that makes PUB lossless.

Each outcome, and later its owner's verdict, gets the next *position*. Entries are
published at once and kept until everybody who must have them has them: the owner, who
answers with its verdict, and a store, which acknowledges what it has committed. With no
store around, settled outcomes stay for readers within bounds of bytes and age.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.held import Finished
from zmqtasks.core.links import LANE
from zmqtasks.limits import (
    RESULT_LOG_AGE_MS_MAX,
    RESULT_LOG_BYTES_MAX,
)
from zmqtasks.wire.messages import Kind, Outcome, Results, Trimmed, Verdict, VerdictRecord

#: What an entry weighs beside its payload (measured: about 400 bytes in CPython 3.11).
_ENTRY_BYTES = 400


class LogEntry(msgspec.Struct, gc=False):
    """One position: an outcome, or a verdict. Never part of a cycle, so not collected."""

    kind: Kind | None
    outcome: Outcome | None
    verdict: VerdictRecord | None
    #: Node that must still decide on the outcome, b"" when decided or gone.
    owner: bytes
    at_ms: int
    #: The verdict on ``outcome``, as far as it is known.
    decision: Verdict = Verdict.NONE
    #: Position of that verdict; an outcome goes no earlier than its verdict can.
    verdict_at: int = 0


class Appended(NamedTuple):
    """What was just appended, to be published."""

    outcomes: list[tuple[Kind, Outcome]]
    verdicts: list[VerdictRecord]


class ResultLog:
    """The log of one publisher epoch. Positions start at 1."""

    def __init__(self, worker_name: str, bytes_max: int = RESULT_LOG_BYTES_MAX) -> None:
        self.worker_name = worker_name
        self.bytes_max = bytes_max
        #: Last position given out.
        self.head = 0
        #: {position: entry}, oldest first.
        # A plain dict would look past every entry trimmed before to find its first.
        self.entries: OrderedDict[int, LogEntry] = OrderedDict()
        self.bytes = 0
        self.dropped_count = 0
        #: {owner node: {position}} outcomes without a verdict.
        self.undecided: dict[bytes, dict[int, None]] = {}
        #: {task id: position of its latest outcome here}.
        self.positions: dict[bytes, int] = {}
        #: {store node: position up to which it has committed}.
        self.stores: dict[bytes, int] = {}
        self._trimmed = 0

    # --- appending ----------------------------------------------------------------------

    def append(self, finished: Iterable[Finished], now_ms: int) -> list[tuple[Kind, Outcome]]:
        """Number these outcomes."""
        entries, positions, undecided = self.entries, self.positions, self.undecided
        position = self.head
        made: list[tuple[Kind, Outcome]] = []
        ext = {"w": self.worker_name}
        for task, status, started_ms, run_us, body, error in finished:
            position += 1
            size = len(body)
            outcome = Outcome(
                task.id, task.attempt, status, position, -1, started_ms, run_us, size, body,
                {**ext, "e": error} if error else ext,
            )  # fmt: skip
            owner = b"" if task.link is LANE else task.owner
            entries[position] = entry = LogEntry(task.kind, outcome, None, owner, now_ms)
            positions[task.id] = position
            if not owner:
                entry.decision = Verdict.SETTLED
            else:
                waiting = undecided.get(owner)
                if waiting is None:
                    undecided[owner] = waiting = {}
                waiting[position] = None
            self.bytes += size + _ENTRY_BYTES
            made.append((task.kind, outcome))
        self.head = position
        return made

    def append_own(self, kind: Kind, outcome: Outcome, now_ms: int) -> Appended:
        """An outcome that this node tells of as the owner: settled from the start."""
        self.head += 1
        outcome = with_kind(outcome, -1)
        outcome.position = self.head
        outcome.ext = {"w": self.worker_name, **(outcome.ext or {})}
        self.entries[self.head] = entry = LogEntry(kind, outcome, None, b"", now_ms)
        self.positions[outcome.id] = self.head
        self.bytes += outcome.size + _ENTRY_BYTES
        verdict = self._verdict(entry, Verdict.SETTLED, now_ms)
        return Appended([(kind, outcome)], [verdict])

    def decide(
        self, ranges: Iterable[tuple[int, int]], refused: Iterable[int], now_ms: int
    ) -> list[VerdictRecord]:
        """The owner's verdicts on positions of this log; number them too."""
        made: list[VerdictRecord] = []
        for first, last in ranges:
            for position in range(max(first, 1), min(last, self.head) + 1):
                self._decide(position, Verdict.SETTLED, made, now_ms)
        for position in refused:
            self._decide(position, Verdict.REFUSED, made, now_ms)
        return made

    def _decide(
        self, position: int, verdict: Verdict, made: list[VerdictRecord], now_ms: int
    ) -> None:
        entry = self.entries.get(position)
        if entry is None or entry.outcome is None or not entry.owner:
            return
        waiting = self.undecided.get(entry.owner)
        if waiting is not None:
            waiting.pop(position, None)
        entry.owner = b""
        made.append(self._verdict(entry, verdict, now_ms))

    def _verdict(self, entry: LogEntry, verdict: Verdict, now_ms: int) -> VerdictRecord:
        outcome = entry.outcome
        assert outcome is not None
        self.head += 1
        entry.decision = verdict
        entry.verdict_at = self.head
        record = VerdictRecord(outcome.id, outcome.attempt, verdict, self.head)
        self.entries[self.head] = LogEntry(None, None, record, b"", now_ms)
        self.bytes += _ENTRY_BYTES // 2
        return record

    def owner_gone(self, owner: bytes) -> None:
        """Nobody will decide on these any more: the first outcome stands."""
        for position in self.undecided.pop(owner, {}):
            entry = self.entries.get(position)
            if entry is not None:
                entry.owner = b""

    def undecidable(self, positions: Iterable[int]) -> None:
        """Their owner does not know these tasks any more: the first outcome stands."""
        for position in positions:
            entry = self.entries.get(position)
            if entry is not None and entry.owner:
                self.undecided.get(entry.owner, {}).pop(position, None)
                entry.owner = b""

    def inherited(self, owner: bytes, heir: bytes) -> None:
        """Another node decides now on all that this owner has not decided on."""
        moved = self.undecided.pop(owner, {})
        for position in moved:
            self.entries[position].owner = heir
        if moved:
            self.undecided.setdefault(heir, {}).update(moved)

    def taken_over(self, task_id: bytes, attempt: int, owner: bytes) -> Outcome | None:
        """Another node decides now on this attempt.

        Returns:
            Its outcome, to be told to that node; None if there is none to decide on.
        """
        entry = self.entries.get(self.positions.get(task_id, 0))
        if entry is None or entry.outcome is None or not entry.owner:
            return None
        outcome = entry.outcome
        if outcome.attempt != attempt:
            return None
        del self.undecided[entry.owner][outcome.position]
        self.undecided.setdefault(owner, {})[outcome.position] = None
        entry.owner = owner
        return outcome

    def is_undecided(self, outcome: Outcome) -> bool:
        """An owner still has to decide on it."""
        entry = self.entries.get(outcome.position)
        return entry is not None and bool(entry.owner)

    def undecided_of(self, owner: bytes) -> list[Outcome]:
        """Outcomes to report again to an owner that is back."""
        found = (self.entries.get(position) for position in self.undecided.get(owner, {}))
        return [entry.outcome for entry in found if entry is not None and entry.outcome]

    # --- stores -------------------------------------------------------------------------

    def store_seen(self, node: bytes) -> None:
        """A store wants everything from now on; nothing goes before it has it."""
        self.stores.setdefault(node, 0)

    def store_left(self, node: bytes) -> None:
        """This store no longer counts."""
        self.stores.pop(node, None)

    def stored(self, node: bytes, position: int) -> None:
        """A store has committed everything up to there."""
        if position > self.stores.get(node, 0):
            self.stores[node] = position

    def trim(self, now_ms: int) -> int:
        """Drop entries that nobody needs, and the oldest when there are too many.

        Returns:
            How many were dropped that a store should have had.
        """
        if self.stores:
            safe = max(self.stores.values())
            for position in list(self._until(safe)):
                self._drop(position)
        dropped = 0
        for position, entry in list(self._oldest(now_ms)):
            if entry.owner:
                if now_ms - entry.at_ms < RESULT_LOG_AGE_MS_MAX:
                    continue
                self.undecided.get(entry.owner, {}).pop(position, None)
            self._drop(position)
            dropped += 1
        self.dropped_count += dropped
        return dropped if self.stores else 0

    def _until(self, safe: int) -> Iterable[int]:
        for position, entry in self.entries.items():
            if position > safe:
                return
            if not entry.owner and entry.verdict_at <= safe:
                yield position

    @property
    def is_awaited(self) -> bool:
        """There is a store, and none has all of the log yet."""
        return bool(self.stores) and max(self.stores.values()) < self.head

    def stored_upto(self) -> int:
        """Outcomes up to this position are stored with their verdicts; -1: no store."""
        if not self.stores:
            return -1
        return next(iter(self.entries), self.head + 1) - 1

    def _oldest(self, now_ms: int) -> Iterable[tuple[int, LogEntry]]:
        excess = self.bytes - self.bytes_max
        for position, entry in self.entries.items():
            if excess <= 0 and now_ms - entry.at_ms < RESULT_LOG_AGE_MS_MAX:
                return
            if not entry.owner:
                excess -= _weight(entry)
            yield position, entry

    def _drop(self, position: int) -> None:
        entry = self.entries.pop(position)
        self.bytes -= _weight(entry)
        self._trimmed = max(self._trimmed, position)
        outcome = entry.outcome
        if outcome is not None and self.positions.get(outcome.id) == position:
            del self.positions[outcome.id]

    # --- reading ------------------------------------------------------------------------

    def replay(self, first: int, last: int, owner: bool) -> list[Results | Trimmed]:
        """What there still is of these positions, in messages of bounded size."""
        messages: list[Results | Trimmed] = []
        kinds: dict[Kind, int] = {}
        part = Results([], [], [], first, first - 1, owner)
        bounds = MessageBounds()
        for position in range(max(first, 1), min(last, self.head) + 1):
            entry = self.entries.get(position)
            if entry is not None:
                if not bounds.takes(entry.outcome.body if entry.outcome is not None else b""):
                    part.kinds = list(kinds)
                    messages.append(part)
                    part = Results([], [], [], position, position - 1, owner)
                    kinds = {}
                _put(part, entry, kinds)
            part.upto = position
        part.kinds = list(kinds)
        messages.append(part)
        return messages

    def outcome_of(self, task_id: bytes) -> tuple[Outcome, Verdict] | None:
        """The latest outcome of a task that is kept here, and what its owner said of it.

        Refused ones are not told: another attempt counts.
        """
        position = self.positions.get(task_id)
        if position is None:
            return None
        entry = self.entries[position]
        if entry.outcome is None or entry.decision == Verdict.REFUSED:
            return None
        return entry.outcome, entry.decision

    def forget(self, task_id: bytes) -> None:
        """Drop the outcome of a task if its owner has decided on it."""
        position = self.positions.get(task_id)
        if position is not None and not self.entries[position].owner:
            self._drop(position)

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        return {
            "head": self.head,
            "kept": len(self.entries),
            "bytes": self.bytes,
            "dropped": self.dropped_count,
            "stores": {node.hex(): position for node, position in self.stores.items()},
        }


def _weight(entry: LogEntry) -> int:
    return entry.outcome.size + _ENTRY_BYTES if entry.outcome else _ENTRY_BYTES // 2


def _put(part: Results, entry: LogEntry, kinds: dict[Kind, int]) -> None:
    if entry.outcome is not None:
        assert entry.kind is not None
        part.outcomes.append(with_kind(entry.outcome, kinds.setdefault(entry.kind, len(kinds))))
    elif entry.verdict is not None:
        part.verdicts.append(entry.verdict)


def with_kind(outcome: Outcome, kind: int) -> Outcome:
    """The same record, pointing into a message's own list of kinds."""
    return Outcome(
        outcome.id, outcome.attempt, outcome.status, outcome.position, kind, outcome.started_ms,
        outcome.run_us, outcome.size, outcome.body, outcome.ext,
    )  # fmt: skip
