"""The worker's side: accepts tasks up to the credit it granted and feeds the pool.

::

    Tasks -> QUEUED --slot free--> in a slot --outcome--> finished (result log, DONE)
               |                       +--child died--> back to the owner
               +--lease lost, draining--> back to the owner

Credit is an absolute number for each link, so a repeated or late message does no harm.
How much is granted follows from how long tasks of each kind took: enough to bridge the
way to the owner and back, nothing more; behind long tasks nothing waits here at all.
Which tasks share a slot's batch follows from the same figures, and a task that was
redelivered runs alone, so that the first unanswered task of a dead child is the one
that ran.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import msgspec

from zmqtasks.core.effects import AnswerSlot, Effect, Note, RunInSlot, Send
from zmqtasks.core.links import LinkId
from zmqtasks.limits import INTAKE_BYTES_MAX, INTAKE_TASKS_MAX, STARTED_REPORT_MS
from zmqtasks.wire.messages import (
    CatalogEntry,
    Credit,
    Demand,
    Hello,
    Kind,
    Message,
    Reject,
    RejectCode,
    Started,
    Submit,
    Submitted,
    TaskRecord,
    Tasks,
)

#: Work that a slot may hold beyond the task it runs: bridges node and child.
_SLOT_BUDGET_US = 2_000
_SLOT_COUNT_MAX = 256
#: Work that the intake may hold for each slot: bridges owner and node.
_AHEAD_MS = 10
_AHEAD_COUNT_MAX = 512
#: Above this mean run time (or while it is not known) nothing waits behind a running task,
#: where it could not run though another worker is idle; the way there and back costs little.
_LONG_US = 200_000
_EWMA = 0.2
_NO_LEASE = "the owner was not heard for too long"


#: Stands for the link of tasks that came over the at-most-once lane.
LANE = LinkId("self", b"lane")


class KindStat:
    """How long tasks of one kind take."""

    __slots__ = ("mean_us",)

    def __init__(self) -> None:
        #: Smoothed run time in microseconds, -1 before the first.
        self.mean_us = -1.0

    def add(self, run_us: int) -> None:
        """Count one more run."""
        mean = self.mean_us
        self.mean_us = float(run_us) if mean < 0 else mean + _EWMA * (run_us - mean)


class SlotState:
    """One slot of the pool: what was sent there and not answered, oldest first."""

    __slots__ = ("budget_us", "pending", "since_ms")

    def __init__(self) -> None:
        self.pending: deque[HeldTask] = deque()
        self.budget_us = 0.0
        #: When the first pending task can have started.
        self.since_ms = 0


class Giver:
    """A dispatcher on the other end of a link, and its credit."""

    __slots__ = ("backlog", "finished", "is_leased", "limit", "node", "received", "told")

    def __init__(self, node: bytes) -> None:
        self.node = node
        #: False while it may have given us up.
        self.is_leased = True
        self.backlog = 0
        self.received = 0
        self.finished = 0
        self.limit = 0
        self.told = 0


class HeldTask(msgspec.Struct, gc=False):
    """A task between acceptance and outcome. Never part of a cycle, so not collected."""

    id: bytes
    attempt: int
    body: bytes
    ext: dict[str, Any] | None
    kind: Kind
    #: The link it came on; its outcome goes to the owner node on whatever link.
    link: LinkId
    owner: bytes
    stat: KindStat
    #: Who gave it, for the credit; a later session of the link is another one, which
    #: knows nothing of this attempt.
    giver: Giver | None
    reported: bool = False


def hold(
    record: TaskRecord, kind: Kind, link: LinkId, owner: bytes, stat: KindStat,
    giver: Giver | None,
) -> HeldTask:  # fmt: skip
    """A received task as the intake keeps it."""
    body = record.body
    assert isinstance(body, bytes)
    return HeldTask(record.id, record.attempt, body, record.ext, kind, link, owner, stat, giver)


class Finished(NamedTuple):
    """An attempt that ended in a slot."""

    task: HeldTask
    status: int
    started_ms: int
    run_us: int
    body: bytes
    error: str


class SlotOutcome(NamedTuple):
    """What a slot says of an attempt (see ``pools.protocol.ChildOutcome``)."""

    id: bytes
    attempt: int
    status: int
    started_ms: int
    run_us: int
    body: bytes
    error: str


class Intake:
    """Accepts and runs tasks. ``effects`` and ``finished`` are drained each turn.

    Args:
        queues: the queues it serves.
        catalog: the tasks it can run.
        slots: how many slots the pool will have.
    """

    def __init__(self, queues: Sequence[str], catalog: Sequence[CatalogEntry], slots: int) -> None:
        self.queues = frozenset(queues)
        self.catalog = {(entry.app, entry.name): entry for entry in catalog}
        self.slots_max = slots
        self.effects: list[Effect] = []
        self.finished: list[Finished] = []
        #: {slot number: state}, the slots that exist now.
        self.slots: dict[int, SlotState] = {}
        self.givers: dict[LinkId, Giver] = {}
        self.queue: deque[HeldTask] = deque()
        self.held_bytes = 0
        self.draining = False
        self.stats: dict[Kind, KindStat] = {}
        #: Mean run time over all kinds, for the credit window.
        self.overall = KindStat()
        self._submits: dict[int, tuple[int, int, LinkId]] = {}
        self._submit_number = 0
        self._rejects: dict[LinkId, tuple[list[tuple[bytes, int, int]], str]] = {}
        self._deal_again = True

    # --- links --------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer that may give tasks."""
        if {"producer", "broker", "beat"}.isdisjoint(peer.roles):
            return
        self.givers[link] = Giver(peer.node)
        self._deal_again = True

    def link_down(self, link: LinkId) -> None:
        """Its unstarted tasks go; what runs goes on and is reported when it returns."""
        if self.givers.pop(link, None) is None:
            return
        self._drop_unstarted(link)
        self._rejects.pop(link, None)
        for request, (slot, child_request, via) in list(self._submits.items()):
            if via == link:
                del self._submits[request]
                text = "the owner of the running task is gone, so nobody can own this one"
                self.effects.append(AnswerSlot(slot, child_request, text, []))
        self._deal_again = True

    def lease_changed(self, link: LinkId, is_leased: bool) -> None:
        """Without a lease the owner may have given its tasks to others: start none."""
        giver = self.givers.get(link)
        if giver is None:
            return
        giver.is_leased = is_leased
        self._deal_again = True
        if is_leased:
            return
        for task in self._drop_unstarted(link):
            self._reject(giver, link, task, RejectCode.LEASE, _NO_LEASE)

    def _drop_unstarted(self, link: LinkId) -> list[HeldTask]:
        dropped = [task for task in self.queue if task.link == link]
        if dropped:
            self.queue = deque(task for task in self.queue if task.link != link)
            self.held_bytes -= sum(len(task.body) for task in dropped)
        return dropped

    def drain(self) -> None:
        """Take nothing new; give back what has not started."""
        self.draining = True
        for task in self.queue:
            self._give_back(task, RejectCode.DRAINING, "the worker is draining")
        self.queue.clear()
        self.held_bytes = 0

    @property
    def running_count(self) -> int:
        """Attempts in slots."""
        return sum(len(slot.pending) for slot in self.slots.values())

    # --- messages -----------------------------------------------------------------------

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """A message from a dispatcher; False if it is none of the intake's."""
        if isinstance(message, Tasks):
            self._accept(link, message)
        elif isinstance(message, Demand):
            giver = self.givers.get(link)
            if giver is not None:
                giver.backlog = message.backlog
                self._deal_again = True
        elif isinstance(message, Submitted):
            waiting = self._submits.pop(message.request, None)
            if waiting is not None:
                slot, request, _ = waiting
                self.effects.append(AnswerSlot(slot, request, message.refused, []))
        else:
            return False
        return True

    def _accept(self, link: LinkId, message: Tasks) -> None:
        giver = self.givers.get(link)
        if giver is None:
            return
        giver.received += len(message.tasks)
        checked: dict[int, tuple[Kind, KindStat, tuple[RejectCode, str] | None]] = {}
        for index, kind in enumerate(message.kinds):
            stat = self.stats.setdefault(kind, KindStat())
            checked[index] = (kind, stat, self._refusal(kind))
        queue = self.queue
        for record in message.tasks:
            known = checked.get(record.kind)
            if known is None:
                text = f"kind {record.kind} of {len(message.kinds)} in one message"
                self._reject(giver, link, record, RejectCode.BAD, text)
                continue
            kind, stat, refusal = known
            refusal = refusal or self._record_refusal(record)
            if not giver.is_leased:
                refusal = RejectCode.LEASE, _NO_LEASE
            if refusal is not None:
                self._reject(giver, link, record, *refusal)
                continue
            task = hold(record, kind, link, giver.node, stat, giver)
            self.held_bytes += len(task.body)
            queue.append(task)

    def pulled(self, message: Tasks) -> list[str]:
        """Tasks of the at-most-once lane: run if possible, never given back.

        Returns:
            Why tasks were dropped, for the log.
        """
        dropped: list[str] = []
        for record in message.tasks:
            if not 0 <= record.kind < len(message.kinds):
                dropped.append(f"kind {record.kind} of {len(message.kinds)} in one message")
                continue
            kind = message.kinds[record.kind]
            refusal = self._refusal(kind) or self._record_refusal(record)
            if refusal is not None:
                dropped.append(f"{kind.name}: {refusal[1]}")
                continue
            origin = (record.ext or {}).get("o")
            owner = origin if isinstance(origin, bytes) else b""
            stat = self.stats.setdefault(kind, KindStat())
            task = hold(record, kind, LANE, owner, stat, None)
            self.held_bytes += len(task.body)
            self.queue.append(task)
        return dropped

    def _refusal(self, kind: Kind) -> tuple[RejectCode, str] | None:
        if self.draining:
            return RejectCode.DRAINING, "the worker is draining"
        if kind.queue not in self.queues:
            return RejectCode.NO_QUEUE, f"queue '{kind.queue}' is not served here"
        entry = self.catalog.get((kind.app, kind.name))
        if entry is None:
            return RejectCode.UNKNOWN_TASK, f"task '{kind.name}' of app '{kind.app}' is not here"
        if kind.digest and entry.digest and kind.digest != entry.digest:
            theirs = dict(kind.ext).get("sig", "")
            return RejectCode.UNKNOWN_TASK, (
                f"task '{kind.name}' has signature {theirs} at its caller, but "
                f"{entry.signature} here: restart the side with the older code"
            )
        for key, _ in kind.ext:
            if key.startswith("!"):
                return RejectCode.UNSUPPORTED, f"option '{key[1:]}' is not known to this worker"
        return None

    def _record_refusal(self, record: TaskRecord) -> tuple[RejectCode, str] | None:
        if len(self.queue) >= INTAKE_TASKS_MAX or self.held_bytes >= INTAKE_BYTES_MAX:
            return RejectCode.BUSY, "the worker is full"
        for key in record.ext or ():
            if key.startswith("!"):
                return RejectCode.UNSUPPORTED, f"option '{key[1:]}' is not known to this worker"
        return None

    def _reject(
        self, giver: Giver, link: LinkId, task: TaskRecord | HeldTask, code: RejectCode, text: str
    ) -> None:
        giver.finished += 1
        self._deal_again = True
        tasks, _ = self._rejects.get(link, ([], ""))
        tasks.append((task.id, task.attempt, code))
        self._rejects[link] = (tasks, text)

    def _give_back(self, task: HeldTask, code: RejectCode, text: str) -> None:
        """Unless its owner has given this attempt up with the session that it came on."""
        giver = task.giver
        if giver is not None and self.givers.get(task.link) is giver:
            self._reject(giver, task.link, task, code, text)

    # --- slots --------------------------------------------------------------------------

    def slot_ready(self, slot: int) -> None:
        """The slot exists and is idle."""
        self.slots[slot] = SlotState()
        self._deal_again = True

    def slot_done(self, slot: int, outcomes: Sequence[SlotOutcome], now_ms: int) -> None:
        """Attempts ended, in the order in which they were sent to the slot."""
        state = self.slots.get(slot)
        if state is None:
            return
        pending = state.pending
        for outcome in outcomes:
            task = pending[0] if pending else None
            if task is None or task.id != outcome.id or task.attempt != outcome.attempt:
                self.effects.append(Note(
                    "error", "slot.disorder", f"slot {slot} answered a task it was not sent",
                ))  # fmt: skip
                continue
            pending.popleft()
            state.budget_us -= max(task.stat.mean_us, 0.0)
            task.stat.add(outcome.run_us)
            self.overall.add(outcome.run_us)
            self._left_slot(task)
            self.finished.append(Finished(
                task, outcome.status, outcome.started_ms, outcome.run_us, outcome.body,
                outcome.error,
            ))  # fmt: skip
        if not pending:
            state.budget_us = 0.0
        state.since_ms = now_ms
        self._deal_again = True

    def slot_died(self, slot: int, reason: str) -> None:
        """Its process is gone: each attempt there ended; the owner decides what next."""
        state = self.slots.pop(slot, None)
        if state is None:
            return
        code = RejectCode.CHILD_DIED_RUNNING
        for task in state.pending:
            text = f"the process that ran '{task.kind.name}' died ({reason})"
            if code == RejectCode.CHILD_DIED_RUNNING:
                self.effects.append(Note("warning", "child.died", text))
            self.held_bytes -= len(task.body)
            self._give_back(task, code, text)
            code = RejectCode.CHILD_DIED

    def _left_slot(self, task: HeldTask) -> None:
        self.held_bytes -= len(task.body)
        giver = task.giver
        if giver is not None and self.givers.get(task.link) is giver:
            giver.finished += 1

    def slot_submits(
        self, slot: int, child_request: int, parent: bytes, attempt: int, message: Submit
    ) -> None:
        """The task running in a slot submits others: its owner shall own them."""
        state = self.slots.get(slot)
        task = next((t for t in state.pending if t.id == parent), None) if state else None
        if (
            task is None
            or task.attempt != attempt
            or task.giver is None
            or self.givers.get(task.link) is not task.giver
        ):
            text = "the owner of the running task is gone, so nobody can own this one"
            self.effects.append(AnswerSlot(slot, child_request, text, []))
            return
        self._submit_number += 1
        message.request = self._submit_number
        self._submits[message.request] = (slot, child_request, task.link)
        self.effects.append(Send(task.link, message))

    # --- the end of a turn --------------------------------------------------------------

    def limit_for(self, link: LinkId) -> int:
        """Credit to report with outcomes on this link; counts as told."""
        giver = self.givers.get(link)
        if giver is None:
            return 0
        giver.told = giver.limit
        return giver.limit

    def feed(self, now_ms: int) -> None:
        """Give queued tasks to slots with room, the emptiest first."""
        queue = self.queue
        if not queue or not self.slots:
            return
        slots = sorted(self.slots.items(), key=lambda item: len(item[1].pending))
        for position, (number, state) in enumerate(slots):
            if not queue:
                break
            share = ceil(len(queue) / (len(slots) - position))
            batch = self._batch_for(state, min(share, _SLOT_COUNT_MAX))
            if batch:
                if not state.pending:
                    state.since_ms = now_ms
                state.pending.extend(batch)
                self.effects.append(RunInSlot(number, batch))
        self._deal_again = True

    def _batch_for(self, state: SlotState, count_max: int) -> list[HeldTask]:
        """As many as keep the slot busy for its budget; at least one if it is idle."""
        queue = self.queue
        batch: list[HeldTask] = []
        pending = len(state.pending)
        if pending and state.budget_us > _SLOT_BUDGET_US / 2:
            return batch
        if pending and state.pending[-1].attempt > 1:
            return batch
        while queue and len(batch) < count_max and pending + len(batch) < _SLOT_COUNT_MAX:
            task = queue[0]
            mean_us = task.stat.mean_us
            alone = mean_us < 0 or task.attempt > 1
            if alone or state.budget_us + mean_us > _SLOT_BUDGET_US:
                if pending or batch:
                    break
                state.budget_us = _SLOT_BUDGET_US
                batch.append(queue.popleft())
                break
            state.budget_us += mean_us
            batch.append(queue.popleft())
        return batch

    def window(self) -> int:
        """Tasks to have here or on their way, for all links together."""
        slots = max(1, len(self.slots) or self.slots_max)
        mean_us = self.overall.mean_us
        if mean_us < 0 or mean_us > _LONG_US:
            return slots
        ahead = ceil(slots * _AHEAD_MS * 1000 / max(mean_us, 1.0))
        return slots + min(max(ahead, 1), _AHEAD_COUNT_MAX * slots)

    def deal_credit(self) -> None:
        """Set each link's limit, and tell those that would wait for it otherwise."""
        if not self._deal_again or self.draining:
            return
        self._deal_again = False
        window = self.window()
        slots = max(1, len(self.slots) or self.slots_max)
        asking = sum(1 for g in self.givers.values() if g.backlog or g.received > g.finished)
        share = ceil(window / max(1, asking))
        token = ceil(slots / max(1, len(self.givers)))
        if len(self.givers) > 4 * slots:
            token = 0
        for link, giver in self.givers.items():
            if not giver.is_leased:
                continue  # what it sent now would come back to it
            active = giver.backlog or giver.received > giver.finished
            limit = giver.finished + (max(share, token) if active else token)
            giver.limit = max(giver.limit, limit)
            gain = giver.limit - giver.told
            starved = giver.told <= giver.received
            if gain > 0 and (starved or gain * 2 >= share):
                giver.told = giver.limit
                self.effects.append(Send(link, Credit(giver.limit)))

    def flush_rejects(self) -> None:
        """Tell the owners what comes back to them."""
        for link, (tasks, text) in self._rejects.items():
            self.effects.append(Send(link, Reject(tasks, text, self.limit_for(link))))
        self._rejects.clear()

    # --- time and questions -------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        waits = [
            state.since_ms + STARTED_REPORT_MS
            for state in self.slots.values()
            if state.pending and not state.pending[0].reported
        ]
        return min(waits, default=None)

    def tick(self, now_ms: int) -> None:
        """Report tasks that have been running for a while: they count as started."""
        started: dict[LinkId, list[tuple[bytes, int]]] = {}
        for state in self.slots.values():
            if not state.pending or now_ms < state.since_ms + STARTED_REPORT_MS:
                continue
            task = state.pending[0]
            if not task.reported:
                task.reported = True
                if task.giver is not None and self.givers.get(task.link) is task.giver:
                    started.setdefault(task.link, []).append((task.id, task.attempt))
        for link, tasks in started.items():
            self.effects.append(Send(link, Started(tasks)))

    def find(self, task_id: bytes) -> tuple[HeldTask, bool] | None:
        """The task and whether it runs, if it is here."""
        for state in self.slots.values():
            for position, task in enumerate(state.pending):
                if task.id == task_id:
                    return task, position == 0
        return next(((task, False) for task in self.queue if task.id == task_id), None)

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        return {
            "queued": len(self.queue),
            "running": sum(1 for slot in self.slots.values() if slot.pending),
            "slots": len(self.slots),
            "draining": self.draining,
        }
