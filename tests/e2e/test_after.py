"""Tasks that wait for others to succeed, on real nodes."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Mesh, wait_for
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
        file.write(f"{text}\\n")
    return text


@app.task
def hold(folder, error=""):
    """Run until it may end."""
    (Path(folder) / "held").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)
    if error:
        raise ValueError(error)


@app.task
def order(folder):
    """Submit one task after another."""
    first = mark.delay(folder, "first")
    return mark.apply_async((folder, "second"), after=first).id
'''


@pytest.fixture
def mesh(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", APP)
    return mesh


def test_a_task_starts_when_those_that_it_waits_for_have_succeeded(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from pathlib import Path
        from tasks import hold, mark
        folder = {str(mesh.folder)!r}
        first = hold.delay(folder)
        second = mark.apply_async((folder, "second"), after=[first, mark.delay(folder, "other")])
        third = mark.apply_async((folder, "third"), after=second.id)
        while not (Path(folder) / "held").exists():
            pass
        print(third.story().why)
        print(mark.delay(folder, "beside").get(timeout=20))
        (Path(folder) / "go").touch()
        print(third.get(timeout=20))
    """)
    lines = done.stdout.splitlines()
    assert "it waits for 1 other task, of which the first is" in lines[0]
    assert lines[1:] == ["beside", "third"]
    assert [words[0] for words in runs(mesh.folder)][-2:] == ["second", "third"]


def test_a_task_ends_with_the_one_that_it_waits_for(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from pathlib import Path
        from tasks import hold, mark
        folder = {str(mesh.folder)!r}
        first = hold.delay(folder, "paper jam")
        second = mark.apply_async((folder, "second"), after=first)
        third = mark.apply_async((folder, "third"), after=second)
        (Path(folder) / "go").touch()
        both = mark.apply_async((folder, "both"), after=[first, second])
        print(repr(third.get(timeout=20, propagate=False)))
        print(both.get(timeout=20, propagate=False))
        print(second.state, third.state, first.id)
    """)
    raised, said, states = done.stdout.splitlines()
    second, third, first = states.split()
    assert (second, third) == ("FAILURE", "FAILURE")
    assert "paper jam" in raised
    assert f"it did not run, because task {first} has not succeeded" in said
    assert runs(mesh.folder) == []


def test_what_waits_goes_on_when_its_script_has_ended(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    mesh.run(f"""
        from tasks import hold, mark
        folder = {str(mesh.folder)!r}
        first = hold.delay(folder)
        second = mark.apply_async((folder, "second"), after=first)
        mark.apply_async((folder, "third"), after=second)
    """)
    (mesh.folder / "go").touch()
    wait_for(lambda: len(runs(mesh.folder)) == 2, "both to run")
    assert [words[0] for words in runs(mesh.folder)] == ["second", "third"]


def test_what_a_task_submits_may_wait_for_another_one(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import app, order
        print(app.AsyncResult(order.delay({str(mesh.folder)!r}).get(timeout=20)).get(timeout=20))
    """)
    assert done.stdout == "second\n"
    assert [words[0] for words in runs(mesh.folder)] == ["first", "second"]


def test_the_command_line_may_say_it_too(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    first = mesh.cli("call", "tasks.mark", str(mesh.folder), "first", "--no-wait").stdout.strip()
    done = mesh.cli("call", "tasks.mark", str(mesh.folder), "second", "--after", first)
    assert done.stdout == "second\n", done.stderr
