"""A mesh for one run of an example: real nodes, nothing shared with any other mesh."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

#: Seconds that a node may take to come up, and to leave after its last task.
START_S = 30.0
STOP_S = 40.0


class PrivateMesh:
    """Nodes in processes of their own, with their own directories and mesh name.

    A context manager: leaving it stops all nodes and removes the directories, also after
    an error, Ctrl-C or SIGTERM.

    Args:
        app_dir: where the nodes run, so that ``--app tasks`` finds its ``tasks.py``.
    """

    def __init__(self, app_dir: Path) -> None:
        self._app_dir = app_dir
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> PrivateMesh:
        self._folder = tempfile.TemporaryDirectory(prefix="zt-")  # short: it will hold sockets
        for name in [name for name in os.environ if name.startswith("ZMQTASKS_")]:
            del os.environ[name]
        # Settings are read at the first use of the App, so this is for this process too.
        os.environ.update(
            ZMQTASKS_MESH=f"example-{secrets.token_hex(4)}",
            ZMQTASKS_RUNTIME_DIR=f"{self._folder.name}/run",
            ZMQTASKS_STATE_DIR=f"{self._folder.name}/state",
            ZMQTASKS_CACHE_DIR=f"{self._folder.name}/cache",
            ZMQTASKS_KEY_FILE="none",  # no key: the mesh stays on this host
            ZMQTASKS_MDNS="false",
            ZMQTASKS_EXIT_WAIT_S="0",  # after the nodes nobody could finish a task
        )
        # `kill` would end this process without the clean-up below; Ctrl-C would not.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        try:
            self.stop()
        except (RuntimeError, subprocess.TimeoutExpired):
            if error is None:
                raise
            # It would hide the error that brought us here.
        finally:
            for process in self._nodes.values():
                process.kill()
                process.wait()
            self._folder.cleanup()

    def start(self, *names_and_flags: tuple[str, ...]) -> None:
        """Start nodes and wait until they are up.

        Args:
            names_and_flags: a name and flags of ``zmqtasks node`` for each.

        Raises:
            RuntimeError: one did not come up; with its log.
        """
        # Ctrl-C interrupts the main thread; it must not come between the start of a
        # process and our knowing of it.
        with ThreadPoolExecutor(1) as starter:
            starter.submit(self._launch, names_and_flags).result()
        give_up = time.monotonic() + START_S
        for name, *_ in names_and_flags:
            while b" is up: " not in self._log(name).read_bytes():
                if self._nodes[name].poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"node {name} did not come up:\n{self.log(name)}")
                time.sleep(0.02)

    def _launch(self, names_and_flags: tuple[tuple[str, ...], ...]) -> None:
        for name, *flags in names_and_flags:
            command = [sys.executable, "-m", "zmqtasks", "node", "--name", name, *flags]
            with self._log(name).open("wb") as log:
                self._nodes[name] = subprocess.Popen(
                    command, cwd=self._app_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    process_group=0,  # Ctrl-C is for us; we tell the nodes
                )  # fmt: skip

    def kill(self, name: str) -> None:
        """End a node without warning, as a crash would."""
        process = self._nodes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Stop all nodes in the clean way: they finish what they run and leave.

        Raises:
            RuntimeError: one did not end with exit code 0; with its log.
        """
        for process in self._nodes.values():
            process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + STOP_S
        while self._nodes:
            name, process = next(iter(self._nodes.items()))
            code = process.wait(max(0.0, give_up - time.monotonic()))
            if code != 0:
                raise RuntimeError(f"node {name} ended with exit code {code}:\n{self.log(name)}")
            del self._nodes[name]

    def log(self, name: str) -> str:
        """The last lines of what a node said."""
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-30:])

    def _log(self, name: str) -> Path:
        return Path(self._folder.name) / f"{name}.log"
