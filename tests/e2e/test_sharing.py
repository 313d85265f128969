"""Who runs what: workers with resources, rates, long tasks beside short ones, late joiners."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

TASKS = """
import os, pathlib, time
from zmqtasks import App

app = App("shop")

@app.task(resources={"gpu": 1})
def gpu(folder, name):
    visible = os.environ["CUDA_VISIBLE_DEVICES"]
    (pathlib.Path(folder) / f"{visible}-{name}.started").touch()
    while not (pathlib.Path(folder) / "go").exists():
        time.sleep(0.01)
    return visible

@app.task(tags=["here"])
def tagged():
    return os.environ["WHO"]

@app.task(rate_limit="50/s")
def limited():
    return time.monotonic()

@app.task
def hold(folder, name):
    (pathlib.Path(folder) / f"{name}.started").touch()
    while not (pathlib.Path(folder) / "go").exists():
        time.sleep(0.01)

@app.task
def quick(x):
    return x
"""


def started(mesh: Mesh) -> list[str]:
    return sorted(path.stem for path in mesh.folder.glob("*.started"))


def test_tasks_with_a_gpu_run_where_there_is_one_each_on_its_own(mesh: Mesh) -> None:
    mesh.write("tasks.py", TASKS)
    mesh.start_node("--concurrency", "3")
    mesh.start_node("--concurrency", "3", "--resources", "gpu=id:3:5")
    client = mesh.start(
        f"""
        from tasks import gpu
        handles = [gpu.delay({str(mesh.folder)!r}, f"g{{n}}") for n in range(4)]
        print(sorted(set([handle.get(timeout=60) for handle in handles])))
        """
    )
    wait_for(lambda: len(started(mesh)) == 2, "two of them run")
    assert [name[0] for name in started(mesh)] == ["3", "5"]
    (mesh.folder / "go").touch()
    client.wait()
    assert "['3', '5']" in client.log
    assert len(started(mesh)) == 4


def test_missing_tag_is_named_and_the_task_runs_once_a_worker_has_it(mesh: Mesh) -> None:
    mesh.write("tasks.py", TASKS)
    mesh.start_node("--concurrency", "1")
    client = mesh.start("from tasks import tagged; print(tagged.delay().get(timeout=60))")
    assert "it needs a worker with tag 'here', and none has it" in client.wait_log("tasks.tagged")
    mesh.start_node("--concurrency", "1", "--tags", "here", WHO="the tagged one")
    client.wait()
    assert "the tagged one" in client.log


def test_rate_is_kept_and_holds_no_other_tasks_up(mesh: Mesh) -> None:
    mesh.write("tasks.py", TASKS)
    mesh.start_node("--concurrency", "2")
    done = mesh.run(
        """
        from tasks import limited, quick
        handles = [limited.delay() for _ in range(40)]
        print(quick.delay_many([(n,) for n in range(200)]).get(timeout=60) == list(range(200)))
        print(sum(handle.ready() for handle in handles) < 40)
        times = sorted(handle.get(timeout=60) for handle in handles)
        print(times[-1] - times[0] >= 39 / 50 - 0.1)
        """
    )
    assert done.stdout.split() == ["True", "True", "True"]


def test_nothing_waits_behind_long_tasks_while_a_slot_is_free_or_joins(mesh: Mesh) -> None:
    mesh.write("tasks.py", TASKS)
    mesh.start_node("--concurrency", "2")
    mesh.start_node("--concurrency", "1")
    folder = str(mesh.folder)
    longer = mesh.start(
        f"""
        from tasks import hold
        handles = [hold.delay({folder!r}, f"h{{n}}") for n in range(2)]
        for handle in handles:
            handle.get(timeout=120)
        """
    )
    wait_for(lambda: started(mesh) == ["h0", "h1"], "two of three slots are taken")
    done = mesh.run(
        """
        from tasks import quick
        print([quick.delay(n).get(timeout=20) for n in range(50)] == list(range(50)))
        """
    )
    assert done.stdout.split() == ["True"]
    third = mesh.start(f"from tasks import hold; hold.delay({folder!r}, 'h2').get(timeout=120)")
    wait_for(lambda: started(mesh) == ["h0", "h1", "h2"], "all slots are taken")
    waiting = mesh.start(
        """
        from tasks import quick
        handles = [quick.delay(n) for n in range(20)]
        print([handle.get(timeout=60) for handle in handles] == list(range(20)))
        """
    )
    mesh.start_node("--concurrency", "1")
    waiting.wait()
    assert "True" in waiting.log
    (mesh.folder / "go").touch()
    longer.wait()
    third.wait()
