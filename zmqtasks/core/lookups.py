"""Questions about tasks whose outcome is not in memory: on the disk, or in a store.

Outcomes may be large, so a question is worked off in chunks whose size follows what they
weigh, few at a time, and no further ahead than the asker takes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from zmqtasks.core.effects import AskStore, Effect, SpillFind
from zmqtasks.core.links import LinkId
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import to_outcome
from zmqtasks.core.rows import OutcomeRow, final_row
from zmqtasks.core.spillrows import SpillRow
from zmqtasks.limits import (
    LOOKUP_CHUNK_BYTES,
    LOOKUP_CHUNK_MIN,
    LOOKUPS_MAX,
    STORE_READ_IDS_PER_CALL_MAX,
)
from zmqtasks.wire.messages import StateRecord, TaskState, Verdict


class Question:
    """Ids that somebody wants to know about."""

    __slots__ = ("chunk", "found", "hearsay", "ids", "link", "looking", "request", "watch")

    def __init__(self, link: LinkId, request: int, watch: bool) -> None:
        self.link = link
        self.request = request
        self.watch = watch
        #: Not looked up yet.
        self.ids: deque[bytes] = deque()
        #: {task id: what is known here}, for those of which a store knows better.
        self.hearsay: dict[bytes, StateRecord] = {}
        #: Being looked up, and what was found of those.
        self.looking: list[bytes] = []
        self.found: list[StateRecord] = []
        #: Looked up at once.
        self.chunk = LOOKUP_CHUNK_MIN


class Lookups:
    """Works questions off. ``effects`` is drained each turn.

    Args:
        log: whose outcomes may be on the disk.
        has_store: this node is a store.
        answer: told what was found, a chunk at a time; the question has more ``ids`` then,
            or is done.
        may_answer: whether a link takes more.
    """

    def __init__(
        self, log: ResultLog, has_store: bool,
        answer: Callable[[Question, Sequence[StateRecord]], None],
        may_answer: Callable[[LinkId], bool],
    ) -> None:  # fmt: skip
        self.effects: list[Effect] = []
        self._log = log
        self._has_store = has_store
        self._answer = answer
        self._may_answer = may_answer
        #: Ids of all questions here.
        self.count = 0
        self._waiting: deque[Question] = deque()
        self._looking: dict[int, Question] = {}
        self._token = 0

    @property
    def are_possible(self) -> bool:
        """There is something to look into."""
        return self._has_store or not self._log.spill.is_empty

    def ask(self, question: Question) -> None:
        """Look its ids up when it is its turn."""
        self.count += len(question.ids)
        self._waiting.append(question)

    def link_down(self, link: LinkId) -> None:
        """Nobody is there to be told."""
        left = [question for question in self._waiting if question.link != link]
        self._waiting = deque(left)
        self.count = sum(len(question.ids) for question in left)
        for question in self._looking.values():
            if question.link == link:
                question.ids.clear()
                question.watch = False

    def flush(self) -> None:
        """Look further; call this each turn."""
        for _ in range(len(self._waiting)):
            if len(self._looking) >= LOOKUPS_MAX:
                return
            question = self._waiting.popleft()
            if self._may_answer(question.link):
                self._look(question)
            else:
                self._waiting.append(question)

    def _look(self, question: Question) -> None:
        ids = question.ids
        question.looking = [ids.popleft() for _ in range(min(question.chunk, len(ids)))]
        self.count -= len(question.looking)
        question.found = []
        # What is on the disk here is on its way to the store.
        if not self._log.spill.is_empty:
            self.effects.append(SpillFind(self._next(question), list(question.looking)))
        else:
            self._ask_store(question)

    def _next(self, question: Question) -> int:
        self._token += 1
        self._looking[self._token] = question
        return self._token

    def _ask_store(self, question: Question) -> None:
        if self._has_store and question.looking:
            self.effects.append(AskStore(self._next(question), list(question.looking)))
        else:
            self._done(question, {}, "")

    def spill_found(self, token: int, rows: Sequence[SpillRow], failure: str) -> None:
        """The disk has been looked at; ``failure``: or not, and why."""
        question = self._looking.pop(token)
        for row in rows:
            if row.outcome is None:
                continue
            decision = self._log.decision_on(row)
            if decision == Verdict.REFUSED:
                continue
            is_final = decision == Verdict.SETTLED
            state = TaskState.SETTLED if is_final else TaskState.UNSETTLED
            question.found.append(StateRecord(row.outcome.id, state, {}, row.outcome))
            question.looking.remove(row.outcome.id)
        if failure and not self._has_store:
            self._done(question, {}, failure)
        else:
            self._ask_store(question)

    def store_answered(
        self, token: int, rows: Mapping[bytes, Sequence[OutcomeRow]], failure: str
    ) -> None:
        """The store has looked; ``failure``: or could not, so nobody may say "unknown"."""
        question = self._looking.pop(token, None)
        if question is not None:
            self._done(question, rows, failure)

    def _done(
        self, question: Question, rows: Mapping[bytes, Sequence[OutcomeRow]], failure: str
    ) -> None:
        records, question.found = question.found, []
        for task_id in question.looking:
            record = stored_state(task_id, rows.get(task_id))
            if record.state == TaskState.UNKNOWN:
                if failure:
                    record = StateRecord(task_id, TaskState.PENDING, {"why": failure}, None)
                record = question.hearsay.get(task_id, record)
            records.append(record)
        question.looking = []
        size = sum(record.outcome.size for record in records if record.outcome is not None)
        if size > LOOKUP_CHUNK_BYTES:
            question.chunk = max(question.chunk // 2, 1)
        elif size < LOOKUP_CHUNK_BYTES // 4:
            question.chunk = min(question.chunk * 4, STORE_READ_IDS_PER_CALL_MAX)
        self._answer(question, records)
        if question.ids:
            self._waiting.append(question)


def stored_state(task_id: bytes, rows: Sequence[OutcomeRow] | None) -> StateRecord:
    """What a store's rows say about a task."""
    row = final_row(rows or ())
    if row is None:
        return StateRecord(task_id, TaskState.UNKNOWN, {}, None)
    settled = row.verdict == Verdict.SETTLED
    state = TaskState.SETTLED if settled else TaskState.UNSETTLED
    info = {"name": row.name, "queue": row.queue, "worker": row.worker, "attempt": row.attempt}
    return StateRecord(task_id, state, info, to_outcome(row))
