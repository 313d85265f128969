"""Tasks that a free slot does not suffice for: rates, and resources that others use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import pytest

from tests.support.machines import (
    ADD,
    MUL,
    OWNER,
    entry,
    hello,
    record,
    sent,
    task_id,
    worker_hello,
)
from tests.unit.core.test_intake import LINK, OTHER, Worker, codes, running
from zmqtasks.amounts import GPUS_KEY
from zmqtasks.core.answers import Answers
from zmqtasks.core.effects import Effect, RunInSlot
from zmqtasks.core.held import KindStat
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import LinkId
from zmqtasks.core.requirements import Stock
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.errors import ConfigError
from zmqtasks.wire.messages import (
    Cancel,
    Demand,
    Kind,
    Recall,
    Reject,
    RejectCode,
    Started,
    Status,
    TaskRecord,
    Tasks,
)

LATER = RejectCode.LATER


class Equipped(Worker):
    """A worker that has resources; its kinds are known to be short."""

    def __init__(
        self, slots: int = 4, resources: Mapping[str, float] | None = None,
        tags: Sequence[str] = (),
    ) -> None:  # fmt: skip
        gpus = [str(number) for number in range(int((resources or {}).get("gpu", 0)))]
        stock = Stock(resources, gpus, tags, b"worker-1")
        self.machine = Intake(["default"], [entry(ADD), entry(MUL)], slots, stock)
        for number in range(slots):
            self.machine.slot_ready(number)
        self.link_up()
        self.machine.overall.add(1_000)
        self.knows(ADD, MUL)
        self.turn()

    def knows(self, *kinds: Kind) -> None:
        for kind in kinds:
            stat = self.machine.stats[kind] = KindStat()
            stat.gate = self.machine.gates.gate_of(kind)
            stat.add(1_000)

    def free(self) -> dict[str, int]:
        return self.machine.gates.stock.free

    def run_for(self, ms: int, step_ms: int = 1) -> dict[int, list[int]]:
        """Pass time; all tasks end at once. Returns {when: what started}."""
        started: dict[int, list[int]] = {}
        for now_ms in range(0, ms, step_ms):
            self.machine.tick(now_ms)
            for slot, numbers in running(self.turn(now_ms)).items():
                started.setdefault(now_ms, []).extend(numbers)
                self.ended(slot, *numbers)
        return started


def needing(req: str, base: Kind = ADD) -> Kind:
    return Kind(base.app, base.name, base.digest, base.queue, (("req", req),))


def holds(effects: Sequence[Effect]) -> list[int]:
    return [message.hold_ms for message in sent(effects, Reject)]


def gpus(effects: Sequence[Effect]) -> list[list[str]]:
    tasks = [task for effect in effects if isinstance(effect, RunInSlot) for task in effect.tasks]
    return [(task.ext or {}).get(GPUS_KEY, []) for task in tasks]


# --- rates ----------------------------------------------------------------------------------


def test_task_over_its_rate_goes_back_and_is_kept_there_until_shortly_before_its_turn() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "2/s")
    effects = worker.give(record(1), record(2), record(3))
    assert running(effects) == {0: [1]}
    assert codes(effects) == [(2, 1, LATER), (3, 1, LATER)]
    assert holds(effects) == [475]


def test_task_whose_turn_comes_soon_waits_here_and_frees_its_credit() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "25/s")
    effects = worker.give(record(1), record(2), record(3))
    assert running(effects) == {0: [1]}
    assert holds(effects) == [55], "two turns ahead"
    giver = worker.machine.givers[LINK]
    assert giver.received - giver.finished == 1
    assert worker.machine.next_deadline_ms() == 20  # what runs is reported
    worker.ended(0, 1)
    assert worker.machine.next_deadline_ms() == 40
    assert running(worker.turn(39)) == {}
    assert running(worker.turn(40)) == {0: [2]}


def test_rate_is_kept_over_a_second() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "200/s")
    worker.machine.received(LINK, Tasks([ADD], [record(n) for n in range(11)]), 0)
    number = 11
    starts: list[int] = []
    for now_ms in range(1_000):
        effects = worker.turn(now_ms)
        worker.machine.tick(now_ms)
        for slot, numbers in running(effects).items():
            starts += [now_ms] * len(numbers)
            worker.ended(slot, *numbers)
            for _ in numbers:
                worker.machine.received(LINK, Tasks([ADD], [record(number)]), now_ms)
                number += 1
    assert len(starts) == 200
    assert max(b - a for a, b in pairwise(starts)) <= 6


def test_other_kinds_pass_what_has_to_wait() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "1/h")
    effects = worker.give(record(1), record(2), record(3, kind=1), kinds=[ADD, MUL])
    assert sorted(chain(*running(effects).values())) == [1, 3]
    assert codes(effects) == [(2, 1, LATER)]


def test_start_that_comes_to_nothing_does_not_count() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "25/s")
    worker.give(record(1), record(2))
    worker.machine.received(LINK, Recall([(task_id(2), 1)]), 0)
    assert codes(worker.turn()) == [(2, 1, RejectCode.RECALLED)]
    assert worker.machine.next_deadline_ms() == 20
    worker.give(record(3))
    worker.ended(0, 1)
    assert running(worker.turn(40)) == {0: [3]}


def test_rates_change_while_tasks_come() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "1/h")
    assert codes(worker.give(record(1), record(2))) == [(2, 1, LATER)]
    worker.machine.limit_rate("tasks.add", "")
    assert codes(worker.give(record(3), record(4), now_ms=1)) == []
    with pytest.raises(ConfigError):
        worker.machine.limit_rate("tasks.add", "often")


def test_rate_of_the_mesh_is_split_among_the_workers_that_have_the_task() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", mesh="2/s")
    limit = worker.machine.gates.rates.of("tasks.add")
    assert limit is not None
    for link, kinds in ((OTHER, (ADD,)), (LinkId("out", OTHER.peer), (ADD,)), (LINK, (MUL,))):
        worker.machine.link_up(link, worker_hello(link.peer[1:9], kinds=kinds))
    assert limit.interval_ms == 1_000, "two links to one other worker"
    worker.machine.link_down(OTHER)
    assert limit.interval_ms == 1_000
    worker.machine.link_down(LinkId("out", OTHER.peer))
    assert limit.interval_ms == 500


def test_what_cannot_go_back_waits_for_its_turn() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", "2/s")
    worker.machine.pulled(Tasks([ADD], [record(1), record(2), record(3)]))
    assert worker.run_for(1_100) == {0: [1], 500: [2], 1_000: [3]}


def test_what_nobody_owns_keeps_its_priority_here() -> None:
    worker = Worker(slots=1)
    low, high = record(1), record(2)
    high.ext = {"pri": 9}
    worker.machine.pulled(Tasks([ADD], [low, high]))
    assert running(worker.turn()) == {0: [2]}


# --- resources ------------------------------------------------------------------------------


def test_tasks_run_as_long_as_their_resources_last() -> None:
    worker = Equipped(resources={"ram_mb": 1_000})
    kind = needing("ram_mb=400")
    worker.knows(kind)
    effects = worker.give(*[record(n) for n in range(1, 5)], kinds=[kind])
    assert running(effects) == {0: [1], 1: [2]}
    assert codes(effects) == [(4, 1, LATER)], "one waits here"
    assert holds(effects) == [200]
    assert worker.free() == {"ram_mb": 200_000}
    assert running(worker.ended(1, 2)) == {1: [3]}
    worker.ended(0, 1)
    worker.ended(1, 3)
    assert worker.free() == {"ram_mb": 1_000_000}


def test_each_attempt_has_gpus_of_its_own() -> None:
    worker = Equipped(resources={"gpu": 3})
    one, two = needing("gpu=1"), needing("gpu=2")
    worker.knows(one, two)
    effects = worker.give(record(1, kind=1), record(2), kinds=[one, two])
    assert gpus(effects) == [["0", "1"], ["2"]]
    assert gpus(worker.give(record(3, kind=1), kinds=[one, two])) == []
    worker.ended(1, 2)
    assert gpus(worker.ended(0, 1)) == [["0", "1"]], "as its slot had before"


def test_tasks_of_a_dead_child_free_what_they_had() -> None:
    worker = Equipped(resources={"gpu": 1})
    kind = needing("gpu=1")
    worker.knows(kind)
    worker.give(record(1), kinds=[kind])
    assert worker.free() == {"gpu": 0}
    worker.machine.slot_died(0, "signal 9")
    assert worker.free() == {"gpu": 1_000}
    assert worker.machine.gates.stock.gpus == ["0"]


def test_gpus_that_a_caller_names_are_not_its_own() -> None:
    worker = Equipped(resources={"gpu": 1})
    worker.give(TaskRecord(0, task_id(1), 1, b"", {GPUS_KEY: ["7"]}))
    worker.ended(0, 1)
    assert worker.machine.gates.stock.gpus == ["0"]


def test_others_pass_a_task_that_needs_much_but_not_for_ever() -> None:
    worker = Equipped(resources={"cpu": 4})
    small, big = needing("cpu=2"), needing("cpu=4", MUL)
    worker.knows(small, big)
    kinds = [small, big, ADD]
    effects = worker.give(record(1), record(2, kind=1), record(3), kinds=kinds)
    assert running(effects) == {0: [1], 1: [3]}
    worker.ended(0, 1)
    assert running(worker.give(record(4), kinds=kinds, now_ms=500)) == {0: [4]}
    worker.ended(1, 3)
    effects = worker.give(record(5), record(6, kind=2), kinds=kinds, now_ms=1_000)
    assert codes(effects) == [(5, 1, LATER)], "now it is the turn of the big one"
    assert running(effects) == {1: [6]}, "which keeps nobody from what it does not need"
    (started,) = running(worker.ended(0, 4)).values()
    assert started == [2]


def test_worker_that_has_less_than_is_needed_gives_the_kind_back_for_good() -> None:
    worker = Equipped(resources={"gpu": 1}, tags=["x86"])
    for req, reason in (("gpu=2", "needs gpu=2"), ("tag:cuda", "tag 'cuda'")):
        effects = worker.give(record(1), kinds=[needing(req)])
        assert codes(effects) == [(1, 1, RejectCode.UNKNOWN_TASK)]
        assert reason in sent(effects, Reject)[0].text
    assert codes(worker.give(record(2), kinds=[needing("gpu=1;tag:x86")])) == []


def test_task_for_another_node_goes_back() -> None:
    worker = Equipped()
    kind = Kind(ADD.app, ADD.name, ADD.digest, ADD.queue, (("to", b"worker-2".hex()),))
    assert codes(worker.give(record(1), kinds=[kind])) == [(1, 1, RejectCode.UNKNOWN_TASK)]


# --- those that wait --------------------------------------------------------------------------


def waiting(resources: Mapping[str, float] | None = None) -> Equipped:
    """Task 1 runs; 2 waits for its rate, 4 for resources that 3 has."""
    worker = Equipped(resources=resources or {"gpu": 1})
    kind = needing("gpu=1", MUL)
    worker.knows(kind)
    worker.machine.limit_rate("tasks.add", "25/s")
    tasks = [record(1), record(2), record(3, kind=1), record(4, kind=1)]
    worker.give(*tasks, kinds=[ADD, kind])
    assert len(worker.machine.gates) == 2
    return worker


def test_draining_gives_back_what_waits_at_a_gate() -> None:
    worker = waiting()
    worker.machine.drain()
    draining = RejectCode.DRAINING
    assert sorted(codes(worker.turn())) == [(2, 1, draining), (4, 1, draining)]
    assert worker.machine.held_bytes == 2 * len(b"args")


def test_what_waits_at_a_gate_can_be_cancelled_and_found() -> None:
    worker = waiting()
    found = worker.machine.find(task_id(4))
    assert found is not None
    assert not found[1]
    ids = [(task_id(2), 1), (task_id(4), 1)]
    worker.machine.received(LINK, Cancel(ids, Status.CANCELLED), 0)
    assert {finished.task.id for finished in worker.machine.finished} == {task_id(2), task_id(4)}
    assert worker.machine.describe()["queued"] == 0


def test_what_waits_at_a_gate_goes_with_its_owner() -> None:
    worker = waiting()
    worker.machine.link_down(LINK)
    assert len(worker.machine.gates) == 0
    worker.link_up()
    worker.machine.received(LINK, Demand(1), 0)
    assert sent(worker.turn(), Started) == []
    assert worker.machine.held_bytes == 2 * len(b"args")


def test_credit_counts_nothing_twice_when_what_waited_has_run() -> None:
    worker = waiting()
    worker.ended(0, 1)
    worker.ended(1, 3)
    now_running = running(worker.turn(40))
    for slot, numbers in [*now_running.items(), (1, [4])]:
        worker.ended(slot, *numbers)
    giver = worker.machine.givers[LINK]
    assert giver.finished == giver.received == 4


def test_hello_of_a_producer_makes_no_mate() -> None:
    worker = Equipped()
    worker.machine.limit_rate("tasks.add", mesh="2/s")
    worker.machine.link_up(OTHER, hello(OWNER, "producer", kinds=[ADD]))
    limit: Any = worker.machine.gates.rates.of("tasks.add")
    assert limit.sharers == 1


# --- why a task waits -----------------------------------------------------------------------


def test_a_task_that_lacks_resources_is_no_reason_for_more_slots_and_says_what_it_lacks() -> None:
    worker = Equipped(slots=2, resources={"ram_mb": 100})
    kind = needing("ram_mb=60")
    worker.knows(kind)
    worker.machine.received(LINK, Tasks([kind], [record(1), record(2)]), 0)
    assert running(worker.turn()) == {0: [1]}
    assert worker.machine.load() == (1, 0)
    (waiting,) = worker.machine.waiting()
    assert worker.machine.why(waiting) == ("it needs ram_mb=60, and of that only ram_mb=40 is free")
    answers = Answers(None, worker.machine, ResultLog("w1"), has_store=False)
    assert answers.local(task_id(2)).info["why"] == worker.machine.why(waiting)
    assert "why" not in answers.local(task_id(1)).info


def test_a_task_that_waits_for_its_rate_or_a_slot_says_so() -> None:
    worker = Equipped(slots=1)
    worker.machine.limit_rate("tasks.add", "25/s")
    worker.give(record(1), record(2))
    worker.machine.received(LINK, Tasks([MUL], [record(3)]), 0)
    worker.turn()
    why = []
    for number in (2, 3):
        found = worker.machine.find(task_id(number))
        assert found is not None
        why.append(worker.machine.why(found[0]))
    assert why == [
        "its rate limit lets it start in a moment",
        "all slots that its worker has for it are busy",
    ]
