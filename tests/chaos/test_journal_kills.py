"""A process that commits in a loop is killed: all that it was told is in its journal."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.journal_power import make_commits
from tests.chaos.journal_writer import COMMITS_MAX
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.journals.sqlite import SqliteJournal

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "kills", [3, pytest.param(30, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])]
)
def test_what_was_committed_survives_kills_at_any_moment(tmp_path: Path, kills: int) -> None:
    folder, seed = tmp_path / "tasks", 11
    choice = random.Random(seed)
    commits = make_commits(COMMITS_MAX, seed)
    held: dict[bytes, OwnedRecord] = {}
    count = untold = 0
    for _ in range(kills):
        last = killed(folder, seed, count, choice.randint(1, 150))
        while count <= last:
            held = next(commits).apply(held)
            count += 1
        found = content(folder)
        if found != list(held.values()):
            # One more was committed, and it died before it could tell.
            held = next(commits).apply(held)
            count += 1
            untold += 1
            assert found == list(held.values())
    print(f"\n{kills} kills, {count} commits, {untold} of them nobody was told of")


def killed(folder: Path, seed: int, first: int, tell_count: int) -> int:
    """The last commit that a process told before it was killed, after so many or a few more."""
    command = [sys.executable, "-m", "tests.chaos.journal_writer", *map(str, (folder, seed, first))]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(tell_count)]
        writer.send_signal(signal.SIGKILL)
        # Whatever it told before it died counts as well.
        told += [int(line) for line in writer.stdout if line.endswith("\n")]
    assert told == list(range(first, first + len(told)))
    return told[-1]


def content(folder: Path) -> list[OwnedRecord]:
    journal = SqliteJournal(folder)
    journal.open()
    try:
        return list(journal.load())
    finally:
        journal.close()
