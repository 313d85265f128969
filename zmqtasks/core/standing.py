"""How long tasks have stood between two nodes, for `zmqtasks status`.

A handoff takes milliseconds. What stands for minutes waits for a node that is away with
its journal, and people may have to bring that back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any


class Standing:
    """The age of the oldest of some things, of which the first to come is always the first.

    Only the first one is looked at, so this costs nothing however many there are. When it
    goes, the time of the next one begins: an age that is told is never too long.
    """

    def __init__(self) -> None:
        self._first: object = None
        self._since_ms = 0

    def look(self, things: Iterable[object], now_ms: int) -> None:
        """These are there now."""
        first = next(iter(things), None)
        if first != self._first:
            self._first, self._since_ms = first, now_ms

    def describe(self, nodes: Iterable[bytes], now_ms: int) -> dict[str, Any]:
        """Plain data: ``ms``, at least so long, and ``nodes``, {id of the node that is waited
        for, in hex: tasks}.

        Args:
            nodes: whom each of them waits for.
            now_ms: the time.
        """
        counts = Counter(node.hex() for node in nodes)
        since_ms = self._since_ms if self._first is not None else now_ms
        return {"ms": now_ms - since_ms, "nodes": dict(counts)}
