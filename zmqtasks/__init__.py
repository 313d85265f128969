"""zmqtasks: a task queue that needs no broker.

::

    from zmqtasks import App

    app = App("shop")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 3).get(timeout=5)

Everything public is a name of this module; all else may change. Names are loaded at
their first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zmqtasks.version import __version__

if TYPE_CHECKING:
    from zmqtasks.app import states
    from zmqtasks.app.app import App, shared_task
    from zmqtasks.app.canvas.chains import chain, chord
    from zmqtasks.app.canvas.group import group
    from zmqtasks.app.canvas.maps import chunks, xmap, xstarmap
    from zmqtasks.app.canvas.result import GroupResult
    from zmqtasks.app.canvas.signature import Signature, maybe_signature, signature, subtask
    from zmqtasks.app.canvas.stamping import StampingVisitor
    from zmqtasks.app.depends import Depends
    from zmqtasks.app.eager import EagerResult
    from zmqtasks.app.lineage import result_from_tuple
    from zmqtasks.app.proxies import current_app, current_task
    from zmqtasks.app.result import AsyncResult
    from zmqtasks.app.resultset import ResultSet
    from zmqtasks.app.task import Task
    from zmqtasks.app.waiting import allow_join_result
    from zmqtasks.errors import (
        AppLoadError,
        ChordError,
        ConfigError,
        DecodeError,
        Ignore,
        ItemsLost,
        JournalCorrupt,
        JournalError,
        JournalFull,
        KeyRequired,
        KeyUnusable,
        MaxRetriesExceededError,
        MeshOverloaded,
        NoWorkers,
        PayloadTooLarge,
        PayloadTypeError,
        Reject,
        Retry,
        SecurityError,
        SoftTimeLimitExceeded,
        StoreError,
        SubmitError,
        SubmitRejected,
        SubmitUnknown,
        TaskDead,
        TaskError,
        TaskExpired,
        TaskFailed,
        TaskPredicate,
        TaskRejected,
        TaskRevokedError,
        TaskUnknown,
        TimeLimitExceeded,
        TimeoutError,
        WorkerLostError,
        ZmqTasksError,
    )

__all__ = [
    # applications and tasks
    "App",
    "Task",
    "shared_task",
    "current_app",
    "current_task",
    "Depends",
    # calls as values
    "Signature",
    "signature",
    "subtask",
    "maybe_signature",
    "chain",
    "chord",
    "group",
    "chunks",
    "xmap",
    "xstarmap",
    "StampingVisitor",
    # results
    "AsyncResult",
    "ResultSet",
    "GroupResult",
    "EagerResult",
    "result_from_tuple",
    "allow_join_result",
    "states",
    # errors of submitting
    "ZmqTasksError",
    "ConfigError",
    "AppLoadError",
    "SubmitError",
    "SubmitRejected",
    "SubmitUnknown",
    "MeshOverloaded",
    "NoWorkers",
    "PayloadTooLarge",
    "PayloadTypeError",
    # what tasks raise
    "TaskPredicate",
    "Retry",
    "Ignore",
    "Reject",
    "SoftTimeLimitExceeded",
    # errors of results
    "TaskError",
    "TaskFailed",
    "ChordError",
    "MaxRetriesExceededError",
    "TimeLimitExceeded",
    "WorkerLostError",
    "TaskDead",
    "TaskRevokedError",
    "TaskExpired",
    "TaskRejected",
    "TaskUnknown",
    "TimeoutError",
    "ItemsLost",
    "DecodeError",
    "StoreError",
    "JournalError",
    "JournalFull",
    "JournalCorrupt",
    # errors of security
    "SecurityError",
    "KeyRequired",
    "KeyUnusable",
    "__version__",
]

#: {public name: module that has it}; names not listed come from zmqtasks.errors.
_HOMES = {
    "App": "zmqtasks.app.app",
    "Task": "zmqtasks.app.task",
    "shared_task": "zmqtasks.app.app",
    "current_app": "zmqtasks.app.proxies",
    "current_task": "zmqtasks.app.proxies",
    "Depends": "zmqtasks.app.depends",
    "allow_join_result": "zmqtasks.app.waiting",
    "AsyncResult": "zmqtasks.app.result",
    "ResultSet": "zmqtasks.app.resultset",
    "GroupResult": "zmqtasks.app.canvas.result",
    "EagerResult": "zmqtasks.app.eager",
    "result_from_tuple": "zmqtasks.app.lineage",
    "Signature": "zmqtasks.app.canvas.signature",
    "signature": "zmqtasks.app.canvas.signature",
    "subtask": "zmqtasks.app.canvas.signature",
    "maybe_signature": "zmqtasks.app.canvas.signature",
    "chain": "zmqtasks.app.canvas.chains",
    "chord": "zmqtasks.app.canvas.chains",
    "group": "zmqtasks.app.canvas.group",
    "chunks": "zmqtasks.app.canvas.maps",
    "StampingVisitor": "zmqtasks.app.canvas.stamping",
    "xmap": "zmqtasks.app.canvas.maps",
    "xstarmap": "zmqtasks.app.canvas.maps",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "states":
        found: Any = import_module("zmqtasks.app.states")
    else:
        found = getattr(import_module(_HOMES.get(name, "zmqtasks.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
