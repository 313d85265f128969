"""The producer inside a user's process: an I/O thread that owns tasks.

The thread starts with the first call. User threads put calls into an inbox and wait for
tickets; everything else happens on the I/O thread. A forked child gets a client of its
own (``app/current.py`` checks the process id): sockets do not survive a fork.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from zmqtasks import keys
from zmqtasks.addresses import parse_address
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import UNKNOWN_STATUS, Call, Ticket
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.owned import Durability
from zmqtasks.errors import LocalProtocolError, MeshOverloaded, NoWorkers, SubmitRejected
from zmqtasks.ids import format_task_id, task_id_maker
from zmqtasks.node.runtime import Part, Runtime
from zmqtasks.node.survey import Survey
from zmqtasks.settings import NodeSettings
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Kind, Outcome, StateRecord, TaskState

_LOG = logging.getLogger("zmqtasks.client")
_T = TypeVar("_T")

#: Whom a producer dials of its own accord; others only to ask them something.
DIAL_ROLES = frozenset(("worker", "broker"))
_ROUND_TRIP_S = 10.0


class Client:
    """A gateway (see ``node/gateway.py``) that owns what it submits.

    Args:
        settings: of this process.

    Raises:
        ConfigError, SecurityError: the node cannot be set up.
    """

    inside_task = False

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self._pid = os.getpid()
        mesh_key = keys.mesh_key(settings.key_file)
        part = Part(
            roles=("producer",),
            dial_roles=DIAL_ROLES,
            owns_tasks=True,
            performers={
                fx.TasksSettled: self._tasks_settled,
                fx.QuestionAnswered: self._question_answered,
                fx.RoomFreed: self._room_freed,
                fx.ReportGot: lambda effect: self.survey.report_got(effect),
                fx.LanePush: self._push_lane,
            },
        )
        self.runtime = Runtime(_without_ports(settings), part, mesh_key)
        self._make_id = task_id_maker(self.runtime.node, self.runtime.epoch)
        self._inbox: deque[Sequence[Call]] = deque()
        self._drain_queued = False
        #: {task id: who waits for its outcome}; the first waiter stands alone, as nearly
        #: every task has just one.
        self._tickets: dict[bytes, Ticket] = {}
        self._more_tickets: dict[bytes, list[Ticket]] = {}
        #: {token of a question: what to do with news}.
        self._questions: dict[int, Callable[[fx.QuestionAnswered], None]] = {}
        #: Looks at the whole mesh.
        self.survey = Survey(self.runtime, self._on_loop)
        self._room = threading.Condition()
        self._open_count = 0
        self._open_bytes = 0
        self._worker_waits: list[_WorkerWait] = []
        self._failure: BaseException | None = None
        self._closed = False
        self.runtime.open()
        self._thread = threading.Thread(target=self._run, name="zmqtasks-io", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    # --- the gateway --------------------------------------------------------------------

    def new_ids(self, count: int) -> list[bytes]:
        """See ``Gateway``."""
        make = self._make_id
        return [make() for _ in range(count)]

    def submit(
        self, calls: Sequence[Call], ticket: Ticket, *, wait_s: float | None = None,
        require_worker_s: float | None = None, delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:  # fmt: skip
        """See ``Gateway``."""
        self._check_alive()
        if durability is Durability.DISK:
            raise SubmitRejected(
                "this process has no journal, so nothing was submitted: use durability='memory'"
            )
        if require_worker_s is not None:
            self._require_worker([call.kind for call in calls], require_worker_s)
        if not calls[0].id.startswith(self.runtime.node):
            self._check_chosen_ids(calls)
        size = sum(len(call.body) for call in calls)
        self._take_room(len(calls), size, wait_s)
        if delivery == "at_most_once":
            self.runtime.loop.call_soon(self._push, calls, ticket)
            return
        for call in calls:
            self._add_ticket(call.id, ticket)
        self._inbox.append(calls)
        if not self._drain_queued:
            self._drain_queued = True
            self.runtime.loop.call_soon(self._drain)

    def states(self, ids: Sequence[bytes], timeout_s: float) -> dict[bytes, StateRecord]:
        """See ``Gateway``."""
        own = self._on_loop(lambda: self.runtime.mesh.states_of(ids))
        known = {state.id: state for state in own}
        asked = [
            task_id for task_id, state in known.items()
            if state.state in (TaskState.UNKNOWN, TaskState.UNSETTLED)
        ]  # fmt: skip
        if not asked:
            return known
        answer: Future[list[StateRecord]] = Future()
        token = self._on_loop(lambda: self._ask(asked, watch=False, answer=answer))
        try:
            found = answer.result(timeout_s)
        except TimeoutError:
            found = self._on_loop(lambda: self._best_so_far(token))
        known.update((state.id, state) for state in found)
        return known

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        """See ``Gateway``."""
        self._check_alive()
        self.runtime.loop.call_soon(self._watch, list(ids), ticket)

    def forget(self, ids: Sequence[bytes]) -> None:
        """See ``Gateway``."""
        self._on_loop(lambda: self.runtime.mesh.forget(list(ids)))

    def describe(self, task_id: bytes) -> str:
        """See ``Gateway``."""
        record = self.states([task_id], 1.0)[task_id]
        return describe_state(record)

    def _check_chosen_ids(self, calls: Sequence[Call]) -> None:
        """Ids that the caller chose may be taken by another task."""
        same = self._on_loop(lambda: [self._dispatcher.same_content(call) for call in calls])
        for call, is_same in zip(calls, same, strict=True):
            if not is_same:
                raise SubmitRejected(
                    f"task id {format_task_id(call.id)} belongs to an open task with other "
                    "content: repeat a call with the same arguments, or choose another task_id"
                )

    # --- room ---------------------------------------------------------------------------

    def _take_room(self, count: int, size: int, wait_s: float | None) -> None:
        settings = self.settings
        limit_count, limit_bytes = settings.open_tasks_max, settings.open_bytes_max
        with self._room:
            if self._open_count < limit_count and self._open_bytes < limit_bytes:
                self._open_count += count
                self._open_bytes += size
                return
            wait_s = settings.submit_timeout_s if wait_s is None else wait_s
            fits = self._room.wait_for(
                lambda: self._open_count < limit_count and self._open_bytes < limit_bytes, wait_s
            )
            if fits:
                self._open_count += count
                self._open_bytes += size
                return
        raise MeshOverloaded(
            f"{self._open_count} tasks with {self._open_bytes} bytes of arguments are open and "
            f"the limits are {limit_count} and {limit_bytes}: nothing was submitted. Wait for "
            "results, add workers, or raise open_tasks_max / open_bytes_max"
        )

    def _room_freed(self, _effect: fx.RoomFreed) -> None:
        with self._room:
            self._room.notify_all()

    # --- workers ------------------------------------------------------------------------

    def _require_worker(self, kinds: Sequence[Kind], wait_s: float) -> None:
        wait = _WorkerWait(list(dict.fromkeys(kinds)))
        self.runtime.loop.call_soon(self._worker_waits.append, wait)
        try:
            wait.done.result(wait_s)
        except TimeoutError:
            self.runtime.loop.call_soon(self._end_worker_wait, wait)
            reason = self._on_loop(lambda: self._dispatcher.why_unserved(wait.kinds))
            if reason:
                raise NoWorkers(f"{reason}; nothing was submitted") from None

    def _end_worker_wait(self, wait: _WorkerWait) -> None:
        # A worker may have come since the caller gave up.
        if wait in self._worker_waits:
            self._worker_waits.remove(wait)

    def _check_worker_waits(self) -> None:
        for wait in self._worker_waits[:]:
            if not self._dispatcher.why_unserved(wait.kinds):
                self._worker_waits.remove(wait)
                wait.done.set_result(None)

    # --- the I/O thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.runtime.loop.run(self._turn, self.runtime.awake)
        except BaseException as exc:  # noqa: BLE001 - told to the callers
            self._failure = exc
            _LOG.exception("the zmqtasks I/O thread of this process failed")
        finally:
            self._closed = True
            self.runtime.close()

    def _turn(self) -> int:
        timeout_ms = self.runtime.turn()
        if self._worker_waits:
            self._check_worker_waits()
        return timeout_ms

    @property
    def _dispatcher(self) -> Dispatcher:
        dispatcher = self.runtime.mesh.dispatcher
        assert dispatcher is not None
        return dispatcher

    def _drain(self) -> None:
        self._drain_queued = False
        inbox, mesh = self._inbox, self.runtime.mesh
        now_ms = self.runtime.now_ms
        while inbox:
            mesh.submit(inbox.popleft(), now_ms)

    def _tasks_settled(self, effect: fx.TasksSettled) -> None:
        tickets, more = self._tickets, self._more_tickets
        for outcome in effect.outcomes:
            task_id = outcome.id
            ticket = tickets.pop(task_id, None)
            if ticket is not None:
                ticket.settled(task_id, outcome)
            if more:
                for other in more.pop(task_id, ()):
                    other.settled(task_id, outcome)
        self._count_open()

    def _count_open(self) -> None:
        with self._room:
            waiting = sum(map(len, self._inbox)) + self._lane.open_count
            self._open_count = len(self._dispatcher.tasks) + waiting
            self._open_bytes = self._dispatcher.open_bytes + self._lane.open_bytes
            self._room.notify_all()

    def _add_ticket(self, task_id: bytes, ticket: Ticket) -> None:
        if self._tickets.setdefault(task_id, ticket) is not ticket:
            self._more_tickets.setdefault(task_id, []).append(ticket)

    def _push(self, calls: Sequence[Call], ticket: Ticket) -> None:
        for call in calls:
            self._add_ticket(call.id, ticket)
        self._lane.submit(calls, self.runtime.now_ms)
        for task_id in self._lane.forget_oldest():
            self._tickets.pop(task_id, None)

    def _push_lane(self, effect: fx.LanePush) -> None:
        if not self.runtime.transport.push(effect.lane, codec.encode(effect.message)):
            self._lane.not_pushed(effect.lane, effect.calls, self.runtime.now_ms)
        else:
            self._count_open()

    @property
    def _lane(self) -> FastLane:
        lane = self.runtime.mesh.lane
        assert lane is not None
        return lane

    # --- questions ----------------------------------------------------------------------

    def _ask(self, ids: Sequence[bytes], *, watch: bool, answer: Future[list[StateRecord]]) -> int:
        token = self.runtime.mesh.ask(ids, watch, self.runtime.now_ms)

        def news(effect: fx.QuestionAnswered) -> None:
            if effect.final and not answer.done():
                answer.set_result(effect.states)

        self._questions[token] = news
        return token

    def _best_so_far(self, token: int) -> list[StateRecord]:
        question = self.runtime.mesh.inquiry.questions.get(token)
        self._questions.pop(token, None)
        if question is None:
            return []
        self.runtime.mesh.inquiry.drop(token)
        return [pending_if_unknown(record) for record in question.best.values()]

    def _watch(self, ids: list[bytes], ticket: Ticket) -> None:
        mesh = self.runtime.mesh
        elsewhere: list[bytes] = []
        for task_id in ids:
            record = self._dispatcher.state_of(task_id)
            if record is None:
                elsewhere.append(task_id)
            elif record.outcome is not None:
                ticket.settled(task_id, record.outcome)
            else:
                self._add_ticket(task_id, ticket)
        if not elsewhere:
            return

        def news(effect: fx.QuestionAnswered) -> None:
            for record in effect.states:
                if record.state == TaskState.SETTLED and record.outcome is not None:
                    ticket.settled(record.id, record.outcome)
                elif record.state == TaskState.UNKNOWN:
                    ticket.settled(record.id, unknown_outcome(record.id))

        self._questions[mesh.ask(elsewhere, True, self.runtime.now_ms)] = news

    def _question_answered(self, effect: fx.QuestionAnswered) -> None:
        news = self._questions.get(effect.token)
        if effect.final:
            self._questions.pop(effect.token, None)
        if news is not None:
            news(effect)

    # --- between threads ----------------------------------------------------------------

    def _on_loop(self, function: Callable[[], _T]) -> _T:
        """Run on the I/O thread and wait for what it returns."""
        self._check_alive()
        future: Future[_T] = Future()

        def call() -> None:
            try:
                future.set_result(function())
            except Exception as exc:  # noqa: BLE001 - handed to the caller
                future.set_exception(exc)

        self.runtime.loop.call_soon(call)
        return future.result(_ROUND_TRIP_S)

    def _check_alive(self) -> None:
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                "this client belongs to the parent process: a forked child needs its own"
            )
        if self._failure is not None:
            raise LocalProtocolError(
                f"the zmqtasks I/O thread of this process has ended ({self._failure!r})"
            )
        if self._closed:
            raise SubmitRejected(
                "this process has left the mesh, as it does at its end; exit handlers that call "
                "tasks must be registered after the first call"
            )

    # --- the end ------------------------------------------------------------------------

    def close(self, reason: str = "closed") -> None:
        """Leave the mesh at once. A second call does nothing."""
        if os.getpid() != self._pid or self._closed:
            return
        atexit.unregister(self._at_exit)
        self.runtime.loop.call_soon(self.runtime.leave, reason)
        self._thread.join(_ROUND_TRIP_S)

    def _at_exit(self) -> None:
        if os.getpid() != self._pid or self._closed:
            return
        wait_s = self.settings.exit_wait_s
        deadline = time.monotonic() + wait_s
        when, remedy = f"{wait_s:g} s after its end", ", or raise exit_wait_s"
        try:
            with self._room:
                self._room.wait_for(
                    lambda: not self._open_count, max(0, deadline - time.monotonic())
                )
        except KeyboardInterrupt:
            when, remedy = "when the wait at its end was interrupted", ""
        left = self._open_count
        if left:
            names = self._on_loop(self._open_names)
            sys.stderr.write(
                f"zmqtasks: {left} of this process's tasks had not finished {when} and are given "
                f"up ({names}); wait for their results{remedy}\n"
            )
        self.close("the process ended")

    def _open_names(self) -> str:
        counts: dict[str, int] = {}
        for task in self._dispatcher.tasks.values():
            name = task.lane.kind.name
            counts[name] = counts.get(name, 0) + 1
        for waiting in self._lane.describe():
            counts[waiting["task"]] = counts.get(waiting["task"], 0) + waiting["count"]
        return ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:5])


def _without_ports(settings: NodeSettings) -> NodeSettings:
    """Fixed ports are a node's: one file of settings may serve it and the scripts beside it."""
    hosts = (
        entry if entry == "ipc" else parse_address(entry, default_port=0)[0]
        for entry in settings.listen
    )
    return replace(settings, listen=tuple(dict.fromkeys(hosts)), port=0, advertise=())


class _WorkerWait:
    """A call that wants a worker in sight."""

    def __init__(self, kinds: list[Kind]) -> None:
        self.kinds = kinds
        self.done: Future[None] = Future()


def unknown_outcome(task_id: bytes) -> Outcome:
    """What a ticket is told of a task that nobody knows."""
    return Outcome(task_id, 0, UNKNOWN_STATUS, 0, -1, 0, 0, 0, b"", None)


def pending_if_unknown(record: StateRecord) -> StateRecord:
    """Not everybody has answered, so nobody may say that it is unknown."""
    if record.state != TaskState.UNKNOWN:
        return record
    return StateRecord(record.id, TaskState.PENDING, {"why": "not all nodes answered"}, None)


def describe_state(record: StateRecord) -> str:
    """What is known of a task, as a clause for messages that name its id."""
    info = record.info
    name, worker = info.get("name", "it"), info.get("worker")
    if record.state == TaskState.UNKNOWN:
        return "every node that answered does not know it"
    if record.state == TaskState.STARTED:
        return f"{name} is running on {worker} (attempt {info.get('attempt')})"
    if record.state in (TaskState.SETTLED, TaskState.UNSETTLED):
        return f"{name} has ended, its outcome is on its way"
    if worker:
        return f"{name} was handed to {worker} (attempt {info.get('attempt')})"
    return str(info.get("why") or f"{name} waits, no more is known")
