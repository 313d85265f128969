"""Parts for tests of the machines: greetings, tasks, and two ends wired together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from zmqtasks.core.effects import Effect, Send, Transmit
from zmqtasks.core.lanes import is_guarded
from zmqtasks.core.linkevents import MemberEvent, Timers
from zmqtasks.core.links import Candidate, LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.ids import routing_id
from zmqtasks.wire.messages import CatalogEntry, Hello, Kind, Message, Outcome, TaskRecord

TIMERS = Timers(1_000, 3_000, 3_000, 4_000, 60_000)
MESH = b"the-mesh"
ADD = Kind("shop", "tasks.add", "d1", "default")
MUL = Kind("shop", "tasks.mul", "d2", "default")
OWNER = b"producer"
WORKER = b"worker-1"

E = TypeVar("E")
M = TypeVar("M", bound=Message)


def entry(kind: Kind) -> CatalogEntry:
    ext = {"idem": 0} if is_guarded(kind, None) else {}
    return CatalogEntry(kind.app, kind.name, kind.digest, "(x, y)", ext)


def hello(
    node: bytes, *roles: str, epoch: int = 1, slots: int = 0, kinds: Sequence[Kind] = (),
    endpoints: Sequence[str] = (), mesh: bytes = MESH,
) -> Hello:  # fmt: skip
    queues = sorted({kind.queue for kind in kinds})
    name = node.decode()
    return Hello(
        node, epoch, 0, 0, 0, mesh, 1, 1, [], name, list(roles), b"host", 1, list(endpoints), [],
        [], slots, queues, [entry(kind) for kind in kinds],
    )  # fmt: skip


def worker_hello(node: bytes = WORKER, slots: int = 2, kinds: Sequence[Kind] = (ADD,)) -> Hello:
    return hello(node, "worker", slots=slots, kinds=kinds)


def link_to(node: bytes, side: Any = "out", epoch: int = 1) -> LinkId:
    return LinkId(side, routing_id(node, epoch))


def task_id(number: int, owner: bytes = OWNER) -> bytes:
    return owner + number.to_bytes(8, "big")


def record(number: int, attempt: int = 1, body: bytes = b"args", kind: int = 0) -> TaskRecord:
    return TaskRecord(kind, task_id(number), attempt, body)


def outcome(
    number: int, attempt: int = 1, position: int = 1, body: bytes | None = b"value",
    size: int | None = None,
) -> Outcome:  # fmt: skip
    size = len(body or b"") if size is None else size
    return Outcome(task_id(number), attempt, 0, position, -1, 0, 1_000, size, body)


def candidate(node: bytes, /, *roles: str, epoch: int = 1, **changes: Any) -> Candidate:
    given = Candidate(
        node, epoch, MESH, "mesh", "", (f"tcp://10.0.0.1:{node.decode()}",), b"host", roles, "local"
    )
    return given._replace(**changes)


def of(effects: Iterable[Effect | MemberEvent], kind: type[E]) -> list[E]:
    """Those of one type."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: Iterable[Effect], kind: type[M]) -> list[M]:
    """The messages of one type that are to be sent."""
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


class Wire:
    """Two memberships and a connection that carries, loses or repeats frames at will."""

    def __init__(self, one: Hello, other: Hello, now_ms: int = 0) -> None:
        self.now_ms = now_ms
        self.one = Membership(one, "mesh", "", frozenset(("worker",)), TIMERS, now_ms)
        self.other = Membership(other, "mesh", "", frozenset(), TIMERS, now_ms)
        #: How each names its link to the other; `one` has dialled.
        self.to_other = link_to(other.node, "out", other.epoch)
        self.to_one = link_to(one.node, "in", one.epoch)
        self.up = True
        #: {end: what it was sent and has not got: its link, and the frames}.
        self.held: dict[str, list[tuple[LinkId, list[bytes]]]] = {"one": [], "other": []}
        self.effects: list[Effect] = []
        self.events: dict[str, list[MemberEvent]] = {"one": [], "other": []}

    def probe(self) -> None:
        """The connection is there (again)."""
        self.up = True
        self.one.frames_received(self.to_other, [], "", self.now_ms)
        self.other.frames_received(self.to_one, [], "", self.now_ms)
        self.pump()

    def dial_back(self) -> LinkId:
        """The other one has dialled too; returns how `one` names that link."""
        back = LinkId("in", self.to_other.peer)
        self.other.frames_received(LinkId("out", self.to_one.peer), [], "", self.now_ms)
        self.one.frames_received(back, [], "", self.now_ms)
        self.pump()
        return back

    def cut(self) -> None:
        """The connection drops; what is under way is lost."""
        self.up = False
        self.held = {"one": [], "other": []}

    def collect(self) -> None:
        """Take what both want to be done; frames wait for ``deliver``."""
        while any((self.one.effects, self.one.events, self.other.effects, self.other.events)):
            self._collect()

    def _collect(self) -> None:
        for name, end, peer in (("one", self.one, "other"), ("other", self.other, "one")):
            effects, end.effects = end.effects, []
            events, end.events = end.events, []
            self.events[name] += events
            for effect in effects:
                if not isinstance(effect, Transmit):
                    self.effects.append(effect)
                elif self.up:
                    own = (self.to_one if name == "one" else self.to_other).peer
                    link = LinkId("in" if effect.link.side == "out" else "out", own)
                    self.held[peer].append((link, list(effect.frames)))
                else:
                    end.send_failed(effect.link, self.now_ms)

    def deliver(self, end: str) -> None:
        """Frames arrive at one end."""
        held, self.held[end] = self.held[end], []
        machine = self.one if end == "one" else self.other
        for link, frames in held:
            machine.frames_received(link, frames, "", self.now_ms)

    def pump(self) -> None:
        """Carry everything until nothing moves."""
        for _ in range(20):
            self.collect()
            if not any(self.held.values()):
                return
            self.deliver("one")
            self.deliver("other")
        raise AssertionError("it never ends")

    def pass_time(self, ms: int, step_ms: int = 250) -> None:
        """Both tick for a while, connected or not."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms += step_ms
            self.one.tick(self.now_ms)
            self.other.tick(self.now_ms)
            self.pump()

    def take_events(self, end: str, kind: type[E]) -> list[E]:
        """The events of one type since the last call of this, all others dropped."""
        events, self.events[end] = self.events[end], []
        return of(events, kind)
