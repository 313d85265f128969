"""Every test has its own directories and no settings but its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The same examples in every run, and no verdict on how fast this machine is.
hypothesis.settings.register_profile("zmqtasks", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("zmqtasks")


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Point all XDG variables at this test's folders, for child processes too.

    Gives the runtime directory, which has a short path: socket paths are limited.
    """
    for name in os.environ:
        if name.startswith("ZMQTASKS_"):
            monkeypatch.delenv(name)
    for name in ("STATE_HOME", "CACHE_HOME", "CONFIG_HOME"):
        monkeypatch.setenv(f"XDG_{name}", str(tmp_path / "xdg" / name.lower()))
    runtime = Path(tempfile.mkdtemp(prefix="zt-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    yield runtime
    shutil.rmtree(runtime, ignore_errors=True)
