"""What a node calls itself, how much it runs at once, and how its pool is to be."""

from __future__ import annotations

import os
import socket

from zmqtasks.amounts import parse_resource
from zmqtasks.errors import ConfigError
from zmqtasks.limits import ASYNCIO_SLOTS
from zmqtasks.pools.base import PoolPlan
from zmqtasks.settings import NodeSettings
from zmqtasks.settings_checks import AUTO, parse_autoscale, parse_cpus


def slots_of(settings: NodeSettings) -> int:
    """How many tasks this worker runs at once; with autoscale, at first."""
    if settings.pool == "solo":
        return 1
    if settings.autoscale:
        return parse_autoscale(settings.autoscale)[1]
    cpus = os.cpu_count() or 1
    usual = {"thread": min(32, cpus + 4), "asyncio": ASYNCIO_SLOTS}
    return settings.concurrency or usual.get(settings.pool, cpus)


def plan_of(settings: NodeSettings) -> PoolPlan:
    """How the pool of this worker is to be."""
    return PoolPlan(
        slots=slots_of(settings),
        tasks_max=settings.max_tasks_per_child,
        memory_kib_max=settings.max_memory_per_child,
        idle_ms=round(settings.child_idle_s * 1000),
        is_resized=bool(settings.autoscale),
        gives_gpus=any(parse_resource(entry).ids for entry in settings.resources),
    )


def cpus_of(settings: NodeSettings) -> tuple[int, ...]:
    """The CPUs that processes are pinned to, none for anywhere.

    Raises:
        ConfigError: nothing can be pinned on this system.
    """
    if not settings.cpus:
        return ()
    if not hasattr(os, "sched_getaffinity"):
        raise ConfigError("cpus: this system cannot pin processes to CPUs; leave it out")
    if settings.cpus == AUTO:
        return tuple(sorted(os.sched_getaffinity(0)))
    return parse_cpus(settings.cpus)


def node_name(settings: NodeSettings) -> str:
    """The node's name for people: as set, else host and process id."""
    return settings.name or f"{socket.gethostname()}-{os.getpid()}"
