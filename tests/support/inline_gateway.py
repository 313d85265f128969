"""A gateway that runs calls here and now: for tests of everything above it.

It keeps the contract of ``zmqtasks/node/gateway.py``. Arguments and results go through
the real payload encoding, so what works here can travel.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from zmqtasks.app.current import all_apps
from zmqtasks.core.calls import INPUTS_KEY
from zmqtasks.errors import (
    MeshOverloaded,
    NoWorkers,
    StoreError,
    SubmitRejected,
    SubmitUnknown,
)
from zmqtasks.ids import format_task_id, new_node_id, task_id_maker
from zmqtasks.node.gateway import Call, Durability, Pending, TaskView, Ticket
from zmqtasks.node.room import Place, Room
from zmqtasks.node.survey import Request, SeenNode
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.wire.joined import Joined, join
from zmqtasks.wire.messages import Hello, Kind, Outcome, StateRecord, Status, TaskState
from zmqtasks.wire.payload import decode_arguments, encode_error, encode_value

_ROOM = 1_000_000_000


class InlineGateway:
    """Runs calls inline and settles their tickets at once, unless ``hold`` is set."""

    def __init__(self, *, hold: bool = False) -> None:
        self.inside_task = False
        #: Keep calls until `release()` instead of running them at once.
        self.hold = hold
        #: Calls accepted, in order.
        self.calls: list[Call] = []
        #: Keyword arguments of each `submit`.
        self.submits: list[dict[str, Any]] = []
        self._room = Room(_ROOM, _ROOM)
        self.workers = True
        #: A store is in sight.
        self.stores = True
        #: None: the disk works; else how a durable `submit` ends.
        self.disk_error: SubmitRejected | SubmitUnknown | None = None
        #: The thread of the last `submit`.
        self.thread: threading.Thread | None = None
        self.forgotten: list[bytes] = []
        self.watched: list[bytes] = []
        self.started: set[bytes] = set()
        self.outcomes: dict[bytes, Outcome] = {}
        #: {task: what nodes know of it, see `StateRecord.info`}.
        self.info: dict[bytes, dict[str, Any]] = {}
        #: {node: what it tells of any task}.
        self.told: dict[str, dict[str, Any]] = {}
        #: Nodes in sight, what commands were given, and who answers what.
        self.peers: list[Hello] = []
        self.requests: list[Request] = []
        self.seen: Callable[[Request], list[SeenNode]] = lambda request: []
        self._held: list[tuple[Call, Ticket]] = []
        self._contents: dict[bytes, bytes] = {}
        self._watchers: list[tuple[bytes, Ticket]] = []
        self._make_id = task_id_maker(new_node_id(), 1)
        self._lock = threading.Lock()

    def new_ids(self, count: int) -> list[bytes]:
        return [self._make_id() for _ in range(count)]

    def submit(
        self,
        calls: Sequence[Call],
        ticket: Ticket,
        *,
        wait_s: float | Place | None = None,
        require_worker_s: float | None = None,
        delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:
        if require_worker_s is not None and not self.workers:
            raise NoWorkers(f"no worker within {require_worker_s:g} s")
        self._room.take(len(calls), 0, wait_s if isinstance(wait_s, Place) else 0)
        self._room.came(len(calls), 0)
        self.thread = threading.current_thread()
        if durability is Durability.DISK and self.disk_error is not None:
            raise self.disk_error
        calls = self._new_ones(calls, ticket)
        self.submits.append(
            {
                "wait_s": wait_s,
                "require_worker_s": require_worker_s,
                "delivery": delivery,
                "durability": durability,
            }
        )
        self.calls.extend(calls)
        if self.hold:
            self._held.extend((call, ticket) for call in calls)
            return
        for call in calls:
            self._settle(call, ticket)

    def _new_ones(self, calls: Sequence[Call], ticket: Ticket) -> list[Call]:
        """Those that are no repetition of an earlier call; the ticket hears of all."""
        new = []
        for call in calls:
            content = (call.ext or {}).get("c", b"")
            if self._contents.get(call.id, content) != content:
                raise SubmitRejected(
                    f"task id {format_task_id(call.id)} belongs to a task with other content"
                )
            if call.id in self._contents:
                self.watch([call.id], ticket)
            else:
                self._contents[call.id] = content
                new.append(call)
        return new

    @property
    def room(self) -> int:
        """Room for so many calls; as good as no limit at first."""
        return _ROOM - self._room.count

    @room.setter
    def room(self, count: int) -> None:
        self._room.held(_ROOM - count, 0)

    def line_up(self, calls: Sequence[Call], wake: Callable[[], None]) -> Place:
        return self._room.line_up(len(calls), 0, wake)

    def begin(
        self,
        calls: Sequence[Call],
        ticket: Ticket,
        *,
        after: Pending | None = None,
        wait_s: float | Place | None = None,
    ) -> Pending:
        error = after.error if isinstance(after, _Pending) else None
        if error is None:
            try:
                self.submit(calls, ticket, wait_s=wait_s, durability=Durability.DISK)
            except MeshOverloaded:
                raise
            except (SubmitRejected, SubmitUnknown) as exc:
                error = exc
        return _Pending(error)

    def release(self, count: int | None = None) -> None:
        """Run held calls, the oldest first."""
        held, self._held = self._held[:count], self._held[count:] if count is not None else []
        for call, ticket in held:
            self._settle(call, ticket)

    def release_in_thread(self, count: int | None = None) -> threading.Thread:
        """The same on another thread, as the I/O thread does it."""
        thread = threading.Thread(target=self.release, args=(count,))
        thread.start()
        return thread

    def end(self, task_id: bytes, status: int, text: str = "") -> None:
        """Settle a held or watched task with an ending that no function makes."""
        ext = {"e": text} if text else None
        outcome = Outcome(task_id, 1, status, 1, 0, 0, 0, 0, None, ext)
        tickets = [ticket for call, ticket in self._held if call.id == task_id]
        self._held = [(call, ticket) for call, ticket in self._held if call.id != task_id]
        self._publish(task_id, outcome, tickets)

    def publish(self, outcome: Outcome) -> None:
        """An outcome from elsewhere, for watchers and `states`."""
        self._publish(outcome.id, outcome, [])

    def states(self, ids: Sequence[bytes], timeout_s: float) -> dict[bytes, StateRecord]:
        own = {call.id for call in self.calls}
        found = {}
        for task_id in ids:
            outcome = self.outcomes.get(task_id)
            if outcome is not None:
                state = TaskState.SETTLED
            elif task_id in self.started:
                state = TaskState.STARTED
            else:
                state = TaskState.PENDING if task_id in own else TaskState.UNKNOWN
            found[task_id] = StateRecord(task_id, state, self.info.get(task_id, {}), outcome)
        return found

    def pace(self, task_id: bytes, is_behind: Callable[[], bool]) -> None:
        """Tasks have ended before anybody reads."""

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        self.watched.extend(ids)
        own = {call.id for call in self.calls}
        for task_id in ids:
            if task_id in self.outcomes:
                ticket.settled(task_id, self.outcomes[task_id])
            elif task_id in own or task_id in self.started:
                self._watchers.append((task_id, ticket))
            else:
                ticket.settled(task_id, unknown_outcome(task_id))

    def forget(self, ids: Sequence[bytes]) -> None:
        self.forgotten.extend(ids)
        for task_id in ids:
            self.outcomes.pop(task_id, None)

    def keep(self, kind: Kind, record_id: bytes, body: bytes, timeout_s: float) -> None:
        if not self.stores:
            raise StoreError(f"{kind.name} is not saved: no node with the role store is in sight")
        outcome = Outcome(record_id, 1, Status.SUCCESS, 0, -1, 1, 0, len(body), body, None)
        self.outcomes.setdefault(record_id, outcome)

    def describe(self, task_id: bytes) -> str:
        return "it waits in queue 'default', which no worker serves"

    def story(self, task_id: bytes, timeout_s: float) -> TaskView:
        record = self.states([task_id], timeout_s)[task_id]
        return TaskView(record, [(name, story) for name, story in self.told.items()], {})

    def find(self, request: Request, timeout_s: float) -> list[Hello]:
        return [peer for peer in self.peers if request.is_for(peer)]

    def command(self, request: Request, timeout_s: float) -> list[SeenNode]:
        self.requests.append(request)
        return self.seen(request)

    # ------------------------------------------------------------------------------------

    def _settle(self, call: Call, ticket: Ticket) -> None:
        outcome = self._joined(call)
        if not isinstance(outcome, Outcome):
            outcome = Outcome(call.id, 1, *self._run(outcome))
        self._publish(call.id, outcome, [ticket])

    def _joined(self, call: Call) -> Call | Outcome:
        """The call with the results that it waits for, as its owner makes it; or how it ends
        because one of those has failed. All of them were submitted before it."""
        ids, shape = (call.ext or {}).get(INPUTS_KEY, ((), None))
        ends = [self.outcomes[task_id] for task_id in ids]
        failed = next((end for end in ends if end.status != Status.SUCCESS), None)
        if failed is not None:
            body = failed.body if isinstance(shape, int) else b""
            ext = {"e": "it did not run"}
            return Outcome(call.id, 0, Status.FAILURE, 1, 0, 0, 0, 0, body, ext)
        if not ids and shape is None:
            return call
        results = {position: end.body for position, end in enumerate(ends)}
        return call._replace(body=join(Joined(call.body, results, shape)))  # type: ignore[arg-type]

    def _publish(self, task_id: bytes, outcome: Outcome, tickets: list[Ticket]) -> None:
        with self._lock:
            self.outcomes[task_id] = outcome
            tickets += [ticket for watched, ticket in self._watchers if watched == task_id]
        for ticket in tickets:
            ticket.settled(task_id, outcome)

    def _run(self, call: Call) -> tuple[Any, ...]:
        status, body = Status.SUCCESS, b""
        try:
            args, kwargs = decode_arguments(call.body)
            value = _task_function(call)(*args, **kwargs)
            if inspect.iscoroutine(value):
                value = _finish(value)
            body = encode_value(value)
        except Exception as exc:  # noqa: BLE001 - as a worker does
            status, body = Status.FAILURE, encode_error(exc, traceback.format_exc())
        return status, 1, 0, 0, 0, len(body), body, None


class _Pending:
    def __init__(self, error: SubmitRejected | SubmitUnknown | None) -> None:
        self.error = error

    def wait(self) -> None:
        if self.error is not None:
            raise self.error

    def forget(self) -> None: ...


def _task_function(call: Call) -> Callable[..., Any]:
    for app in all_apps():
        if app.name == call.kind.app and call.kind.name in app.tasks:
            run: Callable[..., Any] = app.tasks[call.kind.name].run
            return run
    raise LookupError(f"no task {call.kind.name}")


def _finish(coroutine: Any) -> Any:
    """The value of a coroutine, also when a loop runs in this thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(coroutine)))
    thread.start()
    thread.join()
    return found[0]
