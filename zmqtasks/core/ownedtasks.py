"""The tasks that an owner has: how they come, where they wait, how they are given away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from zmqtasks.core.calls import INPUTS_KEY, Call, weight
from zmqtasks.core.custody import Custody
from zmqtasks.core.dealing import Dealer, always_auto
from zmqtasks.core.effects import CallsAccepted, CallsRefused, Effect
from zmqtasks.core.inputs import Inputs
from zmqtasks.core.kept import KeptOutcomes
from zmqtasks.core.lanes import (
    FIRST_KEY,
    Lane,
    OwnedTask,
    TakenTask,
    WorkerLink,
    is_guarded,
    may_have_started,
)
from zmqtasks.core.owned import Durability, OwnedRecord, Progress
from zmqtasks.core.requirements import LIMITS_KEY, kind_for
from zmqtasks.core.stories import Stories
from zmqtasks.core.waiting import Waiting
from zmqtasks.core.workqueue import PRIORITY_KEY
from zmqtasks.core.written import Told, WrittenTasks
from zmqtasks.wire.messages import Outcome, Status

#: Facts because of which a new task is not just the last one of its lane.
_NOT_PLAIN = frozenset({"eta", "exp", PRIORITY_KEY, INPUTS_KEY})
#: Of a lane's ``parked``, so many may have gone before somebody looks.
PARKED_GONE_MAX = 1_024


class Cancellation(NamedTuple):
    """How a task is to end."""

    #: CANCELLED or EXPIRED.
    status: Status
    #: Also if it runs already.
    terminate: bool = False
    #: For the process of one that runs, 0 for none.
    signal: int = 0


#: Key in a task's facts: it is to be cancelled, if it runs by this signal, with 0 only if it
#: does not. So the journal knows, and whoever owns the task next.
CANCELLED_KEY = "x"


class Answer:
    """Told once, when all that it waits for has been told: "" or the last refusal."""

    def __init__(self, then: Callable[[str], None]) -> None:
        self._then = then
        self._waiting_count = 1
        self._refusal = ""

    def wait_for_one(self) -> None:
        """One more has to be told."""
        self._waiting_count += 1

    def told(self, refusal: str) -> None:
        """One of them is known."""
        self._waiting_count -= 1
        self._refusal = refusal or self._refusal
        if not self._waiting_count:
            self._then(self._refusal)


class OwnedTasks:
    """The base of the Dispatcher, which adds workers and settling.

    Args:
        tasks_max: open tasks at which ``has_room`` turns False.
        bytes_max: the same for the bytes of their arguments.
        custody: the journal; without one nothing outlives this process.
        routes: ``"direct"``, ``"broker"`` or ``"auto"`` for a queue.
    """

    def __init__(
        self, tasks_max: int, bytes_max: int, custody: Custody | None = None,
        routes: Callable[[str], str] = always_auto,
    ) -> None:  # fmt: skip
        self.tasks_max = tasks_max
        self.bytes_max = bytes_max
        self.effects: list[Effect] = []
        #: {task id: task}. All and only tasks that have not settled.
        self.tasks: dict[bytes, OwnedTask] = {}
        #: Which of them have to wait for their time, and which expire.
        self.waiting = Waiting(self.tasks)
        self.custody = custody or Custody(has_journal=False)
        self.written = WrittenTasks(
            self.custody, self.tasks, ready=self._ready, settled=self._left_journal,
            doubtful=self._go_on, body_of=lambda task: self.inputs.body_of(task),
        )  # fmt: skip
        self.dealer = Dealer(routes, self.written.prepare)
        self.lanes = self.dealer.lanes
        self.workers = self.dealer.workers
        self.kept = KeptOutcomes()
        #: Which of them have to wait for others.
        self.inputs = Inputs(self.tasks, self.kept.get, self._release)
        self.stories = Stories()
        #: Told of new tasks that the journal has refused.
        self.refused: Callable[[list[bytes]], None] = lambda ids: None
        #: This process is about to end.
        self.is_leaving = False
        #: Bytes of the arguments of open tasks.
        self.open_bytes = 0
        #: Tasks that others offer to this node, which has kept room for them, and bytes of
        #: their arguments.
        self.incoming_count = 0
        self.incoming_bytes = 0
        self._settled: list[Outcome] = []
        #: {task id: how} of open tasks that are to end, and cannot settle yet.
        self._cancelling: dict[bytes, Cancellation] = {}
        #: {task id: who else waits for the disk's answer}, of new durable tasks.
        self._putting: dict[bytes, list[Callable[[str], None]]] = {}

    def _left_journal(self, task: OwnedTask, told: list[Told]) -> None:
        """A task that has ended is in the journal no longer."""
        raise AssertionError("only a dispatcher settles")

    def _go_on(self, task: OwnedTask) -> None:
        """No worker has claimed the attempt of a resumed task."""
        raise AssertionError("only a dispatcher redelivers")

    def _expire(self, task: OwnedTask) -> None:
        """Nobody has it, and it must not start any more."""
        raise AssertionError("only a dispatcher settles")

    def _is_cancelled(self, task: OwnedTask) -> bool:
        """Nobody has it any more, and its cancellation was pending: it settles."""
        raise AssertionError("only a dispatcher settles")

    def _is_blocked(self, task: OwnedTask) -> bool:
        """It has to wait for other tasks, or for the journal to know their results, or has
        ended because one of those has not succeeded."""
        raise AssertionError("only a dispatcher settles")

    def _release(self, ids: list[bytes]) -> None:
        """Nobody waits for tasks that want these results."""
        self.custody.drop(ids, None, sync=False)

    # --- submitting ---------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """False while the open tasks, with those that are coming, are at their limit."""
        return min(self.room_left) > 0

    @property
    def open_count(self) -> int:
        """Open tasks, with those that are coming."""
        return len(self.tasks) + self.incoming_count

    @property
    def room_left(self) -> tuple[int, int]:
        """How many tasks more there may be, and bytes of their arguments."""
        return (
            self.tasks_max - self.open_count,
            self.bytes_max - self.open_bytes - self.incoming_bytes - self.inputs.held_bytes,
        )

    def submit(self, calls: Iterable[Call], now_ms: int) -> None:
        """Own these tasks. A task id seen before means the same task again."""
        fresh: list[bytes] = []
        for call in calls:
            task = self._accept(call)
            if task is not None:
                ext = call.ext
                if ext is None or _NOT_PLAIN.isdisjoint(ext):
                    task.lane.ready.plain.append(task)  # as nearly all
                else:
                    self._place(task)
                fresh.append(call.id)
        self.written.submitted(fresh, now_ms)
        self.dealer.is_touched = True

    def submit_durable(self, calls: Iterable[Call], token: int, now_ms: int) -> None:
        """Own these tasks when they are on the disk, synced; then ``CallsAccepted`` with
        this token, or ``CallsRefused`` for all of them."""
        self._submit_durable(calls, partial(self._answer, token))

    def _answer(self, token: int, refusal: str) -> None:
        answer = CallsRefused(token, refusal) if refusal else CallsAccepted(token)
        self.effects.append(answer)

    def _submit_durable(self, calls: Iterable[Call], then: Callable[[str], None]) -> None:
        fresh: list[OwnedTask] = []
        known: list[OwnedTask] = []
        answer = Answer(then)
        for call in calls:
            task = self.tasks.get(call.id)
            if task is None:
                task = self._accept(call)
                if task is not None:
                    task.durability = Durability.DISK
                    task.is_noting = True
                    self._putting[task.id] = []
                    fresh.append(task)
            elif task.id in self._putting:
                # Repeated before the disk has answered: it shares that answer.
                answer.wait_for_one()
                self._putting[task.id].append(answer.told)
            elif task.outcome is None:
                task.durability = Durability.DISK
                known.append(task)
        if fresh:
            answer.wait_for_one()
            self.written.put(fresh, partial(self._put, fresh, answer))
        if known:
            answer.wait_for_one()
            self._secure(known, answer.told)
        answer.told("")

    def _put(self, fresh: list[OwnedTask], answer: Answer, refusal: str) -> None:
        if refusal:
            self.refused([task.id for task in fresh])
        for task in fresh:
            task.is_noting = False
            waiting = self._putting.pop(task.id)
            if refusal:
                del self.tasks[task.id]
                self.open_bytes -= len(task.body)
                self.inputs.went(task.id, self.written.now_ms)
                self._cancelling.pop(task.id, None)
            else:
                self._ready(task)
            for told in waiting:
                told(refusal)
        answer.told(refusal)

    def _secure(self, tasks: list[OwnedTask], told: Callable[[str], None]) -> None:
        """These memory tasks are to be on the disk, synced.

        None is put that is there: a disk that fails would have it taken out again.
        """
        still = [task for task in tasks if task.id in self.tasks and task.outcome is None]
        unwritten = [task for task in still if not task.is_written]
        if unwritten:
            self.written.put(unwritten, partial(self._secured, still, unwritten, told))
        else:
            # After those that are on their way there, which may still be refused.
            self.custody.note([], partial(self._synced, still, told), sync=True)

    def _secured(
        self, tasks: list[OwnedTask], put: list[OwnedTask], told: Callable[[str], None],
        refusal: str,
    ) -> None:  # fmt: skip
        if refusal:
            self.written.not_written(put, self.written.now_ms)
            told(refusal)
        else:
            self._synced(tasks, told, "")

    def _synced(self, tasks: list[OwnedTask], told: Callable[[str], None], _refusal: str) -> None:
        is_known = not self.custody.is_putting(task.id for task in tasks)
        if is_known and all(task.is_written for task in tasks):
            told("")
        else:
            self._secure(tasks, told)

    def _accept(self, call: Call) -> OwnedTask | None:
        """A new task; None for one that is known."""
        if call.id in self.tasks:
            return None
        kept = self.kept.get(call.id)
        if kept is not None:
            self._settled.append(kept)
            return None
        kind = call.kind
        if call.ext is not None and LIMITS_KEY in call.ext:
            kind = kind_for(kind, call.ext)
        lane = self.lanes.get(kind)
        if lane is None:
            lane = self.dealer.lane_of(kind)
        self.tasks[call.id] = task = OwnedTask(call.id, lane, call.body, call.ext)
        if call.ext is not None:
            task.attempt = call.ext.get(FIRST_KEY, 1)
            # Else the first one is numbered when it may be given to a worker.
            task.attempt -= INPUTS_KEY in call.ext
        self.open_bytes += len(call.body)
        if self.inputs.foreign:
            self.inputs.came(call.id)
        if call.ext is not None and "exp" in call.ext:
            self.waiting.watch(task)
        return task

    def _ready(self, task: OwnedTask) -> None:
        """It may be sent, before those that came later."""
        task.worker = None
        if not task.offered:
            is_again = (task.attempt > 1 or task.strikes > 0) and not task.is_retry
            self._place(task, is_first=is_again or task.is_guarded)

    def _place(self, task: OwnedTask, *, is_first: bool = False) -> None:
        """Nobody has it: to where it waits to be sent, at one of the ends."""
        if self._cancelling and self._is_cancelled(task):
            return
        if task.ext is not None:
            if self.waiting.is_late(task):
                self._expire(task)
                return
            if INPUTS_KEY in task.ext and self._is_blocked(task):
                return
            if self.waiting.is_early(task):
                self.waiting.wait(task)
                self._may_go_elsewhere(task)
                return
        if is_first:
            task.lane.ready.appendleft(task)
        else:
            task.lane.ready.append(task)
        self.dealer.is_touched = True

    def leave(self) -> None:
        """This process is about to end: what waits for its time may be given away too."""
        self.is_leaving = True
        for task in self.tasks.values():
            if task.is_waiting and not task.offered:
                self._park(task)

    def _may_go_elsewhere(self, task: OwnedTask) -> None:
        """It waits, which it may as well do with another owner."""
        if self.is_leaving or task.lane.route == "broker":
            self._park(task)

    def _park(self, task: OwnedTask) -> None:
        parked = task.lane.parked
        parked.append(task)
        if len(parked) > PARKED_GONE_MAX and len(parked) > 2 * len(self.tasks):
            task.lane.parked = deque(task for task in parked if self._is_parked(task))

    def _is_parked(self, task: OwnedTask) -> bool:
        is_open = self.tasks.get(task.id) is task and task.outcome is None
        return is_open and task.is_waiting and not task.offered

    def write_all(self, now_ms: int) -> None:
        """Put every open task into the journal, synced, for whoever finds it there; those
        that it refuses are still counted by ``unwritten_count`` when it is done."""
        self.written.write_all(now_ms)

    @property
    def unwritten_count(self) -> int:
        """Open tasks that end with this process."""
        return sum(1 for task in self.tasks.values() if not task.is_written)

    # --- taking over and giving away ------------------------------------------------------

    def resume(self, records: Iterable[OwnedRecord]) -> None:
        """Own what the journal holds, of an earlier life of this node or of another one."""
        tasks = [self._restore(record) for record in records if record.id not in self.tasks]
        unsure: list[OwnedTask] = []
        for task in tasks:
            self.stories.tell(task.id, "resumed", attempt=task.attempt)
            may_be_held = task.id in self._cancelling or (
                is_guarded(task.lane.kind, task.ext) and may_have_started(task)
            )
            if INPUTS_KEY in (task.ext or {}) and not may_be_held:
                self._place(task)  # no attempt of it was ever given to anybody
            elif self.waiting.is_early(task) and not may_be_held:
                # Nobody has it, unless the clock was set back; so it need not be asked for.
                task.is_unsure = True
                self.waiting.wait(task)
            else:
                unsure.append(task)
        self.written.resume(unsure)

    def own(self, taken: Iterable[TakenTask]) -> None:
        """Own tasks that another node gave us; they are in the journal. One that is held
        here waits for our own intake to say so."""
        held: list[OwnedTask] = []
        for record, is_held in ((task.record, task.is_held) for task in taken):
            if record.id in self.tasks:
                continue
            task = self._restore(record)
            if is_held:
                held.append(task)
            else:
                self._ready(task)
        if held:
            self.written.resume(held)

    def _restore(self, record: OwnedRecord) -> OwnedTask:
        lane = self.dealer.lane_of(kind_for(record.kind, record.ext))
        self.tasks[record.id] = task = OwnedTask(
            record.id, lane, record.body, record.ext, record.attempt, record.strikes
        )
        task.durability, task.is_written = record.durability, True
        self.open_bytes += len(record.body)
        self.inputs.came(task.id)
        self.waiting.watch(task)
        signal = (task.ext or {}).get(CANCELLED_KEY)
        if isinstance(signal, int):
            self._cancelling[task.id] = Cancellation(Status.CANCELLED, signal > 0, signal)
        return task

    def take_ready(
        self, lane: Lane, count_max: int, bytes_max: int, taker: bytes
    ) -> list[OwnedTask]:
        """The oldest ready tasks of a lane, then those that wait for their time, at least one
        if there is any, to be offered to ``taker``: nobody else gets them until
        ``put_back`` or ``give``."""
        taken: list[OwnedTask] = []
        size = 0
        while len(taken) < count_max and (task := self.first_to_give(lane)) is not None:
            size += weight(task.body, task.ext)
            if taken and size > bytes_max:
                break
            (lane.ready or lane.parked).popleft()
            task.offered = taker
            if task.id in self.inputs.blocked:
                self._fold(task)
            if task.is_unsure:
                task.attempt += 1  # the last one may be somewhere
            taken.append(task)
        return taken

    def _fold(self, task: OwnedTask) -> None:
        """The results that have come for it go where it goes."""
        body = self.inputs.fold(task)
        if body is not None:
            self.open_bytes += len(body) - len(task.body)
            task.body = body
            if task.is_written:
                change = Progress(task.id, task.attempt, task.strikes, body=body)
                self.custody.note([change], None, sync=task.durability is Durability.DISK)

    def first_to_give(self, lane: Lane) -> OwnedTask | None:
        """What ``take_ready`` begins with."""
        if lane.ready:
            return lane.ready.first()
        while lane.parked and not self._is_parked(lane.parked[0]):
            lane.parked.popleft()
        return lane.parked[0] if lane.parked else None

    def offer_held(self, worker: WorkerLink, taker: bytes) -> list[OwnedTask]:
        """The tasks that a worker holds, to be offered to it. Their outcomes still count."""
        tasks = [task for task in worker.held.values() if not task.offered]
        for task in tasks:
            task.offered = taker
        return tasks

    def is_as_offered(self, task: OwnedTask, attempt: int) -> bool:
        """Nothing has come of it since, and nothing for it."""
        return task.attempt == attempt and not self.inputs.has_more(task.id)

    def is_offered(self, task_id: bytes) -> bool:
        """It is open here and offered to somebody."""
        task = self.tasks.get(task_id)
        return task is not None and bool(task.offered) and task.outcome is None

    def put_back(self, ids: Iterable[bytes]) -> None:
        """These offers came to nothing: the tasks go on here."""
        tasks = [self.tasks[task_id] for task_id in ids if task_id in self.tasks]
        unwritten = [task.id for task in tasks if task.offered and not task.is_written]
        if unwritten:
            self.written.submitted(unwritten, self.written.now_ms)
        for task in reversed(tasks):
            if task.offered:
                task.offered = b""
                if task.worker is None and not task.is_noting and task.outcome is None:
                    self._back(task)

    def _back(self, task: OwnedTask) -> None:
        if self._cancelling and self._is_cancelled(task):
            return
        if task.is_unsure:
            task.attempt -= 1
        if task.is_waiting:
            self._may_go_elsewhere(task)
        elif task.is_unsure:
            task.is_unsure = False
            self._go_on(task)
        else:
            self._place(task, is_first=True)

    def give(self, ids: Iterable[bytes]) -> list[OwnedTask]:
        """Another node owns these from now on; returns those that were offered."""
        given: list[OwnedTask] = []
        for task_id in ids:
            if self.is_offered(task_id):
                task = self.tasks.pop(task_id)
                self.open_bytes -= len(task.body)
                self.inputs.went(task_id, self.written.now_ms)
                if task.worker is not None:
                    task.worker.held.pop(task_id, None)
                given.append(task)
        return given
