"""Work taken back from busy workers for idle ones."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import ADD, MUL, link_to, sent, task_id, worker_hello
from zmqtasks.core.effects import Send
from zmqtasks.core.lanes import Lane, OwnedTask, WorkerLink
from zmqtasks.core.recalling import RECALL_AFTER_MS, Recalling
from zmqtasks.wire.messages import Kind, Recall


class Mesh:
    """A busy worker, and an idle one that has joined."""

    def __init__(self, held: int = 6, kinds: Sequence[Kind] = (ADD,)) -> None:
        self.machine = Recalling()
        self.lane = Lane(ADD, "direct")
        self.busy = self.worker(b"worker-1", [ADD])
        self.idle = self.worker(b"worker-2", kinds)
        for number in range(held):
            task = OwnedTask(task_id(number), self.lane, b"", None, worker=self.busy)
            self.busy.held[task.id] = task

    def worker(self, node: bytes, kinds: Sequence[Kind]) -> WorkerLink:
        worker = WorkerLink(link_to(node), worker_hello(node, kinds=kinds))
        worker.limit = 10
        self.lane.workers += [worker] if worker.serves(ADD) else []
        return worker

    def look(self, now_ms: int) -> list[int]:
        self.machine.look((self.busy, self.idle), [self.lane], now_ms)
        effects, self.machine.effects = self.machine.effects, []
        assert all(isinstance(e, Send) and e.link == self.busy.link for e in effects)
        return [
            int.from_bytes(task[8:], "big")
            for message in sent(effects, Recall)
            for task, _ in message.tasks
        ]


def test_newest_tasks_are_taken_back_for_a_worker_that_stays_idle() -> None:
    mesh = Mesh()
    assert mesh.look(0) == []
    assert mesh.machine.next_deadline_ms() == RECALL_AFTER_MS
    assert mesh.look(RECALL_AFTER_MS) == [5, 4]


def test_attempt_is_taken_back_once() -> None:
    mesh = Mesh()
    for at_ms in (0, RECALL_AFTER_MS, 2 * RECALL_AFTER_MS):
        mesh.look(at_ms)
    assert mesh.look(3 * RECALL_AFTER_MS) == [], "no more than wait at the busy one"
    mesh.busy.held[task_id(5)].attempt = 2
    assert mesh.look(4 * RECALL_AFTER_MS) == [5]


def test_as_many_stay_as_the_busy_one_has_slots() -> None:
    mesh = Mesh(held=3)
    mesh.look(0)
    assert mesh.look(RECALL_AFTER_MS) == [2]


def test_what_was_seen_running_stays() -> None:
    mesh = Mesh(held=4)
    mesh.busy.held[task_id(3)].started = True
    mesh.look(0)
    assert mesh.look(RECALL_AFTER_MS) == [2]


def test_nothing_is_taken_for_a_worker_that_cannot_run_it() -> None:
    mesh = Mesh(kinds=[MUL])
    mesh.look(0)
    assert mesh.look(RECALL_AFTER_MS) == []


def test_nothing_is_taken_while_the_idle_one_gets_work_otherwise() -> None:
    mesh = Mesh()
    mesh.lane.ready.append(OwnedTask(task_id(99), mesh.lane, b"", None))
    mesh.look(0)
    assert mesh.look(RECALL_AFTER_MS) == []


def test_worker_that_was_busy_meanwhile_is_not_idle_for_long() -> None:
    mesh = Mesh()
    mesh.look(0)
    mesh.idle.held[task_id(77)] = OwnedTask(task_id(77), mesh.lane, b"", None)
    mesh.look(50)
    assert mesh.machine.next_deadline_ms() is None
    mesh.idle.held.clear()
    mesh.look(60)
    assert mesh.look(RECALL_AFTER_MS) == []
    assert mesh.look(60 + RECALL_AFTER_MS) == [5, 4]


def test_nothing_is_taken_for_a_worker_without_credit_or_out_of_reach() -> None:
    for change in ("limit", "paused"):
        mesh = Mesh()
        mesh.idle.limit = 0 if change == "limit" else 10
        mesh.idle.paused = change == "paused"
        mesh.look(0)
        assert mesh.look(RECALL_AFTER_MS) == []
