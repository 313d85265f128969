"""Asking every linked node, and perhaps this one, what it knows of some tasks, once.

Unlike an :class:`Inquiry`, which looks for the state of a task to show, this tells who
owns it, and whether anybody claims to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.ids import parse_routing_id
from zmqtasks.limits import HANDOFF_RETRY_MS, OWNER_GONE_MS
from zmqtasks.wire.messages import Outcome, Query, StateRecord, States, TaskState


class Finding:
    """What was heard about one task."""

    __slots__ = ("is_known", "offer", "owner", "settled", "taker", "unsettled")

    def __init__(self) -> None:
        #: Its final outcome.
        self.settled: Outcome | None = None
        #: An outcome that no owner has decided on.
        self.unsettled: Outcome | None = None
        #: The node that owns it, by its own word; b"" if none said so.
        self.owner = b""
        #: The node to which a former owner gave it, b"" if none said so.
        self.taker = b""
        #: The highest offer of it that a node holds unconfirmed, and that node.
        self.offer: tuple[int, bytes] = (-1, b"")
        #: Somebody knows the task, by more than having given it away.
        self.is_known = False

    @property
    def is_offered(self) -> bool:
        """A node may become its owner."""
        return bool(self.offer[1])

    def add(self, node: bytes, record: StateRecord) -> None:
        """A node has answered."""
        info = record.info
        is_hearsay = record.state == TaskState.PENDING and "taker" in info
        self.is_known |= record.state != TaskState.UNKNOWN and not is_hearsay
        if record.state == TaskState.SETTLED:
            self.settled = self.settled or record.outcome
        elif record.state == TaskState.UNSETTLED:
            self.unsettled = self.unsettled or record.outcome
        if info.get("owned"):
            self.owner = node
        taker, offer = info.get("taker"), info.get("offer")
        if isinstance(taker, bytes):
            self.taker = taker
        if isinstance(offer, int):
            self.offer = max(self.offer, (offer, node))


#: {task id: what was heard of it}.
Findings: TypeAlias = dict[bytes, Finding]


class _Suspect(NamedTuple):
    since_ms: int
    ask_ms: int
    #: From the next question to the one after it.
    delay_ms: int


class Suspects:
    """Tasks that nobody seems to know, until that is certain: everybody is asked about them
    again and again, ever more seldom."""

    def __init__(self) -> None:
        self._suspects: dict[bytes, _Suspect] = {}

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._suspects

    def add(self, task_id: bytes, now_ms: int, wait_ms: int = 0) -> None:
        """It is not known where it should be; ask everybody after that time."""
        self._suspects.setdefault(task_id, _Suspect(now_ms, now_ms + wait_ms, HANDOFF_RETRY_MS))

    def drop(self, task_id: bytes) -> None:
        """It is clear what becomes of it."""
        self._suspects.pop(task_id, None)

    def since_ms(self, task_id: bytes) -> int:
        """When it came here."""
        return self._suspects[task_id].since_ms

    def due(self, now_ms: int) -> list[bytes]:
        """Those to ask about now, which are not due again for a while."""
        due = [task_id for task_id, suspect in self._suspects.items() if suspect.ask_ms <= now_ms]
        for task_id in due:
            since_ms, _, delay_ms = self._suspects[task_id]
            later_ms = min(2 * delay_ms, OWNER_GONE_MS)
            self._suspects[task_id] = _Suspect(since_ms, now_ms + delay_ms, later_ms)
        return due

    def next_deadline_ms(self) -> int | None:
        """When some are due next."""
        return min((suspect.ask_ms for suspect in self._suspects.values()), default=None)


class _Poll:
    __slots__ = ("findings", "then", "waiting")

    def __init__(
        self, ids: Iterable[bytes], links: Iterable[LinkId], then: Callable[[Findings], None]
    ) -> None:
        self.findings: Findings = {task_id: Finding() for task_id in ids}
        self.waiting: dict[LinkId, None] = dict.fromkeys(links)
        self.then = then


class Polls:
    """Questions to everybody. ``effects`` is drained by the owner.

    Args:
        parity: 0 or 1; the two machines of a node that poll differ in it, since they use
            negative numbers of requests, which an Inquiry does not.
        node: this node, where it is among those that are asked (by the link SELF).
    """

    def __init__(self, parity: int, node: bytes = b"") -> None:
        self.node = node
        self.effects: list[Effect] = []
        self._polls: dict[int, _Poll] = {}
        self._number = parity

    def start(
        self, ids: Sequence[bytes], links: Sequence[LinkId], then: Callable[[Findings], None]
    ) -> None:
        """Ask; ``then`` is told when all have answered, or are gone."""
        self._number += 2
        poll = _Poll(ids, links, then)
        for link in links:
            self.effects.append(Send(link, Query(-self._number, list(ids), False)))
        if links:
            self._polls[-self._number] = poll
        else:
            then(poll.findings)

    def link_down(self, link: LinkId) -> None:
        """It will not answer."""
        for request, poll in list(self._polls.items()):
            if link in poll.waiting:
                self._heard(request, poll, link)

    def answered(self, link: LinkId, message: States) -> bool:
        """An answer; False if it is not to one of these questions."""
        poll = self._polls.get(message.request)
        if poll is None or link not in poll.waiting:
            return False
        parsed = parse_routing_id(link.peer)
        node = self.node if link == SELF else parsed[0] if parsed is not None else b""
        for record in message.states:
            finding = poll.findings.get(record.id)
            if finding is not None and node:
                finding.add(node, record)
        if not message.more:
            self._heard(message.request, poll, link)
        return True

    def _heard(self, request: int, poll: _Poll, link: LinkId) -> None:
        del poll.waiting[link]
        if not poll.waiting:
            del self._polls[request]
            poll.then(poll.findings)
