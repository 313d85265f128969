"""How numbers and lists are put into words for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``, ``1,200 tasks``: the plural is made with an "s".

    Args:
        number: how many.
        noun: in the singular; with words before it, too: "open task".
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def told_apart(nodes: Sequence[tuple[str, str]]) -> list[str]:
    """The names of nodes; of those that share one each with its id: ``w1@a7c03e51f09b2d64``.

    Args:
        nodes: ``(name, id)`` of each; who has no name is called by its id.
    """
    counts = Counter(name for name, _ in nodes)
    return [f"{name}@{node}" if name and counts[name] > 1 else name or node for name, node in nodes]
