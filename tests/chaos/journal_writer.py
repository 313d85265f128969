"""A process that makes commits until it is killed, and tells each one that returned.

``python -m tests.chaos.journal_writer FOLDER SEED FIRST``: from commit FIRST on those of
``journal_power.make_commits``.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from tests.chaos.journal_power import make_commits
from zmqtasks.journals import sqlite_log
from zmqtasks.journals.sqlite import SqliteJournal

#: More than it will ever make.
COMMITS_MAX = 1_000_000


def main() -> None:
    """See the module."""
    folder, seed, first = sys.argv[1:]
    # So that many a kill comes while the log is emptied.
    assert hasattr(sqlite_log, "JOURNAL_CHECKPOINT_PAGES")
    setattr(sqlite_log, "JOURNAL_CHECKPOINT_PAGES", 40)  # noqa: B010 - a constant
    journal = SqliteJournal(Path(folder))
    journal.open()
    commits = enumerate(make_commits(COMMITS_MAX, int(seed)))
    for number, commit in itertools.islice(commits, int(first), None):
        journal.commit(commit.puts, commit.progress, commit.drops, sync=commit.sync)
        print(number, flush=True)


if __name__ == "__main__":
    main()
