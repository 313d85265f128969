"""Groups that are saved, looked at from elsewhere, and read as they come."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

#: Saves a group, prints its id, and ends.
_SAVE = """
from tasks import add, order
from zmqtasks import group
result = group(add.s(1, 1), order.s("nut"), add.s(2, 2)).delay()
result.get(timeout=20, propagate=False)
result.save()
print(result.id)
"""
_RESTORE = """
import sys
from tasks import app
from zmqtasks import GroupResult
result = GroupResult.restore(sys.argv[1], app)
print(result.completed_count(), result.ready(), result.failed(), result.successful())
print([type(each).__name__ for each in result.get(timeout=20, propagate=False)])
print(result[1].name, result[1].worker, result[1].queue, result[1].retries)
result.delete()
"""


def _script(mesh: Mesh, text: str) -> list[str]:
    return mesh.run(text).stdout.splitlines()


@pytest.mark.parametrize("store", [(), ("--store", "memory://")], ids=["sqlite", "memory"])
def test_a_group_is_restored_in_another_process_when_the_one_that_saved_it_has_ended(
    mesh: Mesh, store: tuple[str, ...]
) -> None:
    mesh.start_node(name="w1")
    mesh.start_node(*store, roles="store", name="s1")
    (group_id,) = _script(mesh, _SAVE)
    first, second, third = _script(mesh, _RESTORE.replace("sys.argv[1]", repr(group_id)))
    assert first == "2 True True False"
    assert second == "['int', 'OutOfStock', 'int']"
    assert third == "tasks.order w1 default 0"
    # Deleting is told to stores that are there, and takes effect behind what they write.
    left = f"""
        import time
        from tasks import app
        from zmqtasks import GroupResult
        while GroupResult.restore({group_id!r}, app) is not None:
            time.sleep(0.01)
        print("gone")
    """
    assert _script(mesh, left) == ["gone"]


def test_a_group_is_not_saved_where_no_store_is_in_sight(mesh: Mesh) -> None:
    mesh.start_node()
    said = _script(
        mesh,
        """
        from tasks import add
        from zmqtasks import StoreError, group
        result = group([add.s(1, 1)]).delay()
        try:
            result.save()
        except StoreError as exc:
            print(exc)
        """,
    )
    assert "no node with the role store is in sight; start one" in said[0]


def test_a_task_saves_a_group_of_its_own_and_its_result_names_what_it_submitted(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App, group
        app = App("shop", result_extended=True)

        @app.task
        def add(x, y=0):
            return x + y

        @app.task
        def spread(count):
            result = group(add.s(i) for i in range(count)).delay()
            result.save()
            return result.id
        """,
    )
    mesh.start_node()
    mesh.start_node(roles="store")
    said = _script(
        mesh,
        """
        from tasks import app, spread
        from zmqtasks import GroupResult
        result = spread.delay(5)
        group_id = result.get(timeout=20)
        print(GroupResult.restore(group_id, app).get(timeout=20))
        print([value for _, value in result.collect(timeout=20)][1:])
        print(len(result.children), result.args, result.kwargs, result.name)
        print(result.date_done.tzinfo, result.children[0].retries)
        """,
    )
    assert said[:3] == ["[0, 1, 2, 3, 4]", "[0, 1, 2, 3, 4]", "5 [5] {} tasks.spread"]
    assert said[3] == "UTC 0"


def test_coroutines_read_a_group_as_it_comes_and_a_cancelled_wait_revokes(mesh: Mesh) -> None:
    mesh.start_node("-c", "1")
    said = _script(
        mesh,
        f"""
        import asyncio
        from tasks import add, hold
        from zmqtasks import group

        async def main():
            result = await group(add.s(i, i) for i in range(10)).adelay()
            print(sorted([value async for value in result.iterate(timeout=20)]))
            print(len([handle async for handle in result]), await result.asuccessful())
            running = hold.delay({str(mesh.folder)!r})
            while await running.astate() != "STARTED":
                await asyncio.sleep(0.01)
            waiting = asyncio.create_task(running.aget(revoke_on_cancel="terminate"))
            await asyncio.sleep(0)
            waiting.cancel()
            print((await asyncio.gather(waiting, return_exceptions=True))[0].__class__.__name__)
            error = await running.aget(timeout=20, propagate=False)
            print(type(error).__name__, await running.astate())

        asyncio.run(main())
        """,
    )
    assert said == [
        "[0, 2, 4, 6, 8, 10, 12, 14, 16, 18]", "10 True", "CancelledError",
        "TaskRevokedError REVOKED",
    ]  # fmt: skip


def test_parents_and_children_of_a_workflow_are_the_same_after_restoring(mesh: Mesh) -> None:
    mesh.start_node()
    mesh.start_node(roles="store")
    said = _script(
        mesh,
        """
        from tasks import add, app, echo
        from zmqtasks import GroupResult, group
        result = (echo.s(1) | group(add.s(10), add.s(20) | add.s(3))).delay()
        print(result.get(timeout=20), result.parent.get(), [e.id for e in result.parent.children] !=
              [], result[1].parent.parent == result.parent)
        result.save()
        again = GroupResult.restore(result.id, app)
        print(again == result, again.parent == result.parent, again.as_list() == result.as_list(),
              again.as_tuple() == result.as_tuple(), again[1].parent.parent.get(timeout=20))
        """,
    )
    assert said == ["[11, 24] 1 True True", "True True True True 1"]
