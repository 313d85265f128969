"""What was submitted is run, whatever becomes of the process that submitted it.

What has run is known from a file that the tasks themselves write.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Mesh, NodeProcess, wait_for

pytestmark = pytest.mark.e2e

COUNT = 500
#: From the submission of a memory task to its being in the journal, with time for the disk.
WRITTEN_AFTER_S = 1.5

APP = '''
import os, signal, time
from pathlib import Path
from zmqtasks import App

app = App("shop")


@app.task
def mark(folder, number):
    """Leave a line for each run."""
    with open(Path(folder) / "ran", "a") as file:
        file.write(f"{number}\\n")


@app.task(durability="disk")
def keep(folder, number):
    mark.run(folder, number)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def hold(folder):
    """Run until it may end."""
    (Path(folder) / "held").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)
    mark.run(folder, -1)
'''

FIRE_AND_FORGET = """
    from tasks import mark
    for number in range({count}):
        mark.delay({folder!r}, number)
"""


@pytest.fixture
def mesh(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", APP)
    return mesh


def ran(folder: Path) -> list[int]:
    """The numbers of the tasks that ran, one for each run."""
    path = folder / "ran"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def wait_all_ran(mesh: Mesh, count: int = COUNT) -> None:
    """Each of them has run, and once, since nothing was lost that may have run."""
    wait_for(lambda: len(ran(mesh.folder)) >= count, f"all {count} run")
    assert ran(mesh.folder) == list(range(count))


def open_tasks(mesh: Mesh) -> int:
    """Of all nodes together."""
    nodes = json.loads(mesh.cli("status", "--json").stdout)["nodes"]
    return sum(node["producer"]["open"] for node in nodes)


def end(script: NodeProcess) -> None:
    script.killed = True  # its files stay behind
    assert script.wait() == -signal.SIGKILL


# --- killed -------------------------------------------------------------------------------

SUBMIT_AND_DIE = {
    "one by one": "for number in range({count}): keep.delay({folder!r}, number)",
    "in bulk": "keep.delay_many(({folder!r}, number) for number in range({count}))",
}


@pytest.mark.parametrize("how", SUBMIT_AND_DIE)
@pytest.mark.parametrize("worker", ["is there", "comes later"])
def test_producer_killed_right_after_its_last_durable_call_loses_none(
    mesh: Mesh, worker: str, how: str
) -> None:
    if worker == "is there":
        mesh.start_node(name="w1")
    submit = SUBMIT_AND_DIE[how].format(count=COUNT, folder=str(mesh.folder))
    script = mesh.start(
        f"import os, signal\nfrom tasks import keep\n{submit}\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    end(script)
    if worker == "comes later":
        mesh.start_node(name="w1")
    wait_for(lambda: len(set(ran(mesh.folder))) == COUNT, "all 500 run")


def test_killed_producer_loses_no_memory_task_older_than_a_second(mesh: Mesh) -> None:
    script = mesh.start(f"""
        import json, os, signal, time
        from pathlib import Path
        from tasks import mark
        submitted = []
        while not submitted or time.monotonic() - submitted[0] < 3:
            mark.delay({str(mesh.folder)!r}, len(submitted))
            submitted.append(time.monotonic())
            time.sleep(0.005)
        old = [number for number, at in enumerate(submitted)
               if at < time.monotonic() - {WRITTEN_AFTER_S}]
        (Path({str(mesh.folder)!r}) / "old").write_text(json.dumps(old))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    end(script)
    old = json.loads((mesh.folder / "old").read_text())
    assert old, "some have waited for longer"
    mesh.start_node(name="w1")
    wait_for(lambda: set(old) <= set(ran(mesh.folder)), "all old ones run")


# --- ended --------------------------------------------------------------------------------


def fire_and_forget(mesh: Mesh, **env: Any) -> str:
    """A script submits 500 tasks and ends at once; gives what it said."""
    code = FIRE_AND_FORGET.format(count=COUNT, folder=str(mesh.folder))
    return mesh.run(code, **env).stderr


def test_script_that_ends_at_once_hands_its_tasks_to_workers(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    said = fire_and_forget(mesh)
    assert not said or " handed to w1\n" in said
    assert "written to disk" not in said
    wait_all_ran(mesh)


def test_script_that_ends_at_once_hands_its_tasks_to_a_broker(mesh: Mesh) -> None:
    mesh.start_node(roles="broker", name="b1")
    assert fire_and_forget(mesh) == (
        "zmqtasks: tasks that had not finished when this process ended: 500 handed to b1\n"
    )
    mesh.start_node(name="w1")
    wait_all_ran(mesh)


def test_script_that_ends_with_nobody_around_leaves_its_tasks_on_disk(mesh: Mesh) -> None:
    assert fire_and_forget(mesh) == (
        "zmqtasks: tasks that had not finished when this process ended: 500 written to disk here, "
        "a node of this host will run them\n"
    )
    mesh.start_node(name="w1")
    wait_all_ran(mesh)


def test_what_a_worker_runs_when_its_script_ends_is_not_run_again(mesh: Mesh) -> None:
    mesh.start_node("-c", "1", name="w1")
    said = mesh.run(f"""
        from pathlib import Path
        from tasks import hold
        folder = Path({str(mesh.folder)!r})
        hold.delay(str(folder))
        while not (folder / "held").exists():
            pass
    """).stderr
    assert "1 handed to w1\n" in said
    (mesh.folder / "go").touch()
    wait_for(lambda: ran(mesh.folder) == [-1], "it ends")
    mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert ran(mesh.folder) == [-1]


def test_ctrl_c_at_the_end_writes_the_tasks_down_at_once(mesh: Mesh) -> None:
    frozen = mesh.start_node("-c", "1", name="w1")
    script = mesh.start(
        f"""
        import atexit
        from pathlib import Path
        from tasks import hold, mark
        folder = Path({str(mesh.folder)!r})
        handle = hold.delay(str(folder))
        atexit.register(print, "ends", flush=True)
        while not (folder / "held").exists():
            pass
        print("held", flush=True)
        while not (folder / "end").exists():
            pass
        for number in range(10):
            mark.delay(str(folder), number)
        """,
        ZMQTASKS_EXIT_WAIT_S="600", ZMQTASKS_LOST_MS="600000", ZMQTASKS_STALLED_MS="500000",
        ZMQTASKS_STALLED_LOST_MS="700000",
    )  # fmt: skip
    script.wait_log("held")
    frozen.signal(signal.SIGSTOP)
    try:
        (mesh.folder / "end").touch()
        script.wait_log("ends")
        script.signal(signal.SIGINT)
        assert script.wait() == 0
    finally:
        frozen.signal(signal.SIGCONT)
    assert "11 written to disk here" in script.log
    (mesh.folder / "go").touch()
    wait_for(lambda: set(ran(mesh.folder)) == {-1, *range(10)}, "all run")


def test_offers_that_a_frozen_broker_reads_too_late_are_not_run_twice(mesh: Mesh) -> None:
    frozen = mesh.start_node(roles="broker", name="b1")
    script = mesh.start(
        f"""
        from pathlib import Path
        from tasks import mark
        folder = Path({str(mesh.folder)!r})
        mark.delay(str(folder), 0)
        from zmqtasks.app.current import gateway
        client = gateway(mark.app)
        client.conditions.wait(lambda: not client.dispatcher.tasks, 20)
        print("taken", flush=True)
        while not (folder / "end").exists():
            pass
        for number in range(1, 50):
            mark.delay(str(folder), number)
        """,
        ZMQTASKS_QUEUE_ROUTES="*=broker", ZMQTASKS_EXIT_WAIT_S="1",
    )  # fmt: skip
    script.wait_log("taken")
    frozen.signal(signal.SIGSTOP)
    try:
        (mesh.folder / "end").touch()
        assert script.wait() == 0
        assert "49 written to disk here" in script.log
        mesh.start_node(name="w1")
        wait_for(lambda: set(range(1, 50)) <= set(ran(mesh.folder)), "they run from the disk")
    finally:
        frozen.signal(signal.SIGCONT)
    wait_for(lambda: 0 in ran(mesh.folder), "so does what the broker has")
    # It asks whose the others are, and is told.
    wait_for(lambda: open_tasks(mesh) == 0, "nothing is open any more")
    # What it may still have of them goes to the worker.
    assert frozen.stop() == 0
    mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert ran(mesh.folder) == list(range(50))


def test_script_without_a_journal_names_what_it_gives_up_and_why(mesh: Mesh) -> None:
    (mesh.folder / "no-folder").touch()
    said = mesh.run(
        """
        from tasks import add
        handles = [add.delay(1, 2) for _ in range(3)]
        """,
        ZMQTASKS_STATE_DIR=str(mesh.folder / "no-folder"), ZMQTASKS_EXIT_WAIT_S="0.5",
    ).stderr  # fmt: skip
    assert "3 given up (tasks.add: 3), since the journal does not take them (" in said
    assert "ZMQTASKS_STATE_DIR" in said


def test_script_without_a_journal_waits_for_its_tasks(mesh: Mesh) -> None:
    """Nor has the worker one, so nobody can take them."""
    (mesh.folder / "no-folder").touch()
    state_dir = str(mesh.folder / "no-folder")
    mesh.start_node(name="w1", ZMQTASKS_STATE_DIR=state_dir)
    said = fire_and_forget(mesh, ZMQTASKS_STATE_DIR=state_dir)
    assert "given up" not in said
    assert "handed" not in said
    wait_all_ran(mesh)


def test_script_that_has_its_results_leaves_nothing_and_says_nothing(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(
        """
        import sys
        from tasks import add
        print(add.delay(1, 2).get(timeout=10))
        print("sqlite3" in sys.modules)
        """,
        ZMQTASKS_STATE_DIR=str(mesh.folder / "own"),
    )
    assert (done.stdout, done.stderr) == ("3\nFalse\n", "")
    assert not (mesh.folder / "own").exists()


# --- while it lives -----------------------------------------------------------------------


def test_durable_call_without_a_journal_is_refused_with_the_reason(mesh: Mesh) -> None:
    (mesh.folder / "no-folder").touch()
    done = mesh.run(
        f"""
        from tasks import keep
        from zmqtasks import SubmitRejected
        try:
            keep.delay({str(mesh.folder)!r}, 1)
        except SubmitRejected as exc:
            print(exc)
        """,
        ZMQTASKS_STATE_DIR=str(mesh.folder / "no-folder"),
    )
    assert "no-folder" in done.stdout
    assert "ZMQTASKS_STATE_DIR" in done.stdout
    assert "nothing was submitted" in done.stdout


def test_handles_of_tasks_that_a_broker_took_get_their_results(mesh: Mesh) -> None:
    mesh.start_node(roles="broker", name="b1")
    mesh.start_node(name="w1")
    done = mesh.run(
        """
        from tasks import add
        handles = [add.delay(number, 1) for number in range(50)]
        print([handle.get(timeout=10) for handle in handles] == list(range(1, 51)))
        print(add.delay_many((number, 1) for number in range(500)).get(timeout=20)
              == list(range(1, 501)))
        """,
        ZMQTASKS_QUEUE_ROUTES="*=broker",
    )
    assert done.stdout == "True\nTrue\n"


def test_state_of_a_task_that_a_broker_took_is_what_the_broker_says(mesh: Mesh) -> None:
    mesh.start_node(roles="broker", name="b1")
    mesh.start_node(name="w1")
    script = mesh.start(
        f"""
        from pathlib import Path
        from tasks import hold
        handle = hold.delay({str(mesh.folder)!r})
        while handle.state != "STARTED":
            pass
        print("started", flush=True)
        handle.get(timeout=20)
        print("ended", handle.state, flush=True)
        """,
        ZMQTASKS_QUEUE_ROUTES="*=broker",
    )
    script.wait_log("started")
    (mesh.folder / "go").touch()
    assert script.wait_log("ended") == "ended SUCCESS"
    assert script.wait() == 0
