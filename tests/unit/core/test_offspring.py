"""Calls that come of tasks: errbacks, those that take the place of one, new members of chords."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from tests.support.machines import ADD, MUL, of, outcome, sent, task_id
from tests.unit.core.lone_owner import LINK, Owner
from zmqtasks.core.calls import INPUTS_KEY, Call, weight
from zmqtasks.core.effects import Note, TasksSettled
from zmqtasks.core.inputs import REPLACED_KEY
from zmqtasks.core.offspring import (
    DUE_IN_KEY,
    ERRBACKS_KEY,
    EXPIRES_IN_KEY,
    FAILED_KEY,
)
from zmqtasks.core.resultlog import ADDED_KEY
from zmqtasks.limits import INPUT_BYTES, INPUTS_COUNT_MAX
from zmqtasks.wire.carried import CarriedCall, pack_calls
from zmqtasks.wire.joined import split
from zmqtasks.wire.messages import Credit, Outcome, Retry, RetryRecord, Status, Tasks

ONE, TWO, THREE, FOUR = (task_id(number) for number in (1, 2, 3, 4))
ERRBACK = CarriedCall(b"seed", MUL, b"own", {FAILED_KEY: 1})


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    owner.worker(kinds=(ADD, MUL))
    return owner


def call(task: bytes, *inputs: bytes, shape: Any = 0, **facts: Any) -> Call:
    if inputs:
        facts[INPUTS_KEY] = [list(inputs), shape]
    return Call(task, ADD, b"args", facts or None)


def watched(task: bytes, *inputs: bytes, shape: Any = 0, errback: CarriedCall = ERRBACK) -> Call:
    return call(task, *inputs, shape=shape, **{ERRBACKS_KEY: pack_calls([errback])})


def submit(owner: Owner, *calls: Call) -> list[Any]:
    owner.machine.submit(calls, 0)
    return owner.turn()


def given(effects: Sequence[Any]) -> dict[bytes, Any]:
    return {task.id: task for message in sent(effects, Tasks) for task in message.tasks}


def of_kind(owner: Owner, kind: Any) -> list[Any]:
    return [task for task in owner.machine.tasks.values() if task.lane.kind == kind]


def value(task: bytes, body: bytes, **facts: Any) -> Outcome:
    found = outcome(int.from_bytes(task[-8:], "big"), body=body)
    return msgspec.structs.replace(found, ext=facts or None)


def ended(task: bytes, status: Status, body: bytes = b"an error") -> Outcome:
    return msgspec.structs.replace(value(task, body, e="KeyError: 'x'"), status=status)


def ends(effects: Sequence[Any]) -> dict[bytes, Outcome]:
    return {one.id: one for effect in of(effects, TasksSettled) for one in effect.outcomes}


# --- errbacks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [
        Status.FAILURE,
        Status.RETRIES_EXHAUSTED,
        Status.TIME_LIMIT,
        Status.WORKER_LOST,
        Status.DEAD,
    ],
)
def test_a_task_that_fails_has_its_errback_called(owner: Owner, status: Status) -> None:
    submit(owner, watched(ONE))
    (made,) = given(owner.done(ended(ONE, status))).values()
    assert split(made.body).body == b"own"
    assert split(made.body).results == {0: b"an error", 1: b"args"}
    assert split(made.body).shape is None
    failed = made.ext[FAILED_KEY]
    assert failed[:4] == [ONE, 1, int(status), {"e": "KeyError: 'x'"}]
    assert failed[4:7] == [ADD.app, ADD.name, ADD.queue]


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.IGNORED, Status.REJECTED])
def test_a_task_that_does_not_fail_has_no_errback_called(owner: Owner, status: Status) -> None:
    submit(owner, watched(ONE))
    assert not given(owner.done(ended(ONE, status)))
    assert not owner.machine.tasks


def test_an_errback_that_wants_no_arguments_gets_none(owner: Owner) -> None:
    submit(owner, watched(ONE, errback=CarriedCall(b"seed", MUL, b"own")))
    (made,) = given(owner.done(ended(ONE, Status.FAILURE))).values()
    assert (made.body, made.ext) == (b"own", None)


def test_a_revoked_task_has_no_errback_called(owner: Owner) -> None:
    submit(owner, call(ONE), watched(TWO, ONE))
    owner.machine.cancel([TWO])
    owner.turn()
    assert list(owner.machine.tasks) == [ONE]


def test_the_errback_of_a_task_that_never_runs_is_not_called(owner: Owner) -> None:
    submit(owner, call(ONE), watched(TWO, ONE))
    assert not given(owner.done(ended(ONE, Status.FAILURE)))


def test_the_errback_of_a_chords_body_is_called_when_its_header_fails(owner: Owner) -> None:
    errback = msgspec.structs.replace(ERRBACK, is_for_inputs=True)
    submit(owner, call(ONE), call(TWO), watched(THREE, ONE, TWO, shape=[0, 1], errback=errback))
    owner.done(value(ONE, b"1"))
    (made,) = given(owner.done(ended(TWO, Status.FAILURE))).values()
    assert made.ext[FAILED_KEY][0] == THREE
    assert split(made.body).results[1] == b"args"  # its own, without a part of the results


def test_an_errback_of_several_that_fail_for_one_reason_is_called_once(owner: Owner) -> None:
    errback = msgspec.structs.replace(ERRBACK, is_for_inputs=True)
    submit(owner, watched(ONE, errback=errback), watched(TWO, ONE, shape=[0], errback=errback))
    assert len(given(owner.done(ended(ONE, Status.FAILURE)))) == 1
    assert len(of_kind(owner, MUL)) == 1


def test_an_outcome_that_comes_again_calls_no_errback_again(owner: Owner) -> None:
    submit(owner, watched(ONE))
    owner.done(ended(ONE, Status.FAILURE))
    owner.done(ended(ONE, Status.FAILURE))
    assert len(of_kind(owner, MUL)) == 1


def test_the_errback_of_a_durable_task_is_in_the_journal_before_that_leaves_it(
    owner: Owner,
) -> None:
    owner.durable(watched(ONE))
    owner.commit()
    owner.done(ended(ONE, Status.FAILURE))
    first, second = owner.writes
    assert [put.kind for put in first.puts] == [MUL]
    assert second.drops == [ONE]
    assert [task.kind for task in given(owner.commit()).values()] == [0]


def test_an_errback_that_the_journal_refuses_is_called_all_the_same(owner: Owner) -> None:
    owner.durable(watched(ONE))
    owner.commit()
    owner.done(ended(ONE, Status.FAILURE))
    puts, changes = owner.writes
    owner.writes.clear()
    owner.custody.refused([puts.batch], "the disk is full", is_certain=True)
    owner.custody.committed([changes.batch])
    assert len(given(owner.turn())) == 1


def test_an_errback_waits_for_its_time_from_the_failure_on(owner: Owner) -> None:
    later = msgspec.structs.replace(ERRBACK, ext={DUE_IN_KEY: 5_000, FAILED_KEY: 1})
    submit(owner, watched(ONE, errback=later))
    owner.machine.wall_ms += 60_000
    owner.machine.waiting.wall_ms = owner.machine.wall_ms
    assert not given(owner.done(ended(ONE, Status.FAILURE)))
    (made,) = of_kind(owner, MUL)
    assert made.ext["eta"] == owner.machine.wall_ms + 5_000


def test_damaged_errbacks_are_said_and_harm_nothing(owner: Owner) -> None:
    submit(owner, call(ONE, **{ERRBACKS_KEY: b"damaged"}))
    effects = owner.done(ended(ONE, Status.FAILURE))
    assert list(ends(effects)) == [ONE]
    (note,) = of(effects, Note)
    assert note.event == "calls.damaged"


# --- a task that is replaced ----------------------------------------------------------------


def replaced(task: bytes, *calls: CarriedCall) -> Retry:
    facts = {INPUTS_KEY: [[calls[-1].id], 0], REPLACED_KEY: 1}
    return Retry(0, [RetryRecord(task, 1, 0, False, "", pack_calls(calls), facts)])


def test_a_task_gets_the_result_of_the_calls_that_take_its_place(owner: Owner) -> None:
    submit(owner, call(ONE))
    second = CarriedCall(THREE, ADD, b"second", {INPUTS_KEY: [[TWO], 0]})
    owner.machine.received(LINK, replaced(ONE, CarriedCall(TWO, ADD, b"first"), second), 0)
    assert list(given(owner.turn())) == [TWO]
    assert list(given(owner.done(value(TWO, b"2")))) == [THREE]
    assert ends(owner.done(value(THREE, b"3")))[ONE].body == b"3"
    assert not owner.machine.tasks


def test_what_takes_the_place_of_a_durable_task_is_in_the_journal_too(owner: Owner) -> None:
    owner.durable(call(ONE))
    owner.commit()
    owner.machine.received(LINK, replaced(ONE, CarriedCall(TWO, ADD, b"first")), 0)
    owner.turn()
    puts, changes = owner.writes
    assert [put.id for put in puts.puts] == [TWO]
    assert [change.id for change in changes.progress] == [ONE]
    assert list(given(owner.commit())) == [TWO]


def test_the_errback_of_a_replaced_task_is_called_when_its_replacement_fails(
    owner: Owner,
) -> None:
    submit(owner, watched(ONE))
    owner.machine.received(LINK, replaced(ONE, CarriedCall(TWO, ADD, b"first")), 0)
    owner.turn()
    (made,) = given(owner.done(ended(TWO, Status.FAILURE))).values()
    assert made.ext[FAILED_KEY][0] == ONE


# --- a chord that grows ---------------------------------------------------------------------


def test_a_call_that_a_member_adds_to_its_chord_comes_last_in_the_list(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO), call(FOUR, ONE, TWO, shape=[0, 1]))
    added = pack_calls([CarriedCall(THREE, ADD, b"more", is_for_inputs=True)])
    assert list(given(owner.done(value(ONE, b"1", **{ADDED_KEY: added})))) == [THREE]
    owner.done(value(TWO, b"2"))
    body = given(owner.done(value(THREE, b"3")))[FOUR].body
    assert split(body).shape == [0, 1, 2]
    assert split(body).results == {0: b"1", 1: b"2", 2: b"3"}


def test_a_failed_member_adds_nothing(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE, shape=[0]))
    added = pack_calls([CarriedCall(THREE, ADD, b"more", is_for_inputs=True)])
    failed = msgspec.structs.replace(value(ONE, b"1", **{ADDED_KEY: added}), status=Status.FAILURE)
    assert not given(owner.done(failed))


def test_the_journal_knows_of_the_new_member(owner: Owner) -> None:
    owner.durable(call(ONE), call(TWO), call(FOUR, ONE, TWO, shape=[0, 1]))
    owner.commit()
    added = pack_calls([CarriedCall(THREE, ADD, b"more", is_for_inputs=True)])
    owner.done(value(ONE, b"1", **{ADDED_KEY: added}))
    puts, changes = owner.writes
    assert [put.id for put in puts.puts] == [THREE]
    facts = {change.id: change.ext for change in changes.progress}[FOUR]
    assert facts is not None
    assert facts[INPUTS_KEY] == [[ONE, TWO, THREE], [0, 1, 2]]


def test_a_chord_that_grows_too_large_fails_and_says_so(owner: Owner) -> None:
    many = [task_id(100 + number) for number in range(INPUTS_COUNT_MAX)]
    owner.machine.tasks_max = 2 * INPUTS_COUNT_MAX
    shape = list(range(INPUTS_COUNT_MAX))
    submit(owner, *map(call, many), call(FOUR, *many, shape=shape))
    added = pack_calls([CarriedCall(THREE, ADD, b"more", is_for_inputs=True)])
    end = ends(owner.done(value(many[0], b"1", **{ADDED_KEY: added})))[FOUR]
    assert "members" in (end.ext or {})["e"]


# --- times of what waits for others -------------------------------------------------------


def test_a_call_that_waits_for_others_is_due_so_long_after_them(owner: Owner) -> None:
    submit(owner, call(ONE), call(TWO, ONE, **{DUE_IN_KEY: 5_000, EXPIRES_IN_KEY: 9_000}))
    owner.machine.wall_ms += 60_000
    owner.machine.waiting.wall_ms = owner.machine.wall_ms
    assert not given(owner.done(value(ONE, b"1")))
    facts = owner.machine.tasks[TWO].ext
    assert facts == {"eta": owner.machine.wall_ms + 5_000, "exp": owner.machine.wall_ms + 9_000}


def test_what_took_the_place_of_a_member_adds_to_its_chord(owner: Owner) -> None:
    submit(owner, call(ONE), call(FOUR, ONE, shape=[0]))
    owner.machine.received(LINK, replaced(ONE, CarriedCall(TWO, ADD, b"first")), 0)
    owner.turn()
    added = pack_calls([CarriedCall(THREE, ADD, b"more", is_for_inputs=True)])
    owner.done(value(TWO, b"2", **{ADDED_KEY: added}))
    body = given(owner.done(value(THREE, b"3")))[FOUR].body
    assert split(body).results == {0: b"2", 1: b"3"}


@pytest.mark.parametrize("wrong", ["soon", None, [1], 1.5, b"1", -1, 2**64 - 1])
def test_times_that_are_none_harm_no_owner(owner: Owner, wrong: object) -> None:
    submit(owner, call(ONE), call(TWO, ONE, **{DUE_IN_KEY: wrong, EXPIRES_IN_KEY: wrong}))
    assert list(given(owner.done(value(ONE, b"1")))) == [TWO]


@pytest.mark.parametrize("wrong", [5, None, [], [5], "text", [None, 0], {}])
def test_the_weight_of_a_call_with_damaged_facts_is_that_of_its_arguments(wrong: object) -> None:
    assert weight(b"args", {INPUTS_KEY: wrong}) == 4
    assert weight(b"args", {INPUTS_KEY: [[ONE, TWO], None]}) == 4 + 2 * INPUT_BYTES


def test_a_task_that_was_replaced_again_and_again_still_adds_to_its_chord(owner: Owner) -> None:
    count = 1_500
    owner.machine.tasks_max = 2 * count
    shells = [task_id(1_000 + number) for number in range(count)]
    submit(owner, call(shells[0]), call(FOUR, shells[0], shape=[0]))
    owner.machine.received(LINK, Credit(2 * count), 0)
    for shell, following in pairwise(shells):
        owner.machine.received(LINK, replaced(shell, CarriedCall(following, ADD, b"next")), 0)
        owner.turn()
    added = pack_calls([CarriedCall(THREE, ADD, b"more", is_for_inputs=True)])
    assert list(given(owner.done(value(shells[-1], b"1", **{ADDED_KEY: added})))) == [THREE]
    body = given(owner.done(value(THREE, b"3")))[FOUR].body
    assert split(body).results == {0: b"1", 1: b"3"}


@pytest.mark.parametrize("body", [b"damaged", pack_calls([CarriedCall(b"short", ADD, b"x")])])
def test_a_task_whose_replacement_cannot_be_read_fails(owner: Owner, body: bytes) -> None:
    submit(owner, call(ONE))
    facts = {INPUTS_KEY: [[TWO], 0], REPLACED_KEY: 1}
    owner.machine.received(LINK, Retry(0, [RetryRecord(ONE, 1, 0, False, "", body, facts)]), 0)
    assert ends(owner.turn())[ONE].status == Status.FAILURE
    assert not owner.machine.tasks


def test_tasks_that_stand_for_each_other_let_a_member_of_a_chord_end(owner: Owner) -> None:
    submit(owner, call(ONE))
    for shell, other in ((TWO, THREE), (THREE, TWO)):
        submit(owner, Call(shell, ADD, b"", {INPUTS_KEY: [[other], 0], REPLACED_KEY: 1}))
    assert owner.machine.inputs.extend(TWO, [FOUR]) == []
