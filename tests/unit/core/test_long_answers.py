"""An answer about many tasks comes in messages of bounded size, and counts as a whole."""

from __future__ import annotations

from zmqtasks.core.answers import Answers
from zmqtasks.core.effects import QuestionAnswered, Send
from zmqtasks.core.inquiry import Inquiry
from zmqtasks.core.links import LinkId
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.limits import BATCH_COUNT_MAX
from zmqtasks.wire.messages import Query, States

_LINK = LinkId("out", b"peer")
_IDS = [number.to_bytes(16, "big") for number in range(1, 3 * BATCH_COUNT_MAX)]


def _answer_parts() -> list[States]:
    answers = Answers(None, None, ResultLog("worker"), has_store=False)
    answers.asked(_LINK, Query(1, _IDS, False))
    answers.flush()
    parts = [e.message for e in answers.effects if isinstance(e, Send)]
    assert all(isinstance(part, States) for part in parts)
    return [part for part in parts if isinstance(part, States)]


def test_parts_are_bounded_and_say_that_more_follows() -> None:
    parts = _answer_parts()
    assert [record.id for part in parts for record in part.states] == _IDS
    assert max(len(part.states) for part in parts) <= BATCH_COUNT_MAX
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]


def test_nothing_is_unknown_before_the_last_part_came() -> None:
    inquiry = Inquiry(grace_ms=0)
    inquiry.ask(_IDS, [], [_LINK], watch=False, now_ms=0)
    *first, last = _answer_parts()
    for part in first:
        inquiry.answered(_LINK, part)
    inquiry.tick(10_000, all_found=True, may_live=lambda node: False)
    assert not any(isinstance(effect, QuestionAnswered) for effect in inquiry.effects)
    inquiry.answered(_LINK, last)
    inquiry.tick(10_000, all_found=True, may_live=lambda node: False)
    for part in _answer_parts():
        inquiry.answered(_LINK, part)
    inquiry.tick(10_000, all_found=True, may_live=lambda node: False)
    assert any(isinstance(effect, QuestionAnswered) for effect in inquiry.effects)
