"""The worker's side: accepts tasks up to the credit it granted and feeds the pool.

::

    Tasks -> QUEUED --slot free--> in a slot --outcome--> finished (result log, DONE)
               |                       +--child died--> back to the owner
               +--lease lost, draining--> back to the owner

How much credit each owner has is dealt by ``core.credit``. Which tasks share a slot's
batch follows from how long tasks of their kind took, and a task that was running when a
worker or child died runs alone: it may have been the reason.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Sequence
from math import ceil
from typing import Any

from zmqtasks.core.credit import Giver, deal_credit, limit_for, window_of
from zmqtasks.core.effects import AnswerSlot, Effect, Note, RunInSlot, Send
from zmqtasks.core.held import (
    Finished,
    HeldTask,
    KindStat,
    SlotOutcome,
    SlotState,
    hold,
    is_suspect,
)
from zmqtasks.core.lanes import is_guarded
from zmqtasks.core.links import LANE, SELF, LinkId
from zmqtasks.limits import INTAKE_BYTES_MAX, INTAKE_TASKS_MAX, STARTED_REPORT_MS
from zmqtasks.wire.messages import (
    CatalogEntry,
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
#: Results take time on their way from the child too. Without this, a slot's worth of tasks
#: that give large ones quickly would fill the memory.
_RESULT_BYTES_PER_US = 1_000
_NO_LEASE = "the owner was not heard for too long"


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
        #: Who gives tasks or has asked for credit, of all who might.
        self.givers: dict[LinkId, Giver] = {}
        self._peers: dict[LinkId, Giver] = {}
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
        """A peer is there. Any may give tasks, since any may own some."""
        is_regular = not {"producer", "broker", "beat"}.isdisjoint(peer.roles)
        self._peers[link] = Giver(peer.node, is_regular=is_regular)
        self.givers.pop(link, None)
        if is_regular:
            self._giver_at(link)

    def _giver_at(self, link: LinkId) -> Giver | None:
        """Who is at the other end of this link, now that it gives tasks."""
        giver = self._peers.get(link)
        if giver is not None and link not in self.givers:
            self.givers[link] = giver
            self._deal_again = True
        return giver

    def is_linked(self, link: LinkId) -> bool:
        """The link is up."""
        return link in self._peers

    def link_down(self, link: LinkId) -> None:
        """Its unstarted tasks go; what runs goes on and is reported when it returns."""
        self._peers.pop(link, None)
        if self.givers.pop(link, None) is None:
            return
        self._drop_unstarted(lambda task: task.link == link)
        self._rejects.pop(link, None)
        for request, (slot, child_request, via) in list(self._submits.items()):
            if via == link:
                del self._submits[request]
                text = "the owner of the running task is gone, so nobody can own this one"
                self.effects.append(AnswerSlot(slot, child_request, text, []))
        self._deal_again = True

    def lease_changed(self, link: LinkId, is_leased: bool) -> None:
        """Without a lease the owner may have given its tasks to others: start none."""
        giver = self._peers.get(link)
        if giver is None:
            return
        giver.is_leased = is_leased
        self._deal_again = True
        if is_leased:
            return
        for task in self._drop_unstarted(lambda task: task.link == link):
            self._reject(task, RejectCode.LEASE, _NO_LEASE)

    def _drop_unstarted(self, is_dropped: Callable[[HeldTask], bool]) -> list[HeldTask]:
        dropped = [task for task in self.queue if is_dropped(task)]
        if dropped:
            self.queue = deque(task for task in self.queue if not is_dropped(task))
            self.held_bytes -= sum(len(task.body) for task in dropped)
        return dropped

    # --- owners that change -------------------------------------------------------------

    def adopt(self, owners: Collection[bytes], link: LinkId) -> None:
        """The node behind this link owns now what these (ended) nodes owned.

        It hears of what runs here at once, since it waits a moment for that before it tries
        again. What has not started goes: its owner gives it anew.
        """
        giver = self._peers.get(link)
        if giver is None:
            return

        def is_meant(task: HeldTask) -> bool:
            return task.owner in owners and task.link.peer != link.peer and task.link != LANE

        self._drop_unstarted(is_meant)
        started: list[tuple[bytes, int]] = []
        for state in self.slots.values():
            for position, task in enumerate(state.pending):
                if is_meant(task):
                    self._hand_to(task, link, giver)
                    if position == 0:
                        task.reported = True
                        started.append((task.id, task.attempt))
        if started:
            self.effects.append(Send(link, Started(started)))

    def take_over(self, attempts: Collection[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """This very node owns these attempts now, if they are here.

        Returns:
            Those that are here. What its former owner was told of them, this one is told.
        """
        giver = self._peers[SELF]
        held = itertools.chain(self.queue, *(slot.pending for slot in self.slots.values()))
        found: list[tuple[bytes, int]] = []
        started: list[tuple[bytes, int]] = []
        for task in held:
            key = task.id, task.attempt
            if key in attempts and task.link != LANE:
                self._hand_to(task, SELF, giver)
                found.append(key)
                if task.reported:
                    started.append(key)
        if started:
            self.effects.append(Send(SELF, Started(started)))
        return found

    def _hand_to(self, task: HeldTask, link: LinkId, giver: Giver) -> None:
        self._count_finished(task)
        task.link, task.owner, task.giver, task.is_counted = link, giver.node, giver, False

    def _is_current(self, task: HeldTask) -> bool:
        """Its owner counts on this attempt: it came in the present session."""
        return task.giver is not None and self._peers.get(task.link) is task.giver

    def _count_finished(self, task: HeldTask) -> None:
        """Its credit is free again."""
        giver = task.giver
        if giver is not None and task.is_counted and self._is_current(task):
            giver.finished += 1
            self._deal_again = True

    def drain(self) -> None:
        """Take nothing new; give back what has not started."""
        self.draining = True
        for task in self.queue:
            self._give_back(task, RejectCode.DRAINING, "the worker is draining")
            self.held_bytes -= len(task.body)
        self.queue.clear()

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
            giver = self._giver_at(link)
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
        giver = self._giver_at(link)
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
                self._refuse(giver, link, record, RejectCode.BAD, text)
                continue
            kind, stat, refusal = known
            refusal = refusal or self._record_refusal(record)
            if not giver.is_leased:
                refusal = RejectCode.LEASE, _NO_LEASE
            if refusal is not None:
                self._refuse(giver, link, record, *refusal)
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

    def _refuse(
        self, giver: Giver, link: LinkId, record: TaskRecord, code: RejectCode, text: str
    ) -> None:
        giver.finished += 1
        self._deal_again = True
        self._send_back(link, (record.id, record.attempt, code), text)

    def _reject(self, task: HeldTask, code: RejectCode, text: str) -> None:
        self._count_finished(task)
        self._send_back(task.link, (task.id, task.attempt, code), text)

    def _send_back(self, link: LinkId, attempt: tuple[bytes, int, int], text: str) -> None:
        tasks, _ = self._rejects.get(link, ([], ""))
        tasks.append(attempt)
        self._rejects[link] = (tasks, text)

    def _give_back(self, task: HeldTask, code: RejectCode, text: str) -> None:
        """Unless its owner has given this attempt up with the session that it came on."""
        if self._is_current(task):
            self._reject(task, code, text)

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
                # One that was ended by force overtakes those whose outcomes died with it.
                task = next(
                    (t for t in pending if t.id == outcome.id and t.attempt == outcome.attempt),
                    None,
                )
                if task is None:
                    self.effects.append(Note(
                        "error", "slot.disorder", f"slot {slot} answered a task it was not sent",
                    ))  # fmt: skip
                    continue
            pending.remove(task)
            state.budget_us -= max(task.stat.mean_us, 0.0)
            cost_us = outcome.run_us + len(outcome.body) // _RESULT_BYTES_PER_US
            task.stat.add(cost_us)
            self.overall.add(cost_us)
            self.held_bytes -= len(task.body)
            self._count_finished(task)
            self.finished.append(Finished(
                task, outcome.status, outcome.started_ms, outcome.run_us, outcome.body,
                outcome.error,
            ))  # fmt: skip
        if not pending:
            state.budget_us = 0.0
            if state.is_closing:
                del self.slots[slot]
        state.since_ms = now_ms
        self._deal_again = True

    def slot_died(self, slot: int, reason: str, ended: int = 0, is_running: bool = True) -> None:
        """Its process is gone: each attempt there ended; the owner decides what next.

        Args:
            slot: which one.
            reason: for people.
            ended: so many of its tasks, the oldest, had ended, but their outcomes are lost.
            is_running: the one after these was running.
        """
        state = self.slots.pop(slot, None)
        if state is None:
            return
        self._deal_again = True
        for position, task in enumerate(state.pending):
            text = f"the process that ran '{task.kind.name}' died ({reason})"
            code = RejectCode.CHILD_DIED
            if position == ended and is_running:
                code = RejectCode.CHILD_DIED_RUNNING
                self.effects.append(Note("warning", "child.died", text))
            elif position < ended and is_guarded(task.kind):
                code = RejectCode.CHILD_DIED_RUNNING  # it must not run twice
            self.held_bytes -= len(task.body)
            self._give_back(task, code, text)

    def slot_gone(self, slot: int) -> None:
        """It gets no more tasks; those that it has end as ever."""
        state = self.slots.get(slot)
        if state is None:
            return
        self._deal_again = True
        state.is_closing = True
        if not state.pending:
            del self.slots[slot]

    def slot_submits(
        self, slot: int, child_request: int, parent: bytes, attempt: int, message: Submit
    ) -> None:
        """The task running in a slot submits others: its owner shall own them."""
        state = self.slots.get(slot)
        task = next((t for t in state.pending if t.id == parent), None) if state else None
        if task is None or task.attempt != attempt or not self._is_current(task):
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
        return limit_for(self.givers.get(link))

    def feed(self, now_ms: int) -> None:
        """Give queued tasks to slots with room, the emptiest first."""
        queue = self.queue
        if not queue or not self.slots:
            return
        slots = sorted(
            (item for item in self.slots.items() if not item[1].is_closing),
            key=lambda item: len(item[1].pending),
        )
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
        if pending and is_suspect(state.pending[-1]):
            return batch
        while queue and len(batch) < count_max and pending + len(batch) < _SLOT_COUNT_MAX:
            task = queue[0]
            mean_us = task.stat.mean_us
            alone = mean_us < 0 or is_suspect(task)
            if alone or state.budget_us + mean_us > _SLOT_BUDGET_US:
                if pending or batch:
                    break
                state.budget_us = _SLOT_BUDGET_US
                batch.append(queue.popleft())
                break
            state.budget_us += mean_us
            batch.append(queue.popleft())
        return batch

    @property
    def slots_count(self) -> int:
        """Slots that there are, or that there will be."""
        open_count = sum(1 for slot in self.slots.values() if not slot.is_closing)
        return max(1, open_count or self.slots_max)

    def window(self) -> int:
        """Tasks to have here or on their way, for all links together."""
        return window_of(self.slots_count, self.overall.mean_us)

    def deal_credit(self) -> None:
        """Set each link's limit, and tell those that would wait for it otherwise."""
        if not self._deal_again or self.draining:
            return
        self._deal_again = False
        self.effects += deal_credit(self.givers, self.slots_count, self.overall.mean_us)

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
                if self._is_current(task):
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
