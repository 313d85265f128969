"""Workers whose tasks share a process."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.harness import Mesh, NodeProcess

pytestmark = pytest.mark.e2e

_APP = """
    import asyncio, os, time
    from zmqtasks import App

    app = App("rv")

    @app.task
    async def nap(seconds):
        await asyncio.sleep(seconds)
        return os.getpid()

    @app.task
    def doze(seconds):
        time.sleep(seconds)
        return os.getpid()

    @app.task
    def crash():
        time.sleep(0.1)
        os.abort()

    @app.task
    async def add_later(count):
        handles = await asyncio.gather(*[doze.adelay(0) for n in range(count)])
        return [handle.id for handle in handles]
"""


def start(mesh: Mesh, *flags: str, app: str = _APP) -> NodeProcess:
    mesh.write("tasks.py", app)
    node = mesh.start_cli("node", "--name", "w1", *flags, name="w1")
    node.wait_log("is up")
    return node


def test_hundreds_of_coroutines_run_at_once_in_one_process(mesh: Mesh) -> None:
    node = start(mesh, "--pool", "asyncio")
    # One after the other this would take ten minutes.
    done = mesh.run("""
        from tasks import nap
        pids = nap.delay_many([(1.0,)] * 600).get(timeout=60)
        print(len(pids), len(set(pids)))
    """)
    assert done.stdout.split() == ["600", "1"]
    assert "1000 at once (asyncio pool)" in node.log
    assert node.stop() == 0


@pytest.mark.parametrize("pool", ["thread", "asyncio"])
def test_task_that_crashes_the_process_is_dead_in_the_end_and_no_other(
    mesh: Mesh, pool: str
) -> None:
    start(mesh, "--pool", pool, "--concurrency", "20")
    done = mesh.run("""
        from tasks import crash, doze, nap
        from zmqtasks import TaskDead
        bad = crash.delay()
        others = [task.delay(0.3) for task in (doze, nap) for _ in range(5)]
        try:
            bad.get(timeout=60)
        except TaskDead as exc:
            print("dead", sum(other.get(timeout=60) > 0 for other in others))
    """)
    assert done.stdout.split() == ["dead", "10"], done.stderr + mesh.logs()
    assert "each of these runs in a process of its own next" in mesh.logs()


@pytest.mark.parametrize("pool", ["process", "thread", "asyncio"])
def test_coroutine_submits_to_its_owner(mesh: Mesh, pool: str) -> None:
    start(mesh, "--pool", pool)
    done = mesh.run("""
        from tasks import add_later, app
        from zmqtasks import AsyncResult
        ids = add_later.delay(20).get(timeout=20)
        print(len({AsyncResult(id, app).get(timeout=20) for id in ids}) > 0, len(ids))
    """)
    assert done.stdout.split() == ["True", "20"]


@pytest.mark.parametrize("pool", ["thread", "asyncio", "solo"])
def test_hard_limit_of_a_task_is_refused_at_the_start(mesh: Mesh, pool: str) -> None:
    limited = _APP.replace("@app.task\n    def doze", "@app.task(time_limit=5)\n    def doze")
    mesh.write("tasks.py", limited)
    done = mesh.cli("node", "--pool", pool)
    assert done.returncode == 2
    assert f"task 'tasks.doze' has time_limit=5, which the {pool} pool cannot keep" in done.stderr
    assert "--pool process" in done.stderr


def test_call_with_a_hard_limit_waits_for_a_worker_that_can_keep_it(mesh: Mesh) -> None:
    threads = start(mesh, "--pool", "thread", "--concurrency", "4")
    client = mesh.start("""
        import threading
        from tasks import app, doze
        limited = doze.apply_async((60,), time_limit=0.3)
        print("others", len(doze.delay_many([(0,)] * 20).get(timeout=20)), flush=True)
        try:
            limited.get(timeout=60)
        except Exception as exc:
            print(type(exc).__name__, limited.info.__class__.__name__, flush=True)
        more = [doze.apply_async((0,), time_limit=5) for _ in range(40)]
        print("here", len({one.get(timeout=20) for one in more}), flush=True)
    """)
    client.wait_log("others 20")
    why = client.wait_log("waits: ")
    assert "tasks.doze" in why
    assert "it was called with a hard time limit (time_limit)" in why
    assert "start one with --pool process" in why
    mesh.start_node("--concurrency", "1", name="w2")
    client.wait_log("TimeLimitExceeded")
    client.wait_log("here 1")
    assert client.wait() == 0
    assert threads.stop() == 0


def test_drain_ends_what_runs_in_threads(mesh: Mesh) -> None:
    node = start(mesh, "--pool", "thread", "--concurrency", "4")
    client = mesh.start("""
        import time
        from tasks import doze
        handles = [doze.delay(1.0) for _ in range(4)]
        while not all(handle.state == "STARTED" for handle in handles):
            time.sleep(0.01)
        print("all started", flush=True)
        print("ended:", len([handle.get(timeout=30) for handle in handles]), flush=True)
    """)
    client.wait_log("all started")
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
    client.wait_log("ended: 4")
