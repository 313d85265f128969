"""Fixtures for pytest: an App, a mesh in the process of the test, a worker process.

pytest loads this module in every run in which zmqtasks is installed, so it imports nothing
before a fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zmqtasks.app.app import App
    from zmqtasks.testing.node_process import WorkerProcess
    from zmqtasks.testing.virtual_mesh import VirtualMesh

#: What the mark takes beside settings: arguments of ``zmqtasks.testing.mesh``.
_OF_MESH = ("workers", "concurrency", "queues", "start")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        "zmqtasks(**settings): settings of the App of this test, and of its workers; for "
        "zmqtasks_mesh also workers, concurrency, queues and start",
    )


@pytest.fixture(scope="session")
def zmqtasks_config() -> Mapping[str, Any]:
    """Settings of the App in all tests; override it."""
    return {}


@pytest.fixture(scope="session")
def zmqtasks_worker_options() -> Mapping[str, Any]:
    """Settings of worker processes alone, such as ``{"pool": "thread"}``; override it."""
    return {}


@pytest.fixture
def zmqtasks_app() -> App:
    """The App of a test: a new one. Override it to return that of your project."""
    return _new_app()


@pytest.fixture(scope="session")
def zmqtasks_session_app() -> App:
    """The App of ``zmqtasks_session_worker``. Override it to return that of your project."""
    return _new_app()


@pytest.fixture
def zmqtasks_mesh(
    request: pytest.FixtureRequest, zmqtasks_app: App, zmqtasks_config: Mapping[str, Any]
) -> Iterator[VirtualMesh]:
    """A mesh in this process, with a clock that stands still: ``zmqtasks.testing.mesh``."""
    from zmqtasks.testing import mesh
    from zmqtasks.testing.configuring import configured

    settings = {**zmqtasks_config, **_marked(request)}
    options = {key: settings.pop(key) for key in _OF_MESH if key in settings}
    with configured(zmqtasks_app, **settings), mesh(zmqtasks_app, **options) as found:
        yield found


@pytest.fixture
def zmqtasks_worker(
    request: pytest.FixtureRequest, zmqtasks_app: App, zmqtasks_config: Mapping[str, Any],
    zmqtasks_worker_options: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WorkerProcess]:  # fmt: skip
    """A worker process for this test, with a mesh and directories of its own."""
    from zmqtasks.testing.node_process import worker_process

    settings = {**zmqtasks_config, **_marked(request)}
    folder = tmp_path_factory.mktemp("zmqtasks")
    with worker_process(zmqtasks_app, folder, zmqtasks_worker_options, settings) as found:
        yield found


@pytest.fixture(scope="session")
def zmqtasks_session_worker(
    zmqtasks_session_app: App, zmqtasks_config: Mapping[str, Any],
    zmqtasks_worker_options: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WorkerProcess]:  # fmt: skip
    """The same for all tests of the run, which takes less time; marks do not count."""
    from zmqtasks.testing.node_process import worker_process

    folder = tmp_path_factory.mktemp("zmqtasks")
    found = worker_process(zmqtasks_session_app, folder, zmqtasks_worker_options, zmqtasks_config)
    with found as worker:
        yield worker


def _new_app() -> App:
    from zmqtasks import App

    return App("tests")


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of all marks, those closest to the test last."""
    marks = list(request.node.iter_markers("zmqtasks"))
    if any(mark.args for mark in marks):
        raise pytest.UsageError(
            "@pytest.mark.zmqtasks takes settings by name: zmqtasks(task_always_eager=True)"
        )
    return {key: value for mark in reversed(marks) for key, value in mark.kwargs.items()}
