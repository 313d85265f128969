"""The owner's side: tasks from submission until they settle.

::

    submit -> READY --credit--> SENT --DONE--> settled
                ^                 |
                +--REJECT(busy), lost worker (attempt + 1)--+

Only the owner dispatches, redelivers and settles. Tasks of one *kind* (app, name,
signature, queue) wait in one deque, since they can run on the same workers. A worker
gets what its credit allows, in batches. When a worker is lost all that it held is
READY again with the next attempt number; what it finishes later anyway carries the old
number and is refused. Only attempts that were seen running count as strikes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.calls import Call
from zmqtasks.core.diagnosis import WARN_AFTER_MS, explain_waiting
from zmqtasks.core.effects import Effect, Note, RoomFreed, Send, TasksSettled
from zmqtasks.core.kept import KeptOutcomes
from zmqtasks.core.lanes import Lane, OwnedTask, WorkerLink, load_of
from zmqtasks.core.links import LinkId
from zmqtasks.limits import (
    STRIKES_MAX,
)
from zmqtasks.wire.messages import (
    Credit,
    Demand,
    Done,
    Hello,
    Kind,
    Message,
    Outcome,
    Reject,
    RejectCode,
    Replay,
    Results,
    Settled,
    Started,
    StateRecord,
    Status,
    Submit,
    Submitted,
    TaskRecord,
    Tasks,
    TaskState,
)

#: While no store is known, so many of a worker's last outcomes are remembered for one.
_UNSTORED_MAX = 1_000


class Dispatcher:
    """Owns tasks. ``effects`` is drained by the owner after each turn.

    Args:
        tasks_max: open tasks at which ``has_room`` turns False.
        bytes_max: the same for the bytes of their arguments.
    """

    def __init__(self, tasks_max: int, bytes_max: int) -> None:
        self.tasks_max = tasks_max
        self.bytes_max = bytes_max
        self.effects: list[Effect] = []
        #: {task id: task}. All and only tasks that have not settled.
        self.tasks: dict[bytes, OwnedTask] = {}
        self.lanes: dict[Kind, Lane] = {}
        #: The link that is used for each worker node.
        self.workers: dict[LinkId, WorkerLink] = {}
        #: Further links to the same nodes: using both would only split the credit.
        self.spares: dict[LinkId, WorkerLink] = {}
        self.kept = KeptOutcomes()
        #: The mesh has a store, so what settles must get there.
        self.has_store = False
        #: Bytes of the arguments of open tasks.
        self.open_bytes = 0
        #: Counters for `status` and tests.
        self.redelivered_count = 0
        self.refused_count = 0
        #: Outcomes for the owner itself to publish: those that it decided, and those of
        #: workers that were lost before a store had them.
        self.own_outcomes: list[tuple[Kind, Outcome]] = []
        self._settled: list[Outcome] = []
        self._verdicts: dict[LinkId, tuple[list[int], list[int]]] = {}
        self._was_full = False
        self._turn = 0
        self._touched = False
        self._warn_at_ms: int | None = None

    # --- submitting ---------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """False while the open tasks are at their limit."""
        return len(self.tasks) < self.tasks_max and self.open_bytes < self.bytes_max

    def submit(self, calls: Iterable[Call], now_ms: int) -> None:
        """Own these tasks. A task id seen before means the same task again."""
        tasks, lanes = self.tasks, self.lanes
        for call in calls:
            if call.id in tasks:
                continue
            kept = self.kept.get(call.id)
            if kept is not None:
                self._settled.append(kept)
                continue
            lane = lanes.get(call.kind)
            if lane is None:
                lane = self._new_lane(call.kind)
            tasks[call.id] = task = OwnedTask(call.id, lane, call.body, call.ext)
            lane.ready.append(task)
            self.open_bytes += len(call.body)
        self._touched = True

    def same_content(self, call: Call) -> bool:
        """False if another task of this id, with other content, is open here."""
        task = self.tasks.get(call.id)
        return task is None or (task.lane.kind == call.kind and task.body == call.body)

    def submit_remote(self, link: LinkId, message: Submit, now_ms: int) -> None:
        """Own what a task that we own submitted on its worker."""
        refused = ""
        if not all(0 <= record.kind < len(message.kinds) for record in message.tasks):
            refused = "the submission names a kind that it does not carry"
        elif not self.has_room:
            refused = f"the owner holds {len(self.tasks)} open tasks already"
        else:
            kinds = message.kinds
            calls = [
                Call(record.id, kinds[record.kind], bytes_of(record.body), record.ext)
                for record in message.tasks
            ]
            self.submit(calls, now_ms)
        self.effects.append(Send(link, Submitted(message.request, refused)))

    def _new_lane(self, kind: Kind) -> Lane:
        self.lanes[kind] = lane = Lane(kind)
        lane.workers = [worker for worker in self.workers.values() if worker.serves(kind)]
        return lane

    # --- workers ------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there; it is a worker if it has slots."""
        if peer.slots <= 0 or "worker" not in peer.roles:
            return
        worker = WorkerLink(link, peer)
        if any(other.link.peer == link.peer for other in self.workers.values()):
            self.spares[link] = worker
        else:
            self._use(worker)

    def _use(self, worker: WorkerLink) -> None:
        self.workers[worker.link] = worker
        for lane in self.lanes.values():
            if worker.serves(lane.kind):
                lane.workers.append(worker)
        self._touched = True

    def link_down(self, link: LinkId, reason: str) -> None:
        """A worker is gone: what it held is ready again with the next attempt."""
        worker = self.workers.pop(link, None)
        self._verdicts.pop(link, None)
        self.spares.pop(link, None)
        if worker is None:
            return
        for lane in self.lanes.values():
            if worker in lane.workers:
                lane.workers.remove(worker)
        strike = reason in ("gone", "silent", "replaced")
        for task in reversed(list(worker.held.values())):
            self._redeliver(task, strike=strike and task.started)
        worker.held.clear()
        # Whatever no store has yet may be lost with the worker: tell it ourselves.
        for _, kind, task_id in worker.unstored:
            kept = self.kept.get(task_id)
            if kept is not None:
                self.own_outcomes.append((kind, kept))
        for spare in self.spares.values():
            if spare.link.peer == link.peer:
                del self.spares[spare.link]
                self._use(spare)
                break
        self._touched = True

    def link_paused(self, link: LinkId, paused: bool) -> None:
        """Send it no new work, or work again."""
        worker = self.workers.get(link) or self.spares.get(link)
        if worker is not None:
            worker.paused = paused
            self._touched = True

    def credit(self, link: LinkId, limit: int) -> None:
        """A worker may be sent ``limit`` tasks in all; lower than before is old news."""
        worker = self.workers.get(link) or self.spares.get(link)
        if worker is not None and limit > worker.limit:
            worker.limit = limit
            self._touched = True

    def stored(self, link: LinkId, position: int) -> None:
        """A store has what this worker's log holds up to there; -1: it knows of no store."""
        if position >= 0:
            self.has_store = True
        worker = self.workers.get(link) or self.spares.get(link)
        if worker is None or not worker.unstored:
            return
        unstored = worker.unstored
        while unstored and unstored[0][0] <= position:
            unstored.popleft()
        while not self.has_store and len(unstored) > _UNSTORED_MAX:
            unstored.popleft()

    def _redeliver(self, task: OwnedTask, *, strike: bool) -> None:
        task.worker = None
        task.fetching = None
        task.started = False
        if strike:
            task.strikes += 1
            if task.strikes >= STRIKES_MAX:
                # A number of its own: the last attempt may still report an outcome.
                task.attempt += 1
                self._settle_here(task, Status.DEAD, (
                    f"{task.lane.kind.name} was running when {task.strikes} workers or their "
                    "children died, so it is not tried again"
                ))  # fmt: skip
                return
        task.attempt += 1
        self.redelivered_count += 1
        task.lane.ready.appendleft(task)

    # --- what workers say ---------------------------------------------------------------

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """A message from a worker; False if it is none of the dispatcher's."""
        if isinstance(message, Done):
            self._done(link, message.outcomes)
            self.credit(link, message.limit)
        elif isinstance(message, Credit):
            self.credit(link, message.limit)
        elif isinstance(message, Started):
            self._started(link, message)
        elif isinstance(message, Reject):
            self._rejected(link, message)
        elif isinstance(message, Submit):
            self.submit_remote(link, message, now_ms)
        elif isinstance(message, Results):
            self._fetched(link, message)
        else:
            return False
        return True

    def _done(self, link: LinkId, outcomes: Sequence[Outcome]) -> None:
        positions, refused = self._verdicts.setdefault(link, ([], []))
        tasks = self.tasks
        for outcome in outcomes:
            task = tasks.get(outcome.id)
            if (
                task is None
                or task.attempt != outcome.attempt
                or task.worker is None
                or task.worker.link.peer != link.peer
            ):
                self._late(outcome, positions, refused)
            elif outcome.body is None and outcome.size:
                task.fetching = outcome
                self.effects.append(Send(link, Replay(outcome.position, outcome.position, True)))
            else:
                positions.append(outcome.position)
                self._settle(task, outcome)

    def _late(self, outcome: Outcome, positions: list[int], refused: list[int]) -> None:
        kept = self.kept.get(outcome.id)
        if kept is not None and kept.attempt == outcome.attempt:
            positions.append(outcome.position)  # the same news again
        elif kept is not None or outcome.id in self.tasks:
            self.refused_count += 1
            refused.append(outcome.position)

    def _fetched(self, link: LinkId, message: Results) -> None:
        positions, _ = self._verdicts.setdefault(link, ([], []))
        for outcome in message.outcomes:
            task = self.tasks.get(outcome.id)
            if task is not None and task.fetching is not None and (
                task.fetching.position == outcome.position and task.attempt == outcome.attempt
            ):  # fmt: skip
                positions.append(outcome.position)
                self._settle(task, outcome)

    def _started(self, link: LinkId, message: Started) -> None:
        for task_id, attempt in message.tasks:
            task = self.tasks.get(task_id)
            if task is not None and task.attempt == attempt:
                task.started = True

    def _rejected(self, link: LinkId, message: Reject) -> None:
        worker = self.workers.get(link)
        if worker is None:
            return
        again: list[OwnedTask] = []
        for task_id, attempt, code in message.tasks:
            task = self.tasks.get(task_id)
            if task is None or task.attempt != attempt or task.worker is not worker:
                continue
            del worker.held[task_id]
            task.worker = None
            if code in (RejectCode.CHILD_DIED, RejectCode.CHILD_DIED_RUNNING):
                self._redeliver(task, strike=code == RejectCode.CHILD_DIED_RUNNING)
            elif code in (RejectCode.BAD, RejectCode.UNSUPPORTED):
                self._settle_here(task, Status.FAILURE, message.text)
            else:
                if code in (RejectCode.NO_QUEUE, RejectCode.UNKNOWN_TASK):
                    self._exclude(worker, task.lane, message.text)
                task.started = False
                again.append(task)
        for task in reversed(again):
            task.lane.ready.appendleft(task)
        self.credit(link, message.limit)
        self._touched = True

    def _exclude(self, worker: WorkerLink, lane: Lane, text: str) -> None:
        kind = lane.kind
        worker.refused.add((kind.app, kind.name, kind.queue))
        if worker in lane.workers:
            lane.workers.remove(worker)
        self.effects.append(
            Note("warning", "task.refused", text, f"task refused {kind.app} {kind.name}")
        )

    # --- settling -----------------------------------------------------------------------

    def _settle(self, task: OwnedTask, outcome: Outcome) -> None:
        del self.tasks[task.id]
        self.open_bytes -= len(task.body)
        worker = task.worker
        if worker is not None:
            worker.held.pop(task.id, None)
            worker.unstored.append((outcome.position, task.lane.kind, outcome.id))
        self.kept.add(outcome)
        self._settled.append(outcome)

    def _settle_here(self, task: OwnedTask, status: Status, text: str) -> None:
        """An outcome that no worker has: the owner publishes it itself."""
        outcome = Outcome(task.id, task.attempt, status, 0, 0, 0, 0, 0, b"", {"e": text})
        self.own_outcomes.append((task.lane.kind, outcome))
        if task.worker is not None:
            task.worker.held.pop(task.id, None)
            task.worker = None
        self._settle(task, outcome)

    # --- the end of a turn --------------------------------------------------------------

    def flush(self, now_ms: int) -> list[Outcome]:
        """Send what can be sent, tell what was settled: once a turn, so in batches."""
        if self._touched or self._settled:
            self._dispatch(now_ms)
            self._touched = False
        for link, (positions, refused) in self._verdicts.items():
            if positions or refused:
                self.effects.append(Send(link, Settled(to_ranges(positions), refused)))
        self._verdicts.clear()
        settled, self._settled = self._settled, []
        if settled:
            self.effects.append(TasksSettled(settled))
        full = not self.has_room
        if self._was_full and not full:
            self.effects.append(RoomFreed())
        self._was_full = full
        return settled

    def _dispatch(self, now_ms: int) -> None:
        lanes = [lane for lane in self.lanes.values() if lane.ready]
        if not lanes:
            self._demand(lanes)
            return
        batches: dict[LinkId, list[OwnedTask]] = {}
        if len(lanes) > 1:
            self._turn += 1
            first = self._turn % len(lanes)
            lanes = lanes[first:] + lanes[:first]
            share = max(1, self._credit_left() // len(lanes))
            for lane in lanes:
                self._deal(lane, share, batches)
        for lane in lanes:
            if lane.ready:
                self._deal(lane, len(lane.ready), batches)
        for link, batch in batches.items():
            self._send_batch(self.workers[link], batch)
        for lane in lanes:
            if not lane.ready or lane.workers:
                lane.unserved_since_ms = -1
            elif lane.unserved_since_ms < 0:
                lane.unserved_since_ms = now_ms
                self._warn_at_ms = now_ms + WARN_AFTER_MS
        self._demand(lanes)

    def _credit_left(self) -> int:
        return sum(w.limit - w.sent for w in self.workers.values() if not w.paused)

    def _deal(self, lane: Lane, count_max: int, batches: dict[LinkId, list[OwnedTask]]) -> None:
        """Give ready tasks to the least loaded workers that have credit."""
        open_workers = [w for w in lane.workers if w.limit > w.sent and not w.paused]
        left = min(count_max, len(lane.ready))
        ready = lane.ready
        while left and open_workers:
            worker = min(open_workers, key=load_of) if len(open_workers) > 1 else open_workers[0]
            room = worker.limit - worker.sent
            take = left if len(open_workers) == 1 else max(1, left // (2 * len(open_workers)))
            take = min(take, room, left)
            batch = batches.setdefault(worker.link, [])
            held = worker.held
            for _ in range(take):
                task = ready.popleft()
                task.worker = worker
                held[task.id] = task
                batch.append(task)
            worker.sent += take
            left -= take
            if worker.sent >= worker.limit:
                open_workers.remove(worker)

    def _send_batch(self, worker: WorkerLink, batch: list[OwnedTask]) -> None:
        kinds: dict[Kind, int] = {}
        records: list[TaskRecord] = []
        bounds = MessageBounds()
        for task in batch:
            if not bounds.takes(task.body):
                self.effects.append(Send(worker.link, Tasks(list(kinds), records)))
                kinds, records = {}, []
            index = kinds.setdefault(task.lane.kind, len(kinds))
            records.append(TaskRecord(index, task.id, task.attempt, task.body, task.ext))
        self.effects.append(Send(worker.link, Tasks(list(kinds), records)))

    def _demand(self, lanes: list[Lane]) -> None:
        """Tell workers how much waits for their credit, when that changed notably."""
        backlog: dict[LinkId, int] = {}
        for lane in lanes:
            for worker in lane.workers:
                backlog[worker.link] = backlog.get(worker.link, 0) + len(lane.ready)
        for link, worker in self.workers.items():
            waiting = backlog.get(link, 0)
            told = worker.demanded
            if waiting > 2 * told or waiting < told // 2 or (told and not waiting):
                worker.demanded = waiting
                self.effects.append(Send(link, Demand(waiting)))

    # --- warnings -----------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        return self._warn_at_ms

    def tick(self, now_ms: int) -> None:
        """Warn of tasks that nobody can run."""
        if self._warn_at_ms is None or now_ms < self._warn_at_ms:
            return
        self._warn_at_ms = None
        for lane in self.lanes.values():
            if not lane.ready or lane.workers or lane.unserved_since_ms < 0:
                continue
            if now_ms - lane.unserved_since_ms < WARN_AFTER_MS:
                self._warn_at_ms = lane.unserved_since_ms + WARN_AFTER_MS
                continue
            text = self.why_waiting(lane)
            if text != lane.warned:
                lane.warned = text
                self.effects.append(Note("warning", "task.unserved", text, f"unserved {text}"))

    def why_waiting(self, lane: Lane) -> str:
        """One sentence on why this kind's tasks wait, and what present workers offer."""
        return explain_waiting(lane.kind, [worker.peer for worker in self.workers.values()])

    def why_unserved(self, kinds: Iterable[Kind]) -> str:
        """Why no present worker can run tasks of one of these kinds; "" if all can be."""
        workers = self.workers.values()
        for kind in kinds:
            if not any(worker.serves(kind) for worker in workers):
                return explain_waiting(kind, [worker.peer for worker in workers])
        return ""

    # --- questions ----------------------------------------------------------------------

    def state_of(self, task_id: bytes) -> StateRecord | None:
        """What the owner knows; None if it does not know the task."""
        task = self.tasks.get(task_id)
        if task is not None:
            return self._open_state(task)
        kept = self.kept.get(task_id)
        if kept is not None:
            return StateRecord(task_id, TaskState.SETTLED, {}, kept)
        return None

    def _open_state(self, task: OwnedTask) -> StateRecord:
        kind = task.lane.kind
        info: dict[str, Any] = {
            "name": kind.name, "queue": kind.queue, "attempt": task.attempt, "owned": True,
        }  # fmt: skip
        if task.worker is not None:
            info["worker"] = task.worker.peer.name
        elif not task.lane.workers:
            info["why"] = self.why_waiting(task.lane)
        else:
            info["why"] = "every worker that can run it is busy"
        state = TaskState.STARTED if task.started else TaskState.PENDING
        return StateRecord(task.id, state, info, None)

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        waiting = [
            {
                "task": lane.kind.name,
                "app": lane.kind.app,
                "queue": lane.kind.queue,
                "count": len(lane.ready),
                "why": "" if lane.workers else self.why_waiting(lane),
            }
            for lane in self.lanes.values()
            if lane.ready
        ]
        return {
            "open": len(self.tasks),
            "open_bytes": self.open_bytes,
            "redelivered": self.redelivered_count,
            "refused": self.refused_count,
            "waiting": waiting,
        }


def bytes_of(body: bytes | int) -> bytes:
    """The payload of a decoded record (decoding has put its frame back in)."""
    assert isinstance(body, bytes)
    return body


def to_ranges(positions: list[int]) -> list[tuple[int, int]]:
    """Sorted inclusive ranges that cover exactly these positions."""
    ranges: list[tuple[int, int]] = []
    if not positions:
        return ranges
    positions.sort()
    first = last = positions[0]
    for position in positions[1:]:
        if position == last + 1:
            last = position
        elif position > last:
            ranges.append((first, last))
            first = last = position
    ranges.append((first, last))
    return ranges
