"""What a node calls itself and how much it runs at once."""

from __future__ import annotations

import os
import socket

from zmqtasks.settings import NodeSettings


def slots_of(settings: NodeSettings) -> int:
    """How many tasks this worker runs at once."""
    if settings.pool == "solo":
        return 1
    return settings.concurrency or os.cpu_count() or 1


def node_name(settings: NodeSettings) -> str:
    """The node's name for people: as set, else host and process id."""
    return settings.name or f"{socket.gethostname()}-{os.getpid()}"
