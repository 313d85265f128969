"""What machines are told of the journal, and when."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.machines import ADD, of, task_id
from zmqtasks.core.custody import Custody
from zmqtasks.core.effects import JournalWrite
from zmqtasks.core.owned import OwnedRecord

ONE, TWO = task_id(1), task_id(2)


def writes(custody: Custody) -> list[JournalWrite]:
    custody.flush()
    found = of(custody.effects, JournalWrite)
    custody.effects.clear()
    return found


@pytest.mark.parametrize("is_certain", [True, False])
def test_a_task_is_being_put_until_whoever_put_it_knows_how_it_went(is_certain: bool) -> None:
    custody = Custody(has_journal=True)
    told: list[str] = []
    custody.put([OwnedRecord(ONE, ADD, b"args")], told.append, sync=False)
    assert custody.is_putting([TWO, ONE])
    assert not custody.is_putting([TWO])
    (write,) = writes(custody)
    assert custody.is_putting([ONE])
    custody.refused([write.batch], "no", is_certain=is_certain)
    assert custody.is_putting([ONE]) is not is_certain
    for taken_out in writes(custody):
        assert taken_out.drops == [ONE]
        custody.committed([taken_out.batch])
    assert told == ["no"]
    assert not custody.is_putting([ONE])


def test_one_that_is_committed_is_not_being_put_any_more() -> None:
    custody = Custody(has_journal=True)
    seen: list[bool] = []
    ask = partial(custody.is_putting, [ONE])
    custody.put([OwnedRecord(ONE, ADD, b"args")], lambda _: seen.append(ask()), sync=False)
    (write,) = writes(custody)
    custody.committed([write.batch])
    assert seen == [False]
