"""A command's own client of the mesh, for as long as the command runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from zmqtasks import paths
from zmqtasks.app import current
from zmqtasks.cli.logs import set_up_logging
from zmqtasks.cli.options import settings_from
from zmqtasks.errors import JournalError
from zmqtasks.node.client import Client
from zmqtasks.node.slots import node_name
from zmqtasks.node.survey import NOBODY_THERE, SeenNode
from zmqtasks.settings import NodeSettings
from zmqtasks.words import counted

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
    settings, origins = loaded.settings, loaded.origins
    if any(origins[key] != "default" for key in ("log_level", "log_format")):
        level = "WARNING" if origins["log_level"] == "default" else settings.log_level
        set_up_logging(level, settings.log_format, node_name(settings))
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
    """What to say when nobody is there, or answers."""
    silent, peers = client.survey.unreached(), client.survey.silent_peers()
    if peers:
        text = (
            f"no node of mesh '{settings.mesh}' answers at {peers_text(peers)} (waited "
            f"{client.survey.looked_s:.1f} s)"
        )
        # Others say themselves what to do: somebody is there.
        if not NOBODY_THERE.isdisjoint(peers.values()):
            text += (
                "; start one there that listens on this address (zmqtasks node --listen), or "
                "correct it"
            )
    elif silent:
        text = f"no node of mesh '{settings.mesh}' answers: {silent_text(silent)}"
    else:
        text = (
            f"mesh '{settings.mesh}' has no nodes; looked at: "
            + "; ".join(client.survey.looked_at())
            + ". Start one with: zmqtasks node --app MODULE"
        )
    _, left = left_here(settings)
    return f"{text}. {left}" if left else text


def peers_text(silent: Mapping[str, str]) -> str:
    """Addresses of ``--peer`` where nobody answers, and why."""
    return "; ".join(f"{address} (--peer): {why}" for address, why in silent.items())


def silent_text(silent: Sequence[SeenNode]) -> str:
    """Nodes that are there and do not answer, and what to do about it."""
    who = "; ".join(
        f"node {node.node} ({', '.join(node.roles)}; found by {node.found_by}) {node.trouble}"
        for node in silent
    )
    return f"{who}: stopped, too busy to answer, or out of reach (zmqtasks status)"


def left_here(settings: NodeSettings) -> tuple[int, str]:
    """How many tasks lie in journals of this host that no process has, and what to say
    of them, "" for nothing."""
    from zmqtasks.journals.slots import JournalSlots  # loading SQLite takes a while

    try:
        found = JournalSlots(paths.journal_dir(settings)).left_behind()
    except JournalError as exc:
        return 0, f"The journals of this host cannot be looked at: {exc}"
    count = sum(left.open_count for left in found)
    damaged = sum(bool(left.damage) for left in found)
    facts = [counted(count, "open task")] if count else []
    facts += [f"{counted(damaged, 'journal')} that cannot be read"] if damaged else []
    if not facts:
        return 0, ""
    return count, (
        f"Left on this host by processes that have ended: {' and '.join(facts)} (zmqtasks "
        f"journal list); a node that starts here goes on with {'the others' if damaged else 'them'}"
    )
