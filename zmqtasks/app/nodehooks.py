"""The receivers of a node's own signals, and the process that calls them.

That is the hook child; with the solo pool, the node. Neither runs a task then, so what a
receiver submits is owned by that process, through a client of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zmqtasks import signals
from zmqtasks.app import context, current
from zmqtasks.app.app import App
from zmqtasks.app.childmain import limits_of_app
from zmqtasks.app.loader import load_app
from zmqtasks.limits import HOOKS_GIVE_S
from zmqtasks.pools.base import PoolConfig

_LOG = logging.getLogger("zmqtasks.signals")


def main(config: PoolConfig) -> NodeHooks:
    """Load the application in a hook child.

    Raises:
        AppLoadError: with the traceback of the failed import.
    """
    current.install(None)
    current.set_flags(config.flags)
    context.set_node_name(config.node_name)
    app = load_app(config.app, Path.cwd())
    return NodeHooks(app, config.node_name, limits_of_app(app, config)[1])


class WorkerNode:
    """What receivers get as ``sender``: the node."""

    def __init__(self, app: App, hostname: str) -> None:
        self.app = app
        #: Its name; ``connect(sender="w1")`` is for the signals of the node ``w1`` alone.
        self.hostname = self.name = hostname

    def __str__(self) -> str:
        return self.hostname

    def __repr__(self) -> str:
        return f"<WorkerNode: {self.hostname}>"


class NodeHooks:
    """Calls receivers.

    Args:
        app: the application.
        hostname: name of the node.
        log_level: of the root logger.
    """

    def __init__(self, app: App, hostname: str, log_level: str) -> None:
        self.log_level = log_level
        self._sender = WorkerNode(app, hostname)

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Call all receivers of this signal; what they raise is logged."""
        # Celery has the node's name as the sender of this one.
        is_leaving = signal == signals.worker_shutting_down.name
        sender = self._sender.hostname if is_leaving else self._sender
        try:
            getattr(signals, signal).send(sender, **args)
        except SystemExit as exc:
            _LOG.error(
                "a receiver of signal %s called sys.exit(%r): the node goes on, but the receivers "
                "that come after it were not called; 'zmqtasks control shutdown' stops a node",
                signal, exc.code,
            )  # fmt: skip

    def end(self) -> None:
        """See ``pools.hooking.Hooks``."""
        current.limit_exit(HOOKS_GIVE_S)


class OwnHooks(NodeHooks):
    """The same in the node's own process, where tasks run as well."""

    _pid = 0

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """See ``NodeHooks``; a client of this process takes the calls that receivers make."""
        self._pid = os.getpid()
        with current.through_clients():
            super().fire(signal, args)

    def end(self) -> None:
        """The node ends."""
        if self._pid != os.getpid():
            return  # its start came to nothing, or this is a process that a task forked
        self.fire(signals.worker_shutdown.name, {})
        current.end_clients("the node ended")
