"""Groups that stores keep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks import GroupResult, group
from zmqtasks.app.app import App
from zmqtasks.app.result import AtMostOnceResult
from zmqtasks.errors import StoreError, TimeoutError
from zmqtasks.wire.messages import StateRecord, TaskState


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


def test_a_saved_group_is_restored_by_its_id_with_its_parents(app: App, add: Any) -> None:
    result = (
        add.s(1) | group(add.s(10), add.s(20) | add.s(5)) | group(add.si(3), add.si(4))
    ).delay()
    result.save()
    again = GroupResult.restore(result.id, app)
    assert again is not None
    assert again == result
    assert again.get(timeout=5) == [3, 4]
    assert again.as_tuple() == result.as_tuple()
    before = again.parent
    assert isinstance(before, GroupResult)
    assert (before.get(), again[1].parent == before) == ([11, 26], True)


def test_the_members_of_a_group_that_were_sent_at_most_once_are_so_afterwards(
    app: App, add: Any
) -> None:
    result = group(add.s(1).set(delivery="at_most_once"), add.s(2)).delay()
    result.save()
    again = GroupResult.restore(result.id, app)
    assert again is not None
    assert [isinstance(each, AtMostOnceResult) for each in again] == [True, False]


def test_coroutines_save_restore_and_delete_too(app: App, add: Any) -> None:
    async def main() -> None:
        result = await group(add.s(1), add.s(2)).adelay()
        with pytest.raises(RuntimeError, match=r"await GroupResult\.asave"):
            result.save()
        await result.asave()
        with pytest.raises(RuntimeError, match=r"await GroupResult\.arestore"):
            GroupResult.restore(result.id, app)
        assert await GroupResult.arestore(result.id, app) == result
        await result.adelete()
        assert await GroupResult.arestore(result.id, app) is None

    asyncio.run(main())


def test_a_group_that_was_not_saved_or_is_deleted_is_none(app: App, add: Any) -> None:
    result = group(add.s(1), add.s(2)).delay()
    assert GroupResult.restore(result.id) is None
    result.save()
    assert GroupResult.restore(result.id) == result
    result.delete()
    assert GroupResult.restore(result.id) is None
    assert result.get() == [1, 2]


def test_the_id_of_a_task_is_no_group(app: App, add: Any) -> None:
    for task in (add.delay(1), app.task(name="fail")(lambda: 1 / 0).delay()):
        with pytest.raises(ValueError, match="is the id of a task, not of a group that was saved"):
            GroupResult.restore(task.id, app)


def test_without_a_store_saving_says_so(app: App, add: Any, gateway: InlineGateway) -> None:
    gateway.stores = False
    with pytest.raises(StoreError, match="no node with the role store is in sight"):
        group(add.s(1), add.s(2)).delay().save()


def test_when_not_all_have_answered_nobody_says_that_there_is_no_such_group(
    app: App, gateway: InlineGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states(ids: Any, timeout_s: float) -> dict[bytes, StateRecord]:
        return {each: StateRecord(each, TaskState.PENDING, {}, None) for each in ids}

    monkeypatch.setattr(gateway, "states", states)
    with pytest.raises(TimeoutError, match="not all nodes that may know it answered within 2 s"):
        GroupResult.restore("a group", app, timeout=2)


def test_an_eager_group_cannot_be_saved(add: Any) -> None:
    with pytest.raises(ValueError, match="ran eagerly"):
        group(add.s(1), add.s(2)).apply().save()
