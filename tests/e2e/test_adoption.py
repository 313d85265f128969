"""What a process leaves in its journal when it dies is run by the others of its host."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.e2e.harness import Mesh, NodeProcess, wait_for

#: Durable calls of ``mark``; then the script is killed at its "submitted".
SUBMIT = """
    import sys, time
    from tasks import mark
    for number in range({count}):
        mark.apply_async(({folder!r}, number), durability="disk", queue={queue!r})
    print("submitted", flush=True)
    time.sleep(600)
"""
MARK = '''

@app.task
def mark(folder, number):
    """Leave a line for each run."""
    with open(Path(folder) / "ran", "a") as file:
        file.write(f"{number}\\n")
'''


def with_mark(mesh: Mesh) -> None:
    source = (mesh.code / "tasks.py").read_text()
    mesh.write("tasks.py", source + MARK)


def ran(folder: Path) -> list[int]:
    """The numbers of the tasks that ran, one for each run."""
    path = folder / "ran"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def nodes(mesh: Mesh) -> list[dict[str, Any]]:
    """What each node says of itself."""
    found: list[dict[str, Any]] = json.loads(mesh.cli("status", "--json").stdout)["nodes"]
    return found


def submit_and_die(mesh: Mesh, count: int, queue: str = "default") -> NodeProcess:
    """A script is killed when its durable calls have been accepted."""
    script = mesh.start(SUBMIT.format(count=count, folder=str(mesh.folder), queue=queue))
    script.wait_log("submitted")
    script.kill()
    return script


def test_a_worker_that_starts_runs_what_a_killed_script_left(mesh: Mesh) -> None:
    with_mark(mesh)
    submit_and_die(mesh, 20)
    worker = mesh.start_node(name="w1")
    worker.wait_log("goes on with 20 that were there")
    wait_for(lambda: ran(mesh.folder) == list(range(20)), "all 20 run once")


def test_a_node_that_runs_takes_over_at_once(mesh: Mesh) -> None:
    with_mark(mesh)
    other = mesh.start_node("--queues", "other", name="other")
    submit_and_die(mesh, 5)
    other.wait_log("took over 5 tasks that a process of this host left", 5.0)
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(5)), "all 5 run once")


def test_memory_tasks_that_waited_for_a_second_outlive_their_script(mesh: Mesh) -> None:
    with_mark(mesh)
    script = mesh.start(f"""
        import time
        from tasks import mark
        for number in range(10):
            mark.delay({str(mesh.folder)!r}, number)
        print("submitted", flush=True)
        time.sleep(600)
    """)
    script.wait_log("submitted")
    wait_for(lambda: nodes(mesh)[0].get("journal", {}).get("tasks") == 10, "all ten are written")
    script.kill()
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(10)), "all ten run once")


def test_what_runs_when_its_owner_dies_is_not_run_again(mesh: Mesh) -> None:
    """The worker is the heir of the script, and knows that it runs the attempt itself."""
    worker = mesh.start_node(name="w1")
    folder = str(mesh.folder)
    script = mesh.start(f"""
        import time
        from tasks import hold
        for name in ("a", "b"):
            hold.apply_async(({folder!r}, name), durability="disk")
        print("submitted", flush=True)
        time.sleep(600)
    """)
    wait_for(lambda: all((mesh.folder / f"{name}.started").exists() for name in "ab"), "both run")
    script.wait_log("submitted")
    script.kill()
    worker.wait_log("took over 2 tasks")
    for name in "ab":
        (mesh.folder / f"{name}.go").touch()
    wait_for(lambda: [node["producer"]["open"] for node in nodes(mesh)] == [0], "both settle")
    for name in "ab":
        assert len((mesh.folder / f"{name}.started").read_text().splitlines()) == 1


def test_of_several_nodes_one_takes_a_journal_over(mesh: Mesh) -> None:
    with_mark(mesh)
    others = [mesh.start_node("--queues", "other", name=f"other{n}") for n in range(4)]
    submit_and_die(mesh, 30)
    wait_for(lambda: any("took over" in node.log for node in others), "one takes over")
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(30)), "all 30 run once")
    assert sum(node.log.count("took over") for node in others) == 1


def test_the_tasks_of_a_killed_node_move_to_another_one(mesh: Mesh) -> None:
    with_mark(mesh)
    first = mesh.start_node("--queues", "other", name="first")
    submit_and_die(mesh, 8)
    first.wait_log("took over 8 tasks")
    second = mesh.start_node("--queues", "other", name="second")
    first.kill()
    second.wait_log("took over 8 tasks")
    mesh.start_node(name="w1")
    wait_for(lambda: ran(mesh.folder) == list(range(8)), "all 8 run once")


def test_a_damaged_journal_is_left_alone_until_it_is_salvaged(mesh: Mesh) -> None:
    with_mark(mesh)
    worker = mesh.start_node(name="w1")
    script = mesh.start(SUBMIT.format(count=3, folder=str(mesh.folder), queue="nobody"))
    script.wait_log("submitted")
    slot = mesh.folder / "state" / mesh.name / "journal" / "1"
    script.signal(signal.SIGSTOP)
    # Commits that were synced are missing.
    with (slot / "tasks" / "tasks.db-wal").open("r+b") as file:
        file.truncate(0)
    script.kill()
    line = worker.wait_log(f"zmqtasks journal salvage {slot}")
    assert "what is in slot 1 is left alone" in line
    # The journal of this one is the damaged one: the first that nobody uses.
    refused = mesh.start_node(name="w2", ready=False)
    assert refused.wait() == 2
    assert f"zmqtasks journal salvage {slot}" in refused.log
    salvaged = mesh.cli("journal", "salvage", str(slot))
    assert salvaged.returncode == 0, salvaged.stderr
    mesh.start_node(name="w3")
    assert worker.log.count("journal salvage") == 1, "said once"
