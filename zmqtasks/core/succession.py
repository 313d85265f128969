"""Owners that end: they come back with their journal, or another node is their heir.

::

    link lost --owner gone--> WAITING --same node, newer epoch--> it decides again
                                 |------HEIR of another node----> that one decides
                                 +------nobody came------------> the first outcome stands

Whoever owns a task now must hear what became of its attempt here, or it would try again:
outcomes it has not decided on are sent to it, and it is told what still runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.publishing import Publisher
from zmqtasks.limits import HEIR_OF_COUNT_MAX, OWNER_GONE_MS
from zmqtasks.wire.messages import Heir, Hello

#: Key in ``Hello.ext``: the node has a journal that outlives it.
JOURNAL_KEY = "j"


class Succession:
    """Who follows whom. ``effects`` is drained each turn.

    Args:
        node: this node's id.
        links: {node: the link to use for it}, kept by the owner of this machine.
        publisher: holds outcomes for owners to decide on.
        intake: runs their tasks; None without a worker.
    """

    def __init__(
        self, node: bytes, links: Mapping[bytes, LinkId], publisher: Publisher,
        intake: Intake | None,
    ) -> None:  # fmt: skip
        self.node = node
        self.links = links
        self.publisher = publisher
        self.intake = intake
        self.effects: list[Effect] = []
        #: Ended nodes whose tasks this one owns now, in the order in which they came.
        self.heir_of: dict[bytes, None] = {}
        #: {owner that has ended: when}, until it is back or there is no hope.
        self._gone_ms: dict[bytes, int] = {}

    # --- this node as an heir -------------------------------------------------------------

    def inherit(self, nodes: Iterable[bytes]) -> None:
        """This node owns now what these (ended) nodes owned: tell everybody.

        To be called when their tasks are with the dispatcher, which else would know nothing
        of the outcomes that it will hear of.
        """
        news = [node for node in nodes if node not in self.heir_of and node != self.node]
        if not news:
            return
        self.heir_of.update(dict.fromkeys(news))
        while len(self.heir_of) > HEIR_OF_COUNT_MAX:
            del self.heir_of[next(iter(self.heir_of))]
        for link in self.links.values():
            self.effects.append(Send(link, Heir(news)))
        self._follows(SELF, self.node, news)

    # --- others ---------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A node is there (again)."""
        self._gone_ms.pop(peer.node, None)
        if self.heir_of:
            self.effects.append(Send(link, Heir(list(self.heir_of))))
        if self.intake is not None:
            self.intake.adopt((peer.node,), link)
        self.publisher.report_again(link, peer.node)

    def ended(self, peer: Hello, now_ms: int) -> None:
        """The process of a node is gone, or has said goodbye.

        What the journal of a node holds waits for as long as the log keeps outcomes.
        """
        if not has_journal(peer):
            self._gone_ms[peer.node] = now_ms

    def announced(self, link: LinkId, heir: bytes, message: Heir) -> None:
        """The node behind this link owns now what these nodes owned."""
        self._follows(link, heir, [node for node in message.nodes if node != self.node])

    def _follows(self, link: LinkId, heir: bytes, owners: Sequence[bytes]) -> None:
        if self.intake is not None:
            self.intake.adopt(owners, link)
        is_news = False
        for owner in owners:
            self._gone_ms.pop(owner, None)
            is_news |= owner != heir and self.publisher.log.inherited(owner, heir)
        if is_news:
            self.publisher.report_again(link, heir)

    def tick(self, now_ms: int) -> None:
        """Nobody decides any more on what these owners left."""
        for node, gone_ms in list(self._gone_ms.items()):
            if now_ms - gone_ms >= OWNER_GONE_MS:
                del self._gone_ms[node]
                self.publisher.log.owner_gone(node)


def has_journal(peer: Hello) -> bool:
    """What this node owns outlives its process."""
    return bool(peer.ext.get(JOURNAL_KEY))
