"""Answering other nodes' questions about tasks, and telling watchers later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import AskStore, Effect, Send, Subscribe, Unsubscribe
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.given import WATCH_REQUEST
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import LinkId
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import to_outcome
from zmqtasks.core.rows import OutcomeRow, final_row
from zmqtasks.limits import WATCHES_COUNT_MAX
from zmqtasks.wire.messages import Hello, Outcome, Query, StateRecord, States, TaskState, Verdict


class _Asked:
    """A question that waits for the store."""

    __slots__ = ("hearsay", "ids", "link", "partial", "request", "watch")

    def __init__(self, link: LinkId, request: int, watch: bool) -> None:
        self.link = link
        self.request = request
        self.watch = watch
        self.ids: list[bytes] = []
        self.partial: list[StateRecord] = []
        #: {task id: what is known here}, for those of which the store knows better.
        self.hearsay: dict[bytes, StateRecord] = {}


class Answers:
    """What this node knows about tasks. ``effects`` is drained each turn."""

    def __init__(
        self, dispatcher: Dispatcher | None, intake: Intake | None, log: ResultLog,
        *, has_store: bool, lane: FastLane | None = None,
    ) -> None:  # fmt: skip
        self.dispatcher = dispatcher
        self.intake = intake
        self.log = log
        self.has_store = has_store
        self.lane = lane
        #: Asked last: machines that know whose a task is that is not owned here.
        self.others: list[Callable[[bytes], StateRecord | None]] = []
        self.effects: list[Effect] = []
        #: {task id: who wants to hear of it}.
        self.watchers: dict[bytes, list[tuple[LinkId, int]]] = {}
        self._asked: dict[int, _Asked] = {}
        self._token = 0

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
            outcome, decision = kept
            is_final = decision == Verdict.SETTLED
            state_here = TaskState.SETTLED if is_final else TaskState.UNSETTLED
            return StateRecord(task_id, state_here, {}, outcome)
        if self.intake is not None:
            found = self.intake.find(task_id)
            if found is not None:
                task, running = found
                info = self._info(task.kind.name, task.kind.queue, task.attempt)
                if task.ext is not None and "c" in task.ext:
                    info["c"] = task.ext["c"]
                state_now = TaskState.STARTED if running else TaskState.PENDING
                return StateRecord(task_id, state_now, info, None)
        for state_of in self.others:
            state = state_of(task_id)
            if state is not None:
                return state
        return StateRecord(task_id, TaskState.UNKNOWN, {}, None)

    def _info(self, name: str, queue: str, attempt: int) -> dict[str, Any]:
        return {"name": name, "queue": queue, "attempt": attempt, "worker": self.log.worker_name}

    # --- questions --------------------------------------------------------------------------

    def asked(self, link: LinkId, message: Query) -> None:
        """Answer now, or when the store has looked."""
        question = _Asked(link, message.request, message.watch)
        for task_id in message.ids:
            record = self.local(task_id)
            is_hearsay = "taker" in record.info or "offer" in record.info
            if self.has_store and (record.state == TaskState.UNKNOWN or is_hearsay):
                question.ids.append(task_id)
                if is_hearsay:
                    question.hearsay[task_id] = record
            else:
                question.partial.append(record)
        if not question.ids:
            self._answer(question)
            return
        self._token += 1
        self._asked[self._token] = question
        self.effects.append(AskStore(self._token, question.ids))

    def store_answered(
        self, token: int, rows: Mapping[bytes, Sequence[OutcomeRow]], failure: str = ""
    ) -> None:
        """The store has looked; ``failure``: or could not, so nobody may say "unknown"."""
        question = self._asked.pop(token, None)
        if question is None:
            return
        for task_id in question.ids:
            record = stored_state(task_id, rows.get(task_id))
            if record.state == TaskState.UNKNOWN:
                if failure:
                    record = StateRecord(task_id, TaskState.PENDING, {"why": failure}, None)
                record = question.hearsay.get(task_id, record)
            question.partial.append(record)
        self._answer(question)

    def _answer(self, question: _Asked) -> None:
        if question.watch:
            for record in question.partial:
                if record.state != TaskState.SETTLED:
                    self._watch(record, question.link, question.request)
        self._send(question.link, question.request, question.partial)

    def _send(self, link: LinkId, request: int, states: Sequence[StateRecord]) -> None:
        bounds = MessageBounds()
        part: list[StateRecord] = []
        for record in states:
            if not bounds.takes(record.outcome.body if record.outcome is not None else None):
                self.effects.append(Send(link, States(request, part, True)))
                part = []
            part.append(record)
        self.effects.append(Send(link, States(request, part)))

    # --- watchers ---------------------------------------------------------------------------

    def _watch(self, record: StateRecord, link: LinkId, request: int) -> None:
        if request == WATCH_REQUEST:
            # A former owner follows its tasks. These are bounded, as those that are open here.
            if record.state != TaskState.UNKNOWN:
                self.follow([record.id], link)
        elif len(self.watchers) < WATCHES_COUNT_MAX:
            self.watchers.setdefault(record.id, []).append((link, request))

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

    def _tell(self, records: Iterable[StateRecord]) -> None:
        """Tell whoever watches these, for the last time."""
        news: dict[tuple[LinkId, int], list[StateRecord]] = {}
        for record in records:
            for watcher in self.watchers.pop(record.id, ()):
                news.setdefault(watcher, []).append(record)
        for (link, request), told in news.items():
            self._send(link, request, told)

    def link_down(self, link: LinkId) -> None:
        """Whoever watched over this link is gone."""
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
                    self._send(link, request, [self.local(task_id)])

    def stored(self, ids: Sequence[bytes]) -> None:
        """The store holds the final outcome of these: look up those that are watched."""
        for task_id in ids:
            for link, request in self.watchers.pop(task_id, ()):
                question = _Asked(link, request, watch=False)
                question.ids.append(task_id)
                self._token += 1
                self._asked[self._token] = question
                self.effects.append(AskStore(self._token, question.ids))

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


def stored_state(task_id: bytes, rows: Sequence[OutcomeRow] | None) -> StateRecord:
    """What a store's rows say about a task."""
    row = final_row(rows or ())
    if row is None:
        return StateRecord(task_id, TaskState.UNKNOWN, {}, None)
    settled = row.verdict == Verdict.SETTLED
    state = TaskState.SETTLED if settled else TaskState.UNSETTLED
    info = {"name": row.name, "queue": row.queue, "worker": row.worker, "attempt": row.attempt}
    return StateRecord(task_id, state, info, to_outcome(row))
