"""A durable call of a task that is open here already."""

from __future__ import annotations

import pytest

from tests.support.machines import of, sent, task_id
from tests.unit.core.lone_owner import Owner, call
from zmqtasks.core.effects import (
    CallsAccepted,
    CallsRefused,
)
from zmqtasks.core.owned import Durability
from zmqtasks.limits import WRITE_BEHIND_MS
from zmqtasks.wire.messages import (
    Tasks,
)


@pytest.fixture
def owner() -> Owner:
    return Owner()


def test_a_durable_repeat_of_an_open_memory_task_puts_it_on_the_disk(owner: Owner) -> None:
    owner.worker()
    owner.machine.submit([call(1)], 0)
    owner.turn()
    effects = owner.durable(call(1))
    assert not of(effects, CallsAccepted)
    assert [(put.id, put.durability) for write in owner.writes for put in write.puts] == [
        (task_id(1), Durability.DISK)
    ]
    effects = owner.commit()
    assert of(effects, CallsAccepted)
    assert not sent(effects, Tasks), "it is with its worker already"


def test_a_durable_repeat_is_refused_with_the_first_one(owner: Owner) -> None:
    owner.durable(call(1), token=1)
    first, owner.writes = owner.writes, []
    owner.durable(call(1), token=2)
    owner.commit()
    owner.custody.refused([write.batch for write in first], "full", is_certain=True)
    refused = of(owner.turn(), CallsRefused)
    assert sorted(refused) == [CallsRefused(1, "full"), CallsRefused(2, "full")]
    assert not owner.machine.tasks


def test_a_durable_repeat_that_the_disk_refuses_leaves_the_memory_task_as_it_was(
    owner: Owner,
) -> None:
    owner.machine.submit([call(1)], 0)
    owner.durable(call(1))
    assert of(owner.refuse("full"), CallsRefused)
    assert not owner.machine.tasks[task_id(1)].is_written


def test_a_durable_repeat_does_not_cost_the_record_that_a_failing_disk_has(owner: Owner) -> None:
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.turn(WRITE_BEHIND_MS)
    owner.commit(WRITE_BEHIND_MS)
    assert not of(owner.durable(call(1), call(2)), CallsAccepted)
    new, sync = owner.writes
    assert [put.id for put in new.puts] == [task_id(2)]
    assert sync.sync
    owner.writes.clear()
    owner.custody.refused([new.batch], "the disk fails", is_certain=False)
    owner.turn(WRITE_BEHIND_MS)
    assert [write.drops for write in owner.writes] == [[task_id(2)]]
    owner.custody.committed([sync.batch])
    assert of(owner.commit(), CallsRefused)
    assert owner.machine.tasks[task_id(1)].is_written


@pytest.mark.parametrize("is_certain", [True, False])
def test_a_durable_repeat_of_a_task_on_its_way_there_puts_it_once_more_if_that_is_refused(
    owner: Owner, is_certain: bool
) -> None:
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.turn(WRITE_BEHIND_MS)
    (behind,) = owner.writes
    owner.writes.clear()
    owner.durable(call(1))
    (sync,) = owner.writes
    assert not sync.puts
    owner.writes.clear()
    owner.custody.refused([behind.batch], "the disk fails", is_certain=is_certain)
    owner.custody.committed([sync.batch])
    effects = owner.turn()
    while not [put for write in owner.writes for put in write.puts]:
        assert not of(effects, CallsAccepted)
        effects = owner.commit()
    assert of(owner.commit(), CallsAccepted)


def test_a_durable_repeat_of_a_task_in_the_journal_is_accepted_when_that_is_synced(
    owner: Owner,
) -> None:
    owner.machine.submit([call(1)], 0)
    owner.turn()
    owner.turn(WRITE_BEHIND_MS)
    assert not of(owner.durable(call(1)), CallsAccepted)
    assert [write.sync for write in owner.writes] == [False, True]
    assert of(owner.commit(), CallsAccepted)
