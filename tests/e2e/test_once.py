"""Tasks that must not run twice are started at most once, whoever calls them."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh

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
