"""What must hold in every simulated world.

The ledger knows the truth: what was submitted, what really started where, what each
caller was told. ``check_node`` looks into one node after each of its turns, ``check_end``
at the whole world when it has come to rest.
"""

from __future__ import annotations

import zlib
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulation.promises import CallLedger
from tests.simulation.tasks import Spec, value_of
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import UNKNOWN_STATUS, Call
from zmqtasks.core.held import HeldTask, is_suspect
from zmqtasks.core.link import LinkState
from zmqtasks.core.linkevents import Delivered, Timers
from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.offspring import CAUSE_KEY
from zmqtasks.core.owned import Incoming, parse_mark
from zmqtasks.core.rows import OutcomeRow, final_row
from zmqtasks.limits import STRIKES_MAX, UNACKED_MESSAGES_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Heartbeat,
    Hello,
    Message,
    Outcome,
    Status,
    TaskState,
    Verdict,
)

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

T = TypeVar("T")
#: Sender, receiver and the pair of sessions: one numbered stream.
Stream = tuple[bytes, bytes, int, int]


class CheckedMembership(Membership):
    """Compares what each stream delivers with what was put into it."""

    def __init__(
        self, hello: Hello, mesh_name: str, fingerprint: str, dial_roles: frozenset[str],
        timers: Timers, now_ms: int, ledger: Ledger,
    ) -> None:  # fmt: skip
        super().__init__(hello, mesh_name, fingerprint, dial_roles, timers, now_ms)
        self._ledger = ledger
        self._own = b"n" + hello.node + hello.epoch.to_bytes(4, "big")

    def send(self, link_id: LinkId, message: Message) -> bool:
        sent = super().send(link_id, message)
        if sent:
            link = self.links[link_id]
            stream = (self._own, link_id.peer, link.session, link.peer_session)
            body = link.unacked[-1][1][0][codec.HEADER_BYTES :]
            self._ledger.sent.setdefault(stream, []).append(zlib.crc32(body))
        return sent

    def frames_received(
        self, link_id: LinkId, frames: list[bytes], address: str, now_ms: int
    ) -> None:
        events = self.events
        before = len(events)
        super().frames_received(link_id, frames, address, now_ms)
        assert events is self.events
        for event in events[before:]:
            if not isinstance(event, Delivered) or isinstance(event.message, Heartbeat):
                continue
            link = self.links[link_id]
            stream = (link_id.peer, self._own, link.peer_session, link.session)
            position = self._ledger.delivered.get(stream, 0)
            self._ledger.delivered[stream] = position + 1
            sent = self._ledger.sent.get(stream, [])
            assert position < len(sent), f"{link_id}: more was delivered than sent"
            body = zlib.crc32(frames[0][codec.HEADER_BYTES :])
            assert sent[position] == body, f"{link_id}: lost, repeated or out of order"


class Ledger:
    """The truth of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.specs: dict[bytes, Spec] = {}
        #: Tasks that were accepted and must settle.
        self.must: dict[bytes, None] = {}
        #: {task id: "memory", "disk" or "loose" (at most once)}.
        self.how: dict[bytes, str] = {}
        #: {process name: tasks it submitted}, which it wants to hear of.
        self.wanted: dict[str, dict[bytes, None]] = {}
        #: {task id: who said first how it ended}.
        self.settlers: dict[bytes, Process] = {}
        #: {task id: the last process that was seen to own it}.
        self.last_holder: dict[bytes, Process] = {}
        #: Memory tasks whose owner lost its unsynced notes with the power: they may run, and
        #: end, again.
        self.forgotten: set[bytes] = set()
        #: {task id: what its caller was told}.
        self.outcomes: dict[bytes, Outcome] = {}
        #: {(task id, attempt): its worker}, all that started.
        self.starts: dict[tuple[bytes, int], Process] = {}
        #: First of those handed to a child whose death its node had not noticed: nobody
        #: can tell whether it ran.
        self.perhaps: dict[tuple[bytes, int], None] = {}
        #: Settled before their owner knew of a store: these may end with their worker.
        self.before_store: set[bytes] = set()
        #: {(process name, token): ids not told of}, and what was told.
        self.watched: dict[tuple[str, int], dict[bytes, None]] = {}
        self.calls = CallLedger(self)
        self.sent: dict[Stream, list[int]] = {}
        self.delivered: dict[Stream, int] = {}

    # --- tasks --------------------------------------------------------------------------

    def submitted(
        self, owner: Process, specs: list[Spec], how: str, *, is_owned: bool = True
    ) -> list[Call]:
        """A caller submits these; ``is_owned``: at once, if they are no durable ones."""
        for spec in specs:
            self.specs[spec.id] = spec
            self.how[spec.id] = how
            if how == "memory" and is_owned:
                self.must[spec.id] = None
            if how != "loose":
                self.wanted.setdefault(owner.name, {})[spec.id] = None
        return [Call(spec.id, spec.kind, spec.body, spec.ext) for spec in specs]

    def expect(self, worker: Process, child: Spec, parent: bytes) -> None:
        """A running task submits this one; whether it is owned will be seen."""
        self.specs[child.id] = child
        self.how[child.id] = self.how[parent]
        if parent in self.forgotten:
            self.forgotten.add(child.id)  # the same attempt may submit it twice

    def accepted(self, task_id: bytes) -> None:
        """Its caller was told that it is owned: so it must settle."""
        if self.how[task_id] == "disk" or self.holder(task_id) is not None:
            self.must[task_id] = None

    def refused(self, owner: Process, task_id: bytes) -> None:
        """Its caller was told that it is not owned."""
        self.wanted.get(owner.name, {}).pop(task_id, None)
        assert not owner.owns(task_id), "a refused task is owned"

    def holder(self, task_id: bytes) -> Process | None:
        """The process that owns it now."""
        for process in self.world.processes:
            dispatcher = process.node.dispatcher
            if process.alive and dispatcher is not None and task_id in dispatcher.tasks:
                return process
        return None

    def given_up(self, process: Process) -> None:
        """A process that ends has said which tasks end with it: those that neither others nor
        the disk have taken."""
        dispatcher = process.node.dispatcher
        assert dispatcher is not None
        content = self.world.disk.contents.get(process.journal.folder)
        for task_id in dispatcher.tasks:
            if content is None or task_id not in content.written:
                self.must.pop(task_id, None)
                self.forgotten.add(task_id)

    def crashed(self, process: Process, *, is_cut: bool) -> None:
        """A process has ended: what it owned is where its journal is, or nowhere."""
        dispatcher = process.node.dispatcher
        assert dispatcher is not None
        self.wanted.pop(process.name, None)
        if dispatcher.tasks:
            self.world.owners_changed = True
        content = self.world.disk.contents.get(process.journal.folder)
        if content is not None:
            content.settle_doubt()
        kept = self._kept()
        for task_id, task in dispatcher.tasks.items():
            if task.outcome is not None and task_id not in kept:
                self.calls.ended_untold(process, task.outcome)
            if self.how[task_id] != "memory":
                continue
            if is_cut:
                self.forgotten.add(task_id)
                self.must.pop(task_id, None)  # nothing is promised of it now
            if task_id not in kept and self.holder(task_id) is None:
                self.must.pop(task_id, None)
        left = self.world.disk.contents.get(process.journal.folder)
        again = left.written if left is not None else {}
        if is_cut:
            # What was settled or dropped, but not synced, is open again.
            self.forgotten.update(task_id for task_id in again if self.how[task_id] == "memory")
            self.world.owners_changed |= bool(again)
        # What was offered and is in no journal of its own, its taker may have to guess about.
        self.forgotten.update(
            task_id for task_id in self._offered()
            if self.how[task_id] == "memory" and self.last_holder.get(task_id) is process
            and task_id not in again
        )  # fmt: skip
        self.world.extras.crashed()

    def _kept(self) -> set[bytes]:
        """What is in some journal, and is not just being taken out as somebody else's."""
        dropping = {
            (process.journal.folder, task_id)
            for process in self.world.alive()
            if process.node.ownership is not None
            for task_id in process.node.ownership.taking.dropping
        }
        return {
            task_id
            for folder, contents in self.world.disk.contents.items()
            for task_id in contents.written
            if (folder, task_id) not in dropping
        }

    def _offered(self) -> set[bytes]:
        """Whose giver has not said yet whose they are."""
        offered = {
            task_id
            for contents in self.world.disk.contents.values()
            for task_id, record in contents.written.items()
            if isinstance(parse_mark(record.mark), Incoming)
        }
        for process in self.world.alive():
            assert process.node.ownership is not None
            offered.update(process.node.ownership.taking.tasks)
        return offered

    def handed(self, worker: Process, tasks: Sequence[HeldTask]) -> None:
        """A worker hands these to a slot: nobody may have given them up before."""
        self.world.extras.handed(worker, tasks)
        for task in tasks:
            self.world.extras.check_body(task)
            giver = self.world.by_routing_id.get(task.link.peer)
            if giver is not None and giver.owns(task.id):
                assert giver.node.dispatcher is not None
                attempt = giver.node.dispatcher.tasks[task.id].attempt
                assert attempt == task.attempt, (
                    f"{worker.name} starts attempt {task.attempt}, {giver.name} is at {attempt}"
                )
            holder = self.holder(task.id)
            if self.how[task.id] == "loose" or self.world.owners_changed:
                continue
            assert holder is not None, f"{worker.name} starts a task that has settled"
            assert holder.node.dispatcher is not None
            owned = holder.node.dispatcher.tasks[task.id]
            assert owned.attempt == task.attempt, (
                f"{worker.name} starts attempt {task.attempt}, its owner is at {owned.attempt}"
            )

    def spec_of(self, task: HeldTask) -> Spec:
        """What its function does."""
        return self.specs[task.id]

    def refused_in_child(self, worker: Process, task: HeldTask) -> None:
        """Its child does not call its function."""
        assert self.specs[task.id].once
        self.starts[task.id, task.attempt] = worker

    def started(self, worker: Process, task: HeldTask) -> None:
        """Its function is called."""
        key = (task.id, task.attempt)
        assert key not in self.starts or task.id in self.forgotten, (
            f"attempt {task.attempt} of {task.id.hex()} starts twice"
        )
        self.starts[key] = worker
        self.calls.ran(task)
        self.world.extras.started(task)

    def handed_to_dead(self, tasks: Sequence[HeldTask]) -> None:
        self.perhaps[tasks[0].id, tasks[0].attempt] = None

    def settled(self, process: Process, outcomes: Sequence[Outcome]) -> None:
        """A process tells its callers."""
        for outcome in outcomes:
            self.wanted.get(process.name, {}).pop(outcome.id, None)
            known = self.outcomes.get(outcome.id)
            if known is None and outcome.status == UNKNOWN_STATUS:
                assert outcome.id not in self.must, f"{process.name} is told that it is unknown"
                continue
            if known is None:
                self.settled_first(process, outcome)
                continue
            if outcome.status == UNKNOWN_STATUS:
                assert self.is_lost(known), f"{process.name} is told that it is unknown"
                continue
            told = (outcome.status, outcome.body, outcome.attempt)
            is_same = told == (known.status, known.body, known.attempt)
            assert is_same or outcome.id in self.forgotten, f"{outcome.id.hex()} settles twice"

    def is_lost(self, outcome: Outcome) -> bool:
        """Whoever has settled it ended before its caller heard of it, its worker has ended
        too, and no store has it."""
        worker = self.starts.get((outcome.id, outcome.attempt))
        if self.settlers[outcome.id].alive or (worker is not None and worker.alive):
            return False
        stores = [p.store for p in self.world.alive() if p.store is not None]
        return not any(finished(store.get_batch([outcome.id])) for store in stores)

    def settled_first(self, process: Process, outcome: Outcome) -> None:
        """It has ended so, since its owner says so."""
        spec = self.specs[outcome.id]
        self.outcomes[outcome.id] = outcome
        self.settlers[outcome.id] = process
        if self.last_holder.get(outcome.id) is process and outcome.id not in self.forgotten:
            is_given_up = (outcome.id, outcome.attempt + 1) in self.starts
            assert not is_given_up, "the outcome of an attempt that its owner had given up"
        dispatcher = process.node.dispatcher
        if dispatcher is not None and not dispatcher.has_store:
            self.before_store.add(outcome.id)
        if self.world.extras.is_right(outcome, spec):
            return
        if outcome.status == Status.DEAD:
            self._check_dead(spec)
            return
        if outcome.status == Status.WORKER_LOST:
            assert spec.once, f"{spec} may run again"
            self.world.faults.count("once")
            return
        if spec.deed == "spawn" and outcome.status == Status.FAILURE:
            return  # its owner could not be reached
        expected = value_of(spec)
        assert (outcome.status, outcome.body) == expected, f"wrong value of {spec}"
        assert (outcome.id, outcome.attempt) in self.starts

    def _check_dead(self, spec: Spec) -> None:
        """Only attempts that ran count, and only when their child or worker was lost."""
        ran = [key for key in (*self.starts, *self.perhaps) if key[0] == spec.id]
        assert not spec.once, f"{spec} ran several times"
        assert len(ran) >= STRIKES_MAX, f"{spec} is dead after {len(ran)} starts"

    # --- stores and watchers ------------------------------------------------------------

    def stored(self, row: OutcomeRow, rows: Sequence[OutcomeRow]) -> None:
        """A store calls this row final, of all that it has of the task."""
        outcome = self.outcomes.get(row.task_id)
        if row.task_id in self.forgotten or self.how[row.task_id] == "loose":
            return
        assert outcome is not None, "a store has as settled what no owner settled"
        settled = sum(row.verdict == Verdict.SETTLED for row in rows)
        assert settled == 1, f"a store has {settled} attempts of one task as settled"
        assert (row.status, row.body, row.attempt) == (
            outcome.status, outcome.body, outcome.attempt
        ), f"the store's final value of {self.specs[row.task_id]} is not the caller's"  # fmt: skip

    def asked(self, watcher: Process, token: int, ids: list[bytes]) -> None:
        self.watched[watcher.name, token] = dict.fromkeys(ids)

    def has_heard_of(self, process: Process, node: bytes) -> bool:
        """It knows that this node is, or was, there."""
        return process.node.is_linked(node) or node in process.node.membership.candidates

    def told(self, watcher: Process, effect: fx.QuestionAnswered) -> None:
        waiting = self.watched[watcher.name, effect.token]
        for state in effect.states:
            if state.id not in waiting:
                continue  # the last answer repeats what was told
            if state.id not in self.must or state.id in self.forgotten:
                del waiting[state.id]
                continue
            holder = self.holder(state.id) or self.world.by_node.get(state.id[:8])
            owner = holder.hello.node if holder is not None else state.id[:8]
            if not self.has_heard_of(watcher, owner):
                del waiting[state.id]  # it never heard of the owner: what it was told may be so
                continue
            settler = self.settlers.get(state.id)
            if state.state == TaskState.UNKNOWN:
                # Its journal waits for somebody, or who knew how it ended has ended too.
                assert self.holder(state.id) is None, "a watcher is told that nobody knows it"
                assert settler is None or not settler.alive, "a watcher is told nothing"
                del waiting[state.id]
                continue
            assert state.state == TaskState.SETTLED, f"a watcher is told {state.state}"
            settled = self.outcomes.get(state.id)
            assert state.outcome is not None
            if settled is None:
                # Its owner ended before it said so; then the first outcome stands.
                assert self.holder(state.id) is None, "a watcher is told of what has not settled"
                continue
            assert (state.outcome.status, state.outcome.body) == (settled.status, settled.body)
            waiting.pop(state.id, None)


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits (those of the memory store)."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


def check_node(process: Process) -> None:
    """Cheap checks of one node, after each of its turns."""
    node = process.node
    dispatcher, intake = node.dispatcher, node.intake
    process.world.extras.looked(process)
    if dispatcher is not None:
        held = 0
        for worker in dispatcher.workers.values():
            assert worker.sent <= worker.limit, "more tasks sent than the credit allows"
            held += len(worker.held)
        ready = sum(len(lane.ready) for lane in dispatcher.lanes.values())
        elsewhere = 0
        for task_id, task in dispatcher.tasks.items():
            last = process.world.ledger.last_holder.get(task_id)
            if last is not process and process.owns(task_id):
                assert last is None or not last.owns(task_id), (
                    f"{last.name} and {process.name} both own {task_id.hex()}"
                )
                process.world.ledger.last_holder[task_id] = process
            if task.worker is None:
                waits = (task.is_noting, task.is_unsure, task.is_waiting, task.outcome is not None)
                elsewhere += any(waits) or bool(task.offered)
        assert held + ready + elsewhere == len(dispatcher.tasks), (
            "open tasks are not ready, held, offered or waiting for the journal"
        )
        if process.caller is not None:
            specs = process.world.ledger.specs
            assert node.ownership is not None
            mine = (*dispatcher.tasks, *node.ownership.given.following)
            process.caller.check_open(sum(not specs[i].body.startswith(b"child") for i in mine))
        elif not process.has_heirlooms:
            assert node.ownership is not None
            count = len(dispatcher.tasks) + len(node.ownership.taking.tasks)
            assert count <= dispatcher.tasks_max, "more was taken over than there is room for"
    if intake is not None:
        for giver in intake.givers.values():
            assert giver.received <= giver.most, "more tasks received than credit granted"
            assert giver.finished <= giver.received, "more tasks finished than received"
        for slot in intake.slots.values():
            assert len(slot.pending) <= 256
            if any(is_suspect(task) for task in slot.pending):
                assert len(slot.pending) == 1, "a suspect shares its slot"
        assert intake.held_bytes >= 0


def unrest(world: World) -> str:
    """Why the world has not come to rest, "" when it has: all settled, stored and linked."""
    ledger = world.ledger
    for task_id in ledger.must:
        if task_id not in ledger.outcomes:
            return f"{ledger.specs[task_id]} ({ledger.how[task_id]}) has not settled"
    for process in world.alive():
        untold = [
            i for i in ledger.wanted.get(process.name, ())
            if i in ledger.must and not ledger.calls.is_lost(i)
        ]  # fmt: skip
        if untold:
            return f"{process.name} was not told of {len(untold)} of its tasks"
    for (name, _), waiting in ledger.watched.items():
        untold = [
            i for i in waiting
            # What an owner had settled may be gone with it, where there is no store.
            if i in ledger.must and i not in ledger.forgotten and ledger.settlers[i].alive
        ]  # fmt: skip
        if untold:
            return f"{name} was not told of {len(untold)} tasks that it watches"
    untold_ticket = ledger.calls.untold()
    if untold_ticket:
        return untold_ticket
    for process in world.alive():
        if process.node.intake is not None and process.node.intake.queue:
            return f"{process.name} has tasks that it has not started"
        if process.node.dispatcher is not None and process.node.dispatcher.tasks:
            return f"{process.name} has open tasks"
    return _unstored(world) or _unlinked(world)


def waits_for_givers(world: World) -> bool:
    """Some node was offered tasks by one that it does not reach, and is not sure that it has
    ended: a while is to pass before it goes on with what is in no journal."""
    return any(
        process.node.ownership is not None
        and process.node.ownership.taking.next_deadline_ms() is not None
        for process in world.alive()
    )


def _unstored(world: World) -> str:
    for process in world.alive():
        if process.store is None:
            continue
        rows = finished(process.store.get_batch(list(world.ledger.outcomes)))
        for task_id, outcome in world.ledger.outcomes.items():
            row = final_row(rows.get(task_id, []))
            worker = world.ledger.starts.get((task_id, outcome.attempt))
            if world.extras.is_owners(outcome):
                worker = None
            if task_id in world.ledger.before_store and worker is not None and not worker.alive:
                continue
            if task_id in world.ledger.forgotten or world.ledger.how[task_id] == "loose":
                continue
            # An owner that ended may have told nobody else: then the first outcome stands,
            # if its worker is still there. A former owner may have been told of that one.
            settler = world.ledger.settlers[task_id]
            is_told = settler.alive and world.ledger.last_holder.get(task_id, settler).alive
            if not is_told and (worker is None or not worker.alive):
                continue
            if row is None or (row.verdict != Verdict.SETTLED and is_told):
                return f"{process.name} lacks the outcome of {world.ledger.specs[task_id]}"
            assert (row.status, row.body) == (outcome.status, outcome.body)
    return ""


def _unlinked(world: World) -> str:
    alive = world.alive()
    for process in alive:
        node = process.node
        for link in node.membership.links.values():
            peer = world.by_routing_id.get(link.id.peer)
            if peer is None and link.state is LinkState.GREETING:
                continue  # something foreign
            if peer is None or not peer.alive:
                return f"{process.name} has a link to a dead process"
            if link.state is not LinkState.UP:
                return f"{process.name} - {peer.name} is {link.state.value}"
            other = peer.node.membership.links.get(
                LinkId("out" if link.id.side == "in" else "in", process.routing_id)
            )
            if other is None or (other.session, other.peer_session) != (
                link.peer_session, link.session
            ):  # fmt: skip
                return f"{process.name} - {peer.name}: sessions differ"
            # Acknowledging everything takes another beat, so only some worlds wait for it.
            if len(link.unacked) > (0 if world.seed % 8 == 0 else UNACKED_MESSAGES_MAX):
                return f"{process.name} - {peer.name}: {len(link.unacked)} not acknowledged"
        reason = _unsettled(process, alive)
        if reason:
            return reason
    return ""


def _unsettled(process: Process, alive: list[Process]) -> str:
    for wanted in alive:
        if wanted is process or process.plan.dial_roles.isdisjoint(wanted.plan.roles):
            continue
        if LinkId("out", wanted.routing_id) not in process.node.membership.links:
            return f"{process.name} has no link to {wanted.name}"
    for owner, waiting in process.node.log.undecided.items():
        # One that has gone for good decides no more.
        if waiting and any(other.hello.node == owner for other in alive):
            return f"{process.name} has outcomes without a verdict"
    return ""


def check_end(world: World) -> None:
    """Once more over everything, at rest."""
    ledger = world.ledger
    for process in world.alive():
        dispatcher = process.node.dispatcher
        if dispatcher is None:
            continue
        assert not dispatcher.tasks
        assert dispatcher.open_bytes == 0
        if world.owners_changed:
            continue
        settled = [
            outcome for task_id, outcome in ledger.outcomes.items()
            if ledger.last_holder.get(task_id) is process
        ]  # fmt: skip
        again = sum(max(0, outcome.attempt - 1) for outcome in settled)
        # The last attempt of these was given to nobody.
        dead = sum(
            outcome.status == Status.DEAD
            or (
                outcome.status == Status.WORKER_LOST
                and (outcome.id, outcome.attempt) not in ledger.starts
            )
            for outcome in settled
        )
        # Those that are cancelled may count one more, so that what comes late is refused.
        unsure = sum(o.status in (Status.CANCELLED, Status.EXPIRED) for o in settled)
        most = again - dispatcher.redelivered_count - dispatcher.retried_count - dead
        assert 0 <= most <= unsure, "attempts do not grow by one"
    for process in world.alive():
        intake = process.node.intake
        if intake is not None:
            assert not intake.queue
            if not intake.running_count:
                assert intake.held_bytes == 0
    for spec in list(ledger.specs.values()):
        if spec.deed == "kill" and spec.id in ledger.outcomes:
            end = Status.WORKER_LOST if spec.once else Status.DEAD
            outcome = ledger.outcomes[spec.id]
            assert outcome.status in (end, Status.CANCELLED) or CAUSE_KEY in (outcome.ext or {})
    if world.extras.waiters is not None:
        world.extras.waiters.check_end()
    ledger.calls.check_rest()
