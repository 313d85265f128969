"""The owner's side: tasks from submission until they settle.

::

    submit -> READY --credit--> SENT --DONE--> settled
                ^                 |
                +--REJECT(busy), lost worker (attempt + 1)--+

Only the owner dispatches, redelivers and settles. Tasks of one *kind* (app, name,
signature, queue) wait in one deque, since they can run on the same workers
(``dealing.py``). When a worker is lost all that it held is READY again with the next
attempt number; what it finishes later anyway carries the old number and is refused. Only
attempts that were seen running count as strikes. What concerns a task that is in the
journal waits for the journal first (``written.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from zmqtasks.core import ownerview
from zmqtasks.core.attempts import Attempts
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dealing import always_auto
from zmqtasks.core.effects import (
    RoomFreed,
    Send,
    TasksSettled,
)
from zmqtasks.core.held import STRIKES_KEY
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.links import LinkId
from zmqtasks.core.owned import Durability
from zmqtasks.core.pacing import Pacing
from zmqtasks.core.resultlog import told_of_kind
from zmqtasks.ids import format_task_id
from zmqtasks.wire.messages import (
    Credit,
    Done,
    Hello,
    Kind,
    Message,
    Outcome,
    Reject,
    RejectCode,
    Replay,
    Results,
    Retry,
    Settled,
    Started,
    StateRecord,
    Status,
    Submit,
    Submitted,
    TaskState,
    UpdateRecord,
)

#: While no store is known, so many of a worker's last outcomes are remembered for one.
_UNSTORED_MAX = 1_000
_LOST = ("gone", "silent", "replaced")


class Dispatcher(Attempts):
    """Owns tasks. ``effects`` is drained by the owner after each turn.

    Args: see :class:`OwnedTasks`.
    """

    def __init__(
        self, tasks_max: int, bytes_max: int, custody: Custody | None = None,
        routes: Callable[[str], str] = always_auto,
    ) -> None:  # fmt: skip
        super().__init__(tasks_max, bytes_max, custody, routes)
        #: The mesh has a store, so what settles must get there.
        self.has_store = False
        #: What other nodes owned has come here.
        self.is_heir = False
        #: For `status` and tests.
        self.refused_count = 0
        #: {link: positions of outcomes of tasks that are not known here}.
        self._unknown: dict[LinkId, list[int]] = {}
        #: Node that a task of ours was given to, None if it was not.
        self.taker_of: Callable[[bytes], bytes | None] = lambda task_id: None
        #: The last state that an attempt gave itself.
        self.last_said: Callable[[bytes, int], UpdateRecord | None] = lambda task_id, attempt: None
        self._was_full = False
        #: Holds up attempts whose items nobody has read yet.
        self.pacing = Pacing(lambda link, request: self._submitted(link, request, ""))

    def leave(self) -> None:
        """As of :class:`OwnedTasks`; nobody reads items here any more."""
        super().leave()
        self.pacing.release()

    # --- what tasks submit ----------------------------------------------------------------

    def _has_other_content(self, call: Call) -> bool:
        """Its caller chose an id that belongs to a task with other content here."""
        digest = (call.ext or {}).get("c")
        if digest is None:
            return False
        task, kept = self.tasks.get(call.id), self.kept.get(call.id)
        ext = task.ext if task is not None else kept.ext if kept is not None else None
        return bool((ext or {}).get("c", digest) != digest)

    def submit_remote(self, link: LinkId, message: Submit, now_ms: int) -> None:
        """Own what a task that we own submitted on its worker."""
        refused = ""
        if not message.tasks:  # it asks whether we have got what it said before
            self.pacing.asked(link, message.request, message.parent)
            return
        if not all(0 <= record.kind < len(message.kinds) for record in message.tasks):
            refused = "the submission names a kind that it does not carry"
        elif not self.has_room:
            refused = f"the owner holds {self.open_count} open tasks already"
        if refused:
            self._submitted(link, message.request, refused)
            return
        kinds = message.kinds
        calls = [
            Call(record.id, kinds[record.kind], bytes_of(record.body), record.ext)
            for record in message.tasks
        ]
        other = next((call for call in calls if self._has_other_content(call)), None)
        if other is not None:
            self._submitted(link, message.request, (
                f"task id {format_task_id(other.id)} belongs to a call with other content: repeat "
                "a call with the same arguments, or choose another idempotency_key or task_id"
            ))  # fmt: skip
            return
        is_durable = self._is_kept_at_once(message.parent)
        if is_durable or any((call.ext or {}).get("dur") for call in calls):
            answer = partial(self._submitted, link, message.request)
            self._submit_durable(calls, answer)
        else:
            self.submit(calls, now_ms)
            self._submitted(link, message.request, "")

    def _is_kept_at_once(self, parent: bytes) -> bool:
        """What this task submits is in the journal before it is accepted."""
        task = self.tasks.get(parent)
        if task is not None and task.durability is Durability.DISK:
            return True
        # One that was given away may be durable, and what comes while this process ends
        # has no second to wait.
        return self.custody.has_journal and (task is None or self.is_leaving)

    def _submitted(self, link: LinkId, request: int, refusal: str) -> None:
        self.effects.append(Send(link, Submitted(request, refusal)))

    # --- workers ------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there; it is a worker if it has slots."""
        self.dealer.link_up(link, peer)

    def link_down(self, link: LinkId, reason: str) -> None:
        """A worker is gone: what it held is ready again with the next attempt."""
        self.pacing.link_down(link)
        self._verdicts.pop(link, None)
        self._unknown.pop(link, None)
        worker = self.dealer.link_down(link)
        if worker is None:
            return
        lost = f"worker {worker.peer.name} was lost ({reason})"
        node = link.peer[1:9]
        if all(other.peer[1:9] != node for other in self.workers):
            self._forsake(node.hex(), lost)
        held = list(worker.held.values())
        ran = [task for task in held if task.started and reason in _LOST]
        blamed = self._blamed(ran)
        for task in reversed(held):
            self._redeliver(task, lost, strike=task.id in blamed)
        worker.held.clear()
        # Whatever no store has yet may be lost with the worker: tell it ourselves.
        for _, kind, task_id in worker.unstored:
            kept = self.kept.get(task_id)
            if kept is not None:
                self.own_outcomes.append((kind, kept))

    def link_paused(self, link: LinkId, paused: bool) -> None:
        """Send it no new work, or work again."""
        self.dealer.paused(link, paused)

    def stored(self, link: LinkId, position: int) -> None:
        """A store has what this worker's log holds up to there; -1: it knows of no store."""
        if position >= 0:
            self.has_store = True
        worker = self.dealer.worker_at(link)
        if worker is None or not worker.unstored:
            return
        unstored = worker.unstored
        while unstored and unstored[0][0] <= position:
            unstored.popleft()
        while not self.has_store and len(unstored) > _UNSTORED_MAX:
            unstored.popleft()

    # --- what workers say ---------------------------------------------------------------

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """A message from a worker; False if it is none of the dispatcher's."""
        if isinstance(message, Done):
            self._done(link, message.outcomes)
            self.dealer.credit(link, message.limit)
        elif isinstance(message, Credit):
            self.dealer.credit(link, message.limit)
        elif isinstance(message, Retry):
            self._asked_again(link, message)
            self.dealer.credit(link, message.limit)
        elif isinstance(message, Started):
            self._started(link, message)
        elif isinstance(message, Reject):
            self._rejected(link, message, now_ms)
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
            ) and not (
                self._is_claimed(link, task, outcome.attempt)
                or self._is_of_a_repeat(link, task, outcome.attempt)
            ):
                self._late(link, outcome, positions, refused)
                continue
            assert task is not None
            if outcome.body is None and outcome.size:
                task.fetching = outcome
                self.effects.append(Send(link, Replay(outcome.position, outcome.position, True)))
            else:
                self._settle(task, outcome, link)

    def _has(self, link: LinkId, task: OwnedTask | None, attempt: int) -> bool:
        """This worker has the task's present attempt."""
        if task is None or task.attempt != attempt:
            return False
        worker = task.worker
        is_there = worker is not None and worker.link.peer == link.peer
        return is_there or self._is_claimed(link, task, attempt)

    def _is_claimed(self, link: LinkId, task: OwnedTask | None, attempt: int) -> bool:
        """After our restart: this worker has the task's attempt."""
        if task is None or not task.is_unsure or task.attempt != attempt:
            return False
        worker = self.dealer.worker_at(link)
        if worker is None or not self.written.claimed(task):
            return False
        task.worker = worker
        worker.held[task.id] = task
        if task.id in self._cancelling:
            self._ask_worker(task)
        return True

    def _is_of_a_repeat(self, link: LinkId, task: OwnedTask | None, attempt: int) -> bool:
        """A former owner, whose heir is here, gave away the same attempt of the same call, which
        was repeated. The one that ends first is its outcome: refused it would be a store's
        last word on that attempt."""
        worker = self.dealer.worker_at(link) if self.is_heir else None
        if task is None or task.attempt != attempt or task.worker is None or worker is None:
            return False
        task.worker.held.pop(task.id, None)
        task.worker, task.fetching = worker, None
        worker.held[task.id] = task
        return True

    def _late(
        self, link: LinkId, outcome: Outcome, positions: list[int], refused: list[int]
    ) -> None:
        kept = self.kept.get(outcome.id)
        task = self.tasks.get(outcome.id)
        if kept is not None and kept.attempt == outcome.attempt:
            positions.append(outcome.position)  # the same news again
        elif task is not None and task.outcome is not None and task.attempt == outcome.attempt:
            self.written.told_again(task, (link, outcome.position))
        elif kept is not None or task is not None:
            self.refused_count += 1
            refused.append(outcome.position)
            self.stories.tell(outcome.id, "refused", attempt=outcome.attempt)
        else:
            taker = self.taker_of(outcome.id)
            if taker is None or taker == link.peer[1:9]:  # it decides on that itself
                self._unknown.setdefault(link, []).append(outcome.position)
            else:
                refused.append(outcome.position)

    def _fetched(self, link: LinkId, message: Results) -> None:
        self._verdicts.setdefault(link, ([], []))
        for outcome in message.outcomes:
            task = self.tasks.get(outcome.id)
            if task is not None and task.fetching is not None and (
                task.fetching.position == outcome.position and task.attempt == outcome.attempt
            ):  # fmt: skip
                self._settle(task, outcome, link)
        if message.upto >= message.first:
            self._miss(link, message)

    def claim(self, link: LinkId, attempts: Iterable[tuple[bytes, int]]) -> None:
        """The worker behind this link has these attempts, running or not."""
        for task_id, attempt in attempts:
            self._is_claimed(link, self.tasks.get(task_id), attempt)

    def _miss(self, link: LinkId, message: Results) -> None:
        """Results that the answer covers and does not have: their worker has lost them."""
        worker = self.dealer.worker_at(link)
        if worker is None:
            return
        missing = [
            task for task in worker.held.values()
            if task.fetching is not None
            and message.first <= task.fetching.position <= message.upto
        ]  # fmt: skip
        for task in missing:
            del worker.held[task.id]
            self._redeliver(task, f"worker {worker.peer.name} has lost its result", strike=False)

    def _started(self, link: LinkId, message: Started) -> None:
        for task_id, attempt in message.tasks:
            task = self.tasks.get(task_id)
            if task is not None and task.attempt == attempt:
                if task.is_unsure:
                    self._is_claimed(link, task, attempt)
                task.started = task.worker is not None

    def _asked_again(self, link: LinkId, message: Retry) -> None:
        for record in message.tasks:
            task = self.tasks.get(record.id)
            if task is not None and self._has(link, task, record.attempt):
                self._retry(task, record)

    def _rejected(self, link: LinkId, message: Reject, now_ms: int) -> None:
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
                ran = code == RejectCode.CHILD_DIED_RUNNING
                self._redeliver(task, message.text, strike=ran, ran=ran)
            elif code == RejectCode.CHILD_DIED_AMONG:
                task.ext = {**(task.ext or {}), STRIKES_KEY: task.strikes}
                self._redeliver(task, message.text, strike=False, ran=False)
            elif code in (RejectCode.BAD, RejectCode.UNSUPPORTED):
                self._settle_here(task, Status.FAILURE, message.text)
            else:
                if code in (RejectCode.NO_QUEUE, RejectCode.UNKNOWN_TASK):
                    self.dealer.exclude(worker, task.lane, message.text)
                elif code == RejectCode.LATER and message.hold_ms:
                    self.dealer.keep_back(worker, task.lane, now_ms + message.hold_ms)
                elif code == RejectCode.LATER:
                    self.dealer.void(worker)
                task.started = False
                again.append(task)
        for task in reversed(again):
            if not task.offered:
                self._place(task, is_first=True)
        self.dealer.credit(link, message.limit)
        self.dealer.is_touched = True

    # --- the end of a turn --------------------------------------------------------------

    def flush(self, now_ms: int) -> list[Outcome]:
        """Send what can be sent, tell what was settled: once a turn, so in batches."""
        self.written.go_on(now_ms)
        self._look_at_clock(now_ms)
        if self._thinned:
            self._thin_lanes()
        if self._cancels:
            self._send_cancels()
        if self.dealer.is_touched or self._settled:
            self.dealer.deal(now_ms)
            self.dealer.is_touched = False
        self.written.flush()
        self.effects += self.dealer.effects
        self.dealer.effects.clear()
        for link, (positions, refused) in self._verdicts.items():
            unknown = self._unknown.pop(link, [])
            if positions or refused or unknown:
                self.effects.append(Send(link, Settled(to_ranges(positions), refused, unknown)))
        self._verdicts.clear()
        settled, self._settled = self._settled, []
        if settled:
            self.effects.append(TasksSettled(settled))
        full = not self.has_room
        if self._was_full and not full:
            self.effects.append(RoomFreed())
        self._was_full = full
        return settled

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        machines = (self.dealer, self.written, self.waiting, self.inputs)
        deadlines = [machine.next_deadline_ms() for machine in machines]
        deadlines += [late_ms for _, late_ms in self._missed()]
        return min((at_ms for at_ms in deadlines if at_ms is not None), default=None)

    def tick(self, now_ms: int) -> None:
        """Warn of tasks that nobody can run, end those that nobody will; write down those that
        have waited."""
        self.dealer.tick(now_ms)
        self._forsake_missed(now_ms)
        self.written.tick(now_ms)

    # --- questions ----------------------------------------------------------------------

    def state_of(self, task_id: bytes) -> StateRecord | None:
        """What the owner knows; None if it does not know the task."""
        task = self.tasks.get(task_id)
        if task is not None:
            return ownerview.open_state(self, task)
        kept = self.kept.get(task_id)
        if kept is not None:
            info = told_of_kind(self.kept.kind_of(task_id))
            return StateRecord(task_id, TaskState.SETTLED, info, kept)
        return None

    def story_of(self, task_id: bytes) -> dict[str, Any] | None:
        """Everything that the owner knows of a task, see ``ownerview.story_of``."""
        return ownerview.story_of(self, task_id)

    def why_unserved(self, kinds: Iterable[Kind]) -> str:
        """Why no present worker can run tasks of one of these kinds; "" if all can be."""
        return self.dealer.why_unserved(kinds)

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        return ownerview.describe(self)


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
