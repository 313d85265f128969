"""What the pools have in common whose tasks run in children: their start, size and end.

Which child has which slot's tasks is theirs (``process.py``, ``hosted.py``).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from zmqtasks.pools.base import PoolConfig, PoolHost, PoolPlan, check_limits, check_plan
from zmqtasks.pools.children import Child
from zmqtasks.pools.nursery import Nursery, Parent
from zmqtasks.pools.protocol import ChildReady, TaskFacts
from zmqtasks.pools.recycling import check_memory, is_nearly_used_up, memory_kib
from zmqtasks.pools.slot import Slot
from zmqtasks.wire.messages import CatalogEntry

if TYPE_CHECKING:
    from zmqtasks.pools.hookchild import HookChild

SlotT = TypeVar("SlotT", bound=Slot)

log = logging.getLogger("zmqtasks.pools")

#: How often the memory of a busy process is looked at, in seconds.
_WEIGH_S: Final = 0.05
#: What a process is taken to need for its start before one was seen starting ahead.
_START_S: Final = 0.05


class ForkedPool(Parent, ABC, Generic[SlotT]):
    """Slots, and the children that work for them.

    Args:
        config: goes to the children as it is.
        slots: how many run at once; see also :meth:`plan`.
        slot: makes a slot of this number.
    """

    #: Its name.
    kind: str
    features: frozenset[str]

    def __init__(self, config: PoolConfig, slots: int, slot: type[SlotT]) -> None:
        self.slots = slots
        self._slot = slot
        self._config = config
        self._plan = PoolPlan(slots)
        self._nursery = Nursery(config, self)
        self._host_or_none: PoolHost | None = None
        #: By number; those on their way out included.
        self._slots: dict[int, SlotT] = {}
        #: What the first child said of the application; None: not loaded yet.
        self._loaded: ChildReady | None = None
        #: Calls the application's receivers of the node's signals, if it has any.
        self._hooks: HookChild | None = None
        #: How long the last process took that was started ahead, in seconds.
        self._start_s = _START_S

    @property
    def _host(self) -> PoolHost:
        assert self._host_or_none is not None, "the pool was not started"
        return self._host_or_none

    @property
    def facts(self) -> Mapping[str, TaskFacts]:
        """Of the tasks that have some, by name; known after ``load``."""
        return self._loaded.facts if self._loaded is not None else {}

    # --- start and stop ----------------------------------------------------------------

    def launch(self) -> None:
        """Start the fork server without waiting; ``load`` does it otherwise.

        To be called first thing in the process, before threads and slow imports, so
        that the application is loaded meanwhile.
        """
        self._nursery.launch()

    def load(self) -> Mapping[str, Any]:
        """Load the application in the first child; ``start`` does it otherwise.

        Must be called in a thread that lives as long as the pool.

        Returns:
            The settings that the application makes, by name.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """
        return self._load().conf

    def _load(self) -> ChildReady:
        if self._loaded is None:
            try:
                child, self._loaded = self._nursery.load()
            except BaseException:
                self.stop()
                raise
            self._take_first(child)
        return self._loaded

    def plan(self, plan: PoolPlan) -> None:
        """How many slots, and when processes are replaced; until ``start``.

        Raises:
            ConfigError: this pool, or this system, cannot do that.
        """
        check_plan(self.kind, self.features, self._config, plan)
        check_memory(plan)
        self._plan = plan
        self.slots = plan.slots

    def start(self, host: PoolHost) -> list[CatalogEntry]:
        """Load the application if need be and start the slots.

        Must be called in the thread of :meth:`load`. ``host.slot_ready`` follows for
        each slot once the loop runs.

        Returns:
            The tasks of the application.

        Raises:
            AppLoadError: with the traceback of the failed import.
            ConfigError: a task has a time limit that this pool cannot keep.
        """
        catalog = self._load().catalog
        check_limits(self.kind, self.features, self.facts)
        self._host_or_none = host
        self._nursery.watch(host)
        self._begin()
        if self._load().has_hooks:
            from zmqtasks.pools.hookchild import HookChild  # most applications need none

            self._hooks = HookChild(self._nursery, host)
            self._hooks.begin()
        if self._plan.idle_ms:
            self._nursery.later(self._plan.idle_ms, self._end_idle)
        return catalog

    def stop(self) -> None:
        """End all: a process that has nothing runs its exit handlers, others are killed."""
        if self._hooks is not None:
            self._nursery.let_go()
            self._hooks.end()
        self._nursery.stop()
        self._slots.clear()

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; those that have nothing to do go first."""
        self.slots = slots
        present = [slot for slot in self._slots.values() if not slot.is_closing]
        for _ in range(slots - len(present)):
            number = next(n for n in range(len(self._slots) + 1) if n not in self._slots)
            slot = self._slots[number] = self._slot(number)
            self._open_slot(slot)
        present.sort(key=lambda slot: (slot.is_busy, -slot.number))
        for slot in present[: max(0, len(present) - slots)]:
            slot.is_closing = True
            if slot.is_told:
                self._host.slot_gone(slot.number)
            self._close_slot(slot)

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Have the application's receivers of this signal called, if it has any."""
        if self._hooks is not None:
            self._hooks.fire(signal, args)

    def dump_stacks(self) -> None:
        """Write the stacks of all threads of its processes to the log."""
        self._nursery.dump_stacks()

    # --- what each pool has of its own -------------------------------------------------

    @abstractmethod
    def _take_first(self, child: Child) -> None:
        """This one has loaded the application."""

    @abstractmethod
    def _begin(self) -> None:
        """Have the first slots, and tell the host of them from the loop."""

    @abstractmethod
    def _open_slot(self, slot: SlotT) -> None:
        """This slot is new."""

    @abstractmethod
    def _close_slot(self, slot: SlotT) -> None:
        """This one is closing: let it go if it has nothing left."""

    @abstractmethod
    def _end_idle(self) -> None:
        """End what had nothing to do for too long, and look again later."""

    # --- replacing ---------------------------------------------------------------------

    def _is_nearly_used_up(self, child: Child) -> bool:
        """Whether it needs its successor now for having run so many tasks."""
        most = self._plan.tasks_max
        if not most:
            return False
        return is_nearly_used_up(child.sent, most, time.monotonic() - child.begun_at, self._start_s)

    def _is_too_heavy(self, child: Child) -> bool:
        """Whether it holds too much memory; one that is busy is not weighed at every turn."""
        most_kib, now = self._plan.memory_kib_max, time.monotonic()
        if not most_kib or (not child.is_idle and now < child.weigh_due):
            return False
        child.weigh_due = now + _WEIGH_S
        held_kib = memory_kib(child.pid)
        if held_kib <= most_kib:
            return False
        log.info(
            "child.heavy pool=%s pid=%d memory_kib=%d max=%d tasks=%d",
            self.kind, child.pid, held_kib, most_kib, child.sent,
        )  # fmt: skip
        return True

    def _give_back(
        self, slot: SlotT, reason: str, ended: int = 0, is_running: bool = False,
        is_alone: bool = True,
    ) -> None:  # fmt: skip
        """Nothing of what the slot has can go on."""
        slot.is_told = False
        slot.forget()
        self._host.slot_died(slot.number, reason, ended, is_running, is_alone)
