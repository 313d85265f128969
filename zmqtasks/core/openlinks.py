"""The open links to other nodes, by node, and who speaks for nodes that have ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zmqtasks.core.links import LinkId
from zmqtasks.limits import HEIR_OF_COUNT_MAX
from zmqtasks.wire.messages import Hello


class OpenLinks:
    """Which links are open. A node may have two, if both ends dialled; the first one that
    came up is used for what is not tied to a link."""

    def __init__(self) -> None:
        self._peers: dict[LinkId, Hello] = {}
        self._of: dict[bytes, list[LinkId]] = {}
        self._sessions: dict[LinkId, int] = {}
        self._session = 0

    def up(self, link: LinkId, peer: Hello) -> bool:
        """A link is open; True for the first one to its node."""
        self._session += 1
        self._sessions[link] = self._session
        self._peers[link] = peer
        links = self._of.setdefault(peer.node, [])
        if link not in links:
            links.append(link)
        return len(links) == 1

    def down(self, link: LinkId) -> LinkId | None:
        """A link is closed; returns another one to the same node, if there is one."""
        peer = self._peers.pop(link, None)
        if peer is None:
            return None
        del self._sessions[link]
        links = self._of[peer.node]
        links.remove(link)
        if links:
            return links[0]
        del self._of[peer.node]
        return None

    def to(self, node: bytes) -> LinkId | None:
        """The link to use for a node, None if none is open."""
        links = self._of.get(node)
        return links[0] if links else None

    def peer(self, link: LinkId) -> Hello | None:
        """Who is at the other end, None if the link is closed."""
        return self._peers.get(link)

    def session(self, link: LinkId) -> int:
        """Another number each time the link comes up; 0 while it is closed."""
        return self._sessions.get(link, 0)

    def __iter__(self) -> Iterator[LinkId]:
        """One link for each node."""
        return iter([links[0] for links in self._of.values()])


class Heirs:
    """Which node has the journal of which ended one, as far as it was heard of."""

    def __init__(self) -> None:
        self._heir: dict[bytes, bytes] = {}

    def announced(self, heir: bytes, nodes: Iterable[bytes]) -> None:
        """A node says whose journals came into its own."""
        for node in nodes:
            if node != heir:
                self._heir.pop(node, None)
                self._heir[node] = heir
        while len(self._heir) > HEIR_OF_COUNT_MAX:
            del self._heir[next(iter(self._heir))]

    def of(self, node: bytes) -> bytes:
        """Who has what this node had: itself, if nobody has said so."""
        return self._heir.get(node, node)

    def formers(self, heir: bytes) -> list[bytes]:
        """The ended nodes whose journals this one has."""
        return [node for node, other in self._heir.items() if other == heir]
