"""Changes of a folder, from the kernel."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from zmqtasks.discovery.inotify import IN_CLOSE_WRITE, IN_DELETE, IN_MOVED_TO, Inotify


def test_changes_are_told_with_their_names(tmp_path: Path) -> None:
    watcher = Inotify()
    number = watcher.watch(tmp_path, IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE)
    assert watcher.read() == []
    (tmp_path / "new").write_text("x")
    (tmp_path / "new").rename(tmp_path / "näme")
    (tmp_path / "näme").unlink()
    assert watcher.read() == [
        (number, IN_CLOSE_WRITE, "new"),
        (number, IN_MOVED_TO, "näme"),
        (number, IN_DELETE, "näme"),
    ]
    watcher.close()
    watcher.close()


def test_a_missing_folder_cannot_be_watched(tmp_path: Path) -> None:
    watcher = Inotify()
    with pytest.raises(OSError, match="cannot watch") as caught:
        watcher.watch(tmp_path / "missing", IN_DELETE)
    assert caught.value.errno == errno.ENOENT
    watcher.close()
