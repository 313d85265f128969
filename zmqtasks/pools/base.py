"""The contract of a pool: the place where user code runs.

A pool has numbered *slots*. The intake (``core/intake.py``) decides which tasks go to
which slot; the pool carries them there and tells what came of it. All calls and all
callbacks happen on the loop's thread, except ``load`` and ``start`` which run before it.

What not every pool can do has a name in ``Pool.features``. Whoever is asked for something
that is not there says so when it starts (:func:`check_plan`, :func:`check_limits`), it
is never ignored.

A slot of a pool lives like this::

    start, resize --slot_ready--> idle --run--> busy --slot_done--> idle ...
                         ^                       +--slot_died--> gone, replaced
                         +-----------------------------------------+
    resize to fewer: slot_gone; what it still has ends in slot_done or slot_died as ever
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from zmqtasks.core import requirements
from zmqtasks.errors import ConfigError
from zmqtasks.limits import PAYLOAD_BYTES_MAX
from zmqtasks.pools.protocol import Answer, ChildOutcome, ChildRequest, RunTask, TaskFacts
from zmqtasks.wire.messages import CatalogEntry

#: ``Pool.features``: it ends an attempt at its hard limit, whatever that does.
HARD_LIMIT: Final = requirements.HARD_LIMIT
#: It raises SoftTimeLimitExceeded in an attempt at its soft limit.
SOFT_LIMIT: Final = requirements.SOFT_LIMIT
#: That interrupts calls that block, too.
WAKE: Final = "wake"
#: ``cancel`` with a signal ends a coroutine that runs, and no other attempt.
TERMINATE: Final = "terminate"
#: It ends whatever runs.
TERMINATE_ALL: Final = "terminate_all"
#: It has as many slots as are wanted.
MANY: Final = "many"
#: Tasks run in processes that may die and are replaced.
CHILDREN: Final = "children"
#: ``PoolPlan``: processes are replaced after so many tasks, by memory, when idle.
RECYCLE: Final = "recycle"
#: ``resize``.
RESIZE: Final = "resize"
#: ``PoolConfig.cpus`` and ``gpus``: each slot has its own.
PIN: Final = "pin"


class PoolConfig(msgspec.Struct, frozen=True):
    """What a pool and its children need to know; travels to them as JSON.

    ``program`` and ``preload`` are "module:function" names of code above this layer:
    ``program(link, config)`` gives the :class:`~zmqtasks.pools.child.Program` that
    runs tasks; ``preload(config)`` imports what children will need ("" for nothing).
    """

    #: Application spec, as ``zmqtasks node --app`` takes it.
    app: str
    program: str = "zmqtasks.app.childmain:main"
    preload: str = "zmqtasks.app.childmain:preload"
    #: "module:function" likewise: ``hooks(config)`` gives the
    #: :class:`~zmqtasks.pools.hooking.Hooks` of a hook child.
    hooks: str = "zmqtasks.app.nodehooks:main"
    #: Name of the node, which tasks see as ``self.request.hostname``.
    node_name: str = ""
    #: Largest result. Before the application says what it wants: it can want less only.
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    #: Level of the root logger in children, unless the application sets one itself.
    log_level: str = "INFO"
    #: {setting: value} of the node's command line, which its tasks shall obey too.
    flags: dict[str, Any] = {}
    #: Send what tasks print and log to the node; off: it goes where it always went.
    capture: bool = True
    #: What its children are: "" for one slot each; "thread" or "asyncio" for all of them in one.
    hosting: str = ""
    #: CPUs to pin slots to, slot i to the i-th (they go round); empty: none is pinned.
    cpus: tuple[int, ...] = ()
    #: ``CUDA_VISIBLE_DEVICES`` of slots, likewise.
    gpus: tuple[str, ...] = ()


class PoolPlan(msgspec.Struct, frozen=True):
    """What is known once the application is loaded, which may set it: see ``Pool.plan``."""

    #: How many attempts run at once.
    slots: int = 1
    #: A process is replaced after so many attempts; 0: never.
    tasks_max: int = 0
    #: A process is replaced when an attempt ended and it holds more memory, in KiB; 0: never.
    memory_kib_max: int = 0
    #: A process that had nothing to do for so long ends until there is something, in
    #: milliseconds; 0: never.
    idle_ms: int = 0
    #: ``resize`` will be called.
    is_resized: bool = False
    #: Attempts are told in ``CUDA_VISIBLE_DEVICES`` which GPUs are theirs.
    gives_gpus: bool = False


class PoolHost(Protocol):
    """What a pool needs from the node that hosts it."""

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread whenever ``fd`` is readable."""

    def unregister(self, fd: int) -> None:
        """Stop doing so."""

    def register_writable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back on the loop's thread once, when ``fd`` takes bytes again."""

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        """Run on the loop's thread; callable from any thread."""

    def call_later(self, delay_ms: float, function: Callable[..., None], *args: Any) -> None:
        """Run on the loop's thread after so many milliseconds; called on it."""

    def slot_ready(self, slot: int) -> None:
        """The slot exists and is idle (after start, or after a replacement)."""

    def slot_done(self, slot: int, outcomes: Sequence[ChildOutcome]) -> None:
        """These attempts ended in this slot, in the order in which they were sent."""

    def slot_died(
        self, slot: int, reason: str, ended: int = 0, is_running: bool = True,
        is_alone: bool = True,
    ) -> None:  # fmt: skip
        """The slot's process is gone; ``slot_ready`` follows when it is replaced.

        Args:
            slot: which one.
            reason: for people.
            ended: so many of the attempts there, the oldest, had ended, but their outcomes
                are lost.
            is_running: the next one was running, so it may be to blame; False: none was.
            is_alone: no other slot's attempt was running in that process, so it is to blame.
        """

    def slot_gone(self, slot: int) -> None:
        """The slot gets no more tasks: the pool shrinks. Those it has end as ever."""

    def slot_request(self, slot: int, request: ChildRequest) -> None:
        """Code in the slot submits, asks, waits, reports a state or logs.

        Submits and queries must be answered at some time: the task waits for it. What
        ended tasks write still comes, with an empty ``id``.
        """


class Pool(Protocol):
    """Runs attempts in slots."""

    #: How many there are, or are wanted.
    slots: int

    @property
    def features(self) -> frozenset[str]:
        """What it can do of that which not every pool can: names of this module."""

    @property
    def facts(self) -> Mapping[str, TaskFacts]:
        """Of the tasks that have some, by name; known after ``load``."""

    def launch(self) -> None:
        """Begin what takes long, without waiting: called first thing in the process, before
        there are threads."""

    def load(self) -> Mapping[str, Any]:
        """Load the application, return the settings that it makes, by name.

        What it writes meanwhile is told to the host that ``start`` gets.

        Raises:
            AppLoadError: with the traceback of the failed import.
        """

    def plan(self, plan: PoolPlan) -> None:
        """How it shall be; may be called until ``start``.

        Raises:
            ConfigError: it cannot be so.
        """

    def start(self, host: PoolHost) -> list[CatalogEntry]:
        """Load the application if need be, start the slots, return the tasks it has.

        Raises:
            AppLoadError: with the traceback of the failed import.
            ConfigError: a task wants what this pool cannot do.
        """

    def run(self, slot: int, tasks: Sequence[RunTask]) -> None:
        """Hand these to the slot, which runs them one after the other.

        Their limits are obeyed: a hard one ends in an outcome of status TIME_LIMIT.
        """

    def cancel(self, slot: int, task_id: bytes, attempt: int, status: int, signum: int) -> None:
        """Do not start this attempt of the slot: it ends in an outcome of this status.

        If it runs already: with ``signum`` 0 it may learn of it and goes on; else it, and no
        other one, is ended by that signal, and by force soon after, with the same outcome
        (a pool without TERMINATE is not asked to). One that ended or is not there: nothing.
        """

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a request of that slot."""

    def kill(self, slot: int) -> None:
        """End what runs there at once; ``slot_died`` follows."""

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; ``slot_ready`` and ``slot_gone`` follow.

        Only pools with RESIZE are asked to.
        """

    def fire(self, signal: str, args: Mapping[str, Any]) -> None:
        """Have the application's receivers of this signal of the node called, if it has any,
        without waiting for them.

        "worker_init" and "worker_shutdown" are the pool's own: their receivers have returned
        before :meth:`start` does, and are waited for a while by :meth:`stop`.
        """

    def dump_stacks(self) -> None:
        """Write the stacks of all threads of its processes to the log, a line each."""

    def stop(self) -> None:
        """End all slots; ``start`` is not called again. Leaves no process behind."""


def check_plan(name: str, features: frozenset[str], config: PoolConfig, plan: PoolPlan) -> None:
    """Refuse what a pool cannot do.

    Args:
        name: of the pool, for the message.
        features: what it can do.
        config: of the pool.
        plan: what is wanted.

    Raises:
        ConfigError: says what, and what to do instead.
    """
    wanted = (
        (RECYCLE, "max_tasks_per_child", plan.tasks_max),
        (RECYCLE, "max_memory_per_child", plan.memory_kib_max),
        (RECYCLE, "child_idle_s", plan.idle_ms),
        (RESIZE, "autoscale", plan.is_resized),
        (PIN, "cpus", config.cpus),
        (PIN, "gpus", config.gpus),
    )
    for feature, setting, value in wanted:
        if value and feature not in features:
            raise ConfigError(
                f"{setting} cannot be had with the {name} pool, which has no process for each of "
                "its tasks; leave it out, or use the process pool"
            )


def check_limits(name: str, features: frozenset[str], facts: Mapping[str, TaskFacts]) -> None:
    """Refuse time limits of tasks that a pool could not keep.

    Raises:
        ConfigError: names the task, the pool and the remedy.
    """
    for task, fact in facts.items():
        for feature, limit_ms, option in (
            (HARD_LIMIT, fact.hard_ms, "time_limit"),
            (SOFT_LIMIT, fact.soft_ms, "soft_time_limit"),
        ):
            if limit_ms and feature not in features:
                raise ConfigError(
                    f"task {task!r} has {option}={limit_ms / 1000:g}, which the {name} pool cannot "
                    "keep; run it in a node with --pool process, or take the limit away"
                )
