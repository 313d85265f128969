"""Why a worker does not accept a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from zmqtasks.core.requirements import (
    ABILITIES,
    Stock,
    abilities_for,
    addressee,
    explain_misfit,
)
from zmqtasks.wire.messages import CatalogEntry, Kind, RejectCode, TaskRecord

Refusal = tuple[RejectCode, str]


def refusal_of(
    kind: Kind, queues: Collection[str], catalog: Mapping[tuple[str, str], CatalogEntry],
    stock: Stock,
) -> Refusal | None:  # fmt: skip
    """Why no task of this kind is run here, None if they are.

    Args:
        kind: of the tasks.
        queues: served here.
        catalog: {(app, name): the task} that is here.
        stock: tags and resources of this worker.
    """
    if kind.queue not in queues and not addressee(kind):
        return RejectCode.NO_QUEUE, f"queue '{kind.queue}' is not served here"
    entry = catalog.get((kind.app, kind.name))
    if entry is None:
        return RejectCode.UNKNOWN_TASK, f"task '{kind.name}' of app '{kind.app}' is not here"
    if kind.digest and entry.digest and kind.digest != entry.digest:
        theirs = dict(kind.ext).get("sig", "")
        return RejectCode.UNKNOWN_TASK, (
            f"task '{kind.name}' has signature {theirs} at its caller, but "
            f"{entry.signature} here: restart the side with the older code"
        )
    if kind.ext:
        for key, _ in kind.ext:
            if key.startswith("!"):
                return RejectCode.UNSUPPORTED, f"option '{key[1:]}' is not known to this worker"
        misfit = explain_misfit(kind, [(stock.node, stock.offer)])
        if misfit:
            return RejectCode.UNKNOWN_TASK, f"task '{kind.name}' is not for this worker: {misfit}"
    return None


def refusal_of_record(record: TaskRecord, can: Collection[str]) -> Refusal | None:
    """Why this very task is not run here, None if it is.

    Args:
        record: the task.
        can: what the pool can do, of ``ABILITIES``. Owners go by what the worker announced of
            that, unless they are of an earlier version.
    """
    for key in record.ext or ():
        if key.startswith("!"):
            return RejectCode.UNSUPPORTED, f"option '{key[1:]}' is not known to this worker"
    for ability in abilities_for(record.ext):
        if ability not in can:
            return RejectCode.UNSUPPORTED, (
                f"the call has {ABILITIES[ability]}, which the pool of this worker cannot keep; "
                "run it on workers with a process pool, or without the limit"
            )
    return None
