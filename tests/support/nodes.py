"""Whole nodes without sockets: frames go over at once, journals commit at the end of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tests.support.machines import ADD, TIMERS, hello, of
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.held import HeldTask, SlotOutcome
from zmqtasks.core.intake import Intake
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.core.owned import OwnedRecord, changed_record
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.ids import routing_id
from zmqtasks.testing.wires import Wires
from zmqtasks.wire.messages import Kind, Outcome

E = TypeVar("E")


class Node:
    """One process; all of them own tasks.

    Args:
        name: eight bytes, its id.
        roles: as told to others; a worker runs ADD.
        journal: what its journal holds, None without one.
    """

    def __init__(
        self, net: Net, name: bytes, roles: Sequence[str], epoch: int,
        journal: dict[bytes, OwnedRecord] | None, kinds: Sequence[Kind],
    ) -> None:  # fmt: skip
        self.net = net
        self.name = name
        self.journal = journal
        self.rid = routing_id(name, epoch)
        slots = 1 if "worker" in roles else 0
        own = hello(name, *roles, epoch=epoch, slots=slots, kinds=kinds if slots else ())
        if journal is not None and "producer" not in roles:
            own.ext = {"j": 1}
        membership = Membership(own, "mesh", "", frozenset(), TIMERS, net.now_ms)
        self.custody = Custody(journal is not None)
        self.dispatcher = Dispatcher(1_000, 1 << 30, self.custody)
        self.intake = Intake(own.queues, own.catalog, slots) if slots else None
        self.mesh = MeshNode(
            membership,
            dispatcher=self.dispatcher,
            intake=self.intake,
            reader=ResultReader() if "store" in roles else None,
            inline_bytes_max=100,
        )
        #: What is not for its membership or its journal.
        self.effects: list[fx.Effect] = []
        #: Journal writes that have not been committed, since ``holds_writes``.
        self.writes: list[fx.JournalWrite] = []
        self.holds_writes = False
        #: Why its journal takes no new tasks.
        self.refusal = ""
        if self.intake is not None:
            self.intake.slot_ready(0)

    # --- what a test does ---------------------------------------------------------------

    def submit(self, *ids: bytes, kind: Kind = ADD, **ext: int) -> None:
        """Own new tasks, with these facts."""
        calls = [Call(task_id, kind, b"args", dict(ext) or None) for task_id in ids]
        self.mesh.submit(calls, self.net.now_ms)
        self.net.pump()

    @property
    def running(self) -> list[tuple[bytes, int]]:
        """``(id, attempt)`` of what its slot holds, in order."""
        assert self.intake is not None
        slot = self.intake.slots.get(0)
        return [(task.id, task.attempt) for task in slot.pending] if slot else []

    def end(self, body: bytes = b"value") -> None:
        """What runs in its slot ends."""
        assert self.intake is not None
        task: HeldTask = self.intake.slots[0].pending[0]
        done = SlotOutcome(task.id, task.attempt, 0, 0, 1_000, body, "")
        self.intake.slot_done(0, [done], self.net.now_ms)
        self.net.pump()

    def commit(self) -> None:
        """The journal has done what it was asked for."""
        writes, self.writes = self.writes, []
        for write in writes:
            if write.puts and self.refusal:
                self.mesh.journal_refused([write.batch], self.refusal)
                continue
            self._apply(write)
            self.mesh.journaled([write.batch])
        self.net.pump()

    def _apply(self, write: fx.JournalWrite) -> None:
        journal = self.journal
        assert journal is not None
        for record in write.puts:
            journal[record.id] = record
        for change in write.progress:
            old = journal.get(change.id)
            if old is not None:
                journal[change.id] = changed_record(old, change)
        for task_id in write.drops:
            journal.pop(task_id, None)

    def settled(self) -> dict[bytes, Outcome]:
        """{id: final outcome} of all that this node was told of."""
        found = of(self.effects, fx.TasksSettled)
        return {outcome.id: outcome for effect in found for outcome in effect.outcomes}

    def turn(self) -> bool:
        """One turn; False if nothing happened."""
        effects = self.mesh.end_turn(self.net.now_ms, self.net.now_ms)
        for effect in effects:
            if isinstance(effect, fx.Transmit):
                self.net.carry(self, effect)
            elif isinstance(effect, fx.JournalWrite):
                self.writes.append(effect)
            else:
                self.effects.append(effect)
        if self.writes and not self.holds_writes:
            self.commit()
        return bool(effects)


class Net(Wires[Node]):
    """Nodes and the connections between them."""

    def add(
        self, name: bytes, *roles: str, epoch: int = 1,
        journal: dict[bytes, OwnedRecord] | None = None, kinds: Sequence[Kind] = (ADD,),
    ) -> Node:  # fmt: skip
        """Start a process."""
        node = Node(self, name, roles, epoch, journal, kinds)
        self.nodes[node.rid] = node
        return node

    def cut(self, one: Node, other: Node, reason: str = "silent") -> None:
        """They lose each other."""
        self._lose(one, other, reason)
        self._lose(other, one, reason)
        self.pump()

    def kill(self, node: Node) -> None:
        """Its process ends, and everybody knows."""
        del self.nodes[node.rid]
        for other in self.nodes.values():
            self._lose(other, node, "gone")
        self.pump()

    @staticmethod
    def _lose(node: Node, peer: Node, reason: str) -> None:
        membership = node.mesh.membership
        for link in [link for link in membership.links.values() if link.id.peer == peer.rid]:
            membership._lose(link, reason)

    def pass_time(self, duration_ms: int, step_ms: int = 100) -> None:
        """All tick for a while."""
        end_ms = self.now_ms + duration_ms
        while self.now_ms < end_ms:
            self.now_ms += step_ms
            for node in list(self.nodes.values()):
                node.mesh.tick(self.now_ms)
            self.pump()
