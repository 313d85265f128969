"""A Django project with tasks: its development server and a node of it, over HTTP."""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Mesh, NodeProcess, wait_for

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.e2e


class Site:
    """The example project, served; and what pages of it say."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        shutil.copytree(
            ROOT / "examples" / "django", mesh.code, dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3"),
        )  # fmt: skip
        (mesh.code / "tasks.py").unlink()  # that of other tests
        self.url = ""

    def manage(self, *args: str, **env: str) -> str:
        """A management command, to its end."""
        done = self.mesh.script("manage.py", *args, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *args: str, ready: str, **env: str) -> NodeProcess:
        """A management command that goes on."""
        process = self.mesh._start(name, ["manage.py", *args], env)
        self.mesh.nodes.append(process)
        process.wait_log(ready)
        return process

    def start_node(self, *flags: str) -> NodeProcess:
        return self.start(
            "w1", "zmqtasks", "node", "--role", "worker", "--name", "w1", *flags, ready="is up"
        )

    def serve(self) -> None:
        """Start the development server on a port that is free."""
        server = self.start("web", "runserver", "--noreload", "127.0.0.1:0", ready="http://")
        server.is_script = True
        found = re.search(r"http://127\.0\.0\.1:[1-9]\d*/", server.log)
        assert found is not None, server.log
        self.url = found[0]

    def ask(self, path: str, **form: str) -> tuple[int, dict[str, Any]]:
        """What a page says: status and JSON."""
        data = urllib.parse.urlencode(form).encode() if form else None
        try:
            with urllib.request.urlopen(self.url + path, data, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)


@pytest.fixture
def site(mesh: Mesh) -> Site:
    site = Site(mesh)
    site.manage("migrate", "--verbosity", "0")
    return site


def test_a_view_calls_a_shared_task_and_another_shows_its_result(site: Site) -> None:
    site.serve()
    # Given an order that is placed while there is no worker
    status, placed = site.ask("orders/", item="nails", pieces="100")
    assert status == 201
    task = f"tasks/{placed['task']}/"
    assert site.ask(task) == (200, {"state": "PENDING", "result": None})
    assert site.ask(f"orders/{placed['order']}/")[1]["state"] == "placed"
    # When one comes
    node = site.start_node()
    # Then
    done = wait_for(
        lambda: (told := site.ask(task)[1])["state"] == "SUCCESS" and told, "it has been run"
    )
    assert done == {"state": "SUCCESS", "result": "100 pieces of nails are on their way"}
    assert site.ask(f"orders/{placed['order']}/")[1]["state"] == "confirmed"
    assert "2 tasks (orders.tasks.confirm, orders.tasks.count_confirmed)" in node.log
    # And an order that is rolled back has no task
    status, refused = site.ask("orders/", item="air", pieces="0")
    assert (status, refused["error"]) == (400, "no pieces")
    assert site.ask(f"tasks/{refused['task']}/")[1]["state"] == "UNKNOWN"


@pytest.mark.parametrize("pool", ["process", "thread", "asyncio"])
def test_tasks_use_the_database_in_every_pool_and_leave_no_connection(
    site: Site, pool: str
) -> None:
    with (site.mesh.code / "orders" / "tasks.py").open("a") as file:
        file.write(
            "\n\n@shared_task\ndef open_connections():\n"
            "    from django.db import connections\n"
            "    found = [c.connection is not None for c in connections.all()]\n"
            "    Order.objects.count()\n"
            "    return found, [c.connection is not None for c in connections.all()]\n"
        )
    flags = () if pool == "process" else ("--pool", pool)
    node = site.start_node("-c", "1", *flags)
    done = site.mesh.run("""
        import django, shop.app
        django.setup()
        from orders.models import Order
        from orders.tasks import confirm, count_confirmed, open_connections
        for item in ("nails", "glue"):
            print(confirm.delay(Order.objects.create(item=item, pieces=3).pk).get(timeout=20))
        print(count_confirmed.delay().get(timeout=20))
        for _ in range(2):
            print(*open_connections.delay().get(timeout=20))
    """)
    assert done.stdout.splitlines() == [
        "3 pieces of nails are on their way",
        "3 pieces of glue are on their way",
        "2",
        *["[False] [True]"] * 2,
    ]
    assert node.stop() == 0


def test_manage_py_which_has_loaded_django_makes_way_for_the_node(site: Site) -> None:
    node = site.start_node()
    command = Path(f"/proc/{node.pid}/cmdline").read_bytes().split(b"\0")
    assert command[1:4] == [b"-m", b"zmqtasks", b"node"]


def test_a_project_that_cannot_be_loaded_keeps_the_worker_from_starting(site: Site) -> None:
    with (site.mesh.code / "orders" / "models.py").open("a") as file:
        file.write("\n\n1 / 0\n")
    done = site.mesh.cli("node", "--app", "shop.app")
    assert done.returncode == 2
    assert "django.setup() with DJANGO_SETTINGS_MODULE=shop.settings failed" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "1 / 0" in done.stderr


def test_other_commands_go_through_manage_py_too(site: Site) -> None:
    assert site.manage("zmqtasks", "--version").startswith("zmqtasks ")
    config = site.manage("zmqtasks", "node", "--print-config", "--settings", "shop.settings")
    lines = {line.partition(" = ")[0]: line.split("#")[-1].strip() for line in config.splitlines()}
    assert lines["app"] == "ZMQTASKS_APP"
    assert lines["concurrency"] == "app.conf"
    assert 'app = "shop:app"' in config
    site.mesh.write("zmqtasks.toml", 'app = "shop.app"\n')
    assert 'app = "shop.app" ' in site.manage("zmqtasks", "node", "--print-config")


def test_a_project_of_celery_needs_another_import_and_no_broker(site: Site) -> None:
    site.mesh.write(
        "shop/celery.py",
        """
        import os
        from zmqtasks import App as Celery

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        app = Celery("shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.autodiscover_tasks()

        @app.task(bind=True, ignore_result=True, acks_late=True)
        def debug_task(self):
            print(f"Request: {self.request!r}")
        """,
    )
    site.mesh.write(
        "shop/__init__.py", "from .celery import app as celery_app\n__all__ = ('celery_app',)\n"
    )
    with (site.mesh.code / "shop" / "settings.py").open("a") as file:
        file.write(
            "CELERY_TIMEZONE = 'Australia/Tasmania'\nCELERY_TASK_TRACK_STARTED = True\n"
            "CELERY_RESULT_EXPIRES = 600\nCELERY_TASK_ACKS_LATE = True\n"
        )
    node = site.start_node()
    assert (
        "3 tasks (orders.tasks.confirm, orders.tasks.count_confirmed, shop.celery.deb" in node.log
    )
    done = site.mesh.run("""
        from shop import celery_app
        from shop.celery import debug_task
        print(debug_task.delay().get(timeout=20), celery_app.rules.zone)
    """)
    assert done.stdout == "None Australia/Tasmania\n"
    node.wait_log("Request: <TaskContext shop.celery.debug_task")
    # What does not exist is told where it is written
    with (site.mesh.code / "shop" / "settings.py").open("a") as file:
        file.write("CELERY_BROKER_URL = 'redis://'\n")
    refused = site.mesh.cli("node", "--app", "shop.celery")
    assert refused.returncode == 2
    assert "App('shop'): setting 'broker_url' of Celery: there is no broker" in refused.stderr
