"""Answering other nodes' questions about tasks, and telling watchers later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, Subscribe, Unsubscribe
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.given import WATCH_REQUEST
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import LinkId
from zmqtasks.core.lookups import Lookups, Question
from zmqtasks.core.outbox import Outbox
from zmqtasks.core.resultlog import ResultLog, told_of_kind
from zmqtasks.core.rows import OutcomeRow
from zmqtasks.core.spillrows import SpillRow
from zmqtasks.limits import LOOKUP_IDS_MAX, WATCHES_COUNT_MAX, WATCHES_PER_TASK_MAX
from zmqtasks.wire.messages import Hello, Outcome, Query, StateRecord, TaskState, Verdict

#: Facts of a state that say whose a task is elsewhere, or may be.
_HEARSAY = ("taker", "offer")


class Answers:
    """What this node knows about tasks. ``effects`` is drained each turn.

    Args:
        dispatcher, intake, lane: None where there is none.
        log: of this node.
        has_store: this node is a store.
        unacked_bytes: what was sent on a link and not acknowledged.
    """

    def __init__(
        self, dispatcher: Dispatcher | None, intake: Intake | None, log: ResultLog,
        *, has_store: bool, lane: FastLane | None = None,
        unacked_bytes: Callable[[LinkId], int] = lambda link: 0,
    ) -> None:  # fmt: skip
        self.dispatcher = dispatcher
        self.intake = intake
        self.log = log
        self.has_store = has_store
        self._outbox = Outbox(unacked_bytes)
        #: Whether a link takes more now.
        self.has_room = self._outbox.has_room
        self._lookups = Lookups(
            log, has_store, self._found, lambda link: not self._outbox.is_waiting(link)
        )
        self.lane = lane
        #: Asked last: machines that know whose a task is that is not owned here.
        self.others: list[Callable[[bytes], StateRecord | None]] = []
        self.effects: list[Effect] = []
        #: {task id: who wants to hear of it}.
        self.watchers: dict[bytes, list[tuple[LinkId, int]]] = {}

    # --- what is known here -----------------------------------------------------------------

    def local(self, task_id: bytes) -> StateRecord:
        """From the machines of this node; UNKNOWN if none knows the task."""
        if self.dispatcher is not None:
            state = self.dispatcher.state_of(task_id)
            if state is not None:
                return state
        if self.lane is not None:
            state = self.lane.state_of(task_id)
            if state is not None:
                return state
        kept = self.log.outcome_of(task_id)
        if kept is not None:
            outcome, decision, kind = kept
            if decision == Verdict.SETTLED:
                return StateRecord(task_id, TaskState.SETTLED, told_of_kind(kind), outcome)
            info = told_of_kind(kind) | self._hearsay(task_id)
            owner = self.log.decider_of(task_id)
            if owner:
                info["owner"] = owner
            return StateRecord(task_id, TaskState.UNSETTLED, info, outcome)
        if self.intake is not None:
            found = self.intake.find(task_id)
            if found is not None:
                task, running = found
                info = self._info(task.kind.name, task.kind.queue, task.attempt)
                if task.ext is not None and "c" in task.ext:
                    info["c"] = task.ext["c"]
                if not running:
                    info["why"] = self.intake.why(task)
                state_now = TaskState.STARTED if running else TaskState.PENDING
                return StateRecord(task_id, state_now, info, None)
        state = self._state_elsewhere(task_id)
        return state or StateRecord(task_id, TaskState.UNKNOWN, {}, None)

    def _state_elsewhere(self, task_id: bytes) -> StateRecord | None:
        found = (state_of(task_id) for state_of in self.others)
        return next((state for state in found if state is not None), None)

    def _hearsay(self, task_id: bytes) -> dict[str, Any]:
        """Who else owns a task, or that it may become ours, of what is known here."""
        state = self._state_elsewhere(task_id)
        known = state.info if state is not None else {}
        return {key: known[key] for key in _HEARSAY if key in known}

    def _info(self, name: str, queue: str, attempt: int) -> dict[str, Any]:
        return {"name": name, "queue": queue, "attempt": attempt, "worker": self.log.worker_name}

    # --- questions --------------------------------------------------------------------------

    def asked(self, link: LinkId, message: Query) -> None:
        """Answer with what is in memory, then with what is looked up."""
        question = Question(link, message.request, message.watch)
        known: list[StateRecord] = []
        may_look = self._lookups.are_possible
        is_full = self._lookups.count + len(message.ids) > LOOKUP_IDS_MAX
        for task_id in message.ids:
            record = self.local(task_id)
            is_hearsay = any(key in record.info for key in _HEARSAY)
            if may_look and (record.state == TaskState.UNKNOWN or is_hearsay):
                if is_full and self._lookups.count:
                    why = {"why": "a node has too many questions to answer at the moment"}
                    known.append(StateRecord(task_id, TaskState.PENDING, why, None))
                    continue
                question.ids.append(task_id)
                if is_hearsay:
                    question.hearsay[task_id] = record
                if message.watch:
                    # Now: it may settle, or be stored, between the lookup and its answer.
                    self._watch(record, link, message.request)
            else:
                known.append(record)
        if known or not question.ids:
            self._answer(question, known)
        if question.ids:
            self._lookups.ask(question)

    def _found(self, question: Question, records: Sequence[StateRecord]) -> None:
        """A chunk of a question was looked up."""
        records = [self._latest(record) for record in records]
        for record in records:
            if record.state == TaskState.SETTLED:
                self._unwatch(record.id, question.link, question.request)
        self._answer(question, records)

    def _latest(self, record: StateRecord) -> StateRecord:
        """It may have settled here since it was asked for."""
        if record.state == TaskState.SETTLED:
            return record
        now = self.local(record.id)
        return now if now.state == TaskState.SETTLED else record

    def _answer(self, question: Question, records: Sequence[StateRecord]) -> None:
        link, request = question.link, question.request
        if question.watch:
            for record in records:
                if record.state != TaskState.SETTLED:
                    self._watch(record, link, request)
        self._outbox.put(link, request, records, more=bool(question.ids))

    def store_answered(
        self, token: int, rows: Mapping[bytes, Sequence[OutcomeRow]], failure: str = ""
    ) -> None:
        """See ``Lookups``."""
        self._lookups.store_answered(token, rows, failure)

    def spill_found(self, token: int, rows: Sequence[SpillRow], failure: str = "") -> None:
        """See ``Lookups``."""
        self._lookups.spill_found(token, rows, failure)

    def flush(self) -> None:
        """Send what the links take, and look further; call this each turn."""
        self._outbox.flush()
        self._lookups.flush()
        self._outbox.flush()
        self.effects += self._outbox.effects
        self.effects += self._lookups.effects
        self._outbox.effects, self._lookups.effects = [], []

    # --- watchers ---------------------------------------------------------------------------

    def _watch(self, record: StateRecord, link: LinkId, request: int) -> None:
        if request == WATCH_REQUEST:
            # A former owner follows its tasks. These are bounded, as those that are open here.
            if record.state != TaskState.UNKNOWN:
                self.follow([record.id], link)
            return
        watching = self.watchers.get(record.id)
        if watching is None:
            if len(self.watchers) >= WATCHES_COUNT_MAX:
                return
            self.watchers[record.id] = watching = []
        if (link, request) not in watching:
            watching.append((link, request))
            if len(watching) > WATCHES_PER_TASK_MAX:
                watching.remove(next(w for w in watching if w[1] != WATCH_REQUEST))

    def _unwatch(self, task_id: bytes, link: LinkId, request: int) -> None:
        watching = self.watchers.get(task_id, [])
        if (link, request) in watching:
            watching.remove((link, request))
            if not watching:
                del self.watchers[task_id]

    def follow(self, ids: Iterable[bytes], link: LinkId) -> None:
        """The former owner of these wants to hear of their outcomes."""
        entry = (link, WATCH_REQUEST)
        for task_id in ids:
            watching = self.watchers.setdefault(task_id, [])
            if entry not in watching:
                watching.append(entry)

    def moved(self, ids: Iterable[bytes], taker: bytes) -> None:
        """These are owned by another node now: whoever follows them asks that one."""
        if self.watchers:
            info = {"taker": taker}
            self._tell(
                StateRecord(task_id, TaskState.PENDING, info, None)
                for task_id in ids
                if task_id in self.watchers
            )

    def refused(self, ids: Iterable[bytes]) -> None:
        """The journal takes these new tasks not after all, so nobody owns them."""
        if self.watchers:
            self._tell(
                StateRecord(task_id, TaskState.UNKNOWN, {}, None)
                for task_id in ids
                if task_id in self.watchers
            )

    def _tell(self, records: Iterable[StateRecord]) -> None:
        """Tell whoever watches these, for the last time."""
        news: dict[tuple[LinkId, int], list[StateRecord]] = {}
        for record in records:
            for watcher in self.watchers.pop(record.id, ()):
                news.setdefault(watcher, []).append(record)
        for (link, request), told in news.items():
            self._outbox.put(link, request, told)

    def link_down(self, link: LinkId) -> None:
        """Whoever asked and watched over this link is gone."""
        self._lookups.link_down(link)
        self._outbox.link_down(link)
        for task_id, watching in list(self.watchers.items()):
            left = [entry for entry in watching if entry[0] != link]
            if left:
                self.watchers[task_id] = left
            else:
                del self.watchers[task_id]

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Tasks of ours settled."""
        if self.watchers:
            self._tell(
                StateRecord(outcome.id, TaskState.SETTLED, {}, outcome)
                for outcome in outcomes
                if outcome.id in self.watchers
            )

    def finished(self, ids: Iterable[bytes]) -> None:
        """Attempts ended here; their owner has not decided yet."""
        if not self.watchers:
            return
        for task_id in ids:
            for link, request in self.watchers.get(task_id, ()):
                if request != WATCH_REQUEST:
                    self._outbox.put(link, request, [self.local(task_id)])

    def stored(self, ids: Sequence[bytes]) -> None:
        """The store holds the final outcome of these: look up those that are watched."""
        if not self.watchers:
            return
        news: dict[tuple[LinkId, int], Question] = {}
        for task_id in ids:
            for watcher in self.watchers.pop(task_id, ()):
                question = news.get(watcher)
                if question is None:
                    news[watcher] = question = Question(*watcher, watch=False)
                question.ids.append(task_id)
        for question in news.values():
            self._lookups.ask(question)

    # --- others -----------------------------------------------------------------------------

    def forget(self, ids: Sequence[bytes]) -> None:
        """Drop what is kept of these tasks."""
        for task_id in ids:
            if self.dispatcher is not None:
                self.dispatcher.kept.forget(task_id)
            self.log.forget(task_id)

    @staticmethod
    def subscribe_to(peer: Hello, topics: tuple[bytes, ...]) -> Effect:
        """Follow what this peer publishes."""
        return Subscribe(peer.node, tuple(peer.pub_endpoints), topics)

    @staticmethod
    def unsubscribe_from(peer: Hello) -> Effect:
        """Stop following it."""
        return Unsubscribe(peer.node)
