"""The pool of a worker in this very process: attempts run when it is their turn, one after
the other, through what a child of a real pool runs."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqtasks.app import context, timing
from zmqtasks.app.beatmain import TickGateway
from zmqtasks.app.child_gateway import ChildGateway
from zmqtasks.app.childmain import AppProgram
from zmqtasks.app.current import in_running_loop
from zmqtasks.node.gateway import Call, Durability, Ticket
from zmqtasks.node.tickets import unknown_outcome
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.child import Question, cancelled_outcome
from zmqtasks.pools.protocol import (
    Answer,
    ChildOutcome,
    ChildRequest,
    LogRecord,
    QueryRequest,
    RunTask,
    TaskFacts,
)
from zmqtasks.pools.running import set_running_here
from zmqtasks.wire.messages import CatalogEntry, TaskState

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.room import Place

_LOG = logging.getLogger("zmqtasks.task")


class WorkerKilled(BaseException):
    """Ends the function that runs on a worker which was killed; tasks should not catch it."""


class Ended(NamedTuple):
    """An attempt that is over."""

    run: RunTask
    outcome: ChildOutcome
    #: It never began.
    is_cancelled: bool = False


class PoolHost(NamedTuple):
    """What a pool needs of its node, and of the mesh that it is in."""

    name: str
    #: Code in this slot wants something of the node.
    request: Callable[[int, ChildRequest], None]
    #: Lets time pass until something holds; as ``VirtualClock.wait_until``.
    wait_until: Callable[[Callable[[], Any], int | None], bool]
    #: This slot has something to run.
    due: Callable[[VirtualPool, int], None]
    #: Code inside a task calls others.
    called: Callable[[Sequence[Call]], None]


class VirtualPool:
    """Slots that hold attempts until it is their turn; see ``zmqtasks.pools.base.Pool``.

    Args:
        app: whose tasks run here.
        slots: how many of them may be under way at once, as those are that wait for others.
        host: its node.
    """

    #: Time limits need a process, or the time of day.
    features: frozenset[str] = frozenset()

    def __init__(self, app: App, slots: int, host: PoolHost) -> None:
        self.slots = slots
        self.host = host
        self._app = app
        self._program = self._make_program()
        #: Of which attempts may still run.
        self._former: list[AppProgram] = []
        self._ways = [InTask(SlotLink(self, slot)) for slot in range(slots)]
        self._queues: list[deque[RunTask]] = [deque() for _ in range(slots)]
        self._busy: set[int] = set()
        #: {(id, attempt): status} of those that are not to start.
        self._cancelled: dict[tuple[bytes, int], int] = {}
        self.is_dead = False

    def _make_program(self) -> AppProgram:
        config = PoolConfig(self._app.name, node_name=self.host.name)
        return AppProgram(self._app, (KeyboardInterrupt, WorkerKilled), config, _tell)

    def learn(self) -> None:
        """The application has other tasks than before."""
        self._former.append(self._program)
        self._program = self._make_program()

    @property
    def catalog(self) -> list[CatalogEntry]:
        """The tasks that it can run."""
        return self._program.catalog

    @property
    def facts(self) -> Mapping[str, TaskFacts]:
        """See ``Pool``."""
        return self._program.facts

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """See ``Pool``."""
        self._queues[slot].extend(tasks)
        for _ in tasks:
            self.host.due(self, slot)

    def cancel(self, slot: int, task_id: bytes, attempt: int, status: int, signum: int) -> None:
        """See ``Pool``: one that runs goes on."""
        self._cancelled[task_id, attempt] = status

    def answer(self, slot: int, answer: Answer) -> None:
        """See ``Pool``."""
        self._ways[slot].link.answered(answer)

    def is_free(self, slot: int) -> bool:
        """Nothing runs there now."""
        return slot not in self._busy

    def first(self, slot: int) -> RunTask:
        """The next attempt of a slot."""
        return self._queues[slot][0]

    def execute(self, slot: int) -> Ended | None:
        """Run the next attempt of a free slot; None if its worker was killed meanwhile."""
        run = self._queues[slot].popleft()
        status = self._cancelled.pop((run.id, run.attempt), None)
        if status is not None:
            return Ended(run, cancelled_outcome(run, status), is_cancelled=True)
        self._busy.add(slot)
        context.set_node_name(self.host.name)
        try:
            outcome = self._execute(slot, run)
        except WorkerKilled:
            return None
        finally:
            self._busy.discard(slot)
            context.set_node_name("")
            self._cancelled.pop((run.id, run.attempt), None)
        return None if self.is_dead else Ended(run, outcome)

    def _execute(self, slot: int, run: RunTask) -> ChildOutcome:
        def execute() -> ChildOutcome:
            set_running_here(run)
            way.set(self._ways[slot])
            return self._program.execute(run)

        in_context = copy_context()
        if not in_running_loop():
            return in_context.run(execute)
        # A coroutine function needs a loop of its own, and there can be one in a thread only.
        ended: list[ChildOutcome] = []
        killed: list[WorkerKilled] = []

        def in_thread() -> None:
            try:
                ended.append(in_context.run(execute))
            except WorkerKilled as exc:
                killed.append(exc)
            finally:
                self._program.end_thread()

        thread = threading.Thread(target=in_thread, name="zmqtasks-virtual")
        thread.start()
        thread.join()
        for exc in killed:
            raise exc
        return ended[0]

    def close(self) -> None:
        """No more is run here."""
        for program in (*self._former, self._program):
            program.end_thread()


class SlotLink:
    """What code in a slot says to its node; see ``zmqtasks.pools.child.Link``.

    Args:
        pool: of the slot.
        slot: its number.
    """

    passes: tuple[type[BaseException], ...] = (KeyboardInterrupt, WorkerKilled)

    def __init__(self, pool: VirtualPool, slot: int) -> None:
        self.pool = pool
        self.slot = slot
        #: {number of a request: its answer}, until it is fetched.
        self._answers: dict[int, Answer] = {}
        #: {number of a request: called with its answer}.
        self._awaited: dict[int, Callable[[Answer], None]] = {}
        self._number = 0

    def tell(self, request: ChildRequest) -> None:
        """See ``Link``."""
        self.pool.host.request(self.slot, request)

    def ask(self, make: Callable[[int], Question], timeout_s: float | None = None) -> Answer | None:
        """See ``Link``."""
        number, answers = self._next(), self._answers
        self.tell(make(number))
        if number not in answers:
            timeout_ms = None if timeout_s is None else timing.span_ms(timeout_s)
            self.pool.host.wait_until(lambda: number in answers, timeout_ms)
        return answers.pop(number, None)

    def call_back(self, make: Callable[[int], Question], told: Callable[[Answer], None]) -> None:
        """Send a question; somebody is told the answer when it comes."""
        number = self._next()
        self._awaited[number] = told
        self.tell(make(number))

    def answered(self, answer: Answer) -> None:
        """The node has answered."""
        told = self._awaited.pop(answer.request, None)
        if told is not None:
            told(answer)
        else:
            self._answers[answer.request] = answer

    def _next(self) -> int:
        self._number += 1
        return self._number


class InTask(ChildGateway):
    """The way to the mesh for code inside a task: that of a pool's child, without a thread.

    Args:
        link: of the slot.
    """

    def __init__(self, link: SlotLink) -> None:
        super().__init__(link)
        self.link = link

    def submit(
        self, calls: Sequence[Call], ticket: Ticket, *, wait_s: float | Place | None = None,
        require_worker_s: float | None = None, delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:  # fmt: skip
        """See ``ChildGateway``."""
        self.link.pool.host.called(calls)
        super().submit(
            calls, ticket, wait_s=wait_s, require_worker_s=require_worker_s, delivery=delivery,
            durability=durability,
        )  # fmt: skip

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        """See ``Gateway``."""
        self._running()

        def told(answer: Answer) -> None:
            for state in answer.states:
                if state.outcome is not None:
                    ticket.settled(state.id, state.outcome)
                elif state.state == TaskState.UNKNOWN:
                    ticket.settled(state.id, unknown_outcome(state.id))

        self.link.call_back(
            lambda number: QueryRequest(request=number, ids=list(ids), wait=True), told
        )


#: Where code that runs here is inside of a task, or is asked for the calls of a tick: the way
#: out of it.
way: ContextVar[InTask | TickGateway | None] = ContextVar("zmqtasks_virtual_way", default=None)


def _tell(record: LogRecord) -> None:
    _LOG.log(record.level, "%s: %s", record.name, record.text)
