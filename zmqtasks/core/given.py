"""Following the tasks that this process gave away.

Somebody here may wait for their outcomes, and others ask the former owner, since its node
is in the task's id. So it remembers who has them, and asks that one to tell it when they
settle:

::

    given --(taker tells: watch)--> settled -> the tickets of this process
      |  ^
      |  +-- another taker (it was given on, or inherited)
      +----- the taker does not know it (any more): everybody is asked; when nobody knows
             it, twice in a row, and only then, it is UNKNOWN; an outcome that nobody is
             left to decide on stands

A taker that is away has its tasks in its journal. So nothing is concluded from that. One
that has ended is the same as its heir.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from zmqtasks.core.calls import UNKNOWN_STATUS
from zmqtasks.core.effects import Effect, Send, TasksSettled
from zmqtasks.core.kept import KeptOutcomes
from zmqtasks.core.links import LinkId
from zmqtasks.core.openlinks import Heirs, OpenLinks
from zmqtasks.core.polling import Findings, Polls, Suspects
from zmqtasks.ids import format_node
from zmqtasks.limits import GIVEN_REMEMBERED_MAX, HANDOFF_IDS_MAX
from zmqtasks.wire.messages import Hello, Message, Outcome, Query, StateRecord, States, TaskState

#: Number of the request under which takers tell what has settled.
WATCH_REQUEST = 0


class GivenTasks:
    """Who has the tasks that were owned here. ``effects`` is drained each turn.

    Args:
        kept: where the outcomes of followed tasks are kept for later readers.
        grace_ms: a task that nobody knows is not given up before this, since peers may
            still be found.
        node: this node's id.
        owned: ids of the tasks that are owned here.
    """

    def __init__(
        self, kept: KeptOutcomes, grace_ms: int = 0, *, node: bytes = b"",
        owned: Container[bytes] = (),
    ) -> None:  # fmt: skip
        self.kept = kept
        self.grace_ms = grace_ms
        self.node = node
        self.owned = owned
        self.heirs = Heirs()
        self.effects: list[Effect] = []
        self.links = OpenLinks()
        #: {task id: taker} of all whose outcome is awaited here.
        self.following: dict[bytes, bytes] = {}
        #: The same the other way round: {taker: task ids}.
        self._of: dict[bytes, dict[bytes, None]] = {}
        #: {task id: taker} of the last ones given away, the last one last.
        self._takers: OrderedDict[bytes, bytes] = OrderedDict()
        #: {task id: digest of its content}, of those of them whose ids their callers chose.
        self._digests: dict[bytes, bytes] = {}
        #: Those that their takers do not know.
        self._denied = Suspects()
        #: {task id: nodes that do not know it}: others may not have heard, and name them.
        self._deniers: dict[bytes, set[bytes]] = {}
        #: Somebody is out of reach who may own whatever nobody else knows.
        self.is_heir_away: Callable[[], bool] = lambda: False
        self._polls = Polls(parity=0)
        self._settled: list[Outcome] = []
        self._now_ms = 0

    # --- giving -----------------------------------------------------------------------------

    def gave(
        self, ids: Sequence[bytes], taker: bytes, *, follow: bool,
        exts: Iterable[dict[str, Any] | None] = (),
    ) -> None:  # fmt: skip
        """These belong to another node from now on.

        Args:
            ids: of the tasks.
            taker: that node.
            follow: somebody here waits for their outcomes; the taker tells them.
            exts: what else is known of them, in the same order.
        """
        takers = self._takers
        for task_id, ext in zip(ids, exts, strict=False):
            if ext is not None and "c" in ext:
                self._digests[task_id] = ext["c"]
        for task_id in ids:
            takers[task_id] = taker
            takers.move_to_end(task_id)
        while len(takers) > GIVEN_REMEMBERED_MAX:
            forgotten, _ = takers.popitem(last=False)
            self._digests.pop(forgotten, None)
        if follow:
            self.following.update(dict.fromkeys(ids, taker))
            self._of.setdefault(taker, {}).update(dict.fromkeys(ids))

    def moved(self, ids: Iterable[bytes], taker: bytes) -> None:
        """They are with this node now, or with its heir; ask that one to tell us."""
        taker = self.heirs.of(taker)
        followed: list[bytes] = []
        for task_id in ids:
            if task_id in self._takers:
                self._takers[task_id] = taker
            before = self.following.get(task_id)
            if before is None or before == taker:
                continue
            self._of.get(before, {}).pop(task_id, None)
            self.following[task_id] = taker
            self._denied.drop(task_id)
            followed.append(task_id)
        if not followed:
            return
        self._of.setdefault(taker, {}).update(dict.fromkeys(followed))
        if taker == self.node:
            self._ended_here(followed)
        link = self.links.to(taker)
        if link is not None:
            self.watch(link, followed)

    def inherited(self, heir: bytes, nodes: Iterable[bytes]) -> None:
        """This node has what those (ended) nodes owned; it may be this one."""
        self.heirs.announced(heir, nodes)
        for node in nodes:
            if node != heir:
                self.moved(list(self._of.pop(node, {})), heir)

    def _ended_here(self, ids: Iterable[bytes]) -> None:
        """They should be with this node. Those that are not have ended at a former one."""
        for task_id in ids:
            if task_id in self.owned:
                self.back([task_id])
            else:
                self._deny(task_id, self.node)

    def back(self, ids: Iterable[bytes]) -> None:
        """They are owned here again."""
        for task_id in ids:
            self._takers.pop(task_id, None)
            self._digests.pop(task_id, None)
            self._unfollow(task_id)

    def _unfollow(self, task_id: bytes) -> None:
        taker = self.following.pop(task_id, None)
        if taker is not None:
            ids = self._of.get(taker, {})
            ids.pop(task_id, None)
            if not ids:
                self._of.pop(taker, None)
        self._denied.drop(task_id)
        self._deniers.pop(task_id, None)

    # --- what is known ----------------------------------------------------------------------

    def taker_of(self, task_id: bytes) -> bytes | None:
        """The node that has it; None if none was given it, or long ago, or has ended and
        left it here."""
        taker = self.following.get(task_id) or self._takers.get(task_id)
        taker = self.heirs.of(taker) if taker is not None else None
        return None if taker == self.node else taker

    def was_given(self, task_id: bytes) -> bool:
        """It was owned here and given away, not long ago."""
        return task_id in self.following or task_id in self._takers

    def state_of(self, task_id: bytes) -> StateRecord | None:
        """What a former owner can say; None if it was not one."""
        taker = self.taker_of(task_id)
        if taker is None:
            return None
        link = self.links.to(taker)
        peer = self.links.peer(link) if link is not None else None
        name = peer.name if peer is not None else f"node {format_node(taker)}"
        why = f"it was handed to {name}, which owns it now"
        if peer is None:
            why += " and is out of reach at the moment"
        info = {"why": why, "taker": taker}
        if task_id in self._digests:
            info["c"] = self._digests[task_id]
        return StateRecord(task_id, TaskState.PENDING, info, None)

    # --- links ------------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A node is there: ask for what it has of ours."""
        ids = self._of.get(peer.node)
        if self.links.up(link, peer) and ids:
            self.watch(link, list(ids))

    def link_down(self, link: LinkId, peer: Hello, reason: str) -> None:
        """It tells no more; over another link it may."""
        other = self.links.down(link)
        self._polls.link_down(link)
        ids = self._of.get(peer.node)
        if other is not None and ids:
            self.watch(other, list(ids))

    def watch(self, link: LinkId, ids: Sequence[bytes]) -> None:
        """Have whoever is behind this link tell how these end."""
        for first in range(0, len(ids), HANDOFF_IDS_MAX):
            part = list(ids[first : first + HANDOFF_IDS_MAX])
            self.effects.append(Send(link, Query(WATCH_REQUEST, part, True)))

    def received(self, link: LinkId, message: Message, now_ms: int) -> bool:
        """News of a taker, or an answer to what everybody was asked; False: neither."""
        if not isinstance(message, States):
            return False
        if message.request == WATCH_REQUEST:
            peer = self.links.peer(link)
            if peer is not None:
                self._news(peer.node, message.states, now_ms)
            return True
        return self._polls.answered(link, message)

    def _news(self, node: bytes, states: Iterable[StateRecord], now_ms: int) -> None:
        for record in states:
            taker = self.following.get(record.id)
            if taker is None:
                continue
            if record.state == TaskState.SETTLED and record.outcome is not None:
                self._settle(record.outcome)
                continue
            on = record.info.get("taker")
            if isinstance(on, bytes) and on != node:
                self.moved([record.id], on)
            elif record.info.get("owned"):
                self.moved([record.id], node)
                self._denied.drop(record.id)
                self._deniers.pop(record.id, None)
            elif taker == node and _is_denial(record):
                self._now_ms = now_ms
                self._deny(record.id, node)

    def _deny(self, task_id: bytes, node: bytes) -> None:
        self._denied.add(task_id, self._now_ms)
        self._deniers.setdefault(task_id, set()).add(node)

    def _settle(self, outcome: Outcome) -> None:
        self._unfollow(outcome.id)
        if outcome.status != UNKNOWN_STATUS:
            self.kept.add(outcome)
        self._settled.append(outcome)

    # --- those that their taker does not know -----------------------------------------------

    def _ask_everybody(self, now_ms: int) -> None:
        due = self._denied.due(now_ms)
        links = list(self.links)
        for first in range(0, len(due), HANDOFF_IDS_MAX):
            self._polls.start(due[first : first + HANDOFF_IDS_MAX], links, self._found)

    def may_conclude(self, since_ms: int) -> bool:
        """Whoever might know a task that has been sought since then was there to be asked."""
        return self._now_ms - since_ms >= self.grace_ms and not self.is_heir_away()

    def _found(self, findings: Findings) -> None:
        nowhere = self._judge(findings)
        if nowhere:
            # A store that had answered may have its outcome by now, from a worker that then
            # had forgotten it when it answered, or was not heard at all.
            self._polls.start(nowhere, list(self.links), self._found_again)

    def _found_again(self, findings: Findings) -> None:
        for task_id in self._judge(findings):
            unknown = Outcome(task_id, 0, UNKNOWN_STATUS, 0, -1, 0, 0, 0, b"", None)
            self._settle(unknown)

    def _judge(self, findings: Findings) -> list[bytes]:
        """Returns those that whoever might know them does not know."""
        nowhere: list[bytes] = []
        for task_id, finding in findings.items():
            if task_id not in self._denied:
                continue
            if task_id in self.owned:
                self.back([task_id])
                continue
            outcome = finding.settled
            if not (finding.owner or finding.is_offered):
                outcome = outcome or finding.unsettled  # nobody is left to decide on it
            taker = self.heirs.of(finding.taker)
            if taker in self._deniers[task_id] or taker == self.node:
                taker = b""
            elsewhere = finding.owner or taker
            if outcome is not None:
                self._settle(outcome)
            elif elsewhere and elsewhere != self.following[task_id]:
                self.moved([task_id], elsewhere)
            elif not finding.is_known and self.may_conclude(self._denied.since_ms(task_id)):
                nowhere.append(task_id)
        return nowhere

    # --- the end of a turn ------------------------------------------------------------------

    def flush(self, now_ms: int) -> list[Outcome]:
        """Ask what has to be asked; returns what was settled elsewhere, as TasksSettled."""
        self._now_ms = now_ms
        if self._denied:
            self._ask_everybody(now_ms)
        if self._polls.effects:
            self.effects += self._polls.effects
            self._polls.effects.clear()
        settled, self._settled = self._settled, []
        if settled:
            self.effects.append(TasksSettled(settled))
        return settled

    def tick(self, now_ms: int) -> None:
        """Time has passed; ``flush`` looks at it."""

    def next_deadline_ms(self) -> int | None:
        """When ``flush`` is wanted next."""
        return self._denied.next_deadline_ms()


def _is_denial(record: StateRecord) -> bool:
    """Whoever says that does not own the task, nor may become its owner. It may have run it,
    and wait for the verdict of an owner that is no more."""
    return record.state == TaskState.UNKNOWN or (
        record.state == TaskState.UNSETTLED and "offer" not in record.info
    )
