"""Tasks that wait for others: when they go on, with what, and when they never do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.support.machines import ADD, of, outcome, sent, task_id
from tests.support.nodes import Net, Node
from tests.unit.core.lone_owner import LINK, Owner
from zmqtasks.core.calls import INPUTS_KEY, Call
from zmqtasks.core.effects import TasksSettled
from zmqtasks.core.inputs import REPLACED_KEY, refusal_of
from zmqtasks.core.offspring import CAUSE_KEY
from zmqtasks.core.owned import MARK_ENDED, OwnedRecord
from zmqtasks.limits import RESUME_GRACE_MS, WRITE_BEHIND_MS
from zmqtasks.wire.joined import Joined, join, split
from zmqtasks.wire.messages import Kind, Outcome, Retry, RetryRecord, Status, Tasks

ONE, TWO, THREE, FOUR = (task_id(number) for number in (1, 2, 3, 4))


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    owner.worker()
    return owner


@pytest.fixture
def net() -> Net:
    return Net()


def call(task: bytes, *inputs: bytes, shape: Any = 0, kind: Kind = ADD) -> Call:
    ext = {INPUTS_KEY: [list(inputs), shape]} if inputs else None
    return Call(task, kind, b"args", ext)


def submit(owner: Owner, *calls: Call) -> list[Any]:
    owner.machine.submit(calls, 0)
    return owner.turn()


def given(effects: Sequence[Any]) -> list[tuple[bytes, bytes]]:
    """``(id, payload)`` of all tasks that were sent to a worker."""
    return [
        (task.id, task.body)
        for message in sent(effects, Tasks)
        for task in message.tasks
        if isinstance(task.body, bytes)
    ]


def ends(effects: Sequence[Any]) -> dict[bytes, Outcome]:
    return {one.id: one for effect in of(effects, TasksSettled) for one in effect.outcomes}


def value(task: bytes, body: bytes) -> Outcome:
    return outcome(int.from_bytes(task[-8:], "big"), body=body)


def failure(task: bytes) -> Outcome:
    return msgspec.structs.replace(value(task, b"an error"), status=Status.FAILURE)


# --- going on -----------------------------------------------------------------------------


def test_a_task_goes_on_with_the_result_that_it_waits_for(owner: Owner) -> None:
    effects = submit(owner, call(TWO, ONE), call(ONE))
    assert given(effects) == [(ONE, b"args")]
    effects = owner.done(value(ONE, b"result"))
    ((sent_id, body),) = given(effects)
    assert sent_id == TWO
    assert split(body) == Joined(b"args", {0: b"result"}, 0)


def test_a_task_waits_for_the_last_of_several(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO), call(FOUR, ONE, TWO, THREE, shape=[0, [1, 2]]), call(THREE))
    assert not given(owner.done(value(TWO, b"2")))
    assert not given(owner.done(value(ONE, b"1")))
    ((_, body),) = given(owner.done(value(THREE, b"3")))
    assert split(body) == Joined(b"args", {0: b"1", 1: b"2", 2: b"3"}, [0, [1, 2]])


def test_a_task_may_wait_for_others_and_not_for_their_results(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE, shape=None))
    ((_, body),) = given(owner.done(value(ONE, b"1")))
    assert split(body).shape is None


def test_several_tasks_may_wait_for_one(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE), call(THREE, ONE))
    assert [task for task, _ in given(owner.done(value(ONE, b"1")))] == [TWO, THREE]


def test_a_task_that_waits_for_one_that_has_ended_goes_at_once(owner: Owner) -> None:
    submit(owner, call(ONE))
    owner.done(value(ONE, b"1"))
    assert [task for task, _ in given(submit(owner, call(TWO, ONE)))] == [TWO]


def test_why_it_waits_is_told(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE))
    state = owner.machine.state_of(TWO)
    assert state is not None
    assert "it waits for 1 other task" in state.info["why"]


def test_a_task_may_be_replaced_by_another_one_while_it_runs(owner: Owner) -> None:
    submit(owner, call(ONE), call(THREE, ONE))
    submit(owner, call(TWO))
    ext = {INPUTS_KEY: [[TWO], 0], REPLACED_KEY: 1}
    asked = RetryRecord(ONE, 1, 0, False, "", None, ext)
    owner.machine.received(LINK, Retry(0, [asked]), 0)
    assert not given(owner.turn())
    effects = owner.done(value(TWO, b"2"))
    assert ends(effects)[ONE].body == b"2"
    ((task, body),) = given(effects)
    assert (task, split(body).results) == (THREE, {0: b"2"})


def test_a_task_fails_as_the_one_that_replaced_it(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO))
    ext = {INPUTS_KEY: [[TWO], 0], REPLACED_KEY: 1}
    owner.machine.received(LINK, Retry(0, [RetryRecord(ONE, 1, 0, False, "", None, ext)]), 0)
    assert ends(owner.done(failure(TWO)))[ONE].body == b"an error"


# --- not going on -------------------------------------------------------------------------


def test_a_task_whose_input_failed_ends_as_that_and_does_not_run(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE))
    effects = owner.done(failure(task_id(1)))
    assert not given(effects)
    end = ends(effects)[TWO]
    assert (end.status, end.body) == (Status.FAILURE, b"an error")
    assert end.ext is not None
    assert end.ext[CAUSE_KEY] == ONE
    assert owner.machine.own_outcomes[0][1] is end


def test_a_task_that_waits_for_several_names_the_one_that_failed(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO), call(THREE, ONE, TWO, shape=[0, 1]))
    end = ends(owner.done(failure(task_id(2))))[THREE]
    assert (end.status, end.body) == (Status.FAILURE, b"")
    assert end.ext is not None
    assert end.ext[CAUSE_KEY] == TWO
    assert not ends(owner.done(value(ONE, b"too late"))).keys() & {THREE}
    assert not owner.machine.inputs.wanted
    assert not owner.machine.inputs.held_bytes


def test_what_waits_for_a_cancelled_task_is_revoked(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE), call(THREE, TWO))
    owner.machine.cancel([TWO])
    end = ends(owner.turn())
    assert {task: one.status for task, one in end.items()} == {
        TWO: Status.CANCELLED, THREE: Status.CANCELLED,
    }  # fmt: skip
    assert not given(owner.done(value(ONE, b"1")))


def test_a_long_chain_ends_with_its_first_task(owner: Owner) -> None:
    count = 3_000
    owner.machine.tasks_max = count
    submit(owner, call(ONE), *(call(task_id(n), task_id(n - 1)) for n in range(2, count + 1)))
    end = ends(owner.done(failure(task_id(1))))
    assert len(end) == count
    assert {(one.ext or {}).get(CAUSE_KEY) for one in end.values()} == {None, ONE}


def test_facts_that_make_no_sense_are_named() -> None:
    assert not refusal_of(TWO, None, b"")
    assert not refusal_of(TWO, {INPUTS_KEY: [[ONE], 0]}, b"")
    assert "list of ids" in refusal_of(TWO, {INPUTS_KEY: ONE}, b"")
    assert "16 bytes" in refusal_of(TWO, {INPUTS_KEY: [[b"x"], 0]}, b"")
    assert "shape" in refusal_of(TWO, {INPUTS_KEY: [[ONE], [1]]}, b"")


@pytest.mark.parametrize("body", [b"\x10damaged", join(Joined(b"args", {1: b"x"}))])
def test_a_task_with_damaged_arguments_fails_and_harms_no_other(owner: Owner, body: bytes) -> None:
    damaged = call(TWO, ONE)._replace(body=body)
    end = ends(submit(owner, damaged, call(THREE, TWO), call(ONE)))
    assert end.keys() == {TWO, THREE}
    assert "cannot wait for others" in (end[TWO].ext or {})["e"]
    assert list(ends(owner.done(value(ONE, b"1")))) == [ONE]


def test_a_task_that_would_wait_for_itself_fails(owner: Owner) -> None:
    end = ends(submit(owner, call(ONE, ONE)))[ONE]
    assert end.ext is not None
    assert "wait for itself" in end.ext["e"]


# --- in the journal -----------------------------------------------------------------------


def test_of_durable_tasks_one_leaves_the_journal_in_the_write_that_gives_its_result_to_the_next(
    owner: Owner,
) -> None:
    owner.durable(call(ONE), call(TWO, ONE))
    owner.commit()
    assert not given(owner.done(value(ONE, b"1")))
    (write,) = owner.writes
    assert write.drops == [ONE]
    ((change),) = write.progress
    assert change.id == TWO
    assert change.body is not None
    assert split(change.body).results == {0: b"1"}
    effects = owner.commit()
    assert list(ends(effects)) == [ONE]
    assert [task for task, _ in given(effects)] == [TWO]


def test_results_stay_in_the_journal_while_others_are_awaited(owner: Owner) -> None:
    owner.durable(call(ONE), call(TWO), call(THREE, ONE, TWO, shape=[0, 1]))
    owner.commit()
    owner.done(value(ONE, b"1"))
    (write,) = owner.writes
    assert not write.drops
    assert [(change.id, change.mark, change.body) for change in write.progress] == [
        (ONE, MARK_ENDED, b"1")
    ]
    assert list(ends(owner.commit())) == [ONE]
    owner.done(value(TWO, b"2"))
    (write,) = owner.writes
    assert sorted(write.drops) == [ONE, TWO]


def test_a_result_of_a_task_that_was_not_written_is_kept_for_one_that_is(owner: Owner) -> None:
    submit(owner, call(THREE, ONE, TWO, shape=[0, 1]))
    owner.turn(WRITE_BEHIND_MS)
    owner.commit()
    submit(owner, call(ONE), call(TWO))
    owner.done(value(ONE, b"1"))
    (write,) = owner.writes
    assert [(put.id, put.mark, put.body) for put in write.puts] == [(ONE, MARK_ENDED, b"1")]


def test_a_task_that_is_not_in_the_journal_waits_until_its_input_has_left_it(owner: Owner) -> None:
    submit(owner, call(ONE))
    owner.turn(WRITE_BEHIND_MS)
    owner.commit()
    submit(owner, call(TWO, ONE))
    assert not given(owner.done(value(ONE, b"1")))
    assert [task for task, _ in given(owner.commit())] == [TWO]


def test_a_task_is_written_down_with_the_results_that_came_before(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO), call(THREE, ONE, TWO, shape=[0, 1]))
    owner.done(value(ONE, b"1"))
    owner.turn(WRITE_BEHIND_MS)
    records = {put.id: put for write in owner.writes for put in write.puts}
    assert split(records[THREE].body).results == {0: b"1"}


# --- whole nodes --------------------------------------------------------------------------


def start(net: Net, *calls: Call, journal: dict[bytes, OwnedRecord] | None) -> Node:
    producer = net.add(b"producer", "producer", journal=journal)
    producer.mesh.submit(calls, net.now_ms)
    net.pump()
    return producer


def test_a_restarted_owner_goes_on_with_the_results_that_it_had(net: Net) -> None:
    journal: dict[bytes, OwnedRecord] = {}
    three = call(THREE, ONE, TWO, shape=[0, 1])
    producer = start(net, call(ONE), call(TWO), three, journal=journal)
    worker = net.add(b"worker-1", "worker")
    net.pass_time(2 * WRITE_BEHIND_MS)
    net.link(producer, worker)
    worker.end(b"1")
    assert list(producer.settled()) == [ONE]
    net.kill(producer)
    net.kill(worker)

    again = net.add(b"producer", "producer", epoch=2, journal=journal)
    again.mesh.resume(list(journal.values()), net.now_ms)
    other = net.add(b"worker-2", "worker")
    net.link(again, other)
    net.pass_time(2 * RESUME_GRACE_MS)
    other.end(b"2")
    assert other.running == [(THREE, 1)]
    assert other.intake is not None
    assert split(other.intake.slots[0].pending[0].body).results == {0: b"1", 1: b"2"}
    other.end(b"3")
    assert again.settled()[THREE].body == b"3"
    net.pass_time(1_000)
    assert not journal


def test_a_result_that_nobody_wants_any_more_leaves_the_journal_after_a_restart(net: Net) -> None:
    record = OwnedRecord(ONE, ADD, b"1", mark=MARK_ENDED)
    journal = {ONE: record}
    producer = net.add(b"producer", "producer", journal=journal)
    producer.mesh.resume([record], net.now_ms)
    net.pump()
    assert not journal


def test_a_chain_goes_on_at_its_next_owner_when_its_producer_leaves(net: Net) -> None:
    producer = start(net, call(ONE), call(TWO, ONE), call(THREE, TWO), journal={})
    broker = net.add(b"broker-1", "broker", journal={})
    net.link(producer, broker)
    assert producer.mesh.ownership is not None
    producer.mesh.ownership.leave(net.now_ms)
    net.pass_time(1_000)
    assert not producer.dispatcher.tasks
    net.kill(producer)
    worker = net.add(b"worker-1", "worker")
    net.link(broker, worker)
    net.pass_time(2 * RESUME_GRACE_MS)
    for body in (b"1", b"2", b"3"):
        worker.end(body)
        net.pass_time(100)
    assert broker.settled()[THREE].body == b"3"
    assert not broker.journal


def test_what_waits_goes_on_elsewhere_while_its_input_runs_at_the_worker_that_got_it(
    net: Net,
) -> None:
    producer = start(net, call(ONE), call(TWO, ONE), journal={})
    worker = net.add(b"worker-1", "worker", journal={})
    broker = net.add(b"broker-1", "broker", journal={})
    for taker in (worker, broker):
        net.link(producer, taker)
    net.link(broker, worker)
    assert worker.running == [(ONE, 1)]
    assert producer.mesh.ownership is not None
    producer.mesh.ownership.leave(net.now_ms)
    net.pass_time(1_000)
    assert not producer.dispatcher.tasks
    net.kill(producer)
    assert list(broker.dispatcher.tasks) == [TWO]
    worker.end(b"1")
    net.pass_time(3 * RESUME_GRACE_MS)
    assert worker.running == [(TWO, 1)]


def test_a_task_may_wait_for_one_of_another_owner(net: Net) -> None:
    worker = net.add(b"worker-1", "worker")
    first = net.add(b"producer", "producer")
    net.link(first, worker)
    first.submit(ONE)
    second = net.add(b"second-p", "producer")
    for peer in (worker, first):
        net.link(second, peer)
    second.mesh.submit([call(TWO, ONE)], net.now_ms)
    net.pass_time(2 * RESUME_GRACE_MS)
    worker.end(b"1")
    net.pass_time(100)
    assert worker.running == [(TWO, 1)]


def test_a_task_that_waits_for_one_that_nobody_knows_fails(net: Net) -> None:
    producer = start(net, call(TWO, ONE), journal=None)
    net.pass_time(3 * RESUME_GRACE_MS)
    end = producer.settled()[TWO]
    assert end.status == Status.FAILURE
    assert end.ext is not None
    assert "nobody knows how it ended" in end.ext["e"]


def test_a_result_that_comes_while_its_task_is_offered_goes_along(net: Net) -> None:
    journal: dict[bytes, OwnedRecord] = {}
    three = call(THREE, ONE, TWO, shape=[0, 1])
    producer = start(net, call(ONE), call(TWO), three, journal=journal)
    worker = net.add(b"worker-1", "worker")
    net.link(producer, worker)
    broker = net.add(b"broker-1", "broker", journal={})
    broker.holds_writes = True
    net.link(producer, broker)
    assert producer.mesh.ownership is not None
    producer.mesh.ownership.leave(net.now_ms)
    net.pump()
    assert producer.dispatcher.tasks[THREE].offered
    worker.end(b"1")
    broker.holds_writes = False
    broker.commit()
    net.pass_time(3_000)
    assert not producer.dispatcher.tasks
    blocked = broker.dispatcher.inputs.blocked[THREE]
    assert blocked.results == {0: b"1"}


class _Counted(bytes):
    """An id that counts how often one is compared with another."""

    compared = 0
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return bytes.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def test_many_that_wait_for_one_go_without_a_look_at_all_of_them_each(owner: Owner) -> None:
    waiting = [_Counted(task_id(number)) for number in range(10, 510)]
    submit(owner, call(ONE), *(call(each, ONE) for each in waiting))
    _Counted.compared = 0

    for each in waiting:
        owner.machine.inputs.forget(each)

    assert _Counted.compared < 10 * len(waiting)
    assert not owner.machine.inputs.wanted
