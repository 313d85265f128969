"""Which tasks are offered to whom, and when.

While it runs, a node gives away what should be with a broker: tasks of queues with the
route *broker*, and those of the route *auto* that nobody in sight can run. When it leaves,
everything: what a worker works on to that worker, the rest to a broker, or to a taker that
can run it, or to any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.calls import weight
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.lanes import Lane, OwnedTask
from zmqtasks.core.links import LinkId
from zmqtasks.limits import (
    BATCH_BYTES_MAX,
    BATCH_COUNT_MAX,
    HANDOFF_OFFERS_MAX,
    HANDOFF_RETRY_MS,
    HANDOFF_UNSERVED_MS,
)
from zmqtasks.wire.messages import Hello, Kind, Offer, OfferRecord


def takes_tasks(peer: Hello) -> bool:
    """This node takes over tasks of others: a broker, or another one that is there to stay
    and has a journal. Not so a script, whose journal is for its own."""
    if "broker" in peer.roles:
        return True
    return bool(peer.ext.get("j")) and any(role != "producer" for role in peer.roles)


class Offered(NamedTuple):
    """An offer that has no answer yet, with the attempt of each task as offered."""

    link: LinkId
    taker: bytes
    tasks: list[tuple[OwnedTask, int]]


class _Taker:
    """A linked node that takes tasks."""

    __slots__ = ("again_ms", "is_paused", "link", "peer", "under_way")

    def __init__(self, link: LinkId, peer: Hello) -> None:
        self.link = link
        self.peer = peer
        #: Offers without an answer.
        self.under_way = 0
        #: It refused: not before this time.
        self.again_ms = 0
        #: Connected, but silent.
        self.is_paused = False

    @property
    def is_broker(self) -> bool:
        return "broker" in self.peer.roles


class Offering:
    """Makes offers. ``effects`` is drained by the Handoff, which decides on the answers.

    Args:
        node: this node's id.
        dispatcher: owns the tasks.
        custody: its journal, where they are before they are offered.
        follow: somebody in this process waits for their outcomes.
        is_broker: give nothing away before ``leave``.
    """

    def __init__(
        self, node: bytes, dispatcher: Dispatcher, custody: Custody, *, follow: bool,
        is_broker: bool,
    ) -> None:  # fmt: skip
        self.node = node
        self.dispatcher = dispatcher
        self.custody = custody
        self.follow = follow
        self.is_broker = is_broker
        self.effects: list[Effect] = []
        #: {node: taker} of all that are linked.
        self.takers: dict[bytes, _Taker] = {}
        #: {number: offer} without an answer.
        self.offers: dict[int, Offered] = {}
        #: Of the last offer.
        self.number = 0
        self.is_leaving = False
        self._has_ended = False
        self._turn = 0
        self._now_ms = 0
        self._wake_ms: int | None = None

    # --- links ----------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """The first link to a node."""
        if takes_tasks(peer) and peer.node != self.node:
            self.takers[peer.node] = _Taker(link, peer)

    def link_down(self, link: LinkId, node: bytes, other: LinkId | None) -> list[bytes]:
        """A link is closed, and another one is used, if there is one.

        Returns:
            Ids of the tasks whose offers ended with it.
        """
        # It may be up again within this turn, and these would go there.
        self.effects = [
            effect for effect in self.effects if not isinstance(effect, Send) or effect.link != link
        ]
        taker = self.takers.get(node)
        if other is None:
            self.takers.pop(node, None)
        elif taker is not None:
            taker.link = other
        return [
            task.id
            for number, offer in list(self.offers.items())
            if offer.link == link
            for task, _ in self._end(number).tasks
        ]

    def link_paused(self, link: LinkId, paused: bool) -> None:
        """Offer it nothing new, or again."""
        for taker in self.takers.values():
            if taker.link == link:
                taker.is_paused = paused

    # --- answers --------------------------------------------------------------------------

    def answered(self, link: LinkId, number: int) -> Offered | None:
        """This offer has its answer; None if it does not stand on this link any more."""
        offer = self.offers.get(number)
        if offer is None or offer.link != link:
            return None
        return self._end(number)

    def pause(self, node: bytes, now_ms: int) -> None:
        """It refused: offer it nothing for a while."""
        taker = self.takers.get(node)
        if taker is not None:
            taker.again_ms = now_ms + HANDOFF_RETRY_MS

    def leave(self) -> None:
        """Offer everything from now on, also to those that refused."""
        self.is_leaving = True
        self._has_ended = False
        for taker in self.takers.values():
            taker.again_ms = 0

    def end(self) -> list[Offered]:
        """Offer nothing any more; returns the offers that had no answer."""
        self._has_ended = True
        return [self._end(number) for number in list(self.offers)]

    def _end(self, number: int) -> Offered:
        offer = self.offers.pop(number)
        taker = self.takers.get(offer.taker)
        if taker is not None and taker.under_way:
            taker.under_way -= 1
        return offer

    # --- the end of a turn ----------------------------------------------------------------

    def flush(self, now_ms: int) -> None:
        """Offer what should go elsewhere: once a turn."""
        self._now_ms = now_ms
        self._wake_ms = None
        if not self.takers or self._has_ended:
            return
        if self.is_leaving:
            self._offer_held()
            every = self.dispatcher.lanes.values()
            self._offer_lanes([lane for lane in every if lane.ready or lane.parked])
        elif not self.is_broker:
            lanes = self._lanes_for_brokers()
            if lanes:
                self._offer_to([taker for taker in self._open_takers() if taker.is_broker], lanes)

    def next_deadline_ms(self) -> int | None:
        """When ``flush`` is wanted next."""
        return self._wake_ms

    def _wake_at(self, at_ms: int) -> None:
        self._wake_ms = at_ms if self._wake_ms is None else min(self._wake_ms, at_ms)

    # --- what goes to whom ----------------------------------------------------------------

    def _lanes_for_brokers(self) -> list[Lane]:
        """Lanes whose tasks a broker should have."""
        lanes: list[Lane] = []
        for lane in self.dispatcher.lanes.values():
            if not (lane.ready or lane.parked) or lane.route == "direct":
                continue
            if lane.route == "broker":
                lanes.append(lane)
            elif lane.unserved_since_ms >= 0:
                due_ms = lane.unserved_since_ms + HANDOFF_UNSERVED_MS
                if self._now_ms >= due_ms:
                    lanes.append(lane)
                else:
                    self._wake_at(due_ms)
        return lanes

    def _open_takers(self) -> list[_Taker]:
        """Those that may be offered something now."""
        takers: list[_Taker] = []
        for taker in self.takers.values():
            if taker.again_ms > self._now_ms:
                self._wake_at(taker.again_ms)
            elif not taker.is_paused:
                takers.append(taker)
        return takers

    def _offer_lanes(self, lanes: Sequence[Lane]) -> None:
        """All of these go away."""
        takers = self._open_takers()
        brokers = [taker for taker in takers if taker.is_broker]
        if brokers:
            self._offer_to(brokers, lanes)
            return
        nodes = {taker.peer.node: taker for taker in takers}
        unserved: list[Lane] = []
        for lane in lanes:
            serving = dict.fromkeys(worker.peer.node for worker in lane.workers)
            able = [nodes[node] for node in serving if node in nodes]
            if able:
                self._offer_to(able, [lane])
            else:
                unserved.append(lane)
        self._offer_to(takers, unserved)

    def _offer_to(self, takers: Sequence[_Taker], lanes: Sequence[Lane]) -> None:
        """In turn, as much as each may have under way."""
        if not takers:
            return
        self._turn += 1
        first = self._turn % len(takers)
        waiting = [*takers[first:], *takers[:first]]
        while waiting:
            taker = waiting.pop(0)
            if taker.under_way >= HANDOFF_OFFERS_MAX:
                continue
            tasks = self._take(lanes, taker.peer.node)
            if tasks:
                self._offer(taker, tasks)
                waiting.append(taker)

    def _take(self, lanes: Iterable[Lane], node: bytes) -> list[OwnedTask]:
        """As many ready tasks as one message takes."""
        tasks: list[OwnedTask] = []
        size = 0
        for lane in lanes:
            count_max = BATCH_COUNT_MAX - len(tasks)
            bytes_max = BATCH_BYTES_MAX - size
            if count_max <= 0:
                break
            first = self.dispatcher.first_to_give(lane)
            if first is None or (tasks and weight(first.body, first.ext) > bytes_max):
                continue
            taken = self.dispatcher.take_ready(lane, count_max, bytes_max, node)
            size += sum(weight(task.body, task.ext) for task in taken)
            tasks += taken
        return tasks

    def _offer_held(self) -> None:
        """What a worker works on goes to that worker, if it takes tasks."""
        for worker in list(self.dispatcher.workers.values()):
            node = worker.peer.node
            taker = self.takers.get(node)
            if not worker.held or taker is None or taker.again_ms > 0:
                continue
            batch: list[OwnedTask] = []
            bounds = MessageBounds()
            for task in self.dispatcher.offer_held(worker, node):
                if not bounds.takes(task.body):
                    self._offer(taker, batch)
                    batch = []
                batch.append(task)
            if batch:
                self._offer(taker, batch)

    # --- is it time? ----------------------------------------------------------------------

    @property
    def has_broker(self) -> bool:
        """A broker is linked, to which everything may go."""
        return any(taker.is_broker for taker in self.takers.values())

    @property
    def is_served(self) -> bool:
        """Each task that is ready could go to a worker that can run it."""
        return all(
            any(worker.peer.node in self.takers for worker in lane.workers)
            for lane in self.dispatcher.lanes.values()
            if lane.ready or lane.parked
        )

    # --- offers ---------------------------------------------------------------------------

    def _offer(self, taker: _Taker, tasks: Sequence[OwnedTask]) -> None:
        """Offer these, once they are in our journal, if there is one."""
        self.number += 1
        taker.under_way += 1
        self.offers[self.number] = Offered(
            taker.link, taker.peer.node, [(task, task.attempt) for task in tasks]
        )
        if self.custody.has_journal:
            # After whatever is under way to the journal, which may be some of these.
            self.custody.note([], partial(self._write_down, self.number), sync=False)
        else:
            self._send(self.number, is_lasting=False)

    def _write_down(self, number: int, _refusal: str) -> None:
        offer = self.offers.get(number)
        if offer is None:
            return
        if self.custody.is_putting(task.id for task, _ in offer.tasks):
            # Some were refused after all, and are just being taken out again.
            self.custody.note([], partial(self._write_down, number), sync=False)
            return
        # What has settled meanwhile, or goes on with another attempt, is offered no more.
        still = [
            (t, a)
            for t, a in offer.tasks
            if self.dispatcher.is_offered(t.id) and self.dispatcher.is_as_offered(t, a)
        ]
        kept = dict.fromkeys(task.id for task, _ in still)
        self.dispatcher.put_back([task.id for task, _ in offer.tasks if task.id not in kept])
        if not still:
            self._end(number)
            return
        self.offers[number] = offer._replace(tasks=still)
        fresh = [task for task, _ in still if not task.is_written]
        if not fresh:
            self._send(number, is_lasting=True)
            return
        written = self.dispatcher.written
        for task in fresh:
            task.is_written = True
        records = [written.record_of(task) for task in fresh]
        self.custody.put(records, partial(self._written, number, fresh), sync=False)

    def _written(self, number: int, fresh: Sequence[OwnedTask], refusal: str) -> None:
        if not refusal:
            if number in self.offers:
                self._send(number, is_lasting=True)
            return
        # The disk is full. All the better if somebody else takes them.
        self.dispatcher.written.not_written(fresh, self._now_ms)
        offer = self.offers.pop(number, None)
        if offer is None:
            return
        is_fresh = dict.fromkeys(task.id for task in fresh)
        for is_lasting in (True, False):
            part = [pair for pair in offer.tasks if (pair[0].id in is_fresh) != is_lasting]
            if part:
                self.number += 1
                self.offers[self.number] = offer._replace(tasks=part)
                self._send(self.number, is_lasting=is_lasting)

    def _send(self, number: int, *, is_lasting: bool) -> None:
        offer = self.offers[number]
        if self.custody.has_journal and not is_lasting:
            for task, _ in offer.tasks:
                task.is_fleeting = True
        kinds: dict[Kind, int] = {}
        records = [
            OfferRecord(
                kinds.setdefault(task.lane.kind, len(kinds)), task.id, attempt, task.strikes,
                task.durability, task.worker is not None, task.body, task.ext,
            )
            for task, attempt in offer.tasks
        ]  # fmt: skip
        watch = self.follow and not self.is_leaving
        message = Offer(number, list(kinds), records, is_lasting, watch)
        self.effects.append(Send(offer.link, message))
