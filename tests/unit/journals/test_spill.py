"""The file of results that wait for a store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from zmqtasks.core.spillrows import EMPTY, UNDECIDED, SpillChange, SpillRow
from zmqtasks.errors import ConfigError, JournalError, JournalFull
from zmqtasks.journals.spill import SpillFile
from zmqtasks.limits import SPILL_TRIM_BYTES_MAX, SPILL_TRIM_ROWS_MAX
from zmqtasks.wire.messages import Kind, Outcome, Verdict, VerdictRecord

ADD = Kind("shop", "tasks.add", "d1", "default", (("idem", 0),))
MIB = 1024 * 1024


def task_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def row(
    position: int, body: bytes = b"value", *, need: int = 0, at_ms: int = 0, task: int = 0,
    decision: Verdict = Verdict.SETTLED,
) -> SpillRow:  # fmt: skip
    outcome = Outcome(
        task_id(task or position), 2, 1, position, -1, 1_700, 250, len(body), body,
        {"w": "worker", "e": "text"},
    )  # fmt: skip
    return SpillRow(position, need or position, at_ms, ADD, outcome, None, decision)


def verdict(position: int) -> SpillRow:
    record = VerdictRecord(task_id(7), 1, Verdict.SETTLED, position)
    return SpillRow(position, position, 0, None, None, record)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SpillFile]:
    made = SpillFile(lambda: tmp_path / "spill", 64 * MIB, reserve_bytes=0)
    yield made
    made.close()


def positions(file: SpillFile, first: int = 1, last: int = 10**6) -> list[int]:
    return [found.position for found in file.read(first, last, 10**6, 1 << 40).rows]


def test_rows_come_back_as_they_went_in(file: SpillFile) -> None:
    rows = [
        row(1),
        verdict(2),
        row(3, b"", need=UNDECIDED, decision=Verdict.NONE),
        row(4, b"x" * MIB),
    ]
    file.write(rows)
    assert file.read(1, 4, 100, 1 << 40).rows == rows


def test_outcomes_that_were_written_are_left_as_they_are(file: SpillFile) -> None:
    written = row(1)
    file.write([written])
    assert written.outcome is not None
    assert written.outcome.body == b"value", "it is still in memory, for others"


def test_the_file_has_no_name_so_that_nothing_is_left_of_a_killed_process(
    file: SpillFile, tmp_path: Path
) -> None:
    file.write([row(1)])
    assert list((tmp_path / "spill").iterdir()) == []
    assert (tmp_path / "spill").stat().st_mode & 0o777 == 0o700


def test_what_a_process_killed_at_its_start_left_is_removed(
    file: SpillFile, tmp_path: Path
) -> None:
    (tmp_path / "spill").mkdir(mode=0o700)
    (tmp_path / "spill" / "left.db").touch()
    file.write([row(1)])
    assert list((tmp_path / "spill").iterdir()) == []


def test_nothing_is_made_before_the_first_write(file: SpillFile, tmp_path: Path) -> None:
    assert file.read(1, 9, 1, 1).rows == []
    assert file.find([task_id(1)]) == []
    assert not file.trim(9, -1)
    file.drop([1], [task_id(1)])
    assert list(tmp_path.iterdir()) == []


def test_piece_has_bounds_but_at_least_one_row_and_says_how_far_it_goes(file: SpillFile) -> None:
    file.write([row(position, b"x" * 1_000) for position in (2, 3, 5, 7)])
    piece = file.read(1, 9, 2, 1 << 40)
    assert ([found.position for found in piece.rows], piece.upto) == ([2, 3], 3)
    piece = file.read(4, 9, 100, 1)
    assert ([found.position for found in piece.rows], piece.upto) == ([5], 5)
    piece = file.read(6, 9, 100, 1 << 40)
    assert ([found.position for found in piece.rows], piece.upto) == ([7], 9)


def test_state_tells_how_much_is_there_and_from_where_on(file: SpillFile) -> None:
    assert file.state == EMPTY
    file.write([row(5), row(6)])
    assert (file.state.row_count, file.state.low) == (2, 5)
    file.write([row(3, b"x" * 1_000), row(8)])
    assert (file.state.row_count, file.state.low) == (4, 3)
    assert file.state.bytes > 1_000
    file.trim(5, -1)
    assert (file.state.row_count, file.state.low) == (2, 6)
    file.trim(9, -1)
    assert file.state == EMPTY


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not count")
def test_decisions_do_not_write_the_payloads_again(file: SpillFile) -> None:
    """They did, and all of a transaction was in memory until its end."""
    rows = [
        row(number, b"x" * MIB, need=UNDECIDED, decision=Verdict.NONE) for number in range(1, 33)
    ]
    file.write(rows)
    before = _bytes_written()
    file.write([], [SpillChange(number, 50, Verdict.SETTLED) for number in range(1, 33)])
    assert _bytes_written() - before < MIB
    assert {found.need for found in file.read(1, 32, 100, 1 << 40).rows} == {50}


def test_trim_spares_what_needs_a_later_position_or_a_decision(file: SpillFile) -> None:
    file.write([row(1, need=4), row(2, need=UNDECIDED), row(3), verdict(4), row(5)])
    assert not file.trim(3, -1)
    assert positions(file) == [1, 2, 4, 5]
    file.trim(5, -1)
    assert positions(file) == [2]


def test_trim_by_age_takes_the_old_ones(file: SpillFile) -> None:
    file.write([row(1, at_ms=100, need=UNDECIDED), row(2, at_ms=200), row(3, at_ms=300)])
    file.trim(0, 300)
    assert positions(file) == [3]


def test_trim_works_in_pieces(file: SpillFile) -> None:
    file.write([row(position) for position in range(1, SPILL_TRIM_ROWS_MAX + 3)])
    assert file.trim(10**6, -1)
    assert positions(file) == [SPILL_TRIM_ROWS_MAX + 1, SPILL_TRIM_ROWS_MAX + 2]
    assert not file.trim(10**6, -1)
    body = b"x" * (SPILL_TRIM_BYTES_MAX // 2)
    file.write([row(position, body) for position in (1, 2, 3)])
    assert file.trim(10**6, -1)
    assert positions(file) == [3]


def test_rows_and_tasks_are_dropped_by_name(file: SpillFile) -> None:
    file.write([row(1), row(2), row(3, task=9), row(4, task=9, need=UNDECIDED), verdict(5)])
    file.drop([1, 77], [task_id(9), task_id(77)])
    assert positions(file) == [2, 4, 5]
    assert file.state.row_count == 3


def test_last_outcome_of_a_task_is_found_unless_it_was_refused(file: SpillFile) -> None:
    refused = row(3, task=9, decision=Verdict.REFUSED)
    file.write([row(1, b"first", task=9), row(2, b"second", task=9), refused, row(4)])
    (found,) = file.find([task_id(9), task_id(77)])
    assert found.outcome is not None
    assert found.outcome.body == b"second"


def test_room_of_an_empty_file_goes_back_to_the_disk_and_another_can_be_begun(
    file: SpillFile,
) -> None:
    file.write([row(1, b"x" * MIB)])
    assert _open_bytes() >= MIB
    file.trim(9, -1)
    assert _open_bytes() == 0
    file.write([row(2)])
    assert positions(file) == [2]


def test_full_file_refuses_a_write_as_a_whole_and_has_room_again_after_a_trim(
    tmp_path: Path,
) -> None:
    file = SpillFile(lambda: tmp_path, 4 * MIB, reserve_bytes=0)
    file.write([row(position, b"x" * MIB) for position in (1, 2)])
    with pytest.raises(JournalFull, match="result_spill_bytes_max is 4194304; raise it"):
        file.write([row(position, b"x" * MIB) for position in (3, 4)])
    assert positions(file) == [1, 2]
    assert file.state.row_count == 2
    file.trim(1, -1)
    file.write([row(3, b"x" * MIB)])
    assert positions(file) == [2, 3]
    file.close()


def test_room_that_others_need_is_left_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SpillFile(lambda: tmp_path, 1 << 40, reserve_bytes=100 * MIB)
    free = [200 * MIB]
    real = os.statvfs(tmp_path)

    def nearly_full(_: object) -> os.statvfs_result:
        values = list(real)
        values[1], values[2], values[4] = 1, 16 * 1024 * MIB, free[0]
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    file.write([row(1, b"x" * MIB), row(2, b"x" * MIB)])
    free[0] = 100 * MIB
    with pytest.raises(JournalFull, match="left to others; free space there"):
        file.write([row(3)])
    file.trim(1, -1)
    file.write([row(3, b"x" * (MIB // 2))])
    assert positions(file) == [2, 3], "what it has freed within its file it may use"
    file.close()


def test_damaged_row_is_left_out_and_counted_once(file: SpillFile) -> None:
    file.write([row(1), row(2), row(3)])
    assert isinstance(file._db, sqlite3.Connection)
    file._db.execute("UPDATE bodies SET body = 'other' WHERE position = 2")
    piece = file.read(1, 3, 100, 1 << 40)
    assert ([found.position for found in piece.rows], piece.lost_count) == ([1, 3], 1)
    assert file.read(1, 3, 100, 1 << 40).lost_count == 0
    assert file.state.row_count == 2


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE rows SET record = 3",
        "UPDATE rows SET sum = 3",
        "UPDATE bodies SET body = 3",
        "DELETE FROM bodies",
    ],
)
def test_damage_shows_wherever_it_is(file: SpillFile, damage: str) -> None:
    file.write([row(1)])
    assert file._db is not None
    file._db.execute(damage)
    assert file.read(1, 1, 100, 1 << 40).lost_count == 1


def test_folder_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = SpillFile(lambda: tmp_path / "file", MIB)
    with pytest.raises(JournalError, match=r"file: .*; make it writable, or choose another state"):
        file.write([row(1)])

    def none() -> Path:
        raise ConfigError("state_dir /nowhere cannot be made")

    with pytest.raises(JournalError, match="state_dir /nowhere cannot be made"):
        SpillFile(none, MIB).write([row(1)])


def _open_bytes() -> int:
    """What this process keeps on the disk in files without a name."""
    total = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if str(entry.readlink()).endswith(".db (deleted)"):
                total += entry.stat().st_blocks * 512
        except OSError:
            continue
    return total


def _bytes_written() -> int:
    """By this process, ever."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["wchar"])
