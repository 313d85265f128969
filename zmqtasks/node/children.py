"""What code in a pool slot asks of its node: submit, look up, forget, log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from zmqtasks.core import effects as fx
from zmqtasks.ids import format_task_id
from zmqtasks.node.keeping import publish
from zmqtasks.node.runtime import Runtime
from zmqtasks.pools.base import Pool
from zmqtasks.pools.protocol import (
    Answer,
    ChildRequest,
    ForgetRequest,
    KeepRequest,
    LogRecord,
    QueryRequest,
    StateUpdate,
    SubmitRequest,
)
from zmqtasks.wire.messages import StateRecord, Submit, TaskRecord, UpdateRecord

_LOG = logging.getLogger("zmqtasks.task")
_NODE_LOG = logging.getLogger("zmqtasks.node")


class ChildRequests:
    """Takes the requests of slots and sees that each gets its answer."""

    def __init__(self, runtime: Runtime, pool: Pool | None) -> None:
        self._runtime = runtime
        self._pool = pool
        #: {token of a question to the mesh: (slot, the child's request)}.
        self._questions: dict[int, tuple[int, int]] = {}

    def take(self, slot: int, request: ChildRequest) -> None:
        """One request of a slot."""
        if isinstance(request, LogRecord):
            log_line(request)
        elif isinstance(request, SubmitRequest):
            self._submit(slot, request)
        elif isinstance(request, QueryRequest):
            self._query(slot, request)
        elif isinstance(request, StateUpdate):
            self._update(slot, request)
        elif isinstance(request, ForgetRequest):
            self._runtime.mesh.forget(request.ids)
        elif isinstance(request, KeepRequest):
            publish(self._runtime, request.kind, request.id, request.body)
        else:
            _NODE_LOG.warning("slot %d sent a %s, which this node does not know", slot,
                              type(request).__name__)  # fmt: skip

    def _submit(self, slot: int, request: SubmitRequest) -> None:
        intake = self._runtime.mesh.intake
        assert intake is not None
        records = [
            TaskRecord(kind, task_id, 1, body, ext) for kind, task_id, body, ext in request.calls
        ]
        message = Submit(0, request.parent, request.kinds, records)
        intake.slot_submits(slot, request.request, request.parent, request.attempt, message)

    def _update(self, slot: int, update: StateUpdate) -> None:
        intake = self._runtime.mesh.intake
        assert intake is not None
        record = UpdateRecord(update.id, update.attempt, update.number, update.state, update.meta)
        intake.slot_updates(slot, record)

    def _query(self, slot: int, request: QueryRequest) -> None:
        mesh = self._runtime.mesh
        token = mesh.ask(request.ids, request.wait, self._runtime.now_ms)
        self._questions[token] = (slot, request.request)

    def answered(self, effect: fx.QuestionAnswered) -> None:
        """The mesh answered a question of a slot."""
        if effect.final:
            asked = self._questions.pop(effect.token, None)
            if asked is not None:
                self.answer(*asked, "", effect.states)

    def answer(self, slot: int, request: int, error: str, states: Sequence[StateRecord]) -> None:
        """Send an answer to a slot."""
        assert self._pool is not None
        self._pool.answer(slot, Answer(request, error, list(states)))


def log_line(record: LogRecord) -> None:
    """A line that a task wrote, in the node's log with the task's name and id."""
    if not _LOG.isEnabledFor(record.level):
        return
    task_id = format_task_id(record.id) if record.id else None
    who = f"{record.name}[{task_id}] " if task_id else ""
    where = record.logger if record.stream == "logging" else record.stream
    facts = {"task_id": task_id, "task_name": record.name or None, "source": where or None}
    # Without a logger it is about the task.
    _LOG.log(record.level, "%s%s%s", who, f"{where}: " if where else "", record.text,
             extra={**facts, "task_text": record.text})  # fmt: skip
