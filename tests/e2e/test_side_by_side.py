"""Several applications and several meshes in one place do not mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.harness import APP, Mesh, running_mesh

pytestmark = pytest.mark.e2e

_SHOUT = """
from zmqtasks import App
app = App({app!r})

@app.task
def shout(text):
    return {app!r} + ": " + text
"""


def test_two_apps_with_the_same_task_name(mesh: Mesh) -> None:
    for app in ("shop", "bank"):
        mesh.write(f"{app}/tasks.py", _SHOUT.format(app=app))
        mesh.start_node(name=app, beside=app)
    done = mesh.run("""
        from zmqtasks import App
        shop, bank = App("shop"), App("bank")
        handles = [app.send_task("tasks.shout", ("hi",)) for app in (shop, bank) * 20]
        print({h.get(timeout=10).split(":")[0] for h in handles[::2]},
              {h.get(timeout=10).split(":")[0] for h in handles[1::2]})
    """)
    assert done.stdout == "{'shop'} {'bank'}\n"
    ambiguous = mesh.cli("call", "tasks.shout", "hi")
    assert ambiguous.returncode == 2
    assert "apps 'bank', 'shop': say which with --app-name" in ambiguous.stderr
    assert mesh.cli("call", "tasks.shout", "hi", "--app-name", "bank").stdout == "bank: hi\n"


def test_two_meshes_in_one_runtime_directory(mesh: Mesh, tmp_path: Path) -> None:
    with running_mesh(tmp_path / "b", name="other", runtime=mesh.runtime) as other:
        ours, theirs = mesh.start_node(name="ours"), other.start_node(name="theirs")
        for each, node in ((mesh, ours), (other, theirs)):
            done = each.run("""
                import os
                from tasks import pid
                print(*{h.get(timeout=10) for h in [pid.delay() for _ in range(20)]})
            """)
            pids = {int(text) for text in done.stdout.split()}
            assert pids <= set(each.children_of(node))
        status = mesh.cli("status", "--json").stdout
        assert "ours" in status
        assert "theirs" not in status


def test_two_apps_of_one_process_in_two_meshes(mesh: Mesh, tmp_path: Path) -> None:
    with running_mesh(tmp_path / "b", name="other", runtime=mesh.runtime) as other:
        ours, theirs = mesh.start_node(name="ours"), other.start_node(name="theirs")
        done = mesh.run("""
            from tasks import app, pid
            from zmqtasks import App, AsyncResult
            import zmqtasks
            other = App("shop", mesh="other")
            app.conf.mesh = "e2e"
            here = [pid.delay() for _ in range(20)]
            there = [other.send_task("tasks.pid") for _ in range(20)]
            print(*{handle.get(timeout=10) for handle in here})
            print(*{handle.get(timeout=10) for handle in there})
            assert zmqtasks.current_app() is other
            assert other.AsyncResult(there[0].id).get(timeout=10) == there[0].get()
            app.set_current()
            assert AsyncResult(here[0].id).get(timeout=10) == here[0].get()
        """, ZMQTASKS_MESH="", ZMQTASKS_STATE_DIR=str(tmp_path / "state"))  # fmt: skip
        for line, each, node in zip(
            done.stdout.splitlines(), (mesh, other), (ours, theirs), strict=True
        ):
            assert {int(text) for text in line.split()} <= set(each.children_of(node))


def test_a_worker_has_the_tasks_that_its_app_discovers(mesh: Mesh) -> None:
    mesh.write("mail/__init__.py", "")
    mesh.write(
        "mail/tasks.py",
        "import os, zmqtasks\n@zmqtasks.shared_task\ndef who(): return os.getpid()\n",
    )
    mesh.write(
        "tasks.py",
        "from zmqtasks import App\napp = App('shop')\napp.autodiscover_tasks(['mail'])\n",
    )
    node = mesh.start_node(name="w1")
    assert "1 task (mail.tasks.who)" in node.log
    done = mesh.run("""
        from tasks import app
        print(app.tasks.keys() & {"mail.tasks.who"})
        from mail.tasks import who
        print(who.delay().get(timeout=10))
    """)
    first, second = done.stdout.splitlines()
    assert first == "set()"
    assert int(second) in mesh.children_of(node)


def test_two_queues_two_workers(mesh: Mesh) -> None:
    mail = mesh.start_node("--queues", "mail", name="mail")
    rest = mesh.start_node("--queues", "default,images", name="rest")
    done = mesh.run("""
        from tasks import pid
        for queue in ("mail", "images", None):
            print(pid.apply_async(queue=queue).get(timeout=10))
    """)
    pids = [int(text) for text in done.stdout.split()]
    assert pids[0] in mesh.children_of(mail)
    assert set(pids[1:]) <= set(mesh.children_of(rest))


def test_two_producers_share_one_worker(mesh: Mesh) -> None:
    mesh.start_node()
    code = """
        from tasks import add
        results = add.delay_many((i, {n}) for i in range(5000))
        assert results.get(timeout=30) == [i + {n} for i in range(5000)]
        print("right", flush=True)
    """
    clients = [mesh.start(code.format(n=n), name=f"p{n}") for n in range(3)]
    for client in clients:
        client.wait_log("right")
        assert client.wait() == 0


def test_work_spreads_over_workers(mesh: Mesh) -> None:
    nodes = [mesh.start_node("-c", "1", name=f"w{n}") for n in range(3)]
    done = mesh.run(f"""
        from pathlib import Path
        from tasks import hold
        folder = Path({str(mesh.folder)!r})
        handles = [hold.delay(str(folder), f"h{{i}}") for i in range(3)]
        import time
        while len(list(folder.glob("*.started"))) < 3:
            time.sleep(0.005)
        for i in range(3):
            (folder / f"h{{i}}.go").touch()
        print(*[h.get(timeout=10) for h in handles])
    """)
    children = [mesh.children_of(node) for node in nodes]
    pids = [int(text) for text in done.stdout.split()]
    assert all(any(pid in ours for pid in pids) for ours in children)


def test_script_calls_its_own_tasks_by_their_importable_name(mesh: Mesh) -> None:
    own = "\n\nif __name__ == '__main__':\n    print(add.name, add.delay(1, 2).get(timeout=10))\n"
    mesh.write("tasks.py", APP + own)
    mesh.start_node()
    assert mesh.script("tasks.py").stdout == "tasks.add 3\n"
    assert mesh.script("-m", "tasks").stdout == "tasks.add 3\n"
