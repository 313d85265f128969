"""The processes that a worker runs tasks in: limits, replacement, as many as needed."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

LIMITED = """
import os, time
from zmqtasks import App, SoftTimeLimitExceeded

app = App("shop")

@app.task(time_limit=0.3)
def slow():
    time.sleep(60)

@app.task(soft_time_limit=0.1)
def tidy():
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "tidied"

@app.task(soft_time_limit=0.1)
def untidy():
    time.sleep(60)

@app.task
def quick(x: int) -> int:
    return x

@app.task
def pid() -> int:
    return os.getpid()
"""


def test_limits_end_tasks_and_no_other_one_and_nothing_runs_twice(mesh: Mesh) -> None:
    mesh.write("tasks.py", LIMITED)
    node = mesh.start_node("--concurrency", "1")
    done = mesh.run(
        """
        from zmqtasks import SoftTimeLimitExceeded, TimeLimitExceeded
        from tasks import quick, slow, tidy, untidy

        handles = [quick.delay(1), slow.delay(), quick.delay(2), tidy.delay(), untidy.delay(),
                   quick.apply_async((3,), time_limit=5), slow.apply_async(time_limit=0.1)]
        for handle in handles:
            try:
                print(handle.get(timeout=20))
            except (SoftTimeLimitExceeded, TimeLimitExceeded) as exc:
                print(type(exc).__name__, exc)
        """
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "1"
    assert "ran longer than its time limit of 0.3 s" in lines[1]
    assert lines[1].startswith("TimeLimitExceeded")
    assert lines[2:4] == ["2", "tidied"]
    assert lines[4] == "SoftTimeLimitExceeded ran longer than its soft time limit of 0.1 s"
    assert lines[5] == "3"
    assert "time limit of 0.1 s" in lines[6]
    assert "child.died" not in node.log


def test_processes_are_replaced_and_every_task_runs(mesh: Mesh) -> None:
    mesh.write("tasks.py", LIMITED)
    node = mesh.start_node("--max-tasks-per-child", "20")
    before = len(mesh.children_of(node))
    done = mesh.run(
        """
        from collections import Counter
        from tasks import pid

        counts = Counter(pid.delay_many([()] * 400).get(timeout=60))
        print(sum(counts.values()), max(counts.values()))
        """,
        seconds=90,
    )
    assert done.stdout.split() == ["400", "20"]
    assert "child.died" not in node.log
    wait_for(lambda: len(mesh.children_of(node)) <= before + 2, "the replaced ones end")


@pytest.mark.parametrize("pool", ["process", "thread", "asyncio"])
def test_a_worker_grows_with_its_work_and_shrinks_after(mesh: Mesh, pool: str) -> None:
    node = mesh.start_node("--pool", pool, "--autoscale", "3,1", "--autoscale-idle-s", "0.5")
    assert "1 to 3 at once" in node.wait_log("at once")
    alone = len(mesh.children_of(node))
    client = mesh.start(
        f"""
        from tasks import hold
        print(hold.delay_many([({str(mesh.folder)!r}, f"h{{n}}") for n in range(20)]).get())
        """
    )
    wait_for(lambda: len(list(mesh.folder.glob("*.started"))) == 3, "three run side by side")
    assert len(mesh.children_of(node)) == alone + (2 if pool == "process" else 0)
    for n in range(20):
        (mesh.folder / f"h{n}.go").touch()
    client.wait()
    node.wait_log("slots=1")
    wait_for(lambda: len(mesh.children_of(node)) == alone, "only one is left")
    changes = [line.partition("slots=")[2] for line in node.log.splitlines() if "resize" in line]
    assert [line.split(" busy=")[0] for line in changes] == ["3 was=1", "1 was=3"]
    assert "child.died" not in node.log


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--pool", "solo"], "task 'tasks.slow' has time_limit=0.3, which the solo pool cannot"),
        (["--pool", "solo", "--max-tasks-per-child", "5"], "max_tasks_per_child cannot be had"),
        (["--pool", "solo", "--autoscale", "4,1"], "autoscale cannot be had with the solo pool"),
        (["--pool", "solo", "--gpus", "0"], "gpus cannot be had with the solo pool"),
        (["--cpus", "0,9999"], "CPU 9999 cannot be used by this process"),
        (["--autoscale", "4,1", "-c", "2"], "autoscale and concurrency both say"),
    ],
)
def test_what_a_pool_cannot_do_is_refused_at_the_start(
    mesh: Mesh, flags: list[str], reason: str
) -> None:
    mesh.write("tasks.py", LIMITED)
    done = mesh.cli("node", *flags)
    assert done.returncode == 2
    assert reason in done.stderr.splitlines()[-1]


def test_solo_pool_keeps_soft_limits_and_gets_no_calls_with_hard_ones(mesh: Mesh) -> None:
    mesh.write("tasks.py", LIMITED.replace("@app.task(time_limit=0.3)", "@app.task"))
    mesh.start_node("--pool", "solo")
    done = mesh.run(
        """
        from tasks import quick, tidy

        print(tidy.delay().get(timeout=20))
        limited = quick.apply_async((1,), time_limit=5)
        print(quick.delay(2).get(timeout=20))
        print(limited.story().why)
        print(limited.revoke())
        """
    )
    tidied, value, why, revoked = done.stdout.splitlines()
    assert (tidied, value, revoked) == ("tidied", "2", "revoked")
    assert "which the pool of no worker that knows it can keep" in why
