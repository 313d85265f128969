"""Beats: periodic tasks are started by one of them, whichever is there."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from tests.e2e.harness import APP, Mesh, NodeProcess, wait_for
from zmqtasks.ids import tick_task_id

#: Each run of a tick leaves a line with its id.
SOURCE = """
from pathlib import Path
from zmqtasks import App, chain

app = App("shop")


@app.task(bind=True)
def mark(self, folder):
    with open(Path(folder) / "ran", "a") as file:
        file.write(f"{self.request.id}\\n")
    return "done"


@app.task
def told(value, folder):
    (Path(folder) / "told").write_text(value)


FOLDER = %r
app.conf.beat_schedule = {
    "often": {"task": "tasks.mark", "schedule": 0.25, "args": (FOLDER,), "missed": "all"%s},
}
"""
STEP_MS = 250


def with_ticks(mesh: Mesh, more: str = "") -> None:
    """A schedule that is due four times a second."""
    mesh.write("tasks.py", SOURCE % (str(mesh.folder), more))


def ran(folder: Path) -> list[bytes]:
    """Ids of the tasks that ran, in order."""
    path = folder / "ran"
    lines = path.read_text().splitlines() if path.exists() else []
    return [uuid.UUID(line).bytes for line in lines]


def wait_for_all(mesh: Mesh) -> None:
    """Wait until all ticks from the first to the last one that ran have run."""
    now_ms = int(time.time() * 1000) // STEP_MS * STEP_MS
    dues = range(now_ms - 300_000, now_ms + 60_000, STEP_MS)
    due_of = {tick_task_id(mesh.name, "shop", "often", due_ms): due_ms for due_ms in dues}

    def is_whole() -> bool:
        # What ran is of ticks, and of all of them.
        found = sorted(due_of[task_id] for task_id in set(ran(mesh.folder)))
        return found == list(range(found[0], found[-1] + 1, STEP_MS))

    wait_for(is_whole, "each tick that was due has run")


def starts(node: NodeProcess) -> bool:
    return "this node starts the ticks of app shop" in node.log


def more_run(mesh: Mesh, count: int = 4) -> None:
    """Wait until so many more have run than have now."""
    before = len(set(ran(mesh.folder)))
    wait_for(lambda: len(set(ran(mesh.folder))) >= before + count, "ticks run")


def test_the_next_beat_goes_on_when_the_leader_is_killed_and_no_tick_is_missing(
    mesh: Mesh,
) -> None:
    with_ticks(mesh)
    mesh.start_node(name="w1")
    first = mesh.start_node(roles="beat", name="b1")
    first.wait_log("starts the periodic tasks of app shop: often (every 0.25 s)")
    first.wait_log("this node starts the ticks of app shop")
    second = mesh.start_node(roles="beat", name="b2")
    second.wait_log("b1 starts the ticks of app shop")
    more_run(mesh)
    first.kill()
    second.wait_log("this node starts the ticks of app shop")
    more_run(mesh)
    wait_for_all(mesh)


def test_of_several_beats_one_starts_each_tick(mesh: Mesh) -> None:
    with_ticks(mesh)
    mesh.start_node(name="w1")
    beats = [mesh.start_node(roles="beat", name="b1")]
    beats[0].wait_log("this node starts the ticks of app shop")
    beats += [mesh.start_node(roles="beat", name=name) for name in ("b2", "b3")]
    for beat in beats[1:]:
        beat.wait_log("b1 starts the ticks of app shop")
    more_run(mesh, 8)
    assert [starts(beat) for beat in beats] == [True, False, False]
    found = ran(mesh.folder)
    assert len(found) == len(set(found))


def test_the_only_beat_knows_what_it_missed_when_it_is_started_again(mesh: Mesh) -> None:
    with_ticks(mesh)
    mesh.start_node(name="w1")
    beat = mesh.start_node(roles="beat", name="b1")
    more_run(mesh)
    beat.kill()
    before = len(set(ran(mesh.folder)))
    mesh.start_node(roles="beat", name="b1")
    wait_for(lambda: len(set(ran(mesh.folder))) >= before + 8, "ticks run")
    wait_for_all(mesh)


def test_a_node_may_be_worker_and_beat(mesh: Mesh) -> None:
    with_ticks(mesh, more=', "options": {"durability": "disk"}')
    node = mesh.start_node(roles="worker,beat", name="n1")
    more_run(mesh)
    assert node.stop() == 0
    assert not mesh.children_of(node)


def test_a_tick_may_be_a_workflow(mesh: Mesh) -> None:
    with_ticks(mesh)
    source = (mesh.code / "tasks.py").read_text()
    flow = """
app.conf.beat_schedule = {
    "flow": {"task": chain(mark.s(FOLDER), told.s(FOLDER)), "schedule": 0.5},
}
"""
    mesh.write("tasks.py", source + flow)
    mesh.start_node(roles="worker,beat", name="n1")
    told = mesh.folder / "told"
    wait_for(lambda: told.exists() and told.read_text() == "done", "the second task has run")


def test_a_killed_process_with_the_schedules_is_replaced(mesh: Mesh) -> None:
    with_ticks(mesh)
    mesh.start_node(name="w1")
    beat = mesh.start_node(roles="beat", name="b1")
    more_run(mesh)
    for pid in mesh.children_of(beat):
        os.kill(pid, signal.SIGKILL)
    beat.wait_log("the process that has the application of this beat: it has ended (killed by")
    more_run(mesh, 8)
    wait_for_all(mesh)


def test_a_beat_without_an_application_says_what_is_wrong(mesh: Mesh) -> None:
    mesh.write("tasks.py", "from zmqtasks import App\napp = App('shop')\n1 / 0\n")
    beat = mesh.start_node(roles="beat", name="b1", ready=False)
    assert beat.wait() == 2
    assert "importing 'tasks' failed: ZeroDivisionError" in beat.log


def listed(mesh: Mesh) -> dict[str, Any]:
    """What ``zmqtasks beat list`` says of the entry."""
    apps = json.loads(mesh.cli("beat", "list", "--json").stdout)["apps"]
    entry: dict[str, Any] = apps[0]["entries"][0] | {"leader": apps[0]["leader"]}
    return entry


def test_what_people_order_holds_whichever_beat_leads_and_after_a_restart(mesh: Mesh) -> None:
    with_ticks(mesh)
    mesh.start_node(name="w1")
    first = mesh.start_node(roles="beat", name="b1")
    more_run(mesh)
    second = mesh.start_node(roles="beat", name="b2")
    second.wait_log("b1 starts the ticks of app shop")
    before = listed(mesh)
    assert before["leader"] == "b1"
    assert before["schedule"] == "every 0.25 s"
    assert before["next_ms"] >= before["last_ms"]
    assert mesh.cli("beat", "pause", "often").returncode == 0
    said = "entry often is paused, as it was ordered to"
    assert said in first.log + second.log, "one of them hears of it from the other"
    first.kill()
    second.wait_log("this node starts the ticks of app shop")
    paused = listed(mesh)
    assert (paused["leader"], paused["paused"]) == ("b2", True)
    wait_for(lambda: not listed(mesh)["open"], "what was started has ended")
    count = len(ran(mesh.folder))
    by_hand = mesh.cli("beat", "run", "often").stdout.strip()
    wait_for(lambda: uuid.UUID(by_hand).bytes in ran(mesh.folder), "it runs, though it is paused")
    assert len(ran(mesh.folder)) == count + 1
    assert second.stop() == 0
    mesh.start_node(roles="beat", name="b3").wait_log("this node starts the ticks of app shop")
    again = listed(mesh)
    assert (again["leader"], again["paused"], again["last_status"]) == ("b3", True, 0)
    assert mesh.cli("beat", "resume", "often").returncode == 0
    more_run(mesh)
    went_on = listed(mesh)
    assert not went_on["paused"]
    assert went_on["skipped_paused"] >= 1
    assert mesh.cli("beat", "pause", "seldom").returncode == 1


def test_a_tick_whose_beat_dies_while_it_runs_has_one_outcome(mesh: Mesh) -> None:
    entry = """
app.conf.beat_schedule = {
    "held": {"task": "tasks.hold", "schedule": 1.0, "args": (%r,), "overlap": "skip"},
}
"""
    mesh.write("tasks.py", APP + entry % str(mesh.folder))
    mesh.start_node(name="w1")
    first = mesh.start_node(roles="beat", name="b1")
    wait_for(lambda: (mesh.folder / "held.started").exists(), "the first tick runs")
    second = mesh.start_node(roles="beat", name="b2")
    second.wait_log("b1 starts the ticks of app shop")
    first.kill()
    second.wait_log("this node starts the ticks of app shop")
    second.wait_log("before it have not ended")
    assert listed(mesh)["open"] == 1
    (mesh.folder / "held.go").touch()
    wait_for(lambda: listed(mesh)["last_status"] == 0, "it has ended")
    wait_for(lambda: listed(mesh)["started"] >= 2, "further ticks are started")
