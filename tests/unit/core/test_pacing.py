"""Attempts whose items nobody has read yet are held up, and no others."""

from __future__ import annotations

from tests.support.machines import OWNER, WORKER, link_to, sent, task_id
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.links import LinkId
from zmqtasks.core.pacing import Pacing
from zmqtasks.wire.messages import Submit, Submitted

LINK, OTHER = link_to(WORKER), link_to(b"worker-2")
TASK = task_id(1)


class Fixture:
    def __init__(self) -> None:
        self.answered: list[tuple[LinkId, int]] = []
        self.pacing = Pacing(lambda link, request: self.answered.append((link, request)))


def test_an_attempt_goes_on_at_once_while_its_reader_keeps_up() -> None:
    made = Fixture()
    made.pacing.asked(LINK, 7, TASK)
    assert made.answered == [(LINK, 7)]


def test_an_attempt_is_answered_when_its_reader_has_read_on_and_others_are_not_held_up() -> None:
    made = Fixture()
    made.pacing.pause(TASK, True)
    made.pacing.asked(LINK, 7, TASK)
    made.pacing.asked(LINK, 8, task_id(2))
    made.pacing.pause(TASK, True)
    assert made.answered == [(LINK, 8)]
    made.pacing.pause(TASK, False)
    assert made.answered == [(LINK, 8), (LINK, 7)]
    assert not made.pacing.paused


def test_who_is_lost_is_not_answered() -> None:
    made = Fixture()
    made.pacing.pause(TASK, True)
    made.pacing.asked(LINK, 7, TASK)
    made.pacing.asked(OTHER, 7, TASK)
    made.pacing.link_down(LINK)
    made.pacing.pause(TASK, False)
    assert made.answered == [(OTHER, 7)]


def test_an_owner_that_leaves_holds_nobody_up() -> None:
    dispatcher = Dispatcher(10, 1_000)
    dispatcher.pacing.pause(TASK, True)
    dispatcher.submit_remote(LINK, Submit(7, TASK, [], []), 0)
    assert sent(dispatcher.effects, Submitted) == []
    dispatcher.leave()
    assert sent(dispatcher.effects, Submitted) == [Submitted(7, "")]
    assert TASK[:8] == OWNER
