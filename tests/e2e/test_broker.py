"""Brokers: tasks wait there for workers, outlive their producer and the broker's own process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Mesh, wait_for
from tests.e2e.test_adoption import ran, with_mark

#: A script that submits and ends.
SUBMIT = """
    from tasks import mark
    for number in range({count}):
        mark.apply_async(({folder!r}, number), durability={durability!r})
"""


def submit(mesh: Mesh, count: int, durability: str = "memory", routes: str = "") -> str:
    """A script that ends at once; gives what it says of that."""
    code = SUBMIT.format(count=count, folder=str(mesh.folder), durability=durability)
    return mesh.run(code, ZMQTASKS_QUEUE_ROUTES=routes).stderr


def nodes(mesh: Mesh) -> dict[str, Any]:
    """What each node says of itself."""
    found = json.loads(mesh.cli("status", "--json").stdout)["nodes"]
    return {node["name"]: node for node in found}


def open_count(mesh: Mesh, name: str) -> int:
    count: int = nodes(mesh)[name]["producer"]["open"]
    return count


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_what_a_script_leaves_waits_at_a_broker_for_workers(mesh: Mesh, durability: str) -> None:
    with_mark(mesh)
    broker = mesh.start_node(roles="broker", name="b1")
    broker.wait_log("and goes on with 0 that were there")
    said = submit(mesh, 50, durability)
    assert "50 handed to b1" in said
    assert open_count(mesh, "b1") == 50
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(50)), "all 50 run once")
    wait_for(lambda: open_count(mesh, "b1") == 0, "all settle")


def test_a_broker_that_was_killed_goes_on_with_what_it_had(mesh: Mesh) -> None:
    with_mark(mesh)
    broker = mesh.start_node(roles="broker", name="b1")
    submit(mesh, 20)
    broker.kill()
    mesh.start_node(roles="broker", name="b2").wait_log("goes on with 20 that were there")
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(20)), "all 20 run once")


def test_a_producer_gets_results_through_a_broker_that_dies(mesh: Mesh) -> None:
    """Nothing but the queue's route says that a broker is in between."""
    own = str(mesh.folder / "broker")
    broker = mesh.start_node(roles="broker", name="b1", ZMQTASKS_STATE_DIR=own)
    mesh.start_node(name="w1")
    client = mesh.start(
        f"""
        from tasks import add, hold
        held = hold.delay({str(mesh.folder)!r}, "first")
        sums = [add.delay(n, n) for n in range(20)]
        print([one.get(timeout=60) for one in sums], flush=True)
        held.get(timeout=60)
        print("held", flush=True)
        """,
        ZMQTASKS_QUEUE_ROUTES="default=broker",
    )
    client.wait_log(str([2 * n for n in range(20)]))
    wait_for((mesh.folder / "first.started").exists, "the first one runs")
    assert open_count(mesh, "b1") == 1
    broker.kill()
    again = mesh.start_node(roles="broker", name="b2", ZMQTASKS_STATE_DIR=own)
    again.wait_log("goes on with 1 that were there")
    (mesh.folder / "first.go").touch()
    client.wait_log("held")
    assert client.wait() == 0
    assert len((mesh.folder / "first.started").read_text().splitlines()) == 1


def test_workers_in_sight_get_their_tasks_without_a_broker(mesh: Mesh) -> None:
    """A mesh may have both: what is not said to go through a broker goes straight."""
    mesh.start_node(roles="broker", name="b1")
    mesh.start_node(name="w1")
    done = mesh.run("""
        from tasks import add
        ids = [add.delay(n, n) for n in range(50)]
        print(sum(one.get(timeout=10) for one in ids))
    """)
    assert done.stdout == "2450\n"
    journal = nodes(mesh)["b1"]["journal"]
    assert (journal["tasks"], journal["waiting"]) == (0, 0)


def test_one_node_can_be_all_in_one(mesh: Mesh) -> None:
    with_mark(mesh)
    node = mesh.start_node(roles="broker,store,worker", name="all")
    assert "broker, store, worker" in node.log
    submit(mesh, 10, "disk")
    wait_for(lambda: ran(mesh.folder) == list(range(10)), "all run once")
    done = mesh.run("""
        from tasks import add
        print(add.delay(2, 3).get(timeout=10))
    """)
    assert done.stdout == "5\n"


def test_producers_use_another_broker_when_one_is_gone(mesh: Mesh) -> None:
    with_mark(mesh)
    brokers = [
        mesh.start_node(roles="broker", name=name, ZMQTASKS_STATE_DIR=str(mesh.folder / name))
        for name in ("b1", "b2")
    ]
    assert "10 handed to b" in submit(mesh, 10, routes="*=broker")
    first = brokers[0] if open_count(mesh, "b1") else brokers[1]
    first.kill()
    other = "b2" if first is brokers[0] else "b1"
    assert f"10 handed to {other}" in submit(mesh, 10, routes="*=broker")
    mesh.start_node(name="w1")
    wait_for(lambda: set(ran(mesh.folder)) == set(range(10)), "those of the second run")


# --- the end of a node ----------------------------------------------------------------------


def test_a_broker_that_stops_hands_over_what_it_owns(mesh: Mesh) -> None:
    with_mark(mesh)
    broker = mesh.start_node(roles="broker", name="b1")
    submit(mesh, 30)
    mesh.start_node("--queues", "other", name="w1")
    assert broker.stop() == 0
    assert "handed over 30 tasks: 30 to w1" in broker.log
    assert "stay in journal" not in broker.log
    mesh.start_node(name="w2")
    wait_for(lambda: ran(mesh.folder) == list(range(30)), "all 30 run once")


def test_a_node_that_nobody_takes_tasks_from_says_where_they_stay(mesh: Mesh) -> None:
    with_mark(mesh)
    broker = mesh.start_node(roles="broker", name="b1")
    submit(mesh, 30)
    assert broker.stop() == 0
    folder = mesh.folder / "state" / mesh.name / "journal" / "0"
    assert f"30 tasks stay in journal {folder}, for the next node on this host" in broker.log
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(30)), "all 30 run once")


def test_a_worker_that_drains_hands_over_what_it_owns(mesh: Mesh) -> None:
    """Its own running task ends first; what it owns besides goes on elsewhere."""
    with_mark(mesh)
    submit_code = f"""
        from tasks import hold, mark
        print(hold.apply_async(({str(mesh.folder)!r}, "long"), durability="disk").id)
        for number in range(10):
            mark.apply_async(({str(mesh.folder)!r}, number), durability="disk", queue="later")
    """
    task_id = mesh.run(submit_code, ZMQTASKS_EXIT_WAIT_S="0").stdout.strip()
    worker = mesh.start_node(name="w1")
    wait_for((mesh.folder / "long.started").exists, "the long one runs")
    other = mesh.start_node("--queues", "other", name="w2")
    worker.signal(15)
    worker.wait_log("draining: 1 running task here")
    # Meanwhile it is seen as what it is.
    shown = mesh.cli("status").stdout
    assert "draining; 1 of 2 slots" in shown, shown
    assert "11 open tasks" in shown, shown
    told = mesh.cli("story", task_id).stdout
    assert "owner:    w1, which is draining" in told, told
    called = mesh.cli("call", "tasks.mark", str(mesh.folder), "1")
    assert "serves queue 'default'; they serve 'other'" in called.stderr, called.stderr
    (mesh.folder / "long.go").touch()
    assert worker.wait() == 0
    assert "handed over 10 tasks: 10 to w2" in worker.log
    mesh.start_node("--queues", "later", name="w3")
    wait_for(lambda: ran(mesh.folder) == list(range(10)), "all ten run once")
    assert other.process.poll() is None
    assert len((mesh.folder / "long.started").read_text().splitlines()) == 1


def test_a_second_signal_stops_a_node_that_hands_over(mesh: Mesh) -> None:
    worker = mesh.start_node(name="w1")
    client = mesh.start(f"""
        from tasks import hold
        hold.delay({str(mesh.folder)!r}, "long").get(timeout=60)
    """)
    wait_for((mesh.folder / "long.started").exists, "it runs")
    worker.signal(15)
    worker.wait_log("draining")
    worker.signal_again(15)
    assert worker.wait(10.0) == 3, "a task was still running"
    (mesh.folder / "long.go").touch()
    client.kill()


# --- journals that fail ---------------------------------------------------------------------


def _unusable_state(mesh: Mesh) -> Path:
    path = mesh.folder / "state"
    path.write_text("no folder")
    return path


def test_a_broker_without_a_usable_folder_does_not_start(mesh: Mesh) -> None:
    path = _unusable_state(mesh)
    broker = mesh.start_node(roles="broker", ready=False)
    assert broker.wait() == 2
    (line,) = broker.log.splitlines()
    assert line.startswith("zmqtasks: error: a broker cannot do without a journal: ")
    assert str(path) in line
    assert "ZMQTASKS_STATE_DIR" in line


def test_a_worker_without_a_usable_folder_works_and_warns(mesh: Mesh) -> None:
    path = _unusable_state(mesh)
    worker = mesh.start_node(name="w1")
    assert "takes over no tasks of others" in worker.wait_log("journal.none")
    elsewhere = str(mesh.folder / "elsewhere")
    done = mesh.run(
        "from tasks import add; print(add.delay(2, 3).get(timeout=10))",
        ZMQTASKS_STATE_DIR=elsewhere,
    )
    assert done.stdout == "5\n"
    status = mesh.cli("status", ZMQTASKS_STATE_DIR=elsewhere).stdout
    assert "journals that fail:" in status
    assert str(path) in status


def test_a_broker_in_memory_says_what_it_cannot_promise(mesh: Mesh) -> None:
    memory = Path("/dev/shm")
    if not os.path.ismount(memory):
        pytest.skip("no file system in memory here")
    folder = memory / f"{os.getpid()}-{mesh.runtime.name}"
    folder.mkdir()
    try:
        with_mark(mesh)
        broker = mesh.start_node(roles="broker", name="b1", ZMQTASKS_STATE_DIR=str(folder))
        submit(mesh, 3, "disk")
        wait_for(lambda: open_count(mesh, "b1") == 3, "a broker takes them all the same")
        broker.wait_log("no power loss")
        assert "in memory, gone with the power" in mesh.cli("status").stdout
        broker.stop()
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
