"""A producer that is full: whoever may wait waits, whoever must not is told at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

LIMIT = 20


def limited(**more: str) -> dict[str, Any]:
    return {"ZMQTASKS_OPEN_TASKS_MAX": str(LIMIT), "ZMQTASKS_EXIT_WAIT_S": "0", **more}


def test_delay_in_a_running_loop_raises_at_once_and_adelay_waits(mesh: Mesh) -> None:
    client = mesh.start(
        f"""
        import asyncio
        from tasks import add
        from zmqtasks import MeshOverloaded

        async def main():
            handles = [add.delay(number, 0) for number in range({LIMIT})]
            try:
                add.delay(1, 2)
            except MeshOverloaded as exc:
                print("refused:", exc, flush=True)
            waiting = asyncio.create_task(add.adelay({LIMIT}, 0))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            print("waits:", not done, flush=True)
            handles.append(await waiting)
            print("sum:", sum([await handle.aget(timeout=20) for handle in handles]), flush=True)

        asyncio.run(main())
        """,
        **limited(ZMQTASKS_SUBMIT_TIMEOUT_S="60"),
    )
    line = client.wait_log("refused:")
    assert f"{LIMIT} open tasks with" in line
    assert "nothing was submitted" in line
    assert "waits: True" in client.wait_log("waits:")
    mesh.start_node(name="w1")
    assert client.wait_log("sum:") == f"sum: {sum(range(LIMIT + 1))}"
    assert client.wait() == 0


def test_wait_for_room_ends_with_an_error_in_a_thread_and_in_a_coroutine(mesh: Mesh) -> None:
    done = mesh.run(
        f"""
        import asyncio
        from tasks import add
        from zmqtasks import MeshOverloaded
        add.delay_many((number, 0) for number in range({LIMIT}))
        for call in (
            lambda: add.delay(1, 2),
            lambda: add.apply_async((1, 2), durability="disk"),
            lambda: asyncio.run(add.adelay(1, 2)),
            lambda: asyncio.run(add.aapply_async((1, 2), durability="disk")),
            lambda: asyncio.run(add.aapply_async((1, 2), idempotency_key="k")),
        ):
            try:
                call()
            except MeshOverloaded:
                print("refused")
        """,
        **limited(ZMQTASKS_SUBMIT_TIMEOUT_S="0.2"),
    )
    assert done.stdout == "refused\n" * 5


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_tasks_that_a_broker_took_are_open_until_their_results_are_there(
    mesh: Mesh, durability: str
) -> None:
    broker = mesh.start_node(roles="broker", name="b1")
    client = mesh.start(
        f"""
        from tasks import add
        from zmqtasks import MeshOverloaded
        handles = [
            add.apply_async((number, 0), durability={durability!r}) for number in range({LIMIT})
        ]
        from zmqtasks.app.current import gateway
        client = gateway(add.app)
        client.conditions.wait(lambda: not client.dispatcher.tasks, 20)
        try:
            add.delay(1, 2)
        except MeshOverloaded:
            print("refused", flush=True)
        print("sum:", sum(handle.get(timeout=20) for handle in handles), flush=True)
        print("again:", add.delay(1, 2).get(timeout=20), flush=True)
        """,
        **limited(ZMQTASKS_SUBMIT_TIMEOUT_S="0.2", ZMQTASKS_QUEUE_ROUTES="*=broker"),
    )
    client.wait_log("refused")
    mesh.start_node(name="w1")
    assert client.wait_log("sum:") == f"sum: {sum(range(LIMIT))}"
    assert client.wait_log("again:") == "again: 3"
    assert client.wait() == 0
    assert broker.stop() == 0
