"""How often tasks may start: per name, on this worker and on all workers together.

A rate is smooth: at ``10/s`` a start every 100 ms, never ten at once. What is not used is
not saved up. ``wait_ms`` and ``take`` of a limit deal in times to come, so that tasks that
wait for their turn here keep the rate exactly, however late they are looked after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zmqtasks.errors import ConfigError

#: Of ``Hello.ext``: ``RateLimits.orders``.
RATES_KEY = "mr"
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
_RATE_MAX = 1_000_000.0


def interval_of(rate: str | float | None) -> float:
    """Milliseconds between two starts, 0 without a limit.

    Args:
        rate: ``"10/s"``, ``"100/m"``, ``"5/h"``; a number means per second; None, "" and 0
            mean no limit.

    Raises:
        ConfigError: none of these.
    """
    if not rate:
        return 0.0
    count, slash, unit = str(rate).strip().partition("/")
    unit_ms = _UNITS_MS.get(unit.strip() if slash else "s")
    try:
        number = float(count)
    except ValueError:
        number = -1.0
    if unit_ms is None or not 0 <= number <= _RATE_MAX:
        raise ConfigError(
            f"{rate!r} is no rate; write how many a second, minute or hour: 10/s, 100/m or 5/h"
        )
    return unit_ms / number if number else 0.0


def rate_text(rate: str | float | None) -> str:
    """A rate as people read it, such as "10/s"; "" without a limit.

    Raises:
        ConfigError: as of :func:`interval_of`.
    """
    if not interval_of(rate):
        return ""
    count, _, unit = str(rate).partition("/")
    return f"{count.strip()}/{unit.strip() or 's'}"


class RateLimit:
    """The limits of one task name."""

    __slots__ = ("_mesh_ms", "_next_ms", "_own_ms", "sharers")

    def __init__(self) -> None:
        self._own_ms = 0.0
        self._mesh_ms = 0.0
        #: Workers that run such tasks, this one included: each has its share of the mesh's.
        self.sharers = 1
        self._next_ms = 0.0

    @property
    def interval_ms(self) -> float:
        """Between two starts here, 0 without a limit."""
        return max(self._own_ms, self._mesh_ms * self.sharers)

    def change(self, own_ms: float | None = None, mesh_ms: float | None = None) -> None:
        """Change an interval, None leaves it; the next start is free."""
        self._own_ms = self._own_ms if own_ms is None else own_ms
        self._mesh_ms = self._mesh_ms if mesh_ms is None else mesh_ms
        self._next_ms = 0.0

    @property
    def is_shared(self) -> bool:
        """All workers together have a limit."""
        return self._mesh_ms > 0

    def wait_ms(self, now_ms: int) -> int:
        """How long until the next start, 0 for none."""
        if not self._own_ms and not self._mesh_ms:
            return 0
        return max(0, -int((now_ms - self._next_ms) // 1))

    def take(self, now_ms: int) -> int:
        """Take the next start; returns when it is."""
        start_ms = max(float(now_ms), self._next_ms)
        self._next_ms = start_ms + self.interval_ms
        return -int(-start_ms // 1)

    def give_back(self) -> None:
        """A start that was taken does not happen."""
        self._next_ms -= self.interval_ms


class RateLimits:
    """All of a worker, by name of the task."""

    def __init__(self) -> None:
        self._limits: dict[str, RateLimit] = {}
        #: {name: {option: rate}} as they were set, "" for those that were taken away.
        self._texts: dict[str, dict[str, str]] = {}
        #: {name: (rate of all workers together, wall clock ms when somebody set it)}, of what was
        #: set at run time: workers that come later are told, in ``ext`` of HELLO.
        self.orders: dict[str, tuple[str, int]] = {}

    def of(self, name: str) -> RateLimit | None:
        """The limit of these tasks, None without one."""
        limit = self._limits.get(name)
        return limit if limit is not None and limit.interval_ms else None

    def change(self, name: str, own: str | float | None, mesh: str | float | None) -> None:
        """Limit the starts here, or on all workers together; None leaves it as it is, 0 and ""
        take the limit away.

        Raises:
            ConfigError: no such rate.
        """
        own_ms = None if own is None else interval_of(own)
        mesh_ms = None if mesh is None else interval_of(mesh)
        self._limits.setdefault(name, RateLimit()).change(own_ms, mesh_ms)
        given = {"rate_limit": own, "mesh_rate_limit": mesh}
        texts = {key: rate_text(rate) for key, rate in given.items() if rate is not None}
        self._texts.setdefault(name, {}).update(texts)

    def ordered(self, name: str, mesh: str | float, at_ms: int) -> None:
        """Somebody has set the rate of all workers together, at this wall clock time."""
        self.orders[name] = (rate_text(mesh), at_ms)

    def newer_orders(self, said: object, names: Collection[str]) -> list[tuple[str, str]]:
        """``(name, rate)`` of what another worker was told later than this one, and holds from
        now on for this one, too; the limits themselves are still to be changed.

        Args:
            said: its ``orders``, from the wire.
            names: of the tasks of this worker.
        """
        found: list[tuple[str, str]] = []
        for name, order in said.items() if isinstance(said, dict) else ():
            if name not in names or not _is_order(order):
                continue
            rate, at_ms = order
            if at_ms > self.orders.get(name, ("", 0))[1]:
                self.orders[name] = (rate, at_ms)
                found.append((name, rate))
        return found

    def describe(self) -> dict[str, dict[str, str]]:
        """Plain data for `zmqtasks inspect stats`: ``{name: {option: rate}}`` of what has one."""
        found = (
            (name, {key: text for key, text in texts.items() if text})
            for name, texts in self._texts.items()
        )
        return {name: texts for name, texts in found if texts}

    def share(self, names_of_workers: Iterable[Collection[str]]) -> None:
        """Tell which tasks the other workers of the mesh run."""
        workers = list(names_of_workers)
        for name, limit in self._limits.items():
            limit.sharers = 1 + sum(name in names for names in workers)

    @property
    def is_shared(self) -> bool:
        """Some limit is of all workers together, so they must be known."""
        return any(limit.is_shared for limit in self._limits.values())


def _is_order(order: object) -> bool:
    """From the wire: whoever made it may have put anything there."""
    if not isinstance(order, (list, tuple)) or len(order) != 2:
        return False
    rate, at_ms = order
    if not isinstance(rate, str) or not isinstance(at_ms, int):
        return False
    try:
        interval_of(rate)
    except ConfigError:
        return False
    return True
