"""A worker in a process of its own, for tests of the whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zmqtasks.app.current import gateway
from zmqtasks.errors import ConfigError
from zmqtasks.node.survey import Request
from zmqtasks.settings_sources import env_name
from zmqtasks.testing.configuring import configured

if TYPE_CHECKING:
    from zmqtasks.app.app import App

#: A worker that is not there after so many seconds does not come.
_START_S = 30.0
#: One that does not end when it is told to is killed after so many seconds.
_STOP_S = 15.0
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class WorkerProcess:
    """A worker that runs.

    Attributes:
        app: whose tasks it runs; called in this process, they go there.
        name: of its node.
        log: what it writes.
        process: it.
    """

    app: App
    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(_STOP_S)


@contextmanager
def worker_process(
    app: App, folder: Path, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[WorkerProcess]:
    """Run a worker node with a mesh of its own, to which the calls of the App go meanwhile.

    Args:
        app: to be found in a module that can be imported.
        folder: for its directories and its log; exists.
        options: settings of the worker alone.
        settings: settings of the App and of the worker.

    Raises:
        ConfigError: the App cannot be imported, or a setting is wrong.
        RuntimeError: the worker does not start; with its log.
    """
    spec = import_path(app)
    own: dict[str, Any] = {
        "mesh": f"test-{uuid4().hex[:12]}",
        "runtime_dir": str(_made(folder / "run")),
        "state_dir": str(_made(folder / "state")),
        "cache_dir": str(_made(folder / "cache")),
        "mdns": False,
    }
    name = "worker1"
    with configured(app, **own, **settings):
        of_node = {**own, **settings, "queues": queues_of(app), **options}
        log = folder / "worker.log"
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: S603 - this very Python, and no shell
                [sys.executable, "-m", "zmqtasks", "node", "--role", "worker", "--role", "store",
                 "--app", spec, "--name", name],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, **_environment(of_node)},
            )  # fmt: skip
        worker = WorkerProcess(app, name, log, process)
        try:
            _wait_until_there(worker)
            yield worker
        finally:
            _end(process)


def queues_of(app: App) -> list[str]:
    """Where the tasks of an App go, as far as that is known before they are called."""
    names = [*app.settings.queues, app.settings.default_queue]
    names += [task.queue for task in app.tasks.values() if task.queue]
    return list(dict.fromkeys(names))


def import_path(app: App) -> str:
    """``module:attribute`` of an App.

    Raises:
        ConfigError: no module has it.
    """
    of_tasks = [getattr(task.run, "__module__", "") for task in app.tasks.values()]
    # A conftest has it from elsewhere, most likely.
    names = [*of_tasks, *(name for name in list(sys.modules) if "conftest" not in name)]
    for name in dict.fromkeys([*names, *sys.modules]):
        if name == "__main__" or name.partition(".")[0] == "zmqtasks":
            continue
        for attribute, value in list(getattr(sys.modules.get(name), "__dict__", {}).items()):
            if value is app and not attribute.startswith("_"):
                return f"{name}:{attribute}"
    raise ConfigError(
        f"a worker process has to import {app!r}, and it is no global name of any module: define "
        "it in one, and let the fixture zmqtasks_app return it; or use zmqtasks_mesh, whose "
        "workers are in this process"
    )


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _environment(settings: Mapping[str, Any]) -> dict[str, str]:
    from zmqtasks.settings import SETTING_NAMES

    found = {env_name(key): _text(value) for key, value in settings.items() if key in SETTING_NAMES}
    return {**found, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wait_until_there(worker: WorkerProcess) -> None:
    give_up = time.monotonic() + _START_S
    way = gateway(worker.app)
    request = Request("test", roles=frozenset({"worker"}))
    while not way.find(request, 0.05):
        if worker.process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(
                f"the worker of the test did not start; its log ({worker.log}):\n"
                f"{worker.log.read_text(errors='replace')}"
            )
        time.sleep(_LOOK_EVERY_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
