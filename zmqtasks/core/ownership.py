"""Whose a task is: the machines of one node that decide about that, wired together.

::

    submit --> Dispatcher <----own---- Taking <--OFFER, HANDED-- other owners
                   |                      ^ held here: the node's own intake and log follow
                   +--give--> Handoff --OFFER, HANDED--> other owners
                                 |
                              GivenTasks: outcomes of what was given away come back here

All of them write through one Custody, which is flushed last: a turn makes one write of new
tasks and one of changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zmqtasks.core.adoption import Adoption
from zmqtasks.core.answers import Answers
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.given import GivenTasks
from zmqtasks.core.handoff import Handoff
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.owned import OwnedRecord, parse_mark
from zmqtasks.core.publishing import Publisher
from zmqtasks.core.revoking import Revoking
from zmqtasks.core.sayings import Sayings
from zmqtasks.core.standing import Standing
from zmqtasks.core.taking import Taking
from zmqtasks.wire.messages import Heir, Hello, Kind, Message, Outcome, States


class Ownership:
    """The tasks that this node owns, takes over and gives away.

    Args:
        hello: what this node says of itself.
        dispatcher: owns the tasks; its custody is that of all.
        answers: tells others whose a task is.
        publisher, intake: hold what ran here, whoever owns it; no intake without a worker.
        grace_ms: see :class:`GivenTasks`.
    """

    def __init__(
        self, hello: Hello, dispatcher: Dispatcher, answers: Answers, publisher: Publisher,
        intake: Intake | None, grace_ms: int,
    ) -> None:  # fmt: skip
        self.node = hello.node
        self.dispatcher = dispatcher
        self.answers = answers
        self.publisher = publisher
        self.intake = intake
        self.custody = custody = dispatcher.custody
        self.given = GivenTasks(dispatcher.kept, grace_ms, node=hello.node, owned=dispatcher.tasks)
        self.handoff = Handoff(
            hello.node, dispatcher, custody, self.given, answers,
            follow=not {"producer", "beat"}.isdisjoint(hello.roles),
            is_broker="broker" in hello.roles,
        )  # fmt: skip
        dispatcher.taker_of = self.given.taker_of
        dispatcher.refused = answers.refused
        self.taking = Taking(hello.node, hello.epoch, dispatcher, custody, self.handoff, answers)
        self.adoption = Adoption(self.taking, self.handoff)
        self.revoking = Revoking(
            dispatcher, self.given, self.handoff.links, self.taking.tasks.__contains__
        )
        self.sayings = Sayings(dispatcher, answers)
        self._standing = {key: Standing() for key in ("offered", "given", "incoming")}
        self._now_ms = 0
        #: Whose effects are to be collected, in this order.
        self.machines = (
            self.sayings, dispatcher, self.handoff, self.taking, self.given, self.revoking, custody,
        )  # fmt: skip
        answers.others += [self.taking.state_of, self.given.state_of]
        if intake is not None:
            dispatcher.link_up(SELF, hello)
            intake.link_up(SELF, hello)

    # --- what the journal holds -----------------------------------------------------------

    def resume(self, records: Sequence[OwnedRecord], heir_of: Sequence[bytes], now_ms: int) -> None:
        """Go on with what this node's journal holds; ``heir_of``: whose were merged into it."""
        owned = [record for record in records if parse_mark(record.mark) is None]
        self.dispatcher.is_heir = bool(heir_of)
        self.dispatcher.resume(owned)
        self.dispatcher.resume_results(records)
        self.dispatcher.resume_dead(records)
        self.handoff.resume(records)
        self.taking.resume(records, now_ms)
        self.adoption.ended(heir_of)

    def adopt(
        self, former: bytes, records: Sequence[OwnedRecord], heir_of: Sequence[bytes], now_ms: int
    ) -> None:
        """The journal of an ended node has come into ours."""
        owned = self.adoption.adopt(former, records, now_ms)
        self.dispatcher.is_heir = True
        self.dispatcher.resume(owned)
        self.dispatcher.resume_results(records)
        self.dispatcher.resume_dead(records)
        self.adoption.ended(heir_of)

    # --- leaving --------------------------------------------------------------------------

    def drain(self) -> None:
        """Run nothing here, and take nothing over."""
        self.dispatcher.link_paused(SELF, True)
        self.taking.draining = True

    def leave(self, now_ms: int) -> None:
        """Take nothing over any more, and give everything away."""
        self.taking.draining = True
        self.dispatcher.leave()
        self.handoff.leave(now_ms)

    def stay(self) -> dict[str, int]:
        """Give nothing more away; returns {name of a node: tasks that it has taken}."""
        self.handoff.end()
        return self.handoff.leaving_report()

    @property
    def is_undecided(self) -> bool:
        """Somebody has to be asked, or told, whose some tasks are; it may be anybody."""
        return bool(self.handoff.unconfirmed or self.taking.tasks)

    @property
    def is_deciding(self) -> bool:
        """A journal is writing, or a task is on its way from one owner to another."""
        return self.custody.is_writing or bool(self.handoff.deciding) or self.taking.expected > 0

    # --- questions ------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Plain data for `zmqtasks status`: tasks that are ``offered`` to other nodes,
        ``given`` to them without their word that they have them, and ``incoming``: offered
        to this node by one that has not said yet whose they are. ``standing`` has for each
        of these what ``Standing.describe`` tells."""
        offers = self.handoff.offering.offers.values()
        waits_for = {
            "offered": [offer.taker for offer in offers for _ in offer.tasks],
            "given": list(self.handoff.unconfirmed.values()),
            "incoming": [task.giver for task in self.taking.tasks.values()],
        }
        return {
            "standing": {
                key: self._standing[key].describe(nodes, self._now_ms)
                for key, nodes in waits_for.items()
                if nodes
            },
            "offered": sum(bool(task.offered) for task in self.dispatcher.tasks.values()),
            "given": len(self.handoff.unconfirmed),
            "incoming": len(self.taking.tasks),
        }

    # --- links and messages ---------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there."""
        self.dispatcher.link_up(link, peer)
        self.handoff.link_up(link, peer)
        self.taking.link_up(link, peer)
        self.given.link_up(link, peer)
        self.revoking.link_up(peer.node)

    def link_down(self, link: LinkId, peer: Hello, reason: str) -> None:
        """One of the links to a peer is closed."""
        self.dispatcher.link_down(link, reason)
        self.handoff.link_down(link, peer, reason)
        self.taking.link_down(link, peer, reason)
        self.given.link_down(link, peer, reason)

    def link_paused(self, link: LinkId, paused: bool) -> None:
        """A peer is silent, or speaks again."""
        self.dispatcher.link_paused(link, paused)
        self.handoff.link_paused(link, paused)

    def heir_announced(self, link: LinkId, heir: bytes, message: Heir) -> None:
        """The node behind this link has the journals of these nodes."""
        self.handoff.heir_announced(link, heir, message.nodes)
        self.taking.heir_announced(link, heir, message.nodes)

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """A message of another owner, a taker or a worker; False if it is none."""
        if isinstance(message, States):
            if self.given.received(link, message, now_ms):
                return True
            return self.taking.received(link, message, now_ms)
        return (
            self.dispatcher.received(link, message, now_ms)
            or self.handoff.received(link, message, now_ms)
            or self.taking.received(link, message, now_ms)
            or self.revoking.received(link, message)
            or self.sayings.received(link, message)
        )

    # --- turns ----------------------------------------------------------------------------

    def flush(self, now_ms: int) -> list[Outcome]:
        """Once a turn; returns what has settled, here or at other owners."""
        if self.taking.held_here:
            self._take_held(now_ms)
        self.sayings.flush()
        settled = self.dispatcher.flush(now_ms)
        self.handoff.flush(now_ms)
        self.taking.flush(now_ms)
        self.revoking.flush()
        return settled + self.given.flush(now_ms)

    def take_own_outcomes(self) -> list[tuple[Kind, Outcome]]:
        """What this node is to publish as the owner."""
        made, self.dispatcher.own_outcomes = self.dispatcher.own_outcomes, []
        return made

    def _take_held(self, now_ms: int) -> None:
        """What became ours and runs here, or has run here: tell our own dispatcher."""
        ids, self.taking.held_here = self.taking.held_here, []
        tasks = self.dispatcher.tasks
        attempts = {(task_id, tasks[task_id].attempt) for task_id in ids if task_id in tasks}
        if self.intake is not None:
            found = self.intake.take_over(attempts)
            self.dispatcher.claim(SELF, found)
            attempts.difference_update(found)
        self.publisher.take_over(sorted(attempts))

    def tick(self, now_ms: int) -> None:
        """Timers of all these machines."""
        self._now_ms = now_ms
        self._standing["offered"].look(self.handoff.offering.offers, now_ms)
        self._standing["given"].look(self.handoff.unconfirmed, now_ms)
        self._standing["incoming"].look(self.taking.tasks, now_ms)
        self.dispatcher.tick(now_ms)
        self.handoff.tick(now_ms)
        self.taking.tick(now_ms)
        self.given.tick(now_ms)

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        machines = (self.dispatcher, self.handoff, self.taking, self.given)
        deadlines = (machine.next_deadline_ms() for machine in machines)
        return min((at_ms for at_ms in deadlines if at_ms is not None), default=None)
