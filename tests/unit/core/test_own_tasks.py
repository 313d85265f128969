"""A node that owns tasks runs them itself too, without a socket."""

from __future__ import annotations

from tests.support.machines import (
    ADD,
    OWNER,
    TIMERS,
    WORKER,
    candidate,
    hello,
    link_to,
    of,
    record,
    sent,
    task_id,
    worker_hello,
)
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.held import SlotOutcome
from zmqtasks.core.intake import Intake
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.wire.messages import Credit, Demand, Tasks


class Alone:
    """A worker that owns what it runs."""

    def __init__(self) -> None:
        own = worker_hello(slots=1)
        membership = Membership(own, "mesh", "", frozenset(), TIMERS, 0)
        self.dispatcher = Dispatcher(1_000, 1 << 30)
        self.intake = Intake(own.queues, own.catalog, own.slots)
        self.node = MeshNode(
            membership, dispatcher=self.dispatcher, intake=self.intake, inline_bytes_max=100
        )
        self.intake.slot_ready(0)
        self.turn()

    def turn(self) -> list[fx.Effect]:
        return self.node.end_turn(0, 0)

    def submit(self, *numbers: int) -> list[fx.Effect]:
        self.node.submit([Call(task_id(n, WORKER), ADD, b"args", None) for n in numbers], 0)
        return self.turn()

    def end(self, number: int, body: bytes = b"value", attempt: int = 1) -> list[fx.Effect]:
        done = SlotOutcome(task_id(number, WORKER), attempt, 0, 0, 1_000, body, "")
        self.intake.slot_done(0, [done], 0)
        return self.turn()


def started(effects: list[fx.Effect]) -> list[tuple[int, int]]:
    """``(number, attempt)`` of what a slot got."""
    return [
        (int.from_bytes(task.id[8:], "big"), task.attempt)
        for effect in of(effects, fx.RunInSlot)
        for task in effect.tasks
    ]


def test_own_task_runs_and_settles_in_the_turns_in_which_it_can() -> None:
    node = Alone()
    assert started(node.submit(1)) == [(1, 1)]
    effects = node.end(1)
    (settled,) = of(effects, fx.TasksSettled)
    assert [(o.id, o.body) for o in settled.outcomes] == [(task_id(1, WORKER), b"value")]
    assert of(effects, fx.Transmit) == []
    assert node.node.is_idle
    assert not any(node.node.log.undecided.values())


def test_large_result_of_an_own_task_is_not_fetched() -> None:
    node = Alone()
    node.submit(1)
    (settled,) = of(node.end(1, b"x" * 200_000), fx.TasksSettled)
    assert settled.outcomes[0].body == b"x" * 200_000


def test_own_task_whose_child_died_is_tried_again() -> None:
    node = Alone()
    node.submit(1)
    node.intake.slot_died(0, "signal 9")
    node.turn()
    node.intake.slot_ready(0)
    assert started(node.turn()) == [(1, 2)]
    assert node.dispatcher.tasks[task_id(1, WORKER)].strikes == 1


def test_drained_node_keeps_its_own_tasks_and_gives_them_to_nobody() -> None:
    node = Alone()
    node.submit(1, 2, 3)
    node.node.drain()
    effects = node.turn()
    assert started(effects) == []
    assert not node.intake.queue
    assert len(node.dispatcher.tasks) == 3
    assert started(node.end(1)) == [], "what ran has ended, and nothing new starts"
    assert set(node.dispatcher.tasks) == {task_id(2, WORKER), task_id(3, WORKER)}


def test_more_local_work_than_one_turn_does_is_not_left_lying() -> None:
    node = Alone()
    node.submit(1)
    node.node._local.append(Demand(0))
    assert node.node.next_deadline_ms() == 0
    node.turn()
    assert node.node.next_deadline_ms() > 0


# --- credit -------------------------------------------------------------------------------

PEER = link_to(b"worker-2", "in")


def intake_with_peer() -> Intake:
    own = worker_hello(slots=4)
    intake = Intake(own.queues, own.catalog, own.slots)
    for slot in range(4):
        intake.slot_ready(slot)
    intake.link_up(PEER, hello(b"worker-2", "worker", slots=2, kinds=(ADD,)))
    return intake


def test_peer_that_seldom_owns_tasks_takes_no_credit_from_producers() -> None:
    intake = intake_with_peer()
    intake.link_up(link_to(OWNER, "in"), hello(OWNER, "producer"))
    intake.deal_credit()
    assert [effect.link for effect in of(intake.effects, fx.Send)] == [link_to(OWNER, "in")]
    assert sent(intake.effects, Credit) == [Credit(4)]


def test_any_peer_gets_credit_when_it_asks_for_it() -> None:
    intake = intake_with_peer()
    intake.received(PEER, Demand(3), 0)
    intake.deal_credit()
    assert sent(intake.effects, Credit) == [Credit(4)]
    intake.received(PEER, Tasks([ADD], [record(1)]), 0)
    intake.feed(0)
    assert len(of(intake.effects, fx.RunInSlot)) == 1


def test_peer_whose_lease_was_lost_before_it_asked_gets_no_credit() -> None:
    intake = intake_with_peer()
    intake.lease_changed(PEER, False)
    intake.received(PEER, Demand(3), 0)
    intake.deal_credit()
    assert sent(intake.effects, Credit) == []
    intake.lease_changed(PEER, True)
    intake.deal_credit()
    assert sent(intake.effects, Credit) == [Credit(4)]


def test_stranger_that_was_never_linked_gives_no_tasks() -> None:
    intake = intake_with_peer()
    intake.received(link_to(b"stranger", "in"), Tasks([ADD], [record(1)]), 0)
    assert not intake.queue


# --- others that run them -----------------------------------------------------------------


def test_node_with_open_tasks_looks_for_workers_until_it_has_none() -> None:
    node = Alone()
    node.node.membership.candidate_found(candidate(b"worker-2", "worker"), 0)
    node.node.tick(0)
    assert of(node.turn(), fx.Dial) == []
    node.submit(1)
    node.node.tick(300)
    assert [dial.candidate.node for dial in of(node.turn(), fx.Dial)] == [b"worker-2"]
    node.end(1)
    node.node.tick(600)
    node.node.membership.candidate_found(candidate(b"worker-3", "worker"), 600)
    assert of(node.turn(), fx.Dial) == []
