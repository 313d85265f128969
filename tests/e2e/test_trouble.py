"""What happens when nobody can run a task: said at once, and it runs when somebody can."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.harness import Mesh

pytestmark = pytest.mark.e2e

_OTHER_SIGNATURE = """
from zmqtasks import App
app = App("shop")

@app.task
def add(a, b, c=0):
    return "other"
"""
_OTHER_APP = """
from zmqtasks import App
app = App("bank")

@app.task
def add(x: int, y: int) -> int:
    return x + y
"""

#: Submits, shows that the handle stays PENDING, and waits.
_CALLER = """
from zmqtasks import App
app = App("shop")
handle = app.send_task({name!r}, (2, 3), queue={queue!r})
print("state", handle.state, flush=True)
print("value", handle.get(timeout=30), flush=True)
"""


def test_unknown_task_waits_is_warned_of_and_runs_when_a_worker_joins(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    client = mesh.start(_CALLER.format(name="extra.twice", queue="default"))
    client.wait_log("state PENDING")
    warning = client.wait_log("waits: ")
    assert "task 'extra.twice' (app 'shop', queue 'default')" in warning
    assert "'tasks.add'" in warning
    waiting = mesh.cli("status")
    assert "1 × extra.twice (app 'shop', queue 'default')" in waiting.stdout
    mesh.write(
        "extra.py",
        """
        from zmqtasks import App
        app = App("shop")

        @app.task
        def twice(x, y):
            return [x, y] * 2
    """,
    )
    mesh.start_node("--app", "extra", name="w2")
    client.wait_log("value [2, 3, 2, 3]")
    assert client.wait() == 0
    assert client.log.count("waits: ") == 1


def test_queue_that_nobody_serves(mesh: Mesh) -> None:
    mesh.start_node("--queues", "default,mail", name="w1")
    client = mesh.start(_CALLER.format(name="tasks.add", queue="images"))
    client.wait_log("state PENDING")
    warning = client.wait_log("waits: ")
    assert "no present worker that knows the task serves queue 'images'" in warning
    assert "they serve 'default', 'mail'" in warning
    mesh.start_node("--queues", "images", name="w2")
    client.wait_log("value 5")


def test_no_worker_at_all(mesh: Mesh) -> None:
    client = mesh.start(_CALLER.format(name="tasks.add", queue="default"))
    client.wait_log("state PENDING")
    assert "no worker is in sight" in client.wait_log("waits: ")
    mesh.start_node()
    client.wait_log("value 5")


def test_at_most_once_says_so_as_well(mesh: Mesh) -> None:
    client = mesh.start("""
        from tasks import add
        handle = add.apply_async((2, 3), delivery="at_most_once")
        print("state", handle.state, flush=True)
        print("value", handle.get(timeout=30), flush=True)
    """)
    client.wait_log("state PENDING")
    assert "no worker is in sight" in client.wait_log("waits: ")
    assert "1 × tasks.add (app 'shop', queue 'default')" in mesh.cli("status").stdout
    mesh.start_node()
    client.wait_log("value 5")
    assert client.wait() == 0


def test_require_worker_raises_instead_of_waiting(mesh: Mesh) -> None:
    code = """
        from tasks import add
        from zmqtasks import NoWorkers
        try:
            add.apply_async((1, 2), queue={queue!r}, require_worker=0.2)
        except NoWorkers as exc:
            print(exc)
    """
    assert "no worker is in sight" in mesh.run(code.format(queue="default")).stdout
    mesh.start_node()
    text = mesh.run(code.format(queue="q2")).stdout
    assert "serves queue 'q2'; they serve 'default'; nothing was submitted" in text
    done = mesh.run("""
        from tasks import add
        print(add.apply_async((1, 2), require_worker=10).get(timeout=10))
    """)
    assert done.stdout == "3\n"


def test_another_signature_is_not_mixed_and_said(mesh: Mesh) -> None:
    mesh.write("old/tasks.py", _OTHER_SIGNATURE)
    mesh.start_node(name="old", beside="old")
    client = mesh.start("""
        from tasks import add
        print("value", add.delay(2, 3).get(timeout=30), flush=True)
    """)
    warning = client.wait_log("waits: ")
    assert "add(x: int, y: int) -> int" in warning
    assert "add(a, b, c=0)" in warning
    mesh.start_node(name="new")
    client.wait_log("value 5")


def test_another_app_is_not_mixed_and_said(mesh: Mesh) -> None:
    mesh.write("bank/tasks.py", _OTHER_APP)
    mesh.start_node(name="bank", beside="bank")
    client = mesh.start("""
        from tasks import add
        print("value", add.delay(2, 3).get(timeout=30), flush=True)
    """)
    assert "only of app 'bank'" in client.wait_log("waits: ")
    mesh.start_node(name="shop")
    client.wait_log("value 5")


def test_worker_that_leaves_is_missed(mesh: Mesh) -> None:
    node = mesh.start_node(name="w1")
    client = mesh.start(f"""
        import sys
        from tasks import add
        print(add.delay(1, 1).get(timeout=10), flush=True)
        while not __import__("os").path.exists({str(mesh.folder / "go")!r}):
            __import__("time").sleep(0.01)
        handle = add.delay(2, 3)
        print("value", handle.get(timeout=30), flush=True)
    """)
    client.wait_log("2")
    assert node.stop() == 0
    (mesh.folder / "go").touch()
    assert "no worker is in sight" in client.wait_log("waits: ")
    mesh.start_node(name="w2")
    client.wait_log("value 5")


def test_process_without_journal_waits_at_its_end_for_what_nobody_takes(mesh: Mesh) -> None:
    (mesh.folder / "no-folder").touch()
    nowhere: dict[str, Any] = {"ZMQTASKS_STATE_DIR": str(mesh.folder / "no-folder")}
    node = mesh.start_node(**nowhere)
    done = mesh.run(
        f"""
        import threading
        from pathlib import Path
        from tasks import hold
        folder = Path({str(mesh.folder)!r})
        hold.delay(str(folder))

        def let_it_end():
            while not (folder / "held.started").exists():
                pass
            (folder / "held.go").touch()

        threading.Thread(target=let_it_end, daemon=True).start()
        """,
        **nowhere,
    )
    assert done.stdout == ""
    assert "given up" not in done.stderr
    assert (mesh.folder / "held.started").exists(), "it ran before the process ended"
    assert node.stop() == 0
