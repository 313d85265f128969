"""Nodes that are stopped, killed, or lose their children."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest

from tests.e2e.harness import Mesh, NodeProcess, wait_for

pytestmark = pytest.mark.e2e

#: Submits `hold` tasks by name and prints what comes of them.
_HOLDERS = """
from tasks import hold
folder, count = {folder!r}, {count}
handles = [hold.delay(folder, f"h{{i}}") for i in range(count)]
print("submitted", flush=True)
print("done", len([h.get(timeout=30) for h in handles]), flush=True)
"""


def _hold(mesh: Mesh, count: int = 1) -> NodeProcess:
    client = mesh.start(_HOLDERS.format(folder=str(mesh.folder), count=count))
    client.wait_log("submitted")
    return client


def _started(mesh: Mesh, name: str = "h0") -> list[int]:
    """Process ids of the runs of a held task so far."""
    path = mesh.folder / f"{name}.started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _go(mesh: Mesh, count: int = 1) -> None:
    for number in range(count):
        (mesh.folder / f"h{number}.go").touch()


def test_first_signal_drains(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1", name="w1")
    client = _hold(mesh, 2)
    wait_for(lambda: _started(mesh), "the first task runs")
    node.signal(signal.SIGINT)
    node.wait_log("draining: 1 running task here")
    other = mesh.start_node("-c", "1", name="w2")
    # What had not started runs elsewhere while the first one still runs here.
    wait_for(lambda: _started(mesh, "h1"), "the second task runs elsewhere")
    assert node.process.poll() is None
    _go(mesh, 2)
    assert node.wait() == 0
    client.wait_log("done 2")
    assert len(_started(mesh)) == 1
    assert "Traceback" not in node.log
    assert other.stop() == 0


def test_second_signal_stops_at_once(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1", name="w1")
    client = _hold(mesh)
    (first,) = wait_for(lambda: _started(mesh), "the task runs")
    node.signal(signal.SIGINT)
    node.wait_log("draining")
    node.signal_again(signal.SIGINT)
    assert node.wait() == 3
    node.wait_log("stopping at once; 1 running task will run elsewhere")
    mesh.start_node(name="w2")
    wait_for(lambda: len(_started(mesh)) == 2, "the task runs again")
    assert first not in mesh.pids()
    _go(mesh)
    client.wait_log("done 1")


def test_sigkill_of_a_worker_while_it_runs_tasks(mesh: Mesh) -> None:
    victim = mesh.start_node(name="w1")
    client = _hold(mesh, 2)
    wait_for(lambda: _started(mesh) and _started(mesh, "h1"), "both tasks run")
    children = _started(mesh) + _started(mesh, "h1")
    mesh.start_node(name="w2")
    victim.kill()
    wait_for(lambda: len(_started(mesh)) == len(_started(mesh, "h1")) == 2, "both run again")
    wait_for(lambda: not set(children) & set(mesh.pids()), "the victim's children end")
    _go(mesh, 2)
    client.wait_log("done 2")
    assert client.wait() == 0


def test_tasks_of_a_killed_producer_are_dropped_and_the_worker_goes_on(mesh: Mesh) -> None:
    node = mesh.start_node("-c", "1")
    client = _hold(mesh, 3)
    wait_for(lambda: _started(mesh), "the first task runs")
    client.kill()
    node.wait_log("lost ")
    _go(mesh)
    done = mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=10))")
    assert done.stdout == "3\n"
    assert not _started(mesh, "h1")


@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "SIGKILL"])
def test_task_whose_child_dies_runs_again(mesh: Mesh, how: str) -> None:
    node = mesh.start_node("-c", "1")
    done = mesh.run(f"""
        from tasks import add, die
        more = [add.delay(i, 0) for i in range(20)]
        print(die.delay({str(mesh.folder)!r}, {how!r}, 1).get(timeout=20))
        print([h.get(timeout=10) for h in more] == list(range(20)))
    """)
    assert done.stdout == "survived\nTrue\n"
    assert len((mesh.folder / "died").read_text().split()) == 2
    assert "the process that ran 'tasks.die' died" in node.wait_log("died")


def test_third_strike_makes_a_task_dead(mesh: Mesh) -> None:
    mesh.start_node("-c", "1")
    done = mesh.run(f"""
        from tasks import add, die
        from zmqtasks import TaskDead
        bystanders = [add.delay(i, 0) for i in range(50)]
        handle = die.delay({str(mesh.folder)!r}, "exit", 99)
        bystanders += [add.delay(i, 0) for i in range(50)]
        try:
            handle.get(timeout=20)
        except TaskDead as exc:
            print(handle.state, handle.failed(), exc)
        assert [h.get(timeout=10) for h in bystanders] == [*range(50), *range(50)]
    """)
    assert done.stdout.startswith("DEAD True task ")
    assert "3 workers or their children died" in done.stdout
    assert len((mesh.folder / "died").read_text().split()) == 3


def test_solo_pool_runs_tasks_in_the_node_itself(mesh: Mesh) -> None:
    node = mesh.start_node("--pool", "solo")
    done = mesh.run("""
        from tasks import add, fail, pid, talk
        print(pid.delay().get(timeout=10), add.delay(1, 2).get(timeout=10))
        print(repr(fail.delay("solo").get(timeout=10, propagate=False)))
        print(add.delay_many((i, 1) for i in range(500)).get(timeout=20) == list(range(1, 501)))
        talk.delay().get(timeout=10)
    """)
    assert done.stdout == f"{node.pid} 3\nValueError('solo')\nTrue\n"
    assert "tasks.talk[" in node.wait_log("said on stdout")
    assert node.stop() == 0


def test_solo_pool_drains(mesh: Mesh) -> None:
    node = mesh.start_node("--pool", "solo")
    client = _hold(mesh)
    assert wait_for(lambda: _started(mesh), "the task runs") == [node.pid]
    node.signal(signal.SIGINT)
    node.wait_log("draining")
    _go(mesh)
    assert node.wait() == 0
    client.wait_log("done 1")


def test_node_without_work_stops_quickly_and_cleanly(mesh: Mesh) -> None:
    node = mesh.start_node("--role", "store", name="both")
    assert mesh.children_of(node)
    assert node.stop() == 0
    assert "Traceback" not in node.log
    assert not mesh.pids()
    assert not mesh.leftovers()


def test_children_end_with_a_killed_node_and_the_next_node_tidies_up(mesh: Mesh) -> None:
    victim = mesh.start_node(name="w1")
    children = mesh.children_of(victim)
    assert children
    victim.kill()
    wait_for(lambda: not set(children) & set(mesh.pids()), "its children end")
    assert mesh.leftovers()
    node = mesh.start_node(name="w2")
    assert node.stop() == 0
    assert not mesh.leftovers()


def test_interrupted_client_ends_without_hanging(mesh: Mesh) -> None:
    client = mesh.start("""
        from tasks import add
        handle = add.delay(1, 2)
        print("waiting", flush=True)
        handle.get()
    """, ZMQTASKS_EXIT_WAIT_S="0.1")  # fmt: skip
    client.wait_log("waiting")
    client.signal(signal.SIGINT)
    client.wait_log("KeyboardInterrupt")
    assert client.wait() != 0
    assert os.getsid(0) != client.pid


def test_client_interrupted_while_it_waits_at_its_end_says_what_it_gives_up(mesh: Mesh) -> None:
    """Nobody has a journal, else there was nothing to wait for."""
    (mesh.folder / "no-folder").touch()
    nowhere: dict[str, Any] = {"ZMQTASKS_STATE_DIR": str(mesh.folder / "no-folder")}
    store = mesh.start_node("--store", "memory://", roles="store", name="s1", **nowhere)
    client = mesh.start("""
        from tasks import add
        add.delay(1, 2)
        print("ending", flush=True)
    """, ZMQTASKS_EXIT_WAIT_S="60", **nowhere)  # fmt: skip
    client.wait_log("waits: no worker is in sight")
    client.signal(signal.SIGINT)
    client.wait_log("1 given up (tasks.add: 1)")
    client.wait()
    assert "Traceback" not in client.log
    assert store.stop() == 0
    assert "lost " not in store.log, "it said goodbye"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_application_is_imported(mesh: Mesh, number: signal.Signals) -> None:
    started = mesh.folder / "importing"
    mesh.write("tasks.py", f"""
        import pathlib, time
        pathlib.Path({str(started)!r}).touch()
        time.sleep(60)
    """)  # fmt: skip
    node = mesh.start_node(ready=False)
    wait_for(started.exists, "the import has begun")
    node.signal(number)
    assert node.wait() == 130
    assert "Traceback" not in node.log
    wait_for(lambda: not mesh.pids(), "its processes end")


def test_a_node_ends_while_a_peer_that_it_asks_does_not_answer(mesh: Mesh) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        peer = f"127.0.0.1:{nobody.getsockname()[1]}"
        node = mesh.start_node("--peer", peer)
        node.wait_log("no peer at")
        assert node.stop() == 0


def test_a_script_ends_while_a_peer_that_it_asks_does_not_answer(mesh: Mesh) -> None:
    mesh.start_node()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connects, and says nothing
        peer = f"127.0.0.1:{silent.getsockname()[1]}"
        done = mesh.run(
            "from tasks import add; print(add.delay(1, 2).get(timeout=10))", ZMQTASKS_PEERS=peer
        )
    assert done.stdout == "3\n"
