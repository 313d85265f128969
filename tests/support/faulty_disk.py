"""A disk that fails when it is told to, for one process: see ``faulty_disk.c``.

A test compiles the library (the fixture ``faulty_disk``) and starts a program with it
(:func:`run_on`). That program tells the disk by :class:`FaultyDisk` what shall go wrong, so
that what fails is what SQLite and Python really call.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).parents[2]
_SOURCE = Path(__file__).with_suffix(".c")
_HEAD = struct.Struct("=ciqI")


@pytest.fixture(scope="session")
def faulty_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, to be preloaded."""
    compiler = shutil.which("cc")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the library to be preloaded is written for Linux with glibc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc) to make failing system calls")
    library = tmp_path_factory.mktemp("faulty-disk") / "faulty_disk.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-U_FORTIFY_SOURCE"]
    subprocess.run([compiler, *flags, "-o", library, _SOURCE, "-ldl"], check=True)
    return library


def run_on(
    library: Path, folder: Path, module: str, *arguments: object, seconds: float
) -> list[str]:
    """Run ``python -m module arguments`` with this folder on the faulty disk, to its end.

    Returns:
        The lines that it printed; with anything but exit code 0 the test has failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=_ROOT,
        env={**os.environ, "LD_PRELOAD": str(library), "FAULTY_DISK": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{module} {arguments}\n{done.stdout[-4000:]}\n{done.stderr}"
    return done.stdout.splitlines()


class FaultyDisk:
    """The disk as the program that runs on it sees it."""

    def __init__(self) -> None:
        self._disk = ctypes.CDLL(None)
        self._disk.disk_broken_rule.restype = ctypes.c_char_p
        for name in ("calls", "syncs"):
            getattr(self._disk, f"disk_{name}").restype = ctypes.c_long

    def fail(self, nth: int, error: int, *, for_ever: bool = False) -> None:
        """The nth call from now on files of the folder fails, or all from then on."""
        self._disk.disk_fail(ctypes.c_long(nth), error, int(for_ever))

    def fail_sync(self, nth: int) -> None:
        """The nth time from now that a file is synced fails, whatever else does."""
        self._disk.disk_fail_sync(ctypes.c_long(nth))

    def work(self) -> None:
        """No call fails any longer but for ``fail_sync``."""
        self.fail(0, 0)

    @property
    def calls(self) -> int:
        """How many there were since ``fail`` or ``work``."""
        return int(self._disk.disk_calls())

    @property
    def syncs(self) -> int:
        """How many files were synced, from the start on."""
        return int(self._disk.disk_syncs())

    def is_dirty(self, suffix: str) -> bool:
        """Has a file whose name ends like this anything that was not synced?"""
        return bool(self._disk.disk_is_dirty(suffix.encode()))

    @property
    def broken_rule(self) -> str:
        """What was done in an order that a power loss could turn into damage."""
        return str(self._disk.disk_broken_rule().decode())

    def trace(self, path: Path) -> None:
        """Write down from now on what changes; the file lies outside of the folder."""
        self._disk.disk_trace(str(path).encode())

    def note(self, number: int) -> None:
        """Note a moment in the trace."""
        self._disk.disk_note(ctypes.c_long(number))


class Step(NamedTuple):
    """One line of a trace."""

    op: str
    file: int
    at: int
    data: bytes


def read_trace(path: Path) -> Iterator[Step]:
    """What a process did, in order; see ``faulty_disk.c`` for its meaning."""
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            op, number, at, length = _HEAD.unpack(head)
            yield Step(op.decode(), number, at, file.read(length))
