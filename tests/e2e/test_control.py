"""Nodes are asked and told what to do, and who does not answer is named."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, NodeProcess, running_mesh, wait_for

pytestmark = pytest.mark.e2e

SOURCE = """
import os, time
from pathlib import Path
from zmqtasks import App

app = App("shop")

@app.task
def add(x: int, y: int) -> int:
    return x + y

@app.task
def hold(folder, name="held"):
    with open(Path(folder) / f"{name}.started", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (Path(folder) / f"{name}.go").exists():
        time.sleep(0.005)
    return os.getpid()

@app.task
def pid() -> int:
    return os.getpid()

level = 0

@app.control_command
def set_level(value: int):
    global level
    level = value
    return {"ok": f"level {level}"}

@app.inspect_command(name="level")
def show_level():
    return {"level": level}
"""


@pytest.fixture
def worker(mesh: Mesh) -> NodeProcess:
    mesh.write("tasks.py", SOURCE)
    return mesh.start_node("--concurrency", "1", name="w1")


@pytest.fixture(scope="module")
def quiet_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A worker and a store, to be asked."""
    with running_mesh(tmp_path_factory.mktemp("mesh"), source=SOURCE) as mesh:
        mesh.start_node("--store", "sqlite:///results.db", name="s1", roles="store")
        mesh.start_node("--concurrency", "1", name="w1")
        yield mesh


# --- asking -------------------------------------------------------------------------------


def test_every_inspection_is_answered_by_the_nodes_that_it_is_for(quiet_mesh: Mesh) -> None:
    done = quiet_mesh.run(
        """
        import json
        from tasks import app
        from zmqtasks.node.commands import INSPECT

        found = {}
        inspect = app.control.inspect()
        for what, command in INSPECT.items():
            if not command.has_ids:
                found[what] = sorted(getattr(inspect, what)())
                assert not inspect.unanswered
        print(json.dumps(found))
        """
    )
    all_nodes = ("ping", "stats", "conf", "report", "scheduled", "revoked")
    workers = ("active", "reserved", "registered", "active_queues")
    wanted = {key: ["s1", "w1"] for key in all_nodes} | {key: ["w1"] for key in workers}
    wanted["beat"] = []  # there is none
    assert json.loads(done.stdout) == wanted


@pytest.mark.parametrize("command", ["stats", "scheduled"])
def test_answers_are_shown_to_people_and_to_programs(quiet_mesh: Mesh, command: str) -> None:
    asked = quiet_mesh.cli("inspect", command, "--json")
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert (sorted(answer["replies"]), answer["unanswered"]) == (["s1", "w1"], {})
    shown = quiet_mesh.cli("inspect", command)
    assert shown.returncode == 0
    assert all(f"{name}:" in shown.stdout for name in ("s1", "w1"))


def test_destinations_choose_and_those_that_nobody_has_are_named(quiet_mesh: Mesh) -> None:
    asked = quiet_mesh.cli("inspect", "ping", "-d", "w*,nobody")
    assert asked.returncode == 1
    assert asked.stdout == "w1: pong\n"
    assert "no answer from nobody: no node in sight has this name" in asked.stderr


def test_running_and_waiting_tasks_are_shown_and_found(mesh: Mesh, worker: NodeProcess) -> None:
    done = mesh.run(
        f"""
        import asyncio, time
        from pathlib import Path
        from tasks import add, app, hold

        folder = {str(mesh.folder)!r}
        first = hold.delay(folder)
        while not (Path(folder) / "held.started").exists():
            time.sleep(0.01)
        later = add.apply_async((1, 2), countdown=600)
        inspect = app.control.inspect()
        [running] = inspect.active()["w1"]
        assert (running["id"], running["name"]) == (first.id, "tasks.hold"), running
        assert repr(folder) in running["args"]
        assert abs(running["time_start"] - time.time()) < 60
        [found] = [task for tasks in inspect.scheduled().values() for task in tasks]
        assert found["request"]["id"] == later.id, found
        assert 0 < found["eta"] - time.time() <= 600
        assert inspect.query_task(first.id)["w1"][first.id][0] == "started"
        assert asyncio.run(inspect.aping())["w1"] == {{"ok": "pong"}}
        (Path(folder) / "held.go").touch()
        first.get(timeout=20)
        assert inspect.stats()["w1"]["total"]["tasks.hold"] == 1
        """
    )
    assert "held.go" not in done.stderr


def test_frozen_node_is_named_as_the_one_that_did_not_answer(
    mesh: Mesh, worker: NodeProcess
) -> None:
    other = mesh.start_node("--concurrency", "1", name="w2")
    client = mesh.start(
        f"""
        import time
        from pathlib import Path
        from tasks import app

        folder = Path({str(mesh.folder)!r})
        assert len(app.control.ping()) == 2
        (folder / "ready").touch()
        while not (folder / "frozen").exists():
            time.sleep(0.01)
        print(app.control.ping(timeout=0.5), list(app.control.unanswered))
        """
    )
    wait_for((mesh.folder / "ready").exists, "it is linked to both")
    other.signal(signal.SIGSTOP)
    try:
        (mesh.folder / "frozen").touch()
        assert client.wait() == 0, client.log
        asked = mesh.cli("inspect", "ping", "--timeout", "0.5")
    finally:
        other.signal(signal.SIGCONT)
    assert "[{'w1': {'ok': 'pong'}}] ['w2']" in client.log
    assert (asked.returncode, asked.stdout) == (1, "w1: pong\n")
    assert "no answer from " in asked.stderr


# --- telling ------------------------------------------------------------------------------


def test_queues_come_and_go_while_a_worker_runs(mesh: Mesh, worker: NodeProcess) -> None:
    done = mesh.run(
        """
        from tasks import add, app

        control = app.control
        waits = add.apply_async((1, 2), queue="mail")
        print(control.add_consumer("mail"))
        print(waits.get(timeout=20))
        print(control.inspect().active_queues())
        print(control.cancel_consumer("mail"))
        assert add.delay(1, 1).get(timeout=20) == 2
        stays = add.apply_async((1, 2), queue="mail")
        assert add.delay(1, 1).get(timeout=20) == 2
        print(stays.state)
        """
    )
    lines = done.stdout.splitlines()
    assert lines == [
        "[{'w1': {'ok': \"serving queue 'mail'\"}}]",
        "3",
        "{'w1': [{'name': 'default'}, {'name': 'mail'}]}",
        "[{'w1': {'ok': \"no longer serving queue 'mail'; what runs of it goes on\"}}]",
        "PENDING",
    ]


def test_rate_and_limits_change_while_a_worker_runs(mesh: Mesh, worker: NodeProcess) -> None:
    done = mesh.run(
        f"""
        from tasks import add, app, hold
        from zmqtasks import TimeLimitExceeded

        control = app.control
        control.rate_limit("tasks.add", "1/h")
        first, second = add.delay(1, 1), add.delay(2, 2)
        print(first.get(timeout=20), second.state)
        control.rate_limit("tasks.add", 0)
        print(second.get(timeout=20))
        control.time_limit("tasks.hold", hard=0.1)
        try:
            hold.delay({str(mesh.folder)!r}).get(timeout=20)
        except TimeLimitExceeded:
            print("ended")
        print(control.rate_limit("tasks.nothing", "1/s"))
        """
    )
    first, second, third, fourth = done.stdout.splitlines()
    assert (first, second, third) == ("2 RECEIVED", "4", "ended")
    assert "this worker has no task 'tasks.nothing'" in fourth


def test_rates_of_all_workers_together_are_set_and_shown_on_the_command_line(mesh: Mesh) -> None:
    mesh.write("tasks.py", SOURCE)
    for name in ("w1", "w2"):
        mesh.start_node("--concurrency", "1", name=name)
    told = mesh.cli("control", "rate_limit", "tasks.add", "--mesh-rate-limit", "1/h")
    line = "new rate limit of tasks.add: 1/h for all workers together"
    assert (told.returncode, told.stdout) == (0, f"w1: {line}\nw2: {line}\n")
    both = mesh.cli("control", "rate_limit", "tasks.pid", "9/s", "--mesh-rate-limit", "15/s")
    assert both.returncode == 0, both.stdout
    shown = json.loads(mesh.cli("inspect", "stats", "--json").stdout)["replies"]
    rates = {
        "tasks.add": {"mesh_rate_limit": "1/h"},
        "tasks.pid": {"rate_limit": "9/s", "mesh_rate_limit": "15/s"},
    }
    assert {name: stats["rates"] for name, stats in shown.items()} == {"w1": rates, "w2": rates}
    refused = mesh.cli("control", "rate_limit", "tasks.add", "-d", "w1")
    assert refused.returncode == 1
    assert "w1: error: say how often it may start" in refused.stdout


def test_pool_grows_and_shrinks_when_told(mesh: Mesh, worker: NodeProcess) -> None:
    alone = len(mesh.children_of(worker))
    grown = mesh.cli("control", "pool_grow", "2")
    assert (grown.returncode, grown.stdout) == (0, "w1: 3 slots\n")
    wait_for(lambda: len(mesh.children_of(worker)) == alone + 2, "two more processes")
    shrunk = mesh.cli("control", "pool_shrink", "2", "--json")
    assert json.loads(shrunk.stdout)["replies"] == {"w1": {"ok": "1 slot"}}
    wait_for(lambda: len(mesh.children_of(worker)) == alone, "one process")
    refused = mesh.cli("control", "pool_shrink")
    assert refused.returncode == 1
    assert "w1: error: this worker has 1 slot and must have 1 to" in refused.stdout


def test_shutdown_by_command_drains(mesh: Mesh, worker: NodeProcess) -> None:
    client = mesh.start(
        f"""
        from tasks import hold
        print(hold.delay({str(mesh.folder)!r}).get(timeout=60) > 0)
        """
    )
    started, go = mesh.folder / "held.started", mesh.folder / "held.go"
    wait_for(started.exists, "it runs")
    told = mesh.cli("control", "shutdown", "-d", "w1")
    assert (told.returncode, told.stdout) == (0, "w1: shutting down\n")
    worker.wait_log("draining")
    assert worker.process.poll() is None
    go.touch()
    assert worker.wait() == 0
    assert client.wait() == 0, client.log
    assert client.log.splitlines()[0] == "True"


def test_command_for_roles_that_nobody_has_says_who_is_there(
    quiet_mesh: Mesh, tmp_path: Path
) -> None:
    asked = quiet_mesh.cli("control", "add_consumer", "mail", "-d", "s1")
    assert asked.returncode == 1
    assert "no answer from s1" in asked.stderr


# --- everybody ----------------------------------------------------------------------------


def test_broadcast_runs_once_at_each_worker_whatever_queue_it_serves(mesh: Mesh) -> None:
    mesh.write("tasks.py", SOURCE)
    first = mesh.start_node("--concurrency", "2", name="w1")
    second = mesh.start_node("--concurrency", "1", "--queues", "mail", name="w2")
    done = mesh.run(
        """
        from tasks import add, pid

        found = pid.broadcast().by_worker(timeout=20)
        print(found["w1"], found["w2"], len(found))
        print(add.broadcast((1, 2), destination="w2").by_worker(timeout=20))
        """
    )
    one, other, count, *last = done.stdout.split()
    assert int(one) in mesh.children_of(first)
    assert int(other) in mesh.children_of(second)
    assert (count, " ".join(last)) == ("2", "{'w2': 3}")


def test_broadcast_ends_for_a_worker_that_is_killed_and_runs_nowhere_else(
    mesh: Mesh, worker: NodeProcess
) -> None:
    mesh.start_node("--concurrency", "1", name="w2")
    client = mesh.start(
        f"""
        from tasks import hold
        results = hold.broadcast(({str(mesh.folder)!r}, "all"))
        ended = results.by_worker(timeout=60)
        print({{name: type(value).__name__ for name, value in ended.items()}})
        """
    )
    started = mesh.folder / "all.started"
    wait_for(lambda: started.exists() and len(started.read_text().splitlines()) == 2, "both run it")
    worker.kill()
    (mesh.folder / "all.go").touch()
    assert client.wait() == 0, client.log
    assert "'w1': 'WorkerLostError'" in client.log
    assert "'w2': 'int'" in client.log
    assert len(started.read_text().splitlines()) == 2


def test_commands_of_the_application_run_in_its_processes(mesh: Mesh, worker: NodeProcess) -> None:
    named = mesh.cli("inspect", "level", "--json")
    assert named.returncode == 0, named.stderr
    assert json.loads(named.stdout)["replies"] == {"w1": {"level": 0}}
    told = mesh.cli("control", "set_level", "value=3")
    assert (told.returncode, told.stdout) == (0, "w1: level 3\n")
    done = mesh.run(
        """
        from tasks import app
        print(app.control.inspect().command("level"))
        print(app.control.broadcast("set_level", {"value": 0}))
        """
    )
    assert done.stdout.splitlines() == ["{'w1': {'level': 3}}", "[{'w1': {'ok': 'level 0'}}]"]
    wrong = mesh.cli("control", "set_level", "volume=3")
    assert wrong.returncode == 1
    assert "w1: error: TypeError" in wrong.stdout
    unknown = mesh.cli("control", "set_levle")
    assert unknown.returncode == 2
    assert "no command 'set_levle'" in unknown.stderr


# --- ending tasks -------------------------------------------------------------------------


def test_revoked_tasks_do_not_run_and_terminated_ones_end_and_no_other(
    mesh: Mesh, worker: NodeProcess
) -> None:
    mesh.run(
        f"""
        import time
        from pathlib import Path
        import pytest
        from tasks import add, app, hold
        from zmqtasks import TaskRevokedError

        folder = Path({str(mesh.folder)!r})
        runs, waits, stays = (hold.delay(str(folder), name) for name in ("runs", "waits", "stays"))
        later = add.apply_async((1, 1), countdown=600)
        while not (folder / "runs.started").exists():
            time.sleep(0.01)
        assert later.revoke() == "revoked"
        assert waits.revoke(wait=True) in ("revoked", "running")
        for handle in (later, waits):
            assert handle.state == "REVOKED"
            with pytest.raises(TaskRevokedError):
                handle.get(timeout=20)
        assert runs.revoke() == "running"
        assert not runs.ready()
        assert app.control.terminate(runs.id) == {{runs.id: "running"}}
        with pytest.raises(TaskRevokedError):
            runs.get(timeout=20)
        (folder / "stays.go").touch()
        assert stays.get(timeout=20) > 0
        assert stays.revoke() == "settled"
        [(name, ids)] = [(n, ids) for n, ids in app.control.inspect().revoked().items() if ids]
        assert set(ids) == {{later.id, waits.id, runs.id}}
        """
    )
    assert not (mesh.folder / "waits.started").exists()
    assert len((mesh.folder / "stays.started").read_text().splitlines()) == 1


def test_tasks_of_another_process_are_revoked_by_id_and_by_header(
    mesh: Mesh, worker: NodeProcess
) -> None:
    client = mesh.start(
        f"""
        from pathlib import Path
        import time

        from tasks import add, hold
        from zmqtasks import TaskRevokedError

        folder = Path({str(mesh.folder)!r})
        one = hold.apply_async((str(folder), "one"), headers={{"batch": 9}})
        two = add.apply_async((1, 1), countdown=600, headers={{"batch": 7}})
        three = add.apply_async((1, 1), countdown=600, headers={{"batch": 8}})
        (folder / "ids.new").write_text(" ".join(handle.id for handle in (one, two, three)))
        (folder / "ids.new").rename(folder / "ids")
        for handle in (one, two, three):
            try:
                handle.get(timeout=60)
            except TaskRevokedError:
                print("revoked", handle.id, flush=True)
        while (folder / "ids").exists():  # who leaves while it is asked has not answered
            time.sleep(0.01)
        """
    )
    wait_for((mesh.folder / "one.started").exists, "it runs")
    wait_for((mesh.folder / "ids").exists, "the ids")
    one, two, three = (mesh.folder / "ids").read_text().split()
    told = mesh.cli("control", "revoke", one, "--json")
    assert (told.returncode, json.loads(told.stdout)["tasks"]) == (0, {one: "running"})
    ended = mesh.cli("control", "revoke_by_stamped_headers", "batch=9", "--terminate")
    assert (ended.returncode, one in ended.stdout) == (0, True)
    client.wait_log(f"revoked {one}")
    by_header = mesh.cli("control", "revoke_by_stamped_headers", "batch=7", "--json")
    assert json.loads(by_header.stdout)["tasks"] == {two: "revoked"}
    client.wait_log(f"revoked {two}")
    nobody = "00000000-0000-0000-0000-000000000001"
    last = mesh.cli("control", "revoke", three, nobody)
    assert last.returncode == 1
    assert f"{three}  revoked" in last.stdout
    assert f"{nobody}  unknown" in last.stdout
    (mesh.folder / "ids").unlink()
    assert client.wait() == 0, client.log
