"""How many slots this worker has: at the start, by autoscale, by hand."""

from __future__ import annotations

import logging

from zmqtasks.core.autoscale import Autoscale
from zmqtasks.errors import ConfigError
from zmqtasks.limits import AUTOSCALE_LOOK_MS, SLOTS_MAX
from zmqtasks.node.runtime import Runtime
from zmqtasks.pools.base import RESIZE, Pool
from zmqtasks.settings import NodeSettings
from zmqtasks.settings_checks import parse_autoscale
from zmqtasks.words import counted

_LOG = logging.getLogger("zmqtasks.node")


class Sizing:
    """Changes the number of slots of a pool. On the loop's thread.

    Args:
        runtime: of the node; its intake follows.
        pool: whose slots they are.
        settings: of the node.
    """

    def __init__(self, runtime: Runtime, pool: Pool, settings: NodeSettings) -> None:
        self._runtime = runtime
        self._pool = pool
        self._idle_ms = round(settings.autoscale_idle_s * 1000)
        #: None: nothing happens by itself.
        self._rule: Autoscale | None = None
        self._is_looking = False
        if settings.autoscale:
            self._rule = Autoscale(*parse_autoscale(settings.autoscale), self._idle_ms)

    @property
    def slots_max(self) -> int:
        """The most slots that there can be: what this worker tells others of itself."""
        return self._rule.most if self._rule is not None else self._pool.slots

    @property
    def bounds(self) -> tuple[int, int] | None:
        """``(most, least)`` of autoscale, None without."""
        return (self._rule.most, self._rule.least) if self._rule is not None else None

    def start(self) -> None:
        """The node runs."""
        self._tell_intake()
        self._look_soon()

    def autoscale(self, most: int, least: int) -> None:
        """Go by these bounds from now on.

        Raises:
            ConfigError: no such bounds, or the pool cannot.
        """
        self._check_pool()
        if not 1 <= least <= most <= SLOTS_MAX:
            raise ConfigError(
                f"autoscale MAX MIN: {most} {least}: it needs 1 <= MIN <= MAX <= {SLOTS_MAX}"
            )
        self._rule = Autoscale(most, least, self._idle_ms)
        self._resize(min(most, max(least, self._pool.slots)))
        self._look_soon()

    def grow(self, count: int) -> int:
        """Have so many slots more; autoscale may have as many from now on.

        Returns:
            How many there are then.

        Raises:
            ConfigError: too many, or the pool cannot.
        """
        slots = self._pool.slots + count
        self._check_pool()
        if not 1 <= slots <= SLOTS_MAX:
            has = counted(self._pool.slots, "slot")
            raise ConfigError(f"this worker has {has} and must have 1 to {SLOTS_MAX}")
        if self._rule is not None:
            self._rule.most = max(self._rule.most, slots)
            self._rule.least = min(self._rule.least, slots)
        self._resize(slots)
        return slots

    def shrink(self, count: int) -> int:
        """Have so many slots fewer; those that are busy end what they have.

        Returns:
            How many there are then.

        Raises:
            ConfigError: none would be left, or the pool cannot.
        """
        return self.grow(-count)

    def _check_pool(self) -> None:
        if RESIZE not in self._pool.features:
            raise ConfigError(
                "the pool of this node cannot change its size; others than the solo pool can"
            )

    def _look_soon(self) -> None:
        if self._rule is not None and not self._is_looking:
            self._is_looking = True
            self._runtime.loop.call_later(AUTOSCALE_LOOK_MS, self._look)

    def _look(self) -> None:
        self._is_looking = False
        intake = self._runtime.mesh.intake
        if self._rule is None or intake is None or intake.draining:
            return
        busy, waiting = intake.load()
        wanted = self._rule.decide(self._runtime.now_ms, self._pool.slots, busy, waiting)
        if wanted != self._pool.slots:
            _LOG.info("autoscale.resize slots=%d was=%d busy=%d waiting=%d",
                      wanted, self._pool.slots, busy, waiting)  # fmt: skip
            self._resize(wanted)
        self._look_soon()

    def _resize(self, slots: int) -> None:
        if slots != self._pool.slots:
            self._pool.resize(slots)
            self._tell_intake()

    def _tell_intake(self) -> None:
        intake = self._runtime.mesh.intake
        if intake is not None:
            intake.slots_max = self._pool.slots
            intake.can = self._pool.features
