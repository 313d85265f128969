"""The application that the suite for pools runs, in children and in this process."""

# ruff: noqa: D103 - the names say what they do; tasks print

from __future__ import annotations

import asyncio
import logging
import os
import signal
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


@app.task
def die_by(signum: int) -> None:
    os.kill(os.getpid(), signum)
    signal.pause()


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
    print("asleep")
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
def wait_until_cancelled() -> str:
    print("asking")
    while not is_cancelled():
        time.sleep(0.001)
    return "cancelled"


@app.task
async def add_later(count: int) -> list[str]:
    """Submits from a coroutine, all at once."""
    handles = await asyncio.gather(*[add.adelay(n, 1) for n in range(count)])
    return [handle.id for handle in handles]


@app.task
def say_in_pieces(text: str) -> None:
    """Begins a line, and ends it when it is told to."""
    print(text, end=" ")
    print("begun", file=sys.stderr)
    while not is_cancelled():
        time.sleep(0.001)
    print("of", text)


@app.task
async def wait_until_cancelled_async() -> str:
    print("asking")
    while not is_cancelled():  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.001)
    return "cancelled"


@app.task
async def insist() -> None:
    """Does not let itself be ended at once."""
    print("waiting")
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        await asyncio.sleep(0)


@app.task
def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@app.task
def process_id() -> int:
    return os.getpid()


#: An application that not every pool can run.
limited = App("limited")


@limited.task(time_limit=10)
def bounded() -> None:
    pass


@limited.task(soft_time_limit=10)
def warned() -> None:
    pass
