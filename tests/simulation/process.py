"""One simulated process: a real ``MeshNode`` whose effects end in the simulated world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.simulation.caller import Caller, SimRuntime
from tests.simulation.clock import Clock
from tests.simulation.invariants import CheckedMembership, check_node, finished
from tests.simulation.journal import make_journal
from tests.simulation.network import ZMTP_TIMEOUT_MS
from tests.simulation.pool import SimPool
from tests.simulation.spill import SimSpill
from tests.simulation.tasks import Spec, catalog
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.intake import Intake
from zmqtasks.core.linkevents import Timers
from zmqtasks.core.links import Candidate, LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.core.publishing import RESULTS_TOPIC
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.rows import final_row
from zmqtasks.ids import routing_id, task_id_maker
from zmqtasks.node.draining import Draining
from zmqtasks.stores.memory import MemoryStore
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Hello,
    Kind,
    Message,
    Verdict,
)

if TYPE_CHECKING:
    from tests.simulation.network import Connection
    from tests.simulation.world import World

MESH = b"simulate"
TIMERS = Timers(1_000, 3_000, 3_000, 4_000, 60_000)
#: Results above this are fetched by position, so that worlds of small tasks do it too.
INLINE_BYTES = 64


class Plan(NamedTuple):
    """What a process is; a restarted one is made from the same plan."""

    role: str
    roles: tuple[str, ...]
    dial_roles: frozenset[str]
    kinds: tuple[Kind, ...] = ()
    slots: int = 0


class Place(NamedTuple):
    """Who a process is in the mesh, and where its R_in listens."""

    node: bytes
    epoch: int
    endpoint: str


class Process:
    """One incarnation of a node.

    Args:
        plan: what it is.
        name: unique in its world.
        place: its identity, and where it listens.
        folder: its journal.
        store: what its predecessor has committed.
    """

    def __init__(
        self, world: World, plan: Plan, name: str, place: Place, folder: Path,
        store: MemoryStore | None,
    ) -> None:  # fmt: skip
        node, epoch, endpoint = place
        self.world = world
        self.plan = plan
        self.name = name
        self.routing_id = routing_id(node, epoch)
        self.endpoint = endpoint
        self.alive = True
        self.ended_ms = 0
        self.new_task_id = task_id_maker(node, epoch)
        self.paused_until_ms = 0
        self.frozen_until_ms = 0
        self.leave_by_ms = 0
        self.clock = Clock(world.faults.features.get("clocks"))
        lacks = world.faults.features.get("nojournal")
        self.has_journal = plan.role[0] in "ab" or lacks is None or lacks.random() < 0.5
        #: It owns what another one owned, or what it had itself in an earlier life.
        self.has_heirlooms = False
        self.draining: Draining | None = None
        self._drain_since_ms = self._drain_end_ms = 0
        self._make_tables()
        # --- machines ---
        self.hello = Hello(
            node, epoch, 0, 0, 0, MESH, 1, 1, [], name, list(plan.roles), b"host", 1,
            [endpoint], [endpoint + "p"], [endpoint + "l"], plan.slots,
            sorted({kind.queue for kind in plan.kinds}), catalog(plan.kinds),
            {"j": 1} if self.has_journal and "producer" not in plan.roles else {},
        )  # fmt: skip
        membership = CheckedMembership(
            self.hello, "sim", "", plan.dial_roles, world.timers, self.now, world.ledger
        )
        if store is None and "store" in plan.roles:
            store = MemoryStore(wall_ms=lambda: self.wall_ms)
        self.store = store
        self.journal = make_journal(world, self, folder)
        self.spill = SimSpill(world, self)
        self.node = self._make_node(membership)
        self.pool = SimPool(self)
        self._commits_ms = 0
        self._performers = self._make_performers() | world.equip(self)
        self._tokens = 0
        #: {token of a durable call: its tasks}.
        self._durable: dict[int, list[Call]] = {}
        self.pool.start(plan.slots)
        self.caller = Caller(self) if world.features.has_callers(plan) else None
        self._resume(world.heirs.get(folder, []))
        self._plan_wake(world.now)

    def _make_node(self, membership: Membership) -> MeshNode:
        world, plan = self.world, self.plan
        routes = world.routes if "producer" in plan.roles else {}
        tasks_max, bytes_max = world.features.limits_of(plan)
        # A script asks for its journal when it has something to write, and is refused then.
        custody = Custody(self.has_journal or "producer" in plan.roles)
        return MeshNode(
            membership,
            dispatcher=Dispatcher(
                tasks_max, bytes_max, custody, lambda queue: routes.get(queue, "direct")
            ),
            intake=(
                Intake(self.hello.queues, self.hello.catalog, plan.slots) if plan.slots else None
            ),
            reader=ResultReader() if self.store is not None else None,
            inline_bytes_max=INLINE_BYTES,
            grace_ms=100,
            log=self.spill.log,
        )

    def _resume(self, heir_of: list[bytes]) -> None:
        dispatcher = self.node.dispatcher
        assert dispatcher is not None
        dispatcher.wall_ms = self.wall_ms
        records = self.journal.open()
        self.has_heirlooms = bool(records)
        if records or heir_of:  # an heir whose journal is empty knows how what was in it ended
            self.node.resume(records, self.now, heir_of)

    def _make_tables(self) -> None:
        # --- connections, see Network ---
        self.connected: dict[str, Connection] = {}
        self.out: dict[bytes, Connection] = {}
        self.inn: dict[bytes, Connection] = {}
        self.dialled_at: dict[bytes, str] = {}
        self.node_at: dict[str, bytes] = {}
        self.subscribers: list[Process] = []
        self.subscribed: dict[bytes, Process] = {}
        #: {lane: {node: worker that its PUSH is connected to}}.
        self.lanes: dict[str, dict[bytes, Process]] = {}
        # --- turns ---
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._turn_planned = False
        self._deadline_ms = 0
        self._wake_ms = -1
        self._spins = 0

    def _make_performers(self) -> dict[type, Callable[[Any], None]]:
        world = self.world
        return {
            fx.Transmit: self._transmit,
            fx.Dial: lambda e: world.network.dial(self, e.candidate),
            fx.Hangup: self._hang_up,
            fx.CheckGone: self._check_gone,
            fx.Subscribe: self._subscribe,
            fx.Unsubscribe: self._unsubscribe,
            fx.Publish: lambda e: world.network.publish(self, e.topic, e.message),
            fx.RunInSlot: self.pool.run,
            fx.CancelInSlot: self.pool.cancel,
            fx.AnswerSlot: self.pool.answer,
            fx.TasksSettled: self._tasks_settled,
            fx.QuestionAnswered: self._question_answered,
            fx.RoomFreed: self._room_freed,
            fx.JournalWrite: self.journal.write,
            fx.CallsAccepted: self._calls_accepted,
            fx.CallsRefused: self._calls_refused,
            fx.LaneConnect: self._lane_connect,
            fx.LaneDisconnect: self._lane_disconnect,
            fx.LanePush: self._lane_push,
            fx.StoreRows: self._store_rows,
            fx.AskStore: self._ask_store,
            fx.Note: self._note,
            **self.spill.performers,
        }

    # --- turns --------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Its monotonic time."""
        return self.clock.now(self.world.now)

    @property
    def wall_ms(self) -> int:
        """What it takes for the time of day."""
        return self.clock.wall(self.world.now)

    def deliver(self, function: Callable[..., None], *args: Any) -> None:
        """Something came in; the next turn works on it."""
        if not self.alive:
            return
        self._inbox.append((function, args))
        self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._turn_planned:
            self._turn_planned = True
            self.world.at(max(self.world.now, self.paused_until_ms), self._turn)

    def pause(self, duration_ms: int) -> None:
        """No turns for a while (the loop is stuck, libzmq's thread is not)."""
        self.paused_until_ms = max(self.paused_until_ms, self.world.now + duration_ms)

    def freeze(self, duration_ms: int) -> None:
        """The whole process stops, so that it takes part in no handshake either."""
        self.pause(duration_ms)
        self.frozen_until_ms = max(self.frozen_until_ms, self.world.now + duration_ms)

    def wake(self) -> None:
        """Its pause ends early."""
        self.paused_until_ms = self.world.now
        self.deliver(lambda: None)
        self.world.at(self.world.now, self.turn_now)
        if self.frozen_until_ms > self.world.now:
            self.frozen_until_ms = self.world.now
            self.world.network.wakes(self)

    def _plan_wake(self, at_ms: int) -> None:
        if not self.world.now < self._wake_ms <= at_ms:
            self._wake_ms = at_ms
            self.world.at(at_ms, self._wake, at_ms)

    def _wake(self, at_ms: int) -> None:
        if self.alive and at_ms == self._wake_ms:
            self._plan_turn()

    def _turn(self) -> None:
        """Drain, tick, let the machines work, carry out: as ``node.runtime`` does."""
        if self.alive and self.world.now < self.paused_until_ms:
            self.world.at(self.paused_until_ms, self._turn)
            return
        self._turn_planned = False
        if not self.alive:
            return
        drain_max = self.world.drain_max
        inbox, self._inbox = self._inbox[:drain_max], self._inbox[drain_max:]
        if self._inbox:
            self._plan_turn()
        for function, args in inbox:
            function(*args)
        now = self.now
        if now >= self._deadline_ms:
            self.node.tick(now)
        for _ in range(16):
            effects = self.node.end_turn(now, self.wall_ms)
            if not effects:
                break
            for effect in effects:
                self.world.record(self, effect)
                self._performers[type(effect)](effect)
        if self.caller is not None:
            self.caller.turn()
        check_node(self)
        self._deadline_ms = self.node.next_deadline_ms()
        if self.draining is not None:
            self._go_on_draining(self.draining)
        self._check_spin(bool(inbox))
        self._plan_wake(max(self.clock.when(self._deadline_ms), self.world.now + 1))

    def _check_spin(self, had_input: bool) -> None:
        """A deadline that stays in the past would keep the loop at full load."""
        self._spins = self._spins + 1 if self._deadline_ms <= self.now else 0
        if had_input:
            self._spins = min(self._spins, 1)
        assert self._spins < 5, f"{self.name} spins: a deadline stays in the past"

    # --- events -------------------------------------------------------------------------

    def received(
        self, token: tuple[Connection, int] | None, link: LinkId, frames: list[bytes], address: str
    ) -> None:
        if token is not None and token[0].generation != token[1] and token[1] & 1:
            return  # it was in the pipe, not read yet, when the connection dropped
        self.world.record_frames(self, link, frames)
        self.node.membership.frames_received(link, frames, address, self.now)

    def dialled(self, node: bytes, endpoint: str) -> None:
        if endpoint:
            previous = self.node_at.get(endpoint)
            if previous is not None and previous != node:
                self.dialled_at.pop(previous, None)
                self.world.network.disconnect(self, endpoint)
            self.dialled_at[node] = endpoint
            self.node_at[endpoint] = node
            self.world.network.connect(self, endpoint)
        self.node.membership.dialled(node, endpoint, self.now)

    def candidate_found(self, candidate: Candidate) -> None:
        self.node.membership.candidate_found(candidate, self.now)

    def candidate_gone(self, node: bytes, epoch: int) -> None:
        self.node.membership.candidate_gone(node, epoch, self.now)

    def connection_lost(self, endpoint: str) -> None:
        self.node.membership.connection_lost(endpoint, self.now)

    def peer_gone(self, link: LinkId) -> None:
        self.node.membership.peer_gone(link, self.now)

    def published(self, frames: list[bytes]) -> None:
        _, message = codec.decode(frames)
        self.node.published(message, self.now, self.wall_ms)

    def submit(self, specs: list[Spec], how: str, wait_ms: int) -> None:
        if self.caller is not None:
            self.caller.call(specs, how, wait_ms)
            return
        ledger, now = self.world.ledger, self.now
        calls = ledger.submitted(self, specs, how)
        if how == "memory":
            self.node.submit(calls, now)
        elif how == "disk":
            self._tokens += 1
            self._durable[self._tokens] = calls
            self.node.submit_durable(calls, self._tokens, now)
        elif self.node.lane is not None:
            self.node.lane.submit(calls, now)

    def _tasks_settled(self, effect: fx.TasksSettled) -> None:
        self.world.ledger.settled(self, effect.outcomes)
        self.world.told(self)
        if self.caller is not None:
            self.caller.performed(effect)

    def _question_answered(self, effect: fx.QuestionAnswered) -> None:
        if self.caller is not None and self.caller.is_asked(effect.token):
            self.caller.performed(effect)
        else:
            self.world.ledger.told(self, effect)

    def _room_freed(self, effect: fx.RoomFreed) -> None:
        if self.caller is not None:
            self.caller.performed(effect)

    def _calls_accepted(self, effect: fx.CallsAccepted) -> None:
        if self.caller is not None:
            self.caller.performed(effect)
            return
        for call in self._durable.pop(effect.token):
            self.world.ledger.accepted(call.id)

    def _calls_refused(self, effect: fx.CallsRefused) -> None:
        if self.caller is not None:
            self.caller.performed(effect)
            return
        for call in self._durable.pop(effect.token):
            self.world.ledger.refused(self, call.id)

    def adopt(self, last: Process) -> None:
        """Take over the journal of a dead process, if nobody was faster."""
        if self.world.is_left(last) and self.draining is None:
            self.has_heirlooms = True
            self.journal.adopt(last)

    # --- the end ------------------------------------------------------------------------

    def leave(self) -> None:
        """A script ends: it gives away what it can, and writes down the rest."""
        self.leave_by_ms = self.world.now + self.world.rng.choice((0, 200, 2_000))
        self.world.owners_changed = True
        self.node.leave_tasks(self.now)
        self._give_away()

    def _give_away(self) -> None:
        node = self.node
        if node.tasks_left and self.world.now < self.leave_by_ms:
            self.world.after(20, self.deliver, self._give_away)
            return
        node.stay_with_tasks()
        assert node.dispatcher is not None
        node.dispatcher.write_all(self.now)
        self.deliver(self._end)

    def _end(self) -> None:
        if self.node.is_deciding:
            self.world.after(20, self.deliver, self._end)
            return
        self.node.membership.say_goodbye("the process ended")
        self.world.after(self.world.rng.randint(1, 250), self.world.left, self)

    def drain(self, wait_ms: int) -> None:
        """A node is told to stop, perhaps again."""
        if self.draining is None:
            journal: Any = SimpleNamespace(
                stop_adopting=lambda: None, folder=self.journal.folder, why_not=""
            )
            runtime: Any = SimRuntime(self)
            self.world.owners_changed = True
            self.draining = Draining(runtime, journal)
            self._drain_since_ms = self.world.now
        self.draining.begin(self.now, wait_ms)
        # Twice the time for the last words, then the goodbyes; on the slowest clock.
        self._drain_end_ms = self.world.now + (wait_ms + 400) * 11 // 10 + 400

    def _go_on_draining(self, draining: Draining) -> None:
        wait_ms = draining.advance(self.now)
        if wait_ms == 0:
            self._plan_turn()
        elif wait_ms is not None:
            self._deadline_ms = min(self._deadline_ms, self.now + wait_ms)

    def check_drained(self) -> None:
        """It has said goodbye: in time, and with everything in other hands or on the disk."""
        if self.draining is None:
            return
        if self.paused_until_ms < self._drain_since_ms:
            assert self.world.now <= self._drain_end_ms, "it took longer to stop than it may"
        dispatcher = self.node.dispatcher
        assert dispatcher is not None
        if self.has_journal and not self.world.has_bad_disks:
            assert not dispatcher.unwritten_count, "a node stopped, and its tasks are nowhere"

    def watch(self, ids: list[bytes]) -> None:
        token = self.node.ask(ids, True, self.now)
        self.world.ledger.asked(self, token, ids)

    def turn_now(self) -> None:
        """The loop goes on again."""
        self._turn_planned = True
        self._turn()

    def resubscribe(self, publisher: Process) -> None:
        """The SUB connection is back."""
        if self.alive and publisher in self.subscribed.values():
            self._subscribed(publisher, (RESULTS_TOPIC,))

    def owns(self, task_id: bytes) -> bool:
        """It is alive and has not said goodbye, and one of its open tasks."""
        dispatcher = self.node.dispatcher
        is_there = self.alive and not self.node.membership.leaving
        return is_there and dispatcher is not None and task_id in dispatcher.tasks

    def die(self, *, is_silent: bool) -> None:
        """SIGKILL; ``is_silent``: with its host, so no kernel closes its connections."""
        self.alive = False
        self.ended_ms = self.world.now
        self._inbox.clear()
        self.pool.die()
        self.journal.die()
        self.world.network.died(self, ZMTP_TIMEOUT_MS if is_silent else 0)

    # --- effects ------------------------------------------------------------------------

    def _transmit(self, effect: fx.Transmit) -> None:
        if not self.world.network.send(self, effect.link, effect.frames):
            self.node.membership.send_failed(effect.link, self.now)

    def _hang_up(self, effect: fx.Hangup) -> None:
        endpoint = self.dialled_at.pop(effect.node, None)
        if endpoint is not None and self.node_at.get(endpoint) == effect.node:
            del self.node_at[endpoint]
            self.world.network.disconnect(self, endpoint)

    def _check_gone(self, effect: fx.CheckGone) -> None:
        peer = self.world.by_routing_id.get(effect.link.peer)
        is_gone = peer is None or not peer.alive
        if is_gone and not self.world.is_silent_end(effect.link.peer):
            self.world.after(
                self.world.rng.randint(1, 50), self.deliver, self.peer_gone, effect.link
            )

    def _subscribe(self, effect: fx.Subscribe) -> None:
        publisher = self.world.at_endpoint(effect.endpoints)
        if publisher is None or effect.node in self.subscribed:
            return
        self.subscribed[effect.node] = publisher
        wait_ms = self.world.rng.randint(1, 10)
        self.world.after(wait_ms, self._subscribed, publisher, effect.topics)

    def _subscribed(self, publisher: Process, topics: tuple[bytes, ...]) -> None:
        if publisher.alive and self not in publisher.subscribers:
            publisher.subscribers.append(self)
            for topic in topics:
                publisher.deliver(publisher.node.subscription, topic, True)

    def _unsubscribe(self, effect: fx.Unsubscribe) -> None:
        publisher = self.subscribed.pop(effect.node, None)
        if publisher is not None and self in publisher.subscribers:
            publisher.subscribers.remove(self)

    def _note(self, effect: fx.Note) -> None:
        assert effect.level != "error", effect.text

    # --- the at-most-once lane ------------------------------------------------------------

    def _lane_connect(self, effect: fx.LaneConnect) -> None:
        peer = self.world.by_node.get(effect.node)
        if peer is not None and peer.alive:
            self.lanes.setdefault(effect.lane, {})[effect.node] = peer

    def _lane_disconnect(self, effect: fx.LaneDisconnect) -> None:
        self.lanes.get(effect.lane, {}).pop(effect.node, None)

    def _lane_push(self, effect: fx.LanePush) -> None:
        peers = [peer for peer in self.lanes.get(effect.lane, {}).values() if peer.alive]
        if not peers or self.world.rng.random() < 0.2:
            lane = self.node.lane
            assert lane is not None
            lane.not_pushed(effect.lane, effect.calls, self.now)
            return
        if self.caller is not None:
            self.caller.performed(effect)
        peer = self.world.rng.choice(peers)
        if not self.world.network.are_parted(self, peer):
            self.world.after(
                self.world.rng.randint(0, 3), peer.deliver, peer.pulled, effect.message
            )

    def pulled(self, message: Message) -> None:
        self.node.pulled(message)

    # --- the store ----------------------------------------------------------------------

    def _store_rows(self, effect: fx.StoreRows) -> None:
        delay_ms = self.world.rng.randint(0, 5)
        rate = self.world.faults.rate("slowstore", 0.3)
        if rate and self.world.rng.random() < rate:
            self.world.faults.count("slowstore")
            delay_ms += self.world.rng.randint(50, 2_000)
        self._commits_ms = max(self._commits_ms, self.world.now + delay_ms)
        self.world.at(self._commits_ms, self._committed, effect)

    def _committed(self, effect: fx.StoreRows) -> None:
        if not self.alive or self.store is None:
            return
        finished(self.store.put_batch(effect.outcomes, effect.verdicts))
        ids = {row.task_id: None for row in effect.outcomes}
        ids.update((row.task_id, None) for row in effect.verdicts)
        settled: list[bytes] = []
        for task_id, rows in finished(self.store.get_batch(list(ids))).items():
            row = final_row(rows)
            if row is not None and row.verdict == Verdict.SETTLED:
                settled.append(task_id)
                self.world.ledger.stored(row, rows)
        count = len(effect.outcomes) + len(effect.verdicts)
        self.deliver(self.node.rows_stored, effect.batch, count, settled)

    def _ask_store(self, effect: fx.AskStore) -> None:
        assert self.store is not None
        rows = finished(self.store.get_batch(effect.ids))
        self.world.after(
            self.world.rng.randint(0, 20),
            self.deliver, self.node.answers.store_answered, effect.token, rows,
        )  # fmt: skip
