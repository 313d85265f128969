"""The application that the pool tests run, in children and in this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
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

from zmqtasks import App, AsyncResult
from zmqtasks.app.context import current
from zmqtasks.errors import SoftTimeLimitExceeded
from zmqtasks.pools.running import is_cancelled

app = App("pooltest")


class ShopClosed(Exception):
    """An error of the application's own."""


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def size_of(value: bytes) -> int:
    return len(value)


@app.task
def fail(text: str) -> None:
    raise ShopClosed(text)


@app.task
def leave(code: int) -> None:
    sys.exit(code)


@app.task
def interrupt() -> None:
    raise KeyboardInterrupt


@app.task
def unserialisable() -> Any:
    return {"ok": 1, "bad": [object()]}


@app.task
def big(size: int) -> bytes:
    return b"x" * size


@app.task
async def slow_add(x: int, y: int) -> tuple[int, str | None]:
    await asyncio.sleep(0)
    context = current()
    return x + y, context.id if context else None


@app.task
def talk(text: str) -> None:
    print(text)
    print(text, "to stderr", file=sys.stderr)
    logging.getLogger("shop").warning("logged %s", text)
    sys.stdout.buffer.write(f"{text} as bytes\n".encode())
    print(text, "unfinished", end="")


@app.task
def talk_below_python(text: str) -> None:
    subprocess.run([sys.executable, "-c", f"print({text!r})"], check=True)


@app.task(bind=True)
def about_me(self: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "attempt": request.attempt,
        "name": request.name,
        "queue": request.queue,
        "hostname": request.hostname,
        "headers": request.headers,
        "retries": request.retries,
        "parent_id": request.parent_id,
        "root_id": request.root_id,
        "args": request.args,
        "direct": request.called_directly,
    }


@app.task
def submit(count: int) -> list[str]:
    return [add.delay(n, 1).id for n in range(count)]


@app.task
def submit_at_most_once() -> None:
    add.apply_async((1, 2), delivery="at_most_once")


@app.task
def state_of(task_id: str) -> str:
    return AsyncResult(task_id, app).state


@app.task
def wait_in_task(task_id: str) -> Any:
    return AsyncResult(task_id, app).get(timeout=5)


@app.task
def spin() -> None:
    """Runs until it is killed, in pieces that every pool can interrupt."""
    print("spinning")
    while True:
        time.sleep(0.01)


@app.task
def block() -> None:
    print("blocking")
    time.sleep(1000)


# --- for the process pool only ----------------------------------------------------------


@app.task
def die_by(signum: int) -> None:
    os.kill(os.getpid(), signum)
    signal.pause()


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


# --- limits and cancellation ------------------------------------------------------------


@app.task
def sleep_on(text: str) -> None:
    """Says that it runs, then sleeps for ever."""
    print(text)
    time.sleep(1000)


@app.task
def tidy_up(seconds: float) -> str:
    """Catches its soft limit, and goes on for a while."""
    try:
        time.sleep(1000)
    except SoftTimeLimitExceeded as exc:
        time.sleep(seconds)
        return str(exc)
    return "was not told"


@app.task
def compute_on() -> str:
    """Catches its soft limit while it computes."""
    try:
        while True:
            pass
    except SoftTimeLimitExceeded as exc:
        return str(exc)


@app.task
async def sleep_on_async() -> None:
    await asyncio.sleep(1000)


@app.task
async def tidy_up_async(way: str) -> str:
    """Catches its soft limit where it waits, or computes, or waits for others."""
    try:
        if way == "computing":
            while True:
                pass
        elif way == "gathering":
            await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))
        else:
            await asyncio.sleep(1000)
    except SoftTimeLimitExceeded as exc:
        await asyncio.sleep(0)
        return str(exc)
    return "was not told"


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
    print("waiting")
    try:
        time.sleep(1000)
    except ShopClosed:
        return "well"
    return "woke up"


@app.task
def wait_until_cancelled() -> str:
    print("asking")
    while not is_cancelled():
        time.sleep(0.001)
    return "cancelled"


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
