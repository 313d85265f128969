"""``python -m zmqtasks`` is the command ``zmqtasks``."""

from __future__ import annotations

import sys


def run() -> None:
    """The command; Ctrl-C ends it quietly even while it is still being imported."""
    try:
        from zmqtasks.cli import main

        main(prog_name="zmqtasks")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
