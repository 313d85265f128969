"""Rows for the store suites, and a naive model of a store to compare with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from zmqtasks.core.rows import OutcomeRow, VerdictRow
from zmqtasks.wire.messages import Status, Verdict

#: A wall clock of the suites, milliseconds since 1970.
NOW_MS = 1_800_000_000_000
#: Later than the real clock of any run, within a signed 64-bit number.
FAR_FUTURE_MS = 1 << 50


def task_id(number: int) -> bytes:
    """The 16 bytes of a task id made from a number."""
    return b"suite" + number.to_bytes(11, "big")


def outcome(number: int, attempt: int = 1, **changes: Any) -> OutcomeRow:
    """The outcome of an attempt of task ``number``, with other values where given."""
    row = OutcomeRow(
        task_id=task_id(number),
        attempt=attempt,
        status=Status.SUCCESS,
        verdict=Verdict.NONE,
        publisher=b"node-001",
        epoch=1,
        position=number,
        app="shop",
        name="tasks.add",
        queue="default",
        worker="host-1",
        started_ms=NOW_MS - 20,
        run_us=1_500,
        stored_ms=NOW_MS,
        body=b"\x00" + str(number).encode(),
    )
    return msgspec.structs.replace(row, **changes)


def verdict(number: int, attempt: int = 1, value: int = Verdict.SETTLED) -> VerdictRow:
    """The owner's verdict on an attempt of task ``number``."""
    return VerdictRow(task_id(number), attempt, value)


class StoreModel:
    """What a store must hold, written as plainly as possible."""

    def __init__(self) -> None:
        self.rows: list[OutcomeRow] = []
        self.early: list[VerdictRow] = []

    def put_batch(self, outcomes: Sequence[OutcomeRow], verdicts: Sequence[VerdictRow]) -> None:
        """See ``Store.put_batch``."""
        for row in outcomes:
            known = self._find(row.task_id, row.attempt)
            if known is None:
                known = msgspec.structs.replace(row)
                for early in self.early:
                    if (early.task_id, early.attempt) == (row.task_id, row.attempt):
                        known.verdict = early.verdict
                self.early = [
                    early
                    for early in self.early
                    if (early.task_id, early.attempt) != (row.task_id, row.attempt)
                ]
                known.verdict = self._one_settled(known, known.verdict)
                self.rows.append(known)
            elif known.verdict == Verdict.NONE:
                known.verdict = self._one_settled(known, row.verdict)
        for decided in verdicts:
            self._decide(decided)

    def get_batch(self, task_ids: Sequence[bytes]) -> dict[bytes, list[OutcomeRow]]:
        """See ``Store.get_batch``."""
        found: dict[bytes, list[OutcomeRow]] = {}
        for row in self.rows:
            if row.task_id in task_ids:
                found.setdefault(row.task_id, []).append(row)
        return found

    def delete(self, task_ids: Sequence[bytes]) -> None:
        """See ``Store.delete``."""
        self.rows = [row for row in self.rows if row.task_id not in task_ids]
        self.early = [early for early in self.early if early.task_id not in task_ids]

    def expire(self, before_ms: int) -> int:
        """See ``Store.expire``, without the verdicts that wait for their outcome."""
        kept = [row for row in self.rows if row.stored_ms >= before_ms]
        dropped = len(self.rows) - len(kept)
        self.rows = kept
        return dropped

    def _decide(self, decided: VerdictRow) -> None:
        if decided.verdict == Verdict.NONE:
            return
        known = self._find(decided.task_id, decided.attempt)
        if known is not None:
            if known.verdict == Verdict.NONE:
                known.verdict = self._one_settled(known, decided.verdict)
        elif not any(
            (early.task_id, early.attempt) == (decided.task_id, decided.attempt)
            for early in self.early
        ):
            self.early.append(decided)

    def _one_settled(self, row: OutcomeRow, verdict: int) -> int:
        """The verdict, if no other attempt of the task is settled already."""
        is_other_settled = any(
            other is not row and other.task_id == row.task_id and other.verdict == Verdict.SETTLED
            for other in self.rows
        )
        return Verdict.REFUSED if is_other_settled and verdict == Verdict.SETTLED else verdict

    def _find(self, task: bytes, attempt: int) -> OutcomeRow | None:
        for row in self.rows:
            if (row.task_id, row.attempt) == (task, attempt):
                return row
        return None


class RandomBatch:
    """Batches of few tasks and attempts, so that repetitions and late or early verdicts
    are frequent; the same seed gives the same batches."""

    #: Small, so that keys collide often.
    TASKS_COUNT = 6
    ATTEMPTS_COUNT = 3

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a test's choices, not a secret
        self._serial = 0

    def outcomes(self) -> list[OutcomeRow]:
        """Up to four outcomes, each with content of its own."""
        return [self._outcome() for _ in range(self.random.randrange(5))]

    def verdicts(self) -> list[VerdictRow]:
        """Up to three verdicts, some of them none."""
        return [
            VerdictRow(self.task(), self._attempt(), self.random.choice(list(Verdict)))
            for _ in range(self.random.randrange(4))
        ]

    def task(self) -> bytes:
        """The id of one of the tasks."""
        return task_id(self.random.randrange(self.TASKS_COUNT))

    def time_ms(self) -> int:
        """A time for rows and expiry; long ago, so that no verdict that waits for its
        outcome, dated by the store's real clock, is ever old enough to go."""
        return self.random.randrange(10)

    def _attempt(self) -> int:
        return self.random.randint(1, self.ATTEMPTS_COUNT)

    def _outcome(self) -> OutcomeRow:
        self._serial += 1
        return outcome(
            self.random.randrange(self.TASKS_COUNT),
            self._attempt(),
            verdict=self.random.choice([Verdict.NONE] * 4 + [Verdict.SETTLED, Verdict.REFUSED]),
            stored_ms=self.time_ms(),
            body=b"%d" % self._serial,
        )
