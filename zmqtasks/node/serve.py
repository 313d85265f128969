"""A node process: pool, store, journal and mesh behind `zmqtasks node`.

The main thread waits for signals (and runs the tasks of a solo pool); the loop runs in a
thread of its own, so neither starves the other.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from zmqtasks import keys, paths
from zmqtasks.core import effects as fx
from zmqtasks.core.lanes import is_guarded
from zmqtasks.errors import JournalError, LocalProtocolError
from zmqtasks.ids import ID_TEXT_KEY, format_task_id, learn_text
from zmqtasks.net.transport import raise_open_files_limit
from zmqtasks.node.beatchild import BeatChild
from zmqtasks.node.beating import Beating
from zmqtasks.node.children import ChildRequests
from zmqtasks.node.clock import now_ms
from zmqtasks.node.draining import Draining
from zmqtasks.node.journalkeeper import JournalKeeper
from zmqtasks.node.ossignals import stacks_text
from zmqtasks.node.runtime import Part, Runtime
from zmqtasks.node.servicemanager import ServiceManager
from zmqtasks.node.sizing import Sizing
from zmqtasks.node.workercontrol import WorkerControl
from zmqtasks.pools.base import TERMINATE, Pool
from zmqtasks.pools.protocol import ChildOutcome, ChildRequest, RunTask, TaskFacts, limits_of
from zmqtasks.pools.solo import SoloPool
from zmqtasks.settings import NodeSettings
from zmqtasks.words import counted

if TYPE_CHECKING:
    from zmqtasks.node.storekeeper import StoreKeeper

_LOG = logging.getLogger("zmqtasks.node")

#: {role: whom a node with it dials}. A store: everybody who publishes outcomes. A broker:
#: who runs its tasks, and who takes them when it leaves.
_DIALS = {
    "store": frozenset(("worker", "producer", "broker", "beat")),
    "broker": frozenset(("worker", "broker")),
    "beat": frozenset(("worker", "broker", "store", "beat")),
}
#: Exit codes of a node: it failed, or tasks were lost; tasks that it ran were ended.
_EXIT_FAILED = 1
_EXIT_LEFT = 3
#: Whom a node dials that cannot be dialled: who gives it tasks, and who keeps its outcomes.
_DIALLED_OUT = frozenset(("broker", "store"))


class Node:
    """One node of the mesh; also the host of its pool.

    Args:
        settings: of this process.
        pool: where tasks run, None for a node that is no worker; loaded with its slots
            set, or neither, but not started.
        beat: the process that has the schedules of a beat, loaded; None for other nodes.

    Raises:
        ConfigError, SecurityError, AppLoadError: from :meth:`start`.
    """

    def __init__(
        self, settings: NodeSettings, pool: Pool | None, beat: BeatChild | None = None
    ) -> None:
        self.settings = settings
        self.pool = pool
        mesh_key = keys.mesh_key(settings.key_file)
        is_store = "store" in settings.roles
        self.part = Part(
            roles=settings.roles,
            dial_roles=_dial_roles(settings),
            slots=pool.slots if pool is not None else 0,
            owns_tasks=True,
            keeps_results=is_store,
            # A broker hands nothing to another one, or tasks would wander.
            routes=(lambda queue: "direct") if "broker" in settings.roles else None,
            describe_store=lambda: self._keeper.describe(),
            describe_journal=lambda: self.journal.describe(),
            process_ended=lambda: self.journal.look(),
            performers={
                fx.RunInSlot: self._run_in_slot,
                fx.AnswerSlot: self._answer_slot,
                fx.CancelInSlot: self._cancel_in_slot,
                fx.QuestionAnswered: self._question_answered,
                fx.JournalWrite: lambda effect: self.journal.write(effect),
                fx.TasksSettled: lambda effect: None,
                fx.RoomFreed: lambda effect: None,
                fx.ReportGot: lambda effect: None,
                fx.StoreRows: lambda effect: self._keeper.write(effect),
                fx.AskStore: lambda effect: self._keeper.ask(effect),
                fx.ForgetRows: lambda effect: self._keeper.forget(effect),
                **dict.fromkeys(Beating.EFFECTS, self._beat_wants),
            },
        )
        self.runtime = Runtime(settings, self.part, mesh_key)
        self.journal = JournalKeeper(self.runtime, self._journal_broke)
        self._draining = Draining(self.runtime, self.journal)
        self.beating = Beating(self.runtime, beat) if beat is not None else None
        self._requests = ChildRequests(self.runtime, pool)
        #: Changes how many slots there are; None for a node that is no worker.
        self.sizing = Sizing(self.runtime, pool, settings) if pool is not None else None
        #: What is known of the tasks of its application; people may change their limits.
        self.facts: dict[str, TaskFacts] = {}
        self.runtime.control.add({}, {"shutdown": self._shut_down})
        if self.sizing is not None:
            self.part.slots = self.sizing.slots_max
            WorkerControl(self)
        self._keeper_or_none = self._make_keeper() if is_store else None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._service = ServiceManager(self.runtime.loop.call_later, self._doing)
        #: It joins or has joined, so it is to be stopped with ``stop``, not by an exception.
        self.is_joining = False

    def _make_keeper(self) -> StoreKeeper:
        from zmqtasks.node.storekeeper import StoreKeeper  # slow: it brings asyncio along

        url = self.settings.store or paths.default_store_url(self.settings)
        return StoreKeeper(self.runtime, self.settings, url)

    @property
    def _keeper(self) -> StoreKeeper:
        if self._keeper_or_none is None:
            raise LocalProtocolError("a node without a store was asked to store")
        return self._keeper_or_none

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Open journal and store, start the pool, join the mesh; then the loop runs.

        Raises:
            JournalError: the journal is damaged, or a broker has none.
            KeyboardInterrupt: a signal came before the mesh was joined.
        """
        raise_open_files_limit()
        self.journal.start_node(is_required="broker" in self.settings.roles)
        if self._keeper_or_none is not None:
            self._keeper_or_none.start()
        if self.pool is not None:
            self.part.catalog = self.pool.start(self)
            self.part.can = self.pool.features
            self.facts = dict(self.pool.facts)
        self.is_joining = True
        self.runtime.open()
        if self.beating is not None:
            self.beating.start()
        if self.sizing is not None:
            self.sizing.start()
            self._limit_rates()
        self.journal.joined()
        if self._keeper_or_none is not None:
            self._keeper_or_none.joined()
        self.runtime.loop.call_soon(self._ready)
        self._thread = threading.Thread(target=self._loop, name="zmqtasks-io", daemon=True)
        self._thread.start()

    def _ready(self) -> None:
        self._service.ready()
        if self.pool is not None:
            self.pool.fire("worker_ready", {})

    def _limit_rates(self) -> None:
        """As the application says; at run time they can be changed."""
        for name, facts in self.facts.items():
            if facts.rate or facts.mesh_rate:
                self._intake.limit_rate(name, facts.rate, facts.mesh_rate)

    def run(self) -> int:
        """Wait for the end; returns the exit code (``docs/howto/running.md``)."""
        if isinstance(self.pool, SoloPool):
            self.pool.run_forever()
        while not self._ended.wait(1.0):
            pass
        self._release()
        if self._failure is not None:
            what = self._failure
            _LOG.error(
                "the node failed: %s", what if isinstance(what, JournalError) else repr(what)
            )
            return _EXIT_FAILED
        if self._draining.lost_count:
            return _EXIT_FAILED
        return _EXIT_LEFT if self._draining.running_left else 0

    def stop(self, *, at_once: bool = False, signum: int = 0) -> None:
        """Drain and leave. From any thread.

        Args:
            at_once: do not wait for running tasks.
            signum: the signal that asks for it; 0: none did.
        """
        self.runtime.loop.call_soon(self._stop, at_once, signum)

    def _shut_down(self, ids: Sequence[bytes], args: Mapping[str, Any]) -> dict[str, str]:
        """Somebody ordered it; the answer leaves first."""
        self.stop()
        return {"ok": "shutting down"}

    def restart(self) -> None:
        """As ``stop``, for a process that starts again. From any thread."""
        _LOG.info("restarting: it drains, then starts again with the same command line")
        self._service.restarting("draining before a restart")
        self.runtime.loop.call_soon(self._drain, False, signal.SIGHUP)

    def dump_stacks(self, here: FrameType | None = None) -> None:
        """Write the stacks of all threads of this node and of its pool into the log, and what
        its slots run.

        Args:
            here: where the calling thread is, but for this call.
        """
        _LOG.warning("stacks of node %s\n\n%s", self.runtime.name, stacks_text(here))
        if self.pool is not None:
            self.runtime.loop.call_soon(self._dump_children, self.pool)

    def _dump_children(self, pool: Pool) -> None:
        busy = [
            (slot, state.pending[0]) for slot, state in self._intake.slots.items() if state.pending
        ]
        for slot, task in busy:
            _LOG.warning("slot %d runs %s[%s]", slot, task.kind.name, format_task_id(task.id))
        pool.dump_stacks()

    def _doing(self) -> str:
        """For the status line of a service manager."""
        intake = self.runtime.mesh.intake
        if intake is None:
            return f"{' and '.join(self.settings.roles)} of mesh {self.settings.mesh}"
        running = counted(intake.running_count, "task")
        return f"{running} of at most {intake.slots_max} running"

    def _loop(self) -> None:
        try:
            self.runtime.loop.run(self._turn, self.runtime.awake)
        except BaseException as exc:  # noqa: BLE001 - told to the main thread
            self._failure = exc
            _LOG.exception("the loop of this node failed")
        finally:
            self._ended.set()
            if isinstance(self.pool, SoloPool):
                self.pool.stop()

    def _turn(self) -> int:
        timeout_ms = self.runtime.turn()
        wait_ms = self._draining.advance(now_ms())
        return timeout_ms if wait_ms is None else min(timeout_ms, wait_ms)

    def _stop(self, at_once: bool, signum: int) -> None:
        self._service.stopping("stopping" if at_once else "draining")
        self._drain(at_once, signum)

    def _drain(self, at_once: bool, signum: int) -> None:
        intake = self.runtime.mesh.intake
        running = intake.running_count if intake is not None else 0
        if self.pool is not None and not self._draining.has_begun:
            # As Celery tells it; the code is that of this node, as far as it can be known.
            self.pool.fire("worker_shutting_down", {
                "sig": signal.Signals(signum).name if signum else None,
                "how": "Cold" if at_once else "Warm",
                "exitcode": _EXIT_LEFT if at_once and running else 0,
            })  # fmt: skip
        wait_ms = 0 if at_once else round(self.settings.drain_timeout_s * 1000)
        self._draining.begin(now_ms(), wait_ms)
        if at_once:
            _LOG.info("stopping at once; %s will run elsewhere", counted(running, "running task"))
            return
        _LOG.info(
            "draining: %s here (at most %g s; a second signal stops at once)",
            counted(running, "running task"), self.settings.drain_timeout_s,
        )  # fmt: skip

    def _release(self) -> None:
        if self.pool is not None:
            self.pool.stop()
        if self._keeper_or_none is not None:
            left = self._keeper_or_none.close()
            if left:
                _LOG.error(
                    "%s could not be stored; their workers keep them", counted(left, "outcome")
                )
        unstored = self.runtime.mesh.log.awaited_count if self.runtime.mesh.log.is_awaited else 0
        if unstored:
            _LOG.warning(
                "results that are in no store end with this node: %s; callers that are there tell "
                "of theirs again", counted(unstored, "record"),
            )  # fmt: skip
        if self.beating is not None:
            self.beating.close()
        left = self.journal.close()
        if left and not isinstance(self._failure, JournalError):
            _LOG.error(
                "%s could not be written to journal %s: tasks that have ended may run again",
                counted(left, "change"), self.journal.folder,
            )  # fmt: skip
        self.runtime.close()
        _LOG.info("stopped")

    def _journal_broke(self, error: JournalError) -> None:
        """Nothing can be accepted or settled any more."""
        self._failure = error
        self.runtime.leave("its journal is damaged")

    # --- the pool's host ----------------------------------------------------------------

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """See ``PoolHost``."""
        self.runtime.loop.register(fd, callback)

    def unregister(self, fd: int) -> None:
        """See ``PoolHost``."""
        self.runtime.loop.unregister(fd)

    def register_writable(self, fd: int, callback: Callable[[], None]) -> None:
        """See ``PoolHost``."""
        self.runtime.loop.register_writable(fd, callback)

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        """See ``PoolHost``."""
        self.runtime.loop.call_soon(function, *args)

    def call_later(self, delay_ms: float, function: Callable[..., None], *args: Any) -> None:
        """See ``PoolHost``."""
        self.runtime.loop.call_later(delay_ms, function, *args)

    def slot_ready(self, slot: int) -> None:
        """See ``PoolHost``."""
        if self._thread is not None:  # else the start failed and the pool is being stopped
            self._intake.slot_ready(slot)

    def slot_done(self, slot: int, outcomes: Sequence[ChildOutcome]) -> None:
        """See ``PoolHost``."""
        self._intake.slot_done(slot, outcomes, self.runtime.now_ms)

    def slot_died(
        self, slot: int, reason: str, ended: int = 0, is_running: bool = True,
        is_alone: bool = True,
    ) -> None:  # fmt: skip
        """See ``PoolHost``."""
        if self._thread is not None:
            self._intake.slot_died(slot, reason, ended, is_running, is_alone)

    def slot_gone(self, slot: int) -> None:
        """See ``PoolHost``."""
        if self._thread is not None:
            self._intake.slot_gone(slot)

    def slot_request(self, slot: int, request: ChildRequest) -> None:
        """See ``PoolHost``."""
        self._requests.take(slot, request)

    @property
    def _intake(self) -> Any:
        return self.runtime.mesh.intake

    # --- effects ------------------------------------------------------------------------

    def _beat_wants(self, effect: Any) -> None:
        assert self.beating is not None
        self.beating.performers[type(effect)](effect)

    def _run_in_slot(self, effect: fx.RunInSlot) -> None:
        assert self.pool is not None
        facts = self.facts
        batch = []
        for task in effect.tasks:
            kind, ext = task.kind, task.ext
            run = RunTask(
                task.id, task.attempt, kind.app, kind.name, kind.queue, task.owner,
                task.body, ext, task.attempt > 1 and is_guarded(kind, ext),
            )  # fmt: skip
            if ext is not None and ID_TEXT_KEY in ext:
                learn_text(ext)  # its lines in the log have that, too
            if facts or ext is not None:
                run.soft_ms, run.hard_ms = limits_of(ext, facts.get(kind.name))
            batch.append(run)
        self.pool.run(effect.slot, batch)
        if _LOG.isEnabledFor(logging.DEBUG):
            for task in effect.tasks:
                _LOG.debug("slot %d runs %s [%s] attempt %d", effect.slot, task.kind.name,
                           format_task_id(task.id), task.attempt)  # fmt: skip

    def _cancel_in_slot(self, effect: fx.CancelInSlot) -> None:
        assert self.pool is not None
        if effect.signum and TERMINATE not in self.pool.features:
            _LOG.warning(
                "task %s goes on: tasks that run cannot be ended in the %s pool of this worker",
                format_task_id(effect.id), self.settings.pool,
            )  # fmt: skip
            effect = effect._replace(signum=0)
        self.pool.cancel(*effect)

    def _answer_slot(self, effect: fx.AnswerSlot) -> None:
        self._requests.answer(effect.slot, effect.request, effect.error, effect.states)

    def _question_answered(self, effect: fx.QuestionAnswered) -> None:
        self._requests.answered(effect)


def _dial_roles(settings: NodeSettings) -> frozenset[str]:
    wanted = _DIALLED_OUT if settings.dial else frozenset()
    return wanted.union(*(_DIALS.get(role, frozenset()) for role in settings.roles))
