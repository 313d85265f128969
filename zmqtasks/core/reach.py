"""Which nodes can be spoken to now, and which may come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zmqtasks.core.contacts import Contact
from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.succession import has_journal
from zmqtasks.limits import HEIR_AWAY_MS, OWNER_GONE_MS
from zmqtasks.wire.messages import Hello

#: Nodes with one of these roles have journals, as a rule.
_HEIR_ROLES = frozenset(("worker", "broker", "store", "beat"))


class _Away(NamedTuple):
    """A node whose last link closed."""

    #: It may come back.
    until_ms: int
    #: It may own tasks of others, until then.
    heir_until_ms: int
    #: It may own tasks whose ids do not name it, until then.
    chosen_until_ms: int


class Reach:
    """The nodes that one node can reach.

    Args:
        membership: its links and candidates.
    """

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        #: {node: link}, the open link to use for it.
        self.links: dict[bytes, LinkId] = {}
        #: {node that is away: how long it may come back}.
        self._away: dict[bytes, _Away] = {}

    def link_up(self, link: LinkId, node: bytes) -> None:
        """A link is open; the first of a node is the one that is used."""
        used = self.links.setdefault(node, link)
        if used.peer != link.peer:  # of an earlier life of the node
            self.links[node] = link
        self._away.pop(node, None)

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

    def away(self, peer: Hello, now_ms: int, for_ms: int) -> None:
        """The last link to it closed; for so long it may come back, or have an heir."""
        heir_ms = for_ms if "broker" in peer.roles else HEIR_AWAY_MS if has_journal(peer) else 0
        times_ms = (for_ms, min(heir_ms, for_ms), min(HEIR_AWAY_MS, for_ms))
        self._away[peer.node] = _Away(*(now_ms + time_ms for time_ms in times_ms))

    def is_heir_away(self, now_ms: int) -> bool:
        """Somebody cannot be asked who may own whatever nobody else knows."""
        if any(now_ms < away.heir_until_ms for away in self._away.values()):
            return True
        return any(
            not _HEIR_ROLES.isdisjoint(contact.candidate.roles)
            for contact in self._unreached(now_ms)
        )

    def _unreached(self, now_ms: int) -> Iterator[Contact]:
        """Nodes that were heard of and are not linked, for a while."""
        for node, contact in self.membership.candidates.items():
            is_here = node in self.links or contact.candidate.source == "cache"  # of the last run
            if not is_here and contact.failing_ms(now_ms) < HEIR_AWAY_MS:
                yield contact

    def may_live(self, node: bytes, now_ms: int) -> bool:
        """The node is not linked, and nothing proves that it is gone.

        Args:
            node: as the id of a task names it. Where its caller chose the id, that is
                nobody, and any node may be meant, also a script.
            now_ms: the time.
        """
        if node in self.links or node == self.membership.hello.node:
            return False
        if node in self._away and now_ms < self._away[node].until_ms:
            return True
        contact = self.membership.candidates.get(node)
        if contact is not None:
            return contact.failing_ms(now_ms) < OWNER_GONE_MS
        is_any_away = any(now_ms < away.chosen_until_ms for away in self._away.values())
        return is_any_away or next(self._unreached(now_ms), None) is not None

    def tick(self, now_ms: int) -> None:
        """Wait no longer for nodes that have been silent for too long."""
        for node, away in list(self._away.items()):
            if now_ms >= away.until_ms:
                del self._away[node]
