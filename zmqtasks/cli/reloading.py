"""``zmqtasks node --reload``: notices that code has changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from zmqtasks.errors import ConfigError

_LOG = logging.getLogger("zmqtasks.node")


class CodeWatcher:
    """Looks after the Python files below a folder, in a thread of its own.

    Hidden folders, caches and virtual environments are left out.

    Args:
        folder: usually the working directory.
        changed: called in that thread after each change.

    Raises:
        ConfigError: the package for it is not installed.
    """

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        try:
            import watchfiles
        except ImportError:
            raise ConfigError(
                "--reload needs the package watchfiles: pip install 'zmqtasks[reload]', or leave "
                "--reload out"
            ) from None
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # we say what changed
        self._ends = threading.Event()
        self._watch = watchfiles.watch(
            folder, watch_filter=watchfiles.PythonFilter(), stop_event=self._ends, rust_timeout=500
        )
        self._folder = folder
        self._call = changed
        self._has_changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zmqtasks-reload", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until something has changed since the start."""
        self._has_changed.wait()

    def close(self) -> None:
        """End its thread, within a second."""
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        for changes in self._watch:
            names = sorted({_short(Path(path), self._folder) for _, path in changes})
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            _LOG.info("code.changed: %s%s", names[0], more)
            self._has_changed.set()
            self._call()


def _short(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
