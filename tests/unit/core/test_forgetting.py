"""A forgotten result stays forgotten, also if it reaches the store only afterwards."""

from __future__ import annotations

from zmqtasks.core.effects import ForgetRows, StoreRows
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.limits import FORGOTTEN_MS
from zmqtasks.wire.messages import Kind, Outcome, PubResults, Verdict, VerdictRecord

_NODE = b"publishr"
_KIND = Kind("shop", "tasks.add", "", "default")


def _published(task_id: bytes, position: int) -> PubResults:
    outcome = Outcome(task_id, 1, 0, position, 0, 0, 0, 1, b"x", None)
    verdict = VerdictRecord(task_id, 1, Verdict.SETTLED, position + 1)
    return PubResults(_NODE, 1, [_KIND], [outcome], [verdict])


def _stored_ids(reader: ResultReader) -> list[bytes]:
    reader.flush()
    rows = [effect for effect in reader.effects if isinstance(effect, StoreRows)]
    return [row.task_id for batch in rows for row in batch.outcomes]


def test_outcome_on_its_way_when_its_task_is_forgotten_is_not_stored() -> None:
    reader = ResultReader()
    reader.forget([b"a" * 16], now_ms=1_000)
    reader.published(_published(b"a" * 16, 1), 1_000, 0)
    reader.published(_published(b"b" * 16, 3), 1_000, 0)
    assert _stored_ids(reader) == [b"b" * 16]
    assert ForgetRows([b"a" * 16]) in reader.effects


def test_outcome_taken_but_not_written_is_dropped() -> None:
    reader = ResultReader()
    reader.published(_published(b"a" * 16, 1), 1_000, 0)
    reader.forget([b"a" * 16], now_ms=1_000)
    assert _stored_ids(reader) == []


def test_forgotten_positions_count_as_arrived() -> None:
    reader = ResultReader()
    reader.forget([b"a" * 16], now_ms=1_000)
    reader.published(_published(b"a" * 16, 1), 1_000, 0)
    assert reader.publishers[_NODE, 1].upto == 2


def test_id_is_stored_again_once_nothing_can_be_on_its_way() -> None:
    reader = ResultReader()
    reader.forget([b"a" * 16], now_ms=1_000)
    reader.tick(1_000 + FORGOTTEN_MS)
    reader.published(_published(b"a" * 16, 1), 1_000 + FORGOTTEN_MS, 0)
    assert _stored_ids(reader) == [b"a" * 16]
