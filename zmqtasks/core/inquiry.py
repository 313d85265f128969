"""Asking the mesh about tasks that this node does not own.

Everybody who may know is asked at once: stores, the owner (its node is in the id),
workers and all other dispatchers. The best answer wins: a settled outcome over a
worker's unsettled one, over "it runs", over "it waits". UNKNOWN is only said when all
have answered so twice in a row: an outcome may go from a worker to a store that has just
been asked. A mesh that is still being discovered gets a moment. An unsettled outcome
stands only where the owner is gone: while it is there, or may come back, it may still
refuse that one and settle another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqtasks.core.effects import Effect, QuestionAnswered, Send
from zmqtasks.core.links import LinkId
from zmqtasks.ids import owner_of
from zmqtasks.limits import WATCH_AGAIN_MS
from zmqtasks.wire.messages import Query, StateRecord, States, TaskState

_RANK: dict[int, int] = {
    TaskState.UNKNOWN: 0,
    TaskState.PENDING: 1,
    TaskState.STARTED: 2,
    TaskState.UNSETTLED: 3,
    TaskState.SETTLED: 4,
}


#: Facts of a state: whoever says so decides on the task, or may do so soon.
_CLAIMS = frozenset(("owned", "offer"))


#: States of tasks that somebody owns.
_OPEN = frozenset((TaskState.PENDING, TaskState.STARTED))


class _Question:
    __slots__ = (
        "again", "asked", "asked_ms", "best", "is_second", "next_ms", "owners", "told", "waiting",
        "watch",
    )  # fmt: skip

    def __init__(self, ids: Sequence[bytes], watch: bool, now_ms: int) -> None:
        self.best = {task_id: StateRecord(task_id, TaskState.UNKNOWN, {}, None) for task_id in ids}
        self.watch = watch
        #: All were asked again after all had answered.
        self.is_second = False
        self.asked_ms = now_ms
        #: When all are asked again: peers remember only so many who watch.
        self.next_ms = now_ms + WATCH_AGAIN_MS
        #: {task id: {link over which its owner answered, or whoever may become that: False once
        #: it said that it gave the task away}}. More than one: an offer may be read late, by a
        #: node that tells of it for a moment, while the owner's word still holds.
        self.owners: dict[bytes, dict[LinkId, bool]] = {}
        #: Links that were asked, and are still there.
        self.asked: dict[LinkId, None] = {}
        #: ``(task id, owner)``: asked once more, since it had not heard of the task before.
        self.again: set[tuple[bytes, bytes]] = set()
        #: {link: ids of which it has said nothing since it was asked}.
        self.waiting: dict[LinkId, set[bytes]] = {}
        #: Ids whose settled outcome was told already.
        self.told: set[bytes] = set()

    def claimed(self, link: LinkId, record: StateRecord) -> None:
        """A peer has said whether it decides on a task, or may do so soon."""
        owners = self.owners.get(record.id, {})
        if not _CLAIMS.isdisjoint(record.info):
            still = {other: True for other, claims in owners.items() if claims}
            self.owners[record.id] = still | {link: True}
        elif link in owners and "taker" in record.info and len(owners) == 1:
            owners[link] = False  # until its taker speaks, who may not know of it so far
        else:
            self.unclaimed(link, record.id)

    def unclaimed(self, link: LinkId, task_id: bytes) -> bool:
        """A peer does not decide on a task; False if it had not said that it does."""
        owners = self.owners.get(task_id, {})
        if owners.pop(link, None) is None:
            return False
        if not owners:
            del self.owners[task_id]
            best = self.best.get(task_id)
            if best is not None and best.state in _OPEN:
                # It was their word that it is open.
                self.best[task_id] = StateRecord(task_id, TaskState.UNKNOWN, {}, None)
        return True


class Inquiry:
    """Questions of this node. ``effects`` is drained each turn.

    Args:
        grace_ms: how long after the question nobody's silence counts as "unknown",
            since peers may still be found.
    """

    def __init__(self, grace_ms: int) -> None:
        self.grace_ms = grace_ms
        self.effects: list[Effect] = []
        self.questions: dict[int, _Question] = {}
        self._token = 0
        self._now_ms = 0

    def ask(
        self, ids: Sequence[bytes], known: Sequence[StateRecord], links: Sequence[LinkId],
        watch: bool, now_ms: int,
    ) -> int:  # fmt: skip
        """Start a question; its answers come as ``QuestionAnswered`` with this token."""
        self._token += 1
        self.questions[self._token] = question = _Question(ids, watch, now_ms)
        self._merge(self._token, question, known)
        if self._token in self.questions:
            for link in links:
                self._send(self._token, question, link)
        return self._token

    def drop(self, token: int) -> None:
        """Nobody waits for this answer any more."""
        self.questions.pop(token, None)
        self.effects = [
            effect for effect in self.effects
            if not isinstance(effect, QuestionAnswered) or effect.token != token
        ]  # fmt: skip

    def link_up(self, link: LinkId) -> None:
        """One more to ask."""
        for token, question in self.questions.items():
            self._send(token, question, link)

    def link_down(self, link: LinkId) -> None:
        """It will not answer. What it owned, others may own now, who were asked before."""
        for token, question in self.questions.items():
            mine = [task_id for task_id in question.best if question.unclaimed(link, task_id)]
            question.asked.pop(link, None)
            if mine or link in question.waiting:
                question.waiting.pop(link, None)
                for other in list(question.asked):
                    self._send(token, question, other)

    def _send(self, token: int, question: _Question, link: LinkId) -> None:
        open_ids = [task_id for task_id in question.best if task_id not in question.told]
        question.waiting.setdefault(link, set()).update(open_ids)
        question.asked[link] = None
        question.is_second = False
        self.effects.append(Send(link, Query(token, open_ids, question.watch)))

    def answered(self, link: LinkId, message: States) -> None:
        """A peer's answer, or its later news."""
        question = self.questions.get(message.request)
        if question is not None:
            # News of one task, from before it was asked, is no answer about the others.
            open_ids = question.waiting.get(link, set())
            open_ids.difference_update(record.id for record in message.states)
            if not open_ids:
                question.waiting.pop(link, None)
            for record in message.states:
                question.claimed(link, record)
            self._ask_owners(message.request, question, message.states)
            self._merge(message.request, question, message.states)

    def _ask_owners(self, token: int, question: _Question, states: Sequence[StateRecord]) -> None:
        """Whom a worker names as the owner may have become that since it was asked."""
        links: dict[LinkId, None] = {}
        for record in states:
            owner = record.info.get("owner")
            if isinstance(owner, bytes) and (record.id, owner) not in question.again:
                question.again.add((record.id, owner))
                links.update((link, None) for link in question.asked if link.peer[1:9] == owner)
        for link in links:
            self._send(token, question, link)

    def _merge(self, token: int, question: _Question, states: Sequence[StateRecord]) -> None:
        news: list[StateRecord] = []
        for record in states:
            best = question.best.get(record.id)
            if best is None or _rank(record) <= _rank(best):
                continue
            question.best[record.id] = record
            if record.state == TaskState.SETTLED:
                question.told.add(record.id)
                news.append(record)
            elif "state" in record.info:
                news.append(record)  # what the running task said last
        final = len(question.told) == len(question.best)
        if final:
            del self.questions[token]
            self.effects.append(QuestionAnswered(token, list(question.best.values()), True))
        elif news and question.watch:
            self.effects.append(QuestionAnswered(token, news, False))

    def tick(self, now_ms: int, *, all_found: bool, may_live: Callable[[bytes], bool]) -> None:
        """Conclude questions that everybody has answered.

        Args:
            all_found: no known peer is still being dialled.
            may_live: this node, or one that owns its tasks now, is not linked, but may be there.
        """
        self._now_ms = now_ms
        for token, question in list(self.questions.items()):
            if question.waiting or not all_found:
                continue
            if now_ms < question.asked_ms + self.grace_ms:
                continue
            if self._ask_again(token, question, may_live):
                continue
            self._conclude(token, question, may_live)
            if now_ms >= question.next_ms and token in self.questions:
                question.next_ms = now_ms + WATCH_AGAIN_MS
                for link in list(question.asked):
                    self._send(token, question, link)

    def _ask_again(
        self, token: int, question: _Question, may_live: Callable[[bytes], bool]
    ) -> bool:
        """Before a task is called UNKNOWN; False if that was done, or there is none."""
        if question.is_second or not any(
            record.state == TaskState.UNKNOWN
            and record.id not in question.told
            and not may_live(_owner_of(record))
            for record in question.best.values()
        ):
            return False
        for link in list(question.asked):
            self._send(token, question, link)
        question.is_second = True
        return bool(question.waiting)

    def _conclude(self, token: int, question: _Question, may_live: Callable[[bytes], bool]) -> None:
        states = [
            record
            if record.id in question.owners
            else _unsure(record)
            if may_live(_owner_of(record))
            else _standing(record)
            for record in question.best.values()
        ]
        if not question.watch:
            del self.questions[token]
            self.effects.append(QuestionAnswered(token, states, True))
            return
        final = [
            record
            for record in states
            if record.state in (TaskState.UNKNOWN, TaskState.SETTLED)
            and record.id not in question.told
        ]
        if not final:
            return
        for record in final:
            question.told.add(record.id)
            question.best[record.id] = record
        done = len(question.told) == len(question.best)
        if done:
            del self.questions[token]
        self.effects.append(QuestionAnswered(token, final, done))

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next; past the grace the node's own beat is enough."""
        if not self.questions:
            return None
        ends = (question.asked_ms + self.grace_ms for question in self.questions.values())
        return min((end_ms for end_ms in ends if end_ms > self._now_ms), default=None)


def _standing(record: StateRecord) -> StateRecord:
    """With all answers in and no owner left, the first outcome stands."""
    if record.state == TaskState.UNSETTLED:
        return StateRecord(record.id, TaskState.SETTLED, record.info, record.outcome)
    return record


def _unsure(record: StateRecord) -> StateRecord:
    """Nobody who was asked knows the task, but not everybody who may could be asked."""
    if record.state == TaskState.UNKNOWN:
        why = {"why": "a node that may own it cannot be reached at the moment"}
        return StateRecord(record.id, TaskState.PENDING, why, None)
    return record


def _owner_of(record: StateRecord) -> bytes:
    owner = record.info.get("owner")
    return owner if isinstance(owner, bytes) else owner_of(record.id)


def _rank(record: StateRecord) -> int:
    # Its owner knows more of a running task than the worker: the state that it gave itself.
    return 2 * _RANK.get(record.state, 0) + ("state" in record.info)
