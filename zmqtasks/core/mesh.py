"""One node of the mesh: its machines, wired together.

producer = Dispatcher; worker = Intake; store = ResultReader; every node has Membership,
a ResultLog and can ask and answer. The loop (or the simulator) puts events in, calls
``end_turn`` and carries out the effects that it returns. Work is done at the end of a
turn, so whatever came in during the turn makes one batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from zmqtasks.core.answers import Answers
from zmqtasks.core.beat import Beat
from zmqtasks.core.calls import Call
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import (
    Effect,
    InspectionAsked,
    Note,
    OrderGiven,
    ReportGot,
    Send,
    TasksSettled,
)
from zmqtasks.core.fastlane import FastLane
from zmqtasks.core.following import Following
from zmqtasks.core.inquiry import Inquiry
from zmqtasks.core.intake import Intake
from zmqtasks.core.linkevents import (
    Delivered,
    LeaseBack,
    LinkDown,
    LinkPaused,
    LinkUp,
    MemberEvent,
    PeerChanged,
)
from zmqtasks.core.links import DRAINING, SELF, LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.meshleaving import LeavingNode
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.core.ownership import Ownership
from zmqtasks.core.publishing import RESULTS_TOPIC, Publisher
from zmqtasks.core.reach import Reach
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.succession import Succession, has_journal
from zmqtasks.limits import (
    OUTBOX_ADOPTED_MS,
    OWNER_GONE_MS,
    RESULT_INLINE_BYTES_MAX,
)
from zmqtasks.wire.messages import (
    Forget,
    Heartbeat,
    Heir,
    Hello,
    Inspect,
    Message,
    Order,
    PubHead,
    PubResults,
    Query,
    Report,
    Results,
    StateRecord,
    States,
    Tasks,
    Trimmed,
)

#: Nodes with these roles run tasks, or take them over.
_RUN_ROLES = frozenset(("worker", "broker"))
#: Whoever may take tasks, or be the heir of one that gave some.
_TAKE_ROLES = frozenset(("worker", "broker", "store"))
_STORE_ROLES = frozenset(("store",))
_WORKER_ROLES = frozenset(("worker",))


class Machine(Protocol):
    """Anything that wants things done."""

    effects: list[Effect]


class MeshNode(LeavingNode):
    """The machines of one node.

    Args:
        membership: always there.
        dispatcher, intake, reader: there if the node has the role.
        inline_bytes_max: results up to this size travel inside DONE.
        grace_ms: see :class:`Inquiry`.
        log: of results, empty; None: one that never goes to the disk.
    """

    def __init__(
        self, membership: Membership, *, dispatcher: Dispatcher | None = None,
        intake: Intake | None = None, reader: ResultReader | None = None,
        inline_bytes_max: int = RESULT_INLINE_BYTES_MAX, grace_ms: int = 0,
        log: ResultLog | None = None,
    ) -> None:  # fmt: skip
        self.membership = membership
        self.dispatcher = dispatcher
        self.custody = dispatcher.custody if dispatcher is not None else Custody(False)
        self.intake = intake
        if intake is not None:
            intake.look_at_links(membership.unacked_bytes)
        self.reader = reader
        self.hello = membership.hello
        self.reach = Reach(membership)
        self.publisher = Publisher(
            self.hello, self.reach.links, intake, reader, inline_bytes_max,
            log if log is not None else ResultLog(self.hello.name), membership.unacked_bytes,
        )  # fmt: skip
        self.log = self.publisher.log
        self.succession = Succession(self.hello.node, self.reach.links, self.publisher, intake)
        self.inquiry = Inquiry(grace_ms)
        self.lane = (
            FastLane(self.hello.node, RESULTS_TOPIC + self.hello.node)
            if dispatcher is not None
            else None
        )
        self.answers = Answers(
            dispatcher, intake, self.log, has_store=reader is not None, lane=self.lane,
            unacked_bytes=membership.unacked_bytes,
        )  # fmt: skip
        self.ownership = (
            Ownership(self.hello, dispatcher, self.answers, self.publisher, intake, grace_ms)
            if dispatcher is not None
            else None
        )
        self.following = Following(dispatcher, self.ask, self.inquiry.drop)
        if self.ownership is not None:
            self.ownership.given.is_heir_away = lambda: self.reach.is_heir_away(self._now_ms)
        self._local: deque[Message] = deque()
        #: Time of the present turn.
        self._now_ms = 0
        self._effects: list[Effect] = []
        if reader is not None:
            reader.link_up(self.hello.node, self.hello.epoch, SELF)
        machines = (
            self.succession, intake, self.publisher, reader, self.lane, self.inquiry,
            self.answers, *(self.ownership.machines if self.ownership is not None else ()),
        )  # fmt: skip
        #: Whose effects are collected at the end of a turn.
        self._machines: list[Machine] = [machine for machine in machines if machine is not None]
        #: See ``add_beat``.
        self.beat: Beat | None = None

    # --- what others call -----------------------------------------------------------------

    def add_beat(self, beat: Beat) -> None:
        """Start ticks here, too; before there are links."""
        self.beat = beat
        self._machines.append(beat)

    def submit(self, calls: Iterable[Call], now_ms: int) -> None:
        """Own these tasks."""
        assert self.dispatcher is not None
        self.dispatcher.submit(calls, now_ms)

    def submit_durable(self, calls: Iterable[Call], token: int, now_ms: int) -> None:
        """Own these tasks when they are on the disk; see ``OwnedTasks.submit_durable``."""
        assert self.dispatcher is not None
        self.dispatcher.submit_durable(calls, token, now_ms)

    def resume(
        self, records: Sequence[OwnedRecord], now_ms: int, heir_of: Sequence[bytes] = ()
    ) -> None:
        """Go on with what this node's journal holds.

        To be called before there are links: whoever reports an outcome of a task that is not
        known here is told so, and reports it no more.

        Args:
            records: all that is in the journal.
            now_ms: the time.
            heir_of: the ended nodes whose journals were merged into it.
        """
        assert self.ownership is not None
        self.ownership.resume(records, heir_of, now_ms)
        self.succession.inherit(heir_of)

    def adopt(
        self, former: bytes, records: Sequence[OwnedRecord], heir_of: Sequence[bytes], now_ms: int
    ) -> None:
        """What the journal of an ended node held is in ours now, all of it.

        Args:
            former: that node.
            records: what it held.
            heir_of: that node, and those whose heir it was.
            now_ms: the time.
        """
        assert self.ownership is not None
        self.ownership.adopt(former, records, heir_of, now_ms)
        self.succession.inherit(heir_of)

    def journaled(self, batches: Sequence[int]) -> None:
        """These ``JournalWrite`` effects have been carried out."""
        self.custody.committed(batches)

    def journal_refused(
        self, batches: Sequence[int], text: str, *, is_certain: bool = True
    ) -> None:
        """The new tasks of these ``JournalWrite`` effects are not in the journal; see
        ``Custody.refused``."""
        assert self.ownership is not None
        self.ownership.custody.refused(batches, text, is_certain=is_certain)

    def ask(self, ids: Sequence[bytes], watch: bool, now_ms: int, *, dials: bool = True) -> int:
        """Ask everybody about tasks, with ``dials`` also those who are not linked yet; returns
        the token of the answers."""
        known = [self.answers.local(task_id) for task_id in ids]
        if dials:
            self.membership.want_all(now_ms)
        links = [link for node, link in self.reach.links.items() if node != self.hello.node]
        if self.reader is not None:
            links.append(SELF)  # its own store, which takes its time
        return self.inquiry.ask(ids, known, links, watch, now_ms)

    def ask_all(
        self, message: Inspect | Order, nodes: Collection[bytes] | None = None
    ) -> list[LinkId]:
        """Send this to every linked peer, or to these, who answer; returns who was asked."""
        links = [link for node, link in self.reach.links.items() if nodes is None or node in nodes]
        for link in links:
            self.membership.send(link, message)
        return links

    def report(self, link: LinkId, request: int, data: dict[str, Any]) -> None:
        """Answer ``InspectionAsked``."""
        self.membership.send(link, Report(request, data))

    def forget(self, ids: Sequence[bytes]) -> None:
        """Drop outcomes here and at every linked peer."""
        self._forget(ids)
        for link in self.reach.links.values():
            self.membership.send(link, Forget(list(ids)))

    def subscription(self, topic: bytes, subscribed: bool) -> None:
        """Somebody subscribes to our PUB (or the last one stopped)."""
        self.publisher.subscription(topic, subscribed)

    def published(self, message: Message, now_ms: int, wall_ms: int) -> None:
        """A message came over SUB."""
        lane = self.lane
        if lane is not None and lane.unanswered and isinstance(message, PubResults):
            arrived = lane.published(message.outcomes)
            if arrived:
                self._effects.append(TasksSettled(arrived))
        if self.reader is None:
            return
        if isinstance(message, PubResults):
            self.reader.published(message, now_ms, wall_ms)
        elif isinstance(message, PubHead):
            self.reader.head_announced(message.node, message.epoch, message.position, now_ms)

    def rows_stored(self, batch: int, count: int, settled: Sequence[bytes]) -> None:
        """The store has committed a batch; ``settled`` are ids that became final."""
        assert self.reader is not None
        self.reader.rows_stored(batch, count)
        self.answers.stored(settled)

    def drain(self) -> None:
        """Start nothing new here, and own nothing new: what waits goes back to its owners,
        this node included. Who comes to know this node from here on is told so."""
        self.hello.ext[DRAINING] = 1
        if self.intake is not None:
            self.intake.drain()
        if self.ownership is not None:
            self.ownership.drain()
        if self.beat is not None:
            self.beat.drain()

    def change_worker(
        self, now_ms: int, *, queues: Sequence[str] | None = None, slots: int | None = None
    ) -> None:
        """Serve these queues from now on, have so many slots; all peers are told.

        Args:
            now_ms: the time.
            queues, slots: None leaves them. That slots come and go the pool says itself.
        """
        assert self.intake is not None
        if queues is not None:
            self.hello.queues = list(queues)
            self.intake.serve(queues)
        if slots is not None:
            self.hello.slots = self.intake.slots_max = slots
        self.membership.announce(now_ms)
        self._peer_changed(SELF, self.hello)

    def _peer_changed(self, link: LinkId, peer: Hello) -> None:
        if self.dispatcher is not None:
            self.dispatcher.dealer.peer_changed(link, peer)
        if self.intake is not None:
            self.intake.peer_changed(link, peer)
        if self.lane is not None:
            self.lane.peer_changed(link, peer)
        if self.beat is not None:
            self.beat.peer_changed(peer)

    # --- turns ----------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Timers of all machines."""
        self.membership.stored = stored = self.log.stored_upto()
        self.membership.tick(now_ms)
        # Whoever owns open tasks looks for nodes that run them, or take them over, and a node
        # whose store is lost for one: while it drains, it is not found. One that has outcomes
        # without a verdict looks for those that owe it.
        needed = _STORE_ROLES if self.publisher.misses_store else frozenset()
        if self.dispatcher is not None:
            if self.dispatcher.tasks:
                needed |= _RUN_ROLES
            self.dispatcher.stored(SELF, stored)
        if self.ownership is not None and self.ownership.is_undecided:
            needed |= _TAKE_ROLES
        if self.intake is not None and self.intake.gates.rates.is_shared:
            needed |= _WORKER_ROLES
        self.membership.need(needed, self.publisher.deciders_away, now_ms)
        if self.ownership is not None:
            self.ownership.tick(now_ms)
        if self.intake is not None:
            self.intake.tick(now_ms)
        if self.reader is not None:
            self.reader.tick(now_ms)
        is_heir_away = bool(self.inquiry.questions) and self.reach.is_heir_away(now_ms)
        self.inquiry.tick(
            now_ms,
            # A link that has come up this turn counts once it has been asked.
            all_found=not self.membership.pending_dials() and not self.membership.events,
            may_live=lambda node: is_heir_away or self.reach.may_live(node, now_ms),
        )
        self.publisher.tick(now_ms)
        self.succession.tick(now_ms)
        self.reach.tick(now_ms)

    def next_deadline_ms(self) -> int:
        """When ``tick`` is wanted next, at the latest."""
        if self._local or self.membership.events:
            return self._now_ms  # more than one turn's work came in
        machines = (
            self.membership, self.inquiry, self.ownership, self.intake, self.reader, self.lane,
            self.beat,
        )  # fmt: skip
        deadlines = [machine.next_deadline_ms() for machine in machines if machine is not None]
        if self._local or self.publisher.replays.is_ready:
            deadlines.append(self._now_ms)
        return min(deadline for deadline in deadlines if deadline is not None)

    def end_turn(self, now_ms: int, wall_ms: int) -> list[Effect]:
        """Let the machines work on what came in; returns what is to be done."""
        self._now_ms = now_ms
        if self.dispatcher is not None:
            self.dispatcher.wall_ms = wall_ms
        for _ in range(8):
            self._route(now_ms, wall_ms)
            self._work(now_ms, wall_ms)
            self._collect()
            if not (self.membership.events or self._local or self.following.answers):
                break
        effects, self._effects = self._effects, []
        return effects

    def _route(self, now_ms: int, wall_ms: int) -> None:
        membership = self.membership
        while membership.events or self._local:
            events, membership.events = membership.events, []
            for event in events:
                self._member_event(event, now_ms, wall_ms)
            while self._local:
                self._delivered(SELF, self._local.popleft(), now_ms, wall_ms)

    def _work(self, now_ms: int, wall_ms: int) -> None:
        intake, ownership, reader = self.intake, self.ownership, self.reader
        if intake is not None:
            if intake.finished:
                finished, intake.finished = intake.finished, []
                self.publisher.report(finished, now_ms, wall_ms)
                self.answers.finished([done.task.id for done in finished])
            self.publisher.bound(now_ms)  # a write may just have ended
            if not self.log.is_choked:
                intake.feed(now_ms)
            intake.flush()
            intake.deal_credit()
            self.membership.queued = len(intake.queue)
            self.membership.running = intake.running_count
        if ownership is not None:
            settled = ownership.flush(now_ms)
            self.following.flush(now_ms)
            if settled and self.answers.watchers:
                self.answers.settled(settled)
            made = ownership.take_own_outcomes()
            if made:
                self.publisher.publish_own(made, now_ms, wall_ms)
            if self.beat is not None:
                self.beat.settled(settled)
                self.beat.flush(now_ms, wall_ms)
        if self.lane is not None:
            self.lane.push(now_ms)
        if reader is not None:
            reader.flush()
        self.publisher.flush(now_ms)
        self.answers.flush()
        self.custody.flush()
        self.membership.head = self.log.head

    def _collect(self) -> None:
        for machine in self._machines:
            if not machine.effects:
                continue
            effects, machine.effects = machine.effects, []
            for effect in effects:
                if isinstance(effect, Send):
                    self._send(effect.link, effect.message)
                elif not self.following.takes(effect) and not (
                    self.beat is not None and self.beat.questions.takes(effect)
                ):
                    self._effects.append(effect)
        if self.membership.effects:
            self._effects += self.membership.effects
            self.membership.effects = []

    def _send(self, link: LinkId, message: Message) -> None:
        if link is SELF or link == SELF:
            self._local.append(message)
        else:
            self.membership.send(link, message)

    # --- routing --------------------------------------------------------------------------

    def _member_event(self, event: MemberEvent, now_ms: int, wall_ms: int) -> None:
        if isinstance(event, Delivered):
            self._delivered(event.link, event.message, now_ms, wall_ms)
        elif isinstance(event, LinkUp):
            self._link_up(event)
            if self.beat is not None:
                self.beat.link_up(event.link, event.peer, now_ms)
        elif isinstance(event, LinkDown):
            self._link_down(event, now_ms)
            if self.beat is not None:
                self.beat.link_down(event.link, event.peer.node, now_ms)
        elif isinstance(event, PeerChanged):
            self._peer_changed(event.link, event.peer)
        elif isinstance(event, LinkPaused):
            if self.ownership is not None:
                self.ownership.link_paused(event.link, event.paused)
            if self.beat is not None:
                self.beat.link_paused(event.link, event.paused, now_ms)
        elif self.intake is not None:
            self.intake.lease_changed(event.link, isinstance(event, LeaseBack))

    def _link_up(self, event: LinkUp) -> None:
        link, peer = event
        self.reach.link_up(link, peer.node)
        if "store" in peer.roles:
            self.publisher.store_up(peer.node)
            if self.dispatcher is not None:
                self.dispatcher.has_store = True
        if self.ownership is not None:
            self.ownership.link_up(link, peer)
        if self.intake is not None:
            self.intake.link_up(link, peer)
        if self.reader is not None:
            # The link in use, whose end is heard of, not the one that came up last.
            self.reader.link_up(peer.node, peer.epoch, self.reach.links[peer.node])
            self._effects.append(self.answers.subscribe_to(peer, (RESULTS_TOPIC,)))
        self.succession.link_up(link, peer)
        self.inquiry.link_up(link)
        if self.lane is not None:
            self.lane.link_up(link, peer)

    def _link_down(self, event: LinkDown, now_ms: int) -> None:
        link, peer, reason = event
        other_link = self.reach.link_down(link, peer.node)
        if other_link is not None:
            self._go_on_with(other_link, peer)
        if self.ownership is not None:
            self.ownership.link_down(link, peer, reason)
        if self.intake is not None:
            self.intake.link_down(link)
        self.inquiry.link_down(link)
        self.publisher.replays.link_down(link)
        if self.lane is not None:
            self.lane.link_down(link)
        self.answers.link_down(link)
        if peer.node in self.reach.links:
            return
        if "store" in peer.roles:
            self.publisher.store_down(peer.node, reason, now_ms)
        if reason in ("left", "gone", "replaced"):
            self.succession.ended(peer, now_ms)
        if reason not in ("left", "gone", "replaced") or has_journal(peer):
            self.reach.away(peer, now_ms, OWNER_GONE_MS)
        elif "producer" in peer.roles:
            # Who has its tasks now may have been asked too early; and what its outbox holds
            # is the business of a node of its host, in a moment.
            self.reach.away(peer, now_ms, OUTBOX_ADOPTED_MS)
        if self.reader is not None:
            self.reader.link_down(peer.node, peer.epoch)
            self._effects.append(self.answers.unsubscribe_from(peer))

    def _go_on_with(self, link: LinkId, peer: Hello) -> None:
        """A link dropped, but another one to the same node is there.

        What was said on the first and not acknowledged is lost with it.
        """
        if self.reader is not None:
            self.reader.link_up(peer.node, peer.epoch, link)
        self.publisher.report_again(link, peer.node)

    def _delivered(self, link: LinkId, message: Message, now_ms: int, wall_ms: int) -> None:
        if isinstance(message, Heartbeat):
            self._head_of(link, message.head, now_ms)
            if self.dispatcher is not None:
                stored = message.ext.get("s")
                self.dispatcher.stored(link, stored if isinstance(stored, int) else -1)
        elif isinstance(message, (Results, Trimmed)) and not getattr(message, "owner", False):
            self._replayed(link, message, now_ms, wall_ms)
        elif self.publisher.received(link, self._node_of(link), message, now_ms, wall_ms):
            return
        elif not self._is_work(link, message, now_ms):
            self._question(link, message)

    def _is_work(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """Let the intake or the owner's machines take it."""
        if isinstance(message, Heir):
            if self.ownership is not None:
                self.ownership.heir_announced(link, self._node_of(link), message)
            self.succession.announced(link, self._node_of(link), message)
            # Asked before, it may have said that it does not know their tasks.
            self.inquiry.link_up(link)
            return True
        if self.intake is not None and self.intake.received(link, message, now_ms):
            return True
        if self.beat is not None and self.beat.received(link, message):
            return True
        return self.ownership is not None and self.ownership.received(link, message, now_ms)

    def _forget(self, ids: Sequence[bytes]) -> None:
        self.answers.forget(ids)
        if self.reader is not None:
            self.reader.forget(ids, self._now_ms)

    def _question(self, link: LinkId, message: Message) -> None:
        if isinstance(message, Query):
            self.answers.asked(link, message)
        elif isinstance(message, States):
            self.inquiry.answered(link, message)
        elif isinstance(message, Forget):
            self._forget(message.ids)
        elif isinstance(message, Inspect):
            self._effects.append(InspectionAsked(link, message))
        elif isinstance(message, Order):
            self._effects.append(OrderGiven(link, message))
        elif isinstance(message, Report):
            self._effects.append(ReportGot(message.request, link, message.data))

    def _node_of(self, link: LinkId) -> bytes:
        return self.hello.node if link == SELF else link.peer[1:9]

    def _head_of(self, link: LinkId, head: int, now_ms: int) -> None:
        peer = self.membership.links[link].peer if link in self.membership.links else None
        if self.reader is not None and peer is not None:
            self.reader.head_announced(peer.node, peer.epoch, head, now_ms)

    def _replayed(
        self, link: LinkId, message: Results | Trimmed, now_ms: int, wall_ms: int
    ) -> None:
        if self.reader is None:
            return
        known = self.membership.links.get(link)
        publisher = known.peer if known is not None else self.hello if link == SELF else None
        if publisher is not None:
            self.reader.replayed(publisher.node, publisher.epoch, message, now_ms, wall_ms)

    def is_linked(self, node: bytes) -> bool:
        """There is an open link to that node."""
        return node in self.reach.links

    def pulled(self, message: Message) -> None:
        """A message came over the at-most-once lane."""
        if self.intake is not None and isinstance(message, Tasks):
            for text in self.intake.pulled(message):
                self._effects.append(Note("warning", "task.dropped", text, text))

    def states_of(self, ids: Sequence[bytes]) -> list[StateRecord]:
        """What this node's machines know without asking anybody."""
        return [self.answers.local(task_id) for task_id in ids]
