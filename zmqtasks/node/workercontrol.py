"""What a node with a pool tells of it, and what it can be told: one small function a command."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zmqtasks.core.diagnosis import is_internal
from zmqtasks.core.held import HeldTask
from zmqtasks.core.rates import rate_text
from zmqtasks.core.workqueue import priority_of
from zmqtasks.errors import ConfigError, DecodeError
from zmqtasks.ids import format_node, format_task_id, learn_text
from zmqtasks.node.clock import wall_ms
from zmqtasks.node.control import Told
from zmqtasks.pools.base import check_limits
from zmqtasks.pools.protocol import TaskFacts
from zmqtasks.settings_checks import CHECKS
from zmqtasks.wire.payload import decode_arguments
from zmqtasks.words import counted

if TYPE_CHECKING:
    from zmqtasks.core.intake import Intake
    from zmqtasks.node.serve import Node

_LOG = logging.getLogger("zmqtasks.node")

#: Arguments of more bytes are not looked at to show them.
_SHOWN_BYTES_MAX = 4_096
_DONE = "ok"
#: Of ``Hello.ext``: rates were changed so often. Owners that keep tasks back try again.
_CHANGES_KEY = "chg"

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200
_repr.maxtuple = _repr.maxlist = _repr.maxdict = 10


class WorkerControl:
    """The commands that are about a pool; on the loop's thread of its node only.

    Args:
        node: a worker.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._runtime = node.runtime
        control = node.runtime.control
        control.worker_stats = self._stats
        control.add(
            {
                "active": self._active,
                "reserved": self._reserved,
                "registered": self._registered,
                "active_queues": self._active_queues,
            },
            {
                "rate_limit": self._rate_limit,
                "time_limit": self._time_limit,
                "add_consumer": self._add_consumer,
                "cancel_consumer": self._cancel_consumer,
                "pool_grow": self._pool_grow,
                "pool_shrink": self._pool_shrink,
                "autoscale": self._autoscale,
            },
        )

    @property
    def _intake(self) -> Intake:
        intake = self._runtime.mesh.intake
        assert intake is not None, "a node with a pool has an intake"
        return intake

    # --- telling --------------------------------------------------------------------------

    def _active(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> Told:
        """The first task of each slot: the others wait for it."""
        ahead_ms = wall_ms() - self._runtime.now_ms
        busy = ((slot, state) for slot, state in self._intake.slots.items() if state.pending)
        return Told(busy, lambda found: {
            **shown(found[1].pending[0]), "slot": found[0],
            "time_start": (found[1].since_ms + ahead_ms) / 1000,
        })  # fmt: skip

    def _reserved(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> Told:
        return Told(self._waiting(), shown)

    def _waiting(self) -> Iterator[HeldTask]:
        for state in self._intake.slots.values():
            yield from list(state.pending)[1:]
        yield from self._intake.waiting()

    def _registered(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> Told:
        names = sorted(entry.name for entry in self._runtime.mesh.hello.catalog)
        return Told(name for name in names if args.get("builtins") or not is_internal(name))

    def _active_queues(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> Told:
        return Told(sorted(self._intake.queues), lambda queue: {"name": queue})

    def _stats(self) -> dict[str, Any]:
        intake, pool, sizing = self._intake, self._node.pool, self._node.sizing
        assert pool is not None
        assert sizing is not None
        total: dict[str, int] = {}
        for kind, stat in intake.stats.items():
            if stat.count:
                total[kind.name] = total.get(kind.name, 0) + stat.count
        return {
            "pool": {
                "implementation": self._node.settings.pool,
                "max-concurrency": pool.slots,
                "autoscale": list(sizing.bounds) if sizing.bounds else None,
                "features": sorted(pool.features),
            },
            "total": total,
            "rates": intake.gates.rates.describe(),
            "running": intake.running_count,
            "waiting": len(intake.queue) + len(intake.gates),
        }

    # --- doing ----------------------------------------------------------------------------

    def _check_task(self, name: object) -> str:
        names = {entry.name for entry in self._runtime.mesh.hello.catalog}
        if name not in names:
            raise ConfigError(f"this worker has no task {name!r:.75} (inspect registered)")
        return str(name)

    def _rate_limit(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        name = self._check_task(args["task_name"])
        text = rates_text(args)
        self._intake.limit_rate(name, args.get("rate_limit"), args.get("mesh_rate_limit"))
        ext = self._runtime.mesh.hello.ext
        if args.get("mesh_rate_limit") is not None:
            self._intake.gates.rates.ordered(name, args["mesh_rate_limit"], wall_ms())
        ext[_CHANGES_KEY] = ext.get(_CHANGES_KEY, 0) + 1
        self._runtime.mesh.change_worker(self._runtime.now_ms)
        return self._done(f"new rate limit of {name}: {text}")

    def _time_limit(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        name = self._check_task(args["task_name"])
        pool, facts = self._node.pool, self._node.facts
        assert pool is not None
        old = facts.get(name, TaskFacts())
        new = with_limits(old, args)
        check_limits(self._node.settings.pool, pool.features, {name: new})
        facts[name] = new
        return self._done(
            f"time limits of {name} for what starts from now on: soft {_limit(new.soft_ms)}, "
            f"hard {_limit(new.hard_ms)}"
        )

    def _add_consumer(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        queue = queue_of(args)
        queues = self._runtime.mesh.hello.queues
        if queue in queues:
            return {_DONE: f"already serving queue '{queue}'"}
        self._serve([*queues, queue])
        return self._done(f"serving queue '{queue}'")

    def _cancel_consumer(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        queue = queue_of(args)
        queues = self._runtime.mesh.hello.queues
        if queue not in queues:
            raise ConfigError(
                f"this worker does not serve queue '{queue}', but {', '.join(queues) or 'none'}"
            )
        self._serve([other for other in queues if other != queue])
        return self._done(f"no longer serving queue '{queue}'; what runs of it goes on")

    def _serve(self, queues: list[str]) -> None:
        self._runtime.mesh.change_worker(self._runtime.now_ms, queues=queues)

    def _pool_grow(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        assert self._node.sizing is not None
        self._node.sizing.grow(_count(args))
        return self._resized()

    def _pool_shrink(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        assert self._node.sizing is not None
        self._node.sizing.shrink(_count(args))
        return self._resized()

    def _autoscale(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        assert self._node.sizing is not None
        most, least = args["max"], args.get("min")
        self._node.sizing.autoscale(int(most), 1 if least is None else int(least))
        return self._resized()

    def _resized(self) -> dict[str, str]:
        sizing, pool = self._node.sizing, self._node.pool
        assert sizing is not None
        assert pool is not None
        # What others know of it is the most that it may have.
        self._runtime.mesh.change_worker(self._runtime.now_ms, slots=sizing.slots_max)
        self._intake.slots_max = pool.slots
        return self._done(slots_text(pool.slots, sizing.bounds))

    def _done(self, text: str) -> dict[str, str]:
        _LOG.info("ordered: %s", text)
        return {_DONE: text}


def shown(task: HeldTask) -> dict[str, Any]:
    """An attempt as people see it."""
    ext = task.ext or {}
    learn_text(ext)
    args, kwargs = _arguments(task.body)
    return {
        "id": format_task_id(task.id),
        "name": ext.get("sh", task.kind.name),
        "app": task.kind.app,
        "args": ext.get("ar", args),
        "kwargs": ext.get("kr", kwargs),
        "queue": task.kind.queue,
        "priority": priority_of(task.ext),
        "attempt": task.attempt,
        "retries": ext.get("n", 0),
        "owner": format_node(task.owner) if task.owner else "",
    }


def _arguments(body: bytes) -> tuple[str, str]:
    if len(body) > _SHOWN_BYTES_MAX:
        return f"({len(body):,} bytes)", ""
    try:
        args, kwargs = decode_arguments(body)
    except DecodeError:
        return "(cannot be read)", ""
    return _repr.repr(tuple(args)), _repr.repr(kwargs)


def with_limits(old: TaskFacts, args: Mapping[str, Any]) -> TaskFacts:
    """What is known of a task, with other time limits: ``soft`` and ``hard`` in seconds, 0 for
    none; one that is not given stays as it is.

    Raises:
        ConfigError: none is given, or they do not go together.
    """
    given = {key: args[key] for key in ("soft", "hard") if args.get(key) is not None}
    if not given:
        raise ConfigError("say what limit it shall have: soft, hard or both, in seconds; 0: none")
    soft_ms, hard_ms = (
        round(float(given[key]) * 1000) if key in given else was
        for key, was in (("soft", old.soft_ms), ("hard", old.hard_ms))
    )
    if soft_ms < 0 or hard_ms < 0 or 0 < hard_ms <= soft_ms:
        raise ConfigError(
            f"soft {_limit(soft_ms)}, hard {_limit(hard_ms)}: time limits are seconds, 0 for none, "
            "the soft one below the hard one"
        )
    return TaskFacts(soft_ms, hard_ms, old.rate, old.mesh_rate)


def _limit(limit_ms: int) -> str:
    return f"{limit_ms / 1000:g} s" if limit_ms else "none"


def rates_text(args: Mapping[str, Any]) -> str:
    """The rates that somebody asked for, in words.

    Raises:
        ConfigError: no rate, or none at all.
    """
    whose = (("rate_limit", ""), ("mesh_rate_limit", " for all workers together"))
    given = [(args[key], of) for key, of in whose if args.get(key) is not None]
    if not given:
        raise ConfigError(
            "say how often it may start: rate_limit for each worker, mesh_rate_limit for all "
            "workers together, or both; 0: no limit"
        )
    return ", ".join(f"{rate_text(rate) or 'none'}{of}" for rate, of in given)


def slots_text(slots: int, bounds: tuple[int, int] | None) -> str:
    """How many tasks run at once, in words; ``bounds``: ``(most, least)`` of autoscale."""
    text = counted(slots, "slot")
    return f"{text}, autoscale {bounds[1]} to {bounds[0]}" if bounds else text


def queue_of(args: Mapping[str, Any]) -> str:
    """The queue that somebody named.

    Raises:
        ConfigError: no call could name it.
    """
    queue = args["queue"]
    if not isinstance(queue, str):
        raise ConfigError(f"{queue!r:.75} is not a queue name")
    CHECKS["default_queue"](queue)
    return queue


def _count(args: Mapping[str, Any]) -> int:
    count = args.get("n")
    found = 1 if count is None else int(count)
    if found < 1:
        raise ConfigError(f"{found} is no number of slots to add or take; write 1 or more")
    return found
