"""Tasks that wait for their time, on a real node: when they start, or that they do not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, wait_for
from tests.e2e.test_durability import WRITTEN_AFTER_S
from tests.e2e.test_retries import runs

pytestmark = pytest.mark.e2e

APP = '''
import time
from pathlib import Path
from zmqtasks import App

app = App("shop")


@app.task
def mark(folder, text):
    """Leave a line for each run."""
    with open(Path(folder) / "ran", "a") as file:
        file.write(f"{text} {time.time():.3f}\\n")
    return text


@app.task
def hold(folder):
    """Run until it may end."""
    (Path(folder) / "held").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)
'''


@pytest.fixture
def mesh(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", APP)
    return mesh


def started(folder: Path) -> dict[str, float]:
    """{task: when it started}."""
    return {words[0]: float(words[-1]) for words in runs(folder)}


def test_tasks_start_when_they_are_due_and_not_before(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    begun = time.time()
    mesh.run(f"""
        from datetime import datetime, timedelta, timezone
        from tasks import mark
        folder = {str(mesh.folder)!r}
        eta = datetime.now(timezone.utc) + timedelta(seconds=0.9)
        results = [
            mark.apply_async((folder, "countdown"), countdown=0.6),
            mark.apply_async((folder, "eta"), eta=eta),
            mark.apply_async((folder, "past"), eta=eta - timedelta(days=1)),
            mark.delay(folder, "now"),
        ]
        print([result.get(timeout=15) for result in results])
        """)
    at = started(mesh.folder)
    assert at["countdown"] >= begun + 0.6
    assert at["eta"] >= begun + 0.9
    assert sorted(at) == ["countdown", "eta", "now", "past"]


def test_why_a_task_waits_and_until_when_is_told(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    client = mesh.start(f"""
        from tasks import mark
        result = mark.apply_async(({str(mesh.folder)!r}, "x"), countdown=3600)
        print("id", result.id, result.state, flush=True)
        result.get(timeout=60)
        """)
    task_id = client.wait_log("id ").split()[1]
    assert "it is not to start before its eta, in 60 min" in mesh.cli("story", task_id).stdout
    nodes = json.loads(mesh.cli("status", "--json").stdout)["nodes"]
    assert [node["producer"]["scheduled"] for node in nodes if node["producer"]["open"]] == [1]
    assert mesh.cli("control", "revoke", task_id).returncode == 0
    client.wait_log("TaskRevokedError")


def test_tasks_that_expire_before_they_are_started_do_not_run(mesh: Mesh) -> None:
    mesh.start_node("--concurrency", "1", name="w1")
    done = mesh.run(f"""
        import time
        from pathlib import Path
        from tasks import hold, mark
        from zmqtasks import TaskExpired
        folder = {str(mesh.folder)!r}
        held = hold.delay(folder)
        while not Path(folder, "held").exists():
            time.sleep(0.01)
        results = [
            mark.apply_async((folder, "at the worker or before"), expires=0.5),
            mark.apply_async((folder, "when it is due"), countdown=0.1, expires=0.5),
            mark.apply_async((folder, "long enough"), expires=60),
        ]
        for result in results[:2]:
            try:
                result.get(timeout=10)
            except TaskExpired:
                print(result.state)
        Path(folder, "go").touch()
        held.get(timeout=10)
        print(results[2].get(timeout=10))
        """)
    assert done.stdout.split("\n")[:3] == ["REVOKED", "REVOKED", "long enough"]
    assert list(started(mesh.folder)) == ["long"]


def test_a_task_that_waits_can_be_revoked(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import app, mark
        from zmqtasks import TaskRevokedError
        folder = {str(mesh.folder)!r}
        waits = [mark.apply_async((folder, "never"), countdown=30) for _ in range(3)]
        after = mark.apply_async((folder, "after"), countdown=0.5)
        waits[0].revoke()
        app.control.revoke([waits[1].id, waits[2].id])
        for result in waits:
            try:
                result.get(timeout=10)
            except TaskRevokedError:
                print(result.state)
        print(after.get(timeout=10))
        """)
    assert done.stdout.split() == ["REVOKED"] * 3 + ["after"]
    assert list(started(mesh.folder)) == ["after"]


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_what_waits_for_its_time_outlives_a_killed_owner(mesh: Mesh, durability: str) -> None:
    # What waits in memory is on the disk after a second.
    client = mesh.start(f"""
        import time
        from tasks import mark
        folder = {str(mesh.folder)!r}
        due = time.time() + 6
        for number in range(20):
            mark.apply_async((folder, str(number)), countdown=6, durability={durability!r})
        if {durability!r} == "memory":
            time.sleep({WRITTEN_AFTER_S})
        print("due", due, flush=True)
        time.sleep(60)
        """)
    due = float(client.wait_log("due").split()[-1])
    client.kill()
    mesh.start_node(name="w1")
    wait_for(lambda: len(started(mesh.folder)) == 20, "all run")
    assert len(runs(mesh.folder)) == 20
    assert min(started(mesh.folder).values()) >= due


def test_a_broker_holds_what_a_script_that_ended_wants_done_later(mesh: Mesh) -> None:
    broker = mesh.start_node(roles="broker", name="b1")
    begun = time.time()
    said = mesh.run(f"""
        from tasks import mark
        for number in range(10):
            mark.apply_async(({str(mesh.folder)!r}, str(number)), countdown=3)
        """).stderr
    assert "10 handed to b1" in said
    broker.kill()
    mesh.start_node(roles="broker", name="b2").wait_log("goes on with 10 that were there")
    mesh.start_node(name="w1")
    wait_for(lambda: len(started(mesh.folder)) == 10, "all run")
    assert len(runs(mesh.folder)) == 10
    assert min(started(mesh.folder).values()) >= begun + 3
