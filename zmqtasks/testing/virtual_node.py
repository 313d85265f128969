"""A node of a mesh in one process: real machines, no sockets.

It stands for ``zmqtasks.node.runtime.Runtime``: what works with one works with the other,
as far as it is used here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from zmqtasks import keys
from zmqtasks.core import effects as fx
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.intake import Intake
from zmqtasks.core.linkevents import Timers
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.core.requirements import Stock, announced
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.ids import routing_id
from zmqtasks.node.control import Control
from zmqtasks.node.custodian import Custodian
from zmqtasks.testing.wires import Wires
from zmqtasks.version import __version__
from zmqtasks.wire import codec
from zmqtasks.wire.messages import Hello, Message

if TYPE_CHECKING:
    from zmqtasks.node.runtime import Part, Runtime
    from zmqtasks.settings import NodeSettings
    from zmqtasks.testing.virtual_time import VirtualClock

_LOG = logging.getLogger("zmqtasks.mesh")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_DAY_MS = 24 * 3_600_000
#: Nobody falls silent here: who ends is missed at once. So nodes hear of each other seldom,
#: and a year of virtual time passes in seconds.
_TIMERS = Timers(_DAY_MS, 3 * _DAY_MS, 3 * _DAY_MS, 4 * _DAY_MS, 60 * _DAY_MS)
_MESH_NAME = "in-process"


class VirtualNode:
    """One node.

    Args:
        wires: which connect it.
        clock: of all nodes.
        settings: of this process.
        part: what it does; its roles and handlers of effects.
        name: for people.
        node: its id.
    """

    epoch = 1
    fingerprint = ""

    def __init__(
        self, wires: Wires[VirtualNode], clock: VirtualClock, settings: NodeSettings, part: Part,
        name: str, node: bytes,
    ) -> None:  # fmt: skip
        self.wires = wires
        self.clock = clock
        self.settings = settings
        self.part = part
        self.name = name
        self.node = node
        self.rid = routing_id(self.node, self.epoch)
        self.mesh: MeshNode
        #: Functions for its next turn.
        self._soon: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        # What is to be done later is written down somewhere, and nothing is here.
        self.loop = SimpleNamespace(call_soon=self._call_soon, call_later=_ignore_all)
        #: There is nobody to be found beside those who are connected.
        self.finding = SimpleNamespace(
            grace_ms=0, is_awaiting_peers=False, beyond_host=False, static_troubles=dict
        )
        self.transport = SimpleNamespace(push=self._push)
        #: {who wants to have what it publishes: which topics}.
        self._subscribers: dict[VirtualNode, set[bytes]] = {}
        #: {lane: ids of its workers}.
        self._lanes: dict[str, deque[bytes]] = {}
        self.custodian = Custodian(self.as_runtime)
        self.control = Control(self.as_runtime)
        self._performers: dict[type, Callable[[Any], None]] = {
            fx.TasksSettled: _ignore,
            fx.TasksUpdated: _ignore,
            fx.RoomFreed: _ignore,
            fx.ReportGot: _ignore,
            fx.Dial: _ignore,
            fx.Hangup: _ignore,
            fx.Unsubscribe: _ignore,
            fx.QuestionAnswered: _ignore,
            **self.part.performers,
            fx.JournalWrite: self._write,
            fx.Transmit: lambda effect: wires.carry(self, effect),
            fx.CheckGone: self._check_gone,
            fx.Subscribe: self._subscribe,
            fx.Publish: self._publish,
            fx.LaneConnect: self._lane_connect,
            fx.LaneDisconnect: self._lane_disconnect,
            fx.InspectionAsked: self._inspected,
            fx.OrderGiven: self._ordered,
            fx.Note: _note,
        }

    @property
    def as_runtime(self) -> Runtime:
        """For those parts of a node that expect one."""
        return cast("Runtime", self)

    @property
    def now_ms(self) -> int:
        """Its time."""
        return self.clock.now_ms

    def wall_ms(self) -> int:
        """What it takes for the time of day."""
        return self.clock.wall_ms()

    def open(self, prepare: Callable[[], None] | None = None) -> None:
        """Make the machines, and meet all others.

        Args:
            prepare: called before there are links.
        """
        self.mesh = self._make_mesh()
        if prepare is not None:
            prepare()
        others = list(self.wires.nodes.values())
        self.wires.nodes[self.rid] = self
        for other in others:
            self.wires.link(self, other)

    def _make_mesh(self) -> MeshNode:
        part, settings = self.part, self.settings
        where = f"inproc://{self.node.hex()}"
        offer = announced(settings.tags, {}, part.can) if part.slots else {}
        hello = Hello(
            self.node, self.epoch, 0, 0, 0, keys.mesh_hash(_MESH_NAME), codec.VERSION_MIN,
            codec.VERSION_MAX, [], self.name, list(part.roles), b"in-process", 0,
            [where], [where], [where], part.slots,
            list(settings.queues) if part.slots else [], list(part.catalog),
            {"v": __version__, **offer},
        )  # fmt: skip
        dispatcher = Dispatcher(settings.open_tasks_max, settings.open_bytes_max, Custody(True))
        dispatcher.wall_ms = self.clock.wall_ms()
        dispatcher.waiting.clock_look_ms = _TIMERS.lost_ms  # nobody sets this clock
        stock = Stock({}, [], settings.tags, self.node)
        return MeshNode(
            Membership(hello, _MESH_NAME, "", frozenset(), _TIMERS, self.now_ms),
            dispatcher=dispatcher,
            intake=(
                Intake(settings.queues, part.catalog, part.slots, stock) if part.slots else None
            ),
            reader=ResultReader() if part.keeps_results else None,
            inline_bytes_max=settings.result_inline_bytes_max,
        )

    # --- turns --------------------------------------------------------------------------

    def _call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self._soon.append((function, args))
        self.wires.pump()

    def turn(self) -> bool:
        """See ``Wired``."""
        moved = bool(self._soon)
        while self._soon:
            function, args = self._soon.popleft()
            function(*args)
        effects = self.mesh.end_turn(self.now_ms, self.clock.wall_ms())
        for effect in effects:
            self._performers[type(effect)](effect)
        return moved or bool(effects)

    def tick(self, *, at_once: bool = False) -> None:
        """It is later now."""
        if at_once or self.mesh.next_deadline_ms() <= self.now_ms:
            self.mesh.tick(self.now_ms)

    def leave(self, reason: str) -> None:
        """Say goodbye, and be gone."""
        self.mesh.membership.say_goodbye(reason)
        self.wires.pump()
        del self.wires.nodes[self.rid]

    def die(self) -> None:
        """Be gone without a word; the others hear of it as of any process of their host."""
        if self.wires.nodes.pop(self.rid, None) is not None:
            for other in self.wires.nodes.values():
                other.mesh.membership.candidate_gone(self.node, self.epoch, self.now_ms)

    # --- effects ------------------------------------------------------------------------

    def _write(self, effect: fx.JournalWrite) -> None:
        """A disk that is never slow, never full, and that nobody reads again."""
        self.mesh.journaled([effect.batch])

    def _check_gone(self, effect: fx.CheckGone) -> None:
        if effect.link.peer not in self.wires.nodes:
            self.mesh.membership.peer_gone(effect.link, self.now_ms)

    def _node(self, node: bytes) -> VirtualNode | None:
        return self.wires.nodes.get(routing_id(node, self.epoch))

    def _subscribe(self, effect: fx.Subscribe) -> None:
        publisher = self._node(effect.node)
        if publisher is not None:
            publisher._subscribers.setdefault(self, set()).update(effect.topics)
            for topic in effect.topics:
                publisher.mesh.subscription(topic, True)

    def _publish(self, effect: fx.Publish) -> None:
        _, message = codec.decode(codec.encode(effect.message))
        for subscriber, topics in self._subscribers.items():
            is_there = subscriber.rid in self.wires.nodes
            if is_there and any(effect.topic.startswith(topic) for topic in topics):
                subscriber.mesh.published(message, self.now_ms, self.clock.wall_ms())
                self.wires.wake(subscriber)

    def _lane_connect(self, effect: fx.LaneConnect) -> None:
        self._lanes.setdefault(effect.lane, deque()).append(effect.node)

    def _lane_disconnect(self, effect: fx.LaneDisconnect) -> None:
        self._lanes[effect.lane].remove(effect.node)

    def _push(self, lane: str, frames: Sequence[bytes]) -> bool:
        """To the next worker of an at-most-once lane; False if there is none."""
        workers = self._lanes.get(lane, deque())
        for _ in workers:
            workers.rotate(-1)
            worker = self._node(workers[0])
            if worker is not None:
                worker.mesh.pulled(_decoded(frames))
                self.wires.wake(worker)
                return True
        return False

    def _inspected(self, effect: fx.InspectionAsked) -> None:
        message = effect.message
        data = self.control.inspected(message.what, message.ids, message.args)
        self.mesh.report(effect.link, message.request, data)

    def _ordered(self, effect: fx.OrderGiven) -> None:
        message = effect.message
        data = self.control.ordered(message.what, message.ids, message.args)
        self.mesh.report(effect.link, message.request, data)

    def describe(self) -> dict[str, Any]:
        """What it says of itself."""
        return {"node": self.node.hex(), "name": self.name, "roles": list(self.part.roles)}


def _ignore_all(*args: object) -> None:
    """Nobody waits for it."""


def _ignore(effect: object) -> None:
    """Nobody here has any business with it."""


def _decoded(frames: Sequence[bytes]) -> Message:
    return codec.decode(list(frames))[1]


def _note(effect: fx.Note) -> None:
    _LOG.log(_LEVELS[effect.level], "%s", effect.text, extra={"event": effect.event})
