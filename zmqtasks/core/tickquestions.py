"""Asks about the tasks of ticks that another beat has started, and that is gone.

It may have given them to a broker, or they may have ended without our hearing of it. Only what
nobody owns any more is started again; that is found out in a moment, since a tick is
rather started twice than late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqtasks.core.effects import QuestionAnswered
from zmqtasks.core.inquiry import Inquiry
from zmqtasks.limits import TICK_ASKED_MS
from zmqtasks.wire.messages import Outcome, StateRecord, TaskState


class _Asked:
    def __init__(self, ids: Sequence[bytes], until_ms: int) -> None:
        #: Nothing is known of these so far.
        self.undecided = set(ids)
        #: Somebody has these, and will tell how they end.
        self.followed: set[bytes] = set()
        self.until_ms = until_ms


class TickQuestions:
    """What was asked.

    Args:
        inquiry: asks.
        ask: these tasks, of everybody who is linked, now and whenever there is news, at this
            time; returns a token.
    """

    def __init__(self, inquiry: Inquiry, ask: Callable[[Sequence[bytes], int], int]) -> None:
        self._inquiry = inquiry
        self._ask = ask
        self._asked: dict[int, _Asked] = {}
        self._answers: list[QuestionAnswered] = []
        #: Tasks that were asked about and have no answer that ends it.
        self.open: set[bytes] = set()

    def ask(self, ids: Sequence[bytes], now_ms: int) -> None:
        """What is known of these?"""
        self.open.update(ids)
        self._asked[self._ask(ids, now_ms)] = _Asked(ids, now_ms + TICK_ASKED_MS)

    def takes(self, effect: object) -> bool:
        """Whether this is an answer to one of its questions."""
        if not isinstance(effect, QuestionAnswered) or effect.token not in self._asked:
            return False
        self._answers.append(effect)
        return True

    def drop(self, task_id: bytes) -> None:
        """It is known otherwise how this one ended."""
        if task_id in self.open:
            self.open.discard(task_id)
            for asked in self._asked.values():
                asked.undecided.discard(task_id)
                asked.followed.discard(task_id)

    def look(self, now_ms: int) -> tuple[list[Outcome], list[bytes]]:
        """How tasks have ended, and which of them nobody has."""
        settled: list[Outcome] = []
        nobodys: list[bytes] = []
        answers, self._answers = self._answers, []
        for answer in answers:
            asked = self._asked.get(answer.token)
            if asked is not None:
                self._take(asked, answer, settled, nobodys)
        for token, asked in list(self._asked.items()):
            question = self._inquiry.questions.get(token)
            if question is None:
                nobodys += asked.undecided | asked.followed
            elif asked.undecided and (now_ms >= asked.until_ms or not question.waiting):
                for task_id in sorted(asked.undecided):
                    if _is_elsewhere(question.best[task_id]):
                        asked.followed.add(task_id)
                    else:
                        nobodys.append(task_id)
                asked.undecided.clear()
            if question is None or not (asked.undecided or asked.followed):
                del self._asked[token]
                self._inquiry.drop(token)
        nobodys = sorted(set(nobodys) & self.open)
        self.open.difference_update(nobodys, (outcome.id for outcome in settled))
        return settled, nobodys

    @staticmethod
    def _take(
        asked: _Asked, answer: QuestionAnswered, settled: list[Outcome], nobodys: list[bytes]
    ) -> None:
        for record in answer.states:
            if record.id not in asked.undecided and record.id not in asked.followed:
                continue
            if record.state == TaskState.SETTLED and record.outcome is not None:
                settled.append(record.outcome)
            elif record.state == TaskState.UNKNOWN:
                nobodys.append(record.id)
            else:
                continue
            asked.undecided.discard(record.id)
            asked.followed.discard(record.id)

    def next_deadline_ms(self) -> int | None:
        """When ``look`` is wanted next."""
        return min(
            (asked.until_ms for asked in self._asked.values() if asked.undecided), default=None
        )


def _is_elsewhere(record: StateRecord) -> bool:
    """Somebody who is there owns it, or knows who does."""
    return record.state not in (TaskState.UNKNOWN, TaskState.UNSETTLED) and (
        bool(record.info.get("owned")) or "taker" in record.info
    )
