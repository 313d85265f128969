"""Nodes that sleep, as on a laptop that is closed, and what they do when they wake up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.harness import APP, Mesh, wait_for

pytestmark = pytest.mark.e2e

_SOURCE = (
    APP
    + '''

@app.task
def note(folder, number):
    """Leave a line for each run: which one, and by which node's fork server."""
    with open(Path(folder) / "notes", "a") as file:
        file.write(f"{number} {os.getppid()}\\n")
    time.sleep(0.02)
    return number


@app.task
def hold_and_tell(folder):
    hold.run(folder, "h0")
    (Path(folder) / "h0.ended").touch()
    return 1
'''
)
#: So that nobody has to wait for long.
_TIMERS = {
    "ZMQTASKS_HEARTBEAT_MS": "300",
    "ZMQTASKS_LEASE_MS": "900",
    "ZMQTASKS_STALLED_MS": "900",
    "ZMQTASKS_LOST_MS": "1500",
}


@pytest.fixture
def quick(mesh: Mesh) -> Mesh:
    """A mesh that notices soon that somebody is silent."""
    mesh.write("tasks.py", _SOURCE)
    mesh.env.update(_TIMERS)
    return mesh


@contextmanager
def asleep(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        # Those who run tasks first, so that they are as far ahead of their node as can be.
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def lines(mesh: Mesh, name: str) -> list[str]:
    path = mesh.folder / name
    return path.read_text().splitlines() if path.exists() else []


def test_a_worker_that_wakes_up_starts_nothing_that_others_have_run(quick: Mesh) -> None:
    worker = quick.start_node("-c", "1", name="w1")
    client = quick.start(f"""
        from tasks import note
        folder = {str(quick.folder)!r}
        print("sum", sum(note.delay_many((folder, n) for n in range(100)).get(timeout=30)))
    """)
    wait_for(lambda: len(lines(quick, "notes")) > 10, "some have run")
    children = quick.children_of(worker)
    with asleep([worker.pid, *children]):
        other = quick.start_node("-c", "2", name="w2")
        client.wait_log(f"sum {sum(range(100))}")
    assert client.wait() == 0
    assert other.stop() == 0
    # It is of use again, after whatever it may have had to do.
    done = quick.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert done.stdout == "3\n"
    assert worker.stop() == 0
    runs = [line.split() for line in lines(quick, "notes")]
    elsewhere = {number for number, parent in runs if int(parent) not in children}
    again = [number for number, parent in runs if int(parent) in children and number in elsewhere]
    assert len(again) <= 1, "the one that ran"
    assert len({number for number, _ in runs}) == 100


def test_when_all_sleep_and_wake_up_all_goes_on(quick: Mesh) -> None:
    worker = quick.start_node("-c", "1", name="w1")
    client = quick.start(f"""
        from tasks import note
        folder = {str(quick.folder)!r}
        print("sum", sum(note.delay_many((folder, n) for n in range(100)).get(timeout=30)))
    """)
    wait_for(lambda: len(lines(quick, "notes")) > 10, "some have run")
    with asleep([client.pid, worker.pid, *quick.children_of(worker)]):
        quick.run("import time; time.sleep(2)")
    client.wait_log(f"sum {sum(range(100))}")
    assert client.wait() == 0
    assert worker.stop() == 0


def test_a_caller_that_wakes_up_gets_its_result(quick: Mesh) -> None:
    """Its worker had given it up when the task ended."""
    worker = quick.start_node("-c", "1", name="w1")
    client = quick.start(f"""
        from tasks import hold_and_tell
        print("held", hold_and_tell.delay({str(quick.folder)!r}).get(timeout=30))
    """)
    wait_for(lambda: lines(quick, "h0.started"), "the task runs")
    with asleep([client.pid]):
        worker.wait_log("lost ")
        (quick.folder / "h0.go").touch()
        wait_for((quick.folder / "h0.ended").exists, "the task ends")
    client.wait_log("held 1")
    assert client.wait() == 0
    assert worker.stop() == 0
