"""What workers say of themselves while they work, and what their tasks' owners make of it."""

from __future__ import annotations

from tests.support.machines import ADD, MUL, WORKER, link_to, of, sent, task_id, worker_hello
from tests.unit.core.test_dispatcher import LINK, SECOND, Owner, numbers, settled
from tests.unit.core.test_mesh import Pair
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.recalling import RECALL_AFTER_MS
from zmqtasks.core.requirements import RESOURCES_KEY
from zmqtasks.limits import ADDRESSEE_MISSED_MS
from zmqtasks.wire.messages import (
    Credit,
    Demand,
    Kind,
    Recall,
    Reject,
    RejectCode,
    Started,
    Status,
    Tasks,
)

ELSEWHERE = Kind(ADD.app, ADD.name, ADD.digest, "elsewhere")


def later(number: int, hold_ms: int, limit: int = 0) -> Reject:
    return Reject([(task_id(number), 1, RejectCode.LATER)], "the reason", limit, hold_ms)


# --- later ----------------------------------------------------------------------------------


def test_kind_that_can_start_later_only_is_kept_until_then_and_no_other_one() -> None:
    owner = Owner()
    owner.worker(kinds=(ADD, MUL))
    owner.submit(1)
    owner.turn()
    owner.machine.received(LINK, later(1, 500), 100)
    owner.submit(2, kind=MUL)
    effects = owner.turn(100)
    assert numbers(sent(effects, Tasks)) == [(2, 1)]
    assert owner.machine.next_deadline_ms() == 600
    owner.machine.tick(599)
    assert sent(owner.turn(599), Tasks) == []
    owner.machine.tick(600)
    assert numbers(sent(owner.turn(600), Tasks)) == [(1, 1)]
    assert owner.machine.next_deadline_ms() is None


def test_why_a_kind_that_its_workers_start_later_waits_is_told() -> None:
    owner = Owner()
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.machine.received(LINK, later(1, 500), 0)
    record = owner.machine.state_of(task_id(1))
    assert record is not None
    assert record.info["why"] == (
        "its rate limit is reached, or the resources that it needs are in use"
    )


def test_kind_that_one_worker_starts_later_goes_to_another_one() -> None:
    owner = Owner()
    owner.worker()
    owner.submit(1)
    owner.turn()
    owner.worker(SECOND)
    owner.machine.received(LINK, later(1, 500), 0)
    (send,) = [e for e in of(owner.turn(), fx.Send) if isinstance(e.message, Tasks)]
    assert send.link == SECOND


def test_worker_is_told_of_no_backlog_that_it_does_not_want() -> None:
    owner = Owner()
    owner.worker(credit=3)
    owner.submit(*range(1, 9))
    assert sent(owner.turn(), Demand) == [Demand(5)]
    owner.machine.received(LINK, later(1, 500), 0)
    assert sent(owner.turn(), Demand) == [Demand(0)]
    owner.machine.tick(500)
    assert sent(owner.turn(500), Demand) == [Demand(6)]


def test_worker_whose_slots_are_taken_gets_nothing_before_it_grants_more() -> None:
    owner = Owner()
    owner.worker(credit=10)
    owner.submit(1, 2)
    owner.turn()
    owner.machine.received(LINK, later(2, 0, limit=2), 0)
    effects = owner.turn()
    assert (sent(effects, Tasks), sent(effects, Demand)) == ([], [Demand(1)])
    owner.machine.received(LINK, Credit(3), 0)
    assert numbers(sent(owner.turn(), Tasks)) == [(2, 1)]


# --- recall ---------------------------------------------------------------------------------


def test_late_joiner_gets_what_waits_at_a_busy_worker() -> None:
    owner = Owner()
    owner.worker()
    owner.submit(*range(1, 6))
    owner.turn()
    owner.worker(SECOND)
    assert sent(owner.turn(1_000), Recall) == []
    deadline_ms = owner.machine.next_deadline_ms()
    assert deadline_ms == 1_000 + RECALL_AFTER_MS
    owner.machine.received(LINK, Started([(task_id(1), 1), (task_id(2), 1)]), 0)
    owner.machine.tick(deadline_ms)
    (recall,) = sent(owner.turn(deadline_ms), Recall)
    assert recall.tasks == [(task_id(5), 1), (task_id(4), 1)]
    back: list[tuple[bytes, int, int]] = [(task_id(n), 1, RejectCode.RECALLED) for n in (4, 5)]
    owner.machine.received(LINK, Reject(back, "its owner asked for it", 0), deadline_ms)
    (send,) = [e for e in of(owner.turn(deadline_ms), fx.Send) if isinstance(e.message, Tasks)]
    assert send.link == SECOND
    assert isinstance(send.message, Tasks)
    assert numbers([send.message]) == [(4, 1), (5, 1)]


def test_idle_worker_of_before_keeps_nobody_awake_when_it_is_gone() -> None:
    owner = Owner()
    owner.worker()
    owner.submit(*range(1, 6))
    owner.turn()
    owner.worker(SECOND)
    owner.turn()
    owner.machine.link_down(SECOND, "gone")
    owner.turn()
    assert owner.machine.next_deadline_ms() is None


# --- workers that change ----------------------------------------------------------------------


def test_worker_that_serves_another_queue_gets_its_tasks_and_no_others() -> None:
    pair = Pair()
    pair.owner.submit([Call(task_id(1), ELSEWHERE, b"args", None)], 0)
    pair.pump()
    assert pair.worker.intake is not None
    assert pair.worker.intake.running_count == 0
    pair.worker.change_worker(0, queues=["elsewhere"])
    pair.pump()
    assert pair.worker.intake.running_count == 1
    pair.end(1)
    pair.pump()
    assert set(pair.values()) == {task_id(1)}
    pair.run(2, answer=False)
    assert pair.worker.intake.running_count == 0
    pair.worker.change_worker(0, queues=["elsewhere", "default"])
    pair.pump()
    assert pair.worker.intake.running_count == 1, "what was refused once is welcome now"


def test_changes_lose_nothing_that_is_under_way() -> None:
    pair = Pair()
    pair.run(1, answer=False)
    pair.worker.change_worker(0, slots=3)
    pair.end(1)
    pair.pump()
    assert set(pair.values()) == {task_id(1)}
    assert pair.owner.dispatcher is not None
    (worker,) = pair.owner.dispatcher.workers.values()
    assert worker.slots == 3


def test_node_hears_of_its_own_changes_too() -> None:
    own = worker_hello(slots=1)
    own.roles = ["worker", "producer"]
    pair = Pair(own)
    pair.worker.submit([Call(task_id(1, WORKER), ELSEWHERE, b"args", None)], 0)
    pair.pump()
    pair.worker.change_worker(0, queues=["elsewhere"])
    pair.pump()
    assert pair.worker.intake is not None
    assert pair.worker.intake.running_count == 1


def test_same_greeting_again_is_no_change() -> None:
    owner = Owner()
    owner.worker()
    worker = owner.machine.workers[LINK]
    hello = worker_hello(kinds=(ADD,))
    hello.ext = {RESOURCES_KEY: {"gpu": 1}}
    owner.machine.dealer.peer_changed(LINK, hello)
    assert worker.offer.amounts == {"gpu": 1_000}
    owner.machine.dealer.peer_changed(link_to(b"stranger"), hello)
    assert list(owner.machine.workers) == [LINK]


def test_worker_joins_and_leaves_lanes_when_its_queues_change() -> None:
    lane = FastLane(b"producer", b"R")
    peer = worker_hello()
    peer.pull_endpoints = ["tcp://h:3"]
    lane.link_up(LINK, peer)
    lane.submit([Call(task_id(1), ADD, b"", None), Call(task_id(2), ELSEWHERE, b"", None)], 0)
    lane.push(0)
    assert [e.lane for e in of(lane.effects, fx.LaneConnect)] == ["shop\ndefault"]
    lane.effects.clear()
    changed = worker_hello()
    changed.pull_endpoints, changed.queues = ["tcp://h:3"], ["elsewhere"]
    lane.peer_changed(LINK, changed)
    lane.peer_changed(SECOND, changed)
    assert [e.lane for e in of(lane.effects, fx.LaneConnect)] == ["shop\nelsewhere"]
    assert [e.lane for e in of(lane.effects, fx.LaneDisconnect)] == ["shop\ndefault"]


# --- tasks for one node ---------------------------------------------------------------------


def for_node(node: bytes, kind: Kind = ADD) -> Kind:
    return Kind(kind.app, kind.name, kind.digest, kind.queue, (("to", node.hex()),))


def test_task_for_one_node_goes_there_whatever_queues_it_serves_and_nowhere_else() -> None:
    owner = Owner()
    owner.worker()
    owner.worker(SECOND)
    elsewhere = Kind(ADD.app, ADD.name, ADD.digest, "elsewhere", for_node(SECOND.peer[1:9]).ext)
    owner.submit(1, kind=elsewhere)
    (send,) = [e for e in of(owner.turn(), fx.Send) if isinstance(e.message, Tasks)]
    assert send.link == SECOND


def test_tasks_for_one_node_end_when_it_goes_running_waiting_and_cancelled() -> None:
    owner = Owner()
    owner.worker(credit=2)
    owner.worker(SECOND)
    kind = for_node(LINK.peer[1:9])
    owner.submit(1, 2, 3, 4, kind=kind)
    owner.submit(5)
    owner.turn()
    owner.machine.received(LINK, Started([(task_id(1), 1)]), 0)
    owner.machine.cancel([task_id(2)])
    owner.machine.link_down(LINK, "gone")
    ended = {outcome.id: outcome.status for outcome in settled(owner.turn())}
    assert ended == {
        task_id(1): Status.WORKER_LOST,
        task_id(2): Status.CANCELLED,
        task_id(3): Status.WORKER_LOST,
        task_id(4): Status.WORKER_LOST,
    }
    assert list(owner.machine.tasks) == [task_id(5)]
    assert kind not in owner.machine.lanes


def test_tasks_for_a_node_that_had_gone_before_them_end_unless_it_comes_back_soon() -> None:
    owner = Owner()
    owner.worker(SECOND)
    kind = for_node(LINK.peer[1:9])
    owner.submit(1, 2, kind=kind)
    owner.submit(3)
    owner.turn()
    owner.machine.tick(ADDRESSEE_MISSED_MS - 1)
    assert settled(owner.turn(ADDRESSEE_MISSED_MS - 1)) == []
    deadline = owner.machine.next_deadline_ms()
    assert deadline is not None
    assert deadline <= ADDRESSEE_MISSED_MS
    owner.machine.tick(ADDRESSEE_MISSED_MS)
    ended = settled(owner.turn(ADDRESSEE_MISSED_MS))
    assert {(o.id, o.status) for o in ended} == {
        (task_id(1), Status.WORKER_LOST),
        (task_id(2), Status.WORKER_LOST),
    }
    (reason,) = {(outcome.ext or {})["e"] for outcome in ended}
    assert reason == f"the only worker that may run it (node {kind.ext[0][1]}) is not in sight"
    assert list(owner.machine.tasks) == [task_id(3)]

    owner.submit(4, kind=kind)
    owner.turn(ADDRESSEE_MISSED_MS)
    owner.worker(LINK)
    owner.turn(ADDRESSEE_MISSED_MS + 1)
    owner.machine.tick(3 * ADDRESSEE_MISSED_MS)
    assert settled(owner.turn(3 * ADDRESSEE_MISSED_MS)) == []


def test_a_task_for_a_node_that_does_not_have_it_any_more_ends_with_what_that_has() -> None:
    owner = Owner()
    owner.worker(kinds=(MUL,))
    owner.submit(1, kind=for_node(LINK.peer[1:9]))
    owner.turn()
    owner.machine.tick(ADDRESSEE_MISSED_MS)
    (outcome,) = settled(owner.turn(ADDRESSEE_MISSED_MS))
    assert outcome.status == Status.WORKER_LOST
    assert "that may run it cannot: " in (outcome.ext or {})["e"]
    assert "no present worker knows it" in (outcome.ext or {})["e"]
