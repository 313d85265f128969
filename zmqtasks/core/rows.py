"""What a store keeps: one row for each attempt that ended, and the rule of which counts.

A worker publishes an outcome for each attempt and, once the owner has decided, the
owner's verdict on it (both in one numbered log). A store keeps all rows of a task; the
row whose verdict is *settled* is the task's final outcome. Without a verdict (the
owner is gone for good) the first outcome that was stored stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from zmqtasks.wire.messages import Verdict


class OutcomeRow(msgspec.Struct, gc=False):
    """One ended attempt, as a store holds it. Key: ``(task_id, attempt)``."""

    task_id: bytes
    attempt: int
    #: A ``wire.messages.Status``.
    status: int
    #: A ``wire.messages.Verdict``.
    verdict: int
    #: Node id and epoch of the publisher, and the position in its log.
    publisher: bytes
    epoch: int
    position: int
    app: str
    name: str
    queue: str
    #: Name of the worker node.
    worker: str
    #: Wall clock, milliseconds since 1970: when the attempt started, for people.
    started_ms: int
    run_us: int
    #: Wall clock when the store got it; ``expire`` goes by it.
    stored_ms: int
    #: The payload (result or error), as the child encoded it.
    body: bytes
    ext: dict[str, Any] = {}


class VerdictRow(msgspec.Struct, gc=False):
    """The owner's decision about one attempt; may arrive before its outcome."""

    task_id: bytes
    attempt: int
    verdict: int


def final_row(rows: Sequence[OutcomeRow]) -> OutcomeRow | None:
    """The row that is the task's outcome, or None.

    Args:
        rows: all rows of one task in the order in which they were first stored.
    """
    for row in rows:
        if row.verdict == Verdict.SETTLED:
            return row
    for row in rows:
        if row.verdict == Verdict.NONE:
            return row
    return None
