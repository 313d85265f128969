"""`zmqtasks node --reload` follows the code as it is written."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e


def test_a_node_follows_its_code_through_errors_too(mesh: Mesh) -> None:
    source = (mesh.code / "tasks.py").read_text()
    node = mesh.start_node("-c", "1", "--reload")
    client = mesh.start(f"""
        from tasks import hold
        handle = hold.delay({str(mesh.folder)!r})
        print("submitted", flush=True)
        print("held", handle.get(timeout=30) > 0, flush=True)
    """)
    wait_for((mesh.folder / "held.started").exists, "the task runs")
    mesh.write("tasks.py", source + "\n\n@app.task\ndef new(): ...\n")
    node.wait_log("code.changed: tasks.py")
    node.wait_log("draining: 1 running task here")
    (mesh.folder / "held.go").touch()
    client.wait_log("held True")
    wait_for(lambda: "tasks.new" in node.log, "it has the new task")
    assert len((mesh.folder / "held.started").read_text().split()) == 1

    mesh.write("tasks.py", source + "\n\ndef broken(:\n")
    node.wait_log("SyntaxError")
    node.wait_log("starts again when the code changes")
    mesh.write("tasks.py", source)
    wait_for(lambda: node.log.count("is up") == 3, "it starts again")
    mesh.write("tasks.py", source + "\n\ndef broken(:\n")
    wait_for(lambda: node.log.count("starts again when") == 2, "it waits again")
    node.signal(signal.SIGINT)
    assert node.wait() == 130
