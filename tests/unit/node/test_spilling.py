"""Spiller: order, answers, failures and the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from zmqtasks.core.effects import SpillFind, SpillRead, SpillTrim, SpillWrite
from zmqtasks.core.spillrows import EMPTY, SpillChange, SpillPiece, SpillRow, SpillState
from zmqtasks.errors import JournalError, JournalFull
from zmqtasks.journals.spill import SpillFile
from zmqtasks.limits import SPILL_FIND_IDS_MAX, SPILL_TRIES, SPILL_TRIM_ROWS_MAX
from zmqtasks.node.spilling import Spiller, SpillListener
from zmqtasks.wire.messages import Kind, Outcome, Verdict

ADD = Kind("shop", "tasks.add", "d1", "default")
#: Longer than any step takes; only a failing test waits for it.
PATIENCE_S = 20.0


def row(position: int, body: bytes = b"value") -> SpillRow:
    outcome = Outcome(
        position.to_bytes(16, "big"), 1, 0, position, -1, 0, 1, len(body), body, {"w": "w"}
    )
    return SpillRow(position, position, 0, ADD, outcome, None, Verdict.SETTLED)


class Faulty(SpillFile):
    """A file that fails on demand and can be held up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda: folder, 1 << 30, reserve_bytes=0)
        #: Taken one by one by the calls to come; then all succeed.
        self.failures: list[Exception] = []
        self.may_work = threading.Event()
        self.may_work.set()
        self.closed_count = 0

    def _pass(self) -> None:
        self.may_work.wait(PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)

    def write(self, rows: Sequence[SpillRow], changes: Sequence[SpillChange] = ()) -> None:
        self._pass()
        super().write(rows, changes)

    def read(self, first: int, last: int, count_max: int, bytes_max: int) -> SpillPiece:
        self._pass()
        return super().read(first, last, count_max, bytes_max)

    def close(self) -> None:
        self.closed_count += 1
        super().close()


class Bench:
    """A spiller whose answers the test takes one by one, on its own thread."""

    def __init__(self, folder: Path) -> None:
        self.file = Faulty(folder)
        self._answers: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        tell = self._answers.put
        self.spiller = Spiller(
            lambda: self.file,
            self._call_soon,
            SpillListener(
                spilled=lambda error, state: tell(("spilled", error, state.row_count)),
                read=lambda token, piece: tell(("read", token, _positions(piece))),
                found=lambda token, rows, why: tell(("found", token, len(rows), why)),
                trimmed=lambda state: tell(("trimmed", state.row_count)),
                broken=lambda error: tell(("broken", error)),
            ),
        )

    def _call_soon(self, function: Callable[..., None], *args: Any) -> None:
        function(*args)

    def do(self, *effects: SpillWrite | SpillRead | SpillFind | SpillTrim) -> None:
        for effect in effects:
            self.spiller.perform(effect)

    def answers(self, count: int) -> list[tuple[Any, ...]]:
        return [self._answers.get(timeout=PATIENCE_S) for _ in range(count)]

    def has_answered(self) -> bool:
        return not self._answers.empty()


def _positions(piece: SpillPiece) -> list[int]:
    return [found.position for found in piece.rows]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.file.may_work.set()
    made.spiller.close()


def read(token: int, first: int = 1, last: int = 9) -> SpillRead:
    return SpillRead(token, first, last, 100, 1 << 40)


def test_effects_are_carried_out_and_answered_in_the_order_given(bench: Bench) -> None:
    bench.file.may_work.clear()
    bench.do(
        SpillWrite(1, [row(1), row(2)], []),
        read(5),
        SpillFind(6, [row(2).outcome.id]),  # type: ignore[union-attr]
        SpillTrim(1, -1, [], []),
        read(7),
    )
    assert not bench.has_answered(), "the loop does not wait for the disk"
    bench.file.may_work.set()
    assert bench.answers(5) == [
        ("spilled", "", 2),
        ("read", 5, [1, 2]),
        ("found", 6, 1, ""),
        ("trimmed", 1),
        ("read", 7, [2]),
    ]


def test_a_large_trim_lets_others_have_their_turn_and_is_answered_at_its_end(
    bench: Bench,
) -> None:
    count = 2 * SPILL_TRIM_ROWS_MAX + 1
    bench.do(SpillWrite(1, [row(position) for position in range(1, count + 1)], []))
    bench.answers(1)
    bench.file.may_work.clear()
    bench.do(read(4, 1, 1), SpillTrim(count, -1, [], []), read(5, count, count))
    bench.file.may_work.set()
    assert bench.answers(3) == [("read", 4, [1]), ("read", 5, [count]), ("trimmed", 0)]


def test_full_disk_is_the_answer_to_a_write_and_loses_nothing(bench: Bench) -> None:
    bench.do(SpillWrite(1, [row(1)], []))
    bench.answers(1)
    bench.file.failures = [JournalFull("no room")]
    bench.do(SpillWrite(2, [row(2)], []), read(3))
    assert bench.answers(2) == [("spilled", "no room", 1), ("read", 3, [1])]


def test_failing_disk_is_tried_again_before_it_counts(bench: Bench) -> None:
    bench.file.failures = [JournalError("a hiccup")] * (SPILL_TRIES - 1)
    bench.do(SpillWrite(1, [row(1)], []))
    assert bench.answers(1) == [("spilled", "", 1)]
    bench.file.failures = [JournalError("it is broken")] * SPILL_TRIES
    bench.do(SpillWrite(2, [row(2)], []))
    assert bench.answers(1) == [("spilled", "it is broken", 1)]


def test_disk_that_cannot_be_read_has_lost_what_was_there_and_a_new_file_is_begun(
    bench: Bench,
) -> None:
    bench.do(SpillWrite(1, [row(1)], []))
    bench.answers(1)
    bench.file.failures = [JournalError("it is broken")] * SPILL_TRIES
    bench.do(read(2), SpillWrite(3, [row(5)], []), read(4))
    assert bench.answers(4) == [
        ("broken", "it is broken"),
        ("read", 2, []),
        ("spilled", "", 1),
        ("read", 4, [5]),
    ]


def test_error_of_its_own_is_answered_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Unanswered, a write would stop the node from starting tasks for ever."""
    bench.file.failures = [ZeroDivisionError("a bug")]
    bench.do(SpillWrite(1, [row(1)], []))
    assert bench.answers(1) == [("spilled", "ZeroDivisionError('a bug')", 0)]
    bench.do(SpillWrite(2, [row(1)], []))
    assert bench.answers(1) == [("spilled", "", 1)]
    assert "spill.failed" in caplog.text


def test_too_many_lookups_are_refused_with_the_reason(bench: Bench) -> None:
    bench.file.may_work.clear()
    ids = [b"i" * 16] * SPILL_FIND_IDS_MAX
    bench.do(read(1), SpillFind(2, ids), SpillFind(3, ids[:1]))
    assert bench.answers(1) == [
        ("found", 3, 0, "too many lookups wait for this node's disk, ask again later")
    ]
    bench.file.may_work.set()
    assert bench.answers(2) == [("read", 1, []), ("found", 2, 0, "")]


def test_end_gives_the_file_back_and_answers_nothing_more(bench: Bench) -> None:
    bench.do(SpillWrite(1, [row(1)], []))
    bench.answers(1)
    bench.spiller.close()
    assert bench.file.state == EMPTY
    assert bench.file.closed_count == 1
    bench.do(read(2))
    bench.spiller.close()
    assert not bench.has_answered()


def test_without_effects_there_is_no_thread_and_no_file(tmp_path: Path) -> None:
    before = threading.active_count()
    bench = Bench(tmp_path / "state")
    assert threading.active_count() == before
    bench.spiller.close()
    assert not (tmp_path / "state").exists()
    assert SpillState(0, 0, 0) == EMPTY
