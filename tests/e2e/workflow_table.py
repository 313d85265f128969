"""Workflows by shape, and what becomes of them: the table of docs/reference/workflows.md.

``test_workflow_table.py`` tries each cell with real nodes; ``docs/generate_workflows.py`` writes
the page.
"""

from __future__ import annotations

from typing import NamedTuple

#: What happens, and how the page calls it.
OUTCOMES = {
    "success": "all succeed",
    "first": "the first call, or one of the header, fails",
    "last": "the last call, or the body, fails",
    "retry": "calls are retried",
    "revoke": "all are revoked before they start",
    "worker": "the worker of the first call is killed",
    "owner": "their owner is killed and restarted",
}
#: How an ending is called on the page.
WORDS = {
    "value": "its value",
    "KeyError": "raises its exception",
    "ChordError": "`ChordError`",
    "TaskRevokedError": "`TaskRevokedError`",
}


class Shape(NamedTuple):
    """One way to compose calls."""

    #: Makes the result from ``first``, ``between`` and ``last``, functions that make signatures.
    code: str
    #: What comes of it if all goes well.
    value: object
    #: What ``get()`` does where that is not ``value``; of "first" and "last".
    first: str = "KeyError"
    last: str = "KeyError"
    #: Of ``revoke``.
    revoked: str = "TaskRevokedError"


#: ``step(x)`` gives ``x + 1``, of a list the sum of it + 1.
SHAPES = {
    "`task`": Shape("first(0)", 1, last="value"),
    "`task`, `link=callback`": Shape("first(0).set(link=[last()])", 1, last="value"),
    "`a | b | c`": Shape("first(0) | between() | last()", 3),
    "`group(a, b)`": Shape("group([first(0), last(1)])", [1, 2]),
    "`group(a, b) | c`": Shape("group([first(0), between(1)]) | last()", 4, first="ChordError"),
    "`a | group(b, c)`": Shape("first(0) | group([between(), last()])", [2, 2]),
    "`a | group(b, c) | d`": Shape("first(0) | group([between(), between()]) | last()", 5,
                                   first="ChordError"),
    "`chord([a | b, chord([c, d], e)], f)`": Shape(
        "chord([first(0) | between(), chord([between(1), between(2)], between())], last())", 9,
        first="ChordError",
    ),
    "`group(a | b, c | d)`": Shape(
        "group([first(0) | between(), between(0) | last()])", [2, 2]
    ),
    "`self.replace(a | b)`": Shape("become.s(first(0) | last())", 2),
    "`self.replace(group(a, b))`": Shape(
        "become.s(group([first(0), last(1)]))", [1, 2], first="ChordError", last="ChordError"
    ),
}  # fmt: skip


def cell(shape: Shape, outcome: str) -> str:
    """The key in ``WORDS`` of what comes of it."""
    if outcome in ("first", "last"):
        return getattr(shape, outcome)  # type: ignore[no-any-return]  # both are texts
    return shape.revoked if outcome == "revoke" else "value"
