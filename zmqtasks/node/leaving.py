"""The end of a process that may still own tasks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zmqtasks.node.client import Client


class Leaving:
    """Sees to the open tasks of a client, on the thread that ends the process."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self) -> None:
        """Wait for them, then say which are given up."""
        client = self._client
        wait_s = client.settings.exit_wait_s
        when, remedy = f"{wait_s:g} s after its end", ", or raise exit_wait_s"
        try:
            client.room.wait_empty(wait_s)
        except KeyboardInterrupt:
            when, remedy = "when the wait at its end was interrupted", ""
        left = client.room.count
        if left:
            names = client.on_loop(self._open_names)
            sys.stderr.write(
                f"zmqtasks: {left} of this process's tasks had not finished {when} and are given "
                f"up ({names}); wait for their results{remedy}\n"
            )

    def _open_names(self) -> str:
        client = self._client
        counts: dict[str, int] = {}
        for task in client.dispatcher.tasks.values():
            name = task.lane.kind.name
            counts[name] = counts.get(name, 0) + 1
        for waiting in client.lane.describe():
            counts[waiting["task"]] = counts.get(waiting["task"], 0) + waiting["count"]
        return ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:5])
