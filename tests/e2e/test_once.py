"""Tasks that must not run twice are started at most once, whoever calls them."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

_APP = """
    import os, signal
    from zmqtasks import App
    app = App("shop")

    @app.task(idempotent=False)
    def die(path: str) -> None:
        with open(path, "a") as file:
            file.write("ran\\n")
        os.kill(os.getpid(), signal.SIGKILL)
"""

_HOLD = """
    import time
    from pathlib import Path
    from zmqtasks import App
    app = App("shop")

    @app.task(idempotent=False)
    def hold(folder: str) -> None:
        folder = Path(folder)
        with open(folder / "started", "a") as file:
            file.write("ran\\n")
        while not (folder / "go").exists():
            time.sleep(0.005)
        (folder / "ended").touch()
"""

_CALL_HOLD = """
    from zmqtasks import App, WorkerLostError
    try:
        App("shop").send_task("extra.hold", ({folder!r},)).get(timeout=60)
    except WorkerLostError as exc:
        print(type(exc).__name__, exc)
"""


def test_task_whose_child_dies_has_run_once(mesh: Mesh) -> None:
    mesh.write("extra.py", _APP)
    mesh.start_node("--app", "extra", name="w1")
    ran = mesh.folder / "ran"
    done = mesh.run(f"""
        from extra import die
        from zmqtasks import WorkerLostError
        try:
            die.delay({str(ran)!r}).get(timeout=10)
        except WorkerLostError as exc:
            print("lost", type(exc) is WorkerLostError, exc)
    """)
    assert done.stdout.startswith("lost True task ")
    assert "extra.die is not idempotent, so it is not started again" in done.stdout
    assert ran.read_text() == "ran\n"


def test_so_has_one_that_is_called_by_its_name_alone(mesh: Mesh) -> None:
    mesh.write("extra.py", _APP)
    mesh.start_node("--app", "extra", name="w1")
    ran = mesh.folder / "ran"
    done = mesh.cli("call", "extra.die", str(ran))
    assert (done.returncode, done.stdout) == (1, "")
    assert "WorkerLostError" in done.stderr
    assert "extra.die is not idempotent, so it is not started again" in done.stderr
    assert ran.read_text() == "ran\n"


def test_called_by_its_name_alone_it_ends_with_its_worker(mesh: Mesh) -> None:
    """And not before another worker comes, which would refuse it."""
    mesh.write("extra.py", _HOLD)
    worker = mesh.start_node("--app", "extra", name="w1")
    client = mesh.start(_CALL_HOLD.format(folder=str(mesh.folder)))
    started = mesh.folder / "started"
    wait_for(started.exists, "it runs")
    worker.kill()
    client.wait_log("WorkerLostError")
    assert "extra.hold is not idempotent, so it is not started again" in client.log
    assert client.wait() == 0
    assert started.read_text() == "ran\n"


def test_called_so_it_waits_at_a_broker_that_is_started_again(mesh: Mesh) -> None:
    """No worker was in sight when it was called, none had it when the broker died."""
    mesh.write("extra.py", _HOLD)
    own = str(mesh.folder / "broker")
    broker = mesh.start_node(roles="broker", name="b1", ZMQTASKS_STATE_DIR=own)
    done = mesh.run(
        f"""
        from zmqtasks import App
        App("shop").send_task("extra.hold", ({str(mesh.folder)!r},))
        """,
        ZMQTASKS_QUEUE_ROUTES="*=broker",
    )
    assert "1 handed to b1" in done.stderr
    broker.kill()
    mesh.start_node(roles="broker", name="b2", ZMQTASKS_STATE_DIR=own)
    (mesh.folder / "go").touch()
    mesh.start_node("--app", "extra", name="w1")
    started = mesh.folder / "started"
    wait_for(lambda: (mesh.folder / "ended").exists(), "it has run")
    assert started.read_text() == "ran\n"
