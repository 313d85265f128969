"""Which nodes can be spoken to now, and which may come back."""

from __future__ import annotations

from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.limits import OWNER_GONE_MS
from zmqtasks.wire.messages import Hello


class Reach:
    """The nodes that one node can reach.

    Args:
        membership: its links and candidates.
    """

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        #: {node: link}, the open link to use for it.
        self.links: dict[bytes, LinkId] = {}
        #: {node that is away: until when it may come back}.
        self._away_until_ms: dict[bytes, int] = {}
        #: Those of them that own tasks of others.
        self._brokers_away: set[bytes] = set()

    def link_up(self, link: LinkId, node: bytes) -> None:
        """A link is open; the first of a node is the one that is used."""
        used = self.links.setdefault(node, link)
        if used.peer != link.peer:  # of an earlier life of the node
            self.links[node] = link
        self._away_until_ms.pop(node, None)
        self._brokers_away.discard(node)

    def link_down(self, link: LinkId, node: bytes) -> LinkId | None:
        """A link is closed.

        Returns:
            Another open link to the same process if the closed one was in use, else None.
            That of a newer life of the node comes up by itself.
        """
        if self.links.get(node) != link:
            return None
        del self.links[node]
        others = (
            other.id for other in self.membership.links.values()
            if other.is_open and other.id.peer == link.peer
        )  # fmt: skip
        other_link = next(others, None)
        if other_link is not None:
            self.links[node] = other_link
        return other_link

    def away(self, peer: Hello, until_ms: int) -> None:
        """The last link to it closed; until then it may come back, or have an heir."""
        self._away_until_ms[peer.node] = until_ms
        if "broker" in peer.roles:
            self._brokers_away.add(peer.node)

    def owner_may_live(self, node: bytes, now_ms: int) -> bool:
        """Whoever owns the tasks that this node made is not linked, and may be there."""
        return bool(self._brokers_away) or self.may_live(node, now_ms)

    def may_live(self, node: bytes, now_ms: int) -> bool:
        """The node is not linked, and nothing proves that it is gone."""
        if node in self.links or node == self.membership.hello.node:
            return False
        if now_ms < self._away_until_ms.get(node, now_ms):
            return True
        contact = self.membership.candidates.get(node)
        if contact is None:
            return False
        failing_ms = now_ms - contact.failing_since_ms if contact.failing_since_ms >= 0 else 0
        return failing_ms < OWNER_GONE_MS

    def tick(self, now_ms: int) -> None:
        """Wait no longer for nodes that have been silent for too long."""
        for node, until_ms in list(self._away_until_ms.items()):
            if now_ms >= until_ms:
                del self._away_until_ms[node]
                self._brokers_away.discard(node)
