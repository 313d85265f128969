"""A task that takes whole worker nodes with it is set aside, and what ran beside it is not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.harness import running_mesh
from zmqtasks.limits import AMONG_MAX, STRIKES_MAX

pytestmark = pytest.mark.e2e

APP = """
import os, signal, time
from pathlib import Path
from zmqtasks import App

app = App("shop")


@app.task
def kill(folder):
    "Once the others run here, too, kill the node and everything of it."
    pid = int((Path(folder) / "pid").read_text())
    time.sleep(0.15)
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)


@app.task
def rest(folder):
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    return "rested"
"""


def test_a_task_that_kills_nodes_is_dead_after_five_and_its_company_lives(tmp_path: Path) -> None:
    with running_mesh(tmp_path, name="killer", source=APP) as mesh:
        client = mesh.start(
            f"""
            from tasks import kill, rest
            killer = kill.delay({str(mesh.folder)!r})
            others = [rest.delay({str(mesh.folder)!r}) for _ in range(3)]
            print(repr(killer.get(propagate=False)), flush=True)
            print([other.get() for other in others])
            """
        )
        for number in range(AMONG_MAX + STRIKES_MAX):
            assert "TaskDead" not in client.log
            node = mesh.start_node("--concurrency", "4", name=f"w{number}", ready=False)
            (mesh.folder / "pid").write_text(str(node.pid))
            assert node.wait() == -signal.SIGKILL, node.log
            node.killed = True
        client.wait_log("TaskDead")
        (mesh.folder / "go").touch()
        mesh.start_node("--concurrency", "4", name="last")
        assert client.wait() == 0
        assert "['rested', 'rested', 'rested']" in client.log
