"""What the tests of single pools run beside the tasks of the suite."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import Any

from zmqtasks.app.context import current
from zmqtasks.testing.pool_tasks import ShopClosed, app


@app.task
def talk_below_python(text: str) -> None:
    subprocess.run([sys.executable, "-c", f"print({text!r})"], check=True)


@app.task
def exit_with(code: int) -> None:
    os._exit(code)


@app.task
def loaded(names: list[str]) -> list[str]:
    return [name for name in names if name in sys.modules]


@app.task
def process_facts() -> dict[str, int]:
    return {
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "threads": threading.active_count(),
    }


@app.task
def start_sleeper_and_die() -> None:
    """Leaves a grandchild behind, whose pid the log has."""
    sleeper = subprocess.Popen(["sleep", "1000"])
    print(sleeper.pid)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def fork_and_die() -> None:
    """The fork holds every descriptor of this process for as long as it lives."""
    if os.fork() == 0:
        signal.pause()
    os._exit(7)


@app.task
def fork_and_return(value: int) -> int:
    """Both processes come back from here, which the pool must survive."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return value


def _print_and_sleep() -> None:
    print("printed by a process of the task", flush=True)
    time.sleep(1000)


@app.task
def terminate_own_process() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=_print_and_sleep)
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


@app.task
def survive_signals() -> str:
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), signum)
    return "alive"


def _sockets() -> list[int]:
    found = []
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                found.append(fd)
    return found


@app.task
def close_sockets_and_sleep() -> None:
    for fd in _sockets():
        os.close(fd)
    time.sleep(1000)


@app.task
def write_into_sockets() -> None:
    for fd in _sockets():
        socket.socket(fileno=os.dup(fd)).sendall(b"\xff" * 16)
    time.sleep(1000)


@app.task
def hold_the_interpreter() -> None:
    """In C code that neither looks at signals nor lets other threads run."""
    print("holding")
    sum(itertools.repeat(0))


@app.task
def hold_out(signum: int) -> None:
    """Ignores a signal."""
    signal.signal(signum, signal.SIG_IGN)
    print("holding out")
    while True:
        time.sleep(1)


@app.task
def end_well(signum: int) -> str:
    """Ends by itself when the signal comes."""

    def raise_it(_signum: int, _frame: object) -> None:
        raise ShopClosed("by signal")

    signal.signal(signum, raise_it)
    try:
        print("waiting")
        time.sleep(1000)
    except ShopClosed:
        return "well"
    return "woke up"


_held: list[bytes] = []


@app.task
def hold_memory(mebibytes: int) -> int:
    """Keeps so much for the rest of the process's life."""
    _held.append(b"x" * (mebibytes << 20))
    return os.getpid()


@app.task
def where() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


@app.task
def nap(seconds: float) -> None:
    time.sleep(seconds)


@app.task
def start_sleeper_and_wait() -> None:
    """Its process is ended with it, whose pid the log has."""
    sleeper = subprocess.Popen(["sleep", "1000"])
    print(sleeper.pid)
    sleeper.wait()


@app.task
def seen_by_its_thread() -> str | None:
    found: list[str | None] = []

    def look() -> None:
        context = current()
        found.append(context.id if context else None)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


async def _exit() -> None:
    sys.exit(3)


@app.task
async def leave_an_exit_behind() -> None:
    task = asyncio.get_running_loop().create_task(_exit())
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait([task])
