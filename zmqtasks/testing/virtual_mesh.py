"""A whole mesh in the process of a test: real rules, no sockets, time on command.

Nodes are the machines of ``zmqtasks.core`` as every node has them, arguments and results
travel encoded, and attempts run through what runs them in a worker's process. Nothing
happens by itself: tasks run, and time passes, when the test says so or waits for a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from zmqtasks.app import current, states, timing
from zmqtasks.app.task import Task
from zmqtasks.errors import ConfigError
from zmqtasks.ids import NODE_ID_BYTES, format_task_id, new_node_id
from zmqtasks.node.gateway import Call
from zmqtasks.node.tickets import describe_state
from zmqtasks.pools.protocol import REQUEUE_STATUS, RETRY_STATUS, RunTask
from zmqtasks.testing.virtual_beat import VirtualBeat
from zmqtasks.testing.virtual_gateway import VirtualClient, Ways
from zmqtasks.testing.virtual_node import VirtualNode
from zmqtasks.testing.virtual_pool import Ended, PoolHost, VirtualPool, WorkerKilled
from zmqtasks.testing.virtual_store import VirtualStore
from zmqtasks.testing.virtual_time import NeverEnds, VirtualClock
from zmqtasks.testing.virtual_worker import VirtualWorker
from zmqtasks.testing.wires import Wires
from zmqtasks.wire.payload import decode_arguments

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.runtime import Part
    from zmqtasks.settings import NodeSettings

#: Attempts that one command of a test runs at most.
_ATTEMPTS_MAX = 100_000
#: How many open calls a message names.
_SHOWN_MAX = 5
#: Others know of the end of a process a little later.
_GONE_MS = 50
_STATE_OF = {RETRY_STATUS: states.RETRY, REQUEUE_STATUS: states.REJECTED}


class CalledTask(NamedTuple):
    """A call that was submitted, as it travels."""

    id: str
    #: Name of the task.
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    #: Not before this; None: at once.
    eta: datetime | None
    #: Not after this; None: whenever.
    expires: datetime | None
    priority: int
    headers: dict[str, Any]


class RunOfTask(NamedTuple):
    """An attempt that has run."""

    id: str
    #: Name of the task.
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Its number, from 1.
    attempt: int
    #: Name of the worker.
    worker: str
    #: When, by the clock of the mesh.
    at: datetime
    #: "SUCCESS", "FAILURE", "RETRY" …; "LOST" where its worker was killed.
    state: str


class VirtualMesh:
    """A mesh in this process; see ``zmqtasks.testing.mesh``."""

    def __init__(
        self, *apps: App, workers: int = 1, concurrency: int = 1,
        queues: Sequence[str] | None = None, start: datetime | None = None,
    ) -> None:  # fmt: skip
        if not apps:
            raise ConfigError("a mesh needs an App: mesh(app)")
        self._apps = apps
        self._plan = (workers, concurrency, queues)
        self._wires: Wires[VirtualNode] = Wires()
        #: Of the ids of its nodes, which are in order: where all else is equal that decides.
        self._prefix = new_node_id()[:4]
        self._nodes_count = 0
        self._clock = VirtualClock(start or datetime.now(UTC), self)
        self._client: VirtualClient
        #: Calls that were submitted, in order: those of the test and those inside of tasks.
        self.calls: list[CalledTask] = []
        #: Attempts that have run, in order.
        self.runs: list[RunOfTask] = []
        #: {name: worker}, also those that are gone.
        self.workers: dict[str, VirtualWorker] = {}
        #: {name: beat}, also those that are gone.
        self.beats: dict[str, VirtualBeat] = {}
        #: (pool, slot) of attempts to run, in order.
        self._due: deque[tuple[VirtualPool, int]] = deque()
        self._running: list[VirtualPool] = []
        #: Callbacks to call.
        self._soon: deque[Callable[[], None]] = deque()
        self._runs_left = _ATTEMPTS_MAX

    # --- life ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if timing.clock() is not timing.SYSTEM_CLOCK:
            raise RuntimeError(
                "there is a mesh in this process already: one serves all Apps, mesh(app, other_app)"
            )
        workers, concurrency, queues = self._plan
        timing.use_clock(self._clock)
        try:
            self._client = VirtualClient(
                self._apps[0].settings, self._make_client_node, self._called, self.run_until_idle
            )
            self._store = VirtualStore(self._clock, lambda part: self._make_node(part, "store"))
            current.install(Ways(self._client).as_gateway)
            for app in self._apps:
                for _ in range(workers):
                    self.add_worker(app=app, concurrency=concurrency, queues=queues)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """End the mesh: calls go their usual way again, open ones are forgotten."""
        current.install(None)
        timing.use_clock(timing.SYSTEM_CLOCK)
        for worker in self.workers.values():
            worker.pool.close()

    def _make_client_node(self, part: Part) -> VirtualNode:
        return self._make_node(part, "test")

    def _make_node(
        self, part: Part, name: str, settings: NodeSettings | None = None
    ) -> VirtualNode:
        own = settings or self._apps[0].settings
        self._nodes_count += 1
        node = self._prefix + self._nodes_count.to_bytes(NODE_ID_BYTES - len(self._prefix), "big")
        return VirtualNode(self._wires, self._clock, own, part, name, node)

    # --- time ---------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """What time it is in the mesh, in UTC."""
        return self._clock.datetime()

    def advance(self, seconds: float | timedelta) -> None:
        """Let time pass, and run what is due meanwhile, each thing when it is due.

        Args:
            seconds: how much, or a ``timedelta``.

        Raises:
            ValueError: less than none.
            NeverEnds: tasks follow each other without end and without time passing.
        """
        span = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        if not span >= 0:
            raise ValueError(f"advance({seconds!r}): time passes forward, 0 seconds or more")
        self._clock.advance(timing.span_ms(span))

    def run_until_idle(self) -> None:
        """Run all that is due now; no time passes.

        Raises:
            NeverEnds: tasks follow each other without end.
        """
        self._clock.advance(0)

    def run_until_settled(self) -> None:
        """Let as much time pass as it takes until all calls have ended.

        Raises:
            NeverEnds: some of them never will.
        """
        self._clock.wait_until(lambda: not self._open_ids(), None)

    # --- workers ------------------------------------------------------------------------

    def add_worker(
        self, name: str = "", *, app: App | None = None, queues: Sequence[str] | None = None,
        concurrency: int = 1,
    ) -> VirtualWorker:  # fmt: skip
        """Start one more worker.

        Args:
            name: of it, as in ``mesh.workers``; by default worker1, worker2, …
            app: whose tasks it runs; by default the first one of the mesh.
            queues: it takes tasks from these only; None: from all.
            concurrency: so many tasks may be under way there at once, of which all but one
                wait for others.

        Raises:
            ConfigError: the name is taken.
        """
        app = app or self._apps[0]
        name = name or f"worker{len(self.workers) + 1}"
        if name in self.workers:
            raise ConfigError(f"there is a worker {name!r} in this mesh already; choose another")
        host = PoolHost(
            name, lambda slot, request: None, self._clock.wait_until, self._is_due, self._called
        )
        settings = replace(app.settings, queues=tuple(queues or self._queues_of(app)))
        worker = VirtualWorker(
            app, settings, host, lambda part, own: self._make_node(part, name, own), concurrency
        )
        worker.takes_all = queues is None
        self.workers[name] = worker
        return worker

    @staticmethod
    def _queues_of(app: App) -> dict[str, None]:
        """Where its tasks go, as far as that is known before they are called."""
        names = [*app.settings.queues, app.settings.default_queue]
        names += [task.queue for task in app.tasks.values() if task.queue]
        return dict.fromkeys(names)

    @property
    def running_worker(self) -> VirtualWorker:
        """For code inside a task: the worker that runs it.

        Raises:
            RuntimeError: no task runs here.
        """
        if not self._running:
            raise RuntimeError("running_worker: no task of this mesh runs here")
        return self.workers[self._running[-1].host.name]

    def add_beat(self, name: str = "", *, app: App | None = None) -> VirtualBeat:
        """Start a node that calls the periodic tasks of an App when they are due.

        It listens for two seconds before it leads; what was due meanwhile is called then.

        Args:
            name: of it, as in ``mesh.beats``; by default beat1, beat2, …
            app: whose periodic tasks; by default the first one of the mesh.

        Raises:
            ConfigError: the name is taken, or a periodic task cannot be called.
        """
        name = name or f"beat{len(self.beats) + 1}"
        if name in self.beats:
            raise ConfigError(f"there is a beat {name!r} in this mesh already; choose another")
        beat = VirtualBeat(
            app or self._apps[0], lambda part: self._make_node(part, name), self._called
        )
        self.beats[name] = beat
        self._wires.pump()
        return beat

    def kill(
        self,
        worker: VirtualWorker | VirtualBeat | str,
        *,
        during: Task[Any, Any] | str | None = None,
    ) -> None:
        """Let a worker, or a beat, die, as if its host had lost power. What it had runs elsewhere.

        Others know a moment later, so a little time passes. Called inside a task that the
        worker runs (``mesh.running_worker``), it ends the function right there.

        Args:
            worker: it, or its name.
            during: not now, but in the midst of the next attempt there of this task: when the
                function has run, and before anybody hears how it ended.

        Raises:
            ConfigError: there is no such worker.
        """
        beat = self.beats.get(worker) if isinstance(worker, str) else worker
        if isinstance(beat, VirtualBeat):
            beat.node.die()
            if not self._running:
                self.advance(_GONE_MS / 1000)
            return
        found = self._worker(worker)
        if during is not None:
            found.dies_during = during if isinstance(during, str) else during.name
            return
        self._die(found)
        if self._running and self._running[-1] is found.pool:
            raise WorkerKilled
        if not self._running:
            self.advance(_GONE_MS / 1000)

    def stop(self, worker: VirtualWorker | str) -> None:
        """Let a worker leave: what waits there goes back to where it came from.

        Raises:
            ConfigError: there is no such worker.
            RuntimeError: called inside a task that it runs.
        """
        found = self._worker(worker)
        if found.pool in self._running:
            raise RuntimeError(f"stop({found.name!r}) inside a task that it runs; use kill()")
        found.node.mesh.drain()
        self._wires.pump()
        while self._run_one(found.pool):
            pass
        found.node.leave("it was stopped")
        self._forget(found)
        self._wires.pump()

    def _worker(self, worker: object) -> VirtualWorker:
        found = self.workers.get(worker) if isinstance(worker, str) else worker
        if not isinstance(found, VirtualWorker) or not found.is_alive:
            there = [name for name, each in self.workers.items() if each.is_alive]
            raise ConfigError(
                f"no worker {worker} is alive in this mesh; there are {', '.join(there) or 'none'}"
            )
        return found

    def _die(self, worker: VirtualWorker) -> None:
        worker.node.die()
        self._forget(worker)
        self._wires.pump()

    def _forget(self, worker: VirtualWorker) -> None:
        worker.pool.is_dead = True
        self._due = deque(due for due in self._due if due[0] is not worker.pool)

    # --- what happens; see ``Driven`` -----------------------------------------------------

    def begin(self) -> None:
        """Somebody wants to see something happen."""
        if not self._running:
            self._runs_left = _ATTEMPTS_MAX

    def step(self) -> bool:
        """Let the next attempt run that is due; False if there is none."""
        self._wires.pump()
        if self._soon:
            self._soon.popleft()()
            return True
        return self._run_one()

    def do_soon(self, function: Callable[[], None]) -> None:
        """Call it at the next step: a callback of the test."""
        self._soon.append(function)

    def _run_one(self, of: VirtualPool | None = None) -> bool:
        for position, (pool, slot) in enumerate(self._due):
            if pool.is_free(slot) and (of is None or pool is of):
                del self._due[position]
                self._run(pool, slot)
                return True
        return False

    def _run(self, pool: VirtualPool, slot: int) -> None:
        self._runs_left -= 1
        if self._runs_left < 0:
            raise NeverEnds(
                f"{_ATTEMPTS_MAX:,} attempts have run, and more are due without time passing: "
                f"{self.open_calls()}"
            )
        worker = self.workers[pool.host.name]
        run = pool.first(slot)
        at = self.now
        self._running.append(pool)
        try:
            ended = pool.execute(slot)
        finally:
            self._running.pop()
        if ended is not None and worker.dies_during == run.name:
            worker.dies_during = ""
            self._die(worker)
            ended = None
        self._record(run, worker.name, at, ended)
        if ended is not None:
            with self._wires.lock:
                worker.ended(slot, ended)
                self._wires.pump()

    def _record(self, run: RunTask, worker: str, at: datetime, ended: Ended | None) -> None:
        if ended is not None and ended.is_cancelled:
            return
        state = "LOST" if ended is None else _state_of(ended.outcome.status)
        args, kwargs = decode_arguments(run.body)
        self.runs.append(RunOfTask(
            format_task_id(run.id), run.name, tuple(args), kwargs, run.attempt, worker, at, state
        ))  # fmt: skip

    def _is_due(self, pool: VirtualPool, slot: int) -> None:
        self._due.append((pool, slot))

    def next_ms(self) -> int | None:
        """When something happens next, in the time of the nodes."""
        deadlines = [node.mesh.next_deadline_ms() for node in self._wires.nodes.values()]
        return min(deadlines, default=None)

    def set_time(self, now_ms: int) -> None:
        """It is this time now."""
        with self._wires.lock:
            if now_ms > self._wires.now_ms:
                self._runs_left = _ATTEMPTS_MAX
            self._wires.now_ms = now_ms
            for node in list(self._wires.nodes.values()):
                node.tick()
            self._wires.pump()

    # --- calls --------------------------------------------------------------------------

    def _called(self, calls: Sequence[Call]) -> None:
        """These are about to be submitted."""
        for worker in self.workers.values():
            if worker.is_alive:
                worker.learn()
        for call in calls:
            self._serve(call.kind.queue)
            self.calls.append(_told(call))

    def _serve(self, queue: str) -> None:
        for worker in self.workers.values():
            if worker.takes_all and worker.is_alive and queue not in worker.queues:
                worker.serve(queue)

    def _open_ids(self) -> list[bytes]:
        return list(self._client.dispatcher.tasks)

    def open_calls(self) -> str:
        """Which calls have not ended, and why, in words."""
        ids = self._open_ids()
        if not ids:
            return "no call is open"
        states = self._client.runtime.mesh.states_of(ids[:_SHOWN_MAX])
        told = [f"{format_task_id(record.id)}: {describe_state(record)}" for record in states]
        more = [f"and {len(ids) - _SHOWN_MAX:,} more"] if len(ids) > _SHOWN_MAX else []
        return "; ".join([*told, *more])

    def __repr__(self) -> str:
        alive = [name for name, worker in self.workers.items() if worker.is_alive]
        return f"<VirtualMesh of {', '.join(alive) or 'no workers'} at {self.now.isoformat()}>"


def _state_of(status: int) -> str:
    return _STATE_OF.get(status) or states.STATE_OF_STATUS.get(status, states.FAILURE)


def _told(call: Call) -> CalledTask:
    ext = call.ext or {}
    args, kwargs = decode_arguments(call.body)
    return CalledTask(
        format_task_id(call.id), call.kind.name, tuple(args), kwargs, call.kind.queue,
        _moment(ext.get("eta")), _moment(ext.get("exp")), ext.get("pri", 0), ext.get("h", {}),
    )  # fmt: skip


def _moment(at_ms: object) -> datetime | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC) if isinstance(at_ms, int) else None


def mesh(
    *apps: App, workers: int = 1, concurrency: int = 1, queues: Sequence[str] | None = None,
    start: datetime | None = None,
) -> VirtualMesh:  # fmt: skip
    """A mesh in this process, for ``with``: all calls of its Apps go there meanwhile.

    Args:
        apps: at least one; each gets workers of its own.
        workers: how many each gets at first; 0: none, see ``add_worker``.
        concurrency: of these workers.
        queues: these workers take tasks from these only; None: from all.
        start: what time it is at first; by default what it is now.

    Raises:
        ConfigError: no App.
    """
    return VirtualMesh(*apps, workers=workers, concurrency=concurrency, queues=queues, start=start)
