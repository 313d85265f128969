"""Finds a pool by its name.

Built-in pools, ``module:Class``, and those of the entry point group ``zmqtasks.pools`` (name:
that of the pool; object: as ``module:Class``, a callable that takes a
:class:`~zmqtasks.pools.base.PoolConfig` and returns a ``Pool``). A pool is imported only
when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import cast

from zmqtasks.errors import ConfigError
from zmqtasks.pools.base import Pool, PoolConfig
from zmqtasks.settings_checks import POOL_GROUP

Factory = Callable[[PoolConfig], Pool]

#: {name: "module:function"} of the pools that are part of zmqtasks.
BUILT_IN: Mapping[str, str] = {
    "process": "zmqtasks.pools.process:ProcessPool",
    "thread": "zmqtasks.pools.hosted:thread_pool",
    "asyncio": "zmqtasks.pools.hosted:asyncio_pool",
    "solo": "zmqtasks.pools.solo:SoloPool",
}


def make_pool(name: str, config: PoolConfig) -> Pool:
    """The pool of this name, not launched yet.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    where = BUILT_IN.get(name) or (name if ":" in name else _entry_point(name))
    module, _, attribute = where.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"pool {name!r} cannot be imported from {where}: {exc}") from exc
    return cast("Factory", found)(config)


def _entry_point(name: str) -> str:
    points = {point.value for point in metadata.entry_points(group=POOL_GROUP, name=name)}
    if len(points) != 1:
        where = f": {', '.join(sorted(points))}; keep one" if points else "; install it"
        many = "several packages offer" if points else "no package here offers"
        raise ConfigError(f"{many} a pool {name!r}{where}")
    return points.pop().partition(" ")[0]
