"""What tasks say while they run, what they wait for, and what stands around them, for real."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

_APP = """
    import os, time
    from pathlib import Path
    from typing import Annotated
    from zmqtasks import App, Depends, Task, allow_join_result, signals
    from zmqtasks.log import get_task_logger

    app = App("shop")
    log = get_task_logger("shop")


    def wait_for(name):
        while not Path(name).exists():
            time.sleep(0.01)


    @app.task(bind=True)
    def work(self):
        self.progress(1, 2)
        wait_for("go")
        self.update_state(state="LAST", meta="m")
        wait_for("end")
        return "done"


    @app.task
    def count(n):
        for i in range(n):
            yield i
        return "counted"


    @app.task
    async def acount(n):
        for i in range(n):
            yield i * 10


    @app.task
    def broken_count():
        if not Path("broke").exists():
            yield 0
            wait_for("seen")
            Path("broke").touch()
            os._exit(3)
        yield from (0, 1)


    @app.task
    def parent(n):
        with allow_join_result():
            return sum(double.delay_many((i,) for i in range(n)).get(timeout=10))


    @app.task
    async def aparent(n):
        return await double.delay(n).aget(timeout=10, disable_sync_subtasks=False)


    @app.task
    def double(n):
        return 2 * n


    @signals.worker_process_init.connect
    def began(**kwargs):
        Path(f"began-{os.getpid()}").touch()


    @signals.worker_process_shutdown.connect
    def ended(pid=None, **kwargs):
        Path(f"ended-{pid}").touch()


    class Telling(Task):
        def on_success(self, retval, task_id, args, kwargs):
            log.warning("on_success of %s", self.request.id)


    def get_pid():
        yield os.getpid()


    @app.task(base=Telling)
    def told(pid: Annotated[int, Depends(get_pid)]):
        return pid
"""


@pytest.fixture
def made(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", _APP)
    return mesh


def test_caller_follows_states_while_the_task_runs(made: Mesh) -> None:
    made.start_node(name="w1")
    printed = made.run("""
        import asyncio
        from pathlib import Path
        from tasks import work

        result = work.delay()
        updates = result.updates(timeout=20)
        print(*next(updates))
        print(result.state, result.info)
        Path("go").touch()
        print(*next(updates))
        Path("end").touch()
        print(list(updates))
        print(result.get(timeout=5), result.state, result.info)
    """).stdout.splitlines()
    progress = "{'current': 1, 'total': 2, 'message': ''}"
    assert printed == [
        f"PROGRESS {progress}",
        f"PROGRESS {progress}",
        "LAST m",
        "[]",
        "done SUCCESS done",
    ]


@pytest.mark.parametrize("pool", ["process", "solo", "thread", "asyncio"])
def test_items_arrive_in_order_in_every_pool(made: Mesh, pool: str) -> None:
    made.start_node("--pool", pool, name="w1")
    printed = made.run("""
        import asyncio
        from tasks import acount, count

        result = count.delay(1000)
        print(list(result.stream(timeout=20)) == list(range(1000)), result.get(timeout=5))

        async def main():
            return [item async for item in acount.delay(3).stream(timeout=20)]

        print(asyncio.run(main()))
    """).stdout.splitlines()
    assert printed == ["True counted", "[0, 10, 20]"]


def test_items_of_a_task_that_lost_its_process_are_given_once(made: Mesh) -> None:
    made.start_node(name="w1")
    printed = made.run("""
        from pathlib import Path
        from tasks import broken_count

        stream = broken_count.delay().stream(timeout=20)
        print(next(stream))
        Path("seen").touch()
        print(*stream)
    """).stdout.splitlines()
    assert printed == ["0", "1"]


def test_a_task_waits_for_a_slow_reader_and_no_item_is_lost(made: Mesh) -> None:
    made.write(
        "big.py",
        """
        from zmqtasks import App
        app = App("big")

        @app.task
        def large(count):
            for number in range(count):
                yield number.to_bytes(4, "big") * (16 * 1024)
        """,
    )
    made.start_node("--app", "big", name="w1")
    printed = made.run("""
        import time
        from big import app, large
        from zmqtasks.app.current import gateway

        count = 1_200  # 75 MiB, more than are kept for whoever reads nothing
        result = large.delay(count)
        stream = result.stream(timeout=20)
        assert next(stream)[:4] == bytes(4)
        pacing = gateway(app).dispatcher.pacing
        while not any(pacing.paused.values()):
            time.sleep(0.001)
        print("it pauses")
        print([int.from_bytes(item[:4], "big") for item in stream] == list(range(1, count)))

        for item in large.delay(count).stream(timeout=20):
            break  # who reads no more holds nobody up
        stopped = large.delay(100)
        print(stopped.get(timeout=20), pacing.paused)
    """).stdout.splitlines()
    assert printed == ["it pauses", "True", "None {}"]


def test_another_process_follows_a_task_that_it_knows_by_id(made: Mesh) -> None:
    made.start_node(name="w1")
    printed = made.run("""
        import subprocess, sys
        from tasks import work

        result = work.delay()
        next(result.updates(timeout=20))
        other = subprocess.run([sys.executable, "-c", '''if True:
            import sys
            from pathlib import Path
            from tasks import app

            result = app.AsyncResult(sys.argv[1])
            updates = result.updates(timeout=20)
            print(*next(updates))
            Path("go").touch()
            print(*next(updates))
            Path("end").touch()
            print(list(updates), result.get(timeout=5))
        ''', result.id], capture_output=True, text=True)
        print(other.stdout + other.stderr[-2000:])
    """).stdout.splitlines()
    progress = "PROGRESS {'current': 1, 'total': 2, 'message': ''}"
    assert printed[:3] == [progress, "LAST m", "[] done"]


@pytest.mark.parametrize("pool", ["process", "thread", "asyncio"])
def test_tasks_that_say_so_wait_for_others(made: Mesh, pool: str) -> None:
    made.start_node("--pool", pool, "--concurrency", "3", name="w1")
    printed = made.run("""
        from tasks import aparent, parent

        print(parent.delay(4).get(timeout=20), aparent.delay(4).get(timeout=20))
    """).stdout.split()
    assert printed == ["12", "8"]


@pytest.mark.parametrize("pool", ["process", "solo", "thread", "asyncio"])
def test_hooks_run_in_every_pool(made: Mesh, pool: str) -> None:
    node = made.start_node("--pool", pool, name="w1")
    pid = made.run("""
        from tasks import told

        print(told.delay().get(timeout=20))
    """).stdout.strip()
    node.wait_log("shop: on_success of")
    assert (made.code / f"began-{pid}").exists()
    node.stop()
    assert (made.code / f"ended-{pid}").exists()
