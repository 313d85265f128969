"""Attempts that end with calls of others; ``canvas/replacing.py`` makes them."""

from __future__ import annotations

from typing import Any

from zmqtasks.errors import Ignore
from zmqtasks.wire.messages import Outcome

#: {(id, attempt): calls that join the chord of an attempt that runs here}; signatures where it
#: runs eagerly.
added: dict[tuple[bytes, int], list[Any]] = {}


class Replaced(Ignore):
    """Ends an attempt of a task that others take the place of.

    Args:
        text: for the log.
        calls: as the owner is told of them.
        ext: the facts that let the task wait for them.
    """

    def __init__(self, text: str, calls: bytes, ext: dict[str, Any]) -> None:
        super().__init__(text)
        self.calls = calls
        self.ext = ext


class ReplacedEagerly(Ignore):
    """The same where the task runs eagerly, and they have run.

    Args:
        outcome: of the last one.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("replaced")
        self.outcome = outcome
