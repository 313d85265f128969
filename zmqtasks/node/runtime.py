"""The machines of one node on real sockets: puts events in, carries effects out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zmqtasks import keys, paths
from zmqtasks.addresses import plan_listen
from zmqtasks.amounts import parse_resource
from zmqtasks.core import effects as fx
from zmqtasks.core.custody import Custody
from zmqtasks.core.diagnosis import is_internal
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.intake import Intake
from zmqtasks.core.linkevents import Timers
from zmqtasks.core.links import DRAINING, Candidate, LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.core.rates import RATES_KEY
from zmqtasks.core.requirements import Stock, announced
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.succession import JOURNAL_KEY
from zmqtasks.errors import RemoteProtocolError
from zmqtasks.ids import new_node_id
from zmqtasks.limits import NOTED_COUNT_MAX
from zmqtasks.net.dialer import Dialer
from zmqtasks.net.endpoints import companion, reachable
from zmqtasks.net.hostid import host_id
from zmqtasks.net.transport import Transport, TransportConfig
from zmqtasks.node.clock import now_ms, wall_ms
from zmqtasks.node.control import Control
from zmqtasks.node.custodian import Custodian
from zmqtasks.node.finding import Finding
from zmqtasks.node.loop import Loop
from zmqtasks.node.slots import node_name
from zmqtasks.node.spilling import make_spiller
from zmqtasks.node.upkeep import Upkeep
from zmqtasks.settings import NodeSettings
from zmqtasks.version import __version__
from zmqtasks.wire import codec
from zmqtasks.wire.messages import CatalogEntry, Hello

_LOG = logging.getLogger("zmqtasks.node")
#: How long a goodbye waits for peers that do not answer.
_LAST_WORDS_MS = 250
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass
class Part:
    """What this process does in the mesh.

    Attributes:
        roles: as told to peers.
        dial_roles: peers with one of these are dialled when found.
        catalog, slots, can: of a worker; the last is what its pool can do.
        owns_tasks, keeps_results: has a Dispatcher; is a store.
        has_journal, is_journal_lasting: what it owns can be written down; also for when the
            power fails, so that peers may hand over tasks. Both are set before ``open``.
        routes: for a queue, who gets the tasks of it that this process owns; None: as set.
    """

    roles: tuple[str, ...]
    dial_roles: frozenset[str]
    catalog: Sequence[CatalogEntry] = ()
    slots: int = 0
    can: Collection[str] | None = None
    owns_tasks: bool = False
    keeps_results: bool = False
    has_journal: bool = False
    is_journal_lasting: bool = False
    routes: Callable[[str], str] | None = None
    #: Handlers of effects that this runtime itself has no business with.
    performers: dict[type, Callable[[Any], None]] = field(default_factory=dict)
    #: What `zmqtasks status` says of the store, beside how much it stored.
    describe_store: Callable[[], dict[str, Any]] = dict
    #: What it says of the journal, None for nothing.
    describe_journal: Callable[[], dict[str, Any] | None] = lambda: None
    #: Told that a process of this mesh has ended on this host.
    process_ended: Callable[[], None] = lambda: None


class Runtime:
    """One node: sockets, machines and the turns between them.

    Everything but ``loop.call_soon`` belongs to the thread that calls ``loop.run``.

    Args:
        settings: of this process.
        part: what it does.
        mesh_key: the mesh key, None without one.

    Raises:
        ConfigError, SecurityError: from :meth:`open`, see ``net.transport``.
    """

    def __init__(self, settings: NodeSettings, part: Part, mesh_key: str | None) -> None:
        self.settings = settings
        self.part = part
        self.loop = Loop()
        self.node = new_node_id()
        self.epoch = 1
        self.host_id = host_id()
        self.name = node_name(settings)
        self.mesh_key = mesh_key
        self.fingerprint = keys.fingerprint(mesh_key) if mesh_key else ""
        #: When the present turn began, in the machines' time.
        self.now_ms = now_ms()
        self._deadline_ms = 0
        #: When the loop ends even though not everybody has heard our goodbye.
        self._leave_by_ms: int | None = None
        self.mesh: MeshNode
        self.upkeep: Upkeep
        self._noted: set[str] = set()
        #: {node: endpoint that R_out is connected to} and the other way round.
        self._dialled: dict[bytes, str] = {}
        self._node_at: dict[str, bytes] = {}
        #: {publisher node: endpoint that SUB is connected to}.
        self._subscribed: dict[bytes, str] = {}
        #: {(lane, worker node): endpoint that its PUSH is connected to}.
        self._pulls: dict[tuple[str, bytes], str] = {}
        self.transport = Transport(self._transport_config(), self)
        self.dialer = Dialer(self.loop, self.host_id, now_ms, self.transport.dial_refusal)
        self.finding = Finding(self)
        #: Answers what people ask about tasks.
        self.custodian = Custodian(self)
        #: Answers what people ask, and does what they order.
        self.control = Control(self)
        self._spiller = make_spiller(self)
        self._performers: dict[type, Callable[[Any], None]] = {
            fx.Transmit: self._transmit,
            fx.Dial: self._dial,
            fx.Hangup: self._hang_up,
            fx.CheckGone: self._check_gone,
            fx.Subscribe: self._subscribe,
            fx.Unsubscribe: self._unsubscribe,
            fx.Publish: self._publish,
            fx.LaneConnect: self._lane_connect,
            fx.LaneDisconnect: self._lane_disconnect,
            fx.InspectionAsked: self._inspected,
            fx.OrderGiven: self._ordered,
            fx.Note: self._note,
            fx.TasksUpdated: lambda effect: None,  # nobody follows tasks here
            **self._spiller.performers,
            **part.performers,
        }

    #: The time of day in milliseconds since 1970, for schedules.
    wall_ms = staticmethod(wall_ms)

    # --- life ---------------------------------------------------------------------------

    def take_identity(self, node: bytes, epoch: int) -> None:
        """Be this life of this node; before ``open``."""
        self.node, self.epoch = node, epoch
        self.transport.config = replace(self.transport.config, node=node, epoch=epoch)

    def open(self) -> None:
        """Bind the sockets, make the machines, start to look for peers."""
        self.endpoints = self.transport.open()
        self.mesh = self._make_mesh()
        for sock, drain in self.transport.sockets():
            self.loop.register(sock, drain)
        self.finding.start()
        folder = self.finding.local.folder
        self.upkeep = Upkeep(folder, self.finding.local, self.transport, self._note, self.now_ms)

    def _transport_config(self) -> TransportConfig:
        settings = self.settings
        plan = plan_listen(settings.listen, settings.port, has_key=self.mesh_key is not None)
        return TransportConfig(
            node=self.node,
            epoch=self.epoch,
            mesh_key=self.mesh_key,
            ipc_dir=paths.runtime_dir(settings),
            tcp_listen=() if settings.dial else plan.tcp,
            insecure=settings.insecure,
        )

    def _make_mesh(self) -> MeshNode:
        settings, part = self.settings, self.part
        resources = [parse_resource(entry) for entry in settings.resources]
        has = {resource.name: resource.amount for resource in resources}
        gpus = [gpu for resource in resources for gpu in resource.ids]
        offer = announced(settings.tags, has, part.can) if part.slots else {}
        hello = Hello(
            self.node, self.epoch, 0, 0, 0, keys.mesh_hash(settings.mesh), codec.VERSION_MIN,
            codec.VERSION_MAX, [], self.name, list(part.roles), self.host_id, os.getpid(),
            list(self.endpoints.router), list(self.endpoints.pub), list(self.endpoints.pull),
            part.slots, list(settings.queues) if part.slots else [], list(part.catalog),
            {"v": __version__, **({JOURNAL_KEY: 1} if part.is_journal_lasting else {}), **offer},
        )  # fmt: skip
        timers = Timers(
            settings.heartbeat_ms, settings.lease_ms, settings.stalled_ms, settings.lost_ms,
            settings.stalled_lost_ms,
        )  # fmt: skip
        membership = Membership(
            hello, settings.mesh, self.fingerprint, part.dial_roles, timers, now_ms()
        )
        dispatcher = (
            Dispatcher(
                settings.open_tasks_max, settings.open_bytes_max, Custody(part.has_journal),
                part.routes or settings.route_of,
            )
            if part.owns_tasks
            else None
        )  # fmt: skip
        if dispatcher is not None:
            dispatcher.wall_ms = wall_ms()  # what it resumes happens before the first turn
        stock = Stock(has, gpus, settings.tags, self.node)
        intake = Intake(settings.queues, part.catalog, part.slots, stock) if part.slots else None
        if intake is not None:
            hello.ext[RATES_KEY] = intake.gates.rates.orders  # the very dict, which may grow
        reader = ResultReader() if part.keeps_results else None
        return MeshNode(
            membership,
            dispatcher=dispatcher,
            intake=intake,
            reader=reader,
            inline_bytes_max=settings.result_inline_bytes_max,
            grace_ms=self.finding.grace_ms,
            log=ResultLog(
                self.name,
                settings.result_log_bytes_max,
                has_disk=settings.result_spill_bytes_max > 0,
            ),
        )

    def awake(self) -> None:
        """A wait is over: what is drained now happened now, not before the wait."""
        self.now_ms = now_ms()

    def turn(self) -> int:
        """Let the machines work; returns how long the loop may wait, in milliseconds."""
        mesh, now = self.mesh, self.now_ms
        if now >= self._deadline_ms:
            mesh.tick(now)
        for _ in range(16):
            effects = mesh.end_turn(now, wall_ms())
            if not effects:
                break
            performers = self._performers
            for effect in effects:
                performers[type(effect)](effect)
        deadline_ms = mesh.next_deadline_ms()
        advance = (self.dialer.advance, self.finding.advance, self.upkeep.advance)
        for at_ms in (part(now) for part in advance):
            if at_ms is not None:
                deadline_ms = min(deadline_ms, at_ms)
        if self._leave_by_ms is not None:
            deadline_ms = min(deadline_ms, self._leave_by_ms)
            if now >= self._leave_by_ms or mesh.membership.is_heard:
                self.loop.stop()
        self._deadline_ms = deadline_ms
        return max(0, deadline_ms - now_ms())

    def leave(self, reason: str) -> None:
        """Say goodbye to all peers and end the loop once they have heard it."""
        self.mesh.membership.say_goodbye(reason)
        self._leave_by_ms = now_ms() + _LAST_WORDS_MS

    def close(self, linger_ms: int = 500) -> None:
        """Release sockets, files and threads."""
        self.dialer.close()
        self.finding.close_sockets()
        # The goodbyes leave first: a lock that is free looks like a crash to the others.
        self.transport.close(linger_ms)
        self.finding.stop()
        self._spiller.close()

    # --- events from the sockets --------------------------------------------------------

    def on_frames(self, link: LinkId, frames: list[bytes], address: str) -> None:
        """See ``TransportHandler``."""
        self.mesh.membership.frames_received(link, frames, address, self.now_ms)

    def on_published(self, topic: bytes, frames: list[bytes]) -> None:
        """See ``TransportHandler``."""
        try:
            _, message = codec.decode(frames)
        except RemoteProtocolError as exc:
            self.mesh.membership.garbage_count += 1
            self._note(fx.Note("warning", "pub.garbage", f"dropped a publication: {exc}", "pub"))
            return
        self.mesh.published(message, self.now_ms, wall_ms())

    def on_subscription(self, topic: bytes, subscribed: bool) -> None:
        """See ``TransportHandler``."""
        self.mesh.subscription(topic, subscribed)

    def on_pulled(self, frames: list[bytes], address: Callable[[], str]) -> None:
        """See ``TransportHandler``."""
        try:
            _, message = codec.decode(frames)
        except RemoteProtocolError as exc:
            self.mesh.membership.garbage_count += 1
            where = address()
            text = f"dropped what {where or 'a peer'} sent to the at-most-once lane: {exc}"
            self._note(fx.Note("warning", "lane.garbage", text, f"lane {where}"))
            return
        self.mesh.pulled(message)

    def on_dropped(self, address: str, reason: str) -> None:
        """See ``TransportHandler``."""
        text = f"dropped a message of {address or 'a peer'}: {reason}"
        self._note(fx.Note("warning", "peer.dropped", text, text))

    def on_connection(self, endpoint: str, up: bool) -> None:
        """See ``TransportHandler``."""
        if not up:
            self.mesh.membership.connection_lost(endpoint, self.now_ms)

    def on_refused(self, where: str, reason: str) -> None:
        """See ``TransportHandler``."""
        # A short process may end while it is dialled: its socket's file goes with it.
        if not where.startswith("ipc://") or Path(where.removeprefix("ipc://")).exists():
            text = f"no connection with {where}: {reason}"
            self._note(fx.Note("warning", "connection.refused", text, f"refused {where} {reason}"))
        node = self._node_at.pop(where, None)
        if node is not None:
            self._dialled.pop(node, None)
            self.mesh.membership.dialled(node, "", self.now_ms)

    # --- events from discovery ----------------------------------------------------------

    def candidate_found(self, candidate: Candidate) -> None:
        """A peer was heard of."""
        self.mesh.membership.candidate_found(candidate, self.now_ms)

    def candidate_gone(self, node: bytes, epoch: int) -> None:
        """The same-host directory says that a process has ended."""
        self.mesh.membership.candidate_gone(node, epoch, self.now_ms)
        self.part.process_ended()

    def note_trouble(self, endpoint: str, trouble: str) -> None:
        """A static peer did not say who it is."""
        text = f"no peer at {endpoint} (--peer): {trouble}; trying on"
        self._note(fx.Note("warning", "peer.unanswered", text, text))

    def note_other_mesh(self, endpoint: str) -> None:
        """A static peer answered that it belongs to another mesh."""
        text = (
            f"{endpoint} belongs to another mesh than '{self.settings.mesh}': give both the "
            "same --mesh, or take it off --peer"
        )
        self._note(fx.Note("warning", "peer.refused", text, text))

    # --- effects ------------------------------------------------------------------------

    def _transmit(self, effect: fx.Transmit) -> None:
        if self.transport.send(effect.link, effect.frames) == "unreachable":
            self.mesh.membership.send_failed(effect.link, self.now_ms)

    def _dial(self, effect: fx.Dial) -> None:
        candidate = effect.candidate
        node = candidate.node
        assert node is not None

        def won(endpoint: str) -> None:
            if endpoint:
                self._connect(node, endpoint)
                self.finding.linked(candidate, endpoint)
            self.mesh.membership.dialled(node, endpoint, self.now_ms)

        self.dialer.dial(candidate.endpoints, candidate.host_id, won)

    def _connect(self, node: bytes, endpoint: str) -> None:
        """One connection an address: a newer process takes over its predecessor's."""
        previous = self._node_at.get(endpoint)
        if previous is not None and previous != node:
            self._dialled.pop(previous, None)
            self.transport.disconnect(endpoint)
        self._dialled[node] = endpoint
        self._node_at[endpoint] = node
        self.transport.connect(endpoint)

    def _hang_up(self, effect: fx.Hangup) -> None:
        endpoint = self._dialled.pop(effect.node, None)
        if endpoint is not None and self._node_at.get(endpoint) == effect.node:
            del self._node_at[endpoint]
            self.transport.disconnect(endpoint)

    def _check_gone(self, effect: fx.CheckGone) -> None:
        link = self.mesh.membership.links.get(effect.link)
        if link is None or link.peer is None:
            return
        node, epoch = link.peer.node, link.peer.epoch
        if self.finding.has_ended(node, epoch):
            self.mesh.membership.peer_gone(effect.link, self.now_ms)
            return

        def probed(verdict: str) -> None:
            # A socket's file may have vanished while its process lives.
            if verdict == "refused" and not self.finding.is_running(node, epoch):
                self.mesh.membership.peer_gone(effect.link, self.now_ms)

        if link.endpoint:
            self.dialer.probe(link.endpoint, probed)

    def _subscribe(self, effect: fx.Subscribe) -> None:
        if not effect.endpoints or effect.node in self._subscribed:
            return
        dialled = self._dialled.get(effect.node, "")
        endpoint = companion(dialled, effect.endpoints) if dialled else None
        if endpoint is None:
            host = self._host_of(effect.node)
            endpoints = reachable(effect.endpoints, host, self.host_id)
            self.dialer.dial(endpoints, host, lambda won: self._subscribe_at(effect, won))
            return
        self._subscribe_at(effect, endpoint)

    def _host_of(self, node: bytes) -> bytes:
        links = self.mesh.membership.links.values()
        peers = (link.peer for link in links if link.peer is not None)
        return next((peer.host_id for peer in peers if peer.node == node), b"")

    def _subscribe_at(self, effect: fx.Subscribe, endpoint: str) -> None:
        if endpoint and self.transport.subscribe(endpoint, effect.topics):
            self._subscribed[effect.node] = endpoint

    def _unsubscribe(self, effect: fx.Unsubscribe) -> None:
        endpoint = self._subscribed.pop(effect.node, None)
        if endpoint is not None:
            self.transport.unsubscribe(endpoint)

    def _lane_connect(self, effect: fx.LaneConnect) -> None:
        dialled = self._dialled.get(effect.node, "")
        endpoint = companion(dialled, effect.endpoints) if dialled else None
        if endpoint and self.transport.push_connect(effect.lane, endpoint):
            self._pulls[effect.lane, effect.node] = endpoint

    def _lane_disconnect(self, effect: fx.LaneDisconnect) -> None:
        endpoint = self._pulls.pop((effect.lane, effect.node), None)
        if endpoint is not None:
            self.transport.push_disconnect(effect.lane, endpoint)

    def _publish(self, effect: fx.Publish) -> None:
        self.transport.publish(effect.topic, codec.encode(effect.message))

    def _note(self, effect: fx.Note) -> None:
        if effect.once:
            if effect.once in self._noted:
                return
            if len(self._noted) >= NOTED_COUNT_MAX:
                self._noted.clear()
            self._noted.add(effect.once)
        logging.getLogger(_logger_of(effect.event)).log(
            _LEVELS[effect.level], "%s", effect.text, extra={"event": effect.event}
        )

    # --- describing ---------------------------------------------------------------------

    def _inspected(self, effect: fx.InspectionAsked) -> None:
        message = effect.message
        data = self.control.inspected(message.what, message.ids, message.args)
        self.mesh.report(effect.link, message.request, data)

    def _ordered(self, effect: fx.OrderGiven) -> None:
        message = effect.message
        data = self.control.ordered(message.what, message.ids, message.args)
        self.mesh.report(effect.link, message.request, data)

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`."""
        mesh, hello = self.mesh, self.mesh.hello
        membership, counters = mesh.membership, self.transport.counters
        data: dict[str, Any] = {
            "node": hello.node.hex(),
            "name": hello.name,
            "version": __version__,
            "roles": list(hello.roles),
            "pid": hello.pid,
            "draining": DRAINING in hello.ext,
            "endpoints": list(hello.endpoints),
            "pub_endpoints": list(hello.pub_endpoints),
            "pull_endpoints": list(hello.pull_endpoints),
            "queues": list(hello.queues),
            "tasks": [
                f"{entry.name}{entry.signature}"
                for entry in hello.catalog
                if not is_internal(entry.name)
            ],
            "apps": sorted({entry.app for entry in hello.catalog}),
            "garbage": {
                "undecodable": membership.garbage_count,
                "oversized": counters.oversized_count,
                "stray": counters.stray_count,
                "unauthenticated": counters.unauthenticated_count,
                "refused": counters.refused_count,
            },
            "peers": [
                {
                    "name": link.peer.name,
                    "node": link.peer.node.hex(),
                    "roles": list(link.peer.roles),
                    "state": link.state.value,
                    "found_by": link.source,
                    "address": link.endpoint or "dialled in",
                }
                for link in membership.links.values()
                if link.peer is not None and link.is_open
            ],
            "results": mesh.log.describe(),
        }
        if mesh.intake is not None:
            data["worker"] = mesh.intake.describe()
        if mesh.dispatcher is not None:
            data["producer"] = producer = mesh.dispatcher.describe()
            if mesh.lane is not None:
                producer["open"] += mesh.lane.open_count
                producer["waiting"] += mesh.lane.describe()
        if mesh.ownership is not None:
            data["handoff"] = mesh.ownership.describe()
        journal = self.part.describe_journal()
        if journal is not None:
            data["journal"] = journal
        if mesh.reader is not None:
            data["store"] = {"stored": mesh.reader.stored_count, **self.part.describe_store()}
        return data


def _logger_of(event: str) -> str:
    """Logger of an event: what the peers do is ``zmqtasks.mesh``."""
    return "zmqtasks.tasks" if event.startswith(("task.", "child.")) else "zmqtasks.mesh"
