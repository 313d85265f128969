"""The fixtures for pytest, in runs of pytest as users have them."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = "zmqtasks.testing.pytest_plugin"

SHOP = """
from zmqtasks import App

app = App("shop")

@app.task
def add(x, y):
    return x + y

@app.task(bind=True)
def where(self):
    return self.request.hostname

@app.task(queue="reports")
def report():
    return "done"
"""

CONFTEST = """
import pytest
from shop import app

@pytest.fixture
def zmqtasks_app():
    return app

@pytest.fixture(scope="session")
def zmqtasks_session_app():
    return app

@pytest.fixture(scope="session")
def zmqtasks_worker_options():
    return {"pool": "thread", "concurrency": 1}
"""


@pytest.fixture(autouse=True)
def _only_this_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is here, not as it may be installed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=SHOP, conftest=CONFTEST)
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    """In a process of its own: it must not have imported anything before."""
    project.makepyfile(test_it=textwrap.dedent(tests))
    return project.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider", *options)


def test_pytest_finds_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_a_run_that_uses_no_fixture_imports_nothing(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import sys

        def test_nothing():
            ours = {name for name in sys.modules if name.startswith("zmqtasks")}
            assert ours <= {"zmqtasks", "zmqtasks.version", "zmqtasks.testing",
                            "zmqtasks.testing.pytest_plugin"}
            assert "zmq" not in sys.modules
        """,
    )
    result.assert_outcomes(passed=1)


def test_fixtures_and_mark_are_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_nothing(): pass", "--fixtures", "--markers")
    result.stdout.fnmatch_lines(["*@pytest.mark.zmqtasks(?*settings): *"])


def test_the_mesh_serves_the_app_of_the_project(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        from shop import add, report

        def test_calls(zmqtasks_mesh):
            result = add.apply_async((1, 2), countdown=3600)
            zmqtasks_mesh.advance(3600)
            assert result.get() == 3
            assert report.delay().get() == "done"

        def test_nothing_is_left(zmqtasks_mesh):
            assert not zmqtasks_mesh.calls
        """,
    )
    result.assert_outcomes(passed=2)


def test_an_app_of_the_test_itself(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        def test_calls(zmqtasks_app, zmqtasks_mesh):
            @zmqtasks_app.task
            def double(x):
                return 2 * x

            assert double.delay(4).get() == 8
        """,
    )
    result.assert_outcomes(passed=1)


def test_the_mark_changes_settings_for_one_test(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import pytest
        from datetime import UTC, datetime
        from shop import add, app, where

        @pytest.mark.zmqtasks(task_always_eager=True)
        def test_eagerly(zmqtasks_mesh):
            assert add.delay(1, 2).get() == 3
            assert not zmqtasks_mesh.calls

        def test_not_eagerly(zmqtasks_mesh):
            add.delay(1, 2)
            assert len(zmqtasks_mesh.calls) == 1

        @pytest.mark.zmqtasks(task_routes={"shop.where": "far"}, default_queue="near")
        def test_routes(zmqtasks_mesh):
            where.delay(); add.delay(1, 2)
            assert [call.queue for call in zmqtasks_mesh.calls] == ["far", "near"]

        @pytest.mark.zmqtasks(workers=0, start=datetime(2026, 1, 1, tzinfo=UTC))
        def test_of_the_mesh(zmqtasks_mesh):
            assert not zmqtasks_mesh.workers
            assert zmqtasks_mesh.now.year == 2026
            zmqtasks_mesh.add_worker("one")
            assert where.delay().get() == "one"

        @pytest.mark.zmqtasks(no_such_setting=1)
        def test_wrong(zmqtasks_mesh):
            pass

        @pytest.mark.zmqtasks("eager")
        def test_positional(zmqtasks_mesh):
            pass
        """,
    )
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(["*no_such_setting*", "*takes settings by name*"])


def test_a_worker_process_runs_the_tasks_of_the_project(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import os
        from shop import add, where, report

        def test_calls(zmqtasks_worker):
            assert add.delay(1, 2).get(timeout=20) == 3
            assert where.delay().get(timeout=20) == zmqtasks_worker.name
            assert report.delay().get(timeout=20) == "done"
            assert zmqtasks_worker.pid != os.getpid()
            assert zmqtasks_worker.log.read_text()

        def test_in_the_same_process_again(zmqtasks_mesh):
            assert where.delay().get() == "worker1"

        def test_of_the_session(zmqtasks_session_worker):
            assert add.delay(1, 2).get(timeout=20) == 3

        def test_of_the_session_again(zmqtasks_session_worker):
            assert add.delay(3, 4).get(timeout=20) == 7
        """,
    )
    result.assert_outcomes(passed=4)


def test_an_app_that_no_process_could_import_is_refused(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_calls(zmqtasks_worker): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*it is no global name of any module*zmqtasks_mesh*"])


def test_a_worker_that_does_not_start_says_why(project: pytest.Pytester) -> None:
    project.makepyfile(
        shop=SHOP + "\nimport os\nif 'ZMQTASKS_MESH' in os.environ: raise OSError('no licence')\n"
    )
    result = run(project, "def test_calls(zmqtasks_worker): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*did not start*", "*no licence*"])
