"""Owners with journals on an unreliable network, to hand tasks over between them.

Everything that can happen comes when it is called for: a message arrives, a commit is
done, a connection drops (which one side notices before the other), a process is killed, the
power fails. What is checked is what must hold at every moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.machines import ADD, link_to, task_id, worker_hello
from tests.support.machines import hello as hello_of
from zmqtasks.core.adoption import Adoption
from zmqtasks.core.answers import Answers
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import (
    CallsAccepted,
    CallsRefused,
    Effect,
    JournalWrite,
    Note,
    Send,
)
from zmqtasks.core.given import GivenTasks
from zmqtasks.core.handoff import Handoff
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.owned import OwnedRecord, parse_mark
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.taking import Taking
from zmqtasks.errors import JournalFull
from zmqtasks.journals.memory import MemoryDisk, MemoryJournal
from zmqtasks.wire.messages import Credit, Done, Heir, Hello, Message, Outcome, Query, Tasks


class Node:
    """One owner: its machines, its journal, and a worker of its own. With the role worker
    it also runs tasks of others.

    Args:
        name: 8 bytes, its node id.
        roles: of its Hello.
        route: of its queues.
        has_journal: False: its tasks are in memory only.
    """

    def __init__(
        self, name: bytes, *roles: str, route: str = "direct", has_journal: bool = True
    ) -> None:
        self.name = name
        self.roles = roles
        self.route = route
        self.has_journal = has_journal
        self.disk = MemoryDisk()
        self.folder = Path(name.decode())
        self.epoch = 0
        self.is_alive = False
        #: Nodes whose journals came into this one's.
        self.heir_of: list[bytes] = []
        #: {(task id, attempt): times that it was given to the worker}, ever.
        self.sent: dict[tuple[bytes, int], int] = {}
        #: Ids of tasks that settled here, for everybody to see, ever.
        self.settled: list[bytes] = []
        #: What people were told, ever.
        self.notes: list[Note] = []
        #: {link: node at the other end} now.
        self.links: dict[LinkId, bytes] = {}

    # --- life -----------------------------------------------------------------------------

    def start(self, now_ms: int) -> None:
        """Begin a new life with what the journal holds."""
        self.epoch += 1
        self.is_alive = True
        self.now_ms = now_ms
        extras = {"j": 1} if self.has_journal else {}
        slots = 2 if "worker" in self.roles else 0
        self.hello = hello_of(
            self.name, *self.roles, epoch=self.epoch, slots=slots, kinds=(ADD,) if slots else ()
        )
        self.hello.ext.update(extras)
        self.custody = Custody(self.has_journal)
        self.dispatcher = Dispatcher(1_000, 1_000_000, self.custody, lambda queue: self.route)
        self.given = GivenTasks(self.dispatcher.kept, node=self.name, owned=self.dispatcher.tasks)
        self.log = ResultLog("x")
        self.answers = Answers(self.dispatcher, None, self.log, has_store=False)
        self.handoff = Handoff(
            self.name, self.dispatcher, self.custody, self.given, self.answers,
            follow="producer" in self.roles, is_broker="broker" in self.roles,
        )  # fmt: skip
        self.taking = Taking(
            self.name, self.epoch, self.dispatcher, self.custody, self.handoff, self.answers
        )
        self.adoption = Adoption(self.taking, self.handoff)
        self.answers.others += [self.taking.state_of, self.given.state_of]
        self.journal = MemoryJournal(self.folder, self.disk)
        self.writes: deque[JournalWrite] = deque()
        self.out: list[tuple[LinkId, Message]] = []
        #: What it has said to itself.
        self.local: deque[Message] = deque()
        self.accepted: list[int] = []
        self.refused: list[int] = []
        #: {task id: attempt} at its worker.
        self.running: dict[bytes, int] = {}
        #: {(task id, owner's link): attempt} that it runs for others.
        self.hosted: dict[tuple[bytes, LinkId], int] = {}
        #: Ids whose outcome this life of the process was told.
        self.told: list[bytes] = []
        self.position = 0
        self.journal.open()
        records = list(self.journal.load())
        owned = [record for record in records if parse_mark(record.mark) is None]
        self.dispatcher.resume(owned)
        self.handoff.resume(records)
        self.taking.resume(records, now_ms)
        self.adoption.ended(self.heir_of)
        self.worker = link_to(b"worker-x")
        self.dispatcher.link_up(self.worker, worker_hello(b"worker-x"))
        self.dispatcher.received(self.worker, Done(1_000_000, []), now_ms)
        self.turn()

    def end(self) -> None:
        """The process is killed."""
        self.is_alive = False
        self.links.clear()
        self.writes.clear()
        self.out.clear()

    def adopt(self, other: Node) -> None:
        """Take over the journal of a node that has ended; whole, as the node's start does."""
        other.journal.close()
        source = Path("from " + other.name.decode())
        self.disk.contents[source] = other.disk.contents.pop(other.folder)
        records = [record for piece in self.journal.inherit(source) for record in piece]
        self.dispatcher.resume(self.adoption.adopt(other.name, records, self.now_ms))
        former = [*other.heir_of, other.name]
        self.heir_of += former
        self.adoption.ended(former)
        for link in self.links:
            self.out.append((link, Heir(list(self.heir_of))))
        self.turn()

    # --- links ----------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        self.links[link] = peer.node
        self.dispatcher.link_up(link, peer)
        if "worker" in self.roles:
            self.out.append((link, Credit(1_000_000)))
        if self.heir_of:
            self.out.append((link, Heir(list(self.heir_of))))
        self.handoff.link_up(link, peer)
        self.taking.link_up(link, peer)
        self.given.link_up(link, peer)
        self.turn()

    def link_down(self, link: LinkId, peer: Hello, reason: str) -> None:
        del self.links[link]
        self.hosted = {key: attempt for key, attempt in self.hosted.items() if key[1] != link}
        self.dispatcher.link_down(link, reason)
        self.handoff.link_down(link, peer, reason)
        self.taking.link_down(link, peer, reason)
        self.given.link_down(link, peer, reason)
        self.answers.link_down(link)
        self.turn()

    def receive(self, link: LinkId, message: Message) -> None:
        self._delivered(link, message)
        self.turn()

    def _delivered(self, link: LinkId, message: Message) -> None:
        if isinstance(message, Heir):
            node = self.links[link]
            self.handoff.heir_announced(link, node, message.nodes)
            self.taking.heir_announced(link, node, message.nodes)
        elif isinstance(message, Query):
            self.answers.asked(link, message)
        elif isinstance(message, Tasks):
            for record in message.tasks:
                self.hosted[record.id, link] = record.attempt
        else:
            for machine in (self.dispatcher, self.handoff, self.taking, self.given):
                if machine.received(link, message, self.now_ms):
                    break

    # --- work -----------------------------------------------------------------------------

    def submit(self, numbers: Sequence[int], *, durable: bool = True) -> None:
        calls = [Call(task_id(number), ADD, b"args", None) for number in numbers]
        if durable:
            self.dispatcher.submit_durable(calls, numbers[0], self.now_ms)
        else:
            self.dispatcher.submit(calls, self.now_ms)
            self.accepted += numbers
        self.turn()

    def finish(self, task: bytes) -> None:
        """Its worker has an outcome, or it has one itself for another owner."""
        self.position += 1
        if task in self.running:
            done = _outcome(task, self.running.pop(task), self.position)
            owned = self.dispatcher.tasks.get(task)
            done.ext = owned.ext if owned is not None else None  # the digest of its content
            self.dispatcher.received(self.worker, Done(1_000_000, [done]), self.now_ms)
        else:
            link = next(link for hosted, link in self.hosted if hosted == task)
            attempt = self.hosted.pop((task, link))
            self.out.append((link, Done(1_000_000, [_outcome(task, attempt, self.position)])))
        self.turn()

    def write(self) -> None:
        """The journal carries out the first write that waits."""
        write = self.writes.popleft()
        try:
            self.journal.commit(write.puts, write.progress, write.drops, sync=write.sync)
        except JournalFull as exc:
            self.custody.refused([write.batch], str(exc), is_certain=True)
        else:
            self.custody.committed([write.batch])
        self.turn()

    def tick(self, now_ms: int) -> None:
        self.now_ms = now_ms
        for machine in (self.dispatcher, self.handoff, self.taking, self.given):
            machine.tick(now_ms)
        self.turn()

    def turn(self) -> None:
        """The end of a turn, as in ``core/mesh.py``."""
        now_ms = self.now_ms
        self._take_held()
        settled = self.dispatcher.flush(now_ms)
        self.handoff.flush(now_ms)
        self.taking.flush(now_ms)
        self.told += [outcome.id for outcome in self.given.flush(now_ms)]
        self.settled += [outcome.id for outcome in settled]
        self.told += [outcome.id for outcome in settled]
        self.answers.settled(settled)
        self.answers.flush()
        self.custody.flush()
        for machine in (
            self.dispatcher, self.handoff, self.taking, self.given, self.answers, self.custody,
        ):  # fmt: skip
            if machine.effects:
                effects, machine.effects = machine.effects, []
                for effect in effects:
                    self._carry_out(effect)
        if self.local:
            self._delivered(SELF, self.local.popleft())
            self.turn()

    def _take_held(self) -> None:
        """What it runs for others has become its own."""
        ids, self.taking.held_here = self.taking.held_here, []
        for task in ids:
            for key in [key for key in self.hosted if key[0] == task]:
                attempt = self.hosted.pop(key)
                if attempt == self.dispatcher.tasks[task].attempt:
                    self.running[task] = attempt
                    self.dispatcher.claim(self.worker, [(task, attempt)])

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, JournalWrite):
            self.writes.append(effect)
        elif isinstance(effect, CallsAccepted):
            self.accepted.append(effect.token)
        elif isinstance(effect, CallsRefused):
            self.refused.append(effect.token)
        elif isinstance(effect, Note):
            self.notes.append(effect)
        elif isinstance(effect, Send):
            if effect.link == SELF:
                self.local.append(effect.message)
            elif effect.link != self.worker:
                self.out.append((effect.link, effect.message))
            if isinstance(effect.message, Tasks):
                for record in effect.message.tasks:
                    if effect.link == self.worker:
                        self.running[record.id] = record.attempt
                    key = (record.id, record.attempt)
                    self.sent[key] = self.sent.get(key, 0) + 1

    # --- looking --------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When the handoff wants to be looked at next."""
        return self.handoff.next_deadline_ms()

    def owns(self, task: bytes) -> bool:
        """It would dispatch the task, or has its outcome, which nobody has seen."""
        return self.is_alive and task in self.dispatcher.tasks

    def records(self) -> dict[bytes, OwnedRecord]:
        """What its journal holds."""
        content = self.disk.contents.get(self.folder)
        return {} if content is None else content.written


def _outcome(task: bytes, attempt: int, position: int) -> Outcome:
    return Outcome(task, attempt, 0, position, -1, 0, 1, 5, b"value")


class End:
    """One node's end of a connection."""

    def __init__(self, node: Node, link: LinkId, peer: Hello) -> None:
        self.node = node
        self.epoch = node.epoch
        self.link = link
        self.peer = peer
        #: Messages that have not arrived here.
        self.incoming: deque[Message] = deque()
        self.is_open = True


class Connection:
    """Between two nodes, of which the first one has dialled."""

    def __init__(self, dialler: Node, listener: Node) -> None:
        self.ends = (
            End(dialler, link_to(listener.name, "out", listener.epoch), listener.hello),
            End(listener, link_to(dialler.name, "in", dialler.epoch), dialler.hello),
        )
        #: Both ends can still reach each other.
        self.is_whole = True


class Network:
    """Nodes and the connections between them."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.now_ms = 0
        #: {(dialler, listener): connection}.
        self.connections: dict[tuple[bytes, bytes], Connection] = {}
        for node in self.nodes.values():
            node.start(0)

    # --- connections ----------------------------------------------------------------------

    def connect(self, dialler: bytes, listener: bytes) -> None:
        """A fresh connection, unless there is one."""
        one, other = self.nodes[dialler], self.nodes[listener]
        if not one.is_alive or not other.is_alive:
            return
        known = self.connections.get((dialler, listener))
        if known is not None:
            if known.is_whole:
                return
            self.notice(known, 0, "reset")
            self.notice(known, 1, "reset")
        # A newer life of a process ends all that is left of older ones.
        for pair in ((dialler, listener), (listener, dialler)):
            old = self.connections.get(pair)
            if old is not None and not old.is_whole:
                for side in (0, 1):
                    if old.ends[1 - side].epoch < old.ends[1 - side].node.epoch:
                        self.notice(old, side, "replaced")
        self.connections[dialler, listener] = made = Connection(one, other)
        for end in made.ends:
            end.node.link_up(end.link, end.peer)
            self.carry(end.node)

    def drop(self, connection: Connection, side: int, reason: str = "silent") -> None:
        """It breaks, which one side notices at once."""
        connection.is_whole = False
        self.notice(connection, side, reason)

    def notice(self, connection: Connection, side: int, reason: str = "silent") -> None:
        """A side gives its end up."""
        end = connection.ends[side]
        if end.is_open:
            end.is_open = False
            end.incoming.clear()
            if end.node.is_alive and end.epoch == end.node.epoch:
                end.node.link_down(end.link, end.peer, reason)
                self.carry(end.node)

    # --- traffic --------------------------------------------------------------------------

    def carry(self, node: Node) -> None:
        """What a node sends is on its way, or lost."""
        if not node.out:
            return
        sending, node.out = node.out, []
        ends = {
            end.link: (connection, connection.ends[1 - side])
            for connection in self.connections.values()
            for side, end in enumerate(connection.ends)
            if end.node is node and end.is_open and end.epoch == node.epoch
        }
        for link, message in sending:
            found = ends.get(link)
            if found is not None and found[0].is_whole:
                found[1].incoming.append(message)

    def deliver(self, end: End) -> None:
        """The next message arrives."""
        message = end.incoming.popleft()
        end.node.receive(end.link, message)
        self.carry(end.node)

    def open_ends(self) -> list[End]:
        """Those at which something is to arrive."""
        return [
            end
            for connection in self.connections.values()
            for end in connection.ends
            if end.incoming and end.is_open and end.node.is_alive
        ]

    # --- faults ---------------------------------------------------------------------------

    def kill(self, node: Node, *, power: bool = False) -> None:
        """The process ends at once; ``power``: and what was not synced is gone."""
        node.end()
        if power:
            node.disk.lose_unsynced()
        for connection in self.connections.values():
            for end in connection.ends:
                if end.node is node and end.is_open:
                    end.is_open = False
                    end.incoming.clear()
                    connection.is_whole = False

    def restart(self, node: Node) -> None:
        """It begins another life."""
        node.start(self.now_ms)
        self.carry(node)

    # --- time -----------------------------------------------------------------------------

    def pass_time(self, ms: int) -> None:
        """Everybody's clock goes on."""
        self.now_ms += ms
        for node in self.alive():
            node.tick(self.now_ms)
            self.carry(node)

    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_alive]

    def settle_down(self, rounds: int = 200, *, work: bool = False) -> None:
        """Carry everything until nothing moves; ``work``: and let the workers finish."""
        for node in self.alive():
            self.carry(node)
        for _ in range(rounds):
            moved = False
            for end in self.open_ends():
                while end.incoming and end.is_open:
                    moved = True
                    self.deliver(end)
            for node in self.alive():
                while node.writes:
                    moved = True
                    node.write()
                    self.carry(node)
                for task in [*node.running, *(key[0] for key in node.hosted)] if work else ():
                    moved = True
                    node.finish(task)
                    self.carry(node)
            if not moved:
                return
        raise AssertionError("it never ends")

    # --- looking --------------------------------------------------------------------------

    def owners(self, task: bytes) -> list[Node]:
        return [node for node in self.nodes.values() if node.owns(task)]
