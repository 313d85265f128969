"""What an intake holds, and for whom: the links to those who give tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator

from zmqtasks.core.credit import Giver, limit_for
from zmqtasks.core.effects import AnswerSlot, Effect, Send
from zmqtasks.core.gates import Gates
from zmqtasks.core.held import HeldTask
from zmqtasks.core.links import LANE, SELF, LinkId
from zmqtasks.core.requirements import Stock
from zmqtasks.core.returns import Returns
from zmqtasks.core.slots import Slots
from zmqtasks.core.workqueue import WorkQueue
from zmqtasks.wire.messages import Hello, RejectCode, Started

NO_LEASE = "the owner was not heard for too long"
NO_OWNER = "the owner of the running task is gone, so nobody can own this one"


class HeldTasks:
    """The base of the Intake, which adds messages and slots.

    Args:
        slots: how many slots the pool will have.
        stock: tags and resources of this worker.
    """

    def __init__(self, slots: int, stock: Stock) -> None:
        self.effects: list[Effect] = []
        #: Who gives tasks or has asked for credit, of all who might.
        self.givers: dict[LinkId, Giver] = {}
        self.queue = WorkQueue()
        self.gates = Gates(stock)
        self.pool = Slots(slots, self.queue, self.gates, self._kept_from)
        #: {slot number: state}, the slots that exist now.
        self.slots = self.pool.states
        self.held_bytes = 0
        self._peers: dict[LinkId, Giver] = {}
        #: {worker on another node: names of its tasks}, for rates that all share.
        self._mates: dict[LinkId, frozenset[str]] = {}
        self._returns = Returns(self.limit_for)
        #: {request: (slot, its own number, link)} of tasks that running ones submit.
        self._submits: dict[int, tuple[int, int, LinkId]] = {}
        self._deal_again = True

    def look_at_links(self, unacked_bytes: Callable[[LinkId], int]) -> None:
        """Tell owners of news by how much they have not acknowledged yet."""
        self._returns.unacked_bytes = unacked_bytes

    def _kept_from(self, task: HeldTask, hold_ms: int) -> None:
        """A gate does not let it start."""
        raise AssertionError("only an intake starts tasks")

    # --- links --------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A peer is there. Any may give tasks, since any may own some."""
        is_regular = not {"producer", "broker", "beat"}.isdisjoint(peer.roles)
        self._peers[link] = Giver(peer.node, is_regular=is_regular)
        self.givers.pop(link, None)
        if is_regular:
            self._giver_at(link)
        self._mate(link, peer)

    def peer_changed(self, link: LinkId, peer: Hello) -> None:
        """It says something else of itself."""
        self._mates.pop(link, None)
        self._mate(link, peer)
        self._share_rates()

    def _mate(self, link: LinkId, peer: Hello) -> None:
        if link != SELF and peer.slots > 0:
            self._mates[link] = frozenset(entry.name for entry in peer.catalog)
            self._share_rates()
            self._rates_heard(peer)

    def _rates_heard(self, peer: Hello) -> None:
        """Another worker says what all of them together may start."""

    def _share_rates(self) -> None:
        """Each node has its share of the rates, however many links there are to it."""
        by_node = {link.peer: names for link, names in self._mates.items()}
        self.gates.rates.share(by_node.values())

    def _giver_at(self, link: LinkId) -> Giver | None:
        """Who is at the other end of this link, now that it gives tasks."""
        giver = self._peers.get(link)
        if giver is not None and link not in self.givers:
            self.givers[link] = giver
            self._deal_again = True
        return giver

    def is_linked(self, link: LinkId) -> bool:
        """The link is up."""
        return link in self._peers

    def link_down(self, link: LinkId) -> None:
        """Its unstarted tasks go; what runs goes on and is reported when it returns."""
        if self._mates.pop(link, None) is not None:
            self._share_rates()
        self._peers.pop(link, None)
        if self.givers.pop(link, None) is None:
            return
        self._take_waiting(lambda task: task.link == link)
        self._returns.link_down(link)
        for request, (slot, child_request, via) in list(self._submits.items()):
            if via == link:
                del self._submits[request]
                self.effects.append(AnswerSlot(slot, child_request, NO_OWNER, []))
        self._deal_again = True

    def lease_changed(self, link: LinkId, is_leased: bool) -> None:
        """Without a lease the owner may have given its tasks to others: start none."""
        giver = self._peers.get(link)
        if giver is None:
            return
        giver.is_leased = is_leased
        self._deal_again = True
        if not is_leased:
            self._return_waiting(lambda task: task.link == link, RejectCode.LEASE, NO_LEASE)

    def waiting(self) -> Iterator[HeldTask]:
        """Everything that is here and in no slot."""
        return itertools.chain(self.queue, self.gates)

    def _take_waiting(self, is_taken: Callable[[HeldTask], bool]) -> list[HeldTask]:
        taken = self.queue.take(is_taken) + self.gates.take(is_taken)
        for task in taken:
            self._let_go(task)
        return taken

    def _let_go(self, task: HeldTask) -> None:
        """It does not start here."""
        self.held_bytes -= len(task.body)
        self.gates.withdraw(task)

    def _return_waiting(
        self, is_meant: Callable[[HeldTask], bool], code: RejectCode, text: str
    ) -> None:
        for task in self._take_waiting(is_meant):
            self._give_back(task, code, text)

    # --- owners that change -------------------------------------------------------------

    def adopt(self, owners: Collection[bytes], link: LinkId) -> None:
        """The node behind this link owns now what these (ended) nodes owned.

        It hears of what runs here at once, since it waits a moment for that before it tries
        again. What has not started goes: its owner gives it anew.
        """
        giver = self._peers.get(link)
        if giver is None:
            return

        def is_meant(task: HeldTask) -> bool:
            return task.owner in owners and task.link.peer != link.peer and task.link != LANE

        self._take_waiting(is_meant)
        started: list[tuple[bytes, int]] = []
        for state in self.slots.values():
            for position, task in enumerate(state.pending):
                if is_meant(task):
                    self._hand_to(task, link, giver)
                    if position == 0:
                        task.reported = True
                        started.append((task.id, task.attempt))
        if started:
            self.effects.append(Send(link, Started(started)))

    def take_over(self, attempts: Collection[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """This very node owns these attempts now, if they are here.

        Returns:
            Those that are here. What its former owner was told of them, this one is told.
        """
        giver = self._peers[SELF]
        held = itertools.chain(self.waiting(), *(slot.pending for slot in self.slots.values()))
        found: list[tuple[bytes, int]] = []
        started: list[tuple[bytes, int]] = []
        for task in held:
            key = task.id, task.attempt
            if key in attempts and task.link != LANE:
                self._hand_to(task, SELF, giver)
                found.append(key)
                if task.reported:
                    started.append(key)
        if started:
            self.effects.append(Send(SELF, Started(started)))
        return found

    def _hand_to(self, task: HeldTask, link: LinkId, giver: Giver) -> None:
        self._count_finished(task)
        task.link, task.owner, task.giver, task.is_counted = link, giver.node, giver, False

    def _is_current(self, task: HeldTask) -> bool:
        """Its owner counts on this attempt: it came in the present session."""
        return task.giver is not None and self._peers.get(task.link) is task.giver

    def _count_finished(self, task: HeldTask) -> None:
        """Its credit is free again."""
        giver = task.giver
        if giver is not None and task.is_counted and self._is_current(task):
            giver.finished += 1
            task.is_counted = False
            self._deal_again = True

    # --- giving back ----------------------------------------------------------------------

    def _refuse(
        self, giver: Giver, link: LinkId, attempt: tuple[bytes, int, int], text: str
    ) -> None:
        giver.finished += 1
        self._deal_again = True
        self._returns.reject(link, attempt, text)

    def _give_back(self, task: HeldTask, code: RejectCode, text: str, hold_ms: int = 0) -> None:
        """Unless its owner has given this attempt up with the session that it came on."""
        if self._is_current(task):
            self._count_finished(task)
            self._returns.reject(task.link, (task.id, task.attempt, code), text, hold_ms)

    def limit_for(self, link: LinkId) -> int:
        """Credit to report with outcomes on this link; counts as told."""
        return limit_for(self.givers.get(link))
