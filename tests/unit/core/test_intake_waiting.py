"""What waits at a worker: by priority, never behind what takes long, until it is called off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.machines import ADD, MUL, of, record, sent, task_id
from tests.unit.core.test_intake import LINK, OTHER, Worker, codes, credits, running
from zmqtasks.core.effects import CancelInSlot, Effect
from zmqtasks.core.held import KindStat, SlotOutcome
from zmqtasks.core.links import LinkId
from zmqtasks.limits import STARTED_REPORT_MS
from zmqtasks.wire.messages import (
    Cancel,
    Demand,
    Recall,
    Reject,
    RejectCode,
    Status,
    TaskRecord,
    Tasks,
)

LATER = RejectCode.LATER
SHORT_US, LONG_US = 1_000, 60_000_000


def known(worker: Worker, add_us: int = SHORT_US, mul_us: int = LONG_US) -> Worker:
    """It has seen tasks of both kinds."""
    for kind, cost_us in ((ADD, add_us), (MUL, mul_us)):
        worker.machine.stats[kind] = stat = KindStat()
        stat.add(cost_us)
    worker.machine.overall.add(add_us)
    return worker


def with_ext(number: int, **ext: Any) -> TaskRecord:
    return TaskRecord(0, task_id(number), 1, b"args", ext)


def holds(effects: Sequence[Effect]) -> list[int]:
    return [message.hold_ms for message in sent(effects, Reject)]


# --- order --------------------------------------------------------------------------------


def test_high_priorities_start_first() -> None:
    worker = Worker(slots=1)
    tasks = [record(1), record(2), with_ext(3, pri=9), with_ext(4, pri=1), with_ext(5, pri=9)]
    started = running(worker.give(*tasks))[0]
    for _ in range(4):
        started += running(worker.ended(0, started[-1], run_us=150_000))[0]
    assert started == [3, 5, 4, 1, 2]


def test_short_tasks_of_several_priorities_share_a_batch() -> None:
    worker = known(Worker(slots=1), add_us=10)
    given = worker.give(record(1), with_ext(2, pri=3), with_ext(3, pri=9))
    assert running(given) == {0: [3, 2, 1]}


# --- nothing behind long tasks --------------------------------------------------------------


def test_short_task_for_a_worker_whose_slots_run_long_ones_goes_back_at_once() -> None:
    worker = known(Worker(slots=2))
    worker.give(record(1), record(2), kinds=[MUL])
    effects = worker.give(record(3))
    assert codes(effects) == [(3, 1, LATER)]
    assert holds(effects) == [0]


def test_owner_is_told_that_its_credit_is_void_until_a_slot_is_free() -> None:
    worker = known(Worker(slots=1))
    worker.machine.received(LINK, Demand(1_000), 0)
    assert credits(worker.turn())[-1] > 10
    effects = worker.give(record(1, kind=1), record(2), kinds=[ADD, MUL])
    assert running(effects) == {0: [1]}
    (message,) = sent(effects, Reject)
    assert (message.tasks, message.limit) == ([(task_id(2), 1, LATER)], 2)
    assert credits(effects) == []
    assert credits(worker.ended(0, 1, run_us=LONG_US)) == [3]


def test_many_long_tasks_do_not_queue_at_a_worker_of_short_ones() -> None:
    """The mean over all kinds says that there is room for dozens of them."""
    worker = known(Worker(slots=2))
    worker.machine.received(LINK, Demand(1_000), 0)
    assert worker.machine.window() == 22
    worker.turn()
    effects = worker.give(*[record(n) for n in range(1, 11)], kinds=[MUL])
    assert running(effects) == {0: [1], 1: [2]}
    assert codes(effects) == [(n, 1, LATER) for n in range(3, 11)]
    assert worker.machine.window() == 2


def test_slot_that_runs_a_long_task_makes_no_room_for_short_ones() -> None:
    worker = known(Worker(slots=2))
    worker.give(record(1), kinds=[MUL])
    assert worker.machine.window() == 1 + 11


def test_tasks_of_unknown_length_count_as_a_slot_s_worth_each() -> None:
    worker = known(Worker(slots=4))
    del worker.machine.stats[MUL]
    worker.give(*[record(n) for n in range(1, 4)], kinds=[MUL])
    assert worker.machine.window() == 3 + 11
    worker.give(record(4), record(5), record(6), kinds=[MUL])
    assert worker.machine.window() == 6, "four run, two wait"


def test_task_that_runs_much_longer_than_others_of_its_kind_holds_nobody_up() -> None:
    worker = known(Worker(slots=1))
    worker.give(*[record(n) for n in range(1, 6)])
    (first, *piped) = worker.machine.slots[0].pending
    assert piped, "they look short"
    worker.machine.tick(STARTED_REPORT_MS)
    assert codes(worker.turn(STARTED_REPORT_MS)) == []
    deadline_ms = worker.machine.next_deadline_ms()
    assert deadline_ms is not None
    worker.machine.tick(deadline_ms)
    waiting = [n for n in range(2, 6) if task_id(n) not in [task.id for task in piped]]
    assert codes(worker.turn(deadline_ms)) == [(n, 1, LATER) for n in waiting]
    assert worker.machine.next_deadline_ms() is None
    assert codes(worker.give(record(9))) == [(9, 1, LATER)]
    worker.ended(0, int.from_bytes(first.id[8:], "big"))
    assert codes(worker.turn()) == []


def test_one_free_slot_is_enough_to_keep_what_waits() -> None:
    worker = known(Worker(slots=2))
    worker.give(record(1), kinds=[MUL])
    effects = worker.give(*[record(n) for n in range(2, 12)])
    assert codes(effects) == []
    assert len(worker.machine.queue) > 5


def test_what_cannot_be_given_back_stays() -> None:
    worker = known(Worker(slots=1))
    worker.give(record(1), kinds=[MUL])
    assert worker.machine.pulled(Tasks([ADD], [record(2)])) == []
    assert codes(worker.turn()) == []
    assert running(worker.ended(0, 1)) == {0: [2]}


def test_owners_get_a_freed_slot_in_turn_however_much_one_has() -> None:
    worker = known(Worker(slots=1))
    worker.link_up(OTHER)
    for link, backlog in ((LINK, 100_000), (OTHER, 10)):
        worker.machine.received(link, Demand(backlog), 0)
    worker.turn()
    ran: list[LinkId] = []
    for number in range(12):
        for link in (LINK, OTHER):
            giver = worker.machine.givers[link]
            ids = range(number * 100, number * 100 + giver.told - giver.received)
            worker.give(*[record(i) for i in ids], kinds=[MUL], link=link)
        (task,) = worker.machine.slots[0].pending
        ran.append(task.link)
        worker.ended(0, int.from_bytes(task.id[8:], "big"), run_us=LONG_US)
    assert ran[2:] == [OTHER, LINK] * 5


# --- recalled ------------------------------------------------------------------------------


def test_recalled_tasks_go_back_unless_a_slot_has_them() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2), record(3))
    message = Recall([(task_id(1), 1), (task_id(2), 1), (task_id(3), 2), (task_id(4), 1)])
    assert worker.machine.received(LINK, message, 0)
    assert codes(worker.turn()) == [(2, 1, RejectCode.RECALLED)]
    assert worker.machine.givers[LINK].finished == 1


def test_nobody_recalls_tasks_of_others() -> None:
    worker = Worker(slots=1)
    worker.link_up(OTHER)
    worker.give(record(1), record(2))
    worker.machine.received(OTHER, Recall([(task_id(2), 1)]), 0)
    worker.machine.received(OTHER, Cancel([(task_id(2), 1)], Status.CANCELLED), 0)
    assert codes(worker.turn()) == []
    assert len(worker.machine.queue) == 1


def test_tasks_that_wait_in_a_queue_that_is_served_no_longer_go_back() -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    worker.machine.serve(["elsewhere"])
    no_queue = RejectCode.NO_QUEUE
    assert codes(worker.turn()) == [(2, 1, no_queue)]
    assert codes(worker.give(record(3))) == [(3, 1, no_queue)]
    assert running(worker.ended(0, 1)) == {}
    worker.machine.serve(["default", "elsewhere"])
    assert running(worker.give(record(4))) == {0: [4]}


# --- cancelled ------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "text"), [
    (Status.CANCELLED, "cancelled before it started"),
    (Status.EXPIRED, "it expired before it started"),
])  # fmt: skip
def test_waiting_task_that_is_cancelled_ends_so(status: Status, text: str) -> None:
    worker = Worker(slots=1)
    worker.give(record(1), record(2))
    assert worker.machine.received(LINK, Cancel([(task_id(2), 1)], status), 0)
    assert codes(worker.turn()) == []
    (finished,) = worker.machine.finished
    assert (finished.task.id, finished.status, finished.error) == (task_id(2), status, text)
    assert worker.machine.givers[LINK].finished == 1
    assert worker.machine.held_bytes == len(b"args")


@pytest.mark.parametrize(("terminate", "signum"), [(False, 0), (True, 9)])
def test_pool_cancels_what_a_slot_has(terminate: bool, signum: int) -> None:
    worker = known(Worker(slots=1))
    worker.give(record(1), record(2))
    assert len(worker.machine.slots[0].pending) == 2
    ids = [(task_id(n), 1) for n in (2, 1, 9)] + [(task_id(1), 2)]
    worker.machine.received(LINK, Cancel(ids, Status.CANCELLED, terminate, 9), 0)
    assert of(worker.turn(), CancelInSlot) == [
        CancelInSlot(0, task_id(1), 1, Status.CANCELLED, signum),
        CancelInSlot(0, task_id(2), 1, Status.CANCELLED, signum),
    ]
    assert worker.machine.finished == [], "the pool says how they ended"
    outcome = SlotOutcome(task_id(1), 1, Status.CANCELLED, 0, 0, b"", "ended by SIGKILL")
    worker.machine.slot_done(0, [outcome], 0)
    assert [finished.status for finished in worker.machine.finished] == [Status.CANCELLED]
