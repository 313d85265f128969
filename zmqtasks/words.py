"""How numbers and lists are put into words for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 task``, ``2 tasks``, ``1,200 tasks``: the plural is made with an "s".

    Args:
        number: how many.
        noun: in the singular; with words before it, too: "open task".
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
