"""A command's own client of the mesh, for as long as the command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zmqtasks.app import current
from zmqtasks.cli.logs import set_up_logging
from zmqtasks.cli.options import settings_from
from zmqtasks.node.client import Client
from zmqtasks.settings import NodeSettings

#: Seconds that a command looks for nodes of other hosts; on this host it knows at once.
FIND_S = 2.0


@contextmanager
def session(flags: dict[str, Any], *, sees_to_tasks: bool = False) -> Iterator[Client]:
    """A client with the settings of the command line, closed at the end.

    Args:
        sees_to_tasks: what has not finished then goes to other nodes, or to the disk; else
            it is given up.

    Raises:
        ConfigError, SecurityError: the settings cannot be used.
    """
    loaded = settings_from(flags)
    if loaded.origins["log_level"] != "default":
        set_up_logging(loaded.settings.log_level)
    client = Client(loaded.settings)
    current.install(client)
    try:
        yield client
    finally:
        current.install(None)
        if sees_to_tasks:
            client.end("the command ended")
        client.close("the command ended")


def empty_mesh(settings: NodeSettings, client: Client) -> str:
    """What to say when nobody is there."""
    return (
        f"mesh '{settings.mesh}' has no nodes; looked at: "
        + "; ".join(client.survey.looked_at())
        + ". Start one with: zmqtasks node --app MODULE"
    )
