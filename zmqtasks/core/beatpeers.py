"""The other beats of an application, and which of all of them leads.

Whoever of those in sight began first leads. So one that comes changes nothing, and one that
goes is followed by the next. Two that cannot see each other both lead: what they start then is
the same tasks, see ``ticks.py``.
"""

from __future__ import annotations

from zmqtasks.core.links import DRAINING, LinkId
from zmqtasks.limits import BEAT_LISTEN_MS
from zmqtasks.wire.messages import Hello

#: Key in ``Hello.ext`` of a beat: its application, and when it began (wall clock, milliseconds
#: since 1970), in a list.
BEAT_KEY = "bt"


class BeatPeer:
    """Another beat of the same application."""

    def __init__(self, name: str, since_ms: int, now_ms: int) -> None:
        self.name = name
        self.since_ms = since_ms
        #: Its links, one of which is used.
        self.links: dict[LinkId, None] = {}
        #: Those over which it is silent.
        self.paused: set[LinkId] = set()
        #: It is about to leave.
        self.is_draining = False
        #: It has told all that it knows.
        self.has_told = False
        #: When it is not waited for any longer.
        self.patience_ms = now_ms + BEAT_LISTEN_MS

    @property
    def is_live(self) -> bool:
        """It can lead."""
        return not self.is_draining and len(self.paused) < len(self.links)


class BeatPeers:
    """Those that are linked.

    Args:
        node: id of this node.
        app: application of this beat.
        since_ms: when it began, wall clock.
    """

    def __init__(self, node: bytes, app: str, since_ms: int) -> None:
        self.node = node
        self.app = app
        self.since_ms = since_ms
        self.there: dict[bytes, BeatPeer] = {}

    def is_one(self, peer: Hello) -> bool:
        """It is another beat of the same application."""
        return _facts_of(peer)[0] == self.app

    def up(self, link: LinkId, peer: Hello, now_ms: int) -> bool:
        """It is there; returns whether it was not before."""
        known = self.there.get(peer.node)
        if known is None:
            known = self.there[peer.node] = BeatPeer(peer.name, _facts_of(peer)[1], now_ms)
        is_new = not known.links
        known.links[link] = None
        self.changed(peer)
        return is_new

    def down(self, link: LinkId, node: bytes) -> bool:
        """A link to it is closed; returns whether that was the last one."""
        known = self.there.get(node)
        if known is None:
            return False
        known.links.pop(link, None)
        known.paused.discard(link)
        if known.links:
            return False
        del self.there[node]
        return True

    def paused(self, link: LinkId, node: bytes, is_paused: bool) -> bool:
        """It is silent, or speaks again; returns whether it cannot lead for that."""
        known = self.there.get(node)
        if known is None or link not in known.links:
            return False
        if is_paused:
            known.paused.add(link)
        else:
            known.paused.discard(link)
        return not known.is_live

    def changed(self, peer: Hello) -> None:
        """It says of itself something else than before."""
        known = self.there.get(peer.node)
        if known is not None:
            known.is_draining = DRAINING in peer.ext
            known.since_ms = _facts_of(peer)[1]

    def told(self, node: bytes) -> None:
        """It has told all that it knows."""
        if node in self.there:
            self.there[node].has_told = True

    def is_live(self, node: bytes) -> bool:
        """This other node is there, and sees to what it has started."""
        known = self.there.get(node)
        return known is not None and known.is_live

    def listen_until_ms(self, now_ms: int) -> int:
        """Until when to wait for those that have not told what they know; 0: for nobody."""
        waits = (
            peer.patience_ms for peer in self.there.values()
            if not peer.has_told and peer.is_live and peer.patience_ms > now_ms
        )  # fmt: skip
        return max(waits, default=0)

    def leader(self, *, with_us: bool) -> bytes | None:
        """The node that leads; ``with_us``: this one can."""
        able = [(peer.since_ms, node) for node, peer in self.there.items() if peer.is_live]
        if with_us:
            able.append((self.since_ms, self.node))
        return min(able)[1] if able else None

    def links(self) -> list[LinkId]:
        """One link to each."""
        return [
            next((link for link in peer.links if link not in peer.paused), next(iter(peer.links)))
            for peer in self.there.values()
        ]


def _facts_of(peer: Hello) -> tuple[str | None, int]:
    facts = peer.ext.get(BEAT_KEY)
    if "beat" in peer.roles and isinstance(facts, list) and len(facts) == 2:
        app, since_ms = facts
        if isinstance(app, str) and isinstance(since_ms, int):
            return app, since_ms
    return None, 0
