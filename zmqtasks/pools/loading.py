"""Waiting for a pool's first child: the only part of the process pool that blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from zmqtasks.errors import AppLoadError
from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.children import Child
from zmqtasks.pools.protocol import ChildReady, LogRecord
from zmqtasks.pools.spawner import Spawner, exit_reason

log = logging.getLogger("zmqtasks.pools")

#: A start that takes longer is reported each time this passes.
_LOADING_NOTICE_S: Final = 10.0


def await_server(spawner: Spawner, config: PoolConfig) -> tuple[Spawner, PoolConfig]:
    """Wait until the fork server has imported the application.

    Returns:
        The server to use and its configuration: other ones when the application cannot be
        imported before children are forked.

    Raises:
        AppLoadError: the import ended the server.
    """
    threads = _await_up(spawner, config.app)
    if threads == 0:
        return spawner, config
    # Children of a process with threads inherit locked locks, and a failed import
    # leaves halves behind: begin again and let each child import for itself.
    if threads > 0:
        log.info("preload.off threads=%d reason=application_starts_threads", threads)
    spawner.close()
    config = msgspec.structs.replace(config, preload="")
    spawner = Spawner(config)
    try:
        _await_up(spawner, config.app)
    except BaseException:
        spawner.close()
        raise
    return spawner, config


def _await_up(spawner: Spawner, app: str) -> int:
    for report in _reports(spawner, app):
        if report["op"] == "up":
            return int(report["threads"])
    raise AppLoadError(f"loading {app!r} ended the process that imported it: {spawner.close()}")


def await_ready(child: Child, spawner: Spawner, app: str) -> tuple[ChildReady, list[LogRecord]]:
    """Wait for the first child: it loads the application, or says why not.

    Returns:
        What it says of the application, and what was written meanwhile.

    Raises:
        AppLoadError: with the traceback of the failed import.
    """
    child.sock.settimeout(_LOADING_NOTICE_S)
    begun = time.monotonic()
    early: list[LogRecord] = []
    ready: ChildReady | None = None
    while ready is None:
        try:
            batches, trouble, _ = child.read(reads_max=1)
        except TimeoutError:
            _notice(app, begun)
            continue
        if trouble:
            reason = trouble if "wrote" in trouble else _await_exit(child.serial, spawner, app)
            output = "\n".join(line for pipe in child.pipes for line in pipe.rest())
            raise AppLoadError(f"loading {app!r} ended the process: {reason}", output)
        for batch in batches:
            for message in batch:
                if isinstance(message, ChildReady):
                    if message.error:
                        raise AppLoadError(message.error, message.traceback)
                    child.ready = True
                    child.pid = message.pid
                    ready = message
                elif isinstance(message, LogRecord):
                    early.append(message)
    return ready, early


def _await_exit(serial: int, spawner: Spawner, app: str) -> str:
    for report in _reports(spawner, app):
        if report["op"] == "exit" and report["serial"] == serial:
            return exit_reason(report["status"])
    return "ended together with the fork server"


def _reports(spawner: Spawner, app: str) -> Iterator[dict[str, Any]]:
    """What the server reports, until it is gone."""
    begun = time.monotonic()
    while True:
        reports = spawner.receive(_LOADING_NOTICE_S)
        if reports is None:
            return
        if not reports:
            _notice(app, begun)
        yield from reports


def _notice(app: str, begun: float) -> None:
    log.warning("app.loading app=%s seconds=%d", app, time.monotonic() - begun)
