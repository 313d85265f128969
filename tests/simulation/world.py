"""One simulated world: virtual time, processes, and the trouble that they meet.

One thread, one heap of ``(t_ms, tie, action)``, one seeded random generator: the same seed
gives the same world, event by event. First *safety*: things go wrong while tasks are
submitted. Then *liveness*: nothing goes wrong any more, and within bounded virtual time all
must be settled, stored and linked.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, get_args

from tests.simulation.extras import Extras
from tests.simulation.faults import Faults
from tests.simulation.features import SAFETY_MS, Features
from tests.simulation.invariants import Ledger, check_end, unrest, waits_for_givers
from tests.simulation.network import ZMTP_TIMEOUT_MS, Connection, Network
from tests.simulation.process import MESH, TIMERS, Place, Plan, Process
from tests.simulation.tasks import KINDS, QUICK, RARE, SLOW, Spec, once
from zmqtasks.core import effects as fx
from zmqtasks.core.links import Candidate, LinkId
from zmqtasks.errors import RemoteProtocolError
from zmqtasks.journals.memory import MemoryDisk
from zmqtasks.limits import OWNER_GONE_MS
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Message

#: Virtual time at most after the faults.
LIVENESS_MS = 25_000
_CHECK_MS = 250
#: Nodes of a host take over an empty journal that has been free for so long.
_IDLE_MS = 3_000
_CLIENT_DIALS = frozenset(("worker", "broker"))
_BROKER_DIALS = frozenset(("worker",))
_STORE_DIALS = frozenset(("worker", "producer", "broker", "beat"))

#: {type of effect: its number}, for the digest.
_CODES: dict[type, int] = {kind: code for code, kind in enumerate(get_args(fx.Effect))}

Trace = Callable[[str], None]


class World:
    """Everything that one seed stands for.

    ``timers`` are those of all links.

    Args:
        seed: of all randomness.
        off: faults and features to leave out.
        on: faults, features and shapes that are there, whatever the seed says.
        trace: called with a readable line for each event.
        extras: to have, see ``extras.py``.
    """

    timers = TIMERS

    def __init__(
        self, seed: int, off: Collection[str] = (), on: Collection[str] = (),
        trace: Trace | None = None, extras: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.seed = seed
        self.trace = trace
        self.rng = random.Random(seed)
        self.faults = Faults(random.Random(seed ^ 0x5EED), off, on)
        self.now = 0
        #: Changes with every event: equal for equal worlds.
        self.digest = seed & 0xFFFFFFFF
        self.events_count = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tie = 0
        self.ledger = Ledger(self)
        self.network = Network(self)
        self.processes: list[Process] = []
        self.by_routing_id: dict[bytes, Process] = {}
        self.by_node: dict[bytes, Process] = {}
        self.disk = MemoryDisk()
        #: {folder of a journal: the last process that had it}.
        self.holders: dict[Path, Process] = {}
        #: {folder of a journal: ended nodes whose journals were merged into it}.
        self.heirs: dict[Path, list[bytes]] = {}
        #: {queue: route} of the producers.
        self.routes: dict[str, str] = {}
        #: An owner has ended, or given tasks away: its attempts are not counted any more.
        self.owners_changed = False
        self._silent_ends: set[bytes] = set()
        self._same_host = self.rng.random() < 0.5
        #: Memory for results of each process; in some worlds most of them go to the disk.
        self.log_bytes_max = random.Random(seed ^ 0xD15C).choice((1 << 26, 1_500, 5_000))
        #: So much of what has come in is read in one turn.
        self.drain_max = self.rng.choice((3, 10, 200))
        if "sluggish" in self.faults.shapes:
            self.drain_max = min(self.drain_max, 10)
        #: Journals may lack what they should have, whatever their processes do.
        self.has_bad_disks = bool(
            {"diskfull", "diskerror", "slowdisk"} & self.faults.on.keys()
        ) or self.faults.has("writer")
        self.extras = Extras(self, extras)
        self.features = Features(self)
        self._populate()
        self._plan_tasks()
        self._plan_faults()
        self.features.plan()
        self.extras.plan()
        self.after(self.rng.randint(200, 1_500), self._adopt)

    # --- time ---------------------------------------------------------------------------

    def at(self, at_ms: int, function: Callable[..., None], *args: Any) -> None:
        """Call back at that virtual time, after what was planned for it before."""
        self._tie += 1
        heapq.heappush(self._heap, (at_ms, self._tie, function, args))

    def after(self, wait_ms: int, function: Callable[..., None], *args: Any) -> None:
        self.at(self.now + wait_ms, function, *args)

    def run(self) -> None:
        """Safety, then liveness.

        Raises:
            AssertionError: an invariant does not hold.
        """
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            self.at(self.rng.randint(500, SAFETY_MS), self._leave)
        self.at(SAFETY_MS, self._heal)
        end_ms = SAFETY_MS + LIVENESS_MS
        heap = self._heap
        check_ms = SAFETY_MS + _CHECK_MS
        while True:
            self._step()
            if heap[0][0] < check_ms:
                continue
            check_ms = heap[0][0] + _CHECK_MS
            reason = unrest(self)
            if not reason:
                break
            if self.now >= end_ms:
                late_ms = self.now - SAFETY_MS
                # A task may hang on one that nobody has any more, which takes its time to know.
                is_asking = waits_for_givers(self) or self.extras.waiters is not None
                is_waiting = late_ms < LIVENESS_MS + OWNER_GONE_MS and is_asking
                assert is_waiting, f"no rest {late_ms} ms after the last fault: {reason}"
        check_end(self)

    def _step(self) -> None:
        self.now, _, function, args = heapq.heappop(self._heap)
        function(*args)
        self.events_count += 1

    # --- who is there -------------------------------------------------------------------

    def equip(self, process: Process) -> dict[type, Callable[[Any], None]]:
        """Add to a process what only this world has; returns what carries out its effects."""
        return {}

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def at_endpoint(self, pub_endpoints: Sequence[str]) -> Process | None:
        """Whose PUB listens there."""
        for endpoint in pub_endpoints:
            process = self.network.listeners.get(endpoint[:-1])
            if process is not None and process.alive:
                return process
        return None

    def is_silent_end(self, routing_id: bytes) -> bool:
        """The process is gone, but no kernel is left to tell."""
        return routing_id in self._silent_ends

    def _populate(self) -> None:
        rng = self.rng
        producers = rng.choices((1, 2, 3), (7, 2, 1))[0]
        workers = rng.choices((1, 2, 3, 4, 5), (3, 5, 3, 1, 1))[0]
        store = rng.choices(("", "own", "worker"), (35, 50, 15))[0]
        brokers = rng.choices((0, 1, 2), (6, 3, 1))[0]
        shapes = self.faults.shapes
        if "narrow" in shapes:
            workers = 1
        if shapes & {"alone", "broker", "brokers"}:
            brokers = 2 if "brokers" in shapes else int("broker" in shapes)
        routes = ("direct", "auto", "auto", "broker") if brokers else ("direct", "auto")
        if shapes & {"broker", "brokers"}:
            routes = ("auto", "broker")
        self.routes = {queue: rng.choice(routes) for queue in ("default", "special")}
        if rng.random() < 0.5:
            worker_dials: frozenset[str] = frozenset()
        else:
            worker_dials = frozenset(("producer",))  # as with static peers: links both ways
        for number in range(producers):
            plan = Plan(f"p{number}", ("producer",), _CLIENT_DIALS)
            self._start(plan, rng.randint(0, 100))
        for number in range(workers):
            kinds = KINDS if number % 2 == 0 else (QUICK, SLOW)
            roles: tuple[str, ...] = ("worker",)
            dials = worker_dials
            if store == "worker" and number == workers - 1 and number:
                roles, dials = ("worker", "store"), _STORE_DIALS
            plan = Plan(f"w{number}", roles, dials, kinds, rng.randint(1, 3))
            self._start(plan, rng.randint(0, 300))
        drains = self.faults.features.get("drain")
        if drains is not None and drains.random() < 0.5:
            brokers = 2
        self.owners_changed = brokers > 0
        for number in range(brokers):
            self._start(Plan(f"b{number}", ("broker",), _BROKER_DIALS), rng.randint(0, 500))
        if store == "own":
            self._start(Plan("s0", ("store",), _STORE_DIALS), rng.randint(0, 1_500))
        if rng.random() < 0.3:
            self._start(Plan("o0", ("producer",), _CLIENT_DIALS), rng.randint(0, 1_000))
            self.at(rng.randint(1_100, SAFETY_MS), self._watch)

    def _start(self, plan: Plan, wait_ms: int, last: Process | None = None) -> None:
        self.after(wait_ms, self._started, plan, last)

    def _started(self, plan: Plan, last: Process | None) -> None:
        rng = self.rng
        incarnation = sum(process.plan.role == plan.role for process in self.processes)
        name = plan.role + "'" * incarnation
        node, epoch, endpoint = rng.randbytes(8), 1, f"tcp://{name}"
        folder = Path(name)
        is_script = "producer" in plan.roles
        if last is not None and rng.random() < 0.7 and not is_script and self.is_left(last):
            node, epoch, folder = last.hello.node, last.hello.epoch + 1, last.journal.folder
        if last is not None and self.faults.rate("candidates", 1) and rng.random() < 0.3:
            endpoint = last.endpoint  # old news of the predecessor lead here now
        store = last.store if last is not None else None
        process = Process(self, plan, name, Place(node, epoch, endpoint), folder, store)
        if process.has_journal:
            self.holders[folder] = process
        self.processes.append(process)
        self.by_routing_id[process.routing_id] = process
        self.by_node[node] = process
        self.network.listeners[endpoint] = process
        for other in self.alive():
            if other is not process:
                self._announce(process, other)
                self._announce(other, process)

    # --- journals left behind -----------------------------------------------------------

    def is_left(self, process: Process) -> bool:
        """Nobody has its journal."""
        return self.holders.get(process.journal.folder) is process and not process.alive

    def inherited(self, last: Process, folder: Path) -> list[bytes]:
        """The journal of a dead process is in this one now; returns the ended nodes whose
        journals came with it."""
        former = [*self.heirs.pop(last.journal.folder, []), last.hello.node]
        self.heirs.setdefault(folder, []).extend(former)
        return former

    def _adopters(self) -> list[Process]:
        return [
            process for process in self.alive()
            if "producer" not in process.plan.roles
            and process.has_journal and process.draining is None
        ]  # fmt: skip

    def _adopt(self) -> None:
        """Running nodes look for the journals of dead processes; scripts do not."""
        self.after(self.rng.randint(200, 1_500), self._adopt)
        adopters = self._adopters()
        if not adopters and self.faults.has("nojournal") and self.now > SAFETY_MS:
            # What lies in journals waits for the next node that has one.
            dials = frozenset(("producer",))
            self._start(Plan("a0", ("worker",), dials, KINDS, 1), self.rng.randint(0, 500))
        for folder, last in list(self.holders.items()):
            content = self.disk.contents.get(folder)
            if content is None or not self.is_left(last) or not adopters:
                continue
            # What is empty is taken over too, after a while: somebody may ask for that node.
            if content.written or self.now >= last.ended_ms + _IDLE_MS:
                adopter = self.rng.choice(adopters)
                adopter.deliver(adopter.adopt, last)

    def _leave(self) -> None:
        """A script comes to its end, and perhaps another one begins."""
        scripts = [p for p in self.alive() if p.plan.role[0] == "p" and not p.leave_by_ms]
        if scripts:
            script = self.rng.choice(scripts)
            script.deliver(script.leave)

    def left(self, process: Process) -> None:
        """It has said goodbye."""
        if process.alive:
            process.check_drained()
            if not process.has_journal:
                self.ledger.given_up(process)
            process.die(is_silent=False)
            self.ledger.crashed(process, is_cut=False)
            if process.plan.role == "p0" or process.draining is not None:
                self._start(process.plan, self.rng.randint(0, 500), process)

    def _announce(self, subject: Process, listener: Process) -> None:
        rng = self.rng
        rate = self.faults.rate("candidates", 0.7)
        wait_ms = rng.randint(0, 30)
        if rate and rng.random() < rate:
            self.faults.count("candidates")
            wait_ms = rng.randint(0, 3_000)
            for _ in range(rng.randint(0, 2)):
                self.after(rng.randint(0, 6_000), self._tell, listener, candidate_of(subject))
        self.after(wait_ms, self._tell, listener, candidate_of(subject))

    @staticmethod
    def _tell(listener: Process, candidate: Candidate) -> None:
        listener.deliver(listener.candidate_found, candidate)

    # --- tasks --------------------------------------------------------------------------

    def _plan_tasks(self) -> None:
        rng = self.rng
        left = rng.randint(40, 60)
        is_long = "long" in self.faults.shapes
        deeds = ["plain"] * 16 + ["raise"]
        if rng.random() < 0.3:
            deeds += ["spawn"] * 4
        killers = int(rng.random() < 0.25)
        blobs = int(rng.random() < 0.05)
        while left > 0:
            count = min(left, rng.choice((1, 1, 3, 12)))
            left -= count
            batch: list[tuple[Any, ...]] = []
            for _ in range(count):
                kind = rng.choices((QUICK, SLOW, RARE), (6, 2, 1))[0]
                run_ms = rng.randint(
                    *{"quick": (0, 3), "slow": (30, 500), "rare": (3, 50)}[kind.name]
                )
                run_ms = 50 + run_ms % 100 if is_long else run_ms
                deed = rng.choice(deeds)
                size = rng.choice((4, 4, 4, 4, 128))
                if killers:
                    killers, deed = 0, "kill"
                if blobs:
                    blobs, size = 0, 70_000
                batch.append((kind, run_ms, deed, size))
            how = rng.choices(("memory", "disk", "loose"), (12, 7, 1))[0]
            if "durable" in self.faults.shapes:
                how = "disk"
            self.at(rng.randint(120, SAFETY_MS - 500), self._submit, rng.random(), batch, how)

    def script(self, draw: float) -> Process | None:
        """One of those that still call."""
        scripts = [p for p in self.alive() if p.plan.role[0] == "p" and not p.leave_by_ms]
        return scripts[int(draw * len(scripts))] if scripts else None

    def _submit(self, draw: float, batch: list[tuple[Any, ...]], how: str) -> None:
        owner = self.script(draw)
        if owner is None:
            return
        guards = self.faults.features.get("once")
        specs = []
        for kind, run_ms, deed, size in batch:
            task_id = owner.new_task_id()
            body = b"argument of " + task_id + (b"." * 70_000 if size > 1_000 else b"")
            specs.append(Spec(task_id, kind, body, run_ms, deed, size))
            if how == "loose":
                specs[-1] = specs[-1]._replace(deed="plain")
            elif guards is not None and guards.random() < 0.4:
                specs[-1] = once(specs[-1], is_known=guards.random() < 0.8)
            if how != "loose":
                specs[-1] = self.extras.changed(specs[-1])
        owner.deliver(owner.submit, specs, how, self.features.patience_ms())

    def _watch(self) -> None:
        watcher = next(p for p in self.processes if p.plan.role == "o0")
        ids = list(self.ledger.must)
        if ids:
            watcher.deliver(watcher.watch, ids)

    # --- trouble ------------------------------------------------------------------------

    def _plan_faults(self) -> None:
        rng = self.rng
        strikes: dict[str, tuple[int, Callable[[], None]]] = {
            "disconnect": (8, self._disconnect),
            "partition": (3, self._partition),
            "crash": (5, self._crash),
            "ownercrash": (4, self._crash_owner),
            "diskfull": (3, self._fill_disk),
            "diskerror": (4, self._break_disk),
            "child": (8, self._kill_child),
            "pause": (4, self._pause),
            "freeze": (4, self._freeze),
            "silence": (8, self._silence),
            "candidates": (8, self._rumour),
            "pubdrop": (4, self._break_sub),
        }
        for name, (most, strike) in strikes.items():
            rate = self.faults.rate(name, most)
            for _ in range(rng.randint(1, max(1, round(rate))) if rate else 0):
                # Rather early, since some need seconds to show what they do.
                self.at(100 + int((SAFETY_MS - 101) * rng.random() ** 2), strike)
        if "sluggish" in self.faults.shapes:
            self.at(rng.randint(400, 900), self._freeze)

    def _heal(self) -> None:
        self.faults.heal()
        self.disk.bytes_max = None
        self.disk.fail_commits(0)
        self.network.parted.clear()
        for connection in self.network.connections:
            connection.clogged_ms = [self.now, self.now]
        for process in self.alive():
            if process.paused_until_ms > self.now:
                process.wake()

    def _connection(self) -> Connection | None:
        up = [connection for connection in self.network.connections if connection.up]
        return self.rng.choice(up) if up else None

    def _disconnect(self) -> None:
        connection = self._connection()
        if connection is not None:
            self.faults.count("disconnect")
            self.network.drop(connection, self.rng.choice((20, 200, 1_500, 4_500)))

    def _partition(self) -> None:
        alive = self.alive()
        if len(alive) > 1:
            self.faults.count("partition")
            one, other = self.rng.sample(alive, 2)
            self.network.part(one, other, self.rng.randint(200, 6_000))

    def _workers(self) -> list[Process]:
        return [process for process in self.alive() if process.plan.slots]

    def _crash(self) -> None:
        mortal = [p for p in self.alive() if p.plan.slots or p.store is not None]
        if not mortal:
            return
        self._end(self.rng.choice(mortal), "crash")

    def _crash_owner(self) -> None:
        mortal = [p for p in self.alive() if p.plan.role[0] in "pb"]
        if mortal:
            self._end(self.rng.choice(mortal), "ownercrash")

    def told(self, process: Process) -> None:
        """It tells how tasks ended, and may end before anybody hears that."""
        is_curt = "curt" in self.faults.shapes and process.plan.role[0] == "b"
        if is_curt and self.now < SAFETY_MS and self.rng.random() < 0.1:
            self.after(0, self._end_if_alive, process)

    def _end_if_alive(self, process: Process) -> None:
        if process.alive:
            self._end(process, "ownercrash")

    def _end(self, worker: Process, fault: str) -> None:
        self.faults.count(fault)
        is_silent = self.rng.random() < self.faults.rate("gone_untold", 0.7)
        if is_silent:
            self.faults.count("gone_untold")
            self._silent_ends.add(worker.routing_id)
        elif self._same_host:
            for other in self.alive():
                wait_ms = self.rng.randint(1, 500)
                node, epoch = worker.hello.node, worker.hello.epoch
                self.after(wait_ms, other.deliver, other.candidate_gone, node, epoch)
        worker.die(is_silent=is_silent)
        is_cut = self.rng.random() < self.faults.rate("powercut", 0.8)
        contents, folder = self.disk.contents, worker.journal.folder
        if is_cut and folder in contents:
            self.faults.count("powercut")
            contents[folder] = contents[folder].cut(
                self.rng.randint(0, len(contents[folder].unsynced))
            )
        self.ledger.crashed(worker, is_cut=is_cut)
        if self.rng.random() < self.faults.rate("foreign", 1):
            self.network.listeners[worker.endpoint] = None
        is_needed = worker.plan.role[:2] in ("w0", "p0", "b0", "b1") or worker.store is not None
        if is_needed or self.rng.random() < 0.8:
            self._start(worker.plan, self.rng.randint(100, 2_000), worker)

    def _fill_disk(self) -> None:
        self.faults.count("diskfull")
        self.disk.bytes_max = 0
        self.after(self.rng.randint(100, 3_000), self._free_disk)

    def _free_disk(self) -> None:
        self.disk.bytes_max = None

    def _break_disk(self) -> None:
        self.faults.count("diskerror")
        self.disk.fail_commits(self.rng.randint(1, 12), on_disk=self.rng.random() < 0.5)

    def _kill_child(self) -> None:
        workers = self._workers()
        slots = [(w, slot) for w in workers for slot in w.pool.slots.values() if slot.alive]
        busy = [(w, slot) for w, slot in slots if slot.queue] or slots
        if busy:
            self.faults.count("child")
            worker, slot = self.rng.choice(busy)
            worker.pool.kill(slot)

    def _pause(self) -> None:
        alive = self.alive()
        if alive:
            self.faults.count("pause")
            self.rng.choice(alive).pause(self.rng.randint(100, 6_000))

    def _freeze(self) -> None:
        """SIGSTOP or a hanging host: ZMTP's heartbeats stop as well."""
        alive = self.alive()
        if not alive:
            return
        self.faults.count("freeze")
        process = self.rng.choice(self._workers() or alive)
        duration_ms = self.rng.randint(1_500, 6_000)
        is_sluggish = "sluggish" in self.faults.shapes
        if is_sluggish:
            duration_ms = 4_000 + duration_ms // 3
        process.freeze(duration_ms)
        if duration_ms > ZMTP_TIMEOUT_MS:
            for connection in self.network.connections:
                if process not in (connection.dialler, connection.acceptor):
                    continue
                if is_sluggish:  # its peers dial again late
                    self.after(ZMTP_TIMEOUT_MS, self.network.drop, connection, duration_ms)
                else:
                    self.after(
                        ZMTP_TIMEOUT_MS, self.network.time_out, connection, connection.generation
                    )

    def _silence(self) -> None:
        connection = self._connection()
        if connection is not None:
            self.faults.count("silence")
            until_ms = self.now + self.rng.randint(300, 6_000)
            # Rather from whom was dialled, so mostly a worker: it is the one with a lease.
            self.network.clog(connection, int(self.rng.random() < 0.7), until_ms)

    def _rumour(self) -> None:
        """Discovery tells of anybody, dead or alive, again."""
        if self.processes and self.alive():
            self.faults.count("candidates")
            subject = self.rng.choice(self.processes)
            self._tell(self.rng.choice(self.alive()), candidate_of(subject))

    def _break_sub(self) -> None:
        """A SUB connection drops and comes back, with what was published meanwhile lost."""
        pairs = [(p, s) for p in self.alive() for s in p.subscribers if s.alive]
        if not pairs:
            return
        self.faults.count("pubdrop")
        publisher, subscriber = self.rng.choice(pairs)
        publisher.subscribers.remove(subscriber)
        self.after(self.rng.randint(50, 2_000), subscriber.resubscribe, publisher)

    # --- the record ---------------------------------------------------------------------

    def encode(self, message: Message) -> list[bytes]:
        return codec.encode(message)

    def record(self, process: Process, effect: fx.Effect) -> None:
        """An effect is carried out."""
        self.digest = (self.digest * 31 + _CODES[type(effect)] + self.now) & 0xFFFFFFFF
        if self.trace is not None and not isinstance(effect, fx.Transmit):
            self.trace(f"{self.now:6} {process.name:4} !! {_shown(effect)}")

    def record_frames(self, process: Process, link: LinkId, frames: list[bytes]) -> None:
        """Frames come in."""
        head = frames[0] if frames else link.peer
        self.digest = zlib.crc32(head, self.digest ^ self.now)
        if self.trace is None:
            return
        peer = self.by_routing_id.get(link.peer)
        text = "probe"
        if frames:
            try:
                header, message = codec.decode(frames)
            except RemoteProtocolError as exc:
                text = f"garbage: {exc}"
            else:
                numbers = f"{header.session}/{header.peer_session} #{header.seq} ack {header.ack}"
                text = f"{numbers} {_shown(message)}"
        name = peer.name if peer is not None else link.peer.hex()
        self.trace(f"{self.now:6} {process.name:4} <- {name:4} ({link.side}) {text}")


def candidate_of(process: Process) -> Candidate:
    """What discovery tells of a process."""
    hello = process.hello
    return Candidate(
        hello.node, hello.epoch, MESH, "sim", "", (process.endpoint,), b"host",
        tuple(hello.roles), "local",
    )  # fmt: skip


def _shown(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 300 else text[:297] + "..."
