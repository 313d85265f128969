"""Inside a node's hook child: it calls the application's receivers of the node's signals.

It is forked as the children are that run tasks, says that it is ready, and then calls, one
signal after the other, what is connected to those that the node sends. It runs no tasks.
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from zmqtasks.pools.base import PoolConfig
from zmqtasks.pools.child import ChildLink, load_failure, load_function, set_up
from zmqtasks.pools.page import Words
from zmqtasks.pools.protocol import ChildReady, FireSignal, SignalFired
from zmqtasks.pools.stream import batch_bytes_max


class Hooks(Protocol):
    """The layer above, as a hook child sees it."""

    #: Level of the root logger.
    log_level: str

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Call all receivers of this signal; what they raise is logged."""

    def end(self) -> None:
        """No more signals come, and this process is about to end."""


def run_hook_child(sock: socket.socket, serial: int, config: PoolConfig, words: Words) -> None:
    """Everything a hook child does between its fork and its exit."""
    link = ChildLink(sock, serial, batch_bytes_max(config.payload_bytes_max), words)
    capture = set_up(link, config)
    try:
        hooks: Hooks = load_function(config.hooks)(config)
    except BaseException as exc:  # noqa: BLE001 (user code: everything is reported)
        link.tell(load_failure(exc))
        link.flush()
        return
    link.tell(ChildReady(os.getpid(), [], "", ""))
    if config.capture:
        capture.start_logging(hooks.log_level)
    while isinstance(signal := link.next_signal(), FireSignal):
        hooks.fire(signal.name, signal.args)
        capture.end_task()
        link.tell(SignalFired(signal.name))
    hooks.end()
    # Its client leaves the mesh here, and sees to what it owns.
    atexit._run_exitfuncs()
    capture.end_task()
    link.flush()
