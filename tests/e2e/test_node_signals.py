"""The signals of a worker node: in its hook child, each once, and never in its way."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.e2e.harness import APP, Mesh, NodeProcess, wait_for

pytestmark = pytest.mark.e2e

HOOKED = (
    APP
    + """
import json
from zmqtasks import signals

SEEN = Path("seen")


def note(name, **facts):
    with SEEN.open("a") as file:
        file.write(json.dumps({"signal": name, "pid": os.getpid(), **facts}) + "\\n")


@signals.worker_init.connect(sender="w1")
def on_init(sender, **kwargs):
    note("worker_init", who=sender.hostname, app=sender.app.name)


@signals.worker_ready.connect(sender="w1")
def on_ready(sender, **kwargs):
    note("worker_ready", who=sender.hostname)
    record.delay("from worker_ready")


@signals.worker_shutting_down.connect(sender="w1")
def on_shutting_down(sender, sig, how, exitcode, **kwargs):
    note("worker_shutting_down", who=sender, sig=sig, how=how, exitcode=exitcode)


@signals.worker_shutdown.connect(sender="w1")
def on_shutdown(sender, **kwargs):
    note("worker_shutdown", who=sender.hostname)


@app.task
def record(what):
    note("task", what=what)
"""
)

RAISING = APP.replace(
    "import logging",
    """
from zmqtasks import signals

@signals.worker_init.connect
def early(**kwargs):
    raise OSError("the shop is closed")

@signals.worker_ready.connect
def late(**kwargs):
    sys.exit("no shop")

@signals.worker_shutdown.connect
def last(**kwargs):
    print("called at last")

import logging""",
    1,
)


def _seen(mesh: Mesh) -> list[dict[str, Any]]:
    path = mesh.code / "seen"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _row(mesh: Mesh, name: str, number: int = 0) -> dict[str, Any]:
    """What was noted for the so-and-so-manieth time under this name."""

    def found() -> list[dict[str, Any]]:
        return [row for row in _seen(mesh) if row["signal"] == name][number:]

    return wait_for(found, f"{name} is noted")[0]


def _start(mesh: Mesh, pool: str = "process", name: str = "w1", **more: Any) -> NodeProcess:
    sizes = () if pool == "solo" else ("-c", "2")
    return mesh.start_node("--pool", pool, *sizes, name=name, **more)


def _add(mesh: Mesh) -> str:
    return mesh.run("from tasks import add; print(add.delay(1, 2).get(timeout=15))").stdout


@pytest.mark.parametrize("pool", ["process", "thread", "asyncio", "solo"])
def test_each_signal_fires_once_in_order_in_the_hook_child(mesh: Mesh, pool: str) -> None:
    mesh.write("tasks.py", HOOKED)
    node = _start(mesh, pool)
    task = _row(mesh, "task")
    assert task["what"] == "from worker_ready"
    assert node.stop() == 0
    rows = [row for row in _seen(mesh) if row["signal"] != "task"]
    pids = {row.pop("pid") for row in rows}
    how = {"sig": "SIGTERM", "how": "Warm", "exitcode": 0}
    assert rows == [
        {"signal": "worker_init", "who": "w1", "app": "shop"},
        {"signal": "worker_ready", "who": "w1"},
        {"signal": "worker_shutting_down", "who": "w1", **how},
        {"signal": "worker_shutdown", "who": "w1"},
    ]
    if pool == "solo":
        assert pids == {node.pid} == {task["pid"]}
    else:
        assert len(pids) == 1
        assert pids.isdisjoint({node.pid, task["pid"]})
        assert f"hooks.started pid={pids.pop()}" in node.log


@pytest.mark.parametrize("pool", ["process", "solo"])
def test_what_receivers_raise_is_logged_and_harms_nothing(mesh: Mesh, pool: str) -> None:
    mesh.write("tasks.py", RAISING)
    node = _start(mesh, pool)
    assert _add(mesh) == "3\n"
    assert node.stop() == 0
    assert "of signal worker_init raised" in node.log
    assert 'raise OSError("the shop is closed")' in node.log
    assert "a receiver of signal worker_ready called sys.exit('no shop')" in node.log
    assert "called at last" in node.log


def test_node_goes_on_without_a_hook_child_that_was_killed(mesh: Mesh) -> None:
    mesh.write("tasks.py", HOOKED)
    node = _start(mesh)
    pid = _row(mesh, "worker_ready")["pid"]
    _row(mesh, "task")
    before = set(mesh.children_of(node))
    os.kill(pid, signal.SIGKILL)
    line = node.wait_log("hooks.gone")
    assert f"pid={pid} reason=killed by signal 9" in line
    assert "no receiver of its signals is called any more" in line
    assert _add(mesh) == "3\n"
    assert set(mesh.children_of(node)) == before - {pid}
    assert node.stop() == 0
    assert [row["signal"] for row in _seen(mesh)].count("worker_shutdown") == 0
    assert "hooks.killed" not in node.log


@pytest.mark.parametrize("name", ["w2", "w1"])
def test_there_is_a_hook_child_only_where_somebody_wants_signals(mesh: Mesh, name: str) -> None:
    """All receivers of this application are for the signals of ``w1``."""
    mesh.write("tasks.py", HOOKED)
    node = _start(mesh, name=name)
    wait_for(lambda: len(mesh.children_of(node)) == 3 + (name == "w1"), "fork server, children")
    assert node.log.count("hooks.started") == (name == "w1")
    assert node.stop() == 0
    assert bool(_seen(mesh)) == (name == "w1")


def test_node_joins_when_the_receivers_of_worker_init_have_returned(mesh: Mesh) -> None:
    """One of them writes more than a pipe holds, below Python, which must not stop it."""
    mesh.write("tasks.py", HOOKED + '''
@signals.worker_init.connect(sender="w1")
def migrate(**kwargs):
    os.system("head -c 300000 /dev/zero | tr '\\\\0' x; echo migrated")
    note("migrating")
    while not Path("go").exists():
        time.sleep(0.01)
''')  # fmt: skip
    node = _start(mesh, ready=False)
    _row(mesh, "migrating")
    assert json.loads(mesh.cli("status", "--json").stdout)["nodes"] == []
    (mesh.code / "go").touch()
    node.wait_log("is up")
    assert "migrated" in node.log
    assert node.stop() == 0


def test_hangup_gives_a_new_hook_child(mesh: Mesh) -> None:
    mesh.write("tasks.py", HOOKED)
    node = _start(mesh)
    first = _row(mesh, "worker_ready")
    node.signal(signal.SIGHUP)
    second = _row(mesh, "worker_ready", 1)
    assert first["pid"] != second["pid"]
    assert _row(mesh, "worker_shutting_down")["sig"] == "SIGHUP"
    assert _row(mesh, "worker_shutdown")["pid"] == first["pid"]
    assert _row(mesh, "worker_init", 1)["pid"] == second["pid"]
    mesh.cli("control", "shutdown", "-d", "w1")
    assert node.wait() == 0
    assert _row(mesh, "worker_shutting_down", 1)["sig"] is None
    assert _row(mesh, "worker_shutdown", 1)["pid"] == second["pid"]


@pytest.mark.parametrize("pool", ["process", "solo"])
def test_what_worker_shutdown_submits_runs_on_another_node(mesh: Mesh, pool: str) -> None:
    mesh.write("tasks.py", HOOKED + '''
@signals.worker_shutdown.connect(sender="w1")
def tell(**kwargs):
    record.delay("from worker_shutdown")
''')  # fmt: skip
    node = _start(mesh, pool)
    assert _row(mesh, "task")["what"] == "from worker_ready"
    other = _start(mesh, name="w2")
    assert node.stop() == 0
    assert _row(mesh, "task", 1)["what"] == "from worker_shutdown"
    assert _row(mesh, "task", 1)["pid"] in mesh.children_of(other)


def test_receivers_of_all_modules_and_applications_are_called_for_the_app_that_runs(
    mesh: Mesh,
) -> None:
    mesh.write("tasks.py", HOOKED.replace('App("shop")', 'App("shop", include=["extra"])'))
    mesh.write("extra.py", """
        from tasks import note
        from zmqtasks import App, signals

        other = App("other", set_as_current=False)

        @signals.worker_ready.connect
        def extra(sender, **kwargs):
            note("extra", app=sender.app.name)
    """)  # fmt: skip
    node = _start(mesh, name="w2")
    extra = _row(mesh, "extra")
    assert extra["app"] == "shop"
    assert node.stop() == 0
    assert [row["signal"] for row in _seen(mesh)] == ["extra"], "the others are for w1"
