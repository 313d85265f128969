"""A file system that is soon full, where this user may mount one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of that size in a new folder; else the test is skipped."""
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    options = f"size={size_bytes},mode=0700"
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "zmqtasks-test", path],
        check=False,
        capture_output=True,
    )
    if made.returncode != 0:
        pytest.skip(f"may not mount a small file system: {made.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@contextlib.contextmanager
def ballast(disk: Path) -> Iterator[None]:
    """Another program takes all of its room, to the last byte, as long as this lasts."""
    path = disk / "ballast"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    try:
        yield
    finally:
        path.unlink()
