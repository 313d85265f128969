"""What an intake runs when its owner is another node than before."""

from __future__ import annotations

from tests.support.machines import ADD, OWNER, WORKER, hello, link_to, of, record, sent, task_id
from tests.unit.core.test_intake import LINK, Worker, codes, running
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.links import SELF
from zmqtasks.limits import STARTED_REPORT_MS
from zmqtasks.wire.messages import Reject, RejectCode, Started, Submit, Tasks

AGAIN = link_to(OWNER, "in", epoch=2)
HEIR = link_to(b"the-heir", "in")


def busy() -> Worker:
    """It runs task 1, and task 2 waits."""
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    return worker


def links_of(effects: list[Effect], kind: type) -> list[object]:
    return [effect.link for effect in of(effects, Send) if isinstance(effect.message, kind)]


def test_owner_that_is_back_hears_at_once_of_what_runs() -> None:
    worker = busy()
    worker.machine.link_down(LINK)
    worker.link_up(AGAIN)
    worker.machine.adopt((OWNER,), AGAIN)
    effects = worker.turn()
    assert sent(effects, Started) == [Started([(task_id(1), 1)])]
    assert links_of(effects, Started) == [AGAIN]
    worker.machine.tick(10 * STARTED_REPORT_MS)
    assert sent(worker.turn(), Started) == [], "once"


def test_same_incarnation_of_an_owner_gave_up_what_it_had_given() -> None:
    worker = busy()
    worker.machine.link_down(LINK)
    worker.link_up()
    worker.machine.adopt((OWNER,), LINK)
    assert sent(worker.turn(), Started) == []


def test_heir_gets_what_runs_and_gives_the_rest_anew() -> None:
    worker = busy()
    worker.link_up(HEIR)
    worker.machine.adopt((OWNER,), HEIR)
    assert links_of(worker.turn(), Started) == [HEIR]
    assert worker.machine.held_bytes == len(b"args"), "what waited is gone"
    assert running(worker.ended(0, 1)) == {}
    (finished,) = worker.machine.finished
    assert (finished.task.owner, finished.task.link) == (b"the-heir", HEIR)


def test_attempt_that_came_by_other_ways_frees_no_credit_of_its_new_owner() -> None:
    worker = busy()
    worker.link_up(HEIR)
    worker.machine.adopt((OWNER,), HEIR)
    worker.ended(0, 1)
    giver = worker.machine.givers[HEIR]
    assert (giver.received, giver.finished) == (0, 0)


def test_heir_gets_the_tasks_of_a_dead_child_back() -> None:
    worker = busy()
    worker.link_up(HEIR)
    worker.machine.adopt((OWNER,), HEIR)
    worker.machine.slot_died(0, "signal 9")
    effects = worker.turn()
    assert codes(effects) == [(1, 1, RejectCode.CHILD_DIED_RUNNING)]
    assert links_of(effects, Reject) == [HEIR]
    assert worker.machine.givers[HEIR].finished == 0


def test_heir_owns_what_the_running_task_submits() -> None:
    worker = busy()
    worker.link_up(HEIR)
    worker.machine.adopt((OWNER,), HEIR)
    worker.machine.slot_submits(0, 77, task_id(1), 1, Submit(0, task_id(1), [ADD], [record(9)]))
    assert links_of(worker.turn(), Submit) == [HEIR]


def test_heir_that_has_never_given_a_task_gets_what_runs_too() -> None:
    worker = busy()
    worker.machine.link_up(HEIR, hello(b"the-heir", "worker"))
    worker.machine.adopt((OWNER,), HEIR)
    assert links_of(worker.turn(), Started) == [HEIR]


def test_heir_behind_a_link_that_is_gone_gets_nothing() -> None:
    worker = busy()
    worker.machine.adopt((OWNER,), HEIR)
    assert sent(worker.turn(), Started) == []
    assert len(worker.machine.queue) == 1


# --- single attempts ----------------------------------------------------------------------


def test_taken_over_attempts_are_this_node_s_own_and_the_giver_s_credit_is_free() -> None:
    worker = busy()
    worker.machine.link_up(SELF, hello(WORKER, "worker"))
    found = worker.machine.take_over({(task_id(1), 1), (task_id(2), 1), (task_id(3), 1)})
    assert sorted(found) == [(task_id(1), 1), (task_id(2), 1)]
    assert worker.machine.givers[LINK].finished == 2
    worker.machine.link_down(LINK)
    assert len(worker.machine.queue) == 1, "it went with its former owner no more"
    worker.ended(0, 1)
    (finished,) = worker.machine.finished
    assert (finished.task.owner, finished.task.link) == (WORKER, SELF)


def test_what_was_reported_as_running_is_reported_to_the_new_owner_too() -> None:
    worker = busy()
    worker.machine.link_up(SELF, hello(WORKER, "worker"))
    worker.machine.tick(10 * STARTED_REPORT_MS)
    worker.turn()
    worker.machine.take_over({(task_id(1), 1), (task_id(2), 1)})
    effects = worker.turn()
    assert sent(effects, Started) == [Started([(task_id(1), 1)])]
    assert links_of(effects, Started) == [SELF]


def test_other_attempt_is_not_taken_over() -> None:
    worker = busy()
    worker.machine.link_up(SELF, hello(WORKER, "worker"))
    assert worker.machine.take_over({(task_id(1), 2)}) == []
    worker.machine.received(LINK, Tasks([ADD], [record(4)]), 0)
    assert [task.owner for task in worker.machine.queue] == [OWNER, OWNER]
