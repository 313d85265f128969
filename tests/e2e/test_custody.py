"""Where tasks are, as people see it: `zmqtasks story` and `zmqtasks dead`."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import Mesh, NodeProcess

pytestmark = pytest.mark.e2e

NOBODYS = "11111111-2222-3333-4444-555555555555"


def ids_of(client: NodeProcess) -> list[str]:
    """The ids that a client has printed after the word "ids"."""
    return client.wait_log("ids ").split()[1:]


# --- story ------------------------------------------------------------------------------


def test_story_says_who_has_a_task_and_why_another_one_waits(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    client = mesh.start(f"""
        from tasks import add, hold
        held = hold.delay({str(mesh.folder)!r})
        waits = add.apply_async((1, 2), queue="mail")
        done = add.delay(1, 2)
        done.get(timeout=10)
        while held.state != "STARTED":
            pass
        print("ids", held.id, waits.id, done.id, flush=True)
        held.get(timeout=30)
        print(done.story().worker, waits.story().state)
    """)
    held, waits, done = ids_of(client)
    told = mesh.cli("story", held)
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0] == f"task {held}: tasks.hold of app 'shop', queue 'default'"
    assert lines[1] == "  state:    STARTED, attempt 1"
    assert lines[2].startswith("  owner:    ")
    assert lines[3] == "  worker:   w1"
    told = mesh.cli("story", waits)
    assert "  waits:    no present worker that knows the task serves queue 'mail'" in told.stdout
    data = json.loads(mesh.cli("story", done, "--json").stdout)
    assert (data["state"], data["worker"], data["attempt"]) == ("SUCCESS", "w1", 1)
    assert data["name"] == "tasks.add"
    (mesh.folder / "held.go").touch()
    client.wait_log("w1 PENDING")


def test_story_names_each_attempt_that_came_to_nothing(mesh: Mesh) -> None:
    first = mesh.start_node("-c", "1", name="w1")
    client = mesh.start(f"""
        import time
        from tasks import hold
        held = hold.delay({str(mesh.folder)!r})
        print("ids", held.id, flush=True)
        print("value", held.get(timeout=30) > 0, flush=True)
        time.sleep(60)
    """)
    [held] = ids_of(client)
    while mesh.cli("result", held, "--json").stdout.find("STARTED") < 0:
        pass
    first.kill()
    mesh.start_node("-c", "1", name="w2")
    client_name = json.loads(mesh.cli("story", held, "--json").stdout)["owner"]
    (mesh.folder / "held.go").touch()
    client.wait_log("value True")
    told = mesh.cli("story", held).stdout
    assert f"{client_name}:  attempt 1 came to nothing: worker w1 was lost (gone); a strike" in told


def test_story_of_a_task_that_nobody_knows(shared_mesh: Mesh, mesh: Mesh) -> None:
    told = shared_mesh.cli("story", NOBODYS)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"task {NOBODYS} is known to nobody: a wrong id, or it ended long ago\n"
    told = shared_mesh.cli("story", NOBODYS, "--json")
    assert (told.returncode, json.loads(told.stdout)["state"]) == (1, "UNKNOWN")
    told = mesh.cli("story", NOBODYS)
    assert (told.returncode, told.stdout) == (2, "")
    assert "mesh 'e2e' has no nodes" in told.stderr


# --- dead tasks -------------------------------------------------------------------------


def start_dying(mesh: Mesh) -> tuple[NodeProcess, list[str]]:
    """A client two of whose tasks are dead."""
    client = mesh.start(f"""
        import pathlib, time
        from tasks import die
        folders = [pathlib.Path({str(mesh.folder)!r}) / name for name in "ab"]
        for folder in folders:
            folder.mkdir()
        dead = [die.delay(str(folder), "SIGKILL", 3) for folder in folders]
        for handle in dead:
            handle.get(timeout=30, propagate=False)
        print("states", *[handle.state for handle in dead], flush=True)
        print("ids", *[handle.id for handle in dead], flush=True)
        time.sleep(60)
    """)
    client.wait_log("states DEAD DEAD")
    return client, ids_of(client)


def test_dead_tasks_are_listed_shown_retried_and_dropped(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    _, (one, other) = start_dying(mesh)
    listed = mesh.cli("dead", "list")
    assert listed.stdout.startswith("mesh 'e2e': 2 dead tasks\nid ")
    assert {one, other} <= set(listed.stdout.split())
    shown = mesh.cli("dead", "show", one).stdout
    assert shown.startswith(f"dead task {one}: tasks.die of app 'shop', queue 'default'\n")
    assert [shown.count(f"attempt {n} came to nothing") for n in (1, 2, 3)] == [1, 1, 1]
    assert f"zmqtasks dead retry {one} runs it again" in mesh.cli("story", one).stdout

    retried = mesh.cli("dead", "retry", one, NOBODYS)
    assert retried.returncode == 1
    assert retried.stderr == f"zmqtasks: no node in sight has a dead task {NOBODYS}\n"
    new = retried.stdout.split()[-1]
    assert retried.stdout == f"{one} runs again as {new}\n"
    # It dies three times, no more.
    assert mesh.cli("result", new, "--wait", "10").stdout == "survived\n"
    assert f"in place of dead task {one}" in mesh.cli("story", new).stdout

    left = json.loads(mesh.cli("dead", "list", "--json").stdout)
    assert ([task["id"] for task in left["dead"]], left["count"]) == ([other], 1)
    dropped = mesh.cli("dead", "drop", "--all")
    assert (dropped.returncode, dropped.stdout) == (0, f"{other} is forgotten\n")
    assert mesh.cli("dead", "list").stdout == "mesh 'e2e': 0 dead tasks\n"
    gone = mesh.cli("dead", "show", other)
    assert (gone.returncode, gone.stdout) == (1, "")
    nothing = mesh.cli("dead", "retry", "--all")
    assert (nothing.returncode, "there are no dead tasks" in nothing.stdout) == (0, True)


def test_all_dead_tasks_are_retried_at_once(mesh: Mesh) -> None:
    mesh.start_node(name="w1")
    _, ids = start_dying(mesh)
    retried = json.loads(mesh.cli("dead", "retry", "--all", "--json").stdout)["retried"]
    assert set(retried) == set(ids)
    for new in retried.values():
        assert mesh.cli("result", new, "--wait", "10").stdout == "survived\n"


def test_dead_tasks_of_a_mesh_without_nodes(mesh: Mesh) -> None:
    for args in (["list"], ["show", NOBODYS], ["retry", NOBODYS], ["drop", "--all"]):
        done = mesh.cli("dead", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert "mesh 'e2e' has no nodes" in done.stderr
