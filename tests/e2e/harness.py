"""A mesh of real processes with directories of its own, and nothing left of it after.

A test starts nodes, runs client scripts, kills what it likes and waits for conditions
(never for times). Every process of a mesh is known by an environment variable that its
children inherit; when the mesh is closed none may be left, and no socket either.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

#: Nothing here takes long; a busy machine may.
DEADLINE_S = 20.0
_LOOK_EVERY_S = 0.01
_MARK = "ZT_TEST_MESH"

#: The application that most tests use.
APP = '''
import logging, os, signal, sys, time
from pathlib import Path
from zmqtasks import App

app = App("shop")
log = logging.getLogger("shop.orders")


class OutOfStock(Exception):
    """An exception that every process can import."""

    def __init__(self, item, left):
        super().__init__(item, left)
        self.item, self.left = item, left


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def echo(value):
    return value


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def fail(text):
    raise ValueError(text)


@app.task
def order(item):
    raise OutOfStock(item, left=0)


@app.task
def fail_locally():
    class Hidden(Exception):
        pass

    raise Hidden("nobody can import this")


@app.task
def talk():
    print("said on stdout")
    print("said on stderr", file=sys.stderr)
    log.warning("logged by %s", "the task")


@app.task
def hold(folder, name="held"):
    """Say that it runs, then wait until it may go on."""
    folder = Path(folder)
    with open(folder / f"{name}.started", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (folder / f"{name}.go").exists():
        time.sleep(0.005)
    return os.getpid()


@app.task
def die(folder, how, times):
    """End the own process, the first ``times`` times; each run leaves a line."""
    path = Path(folder) / "died"
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    if len(path.read_text().splitlines()) <= times:
        if how == "exit":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    return "survived"
'''


def wait_for(condition: Callable[[], _T], what: str, seconds: float = DEADLINE_S) -> _T:
    """Wait until the condition gives something true, and return that."""
    give_up = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(_LOOK_EVERY_S)


class NodeProcess:
    """A process of the mesh whose output goes to a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.name = name
        self.process = process
        self.log_path = log_path
        self.killed = False
        #: A plain Python program, which SIGTERM ends without any clean-up.
        self.is_script = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text: str, seconds: float = DEADLINE_S) -> str:
        """Wait until it has written this; returns the first such line."""

        def line() -> str:
            found = next((line for line in self.log.splitlines() if text in line), "")
            if not found and self.process.poll() is not None and text not in self.log:
                raise AssertionError(
                    f"{self.name} ended with {self.process.returncode} without writing "
                    f"{text!r}:\n{self.log}"
                )
            return found

        try:
            return wait_for(line, f"{self.name} writes {text!r}", seconds)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n--- its log ---\n{self.log}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.killed = True
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def wait(self, seconds: float = DEADLINE_S) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end\n--- its log ---\n{self.log}") from None

    def signal_again(self, number: int) -> None:
        """One more signal that stops; at once it would be an echo of the first."""
        time.sleep(0.15)
        self.signal(number)

    def stop(self) -> int:
        """SIGTERM; returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()


class Mesh:
    """Directories, a name, and the processes that were started with them.

    Args:
        folder: for everything but sockets, which need short paths.
        name: of the mesh.
        source: of ``tasks.py``.
        env: more environment.
        runtime: share the runtime directory of another mesh.
    """

    #: What starts a Python; a command in front of it may put the process somewhere else.
    python: tuple[str, ...] = (sys.executable,)

    def __init__(
        self, folder: Path, name: str = "e2e", source: str = APP,
        env: Mapping[str, str] | None = None, runtime: Path | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.name = name
        self._own_runtime = runtime is None
        self.runtime = runtime or Path(tempfile.mkdtemp(prefix="zt-", dir="/tmp"))
        self.mark = f"{self.runtime}/{name}"
        self.code = folder / "code"
        self.code.mkdir(parents=True, exist_ok=True)
        self.write("tasks.py", source)
        self.env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("ZMQTASKS_", "XDG_"))
        } | {
            _MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "ZMQTASKS_MESH": name,
            "ZMQTASKS_RUNTIME_DIR": str(self.runtime),
            "ZMQTASKS_STATE_DIR": str(folder / "state"),
            "ZMQTASKS_CACHE_DIR": str(folder / "cache"),
            "ZMQTASKS_MDNS": "0",
            **(env or {}),
        }
        self.nodes: list[NodeProcess] = []

    def write(self, name: str, source: str) -> Path:
        """A file beside ``tasks.py``."""
        path = self.code / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    # --- nodes ----------------------------------------------------------------------------

    def start_node(
        self, *flags: str, roles: str = "worker", name: str = "", ready: bool = True,
        beside: str = "", **env: str,
    ) -> NodeProcess:  # fmt: skip
        """Start ``zmqtasks node`` with these flags and wait until it is in the mesh.

        Args:
            beside: the folder below ``code`` that it is started in.
        """
        name = name or f"n{len(self.nodes) + 1}"
        command = ["-m", "zmqtasks", "node", "--role", roles, "--name", name, *flags]
        sizes = ("-c", "--concurrency", "--autoscale", "solo")
        if "worker" in roles and not any(f in flags for f in sizes):
            command += ["--concurrency", "2"]
        node = self._start(name, command, env, beside)
        self.nodes.append(node)
        if ready:
            node.wait_log("is up")
        return node

    def _start(
        self, name: str, command: list[str], env: Mapping[str, str] | None = None, beside: str = ""
    ) -> NodeProcess:
        log_path = self.folder / f"{name}-{len(self.nodes)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*self.python, *command], cwd=self.code / beside, env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return NodeProcess(name, process, log_path)

    # --- clients --------------------------------------------------------------------------

    def run(
        self, code: str, *, seconds: float = DEADLINE_S, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """``python -c code`` beside ``tasks.py``, to its end."""
        done = self._finish(["-c", textwrap.dedent(code)], seconds, env)
        if check and done.returncode:
            raise AssertionError(
                f"the client ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n"
                + self.logs()
            )
        return done

    def script(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """``python args``, to its end."""
        return self._finish(list(args), DEADLINE_S, env)

    def cli(
        self, *args: str, seconds: float = DEADLINE_S, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """``zmqtasks args``, to its end."""
        return self._finish(["-m", "zmqtasks", *args], seconds, env)

    def _finish(
        self, command: list[str], seconds: float, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self.python, *command], cwd=self.code, env={**self.env, **env},
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(
                f"still running after {seconds:g} s: {command}\n{_text(exc.stdout)}\n"
                f"{_text(exc.stderr)}\n{self.logs()}"
            ) from None

    def start(self, code: str, name: str = "client", **env: str) -> NodeProcess:
        """A client script that runs beside the test."""
        client = self._start(name, ["-c", textwrap.dedent(code)], env)
        client.is_script = True
        self.nodes.append(client)
        return client

    def start_cli(self, *args: str, name: str = "cli") -> NodeProcess:
        """A command that runs beside the test."""
        command = self._start(name, ["-m", "zmqtasks", *args])
        self.nodes.append(command)
        return command

    # --- looking --------------------------------------------------------------------------

    def logs(self) -> str:
        """What everybody wrote, for failed assertions."""
        return "\n".join(f"--- {node.name} ---\n{node.log}" for node in self.nodes)

    def pids(self) -> list[int]:
        """Every process that was started with this mesh's environment."""
        mark = f"{_MARK}={self.mark}".encode() + b"\0"
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def children_of(self, node: NodeProcess) -> list[int]:
        """Processes of the node, itself left out."""
        parents = {pid: _parent_of(pid) for pid in self.pids()}
        found = {node.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found - {node.pid})

    def leftovers(self) -> list[Path]:
        """Files in the runtime directory."""
        folder = self.runtime / self.name
        return sorted(folder.iterdir()) if folder.exists() else []

    # --- the end --------------------------------------------------------------------------

    def close(self) -> None:
        """Stop everything; nothing may be left."""
        try:
            self._stop_all()
            killed = any(node.killed for node in self.nodes)
            wait_for(lambda: not self.pids(), f"processes end: {self.pids()}", 5.0)
            if not killed:
                assert not self.leftovers(), f"files left: {self.leftovers()}"
        finally:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._own_runtime:
                shutil.rmtree(self.runtime, ignore_errors=True)

    def _stop_all(self) -> None:
        alive = [node for node in self.nodes if node.process.poll() is None]
        for node in alive:
            node.killed = node.killed or node.is_script
            node.signal(signal.SIGTERM)
        for node in alive:
            try:
                node.process.wait(5.0)
            except subprocess.TimeoutExpired:
                node.signal(signal.SIGTERM)  # it drains: the second one stops it at once
                node.wait(5.0)


@contextlib.contextmanager
def running_mesh(folder: Path, **options: object) -> Iterator[Mesh]:
    """A mesh that is closed at the end, checks included."""
    mesh = Mesh(folder, **options)  # type: ignore[arg-type]
    try:
        yield mesh
    finally:
        mesh.close()


def _text(output: object) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output or "")


def _parent_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
