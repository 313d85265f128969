"""Calls that run here and now, as they would on a worker.

Arguments and results are encoded and decoded, and the attempts run through the very code
that a worker's process has (``childmain.py``), handlers and signals included.
"""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from uuid import uuid4

from zmqtasks.app import timing
from zmqtasks.app.awaited import first_failed
from zmqtasks.app.callbacks import listed, match_call
from zmqtasks.app.canvas.result import GroupResult
from zmqtasks.app.canvas.signature import Signature, linked_signature, merged_options
from zmqtasks.app.childmain import AppProgram
from zmqtasks.app.context import EagerRun
from zmqtasks.app.current import in_running_loop
from zmqtasks.app.fact_keys import CHORD_KEY, IGNORED_KEY
from zmqtasks.app.lineage import AnyResult
from zmqtasks.app.looking import Look
from zmqtasks.app.middleware import OutgoingCall
from zmqtasks.app.option_checks import STAMPS_KEY, stamps_of
from zmqtasks.app.publishing import passed_through
from zmqtasks.app.result import AsyncResult
from zmqtasks.app.resultset import ResultSet
from zmqtasks.app.retrying import RETRIES_KEY, count_of
from zmqtasks.app.submitting import check_arguments, checked_options
from zmqtasks.core.offspring import CAUSE_KEY, FAILED_KEY, errback_calls
from zmqtasks.core.resultlog import ADDED_KEY, ITEMS_KEY, told_arguments, told_of_kind
from zmqtasks.ids import keyed_task_id, parse_task_id
from zmqtasks.node.gateway import Call
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.protocol import REQUEUE_STATUS, RETRY_STATUS, ChildOutcome, LogRecord
from zmqtasks.pools.running import running_task, set_running_here
from zmqtasks.wire.carried import CarriedCall
from zmqtasks.wire.messages import Kind, Outcome, StateRecord, Status, TaskState

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.app.canvas.group import group
    from zmqtasks.app.task import Task

R = TypeVar("R")
_LOG = logging.getLogger("zmqtasks.task")


#: What an attempt says of its end that its outcome tells, too.
_TOLD = frozenset({ITEMS_KEY, ADDED_KEY})


class EagerResult(AsyncResult[R]):
    """The result of a task that ran in the process that called it: it is there."""

    __slots__ = ("_children", "_parent", "_record")

    _children: list[AnyResult]
    _parent: AnyResult | None
    _record: StateRecord

    @classmethod
    def of_outcome(
        cls, outcome: Outcome, app: App, kind: Kind | None = None, children: Sequence[Any] = ()
    ) -> EagerResult[Any]:
        """The handle of a task that has ended so."""
        self: EagerResult[Any] = cls.of_submitted(outcome.id, app, None)  # type: ignore[assignment]
        self._outcome = outcome
        info = told_of_kind(kind)
        self._record = StateRecord(outcome.id, TaskState.SETTLED, info, outcome)
        self._parent = None
        self._children = list(children)
        return self

    def came_after(self, before: AnyResult | None) -> None:
        """It is part of a workflow, and this result came before it."""
        if before is not None and self._parent is None:
            self._parent = before
            if isinstance(before, EagerResult):
                before._children.append(self)

    @property
    def parent(self) -> AnyResult | None:
        """The result that it waited for, where it is part of a workflow; else None."""
        return self._parent

    @property
    def children(self) -> list[AnyResult]:
        """The results of the calls that the task made, and of the next part of a workflow."""
        return list(self._children)

    def follow(self) -> None:
        """Nothing is to come."""

    def look(self) -> Look:
        """All that is known of the task."""
        return Look(self._outcome, self._record)

    def forget(self) -> None:
        """Drop the result, and those of what came before it in a workflow."""
        if self._parent is not None:
            self._parent.forget()
        self._forgotten()

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Always "settled": it has ended."""
        return "settled"

    def updates(self, timeout: float | None = None) -> NoReturn:
        """Refused: it has ended, and what it told meanwhile was not kept.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "updates() and stream() of a task that ran eagerly: it has ended, and what it told "
            "meanwhile was not kept; let a worker run it"
        )

    def stream(self, timeout: float | None = None) -> NoReturn:
        """Refused, as ``updates``.

        Raises:
            ValueError: always.
        """
        self.updates(timeout)

    def story(self) -> NoReturn:
        """Refused: no node knows the task.

        Raises:
            ValueError: always.
        """
        raise ValueError("story() of a task that ran eagerly: no node of the mesh knows it")

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


class _Ended(ResultSet[R]):
    """Results that are all there."""

    def look(self) -> None:
        """There is nothing to ask for."""

    def forget(self) -> None:
        """Drop all results."""
        for handle in self:
            handle.forget()

    def revoke(
        self,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        wait: bool = False,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Always "settled": they have ended."""
        return dict.fromkeys(self.ids, "settled")


class EagerResultSet(_Ended[R]):
    """The results of calls that ran in the process that called them."""


class EagerGroupResult(_Ended[R], GroupResult[R]):
    """The results of a group that ran in the process that called it."""

    def came_after(self, before: AnyResult | None) -> None:
        """It is part of a workflow, and this result came before its calls."""
        for each in self:
            if isinstance(each, EagerResult):
                each.came_after(before)
        if self._parent is None:
            self._parent = before

    def save(self, timeout: float = 0.0) -> NoReturn:
        """Refused: no node knows these tasks.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "save() of a group that ran eagerly: no node of the mesh knows its tasks, so nobody "
            "could restore them; let workers run it"
        )


def apply_many(task: Task[Any, R], calls: Iterable[Any]) -> EagerResultSet[R]:
    """The calls of one ``delay_many``, run here one after the other."""
    handles: list[EagerResult[R]] = []
    for call in calls:
        args, kwargs = ((), call) if isinstance(call, dict) else (call, {})
        handles.append(task.apply(args, kwargs))
    return EagerResultSet(handles, task.app)


def apply(
    task: Task[Any, R],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    where: str,
    facts: Mapping[str, Any] | None = None,
) -> EagerResult[R]:
    """Run a call here, until it has ended.

    Raises:
        ConfigError: an unknown option or a bad value.
        TypeError: the arguments do not fit the function.
        PayloadTypeError, PayloadTooLarge: they could not travel.
    """
    app = task.app
    checked = checked_options(options, where)
    kwargs = kwargs or {}
    check_arguments(args, kwargs, where)
    if app.is_hooked:
        call = OutgoingCall(task.name, tuple(args), dict(kwargs), dict(checked))
        args, kwargs, checked = passed_through(app, call, where)
    task.call_signature.match(*args, **kwargs)
    kind, ext, complete = task.shape(args, kwargs, checked, where)
    if complete.get("after"):
        failed = first_failed(complete["after"], where)
        if failed is not None:
            return EagerResult.of_outcome(_why_not(failed), app)
    body = app.encode_arguments(args, kwargs, task.call_signature.names)
    headers = complete.get("headers")
    parent = running_task()
    if headers:
        ext["h"] = dict(headers)
    if complete.get("stamps"):
        ext[STAMPS_KEY] = stamps_of(complete["stamps"])
    if parent is not None:
        ext["p"], ext["r"] = parent.id, (parent.ext or {}).get("r", parent.id)
    if facts:
        ext.update(facts)
        ext.pop(IGNORED_KEY, None)  # what comes next here takes the value from its result
    key, text = complete.get("idempotency_key"), complete.get("task_id")
    if key:
        task_id = keyed_task_id(kind.app, kind.name, key)
    else:
        task_id = parse_task_id(text) if text else uuid4().bytes
    run = EagerRun(task_id, 1, app.name, task.name, kind.queue, b"", body, ext)
    outcome = _outcome_of(task, run, kind)
    found: EagerResult[R] = EagerResult.of_outcome(outcome, app, kind, run.made)
    if isinstance(parent, EagerRun):
        parent.made.append(found)
    if complete.get("link") or complete.get("link_error"):
        _call_errbacks(complete.get("link_error"), Call(task_id, kind, body, ext), outcome, app)
        call_links(complete.get("link"), found, app)
    return found


def not_run(
    found: Signature[Any], options: Mapping[str, Any], failed: AsyncResult[Any]
) -> EagerResult[Any]:
    """The result of a chord's body that does not run, since this member has failed."""
    app = found.app
    complete = merged_options(found.options, options)
    text = complete.get("task_id")
    outcome = _why_not(failed.id, parse_task_id(text) if text else uuid4().bytes)
    kind = Kind(app.name, found.task, "", "")
    body = app.encode_arguments(found.args, found.kwargs, ())
    _call_errbacks(complete.get("link_error"), Call(outcome.id, kind, body, None), outcome, app)
    return EagerResult.of_outcome(outcome, app)


def _why_not(failed: str, task_id: bytes | None = None) -> Outcome:
    told = {
        "e": f"it did not run, because task {failed} has not succeeded",
        CAUSE_KEY: parse_task_id(failed),
    }
    return Outcome(task_id or uuid4().bytes, 0, Status.FAILURE, 0, -1, 0, 0, 0, b"", told)


def run_header(
    header: group[Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[AsyncResult[Any] | None, list[Any], EagerGroupResult[Any]]:
    """Run the header of a chord, with what its members add to it.

    Returns:
        The first one that has not succeeded, the values if there is none, and the results of
        the header itself.
    """
    facts = {CHORD_KEY: 1}
    found: Any = header.applied(args, kwargs, options, facts)
    results: list[Any] = list(found)
    for each in results:  # it grows
        outcome = getattr(each, "_outcome", None)  # groups have none
        told = (outcome.ext or {}) if outcome is not None else {}
        results += [joining.applied((), {}, {}, facts) for joining in told.get(ADDED_KEY, ())]
    failed = next((each for each in results if not each.successful()), None)
    values = [] if failed is not None else [each.get() for each in results]
    return failed, values, found


def call_links(links: object, result: AsyncResult[Any] | ResultSet[Any], app: App | None) -> None:
    """Run what is linked to a call, or a part of a workflow, that has succeeded."""
    if links and result.successful():
        value = result.get()
        for each in listed(links):
            linked_signature(each, app).applied((value,), {}, {}, {})


def _call_errbacks(errbacks: object, failed: Call, outcome: Outcome, app: App) -> None:
    """Run what is to be called when this call has failed, if it has."""
    for each in listed(errbacks):
        found = linked_signature(each, app)
        task = found.type
        kind, ext, _ = task.shape(found.args, found.kwargs, {}, found.task)
        facts = {} if found.immutable else {FAILED_KEY: 1}
        match_call(task.call_signature.match, found.args, found.kwargs, facts)
        body = found.app.encode_arguments(found.args, found.kwargs, ())
        carried = CarriedCall(b"", kind, body, {**ext, **facts}, False, True)
        for call, _ in errback_calls(failed, outcome, [carried], timing.now_ms()):
            run = EagerRun(
                uuid4().bytes,
                1,
                kind.app,
                task.name,
                kind.queue,
                b"",
                call.body,
                call.ext,
            )
            _outcome_of(task, run, kind)


def _outcome_of(task: Task[Any, Any], run: EagerRun, kind: Kind) -> Outcome:
    end_ms = (run.ext or {}).get("exp")
    if end_ms is not None and end_ms <= timing.now_ms():
        return Outcome(run.id, 0, Status.EXPIRED, 0, -1, 0, 0, 0, None, None)
    program = _program_of(task)
    while True:
        ended = _attempt(program, run)
        if ended.status != RETRY_STATUS:
            break
        more = ended.ext or {}
        ext = {**(run.ext or {}), **more.get("ext", {})}
        ext[RETRIES_KEY] = count_of(run, RETRIES_KEY) + 1
        body = run.body if more.get("body") is None else more["body"]
        run.made.clear()
        run = EagerRun(
            run.id, run.attempt + 1, run.app, run.name, run.queue, b"", body, ext, made=run.made
        )
    status, error = ended.status, ended.error
    if status == REQUEUE_STATUS:
        status = int(Status.REJECTED)  # there is nobody else who could take it
    told: dict[str, Any] = {"w": platform.node(), RETRIES_KEY: count_of(run, RETRIES_KEY)}
    told |= {key: value for key, value in (ended.ext or {}).items() if key in _TOLD}
    told |= told_arguments(kind, run.body)
    if error:
        told["e"] = error
    return Outcome(
        run.id, run.attempt, status, 0, -1, ended.started_ms, ended.run_us, len(ended.body),
        ended.body, told,
    )  # fmt: skip


def _attempt(program: AppProgram, run: EagerRun) -> ChildOutcome:
    """One attempt, in a context of its own: what runs here now is not to notice."""

    def execute() -> ChildOutcome:
        set_running_here(run)
        return program.execute(run)

    context = copy_context()
    if not in_running_loop():
        return context.run(execute)
    # A coroutine function needs a loop of its own, and there can be one in a thread only.
    ended: list[ChildOutcome] = []

    def in_thread() -> None:
        ended.append(context.run(execute))
        program.end_thread()

    thread = threading.Thread(target=in_thread, name="zmqtasks-eager")
    thread.start()
    thread.join()
    return ended[0]


def _program_of(task: Task[Any, Any]) -> AppProgram:
    app = task.app
    found = app.eager_program
    # Anew where a task was defined again, as in a notebook.
    if found is None or found[1].get(task.name) is not task:
        program = AppProgram(app, (KeyboardInterrupt,), PoolConfig(app.name), _tell)
        found = app.eager_program = program, dict(app.tasks)
    return found[0]


def _tell(record: LogRecord) -> None:
    _LOG.log(record.level, "%s: %s", record.name, record.text)
