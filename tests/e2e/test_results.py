"""Results seen from another process than the one that submitted."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, NodeProcess, wait_for

pytestmark = pytest.mark.e2e

#: Submits a task that is held, prints its id, and stays until told to end.
_SUBMIT = """
import time
from pathlib import Path
from tasks import hold
folder = Path({folder!r})
first, second = hold.delay(str(folder), "a"), hold.delay(str(folder), "b")
print("id", first.id, second.id, flush=True)
while not (folder / "end").exists():
    time.sleep(0.005)
"""
#: Another process that prints each state of a task as it changes.
_WATCH = """
import sys, time
from tasks import app
handle, last = app.AsyncResult(sys.argv[1] if len(sys.argv) > 1 else {id!r}), ""
while last not in ("SUCCESS", "FAILURE", "UNKNOWN"):
    state = handle.state
    if state != last:
        print("state", state, flush=True)
        last = state
    time.sleep(0.01)
print("value", handle.get(timeout=10), handle.result, handle.ready(), flush=True)
"""


def _submit(mesh: Mesh) -> tuple[NodeProcess, str, str]:
    client = mesh.start(_SUBMIT.format(folder=str(mesh.folder)), name="producer")
    _, first, second = client.wait_log("id ").split()
    return client, first, second


def _watch(mesh: Mesh, task_id: str) -> NodeProcess:
    return mesh.start(_WATCH.format(id=task_id), name=f"watcher-{task_id[:4]}")


def _go(mesh: Mesh, name: str) -> None:
    (mesh.folder / f"{name}.go").touch()


def _end(mesh: Mesh, client: NodeProcess) -> None:
    (mesh.folder / "end").touch()
    assert client.wait() == 0, client.log


@pytest.mark.parametrize("store", [False, True], ids=["no-store", "store"])
def test_pending_started_success_as_it_goes(mesh: Mesh, store: bool) -> None:
    mesh.start_node("-c", "1")
    if store:
        mesh.start_node(roles="store")
    client, first, second = _submit(mesh)
    running, queued = _watch(mesh, first), _watch(mesh, second)
    running.wait_log("state STARTED")
    queued.wait_log("state PENDING")
    _go(mesh, "a")
    running.wait_log("value ")
    queued.wait_log("state STARTED")
    _go(mesh, "b")
    queued.wait_log("value ")
    assert "True" in queued.log
    _end(mesh, client)
    assert running.log.split().count("SUCCESS") == 1


def test_waiting_in_another_process(mesh: Mesh) -> None:
    mesh.start_node()
    client, first, second = _submit(mesh)
    waiter = mesh.start(f"""
        import asyncio
        from tasks import app
        from zmqtasks import ResultSet
        a, b = app.AsyncResult({first!r}), app.AsyncResult({second!r})

        async def main():
            print("asking", flush=True)
            print("async", type(await a.aget(timeout=20)).__name__, flush=True)

        asyncio.run(main())
        print("both", len(ResultSet([a, b]).get(timeout=20)), flush=True)
    """)
    waiter.wait_log("asking")
    _go(mesh, "a")
    waiter.wait_log("async int")
    _go(mesh, "b")
    waiter.wait_log("both 2")
    _end(mesh, client)


def test_store_answers_when_producer_and_worker_have_ended(mesh: Mesh) -> None:
    worker = mesh.start_node()
    mesh.start_node(roles="store", name="s1")
    done = mesh.run("""
        from tasks import add, fail, echo
        handles = [add.delay(20, 3), fail.delay("kept"), echo.delay(b"x" * 300_000)]
        [h.get(timeout=10, propagate=False) for h in handles]
        print(*[h.id for h in handles])
    """)
    ids = done.stdout.split()
    look = f"""
        from zmqtasks import App
        from zmqtasks.errors import TaskUnknown
        app = App("shop")
        a, b, c = [app.AsyncResult(i) for i in {ids!r}]
        print(a.state, a.get(timeout=10))
        print(b.state, repr(b.get(timeout=10, propagate=False)), "in fail" in b.traceback)
        print(len(c.get(timeout=10)))
    """
    expected = "SUCCESS 23\nFAILURE ValueError('kept') True\n300000\n"
    assert mesh.run(look).stdout == expected
    assert worker.stop() == 0
    assert mesh.run(look).stdout == expected


def test_store_keeps_results_over_its_own_restart(mesh: Mesh) -> None:
    mesh.start_node()
    store = mesh.start_node(roles="store", name="s1")
    done = mesh.run("from tasks import add; h = add.delay(1, 2); h.get(timeout=10); print(h.id)")
    task_id = done.stdout.strip()
    assert store.stop() == 0
    mesh.nodes[0].stop()
    mesh.start_node(roles="store", name="s2")
    done = mesh.run(f"""
        from zmqtasks import App
        print(App("shop").AsyncResult({task_id!r}).get(timeout=10))
    """)
    assert done.stdout == "3\n"


def test_without_store_workers_answer_for_producers_that_ended(mesh: Mesh) -> None:
    mesh.start_node()
    done = mesh.run("from tasks import add; h = add.delay(1, 2); h.get(timeout=10); print(h.id)")
    done = mesh.run(f"""
        from tasks import app
        print(app.AsyncResult({done.stdout.strip()!r}).get(timeout=10))
    """)
    assert done.stdout == "3\n"


def test_outcome_that_nobody_settled_any_more_stands(mesh: Mesh) -> None:
    mesh.start_node("-c", "1")
    mesh.start_node(roles="store")
    client, first, second = _submit(mesh)
    wait_for((mesh.folder / "a.started").exists, "the task runs")
    client.kill()
    _go(mesh, "a")
    done = mesh.run(f"""
        from tasks import app
        from zmqtasks import TaskUnknown
        a, b = app.AsyncResult({first!r}), app.AsyncResult({second!r})
        print(type(a.get(timeout=10)).__name__, a.state)
        try:
            b.get(timeout=10)
        except TaskUnknown:
            print(b.state)
    """)
    assert done.stdout == "int SUCCESS\nUNKNOWN\n"


def test_unknown_id_is_said_at_once(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import app
        from zmqtasks import TaskUnknown
        handle = app.AsyncResult("11111111-2222-3333-4444-555555555555")
        print(handle.state, handle.ready())
        try:
            handle.get()
        except TaskUnknown as exc:
            print(exc)
    """)
    assert done.stdout.startswith("UNKNOWN True\n")
    assert "11111111-2222-3333-4444-555555555555 is known to nobody" in done.stdout


def test_forget(mesh: Mesh) -> None:
    mesh.start_node()
    mesh.start_node(roles="store")
    done = mesh.run("""
        from tasks import add
        handle = add.delay(1, 2)
        handle.get(timeout=10)
        handle.forget()
        print(handle.id, handle.state)
    """)
    task_id, state = done.stdout.split()
    assert state == "UNKNOWN"
    code = f"from tasks import app; print(app.AsyncResult({task_id!r}).state)"
    wait_for(lambda: mesh.run(code).stdout == "UNKNOWN\n", "everybody has forgotten it")


def test_own_task_ids(shared_mesh: Mesh) -> None:
    done = shared_mesh.run("""
        from tasks import add
        from zmqtasks import SubmitRejected
        a = add.apply_async((1, 2), task_id="report-7")
        b = add.apply_async((1, 2), task_id="report-7")
        print(a.id == b.id, a.get(timeout=10), b.get(timeout=10))
    """)
    assert done.stdout == "True 3 3\n"
