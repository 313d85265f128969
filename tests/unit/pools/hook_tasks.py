"""An application with receivers of the node's signals, which print what they are told."""

from __future__ import annotations

import atexit
import logging
import os
import time
from typing import Any

from zmqtasks import App
from zmqtasks.signals import worker_init, worker_ready, worker_shutdown, worker_shutting_down

app = App("hooked")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@worker_init.connect
def on_init(sender: Any, **kwargs: Any) -> None:
    print(f"init of {sender} in {os.getpid()}")
    if sender.hostname == "lingers":
        atexit.register(time.sleep, 1000)
    if sender.hostname == "dies":
        os._exit(7)


@worker_ready.connect
def on_ready(sender: Any, **kwargs: Any) -> None:
    logging.getLogger("hooked").warning("ready")
    if sender.hostname == "raises":
        raise ValueError("not so")
    if sender.hostname == "exits":
        raise SystemExit(3)


@worker_shutting_down.connect
def on_shutting_down(sender: str, how: str, **kwargs: Any) -> None:
    print(f"{sender} shuts down: {how}")


@worker_shutdown.connect
def on_shutdown(sender: Any, **kwargs: Any) -> None:
    print("shutdown")
    if sender.hostname == "hangs":
        time.sleep(1000)
