"""When a process is replaced although nothing is wrong with it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Final

from zmqtasks.errors import ConfigError
from zmqtasks.pools.base import PoolPlan

_PAGE_KIB: Final = resource.getpagesize() // 1024
#: A successor is started when the tasks left take less than so many times its start.
_STARTS_AHEAD: Final = 2.0


def is_nearly_used_up(sent: int, tasks_max: int, age_s: float, start_s: float) -> bool:
    """Whether a process that may run ``tasks_max`` tasks needs its successor now.

    Args:
        sent: how many it was given.
        tasks_max: how many it may run.
        age_s: since when it has lived.
        start_s: how long a successor takes to start.
    """
    left = tasks_max - sent
    return left <= 0 or (sent > 0 and left * age_s / sent <= _STARTS_AHEAD * start_s)


def check_memory(plan: PoolPlan) -> None:
    """Refuse a limit of memory where that cannot be told.

    Raises:
        ConfigError: says so.
    """
    if plan.memory_kib_max and not sys.platform.startswith("linux"):
        raise ConfigError("max_memory_per_child needs Linux; leave it out")


def memory_kib(pid: int) -> int:
    """Memory that a process holds (resident, in KiB), 0 if it is gone."""
    try:
        statm = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0
    return int(statm.split()[1]) * _PAGE_KIB
