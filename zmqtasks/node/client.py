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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from zmqtasks import keys
from zmqtasks.addresses import parse_address
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call, Ticket
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.owned import Durability
from zmqtasks.core.requirements import kind_for
from zmqtasks.errors import LocalProtocolError, NoWorkers, SubmitError, SubmitRejected
from zmqtasks.ids import task_id_maker
from zmqtasks.node.accepting import Acceptance, Acceptances
from zmqtasks.node.chosen import ChosenIds, Fate, is_chosen, refusal
from zmqtasks.node.clientjournal import ClientJournal
from zmqtasks.node.conditions import Conditions
from zmqtasks.node.gateway import Pending, TaskView
from zmqtasks.node.keeping import keep
from zmqtasks.node.leaving import Leaving
from zmqtasks.node.questions import Questions
from zmqtasks.node.room import Place, Room, size_of
from zmqtasks.node.runtime import Part, Runtime
from zmqtasks.node.survey import Request, SeenNode, Survey
from zmqtasks.node.tickets import Tickets, describe_state
from zmqtasks.settings import NodeSettings
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Hello, Kind, StateRecord
from zmqtasks.words import counted

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
        #: How long handing over may take at its end.
        self.exit_wait_s = settings.exit_wait_s
        self._pid = os.getpid()
        #: Who waits for the outcomes of tasks of this process.
        self.tickets = Tickets()
        self._acceptances = Acceptances(
            self.tickets,
            lambda calls, token: self.runtime.mesh.submit_durable(
                calls, token, self.runtime.now_ms
            ),
        )
        part = Part(
            roles=("producer",),
            dial_roles=DIAL_ROLES,
            owns_tasks=True,
            describe_journal=lambda: self.journal.describe(),
            performers={
                fx.TasksSettled: self._tasks_settled,
                fx.TasksUpdated: self._tasks_updated,
                fx.JournalWrite: lambda effect: self.journal.write(effect),
                fx.CallsAccepted: self._acceptances.accepted,
                fx.CallsRefused: self._calls_refused,
                fx.QuestionAnswered: lambda effect: self.questions.answered(effect),
                fx.RoomFreed: lambda effect: self._count_open(),
                fx.ReportGot: lambda effect: self.survey.report_got(effect),
                fx.LanePush: self._push_lane,
            },
        )
        self.runtime = self._make_runtime(part)
        #: What of its tasks is on the disk of this host.
        self.journal = ClientJournal(self.runtime)
        self._make_id = task_id_maker(self.runtime.node, self.runtime.epoch)
        self._inbox: deque[Sequence[Call]] = deque()
        self._durable_inbox: deque[Acceptance] = deque()
        self._drain_queued = False
        #: Looks at the whole mesh.
        self.survey = Survey(self.runtime, self.on_loop)
        #: What is open, and who waits for less.
        self.room = Room(settings.open_tasks_max, settings.open_bytes_max)
        #: What other threads wait for.
        self.conditions = Conditions(self.runtime.loop)
        #: Changes that the journal could not write in the end.
        self._unwritten_count = 0
        self._failure: BaseException | None = None
        self._closed = False
        self.runtime.open()
        self.questions = Questions(self.runtime, self.tickets, self.on_loop)
        self._chosen = ChosenIds(self.runtime, self.tickets, self.questions)
        self._start()

    def _make_runtime(self, part: Part) -> Runtime:
        """The node of this process."""
        mesh_key = keys.mesh_key(self.settings.key_file)
        return Runtime(_without_ports(self.settings), part, mesh_key)

    def _start(self) -> None:
        """From now on the loop runs."""
        self._thread = threading.Thread(target=self._run, name="zmqtasks-io", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    # --- the gateway --------------------------------------------------------------------

    def new_ids(self, count: int) -> list[bytes]:
        """See ``Gateway``."""
        make = self._make_id
        return [make() for _ in range(count)]

    def submit(
        self, calls: Sequence[Call], ticket: Ticket, *, wait_s: float | Place | None = None,
        require_worker_s: float | None = None, delivery: str = "at_least_once",
        durability: Durability = Durability.MEMORY,
    ) -> None:  # fmt: skip
        """See ``Gateway``."""
        self._check_alive()
        if require_worker_s is not None:
            self._require_worker(calls, require_worker_s)
        if wait_s is None:
            wait_s = self.settings.submit_timeout_s
        if is_chosen(calls[0], self.runtime.node):
            self._submit_chosen(calls, ticket, wait_s, delivery, durability)
            return
        if durability is Durability.DISK:
            self.begin(calls, ticket, wait_s=wait_s).wait()
            return
        self.room.take(len(calls), size_of(calls), wait_s)
        if delivery == "at_most_once":
            self.runtime.loop.call_soon(self._push, calls, ticket)
            return
        add = self.tickets.add
        for call in calls:
            add(call.id, ticket)
        self._inbox.append(calls)
        self._drain_soon()

    def line_up(self, calls: Sequence[Call], wake: Callable[[], None]) -> Place:
        """See ``Gateway``."""
        return self.room.line_up(len(calls), size_of(calls), wake)

    def begin(
        self, calls: Sequence[Call], ticket: Ticket, *, after: Pending | None = None,
        wait_s: float | Place | None = None,
    ) -> Acceptance:  # fmt: skip
        """See ``Gateway``."""
        self._check_alive()
        timeout_s = self.settings.submit_timeout_s
        self.room.take(len(calls), size_of(calls), timeout_s if wait_s is None else wait_s)
        for call in calls:
            self.tickets.add(call.id, ticket)
        assert after is None or isinstance(after, Acceptance), "made by this very method"
        acceptance = Acceptance(calls, ticket, timeout_s, self._forget, after)
        self._durable_inbox.append(acceptance)
        self._drain_soon()
        return acceptance

    def _forget(self, acceptance: Acceptance) -> None:
        ids = [call.id for call in acceptance.calls]
        # After the end nobody is told anything.
        with suppress(SubmitRejected, LocalProtocolError):
            self.on_loop(lambda: self.tickets.take_back(ids, acceptance.ticket))

    def states(self, ids: Sequence[bytes], timeout_s: float) -> dict[bytes, StateRecord]:
        """See ``Gateway``."""
        return self.questions.states(ids, timeout_s)

    def watch(self, ids: Sequence[bytes], ticket: Ticket) -> None:
        """See ``Gateway``."""
        self._check_alive()
        self.runtime.loop.call_soon(self.questions.watch, list(ids), ticket)

    def pace(self, task_id: bytes, is_behind: Callable[[], bool]) -> None:
        """See ``Gateway.pace``."""

        def look() -> None:
            pacing = self.dispatcher.pacing
            # Of another process's task nothing is held up here.
            pacing.pause(task_id, task_id in self.dispatcher.tasks and is_behind())

        self.runtime.loop.call_soon(look)

    def forget(self, ids: Sequence[bytes]) -> None:
        """See ``Gateway``."""
        self.on_loop(lambda: self.runtime.mesh.forget(list(ids)))

    def keep(self, kind: Kind, record_id: bytes, body: bytes, timeout_s: float) -> None:
        """See ``Gateway``."""
        keep(self, kind, record_id, body, timeout_s)

    def describe(self, task_id: bytes) -> str:
        """See ``Gateway``."""
        record = self.states([task_id], 1.0)[task_id]
        return describe_state(record)

    def story(self, task_id: bytes, timeout_s: float) -> TaskView:
        """See ``Gateway``."""
        # First the state: looking for it links everybody who can be found.
        record = self.states([task_id], timeout_s)[task_id]
        told = self.survey.stories(task_id, timeout_s)
        return TaskView(record, told, self.survey.names())

    def find(self, request: Request, timeout_s: float) -> list[Hello]:
        """See ``Gateway``."""
        return self.survey.find(request, timeout_s)

    def command(self, request: Request, timeout_s: float) -> list[SeenNode]:
        """See ``Gateway``."""
        return self.survey.command(request, timeout_s)

    # --- calls with chosen ids ------------------------------------------------------------

    def _submit_chosen(
        self, calls: Sequence[Call], ticket: Ticket, wait_s: float | Place, delivery: str,
        durability: Durability,
    ) -> None:  # fmt: skip
        """Some of them may be known already, see ``chosen.py``."""
        fates = self.on_loop(lambda: [self._chosen.fate_of(call) for call in calls])
        new = [call for call, fate in zip(calls, fates, strict=True) if fate is Fate.NEW]
        elsewhere = {}
        if new and wait_s and delivery == "at_least_once":
            elsewhere = self._chosen.elsewhere(new)
        self.room.take(len(calls), size_of(calls), wait_s)
        try:
            waits = self.on_loop(
                lambda: self._place(calls, ticket, elsewhere, (delivery, durability))
            )
        finally:
            self.room.give_back(len(calls), size_of(calls))
        try:
            for acceptance in waits:
                acceptance.wait()
        except SubmitError:
            # It may have been another thread's call that this one waited with.
            with suppress(SubmitRejected, LocalProtocolError):  # after the end
                self.on_loop(lambda: self._take_back(calls, ticket))
            raise

    def _take_back(self, calls: Sequence[Call], ticket: Ticket) -> None:
        """These were not accepted for this ticket; else they would count as known for ever."""
        self.tickets.take_back([call.id for call in calls], ticket)

    def _place(
        self, calls: Sequence[Call], ticket: Ticket, elsewhere: Mapping[bytes, StateRecord],
        how: tuple[str, Durability],
    ) -> list[Acceptance]:  # fmt: skip
        """Submit those that are new; returns what the caller has to wait for."""
        delivery, durability = how
        chosen, waits = self._chosen, []
        fates = [chosen.fate_of(call) for call in calls]
        for call, fate in zip(calls, fates, strict=True):
            if fate is Fate.OTHER:
                raise refusal(call)
        fresh: list[Call] = []
        for call, fate in zip(calls, fates, strict=True):
            under_way = self._acceptances.of(call.id)
            if under_way is not None:
                waits.append(under_way)
            chosen.remember(call)
            record = elsewhere.get(call.id)
            if fate is Fate.NEW and record is not None:
                self.questions.follow(record, ticket)
            elif fate is Fate.NEW or (fate is Fate.OPEN and durability is Durability.DISK):
                fresh.append(call)  # an open one may have to be on disk from now on
            else:
                chosen.attach(call, ticket)
        if fresh and delivery == "at_most_once":
            self._to_lane(fresh, ticket)
        elif fresh:
            waits += self._to_dispatcher(fresh, ticket, durability)
        self._count_open()
        return waits

    def _to_dispatcher(
        self, calls: Sequence[Call], ticket: Ticket, durability: Durability
    ) -> list[Acceptance]:
        for call in calls:
            self.tickets.add(call.id, ticket)
        if durability is Durability.MEMORY:
            self.runtime.mesh.submit(calls, self.runtime.now_ms)
            return []
        acceptance = Acceptance(calls, ticket, self.settings.submit_timeout_s, self._forget)
        self._acceptances.begin(acceptance)
        return [acceptance]

    # --- workers ------------------------------------------------------------------------

    def _require_worker(self, calls: Sequence[Call], wait_s: float) -> None:
        asked = list(dict.fromkeys(kind_for(call.kind, call.ext) for call in calls))
        is_served = lambda: not self.dispatcher.why_unserved(asked)  # noqa: E731
        if not self.conditions.wait(is_served, wait_s):
            # A worker may have come since the caller gave up.
            reason = self.on_loop(lambda: self.dispatcher.why_unserved(asked))
            if reason:
                raise NoWorkers(f"{reason}; nothing was submitted")

    # --- the I/O thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.journal.start()
            self.runtime.loop.run(self._turn, self.runtime.awake)
        except BaseException as exc:  # noqa: BLE001 - told to the callers
            self._failure = exc
            _LOG.exception("the zmqtasks I/O thread of this process failed")
        finally:
            self._closed = True
            self._unwritten_count = self.journal.close()
            self._acceptances.abandon()
            for acceptance in self._durable_inbox:
                acceptance.tell("this process has left the mesh")
            self.runtime.close()

    def _turn(self) -> int:
        timeout_ms = self.runtime.turn()
        if self.room.is_awaited:
            self._count_open()
        self.questions.turn()
        return self.conditions.turn(timeout_ms) if self.conditions else timeout_ms

    @property
    def dispatcher(self) -> Dispatcher:
        """Owns what this process submits."""
        dispatcher = self.runtime.mesh.dispatcher
        assert dispatcher is not None
        return dispatcher

    @property
    def lane(self) -> FastLane:
        """The at-most-once calls of this process."""
        lane = self.runtime.mesh.lane
        assert lane is not None
        return lane

    def _drain_soon(self) -> None:
        if not self._drain_queued:
            self._drain_queued = True
            self.runtime.loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_queued = False
        mesh, now_ms = self.runtime.mesh, self.runtime.now_ms
        inbox, durable = self._inbox, self._durable_inbox
        count = size = 0
        while inbox:
            calls = inbox.popleft()
            count += len(calls)
            size += size_of(calls)
            mesh.submit(calls, now_ms)
        while durable:
            acceptance = durable.popleft()
            count += len(acceptance.calls)
            size += size_of(acceptance.calls)
            self._acceptances.begin(acceptance)
        self.room.came(count, size)

    def _tasks_settled(self, effect: fx.TasksSettled) -> None:
        self.tickets.settled(effect.outcomes)
        self._count_open()

    def _tasks_updated(self, effect: fx.TasksUpdated) -> None:
        self.tickets.updated(effect.updates)
        self.questions.updated(effect.updates)

    def _calls_refused(self, effect: fx.CallsRefused) -> None:
        self._acceptances.refused(effect)
        self._count_open()

    def _count_open(self) -> None:
        dispatcher, lane = self.dispatcher, self.lane
        ownership = self.runtime.mesh.ownership
        assert ownership is not None
        # What was given away is not finished either, and somebody waits for it here.
        given = len(ownership.given.following)
        self.room.held(
            len(dispatcher.tasks) + given + lane.open_count,
            dispatcher.open_bytes + lane.open_bytes,
        )

    def _push(self, calls: Sequence[Call], ticket: Ticket) -> None:
        self.room.came(len(calls), size_of(calls))
        self._to_lane(calls, ticket)

    def _to_lane(self, calls: Sequence[Call], ticket: Ticket) -> None:
        for call in calls:
            self.tickets.add(call.id, ticket)
        self.lane.submit(calls, self.runtime.now_ms)
        self.tickets.drop(self.lane.forget_oldest())

    def _push_lane(self, effect: fx.LanePush) -> None:
        if not self.runtime.transport.push(effect.lane, codec.encode(effect.message)):
            self.lane.not_pushed(effect.lane, effect.calls, self.runtime.now_ms)
        else:
            self._count_open()

    # --- between threads ----------------------------------------------------------------

    def on_loop(self, function: Callable[[], _T], /) -> _T:
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

    def end(self, reason: str) -> int:
        """Leave the mesh when all is seen to, see ``leaving.py``; stderr says what became of
        open tasks. A second call, or one after ``close``, does nothing.

        Returns:
            How many tasks were given up, or did not get to the disk in time.
        """
        if os.getpid() != self._pid or self._closed:
            return 0
        leaving = Leaving(self)
        told = leaving.run()
        if told:
            _tell(told)
        self.close(reason)
        if self._unwritten_count:
            _tell(
                f"{counted(self._unwritten_count, 'change')} could not be written to the journal "
                "of this process before it ended: tasks that wait are lost, tasks that have ended "
                "may run again"
            )
        return leaving.given_up_count + self._unwritten_count

    def _at_exit(self) -> None:
        self.end("the process ended")


def _tell(text: str) -> None:
    """One line on stderr, or in the log of a process that has none."""
    try:
        if sys.stderr is None:
            raise ValueError
        sys.stderr.write(f"zmqtasks: {text}\n")
    except (OSError, ValueError):
        _LOG.error("%s", text)


def _without_ports(settings: NodeSettings) -> NodeSettings:
    """Fixed ports are a node's: one file of settings may serve it and the scripts beside it."""
    hosts = (
        entry if entry == "ipc" else parse_address(entry, default_port=0)[0]
        for entry in settings.listen
    )
    return replace(settings, listen=tuple(dict.fromkeys(hosts)), port=0, advertise=())
