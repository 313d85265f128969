"""Tasks that ask for another attempt, on a real node: counted, delayed, noted, told."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, wait_for

pytestmark = pytest.mark.e2e

APP = '''
import time
from pathlib import Path
from zmqtasks import App
from zmqtasks.exceptions import Reject

app = App("shop")


def leave(folder, text):
    with open(Path(folder) / "ran", "a") as file:
        file.write(f"{text} {time.time():.3f}\\n")


@app.task(bind=True, max_retries=5)
def flaky(self, folder, times, countdown=0.0):
    """Ask for a retry the first ``times`` times."""
    leave(folder, f"{self.request.retries} {self.request.redelivered}")
    if self.request.retries < times:
        raise self.retry(exc=OSError("not yet"), countdown=countdown)
    return self.request.retries


@app.task(bind=True, autoretry_for=(OSError,), max_retries=2, default_retry_delay=0)
def hopeless(self, folder):
    leave(folder, str(self.request.retries))
    raise OSError(f"failed {self.request.retries}")


@app.task(bind=True, default_retry_delay=0)
def other(self, folder, text):
    leave(folder, text)
    if text == "first":
        raise self.retry(args=(folder, "second"))
    return text


@app.task(bind=True, idempotent=False, default_retry_delay=0)
def pay(self, folder):
    leave(folder, str(self.request.retries))
    if self.request.retries < 2:
        raise self.retry(exc=OSError("the bank is busy"))
    return "paid"


@app.task(bind=True)
def declined(self, folder):
    """Not on the first try, says the task."""
    path = Path(folder) / "declined"
    if not path.exists():
        path.touch()
        raise Reject("not here", requeue=True)
    return self.request.retries
'''


@pytest.fixture
def mesh(mesh: Mesh) -> Mesh:
    mesh.write("tasks.py", APP)
    return mesh


def runs(folder: Path) -> list[list[str]]:
    """A line for each run, as words; the last one is when."""
    path = folder / "ran"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_a_task_is_tried_again_until_it_succeeds_and_each_retry_is_told(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import flaky
        result = flaky.delay({str(mesh.folder)!r}, 3, 0.05)
        print(result.get(timeout=15), result.retries)
        print(result.story())
        """)
    lines = done.stdout.splitlines()
    assert lines[0] == "3 3"
    # Counted apart from redeliveries, of which there were none.
    assert [words[:2] for words in runs(mesh.folder)] == [[str(n), "False"] for n in range(4)]
    told = [line for line in lines if "asked for a retry" in line]
    assert len(told) == 3
    assert "not yet" in told[0]
    assert "in 50 ms" in told[0]


def test_a_retry_waits_for_its_countdown_and_its_state_is_retry(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    client = mesh.start(f"""
        import time
        from tasks import flaky
        result = flaky.delay({str(mesh.folder)!r}, 1, 1.2)
        while result.state != "RETRY":
            time.sleep(0.01)
        print(result.state, result.retries, flush=True)
        print(result.story().why, flush=True)
        print("got", result.get(timeout=15), flush=True)
        """)
    client.wait_log("RETRY 1")
    assert "not yet" in client.wait_log("retry 1 after")
    client.wait_log("got 1")
    first, second = (float(words[-1]) for words in runs(mesh.folder))
    assert second - first >= 1.2


def test_when_retries_are_used_up_the_error_is_raised(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import hopeless
        result = hopeless.delay({str(mesh.folder)!r})
        try:
            result.get(timeout=15)
        except OSError as exc:
            print(exc, result.state, result.retries)
        """)
    assert done.stdout.strip() == "failed 2 FAILURE 2"
    assert len(runs(mesh.folder)) == 3


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_a_retry_may_bring_other_arguments(mesh: Mesh, durability: str) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import other
        args = ({str(mesh.folder)!r}, "first")
        print(other.apply_async(args, durability={durability!r}).get(timeout=15))
        """)
    assert done.stdout.strip() == "second"
    assert [words[0] for words in runs(mesh.folder)] == ["first", "second"]


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_what_is_not_idempotent_is_tried_again_when_it_asks_for_it(
    mesh: Mesh, durability: str
) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import pay
        args = ({str(mesh.folder)!r},)
        print(pay.apply_async(args, durability={durability!r}).get(timeout=15))
        """)
    assert done.stdout.strip() == "paid"
    assert [words[0] for words in runs(mesh.folder)] == ["0", "1", "2"]


def test_a_task_that_declines_runs_again_and_that_is_no_retry(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    done = mesh.run(f"""
        from tasks import declined
        print(declined.delay({str(mesh.folder)!r}).get(timeout=15))
        """)
    assert done.stdout.strip() == "0"


def test_a_retry_that_waits_outlives_its_owner_with_its_count(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    client = mesh.start(f"""
        import time
        from tasks import flaky
        result = flaky.apply_async(({str(mesh.folder)!r}, 2, 1.5), durability="disk")
        while result.state != "RETRY":
            time.sleep(0.01)
        print("it waits", result.id, flush=True)
        time.sleep(60)
        """)
    task_id = client.wait_log("it waits").split()[-1]
    client.kill()
    # The worker has its journal then, and with it the task and what it asked for.
    wait_for(lambda: len(runs(mesh.folder)) == 3, "it runs three times")
    ran = runs(mesh.folder)
    assert [words[0] for words in ran] == ["0", "1", "2"]
    times = [float(words[-1]) for words in ran]
    assert all(later - earlier >= 1.5 for earlier, later in pairwise(times))
    found = json.loads(mesh.cli("result", task_id, "--wait", "10", "--json").stdout)
    assert found["result"] == 2
