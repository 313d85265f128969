"""The taker's side of the handoff: tasks of another owner become this node's own.

::

    OFFER --> STORING --journal: from G--> STORED --HANDED given--> ACTIVATING --> owned
                                             |         (journal: ours)      TAKEN is told
                                             +--HANDED kept--> forgotten

A stored task is not active: only its giver, or the heir of its giver's journal, can say
whose it is. After a lost link, or a restart of either side, we ask (RESOLVE). As long as
the giver is away and has a journal the task waits, for it is in that journal, and may be
the giver's.

What happens while a giver is away is in ``doubts.py``.

The same task may be offered by several nodes, of which at most one owns it: an offer that
was long withdrawn may be read late from a connection that its sender has given up. So each
giver's *claim* is remembered until that giver has answered.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from zmqtasks.core.answers import Answers
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher, bytes_of
from zmqtasks.core.doubts import Doubts
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.given import WATCH_REQUEST
from zmqtasks.core.handoff import Handoff
from zmqtasks.core.incoming import Claim, IncomingTask, Phase, claims_of
from zmqtasks.core.lanes import TakenTask
from zmqtasks.core.links import LinkId
from zmqtasks.core.marks import OfferMark, offers_mark
from zmqtasks.core.openlinks import Heirs, OpenLinks
from zmqtasks.core.owned import (
    MARK_OWNED,
    Durability,
    Incoming,
    OwnedRecord,
    Progress,
    parse_mark,
)
from zmqtasks.core.repeats import Repeats
from zmqtasks.ids import format_node
from zmqtasks.limits import HANDOFF_IDS_MAX, OWNER_GONE_MS
from zmqtasks.wire.messages import (
    Handed,
    Hello,
    Message,
    Offer,
    OfferRecord,
    Query,
    Resolve,
    StateRecord,
    States,
    Stored,
    Taken,
    TaskState,
)

_PROVEN_GONE = ("gone", "left")


class _Arrival:
    """An offer on its way into the journal."""

    __slots__ = ("count", "fresh", "left", "link", "refusal", "request", "session", "writes")

    def __init__(self, link: LinkId, session: int, offer: Offer) -> None:
        self.link = link
        self.session = session
        self.request = offer.request
        self.count = len(offer.tasks)
        self.fresh: list[IncomingTask] = []
        self.left: list[bytes] = []
        self.refusal = ""
        #: Not committed yet.
        self.writes = 0


class Taking:
    """Takes tasks over. ``effects`` is drained each turn.

    Args:
        node, epoch: this node's id and incarnation.
        dispatcher: owns them in the end.
        custody: its journal; without one every offer is refused.
        handoff: knows what this node itself has given away.
        answers: tells former owners what becomes of their tasks.
    """

    def __init__(
        self, node: bytes, epoch: int, dispatcher: Dispatcher, custody: Custody,
        handoff: Handoff, answers: Answers,
    ) -> None:  # fmt: skip
        self.node = node
        self.epoch = epoch
        self.dispatcher = dispatcher
        self.custody = custody
        self.handoff = handoff
        self.answers = answers
        self.effects: list[Effect] = []
        self.repeats = Repeats(dispatcher)
        #: Take nothing new.
        self.draining = False
        self.links = OpenLinks()
        #: {task id: task} offered and not owned yet.
        self.tasks: dict[bytes, IncomingTask] = {}
        handoff.incoming = self.tasks
        #: On their way out of the journal.
        self.dropping: dict[bytes, None] = {}
        #: Ids of tasks that became ours and whose attempt is here; drained each turn.
        self.held_here: list[bytes] = []
        self.doubts = Doubts(
            node, self.tasks, self.links, dispatcher, drop=self.drop, activate=self.activate,
            may_conclude=handoff.given.may_conclude,
        )  # fmt: skip
        self._heirs = Heirs()
        self._taken: dict[LinkId, list[bytes]] = {}
        self._now_ms = 0

    # --- links ----------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there: ask about what it offered, itself or as an heir."""
        if not self.links.up(link, peer):
            return
        self.doubts.is_back(peer.node)
        self._ask_all(link, peer.node)

    def link_down(self, link: LinkId, peer: Hello, reason: str) -> None:
        """What was to be answered on this link has to be asked for."""
        other = self.links.down(link)
        self._taken.pop(link, None)
        self.repeats.link_down(link)
        self.doubts.link_down(link)
        is_doubtful = False
        for task in self.tasks.values():
            for claim in task.claims_by(peer.node):
                is_doubtful |= not claim.is_lasting
                if claim.link == link:
                    claim.link = None
        heir = self.links.to(self._heirs.of(peer.node))
        if other is not None:
            self._ask_all(other, peer.node)
        elif heir is not None:
            self._ask(heir, peer.node)
        else:
            is_gone = is_doubtful and reason in _PROVEN_GONE
            wait_ms = 0 if is_gone else OWNER_GONE_MS
            self.doubts.is_away(peer.node, self._now_ms + wait_ms)

    def heir_announced(self, link: LinkId, heir: bytes, nodes: Sequence[bytes]) -> None:
        """The node behind this link has the journals of these nodes, and answers for them."""
        self._heirs.announced(heir, nodes)
        for former in nodes:
            self.doubts.is_back(former)
            if self.links.peer(link) is not None:
                self._ask(link, former)

    def _ask_all(self, link: LinkId, node: bytes) -> None:
        """Ask what a node knows as a giver, and as an heir of givers."""
        self._ask(link, node)
        for former in self._heirs.formers(node):
            self._ask(link, former)

    def _ask(self, link: LinkId, giver: bytes) -> None:
        """Whose are the tasks that it offered, and will not tell of its own accord?"""
        asked: dict[bytes, list[bytes]] = {}
        for task_id, task in self.tasks.items():
            for claim in task.claims_by(giver):
                if claim.link is None and task.phase is not Phase.ACTIVATING:
                    asked.setdefault(claim.taker, []).append(task_id)
        for task_id, givers in self.doubts.guessed.items():
            if giver in givers:
                asked.setdefault(self.node, []).append(task_id)
        for taker, ids in asked.items():
            for first in range(0, len(ids), HANDOFF_IDS_MAX):
                part = ids[first : first + HANDOFF_IDS_MAX]
                self.effects.append(Send(link, Resolve(part, taker)))

    # --- after a restart ------------------------------------------------------------------

    def resume(self, records: Iterable[OwnedRecord], now_ms: int) -> None:
        """The journal's tasks; those that were offered to us wait for their givers."""
        for record in records:
            mark = parse_mark(record.mark)
            if isinstance(mark, Incoming):
                self.restore(record, claims_of(mark), now_ms)

    def restore(self, record: OwnedRecord, claims: Iterable[Claim], now_ms: int) -> None:
        """A task in our journal that these nodes have offered."""
        task = IncomingTask(record, Phase.STORED, is_held=False, is_fresh=False)
        self._keep(task)
        for claim in claims:
            task.add(claim)
            if self.links.to(claim.giver) is None:
                self.doubts.is_away(claim.giver, now_ms + OWNER_GONE_MS)

    def ask_linked(self) -> None:
        """Ask whoever is there about claims that came with the journal of another node."""
        for link in self.links:
            peer = self.links.peer(link)
            assert peer is not None
            self._ask_all(link, peer.node)

    def took_over(self, nodes: Container[bytes]) -> None:
        """The journals of these nodes are in ours, as far as they go: what they had offered
        out of them and that is not there, they had not given."""
        unknown: list[bytes] = []
        orphans: list[IncomingTask] = []
        for task_id, task in self.tasks.items():
            if task.phase is Phase.ACTIVATING:
                continue
            for claim in [claim for claim in task.claims.values() if claim.giver in nodes]:
                if self.is_answered_here(claim):
                    task.remove(claim)
                else:
                    claim.is_unknown = True
                    unknown.append(task_id)
            if not task.claims and task.phase is Phase.STORED:
                orphans.append(task)
        self.drop(orphans)
        self.doubts.ask(unknown)

    def is_answered_here(self, claim: Claim) -> bool:
        """That we do not have the task says that its giver, whose journal is here, had not
        given it. Offers out of a memory that has ended are in no journal."""
        return claim.is_lasting or (claim.giver, claim.epoch) == (self.node, self.epoch)

    def is_activating(self, task_id: bytes) -> bool:
        """It is ours; the journal is just writing that."""
        task = self.tasks.get(task_id)
        return task is not None and task.phase is Phase.ACTIVATING

    def forget(self, task_id: bytes) -> bool:
        """It is not offered any more; False if it was not."""
        task = self.tasks.pop(task_id, None)
        if task is None:
            return False
        self.dispatcher.incoming_count -= 1
        self.dispatcher.incoming_bytes -= len(task.record.body)
        return True

    def _keep(self, task: IncomingTask) -> None:
        self.tasks[task.record.id] = task
        self.dispatcher.incoming_count += 1
        self.dispatcher.incoming_bytes += len(task.record.body)

    def confirm(self, task: IncomingTask) -> None:
        """The journal of its giver says that it is ours."""
        if task.phase is Phase.STORED:
            self.activate([task])
        elif task.phase is Phase.STORING:
            task.is_confirmed = True

    # --- messages -------------------------------------------------------------------------

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """A message from a giver, or an answer to what everybody was asked; False: neither."""
        self._now_ms = now_ms
        if isinstance(message, States):
            return self.doubts.polls.answered(link, message)
        if not isinstance(message, (Offer, Handed)):
            return False
        peer = self.links.peer(link)
        if peer is None:
            return True
        if isinstance(message, Offer):
            self._offered(link, peer, message)
        else:
            self._given(link, peer, message)
            self.drop(self._disclaimed(peer, message))
            self.repeats.take_awaited(message.kept, link)
            self._drop_from_journal(self.doubts.give_way(message.kept))
            self.doubts.confirmed(message.unknown)
            self.doubts.ask(message.unknown)
        return True

    # --- offers ---------------------------------------------------------------------------

    def _offered(self, link: LinkId, peer: Hello, offer: Offer) -> None:
        refusal = self._refusal(offer)
        if self.handoff.is_heir_of(peer.node):
            refusal = "that node has ended, and its journal is here"  # read late
        if refusal:
            self.effects.append(Send(link, Stored(offer.request, refusal)))
            return
        arrival = _Arrival(link, self.links.session(link), offer)
        changed: list[IncomingTask] = []
        made = OfferMark(peer.node, self.node, offer.lasting, peer.epoch, offer.request)
        mark = offers_mark([made])
        count_left, bytes_left = self.dispatcher.room_left
        for record in offer.tasks:
            known = self.tasks.get(record.id)
            if self._is_moving(record.id, known, peer.node):
                arrival.left.append(record.id)
                continue
            if known is None:
                if self.repeats.is_here(record.id, record.ext, peer.node):
                    if offer.watch:
                        self.repeats.is_awaited(record.id, link)
                    continue  # ours already: the same task again
                count_left -= 1
                bytes_left -= len(bytes_of(record.body))
                if count_left < 0 or bytes_left < 0:
                    arrival.left.append(record.id)
                    arrival.refusal = f"it holds {self.dispatcher.open_count} open tasks already"
                    continue
                known = self._new(record, offer, mark)
                arrival.fresh.append(known)
            elif known.phase is Phase.ACTIVATING:
                continue
            else:
                self._merge(known, record, offer, peer.node)
                changed.append(known)
            known.is_watched |= offer.watch
            claim = Claim(peer.node, self.node, is_lasting=offer.lasting)
            claim.epoch, claim.number, claim.link = peer.epoch, offer.request, link
            known.add(claim)
        self._store(arrival, changed)

    def _refusal(self, offer: Offer) -> str:
        if self.draining:
            return "it is leaving"
        if not self.custody.has_journal:
            return "it has no journal"
        if not all(0 <= record.kind < len(offer.kinds) for record in offer.tasks):
            return "the offer names a kind that it does not carry"
        return ""

    def _is_moving(self, task_id: bytes, known: IncomingTask | None, giver: bytes) -> bool:
        """The journal is just changing something about it: it stays where it is for now."""
        if known is not None and known.phase is Phase.STORING:
            return True
        if self.handoff.unconfirmed.get(task_id) == giver:
            # It was active there, or it could not be offered.
            self.handoff.confirmed([task_id], giver)
        return (
            task_id in self.dropping
            or task_id in self.handoff.dropping
            or task_id in self.handoff.unconfirmed
        )

    def _new(self, record: OfferRecord, offer: Offer, mark: bytes) -> IncomingTask:
        owned = OwnedRecord(
            record.id, offer.kinds[record.kind], bytes_of(record.body), record.ext,
            record.attempt, record.strikes, Durability(record.durability != 0),
            self.dispatcher.wall_ms, mark,
        )  # fmt: skip
        task = IncomingTask(owned, Phase.STORING, is_held=record.held, is_fresh=True)
        self._keep(task)
        return task

    def _merge(self, known: IncomingTask, record: OfferRecord, offer: Offer, giver: bytes) -> None:
        """Offered again: by the same node, whose last offer counts, or by another one."""
        attempt = record.attempt
        is_only = list(known.claims) == [(giver, self.node)]
        known.is_held = is_only and record.held
        known.is_fresh = is_only
        if not is_only:
            attempt = max(attempt, known.record.attempt)
        known.record = msgspec.structs.replace(
            known.record, attempt=attempt, strikes=max(record.strikes, known.record.strikes)
        )

    def _store(self, arrival: _Arrival, changed: Sequence[IncomingTask]) -> None:
        arrival.writes = bool(arrival.fresh) + bool(changed)
        if arrival.fresh:
            records = [task.first_record for task in arrival.fresh]
            self.custody.put(records, partial(self._stored, arrival), sync=True)
        if changed:
            self.custody.note(
                [_progress(task, task.mark) for task in changed],
                partial(self._written, arrival),
                sync=True,
            )
        if not arrival.writes:
            self._answer(arrival)

    def _stored(self, arrival: _Arrival, refusal: str) -> None:
        if refusal:
            arrival.refusal = refusal
            ids = [task.record.id for task in arrival.fresh]
            for task_id in ids:
                self.forget(task_id)
            arrival.left += ids
            self._drop_from_journal(ids)  # a disk that failed may have them even so
        else:
            there = [task for task in arrival.fresh if self.tasks.get(task.record.id) is task]
            for task in there:
                task.phase = Phase.STORED
            self.drop([task for task in there if not task.claims and not task.is_confirmed])
            self.activate([task for task in there if task.is_confirmed])
            self.doubts.stored(there)
        self._written(arrival, "")

    def _written(self, arrival: _Arrival, _refusal: str) -> None:
        arrival.writes -= 1
        if not arrival.writes:
            self._answer(arrival)

    def _answer(self, arrival: _Arrival) -> None:
        if self.links.session(arrival.link) == arrival.session:
            stored = Stored(arrival.request, arrival.refusal, arrival.left)
            if len(arrival.left) < arrival.count:
                stored.refused = ""  # not all of them
            self.effects.append(Send(arrival.link, stored))

    # --- whose they are -------------------------------------------------------------------

    def _answered(self, task: IncomingTask, peer: Hello, message: Handed) -> list[Claim]:
        """The offers of this task about which the peer has spoken."""
        return [
            claim
            for claim in task.claims.values()
            if claim.taker == message.taker
            and (
                self._heirs.of(claim.giver) == peer.node
                if claim.giver != peer.node
                else claim.epoch < peer.epoch or claim.number <= message.upto
            )
        ]

    def _given(self, link: LinkId, peer: Hello, message: Handed) -> None:
        active: list[IncomingTask] = []
        taken = self._taken.setdefault(link, [])
        self.doubts.confirmed(message.given)
        for task_id in message.given:
            task = self.tasks.get(task_id)
            if task is None:
                # Active here, or it was.
                taken.append(task_id)
            elif task.phase is Phase.ACTIVATING:
                task.given_on.append(link)
            elif self._answered(task, peer, message):
                task.given_on.append(link)
                active.append(task)
            elif not task.claims_by(peer.node):
                # An heir of which we have not heard yet, and shall ask. Or it was active
                # here before, and comes back by way of others; so that one is told later.
                task.given_on.append(link)
        awaited = self.repeats.take_awaited(message.given, link)
        if awaited:
            self.answers.asked(link, Query(WATCH_REQUEST, awaited, True))
        for task in active:
            task.is_confirmed = True
        self.activate([task for task in active if task.phase is Phase.STORED])

    def _disclaimed(self, peer: Hello, message: Handed) -> list[IncomingTask]:
        """Forget these offers; returns the tasks without any that is left."""
        orphans: list[IncomingTask] = []
        for ids, is_kept in ((message.kept, True), (message.unknown, False)):
            for task_id in dict.fromkeys(ids):
                task = self.tasks.get(task_id)
                if task is None or task.phase is Phase.ACTIVATING:
                    continue
                for claim in self._answered(task, peer, message):
                    if is_kept or claim.is_lasting:
                        task.remove(claim)
                    else:
                        claim.is_unknown = True
                if not task.claims and task.phase is Phase.STORED:
                    orphans.append(task)
        return orphans

    def drop(self, tasks: Sequence[IncomingTask]) -> None:
        """They are not ours."""
        if not tasks:
            return
        ids = [task.record.id for task in tasks]
        for task_id in ids:
            self.forget(task_id)
        self._drop_from_journal(ids)

    def _drop_from_journal(self, ids: Sequence[bytes]) -> None:
        if ids:
            self.dropping.update(dict.fromkeys(ids))
            self.custody.drop(ids, partial(self._dropped, ids), sync=False)

    def _dropped(self, ids: Sequence[bytes], _refusal: str) -> None:
        for task_id in ids:
            self.dropping.pop(task_id, None)

    def activate(self, tasks: Sequence[IncomingTask]) -> None:
        """They are ours, as soon as the journal says so; one may be named twice."""
        tasks = [task for task in dict.fromkeys(tasks) if task.phase is not Phase.ACTIVATING]
        if not tasks:
            return
        for task in tasks:
            task.phase = Phase.ACTIVATING
            self.handoff.unconfirmed.pop(task.record.id, None)
        self.custody.note(
            [_progress(task, MARK_OWNED) for task in tasks],
            partial(self._activated, tasks),
            sync=True,
        )

    def _activated(self, tasks: Sequence[IncomingTask], _refusal: str) -> None:
        owner = self.dispatcher
        taken: list[TakenTask] = []
        for task in tasks:
            record = task.record
            self.forget(record.id)
            known = owner.tasks.get(record.id)
            if known is not None:
                known.is_written = True  # submitted here as well; the journal has it now
            owner.stories.tell(
                record.id, "taken", attempt=record.attempt,
                of=format_node(task.giver),
            )  # fmt: skip
            is_held = task.is_held and task.is_fresh
            if is_held:
                self.held_here.append(record.id)
            taken.append(TakenTask(record, is_held or not task.is_fresh))
            self._tell_taken(task)
        self.handoff.given.back(task.record.id for task in tasks)
        owner.own(taken)

    def _tell_taken(self, task: IncomingTask) -> None:
        task_id = task.record.id
        if task.is_guessed and not task.given_on:
            self.doubts.guessed[task_id] = [claim.giver for claim in task.claims.values()]
        for link in task.given_on:
            if self.links.peer(link) is None:
                continue  # it will be said again
            self._taken.setdefault(link, []).append(task_id)
            if task.is_watched:
                self.answers.follow([task_id], link)

    # --- what is known --------------------------------------------------------------------

    def state_of(self, task_id: bytes) -> StateRecord | None:
        """What can be said of a task that is not ours yet; None if no offer of it stands."""
        task = self.tasks.get(task_id)
        if task is None or not (task.claims or task.is_confirmed):
            return None
        kind = task.record.kind
        why = f"node {format_node(task.giver)} is handing it to this one and has not confirmed that"
        info: dict[str, Any] = {
            "name": kind.name, "queue": kind.queue, "attempt": task.record.attempt, "why": why,
            "offer": max((claim.number for claim in task.claims.values()), default=0),
        }  # fmt: skip
        ext = task.record.ext
        if ext is not None and "c" in ext:
            info["c"] = ext["c"]
        return StateRecord(task_id, TaskState.PENDING, info, None)

    @property
    def expected(self) -> int:
        """Offered tasks whose giver is there and will say whose they are."""
        return sum(
            any(claim.link is not None for claim in task.claims.values())
            for task in self.tasks.values()
        )

    def describe(self) -> dict[str, int]:
        """{giver: stored tasks that wait for its word}, for `zmqtasks status`."""
        waiting: dict[str, int] = {}
        for task in self.tasks.values():
            for claim in task.claims.values():
                name = format_node(claim.giver)
                waiting[name] = waiting.get(name, 0) + 1
        return waiting

    # --- the end of a turn ----------------------------------------------------------------

    def flush(self, now_ms: int) -> None:
        """Say what was taken: once a turn."""
        self._now_ms = now_ms
        if self._taken:
            taken, self._taken = self._taken, {}
            for link, ids in taken.items():
                if ids and self.links.peer(link) is not None:
                    self.effects.append(Send(link, Taken(ids)))
        if self.repeats.effects:
            self.effects += self.repeats.effects
            self.repeats.effects.clear()
        if self.doubts.polls.effects:
            self.effects += self.doubts.polls.effects
            self.doubts.polls.effects.clear()

    def tick(self, now_ms: int) -> None:
        """Ask about the tasks of givers that stay away."""
        self._now_ms = now_ms
        self.doubts.tick(now_ms)

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        return self.doubts.next_deadline_ms()


def _progress(task: IncomingTask, mark: bytes) -> Progress:
    return Progress(task.record.id, task.journal_attempt, task.record.strikes, mark)
