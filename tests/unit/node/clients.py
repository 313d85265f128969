"""Clients of real but empty meshes, for tests of this folder."""

from __future__ import annotations

import threading
from pathlib import Path

from zmqtasks.settings import NodeSettings
from zmqtasks.wire.messages import Outcome, UpdateRecord

PATIENCE_S = 20.0


def settings_in(folder: Path, **more: object) -> NodeSettings:
    """Settings of a process whose files all lie in a folder."""
    folders = {key: str(folder / key) for key in ("runtime_dir", "state_dir", "cache_dir")}
    return NodeSettings(
        **{"mesh": "unit", "mdns": False, "exit_wait_s": 0.0, **folders, **more}  # type: ignore[arg-type]
    )


class Told:
    """A ticket."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._told = threading.Event()

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """See ``Ticket``."""
        assert task_id == outcome.id
        self.outcomes.append(outcome)
        self._told.set()

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """See ``Ticket``; nobody looks at news here."""

    def wait(self) -> bytes:
        """The id of the task that settled."""
        assert self._told.wait(PATIENCE_S)
        return self.outcomes[0].id
