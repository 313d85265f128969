"""A user's script, between its calls and its machines: production's Client without a thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulation.tasks import Spec
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.owned import Durability
from zmqtasks.errors import MeshOverloaded, SubmitRejected
from zmqtasks.node.accepting import Acceptance, Acceptances
from zmqtasks.node.chosen import ChosenIds, Fate
from zmqtasks.node.client import Client
from zmqtasks.node.questions import Questions, _is_known, _Question
from zmqtasks.node.room import Room, size_of
from zmqtasks.node.tickets import Tickets
from zmqtasks.wire.content import content_digest
from zmqtasks.wire.messages import Outcome, StateRecord, UpdateRecord

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.promises import CallLedger

_T = TypeVar("_T")
#: Others are asked about an id for so long, as ``node.chosen`` does.
_ASK_MS = 1_000
#: How often who waits for something looks again, beside each turn.
_LOOK_MS = 50


class SimRuntime:
    """What the parts of ``zmqtasks.node`` see of a simulated process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.node = process.hello.node
        self.loop = SimpleNamespace(call_soon=process.deliver)
        self.finding = SimpleNamespace(grace_ms=100, withdraw=lambda: None)

    @property
    def mesh(self) -> Any:
        """Its machines."""
        return self._process.node

    @property
    def now_ms(self) -> int:
        """Its time."""
        return self._process.now

    def leave(self, reason: str) -> None:
        """Say goodbye, and be gone when that is heard."""
        process = self._process
        process.node.membership.say_goodbye(reason)
        process.world.after(process.world.rng.randint(1, 250), process.world.left, process)


class Ticket:
    """Somebody who waits for outcomes."""

    def __init__(self, caller: Caller, ids: Sequence[bytes]) -> None:
        self.caller = caller
        self.waiting = dict.fromkeys(ids)
        #: Its tasks were called by another process first, so it is told by the mesh.
        self.is_follower = False

    def settled(self, task_id: bytes, outcome: Outcome) -> None:
        """See ``Ticket`` of ``core.calls``."""
        assert outcome.id == task_id
        self.caller.promises.ticket_told(self, outcome)

    def updated(self, task_id: bytes, record: UpdateRecord) -> None:
        """See ``Ticket`` of ``core.calls``."""


class _Calls:
    """Calls on their way: they wait for room, for what others know, or for the disk."""

    def __init__(self, caller: Caller, specs: list[Spec], how: str, is_keyed: bool) -> None:
        self.specs = specs
        self.how = how
        self.is_keyed = is_keyed
        self.durability = Durability.DISK if how == "disk" else Durability.MEMORY
        self.calls = [
            Call(spec.id, spec.kind, spec.body, _keyed_ext(spec) if is_keyed else spec.ext)
            for spec in specs
        ]
        self.ticket = Ticket(caller, [spec.id for spec in specs])
        self.until_ms = 0
        self.elsewhere: Mapping[bytes, StateRecord] = {}
        self.acceptances: list[Acceptance] = []


def _keyed_ext(spec: Spec) -> dict[str, Any]:
    digest = content_digest(spec.kind.app, spec.kind.name, spec.body)
    return {**(spec.ext or {}), "c": digest}


class _Questions(Questions):
    """Its answers come turn by turn."""

    found: Sequence[StateRecord] = ()

    def seen_elsewhere(self, ids: Sequence[bytes], timeout_s: float) -> list[StateRecord]:
        """What was found last."""
        return [record for record in self.found if _is_known(record)]

    def is_asked(self, token: int) -> bool:
        """It has asked that."""
        return token in self._news


class Caller(Client):
    """The calls of one script.

    Args:
        process: whose machines own them.
    """

    def __init__(self, process: Process) -> None:
        dispatcher = process.node.dispatcher
        assert dispatcher is not None
        # Client.__init__ would make a thread and sockets.
        self.process = process
        self._pid = os.getpid()
        self._failure = None
        self._closed = False
        self.settings: Any = SimpleNamespace(submit_timeout_s=10.0)
        runtime: Any = SimRuntime(process)
        self.runtime = runtime
        self.tickets = Tickets()
        self._acceptances = Acceptances(
            self.tickets,
            lambda calls, token: process.node.submit_durable(calls, token, process.now),
        )
        self._inbox: deque[Sequence[Call]] = deque()
        self._durable_inbox: deque[Acceptance] = deque()
        self._drain_queued = False
        self.room = Room(dispatcher.tasks_max, dispatcher.bytes_max)
        self._questions = _Questions(runtime, self.tickets, self.on_loop)
        self.questions = self._questions
        self._chosen = ChosenIds(runtime, self.tickets, self.questions)
        #: What to do in each turn, until it is done.
        self._waiting: list[Callable[[], bool]] = []
        self._is_woken = False
        #: Most calls at once so far: they pass when nothing else is open.
        self.batch_max = 0

    def on_loop(self, function: Callable[[], _T], /) -> _T:
        """There is one thread."""
        return function()

    def _drain(self) -> None:
        fresh = [call.id for calls in self._inbox for call in calls]
        super()._drain()
        for task_id in fresh:
            self.promises.owned(task_id)

    @property
    def promises(self) -> CallLedger:
        """Knows what callers were told."""
        return self.process.world.ledger.calls

    # --- effects --------------------------------------------------------------------------

    def performed(self, effect: fx.Effect) -> None:
        """An effect that concerns callers."""
        if isinstance(effect, fx.TasksSettled):
            self._tasks_settled(effect)
        elif isinstance(effect, fx.CallsAccepted):
            self._acceptances.accepted(effect)
        elif isinstance(effect, fx.CallsRefused):
            self._calls_refused(effect)
        elif isinstance(effect, fx.QuestionAnswered):
            self.questions.answered(effect)
        else:
            self._count_open()

    def is_asked(self, token: int) -> bool:
        """A caller has asked that."""
        return self._questions.is_asked(token)

    def turn(self) -> None:
        """At the end of each turn."""
        if not self._waiting:
            return
        self._count_open()
        self.questions.turn()
        self._waiting = [look for look in self._waiting if not look()]
        if self._waiting and not self._is_woken:
            self._is_woken = True
            self.process.world.after(_LOOK_MS, self.process.deliver, self._wake)

    def _wake(self) -> None:
        self._is_woken = False

    # --- calls ----------------------------------------------------------------------------

    def call(self, specs: list[Spec], how: str, wait_ms: int) -> None:
        """delay(), or delay_many(); it may wait that long for room."""
        calls = _Calls(self, specs, how, is_keyed=False)
        self.process.world.ledger.submitted(self.process, specs, how, is_owned=False)
        self._begin(calls, wait_ms)

    def call_keyed(self, spec: Spec, how: str, wait_ms: int) -> None:
        """delay() with idempotency_key."""
        calls = _Calls(self, [spec], how, is_keyed=True)
        if self._chosen.fate_of(calls.calls[0]) is not Fate.NEW:
            self._begin(calls, wait_ms)
            return
        question = _Question(quick=True)
        world = self.process.world
        knowing = self.promises.knowing(self.process, spec.id)
        token = self._questions._ask([spec.id], question)
        until_ms = world.now + _ASK_MS

        def look() -> bool:
            if question.answer.done():
                self._questions.found = question.answer.result()
            elif world.now >= until_ms:
                asked = self.process.node.inquiry.questions.get(token)
                if asked is None or asked.waiting:
                    knowing.clear()  # somebody did not answer in time
                self._questions.found = self._questions._best_so_far(token)
            else:
                return False
            self._asked(calls, knowing, wait_ms)
            return True

        self._look_until_done(look)

    def _asked(self, calls: _Calls, knowing: dict[str, None], wait_ms: int) -> None:
        """The mesh has answered; those who ``knew`` it and were linked all the time count."""
        promises, call = self.promises, calls.calls[0]
        try:
            calls.elsewhere = self._chosen.elsewhere(calls.calls)
        except SubmitRejected:
            promises.key_refused(call)
            return
        if not calls.elsewhere and self._chosen.fate_of(call) is Fate.NEW:
            still = promises.knowing(self.process, call.id)
            missed = [name for name in knowing if name in still]
            assert not missed, f"{missed} know the task of a key, and were not heard"
            if not promises.may_place(call):
                return  # a second task, as there may be where not all hear each other
        elif calls.elsewhere:
            calls.ticket.is_follower = True
        self._begin(calls, wait_ms)

    def _begin(self, calls: _Calls, wait_ms: int) -> None:
        calls.until_ms = self.process.world.now + wait_ms
        self._look_until_done(lambda: self._submit_calls(calls))

    def _look_until_done(self, look: Callable[[], bool]) -> None:
        self._waiting.append(look)
        self.process.deliver(_nothing)

    def _submit_calls(self, calls: _Calls) -> bool:
        """Try; True when they have been submitted, or given up."""
        if self.process.leave_by_ms:
            self.promises.never_submitted(self.process, calls.specs, is_keyed=calls.is_keyed)
            return True
        try:
            if calls.is_keyed:
                if not self._submit_keyed(calls):
                    return True
            elif calls.how == "disk":
                calls.acceptances = [self.begin(calls.calls, calls.ticket, wait_s=0)]
            else:
                delivery = "at_most_once" if calls.how == "loose" else "at_least_once"
                self.submit(calls.calls, calls.ticket, wait_s=0, delivery=delivery)
        except MeshOverloaded:
            return self._overloaded(calls)
        except SubmitRejected:
            self.promises.key_refused(calls.calls[0])
            return True
        self.batch_max = max(self.batch_max, len(calls.calls))
        self.promises.tickets.append(calls.ticket)
        if calls.acceptances:
            self._look_until_done(lambda: self._is_accepted(calls))
        return True

    def _overloaded(self, calls: _Calls) -> bool:
        room, count, size = self.room, len(calls.calls), size_of(calls.calls)
        is_full = room.count + count > room.count_max or room.bytes + size > room.bytes_max
        assert is_full, "there was room"
        assert room.count, "a call that is too large by itself does not pass alone"
        if self.process.world.now < calls.until_ms:
            return False
        self.process.world.faults.count("limits")
        self.promises.never_submitted(self.process, calls.specs, is_keyed=calls.is_keyed)
        return True

    def _submit_keyed(self, calls: _Calls) -> bool:
        """As ``Client._submit_chosen`` does, but for its waiting; False: better not."""
        call = calls.calls[0]
        is_other = not self.promises.is_same_content(call)
        is_new = self._chosen.fate_of(call) is Fate.NEW and not calls.elsewhere
        if is_new and not self.promises.may_place(call):
            # The disk has refused the other one since, or this would be a second task.
            return False
        if not is_new and not is_other:
            self.process.world.faults.count("keys")
        count, size = len(calls.calls), size_of(calls.calls)
        self.room.take(count, size, 0)
        try:
            how = ("at_least_once", calls.durability)
            calls.acceptances = self._place(calls.calls, calls.ticket, calls.elsewhere, how)
            assert not is_other, "a key is taken for another content"
        finally:
            self.room.give_back(count, size)
        self.promises.placed(calls.specs[0], calls.how)
        if calls.durability is Durability.MEMORY:
            self.promises.owned(call.id)
        return True

    def _is_accepted(self, calls: _Calls) -> bool:
        if not all(acceptance.is_told for acceptance in calls.acceptances):
            return False
        ids = [spec.id for spec in calls.specs]
        if all(acceptance.refusal == "" for acceptance in calls.acceptances):
            for task_id in ids:
                self.promises.accepted(self.process, task_id)
        else:
            self._take_back(calls.calls, calls.ticket)
            self.promises.tickets.remove(calls.ticket)
            for task_id in ids:
                self.promises.refused(self.process, task_id, is_keyed=calls.is_keyed)
        return True

    # --- at rest --------------------------------------------------------------------------

    def check_open(self, count: int) -> None:
        """No more of its calls are open than may be."""
        most = max(self.room.count_max, self.batch_max)
        assert count <= most, f"{count} tasks are open where {most} may be"

    def check_rest(self) -> None:
        """Nothing is open, and nobody waits."""
        self._count_open()
        lane, ownership = self.lane, self.process.node.ownership
        assert ownership is not None
        for task_id in ownership.given.following:
            assert self.promises.is_lost(task_id), "an ended task counts as open"
        lost = len(ownership.given.following)
        count, size = self.room.count - lane.open_count - lost, self.room.bytes - lane.open_bytes
        assert (count, size) == (0, 0), f"{count} calls with {size} bytes count as open"

    @property
    def is_calling(self) -> bool:
        """Somebody waits for room, for what others know, or for the disk."""
        return bool(self._waiting)

    def awaited(self) -> list[bytes]:
        """Tasks that tickets wait for."""
        return list(self.tickets._first)


def _nothing() -> None:
    """A turn is wanted."""
