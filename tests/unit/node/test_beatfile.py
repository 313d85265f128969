"""What beats know of ticks, on the disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from zmqtasks.core.ticks import Fate
from zmqtasks.node.beatfile import BeatFile
from zmqtasks.wire.beat import BeatRecord, TickRecord


def entry(name: str, upto_ms: int, *ticks: TickRecord) -> BeatRecord:
    return BeatRecord(name, "every 1 s", 1_000, upto_ms, False, 0, list(ticks))


def saved(folder: Path, *entries: BeatRecord, app: str = "shop") -> None:
    file = BeatFile(folder, "m", app)
    file.save(list(entries))
    file.close()


def test_what_was_saved_is_read_by_the_next_beat(tmp_path: Path) -> None:
    tick = TickRecord(5_000, Fate.ENDED, [b"node-one"], 0, 5_100, b"node-one")
    saved(tmp_path, entry("tidy", 5_000, tick))
    assert BeatFile(tmp_path, "m", "shop").read() == [entry("tidy", 5_000, tick)]


def test_beats_of_one_host_put_together_what_they_know(tmp_path: Path) -> None:
    one = TickRecord(5_000, Fate.OPEN, [b"node-one"])
    other = TickRecord(5_000, Fate.ENDED, [b"node-two"], 0, 5_100, b"node-two")
    saved(tmp_path, entry("tidy", 5_000, one), entry("only one has it", 2_000))
    saved(tmp_path, entry("tidy", 6_000, other))
    found = {record.name: record for record in BeatFile(tmp_path, "m", "shop").read()}
    assert found.keys() == {"tidy", "only one has it"}
    assert found["tidy"].upto_ms == 6_000
    assert found["tidy"].ticks[0].starts == [b"node-one", b"node-two"]
    assert found["tidy"].ticks[0].fate == Fate.ENDED


def test_applications_have_files_of_their_own_whatever_they_are_called(tmp_path: Path) -> None:
    saved(tmp_path, entry("tidy", 5_000), app="a/b")
    saved(tmp_path, entry("tidy", 9_000), app="a:b")
    assert BeatFile(tmp_path, "m", "a/b").read()[0].upto_ms == 5_000
    assert BeatFile(tmp_path, "m", "a:b").read()[0].upto_ms == 9_000
    assert BeatFile(tmp_path, "m", "c").read() == []


def test_a_damaged_file_is_moved_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, entry("tidy", 5_000))
    file = BeatFile(tmp_path, "m", "shop")
    file.path.write_bytes(file.path.read_bytes()[:-3])
    with caplog.at_level(logging.ERROR):
        assert file.read() == []
    assert "is damaged" in caplog.text
    assert "which ticks were missed is not known" in caplog.text
    assert file.path.with_suffix(".damaged").exists()
    saved(tmp_path, entry("tidy", 6_000))
    assert file.read()[0].upto_ms == 6_000


def test_a_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = BeatFile(tmp_path / "gone", "m", "shop")
    with caplog.at_level(logging.ERROR):
        file.save([entry("tidy", 5_000)])
        file.close()
    assert "cannot be written" in caplog.text
    assert "will not know what it missed" in caplog.text
