"""The giver's side of the handoff: tasks go to another owner in two phases.

::

    OWNED --OFFER--> OFFERED --STORED--> (journal: given) --> GIVEN --TAKEN--> forgotten
      ^                |  refused, or the link is gone           |
      +----------------+                                         +--> says "given" again on
                                                                      each new link to the taker

A task is offered to one taker at a time, and while it is, nobody here runs it. What
decides is one note in our own journal, synced: before it the task is ours whatever the
taker has stored, after it the task is the taker's whatever becomes of us. So there is no
moment at which both, or neither, could rightly think that the task is theirs, and nothing
is ever decided by how long somebody has been silent.

A taker that has stored an offer and lost us asks (RESOLVE). What we know suffices for an
answer, since the only thing that must not be forgotten, "given", is in the journal until
the taker has confirmed it: whatever is not given is not the taker's.

What is ugly: an offer that is withdrawn leaves copies behind at the taker, until it can
ask; they cost it room, and nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial

from zmqtasks.core.answers import Answers
from zmqtasks.core.custody import Custody
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.effects import Effect, Note, Send
from zmqtasks.core.given import GivenTasks
from zmqtasks.core.lanes import OwnedTask
from zmqtasks.core.links import LinkId
from zmqtasks.core.marks import given_mark, taker_in
from zmqtasks.core.offering import Offered, Offering
from zmqtasks.core.openlinks import OpenLinks
from zmqtasks.core.owned import MARK_OWNED, Given, OwnedRecord, Progress, parse_mark
from zmqtasks.ids import format_node
from zmqtasks.wire.messages import Handed, Hello, Message, Resolve, Stored, Taken


class _Words:
    """What is to be said on a link at the end of the turn."""

    __slots__ = ("given", "kept", "unknown")

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.kept: list[bytes] = []
        self.unknown: list[bytes] = []


class Handoff:
    """Gives tasks away. ``effects`` is drained each turn.

    Args:
        node: this node's id.
        dispatcher: owns the tasks.
        custody: its journal; without one a handoff lasts as long as this process.
        given: remembers who has them then.
        answers: tells those who watch them.
        follow: somebody in this process waits for their outcomes.
        is_broker: it takes tasks for others, so it gives none away until it leaves.
    """

    def __init__(
        self, node: bytes, dispatcher: Dispatcher, custody: Custody, given: GivenTasks,
        answers: Answers, *, follow: bool = False, is_broker: bool = False,
    ) -> None:  # fmt: skip
        self.node = node
        self.dispatcher = dispatcher
        self.custody = custody
        self.given = given
        self.answers = answers
        self.follow = follow
        self.offering = Offering(node, dispatcher, custody, follow=follow, is_broker=is_broker)
        self.effects: list[Effect] = []
        self.links = OpenLinks()
        #: {task id: whom it was offered to} given away, and not known to be active there.
        self.unconfirmed: dict[bytes, bytes] = {}
        #: Ids of the tasks that are offered to this node; set by the Taking. Of one that we had
        #: given away, by the word of an adopted journal, that is what our own journal says.
        self.incoming: Container[bytes] = ()
        #: {task id: taker} whose being given is being written.
        self.deciding: dict[bytes, bytes] = {}
        #: Given and confirmed, and on the way out of the journal.
        self.dropping: dict[bytes, None] = {}
        self._heirs = given.heirs
        #: Nodes whose journals are in ours, as ``took_over`` was told: ended ones, and this one.
        self.former: dict[bytes, None] = {}
        #: {(link, whom it was offered to): what to say}.
        self._words: dict[tuple[LinkId, bytes], _Words] = {}
        #: {task id: link on which its taker asked while the offer still stood}.
        self._owed: dict[bytes, LinkId] = {}
        #: {name of a taker: tasks given to it since ``leave``}.
        self._report: dict[str, int] = {}

    # --- links ----------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there; say again what it has not confirmed."""
        if not self.links.up(link, peer):
            return
        self.offering.link_up(link, peer)
        self._say_again(peer.node, link)

    def link_down(self, link: LinkId, peer: Hello, reason: str) -> None:
        """What was offered there is ours again; what was said there may be lost."""
        other = self.links.down(link)
        for key in [key for key in self._words if key[0] == link]:
            del self._words[key]
        for task_id in [key for key, asked_on in self._owed.items() if asked_on == link]:
            del self._owed[task_id]
        withdrawn = self.offering.link_down(link, peer.node, other)
        self.dispatcher.put_back(withdrawn)
        # It, or its heir, may have asked elsewhere, and we were silent as the offer stood.
        self._say_kept(withdrawn, other, peer.node)
        if other is not None:
            self._say_again(peer.node, other)

    def link_paused(self, link: LinkId, paused: bool) -> None:
        """Offer it nothing new, or again."""
        self.offering.link_paused(link, paused)

    def heir_announced(self, link: LinkId, heir: bytes, nodes: Sequence[bytes]) -> None:
        """The node behind this link has the journals of these nodes: what they were given
        is its own now."""
        if heir == self.node:
            return
        self.given.inherited(heir, nodes)
        if self.links.peer(link) is not None:
            self._say_again(heir, link)

    def _say_again(self, node: bytes, link: LinkId) -> None:
        for task_id, taker in self.unconfirmed.items():
            if taker == node or self._heirs.of(taker) == node:
                self._words_for(link, taker).given.append(task_id)

    def _say_kept(self, ids: Sequence[bytes], link: LinkId | None, taker: bytes) -> None:
        """To the taker; and where it has asked meanwhile, if that was on another link."""
        if link is not None:
            self._words_for(link, taker).kept += ids
        for task_id in ids if self._owed else ():
            asked_on = self._owed.pop(task_id, None)
            if asked_on is not None and asked_on != link:
                self._words_for(asked_on, taker).kept.append(task_id)

    def _words_for(self, link: LinkId, taker: bytes) -> _Words:
        return self._words.setdefault((link, taker), _Words())

    # --- after a restart ------------------------------------------------------------------

    def resume(self, records: Iterable[OwnedRecord]) -> None:
        """The journal's tasks; those that were given away are remembered."""
        for record in records:
            mark = parse_mark(record.mark)
            if isinstance(mark, Given):
                taker = taker_in(mark)
                self.unconfirmed[record.id] = taker
                self.given.gave([record.id], taker, follow=False, exts=[record.ext])
                link = self.links.to(self._heirs.of(taker))
                if link is not None:
                    self._words_for(link, taker).given.append(record.id)

    def took_over(self, nodes: Sequence[bytes]) -> None:
        """The journals of these nodes are in ours, as far as they go: what we had given to
        them and is not there, they had taken and done with."""
        former = dict.fromkeys(nodes)
        self.former.update(former)
        done = [task_id for task_id, taker in self.unconfirmed.items() if taker in former]
        for task_id in done:
            del self.unconfirmed[task_id]
        if done:
            self.forget(done)
        self.given.inherited(self.node, nodes)

    def is_heir_of(self, node: bytes) -> bool:
        """The journal of that (ended) node is in ours."""
        return node in self.former

    def take_back(self, task_id: bytes) -> bool:
        """We own it again, as the heir of its taker; False if we had not given it."""
        if self.unconfirmed.pop(task_id, None) is None:
            return False
        self.given.back([task_id])
        return True

    # --- messages -------------------------------------------------------------------------

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """A message from a taker; False if it is none of a giver's."""
        peer = self.links.peer(link)
        if not isinstance(message, (Stored, Taken, Resolve)):
            return False
        if peer is None:
            return True
        if isinstance(message, Stored):
            self._stored(link, peer, message, now_ms)
        elif isinstance(message, Taken):
            self.confirmed(message.ids, peer.node)
        else:
            self._resolve(link, message.ids, message.taker)
        return True

    def _stored(self, link: LinkId, peer: Hello, message: Stored, now_ms: int) -> None:
        offer = self.offering.answered(link, message.request)
        if offer is None:
            return  # of an earlier link, and taken back since
        if self.is_heir_of(peer.node):
            # Read late: that node has ended, and what it had stored is here.
            self.dispatcher.put_back(task.id for task, _ in offer.tasks)
            return
        if message.refused or message.left:
            self.offering.pause(peer.node, now_ms)
        if message.refused:
            ids = [task.id for task, _ in offer.tasks]
            for task, _ in offer.tasks:
                task.is_fleeting = False
            self.dispatcher.put_back(ids)
            self._say_kept(ids, link, peer.node)
            text = f"{peer.name} takes no tasks at the moment: {message.refused}"
            self.effects.append(Note("info", "handoff.refused", text, text))
        else:
            self._decide(offer, dict.fromkeys(message.left))

    def _decide(self, offer: Offered, left: Mapping[bytes, None]) -> None:
        """The taker has them: from the note on they are no longer ours."""
        owner = self.dispatcher
        going: list[OwnedTask] = []
        back: list[bytes] = []
        for task, attempt in offer.tasks:
            if (
                task.id not in left
                and self._stands(task, offer.taker)
                and owner.is_as_offered(task, attempt)
            ):  # fmt: skip
                going.append(task)
            else:  # left, or it has settled meanwhile, or its attempt came to nothing
                back.append(task.id)
        owner.put_back(back)
        if back:
            # Of those left, too: it may have asked about an earlier offer of them.
            self._say_kept(back, offer.link, offer.taker)
        if not going:
            return
        mark = given_mark(offer.taker, self.node)
        self.deciding.update((task.id, offer.taker) for task in going)
        self.custody.note(
            [Progress(task.id, task.attempt, task.strikes, mark) for task in going],
            partial(self._decided, going, offer.taker, offer.link),
            sync=True,
        )

    def _stands(self, task: OwnedTask, taker: bytes) -> bool:
        owner = self.dispatcher
        is_same = owner.tasks.get(task.id) is task
        return is_same and owner.is_offered(task.id) and task.offered == taker

    def _decided(
        self, tasks: Sequence[OwnedTask], taker: bytes, offered_on: LinkId, _refusal: str
    ) -> None:
        owner = self.dispatcher
        if self.is_heir_of(taker):
            self._keep(tasks)
            return
        gone = owner.give(task.id for task in tasks)
        given = [task.id for task in gone]
        for task_id in given:
            del self.deciding[task_id]
            self._owed.pop(task_id, None)
        self.unconfirmed.update(dict.fromkeys(given, taker))
        holder = self._heirs.of(taker)
        follow = self.follow and not self.offering.is_leaving
        self.given.gave(given, taker, follow=follow, exts=[task.ext for task in gone])
        if holder != taker:
            self.given.moved(given, holder)  # which does not know that we want to hear of them
        self.answers.moved(given, holder)
        if len(given) < len(tasks):
            # These have settled meanwhile. Their note says "given" until the journal has
            # dropped them; only then may the taker forget them.
            settled = [task.id for task in tasks if task.id in self.deciding]
            self.custody.note([], partial(self._settled, settled, taker), sync=True)
        link = self.links.to(holder)
        peer = self.links.peer(link) if link is not None else None
        name = peer.name if peer is not None else format_node(holder)
        for task_id in given:
            owner.stories.tell(task_id, "given", to=name)
        if self.offering.is_leaving and given:
            self._report[name] = self._report.get(name, 0) + len(given)
        if link is not None:
            self._words_for(link, taker).given += given
            if follow and holder == taker and link.peer != offered_on.peer:
                # It was started again, and its journal does not say that we want to hear of them.
                self.given.watch(link, given)

    def _keep(self, tasks: Sequence[OwnedTask]) -> None:
        """While it was written the journal of the taker came into ours."""
        owner = self.dispatcher
        kept = [task for task in tasks if owner.is_offered(task.id)]
        self.custody.note(
            [Progress(task.id, task.attempt, task.strikes, MARK_OWNED) for task in kept],
            None,
            sync=True,
        )
        for task in tasks:
            del self.deciding[task.id]
        owner.put_back(task.id for task in kept)

    def _settled(self, ids: Sequence[bytes], taker: bytes, _refusal: str) -> None:
        for task_id in ids:
            self.deciding.pop(task_id, None)
        self._say_kept(ids, self.links.to(self._heirs.of(taker)), taker)

    def confirmed(self, ids: Iterable[bytes], taker: bytes) -> None:
        """These are active at this node, durably."""
        ours = [task_id for task_id in dict.fromkeys(ids) if task_id in self.unconfirmed]
        if not ours:
            return
        for task_id in ours:
            if self.unconfirmed.pop(task_id) != taker:
                self.given.moved([task_id], taker)
        self.forget(ours)

    def forget(self, ids: Sequence[bytes]) -> None:
        """The journal need not hold these any longer, but for those that are offered to us."""
        ids = [task_id for task_id in ids if task_id not in self.incoming]
        self.dropping.update(dict.fromkeys(ids))
        self.custody.drop(ids, partial(self._dropped, ids), sync=False)

    def _dropped(self, ids: Sequence[bytes], _refusal: str) -> None:
        for task_id in ids:
            self.dropping.pop(task_id, None)

    def _resolve(self, link: LinkId, ids: Iterable[bytes], taker: bytes) -> None:
        words = self._words_for(link, taker)
        owner = self.dispatcher
        for task_id in ids:
            task = owner.tasks.get(task_id)
            if self.deciding.get(task_id) == taker:
                self._owed[task_id] = link
                continue
            if self.unconfirmed.get(task_id) == taker:
                words.given.append(task_id)
            elif task is not None:
                if self._stands(task, taker):
                    self._owed[task_id] = link
                else:
                    words.kept.append(task_id)
            elif owner.kept.get(task_id) is not None or self.given.was_given(task_id):
                words.kept.append(task_id)
            else:
                words.unknown.append(task_id)

    # --- leaving --------------------------------------------------------------------------

    def leave(self, now_ms: int) -> None:
        """This node ends: give away whatever is open, until ``end``."""
        self.offering.leave()

    def end(self) -> None:
        """Give nothing more away; what is offered stays here, and its takers are told so.

        Goodbyes come after the effects of this. A decision that is being written stands:
        wait for ``custody.is_writing`` to turn False, so that the taker hears of it too.
        """
        for offer in self.offering.end():
            ids = [task.id for task, _ in offer.tasks]
            self.dispatcher.put_back(ids)
            self._say_kept(ids, offer.link, offer.taker)
        self._send_offers()
        self._speak()

    def left(self) -> int:
        """Open tasks that nobody else has taken."""
        return len(self.dispatcher.tasks)

    @property
    def is_giving(self) -> bool:
        """Something is on its way to a taker, that may still take it."""
        return bool(self.offering.offers or self.deciding)

    @property
    def has_takers(self) -> bool:
        """Some node that takes tasks is linked."""
        return bool(self.offering.takers)

    def leaving_report(self) -> dict[str, int]:
        """{name of a taker: tasks given to it} since ``leave``."""
        return dict(self._report)

    # --- the end of a turn ----------------------------------------------------------------

    def flush(self, now_ms: int) -> None:
        """Say what was decided, then offer what should go elsewhere: once a turn."""
        # Offers that the journal has let go come before the word that takes them back.
        self._send_offers()
        if self._words:
            self._speak()
        self.offering.flush(now_ms)
        self._send_offers()

    def _send_offers(self) -> None:
        if self.offering.effects:
            self.effects += self.offering.effects
            self.offering.effects.clear()

    def tick(self, now_ms: int) -> None:
        """Time has passed; ``flush`` looks at it."""

    def next_deadline_ms(self) -> int | None:
        """When ``flush`` is wanted next."""
        return self.offering.next_deadline_ms()

    def _speak(self) -> None:
        """Before new offers, which it does not concern."""
        words, self._words = self._words, {}
        for (link, taker), said in words.items():
            if self.links.peer(link) is None or not (said.given or said.kept or said.unknown):
                continue
            # Several reasons to say it may have come together.
            given, kept, unknown = (
                list(dict.fromkeys(ids)) for ids in (said.given, said.kept, said.unknown)
            )
            handed = Handed(self.offering.number, given, kept, unknown, taker)
            self.effects.append(Send(link, handed))
