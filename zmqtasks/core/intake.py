"""The worker's side: accepts tasks up to the credit it granted and feeds the pool.

::

    Tasks -> QUEUED --slot free--> in a slot --outcome--> finished (result log, DONE)
               |                       +--child died, retry--> back to the owner
               +--lease lost, draining, recalled, all slots taken for long--> back to the owner

How much credit each owner has is dealt by ``core.credit``, which tasks go to which slot by
``core.slots``; rates and resources are kept by ``core.gates``. Nothing waits here behind
what takes long: it goes back to its owner, which may know of another worker.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from zmqtasks.core.credit import Credits, window_of
from zmqtasks.core.effects import AnswerSlot, CancelInSlot, Note, Send
from zmqtasks.core.gates import WAITS
from zmqtasks.core.held import (
    REQUEUE_STATUS,
    RETRY_STATUS,
    Finished,
    HeldTask,
    KindStat,
    SlotOutcome,
    SlotState,
    again_record,
    ended,
    hold,
)
from zmqtasks.core.heldtasks import NO_LEASE, NO_OWNER, HeldTasks
from zmqtasks.core.lanes import is_guarded
from zmqtasks.core.links import LANE, LinkId
from zmqtasks.core.rates import RATES_KEY
from zmqtasks.core.refusals import refusal_of, refusal_of_record
from zmqtasks.core.requirements import ABILITIES, Stock, addressee
from zmqtasks.limits import INTAKE_BYTES_MAX, INTAKE_TASKS_MAX
from zmqtasks.wire.messages import (
    Cancel,
    CatalogEntry,
    Demand,
    Hello,
    Kind,
    Message,
    Recall,
    RejectCode,
    Started,
    Status,
    Submit,
    Submitted,
    Tasks,
    UpdateRecord,
)

#: Results take time on their way from the child too. Without this, a slot's worth of tasks
#: that give large ones quickly would fill the memory.
_RESULT_BYTES_PER_US = 1_000
_ALL_TAKEN = "every slot runs a task that takes long"
_FULL = "the worker is full"


class Intake(HeldTasks):
    """Accepts and runs tasks. ``effects`` and ``finished`` are drained each turn.

    Args:
        queues: the queues it serves.
        catalog: the tasks it can run.
        slots: how many slots the pool will have.
        stock: its tags and resources; None: it has none.
    """

    def __init__(
        self, queues: Collection[str], catalog: Sequence[CatalogEntry], slots: int,
        stock: Stock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(slots, stock or Stock())
        self.queues = frozenset(queues)
        self.catalog = {(entry.app, entry.name): entry for entry in catalog}
        self.finished: list[Finished] = []
        self.draining = False
        #: What the pool can do.
        self.can: Collection[str] = ABILITIES
        self.stats: dict[Kind, KindStat] = {}
        #: Mean run time over all kinds, for the credit window.
        self.overall = KindStat()
        self._credits = Credits()
        self._submit_number = 0

    # --- what is changed at run time ------------------------------------------------------

    def drain(self) -> None:
        """Take nothing new; give back what has not started."""
        self.draining = True
        self._return_waiting(lambda task: True, RejectCode.DRAINING, "the worker is draining")

    def serve(self, queues: Collection[str]) -> None:
        """Serve these queues from now on; what waits of others goes back to its owners."""
        self.queues = frozenset(queues)
        self._return_waiting(
            lambda task: task.kind.queue not in self.queues and not addressee(task.kind),
            RejectCode.NO_QUEUE, "its queue is served here no longer",
        )  # fmt: skip

    @property
    def slots_max(self) -> int:
        """How many slots the pool is to have; it says itself which come and go."""
        return self.pool.count_max

    @slots_max.setter
    def slots_max(self, slots: int) -> None:
        self.pool.count_max = slots
        self._deal_again = True

    def limit_rate(
        self, name: str, own: str | float | None = None, mesh: str | float | None = None
    ) -> None:
        """Limit how often tasks of this name start here, or on all workers together.

        Args:
            name: of the task.
            own, mesh: as ``rates.interval_of`` takes it; None leaves it as it is.

        Raises:
            ConfigError: no such rate.
        """
        self.gates.rates.change(name, own, mesh)
        self._share_rates()
        for kind, stat in self.stats.items():
            if kind.name == name:
                stat.gate = self.gates.gate_of(kind)

    def _rates_heard(self, peer: Hello) -> None:
        names = {name for _, name in self.catalog}
        for name, rate in self.gates.rates.newer_orders(peer.ext.get(RATES_KEY), names):
            self.limit_rate(name, mesh=rate)
            text = (
                f"rate limit of {name}: {rate or 'none'} for all workers together, set before this "
                f"worker was there (told by {peer.name})"
            )
            self.effects.append(Note("info", "rate.learned", text))

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
        elif isinstance(message, Cancel):
            self._cancel(link, message)
        elif isinstance(message, Recall):
            wanted = set(message.tasks)
            self._return_waiting(
                lambda task: (task.id, task.attempt) in wanted and task.link == link,
                RejectCode.RECALLED, "its owner asked for it",
            )  # fmt: skip
        else:
            return False
        return True

    def _accept(self, link: LinkId, message: Tasks) -> None:
        giver = self._giver_at(link)
        if giver is None:
            return
        giver.received += len(message.tasks)
        checked = [(kind, self._stat_of(kind), self._refusal(kind)) for kind in message.kinds]
        room = INTAKE_TASKS_MAX - len(self.queue)
        push = self.queue.push
        for record in message.tasks:
            if not 0 <= record.kind < len(checked):
                text = f"kind {record.kind} of {len(checked)} in one message"
                self._refuse(giver, link, (record.id, record.attempt, RejectCode.BAD), text)
                continue
            kind, stat, refusal = checked[record.kind]
            if refusal is None and record.ext:
                refusal = refusal_of_record(record, self.can)
            if refusal is None and (room <= 0 or self.held_bytes >= INTAKE_BYTES_MAX):
                refusal = RejectCode.BUSY, _FULL
            if not giver.is_leased:
                refusal = RejectCode.LEASE, NO_LEASE
            if refusal is not None:
                code, text = refusal
                self._refuse(giver, link, (record.id, record.attempt, code), text)
                continue
            task = hold(record, kind, link, giver.node, stat, giver)
            self.held_bytes += len(task.body)
            room -= 1
            push(task)

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
            refusal = self._refusal(kind) or refusal_of_record(record, self.can)
            if len(self.queue) >= INTAKE_TASKS_MAX or self.held_bytes >= INTAKE_BYTES_MAX:
                refusal = refusal or (RejectCode.BUSY, _FULL)
            if refusal is not None:
                dropped.append(f"{kind.name}: {refusal[1]}")
                continue
            origin = (record.ext or {}).get("o")
            owner = origin if isinstance(origin, bytes) else b""
            task = hold(record, kind, LANE, owner, self._stat_of(kind), None)
            self.held_bytes += len(task.body)
            self.queue.push(task)
        return dropped

    def _stat_of(self, kind: Kind) -> KindStat:
        stat = self.stats.get(kind)
        if stat is None:
            stat = self.stats[kind] = KindStat()
            stat.gate = self.gates.gate_of(kind)
        return stat

    def _refusal(self, kind: Kind) -> tuple[RejectCode, str] | None:
        if self.draining:
            return RejectCode.DRAINING, "the worker is draining"
        return refusal_of(kind, self.queues, self.catalog, self.gates.stock)

    def _cancel(self, link: LinkId, message: Cancel) -> None:
        """End what has not started here; the pool sees to what is in a slot."""
        wanted = set(message.tasks)

        def is_meant(task: HeldTask) -> bool:
            return task.link == link and (task.id, task.attempt) in wanted

        for task in self._take_waiting(is_meant):
            self._count_finished(task)
            text = "cancelled before it started"
            if message.status == Status.EXPIRED:
                text = "it expired before it started"
            self.finished.append(Finished(task, message.status, 0, 0, b"", text))
        signum = message.signal if message.terminate else 0
        for number, state in self.slots.items():
            self.effects += [
                CancelInSlot(number, task.id, task.attempt, message.status, signum)
                for task in state.pending
                if is_meant(task)
            ]

    def _kept_from(self, task: HeldTask, hold_ms: int) -> None:
        """Its gate does not let it start now: it waits there, without a share of the credit,
        or goes back."""
        if hold_ms == WAITS:
            self._count_finished(task)
            return
        self.held_bytes -= len(task.body)
        text = f"the rate of '{task.kind.name}' or the resources here let it start later"
        self._give_back(task, RejectCode.LATER, text, hold_ms)

    # --- slots --------------------------------------------------------------------------

    def slot_ready(self, slot: int) -> None:
        """The slot exists and is idle."""
        self.slots[slot] = SlotState()
        self._deal_again = True

    def slot_done(self, slot: int, outcomes: Sequence[SlotOutcome], now_ms: int) -> None:
        """Attempts ended, in the order in which they were sent to the slot; one that was ended
        by force may overtake those whose outcomes died with it."""
        state = self.slots.get(slot)
        if state is None:
            return
        pending = state.pending
        is_recount = False
        for outcome in outcomes:
            task = pending[0] if pending else None
            if task is not None and task.id == outcome.id and task.attempt == outcome.attempt:
                pending.popleft()
            else:
                task = self._overtaking(state, outcome)
                if task is None:
                    continue
            stat = task.stat
            state.budget_us -= max(stat.mean_us, 0.0)
            was_slow = stat.is_slow
            cost_us = outcome.run_us + len(outcome.body) // _RESULT_BYTES_PER_US
            stat.add(cost_us)
            is_recount |= stat.is_slow is not was_slow
            self.overall.add(cost_us)
            self.held_bytes -= len(task.body)
            if stat.gate is not None:
                self.gates.release(task)
            self._count_finished(task)
            self._ended(task, outcome)
        if is_recount:
            self.queue.recount()
        if not pending:
            state.budget_us = 0.0
            if state.is_closing:
                del self.slots[slot]
        state.since_ms = now_ms
        state.is_stuck = False
        self._deal_again = True

    def _overtaking(self, state: SlotState, outcome: SlotOutcome) -> HeldTask | None:
        for task in state.pending:
            if task.id == outcome.id and task.attempt == outcome.attempt:
                state.pending.remove(task)
                return task
        text = "a slot answered a task that it was not sent"
        self.effects.append(Note("error", "slot.disorder", text))
        return None

    def _ended(self, task: HeldTask, outcome: SlotOutcome) -> None:
        if outcome.status not in (RETRY_STATUS, REQUEUE_STATUS) or task.link == LANE:
            self.finished.append(ended(task, outcome))
        elif self._is_current(task):
            self._returns.retry(task.link, again_record(outcome))

    def slot_died(
        self, slot: int, reason: str, ended: int = 0, is_running: bool = True,
        is_alone: bool = True,
    ) -> None:  # fmt: skip
        """Its process is gone: each attempt there ended; the owner decides what next.

        Args:
            slot: which one.
            reason: for people.
            ended: so many of its tasks, the oldest, had ended, but their outcomes are lost.
            is_running: the one after these was running.
            is_alone: and no other slot's in that process, so it is to blame.
        """
        state = self.slots.pop(slot, None)
        if state is None:
            return
        self._deal_again = True
        for position, task in enumerate(state.pending):
            text = f"the process that ran '{task.kind.name}' died ({reason})"
            code = RejectCode.CHILD_DIED
            if position == ended and is_running:
                # One that must not run twice ends with this, whoever did it.
                is_last = is_alone or is_guarded(task.kind, task.ext)
                code = RejectCode.CHILD_DIED_RUNNING if is_last else RejectCode.CHILD_DIED_AMONG
                if is_alone:  # of many at once the pool tells
                    self.effects.append(Note("warning", "child.died", text))
            elif position < ended and is_guarded(task.kind, task.ext):
                code = RejectCode.CHILD_DIED_RUNNING  # it must not run twice
            self.held_bytes -= len(task.body)
            self.gates.release(task)
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

    def _running_in(self, slot: int, task_id: bytes, attempt: int) -> HeldTask | None:
        """A task that a slot has, if its owner counts on it."""
        state = self.slots.get(slot)
        for task in state.pending if state is not None else ():
            if task.id == task_id and task.attempt == attempt and self._is_current(task):
                return task
        return None

    def slot_submits(
        self, slot: int, child_request: int, parent: bytes, attempt: int, message: Submit
    ) -> None:
        """The task running in a slot submits others: its owner shall own them."""
        task = self._running_in(slot, parent, attempt)
        if task is None:
            self.effects.append(AnswerSlot(slot, child_request, NO_OWNER, []))
            return
        self._submit_number += 1
        message.request = self._submit_number
        self._submits[message.request] = (slot, child_request, task.link)
        self.effects.append(Send(task.link, message))

    def slot_updates(self, slot: int, record: UpdateRecord) -> None:
        """The task running in a slot tells of itself: its owner is told."""
        task = self._running_in(slot, record.id, record.attempt)
        if task is not None:
            self._returns.update(task.link, record)

    # --- the end of a turn --------------------------------------------------------------

    def feed(self, now_ms: int) -> None:
        """Give what waits to slots with room; what would wait long goes back."""
        queue = self.queue
        if not queue and not self.gates:
            return
        self.effects += self.pool.feed(now_ms)
        if queue and self.pool.are_blocked:
            self._return_all()
        self._deal_again = True

    def _return_all(self) -> None:
        """All slots are taken: who gives tasks is to wait until it hears of credit again."""
        for task in self.queue.take(lambda task: task.link != LANE):
            self._let_go(task)
            self._give_back(task, RejectCode.LATER, _ALL_TAKEN)
            if task.giver is not None:
                task.giver.void()

    def load(self) -> tuple[int, int]:
        """``(slots with tasks, tasks that would start if there were more slots)``: those that
        wait here or at their givers, and not at the gates."""
        busy = sum(1 for slot in self.slots.values() if slot.pending and not slot.is_closing)
        backlog = sum(giver.backlog for giver in self.givers.values())
        return busy, len(self.queue) + backlog

    def window(self) -> int:
        """Tasks to have here or on their way, for all links together."""
        return self._window()[1]

    def _window(self) -> tuple[int, int, int]:
        """How many are here, that, and how many slots are not taken for long."""
        running, count, taken = self.pool.load()
        taken += self.queue.slow_count
        free = max(0, count - taken)
        return self.queue.count + running, taken + window_of(free, self.overall.mean_us), free

    def deal_credit(self) -> None:
        """Set each link's limit, and tell those that would wait for it otherwise."""
        if self._deal_again and not self.draining:
            self._deal_again = False
            self.effects += self._credits.deal(self.givers, *self._window())

    def flush(self) -> None:
        """Tell the owners what comes back to them, and what running tasks say."""
        if self._returns.is_due:
            self.effects += self._returns.flush()

    # --- time and questions -------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        deadlines = (self.pool.next_deadline_ms(), self.gates.next_deadline_ms())
        return min((at_ms for at_ms in deadlines if at_ms is not None), default=None)

    def tick(self, now_ms: int) -> None:
        """Report tasks that have been running for a while: they count as started."""
        tasks, is_news = self.pool.tick(now_ms)
        if is_news:
            self.queue.recount()
            self._deal_again = True
        started: dict[LinkId, list[tuple[bytes, int]]] = {}
        for task in tasks:
            if self._is_current(task):
                started.setdefault(task.link, []).append((task.id, task.attempt))
        for link, attempts in started.items():
            self.effects.append(Send(link, Started(attempts)))

    @property
    def running_count(self) -> int:
        """Attempts in slots."""
        return self.pool.running_count

    def find(self, task_id: bytes) -> tuple[HeldTask, bool] | None:
        """The task and whether it runs, if it is here."""
        for state in self.slots.values():
            for position, task in enumerate(state.pending):
                if task.id == task_id:
                    return task, position == 0
        return next(((task, False) for task in self.waiting() if task.id == task_id), None)

    def why(self, task: HeldTask) -> str:
        """Why a task that is here does not run, in one sentence."""
        return self.gates.why(task) or "all slots that its worker has for it are busy"

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        return {
            "queued": len(self.queue) + len(self.gates),
            "running": sum(1 for slot in self.slots.values() if slot.pending),
            "slots": len(self.slots),
            "draining": self.draining,
        }
