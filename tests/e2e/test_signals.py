"""What signals make of a node, and what its exit code says."""

from __future__ import annotations

import json
import signal

import pytest

from tests.e2e.harness import Mesh, NodeProcess, wait_for

pytestmark = pytest.mark.e2e

_HOLDER = """
from tasks import add, hold
handle = hold.delay({folder!r}, "h0")
print("submitted", flush=True)
print("held", handle.get(timeout=30) > 0, flush=True)
print("sum", add.delay(1, 2).get(timeout=30), flush=True)
"""


def _hold(mesh: Mesh) -> NodeProcess:
    client = mesh.start(_HOLDER.format(folder=str(mesh.folder)))
    client.wait_log("submitted")
    wait_for(lambda: _runs(mesh), "the task runs")
    return client


def _runs(mesh: Mesh) -> list[int]:
    path = mesh.folder / "h0.started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _go(mesh: Mesh) -> None:
    (mesh.folder / "h0.go").touch()


def _count(node: NodeProcess, text: str) -> int:
    return node.log.count(text)


def test_third_signal_ends_a_node_and_its_children_at_once(mesh: Mesh) -> None:
    """Its caller is stopped, so that nobody hears the goodbye that the second one has it say."""
    node = mesh.start_node("-c", "1", name="w1")
    client = _hold(mesh)
    client.signal(signal.SIGSTOP)
    node.signal(signal.SIGTERM)
    node.wait_log("draining")
    node.killed = True  # its files stay
    node.signal(signal.SIGSTOP)  # so that it sees both at once
    node.signal_again(signal.SIGTERM)
    node.signal(signal.SIGINT)
    node.signal(signal.SIGCONT)
    assert node.wait() == 130
    wait_for(lambda: set(mesh.pids()) <= {client.pid}, "its children end")
    client.signal(signal.SIGCONT)
    mesh.start_node(name="w2")
    _go(mesh)
    client.wait_log("sum 3")


def test_exit_code_says_that_tasks_had_to_be_ended(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1", "--drain-timeout-s", "0.2")
    client = _hold(mesh)
    assert node.stop() == 3
    assert "the time to drain is over: 1 running task will run elsewhere" in node.log
    mesh.start_node()
    _go(mesh)
    client.wait_log("sum 3")


def test_hangup_restarts_a_node_in_place(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1", name="w1")
    before = _identity(mesh, "w1")
    client = _hold(mesh)
    mesh.write("tasks.py", (mesh.code / "tasks.py").read_text() + "\n\n@app.task\ndef new(): ...\n")
    node.signal(signal.SIGHUP)
    node.wait_log("restarting")
    node.signal(signal.SIGHUP)  # is on its way already
    other = mesh.start_node("-c", "1", name="w2")
    done = mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert done.stdout == "3\n", "what arrives meanwhile runs elsewhere"
    assert _count(node, "is up") == 1, "it finishes what it runs"
    _go(mesh)
    client.wait_log("held True")
    wait_for(lambda: _count(node, "is up") == 2, "it starts again")
    assert len(_runs(mesh)) == 1
    assert _identity(mesh, "w1") == before, "the same process, name and journal"
    assert "tasks.new" in node.log
    assert other.stop() == 0
    client.wait_log("sum 3")
    assert node.stop() == 0


def _identity(mesh: Mesh, name: str) -> tuple[int, str]:
    report = json.loads(mesh.cli("status", "--json").stdout)
    (node,) = [node for node in report["nodes"] if node["name"] == name]
    return node["pid"], node["node"]


def test_a_stop_is_stronger_than_a_restart(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1")
    client = _hold(mesh)
    node.signal(signal.SIGHUP)
    node.wait_log("restarting")
    node.signal(signal.SIGTERM)
    node.wait_log("draining: 1 running task here")
    _go(mesh)
    assert node.wait() == 0
    assert _count(node, "is up") == 1
    mesh.start_node()
    client.wait_log("sum 3")


def test_a_hangup_while_the_application_is_imported_restarts_the_node_when_it_is_up(
    mesh: Mesh,
) -> None:
    mesh.write("tasks.py", f"""
        import pathlib, time
        from zmqtasks import App
        folder = pathlib.Path({str(mesh.folder)!r})
        (folder / "importing").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        app = App("shop")
    """)  # fmt: skip
    node = mesh.start_node(ready=False)
    wait_for((mesh.folder / "importing").exists, "the import has begun")
    node.signal(signal.SIGHUP)
    (mesh.folder / "go").touch()
    wait_for(lambda: _count(node, "is up") == 2, "it starts, and again")
    assert node.stop() == 0


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_stacks_of_a_node_and_of_its_tasks_go_into_the_log(mesh: Mesh, pool: str) -> None:
    node = mesh.start_node("-c", "2", "--pool", pool)
    client = _hold(mesh)
    node.signal(signal.SIGUSR1)
    node.wait_log("thread zmqtasks-io, most recent call last")
    node.wait_log(", in hold")
    assert "slot " in node.wait_log(" runs tasks.hold[")
    assert "most recent call first" not in node.log
    _go(mesh)
    client.wait_log("sum 3")
    assert len(_runs(mesh)) == 1, "no task was disturbed"
    assert node.stop() == 0


def test_stacks_of_a_solo_pool(mesh: Mesh) -> None:
    node = mesh.start_node("--pool", "solo")
    client = _hold(mesh)
    node.signal(signal.SIGUSR1)
    assert "tasks.py" in node.wait_log(", in hold")
    node.wait_log("thread MainThread, runs tasks.hold[")
    assert "stacks_text" not in node.log, "how the stacks were made is no news"
    _go(mesh)
    client.wait_log("sum 3")
    assert node.stop() == 0
