"""``zmqtasks node``: one node of the mesh, in the foreground."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Any

import click

from zmqtasks.cli.logs import set_up_logging
from zmqtasks.cli.options import setting_options, settings_from
from zmqtasks.settings import Loaded, NodeSettings, describe


@click.command()
@setting_options()
@click.option("--print-config", is_flag=True, help="Print every setting and its origin, and exit.")
def node(print_config: bool, **flags: Any) -> None:
    """Start a node: a worker (runs tasks), a store (keeps results), or both.

    It runs until SIGINT or SIGTERM: then it finishes what it runs and leaves. A second
    signal stops it at once.
    """
    loaded = settings_from(flags)
    if print_config:
        show_config(loaded)
        return
    sys.exit(run(loaded))


def show_config(loaded: Loaded) -> None:
    """Every value as TOML, with where it came from as a comment."""
    rows = describe(loaded)
    width = max(len(f"{key} = {value}") for key, value, _ in rows if len(value) < 60)
    for key, value, origin in rows:
        click.echo(f"{f'{key} = {value}':<{width}}  # {origin}")


def run(loaded: Loaded) -> int:
    """Run the node to its end; returns the exit code."""
    settings = loaded.settings
    set_up_logging(settings.log_level)
    # Until the node obeys signals itself: both end its start, with all it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool, slots = None, 0
    try:
        if "worker" in settings.roles:
            pool, slots = make_pool(settings, flags_for_tasks(loaded))
        from zmqtasks.node.serve import Node  # after the pool's server has been launched

        node = Node(settings, pool, slots)
        node.obey_signals()
        node.start()
    except BaseException:
        if pool is not None:
            pool.stop()
        raise
    for line in banner(node):
        logging.getLogger("zmqtasks.node").info("%s", line)
    return node.run()


def flags_for_tasks(loaded: Loaded) -> dict[str, Any]:
    """What the command line says, but for the name, which is this node's alone."""
    return {
        key: getattr(loaded.settings, key)
        for key, origin in loaded.origins.items()
        if origin.startswith("flag ") and key != "name"
    }


def make_pool(settings: NodeSettings, flags: dict[str, Any]) -> tuple[Any, int]:
    """The pool of a worker, launched, and its number of slots."""
    from zmqtasks.app.spec import find_spec
    from zmqtasks.node.slots import node_name, slots_of
    from zmqtasks.pools.base import PoolConfig

    slots = slots_of(settings)
    config = PoolConfig(
        app=find_spec(settings.app, Path.cwd()),
        node_name=node_name(settings),
        payload_bytes_max=settings.payload_bytes_max,
        log_level=settings.log_level,
        flags=flags,
    )
    if settings.pool == "solo":
        from zmqtasks.pools.solo import SoloPool

        return SoloPool(config), slots
    from zmqtasks.pools.process import ProcessPool

    pool = ProcessPool(config, slots)
    pool.launch()
    return pool, slots


def banner(node: Any) -> list[str]:
    """What a person wants to know of a node that has just started."""
    runtime, settings = node.runtime, node.settings
    hello = runtime.mesh.hello
    lines = [
        f"node {hello.name} of mesh '{settings.mesh}' is up: {', '.join(hello.roles)}",
        "listens on " + ", ".join(hello.endpoints),
    ]
    if hello.slots:
        names = sorted({entry.name for entry in hello.catalog})
        lines.append(
            f"runs {len(names)} tasks ({', '.join(names[:8])}{', …' if len(names) > 8 else ''}) "
            f"of queues {', '.join(hello.queues)}, {hello.slots} at once ({settings.pool} pool)"
        )
    if runtime.fingerprint:
        who = (
            "members on other hosts can join"
            if runtime.endpoints.lan_port
            else "only members on this host can reach it (--listen '*' opens it to other hosts)"
        )
        lines.append(f"mesh key {runtime.fingerprint}: {who}")
    elif not settings.insecure:
        has_port = any(endpoint.startswith("tcp://") for endpoint in hello.endpoints)
        who = "processes on this host" if has_port else "this user's processes on this host"
        lines.append(
            f"no mesh key: only {who} can join; for more hosts run 'zmqtasks keygen' and copy the "
            "key to each"
        )
    return lines
