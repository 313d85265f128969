"""``python -m zmqtasks`` is the command ``zmqtasks``."""

from __future__ import annotations

from zmqtasks.cli import main

if __name__ == "__main__":
    main(prog_name="zmqtasks")
