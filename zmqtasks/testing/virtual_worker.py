"""A worker of a mesh in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from zmqtasks.core import effects as fx
from zmqtasks.core.held import SlotOutcome
from zmqtasks.core.lanes import is_guarded
from zmqtasks.node.children import ChildRequests
from zmqtasks.node.runtime import Part
from zmqtasks.node.sizing import Sizing
from zmqtasks.node.workercontrol import WorkerControl
from zmqtasks.pools.protocol import ChildRequest, RunTask
from zmqtasks.testing.virtual_node import VirtualNode
from zmqtasks.testing.virtual_pool import Ended, PoolHost, VirtualPool

if TYPE_CHECKING:
    from zmqtasks.app.app import App
    from zmqtasks.node.serve import Node
    from zmqtasks.pools.base import Pool
    from zmqtasks.settings import NodeSettings


class VirtualWorker:
    """One of them; made by ``VirtualMesh.add_worker``.

    Args:
        app: whose tasks it runs.
        settings: its queues are among them.
        host: what its pool needs, without the way to its node.
        make_node: makes its node.
        slots: how many tasks it may have under way.
    """

    def __init__(
        self, app: App, settings: NodeSettings, host: PoolHost,
        make_node: Callable[[Part, NodeSettings], VirtualNode], slots: int,
    ) -> None:  # fmt: skip
        self.name = host.name
        self.app = app
        self.pool = VirtualPool(app, slots, host._replace(request=self._request))
        part = Part(
            roles=("worker",),
            dial_roles=frozenset(),
            catalog=self.pool.catalog,
            slots=slots,
            owns_tasks=True,
            performers={
                fx.RunInSlot: self._run_in_slot,
                fx.AnswerSlot: self._answer_slot,
                fx.CancelInSlot: lambda effect: self.pool.cancel(*effect),
                fx.QuestionAnswered: lambda effect: self._requests.answered(effect),
            },
        )
        self.settings = replace(settings, pool="in-process")
        self.node = make_node(part, self.settings)
        self.runtime = self.node.as_runtime
        pool = cast("Pool", self.pool)
        self._requests = ChildRequests(self.runtime, pool)
        #: Of its commands; the number of slots is not to be changed.
        self.sizing = Sizing(self.runtime, pool, replace(self.settings, autoscale=""))
        self.facts = dict(self.pool.facts)
        self._tasks = dict(app.tasks)
        WorkerControl(cast("Node", self))
        #: Name of the task whose next attempt here takes the worker along, "" for none.
        self.dies_during = ""
        #: It serves whatever queue is called.
        self.takes_all = False
        self.node.open()
        self._limit_rates()
        for slot in range(slots):
            self._intake.slot_ready(slot)
        self.node.wires.pump()

    @property
    def is_alive(self) -> bool:
        """It has not been killed or stopped."""
        return self.node.rid in self.node.wires.nodes

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it serves."""
        return tuple(self.node.mesh.hello.queues)

    def serve(self, queue: str) -> None:
        """Serve this queue, too."""
        self.node.mesh.change_worker(self.node.now_ms, queues=[*self.queues, queue])

    def learn(self) -> None:
        """Have the tasks that the application has got since."""
        if self._tasks == self.app.tasks:
            return
        self._tasks = dict(self.app.tasks)
        self.pool.learn()
        self.facts = dict(self.pool.facts)
        self.node.mesh.hello.catalog = self.pool.catalog
        self._intake.catalog = {(entry.app, entry.name): entry for entry in self.pool.catalog}
        self._limit_rates()
        self.node.mesh.change_worker(self.node.now_ms)

    def _limit_rates(self) -> None:
        for name, facts in self.facts.items():
            if facts.rate or facts.mesh_rate:
                self._intake.limit_rate(name, facts.rate, facts.mesh_rate)

    def ended(self, slot: int, ended: Ended) -> None:
        """An attempt is over: tell the node."""
        self._intake.slot_done(slot, [cast("SlotOutcome", ended.outcome)], self.node.now_ms)

    @property
    def _intake(self) -> Any:
        return self.node.mesh.intake

    def _request(self, slot: int, request: ChildRequest) -> None:
        if self.is_alive:
            self._requests.take(slot, request)
            self.node.wires.pump()

    def _run_in_slot(self, effect: fx.RunInSlot) -> None:
        self.pool.run(effect.slot, _runs(effect.tasks))

    def _answer_slot(self, effect: fx.AnswerSlot) -> None:
        self._requests.answer(effect.slot, effect.request, effect.error, effect.states)

    def __repr__(self) -> str:
        return f"<VirtualWorker {self.name}{'' if self.is_alive else ' (gone)'}>"


def _runs(tasks: Sequence[Any]) -> list[RunTask]:
    return [
        RunTask(
            task.id, task.attempt, task.kind.app, task.kind.name, task.kind.queue, task.owner,
            task.body, task.ext, task.attempt > 1 and is_guarded(task.kind, task.ext),
        )
        for task in tasks
    ]  # fmt: skip
