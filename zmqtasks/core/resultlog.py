"""The publisher's side of results: a numbered log that makes PUB lossless.

Each outcome, and later its owner's verdict, gets the next *position*. Entries are
published at once and kept until everybody who must have them has them: the owner, who
answers with its verdict, and a store, which acknowledges what it has committed. With no
store around, settled outcomes stay for readers within bounds of bytes and age.

What waits for a store beyond the memory bound goes to the disk, the oldest first
(``core/spill.py``). An outcome that its owner has not decided on may go there too; its
entry stays, without the payload. Only when memory and disk are exhausted is an outcome
dropped before a store has it, and that is said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from zmqtasks.core.held import Finished, HeldTask
from zmqtasks.core.links import LANE
from zmqtasks.core.spill import Spill
from zmqtasks.core.spillrows import EMPTY, UNDECIDED, SpillChange, SpillRow, SpillState
from zmqtasks.limits import (
    RESULT_LOG_AGE_MS_MAX,
    RESULT_LOG_BYTES_MAX,
    SPILL_BATCH_BYTES_MAX,
    SPILL_BATCH_ROWS_MAX,
    SPILL_BODY_BYTES_MIN,
    TOLD_ARGUMENTS_BYTES_MAX,
)
from zmqtasks.wire.messages import Kind, Outcome, Verdict, VerdictRecord

#: What an entry weighs beside its payload (measured: about 400 bytes in CPython 3.11).
_ENTRY_BYTES = 400
#: What is old is looked for this often.
_AGE_STEP_MS = 60_000
#: Facts of a call (``TaskRecord.ext``) that its outcome tells too.
TOLD_KEYS = ("c", "n")
#: What a slot says of an attempt that its outcome tells too: how many items it yielded, and
#: calls whose results belong to its chord, and the ids of the tasks that it submitted, one
#: after the other.
ITEMS_KEY, ADDED_KEY, CHILDREN_KEY = "it", "add", "ch"
_SAID_KEYS = (ITEMS_KEY, ADDED_KEY, CHILDREN_KEY)
#: Fact of a kind: outcomes tell the arguments, too. And where they do.
EXTENDED_KEY, ARGUMENTS_KEY = "rx", "a"


def told_of_kind(kind: Kind | None) -> dict[str, Any]:
    """What the state of a task of this kind tells of it."""
    return {} if kind is None else {"name": kind.name, "queue": kind.queue}


def is_extended_kind(kind: Kind) -> bool:
    """Outcomes of tasks of this kind are to tell the arguments."""
    return any(key == EXTENDED_KEY for key, _ in kind.ext)


def told_arguments(kind: Kind, body: bytes) -> dict[str, Any]:
    """The arguments of a call, for its outcome, where they are wanted and not too large."""
    is_told = len(body) <= TOLD_ARGUMENTS_BYTES_MAX and is_extended_kind(kind)
    return {ARGUMENTS_KEY: body} if is_told else {}


def _told_too(task: HeldTask, said: dict[str, Any] | None) -> dict[str, Any]:
    """What an outcome tells beside how the attempt ended."""
    facts, said = task.ext or {}, said or {}
    return {
        **{key: facts[key] for key in TOLD_KEYS if key in facts},
        **{key: said[key] for key in _SAID_KEYS if key in said},
        **told_arguments(task.kind, task.body),
    }


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
    #: The payload is on the disk, not here.
    is_stub: bool = False


class Appended(NamedTuple):
    """What was just appended, to be published."""

    outcomes: list[tuple[Kind, Outcome]]
    verdicts: list[VerdictRecord]


class ResultLog:
    """The log of one publisher epoch. Positions start at 1.

    Args:
        worker_name: goes into each outcome.
        bytes_max: of the entries in memory.
        has_disk: what a store has not got may go to the disk.
    """

    def __init__(
        self, worker_name: str, bytes_max: int = RESULT_LOG_BYTES_MAX, *, has_disk: bool = False
    ) -> None:
        self.worker_name = worker_name
        self.bytes_max = bytes_max
        self.has_disk = has_disk
        #: Smaller payloads that an owner has not decided on stay in memory.
        self.body_bytes_min = SPILL_BODY_BYTES_MIN
        self.spill = Spill()
        #: Last position given out.
        self.head = 0
        #: {position: entry}, oldest first: all that is in memory.
        # A plain dict would look past every entry trimmed before to find its first.
        self.entries: OrderedDict[int, LogEntry] = OrderedDict()
        #: What they weigh.
        self.bytes = 0
        self.dropped_count = 0
        #: Of these, dropped before a store had them.
        self.missed_count = 0
        #: {owner node: {position}} outcomes that it must decide on.
        self.undecided: dict[bytes, dict[int, None]] = {}
        #: {task id: position of its latest outcome here}, of those in ``entries``.
        self.positions: dict[bytes, int] = {}
        #: {store node: position up to which it has committed}.
        self.stores: dict[bytes, int] = {}
        #: {position: None} of all outcomes without a verdict, also where no owner is left: a
        #: new one may come and decide.
        self._open: dict[int, None] = {}
        #: The same of stubs with a verdict that is not in their row yet.
        self._decided_stubs: dict[int, None] = {}
        #: When owners of old outcomes are given up next.
        self._aging_ms = 0

    # --- appending ----------------------------------------------------------------------

    def append(self, finished: Iterable[Finished], now_ms: int) -> list[tuple[Kind, Outcome]]:
        """Number these outcomes."""
        entries, positions, undecided = self.entries, self.positions, self.undecided
        position = self.head
        made: list[tuple[Kind, Outcome]] = []
        ext = {"w": self.worker_name}
        # Outcomes of one kind come in a row, mostly.
        kind, is_extended = None, False
        for task, status, started_ms, run_us, body, error, said in finished:
            position += 1
            size = len(body)
            outcome = Outcome(
                task.id, task.attempt, status, position, -1, started_ms, run_us, size, body,
                {**ext, "e": error} if error else ext,
            )  # fmt: skip
            if task.kind is not kind:
                kind, is_extended = task.kind, is_extended_kind(task.kind)
            if is_extended or task.ext is not None or said is not None:
                outcome.ext = {**(outcome.ext or {}), **_told_too(task, said)}
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
                self._open[position] = None
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

    # --- owners -------------------------------------------------------------------------

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
        self._take_from_owner(position, entry)
        made.append(self._verdict(entry, verdict, now_ms))

    def _take_from_owner(self, position: int, entry: LogEntry) -> None:
        """It has decided, or is not waited for any more."""
        waiting = self.undecided.get(entry.owner)
        if waiting is not None:
            waiting.pop(position, None)
        entry.owner = b""

    def _verdict(self, entry: LogEntry, verdict: Verdict, now_ms: int) -> VerdictRecord:
        outcome = entry.outcome
        assert outcome is not None
        self.head += 1
        entry.decision = verdict
        entry.verdict_at = self.head
        self._open.pop(outcome.position, None)
        if entry.is_stub:
            self._decided_stubs[outcome.position] = None
        record = VerdictRecord(outcome.id, outcome.attempt, verdict, self.head)
        self.entries[self.head] = LogEntry(None, None, record, b"", now_ms)
        self.bytes += _ENTRY_BYTES // 2
        return record

    def owner_gone(self, owner: bytes) -> None:
        """Nobody will decide on these any more: the first outcome stands."""
        for position in self.undecided.pop(owner, {}):
            entry = self.entries.get(position)
            if entry is not None:
                self._take_from_owner(position, entry)

    def undecidable(self, positions: Iterable[int], owner: bytes) -> None:
        """Their owner does not know these tasks any more: the first outcome stands, unless
        another one has them now."""
        for position in positions:
            entry = self.entries.get(position)
            if entry is not None and entry.owner == owner:
                self._take_from_owner(position, entry)

    def inherited(self, owner: bytes, heir: bytes) -> bool:
        """Another node decides now on all that this owner has not decided on.

        Returns:
            False if there is nothing to decide on.
        """
        moved = self.undecided.pop(owner, {})
        for position in moved:
            self.entries[position].owner = heir
        if moved:
            self.undecided.setdefault(heir, {}).update(moved)
        return bool(moved)

    def taken_over(self, task_id: bytes, attempt: int, owner: bytes) -> Outcome | None:
        """Another node decides now on this attempt, even if its former owner has said
        already that it does not know the task any more.

        Returns:
            Its outcome, to be told to that node; None if there is none to decide on.
        """
        entry = self.entries.get(self.positions.get(task_id, 0))
        if entry is None or entry.outcome is None or entry.decision is not Verdict.NONE:
            return None
        outcome = entry.outcome
        if outcome.attempt != attempt:
            return None
        self.undecided.get(entry.owner, {}).pop(outcome.position, None)
        self.undecided.setdefault(owner, {})[outcome.position] = None
        entry.owner = owner
        return outcome

    def is_undecided(self, outcome: Outcome) -> bool:
        """An owner still has to decide on it."""
        entry = self.entries.get(outcome.position)
        return entry is not None and bool(entry.owner)

    def undecided_of(self, owner: bytes) -> list[Outcome]:
        """Outcomes to report again to an owner that is back; some without their payload."""
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
        if node in self.stores and position > self.stores[node]:
            self.stores[node] = min(position, self.head)

    @property
    def is_awaited(self) -> bool:
        """There is a store, and none has all of the log yet."""
        return bool(self.stores) and max(self.stores.values()) < self.head

    @property
    def awaited_count(self) -> int:
        """Positions, verdicts included, that a store should have and none has."""
        if not self.stores:
            return 0
        safe = max(self.stores.values())
        here = sum(not entry.is_stub for position, entry in self.entries.items() if position > safe)
        return here + self.spill.state.row_count

    def stored_upto(self) -> int:
        """Outcomes up to this position are stored with their verdicts; -1: no store."""
        return self.first - 1 if self.stores else -1

    @property
    def first(self) -> int:
        """The first position that is still here."""
        first = next(iter(self.entries), self.head + 1)
        low = self.spill.state.low
        return min(first, low) if low else first

    # --- bounds -------------------------------------------------------------------------

    def trim(self, now_ms: int) -> int:
        """Let go of what nobody needs; call this now and then.

        Returns:
            How many were dropped that a store should have had.
        """
        old_ms = now_ms - RESULT_LOG_AGE_MS_MAX
        safe = self._trim_stored()
        before_ms = -1
        if not self.stores:
            before_ms = old_ms - old_ms % _AGE_STEP_MS
            for position, _ in list(self._older_than(old_ms)):
                self._drop(position)
                self.dropped_count += 1
        elif now_ms >= self._aging_ms:
            self._aging_ms = now_ms + _AGE_STEP_MS
            for position, entry in self._older_than(old_ms):
                if entry.owner:
                    self._take_from_owner(position, entry)
        self.spill.trim(safe, before_ms)
        return self.bound(now_ms)

    def _trim_stored(self) -> int:
        safe = max(self.stores.values(), default=0)
        for position in list(self._until(safe)):
            self._drop(position)
        return safe

    def _until(self, safe: int) -> Iterable[int]:
        for position, entry in self.entries.items():
            if position > safe:
                return
            if not entry.owner and entry.verdict_at <= safe:
                yield position

    def _older_than(self, old_ms: int) -> Iterable[tuple[int, LogEntry]]:
        for position, entry in self.entries.items():
            if entry.at_ms > old_ms:
                return
            yield position, entry

    def bound(self, now_ms: int) -> int:
        """Keep to the memory bound: to the disk with what a store must have.

        Cheap while there is room; call this each turn.

        Returns:
            How many were dropped that a store should have had.
        """
        if self.bytes <= self.bytes_max * 3 // 4:
            return 0
        if self.has_disk and not self.spill.writing:
            self._trim_stored()
            self._write(now_ms)
        if self.spill.writing or self.bytes <= self.bytes_max:
            return 0
        return self._drop_oldest()

    def _write(self, now_ms: int) -> None:
        """A full disk still takes the decisions on stubs: they need no room."""
        decided = self._decided_stubs if self.spill.can_change(now_ms) else ()
        stubs = [self._row(p, self.entries[p]) for p in islice(decided, SPILL_BATCH_ROWS_MAX)]
        changes = [SpillChange(stub.position, stub.need, stub.decision) for stub in stubs]
        rows = self._to_spill() if self.spill.can_write(now_ms) else []
        if rows or changes:
            self.spill.write(rows, changes)

    def _to_spill(self) -> list[SpillRow]:
        """The oldest that have a verdict, for a store; large ones without, for their owners, if
        there are no others or memory is over its bound."""
        wanted = min(self.bytes - self.bytes_max // 2, SPILL_BATCH_BYTES_MAX)
        rows: list[SpillRow] = []
        size = 0
        for position, entry in self._unspilled():
            rows.append(self._row(position, entry))
            size += _weight(entry)
            if size >= wanted or len(rows) >= SPILL_BATCH_ROWS_MAX:
                break
        return rows

    def _row(self, position: int, entry: LogEntry) -> SpillRow:
        is_open = position in self._open and self._is_kept_open(entry)
        need = UNDECIDED if is_open else max(position, entry.verdict_at)
        return SpillRow(
            position, need, entry.at_ms, entry.kind, entry.outcome, entry.verdict, entry.decision
        )

    def _unspilled(self) -> Iterable[tuple[int, LogEntry]]:
        found = False
        for position, entry in self.entries.items() if self.stores else ():
            if not entry.is_stub and position not in self._open:
                found = True
                yield position, entry
        if found and self.bytes <= self.bytes_max:
            return
        for position in sorted(self._open):
            entry = self.entries[position]
            assert entry.outcome is not None
            if not entry.is_stub and entry.outcome.size >= self.body_bytes_min:
                found = True
                yield position, entry
        if found or not self.stores:
            return
        for position in sorted(self._open):
            entry = self.entries[position]
            if not entry.is_stub and not self._is_kept_open(entry):
                yield position, entry

    def _is_kept_open(self, entry: LogEntry) -> bool:
        """Some of it stays in memory without a verdict. Not where that would be all of it, and
        no owner is left: sooner than dropped, it goes to the disk as it is."""
        assert entry.outcome is not None
        return bool(entry.owner) or entry.outcome.size >= self.body_bytes_min

    @property
    def is_choked(self) -> bool:
        """Over its bound, and the disk is busy taking more: no time to add to it."""
        return self.bytes > self.bytes_max and bool(self.spill.writing)

    def _drop_oldest(self) -> int:
        """The disk takes nothing, or nobody must have them: what is decided, till it fits."""
        excess = self.bytes - self.bytes_max
        positions: list[int] = []
        for position, entry in self.entries.items():
            if excess <= 0:
                break
            if not entry.owner and not entry.is_stub:
                positions.append(position)
                excess -= _weight(entry)
        for position in positions:
            self._drop(position)
        self.dropped_count += len(positions)
        if not self.stores:
            return 0
        self.missed_count += len(positions)
        return len(positions)

    def _drop(self, position: int) -> None:
        entry = self._leave_memory(position)
        if entry.owner:
            self.undecided.get(entry.owner, {}).pop(position, None)
        if entry.is_stub:
            self.spill.drop(position)

    def _leave_memory(self, position: int) -> LogEntry:
        entry = self.entries.pop(position)
        self.bytes -= _weight(entry)
        self._open.pop(position, None)
        self._decided_stubs.pop(position, None)
        outcome = entry.outcome
        if outcome is not None and self.positions.get(outcome.id) == position:
            del self.positions[outcome.id]
        return entry

    # --- the disk -----------------------------------------------------------------------

    def spilled(self, error: str, state: SpillState, now_ms: int) -> None:
        """The write has ended: what is on the disk need not be in memory."""
        for position, was_decided in self.spill.written(error, state, now_ms).items():
            entry = self.entries.get(position)
            if entry is None:
                self.spill.drop(position)
            elif was_decided and not entry.owner:  # one may have come meanwhile
                self._leave_memory(position)
            elif entry.outcome is not None:
                self.bytes -= _weight(entry)
                entry.outcome = without_body(entry.outcome)
                entry.is_stub = True
                self.bytes += _weight(entry)
                if position not in self._open:
                    self._decided_stubs[position] = None

    def spill_broken(self, error: str, now_ms: int) -> int:
        """The disk has lost what was there; returns how many rows."""
        lost = self.spill.state.row_count
        self.spill.written(error, EMPTY, now_ms)
        self.spill.trimmed(EMPTY)
        for position, entry in list(self.entries.items()):
            if entry.is_stub:
                self._drop(position)
        return lost

    # --- reading ------------------------------------------------------------------------

    def decider_of(self, task_id: bytes) -> bytes:
        """The node that still has to decide on the latest outcome of a task; b"" if none."""
        entry = self.entries.get(self.positions.get(task_id, 0))
        return entry.owner if entry is not None else b""

    def outcome_of(self, task_id: bytes) -> tuple[Outcome, Verdict, Kind | None] | None:
        """The latest outcome of a task that is kept in memory, what its owner said, its kind.

        Refused ones are not told: another attempt counts.
        """
        position = self.positions.get(task_id)
        if position is None:
            return None
        entry = self.entries[position]
        if entry.outcome is None or entry.is_stub or entry.decision == Verdict.REFUSED:
            return None
        return entry.outcome, entry.decision, entry.kind

    def decision_on(self, row: SpillRow) -> Verdict:
        """The verdict on an outcome that was found on the disk."""
        entry = self.entries.get(row.position)
        return entry.decision if entry is not None else row.decision

    def forget(self, task_id: bytes) -> None:
        """Drop the outcomes of a task if its owner has decided on them."""
        position = self.positions.get(task_id)
        if position is not None and not self.entries[position].owner:
            self._drop(position)
        self.spill.forget(task_id)

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        return {
            "head": self.head,
            "kept": len(self.entries),
            "bytes": self.bytes,
            "dropped": self.dropped_count,
            "missed": self.missed_count,
            "stores": {node.hex(): position for node, position in self.stores.items()},
            **self.spill.describe(),
        }


def _weight(entry: LogEntry) -> int:
    if entry.outcome is None:
        return _ENTRY_BYTES // 2
    return _ENTRY_BYTES if entry.is_stub else entry.outcome.size + _ENTRY_BYTES


def with_kind(outcome: Outcome, kind: int) -> Outcome:
    """The same record, pointing into a message's own list of kinds."""
    return Outcome(
        outcome.id, outcome.attempt, outcome.status, outcome.position, kind, outcome.started_ms,
        outcome.run_us, outcome.size, outcome.body, outcome.ext,
    )  # fmt: skip


def without_body(outcome: Outcome) -> Outcome:
    """The record with the size of its payload only."""
    return Outcome(
        outcome.id, outcome.attempt, outcome.status, outcome.position, -1, outcome.started_ms,
        outcome.run_us, outcome.size, None, outcome.ext,
    )  # fmt: skip
