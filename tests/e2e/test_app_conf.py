"""What an application says about settings, and who may say otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.harness import Mesh, NodeProcess

pytestmark = pytest.mark.e2e

_APP = """
    from zmqtasks import App

    app = App("rv", concurrency=1, payload_bytes_max=5000, queues=["default", "mail"])

    @app.task
    def blob(size):
        return bytes(size)
"""


def _start(mesh: Mesh, *flags: str) -> NodeProcess:
    """A worker; unlike ``start_node`` this says nothing of what it runs at once."""
    mesh.write("tasks.py", _APP)
    node = mesh.start_cli("node", "--name", "w1", *flags, name="w1")
    node.wait_log("is up")
    return node


def _worker(mesh: Mesh) -> dict[str, Any]:
    (node,) = json.loads(mesh.cli("status", "--json").stdout)["nodes"]
    found: dict[str, Any] = node
    return found


def _blob(mesh: Mesh, size: int) -> str:
    """What a caller without the application's settings gets."""
    return mesh.run(f"""
        from zmqtasks import App
        try:
            print(len(App("rv").send_task("tasks.blob", ({size},)).get(timeout=10)))
        except Exception as exc:
            print(f"{{type(exc).__name__}}: {{exc}}")
    """).stdout.strip()


@pytest.mark.parametrize("pool", ["process", "solo"])
def test_worker_obeys_its_application(mesh: Mesh, pool: str) -> None:
    _start(mesh, "--pool", pool)
    worker = _worker(mesh)
    assert worker["worker"]["slots"] == 1
    assert worker["queues"] == ["default", "mail"]
    assert _blob(mesh, 4000) == "4000"
    refused = _blob(mesh, 6000)
    assert refused.startswith("PayloadTooLarge: ")
    assert "6,00" in refused
    assert "payload_bytes_max is 5,000" in refused


@pytest.mark.parametrize("pool", ["process", "asyncio", "solo"])
def test_conf_of_a_worker_has_what_its_application_says_of_tasks(mesh: Mesh, pool: str) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App

        def by_size(name, args, kwargs, options, **more):
            return None

        app = App("rv", timezone="Europe/Berlin", task_time_limit=None, payload_bytes_max=5000)
        app.conf.task_routes = [{"mail.*": {"queue": "mail"}}, by_size]
        app.conf.task_annotations = {"*": {"autoretry_for": (OSError,), "max_retries": 10 ** 30}}
    """,
    )
    mesh.start_node("--pool", pool, name="w1")
    asked = mesh.cli("inspect", "conf", "--json")
    conf = json.loads(asked.stdout)["replies"]["w1"]
    assert conf["payload_bytes_max"] == 5000
    assert conf["timezone"] == "Europe/Berlin"
    assert conf["task_routes"] == [{"mail.*": {"queue": "mail"}}, "tasks.by_size"]
    assert conf["task_annotations"] == {
        "*": {"autoretry_for": ["OSError"], "max_retries": str(10**30)}
    }
    assert conf["task_time_limit"] is conf["task_default_priority"] is None
    shown = mesh.cli("inspect", "report").stdout
    assert 'timezone = "Europe/Berlin"' in shown


def test_flag_environment_and_file_stand_above_the_application(mesh: Mesh) -> None:
    mesh.write("zmqtasks.toml", 'queues = ["reports", "default"]\n')
    mesh.env["ZMQTASKS_PAYLOAD_BYTES_MAX"] = "20000"
    _start(mesh, "--concurrency", "3")
    worker = _worker(mesh)
    assert worker["worker"]["slots"] == 3
    assert worker["queues"] == ["reports", "default"]
    assert _blob(mesh, 10_000) == "10000"
    assert "payload_bytes_max is 20,000" in _blob(mesh, 30_000)


def test_application_says_where_its_results_and_sockets_are(mesh: Mesh) -> None:
    mesh.write(
        "tasks.py",
        """
        from zmqtasks import App
        app = App("rv", store="sqlite:///here.db", log_level="debug", mesh="other")

        @app.task
        def double(x):
            return 2 * x
    """,
    )
    del mesh.env["ZMQTASKS_MESH"]
    node = mesh.start_node(roles="worker,store", name="w1")
    assert "of mesh 'other' is up" in node.log
    assert mesh.run("from tasks import double; print(double.delay(4).get(timeout=10))").stdout == (
        "8\n"
    )
    node.wait_log("DEBUG")
    assert (mesh.code / "here.db").exists()


def test_what_a_node_needs_before_it_loads_is_refused(mesh: Mesh) -> None:
    mesh.write("tasks.py", 'from zmqtasks import App\napp = App("rv", pool="solo")\n')
    done = mesh.cli("node")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "App('rv'): 'pool' cannot be set by an application" in last
    assert "use --pool, ZMQTASKS_POOL or zmqtasks.toml" in last


def test_print_config_shows_what_the_application_says(mesh: Mesh) -> None:
    mesh.write("tasks.py", _APP + '    print("loading")\n')
    done = mesh.cli("node", "--print-config", "--queues", "mail")
    assert (done.returncode, done.stderr) == (0, "loading\n")
    lines = {line.partition(" = ")[0]: line for line in done.stdout.splitlines()}
    assert lines["concurrency"].split() == ["concurrency", "=", "1", "#", "app.conf"]
    assert lines["payload_bytes_max"].endswith("# app.conf")
    assert lines["queues"].endswith("# flag --queues")


@pytest.mark.parametrize("source", [None, "1 / 0\n"])
def test_print_config_needs_no_application(mesh: Mesh, source: str | None) -> None:
    (mesh.code / "tasks.py").unlink()
    if source:
        mesh.write("tasks.py", source)
    done = mesh.cli("node", "--print-config", "-c", "3")
    assert done.returncode == 0
    assert "# flag --concurrency" in done.stdout
    assert ("importing 'tasks' failed: ZeroDivisionError" in done.stderr) == bool(source)
