"""How many tasks each dispatcher may give an intake, and telling them.

Credit is an absolute number for each link, so a repeated or late message does no harm.
How much is granted follows from how long tasks take: enough to bridge the way to the
owner and back, nothing more; behind long tasks nothing waits here at all.
"""

from __future__ import annotations

from math import ceil

from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import Credit

#: Work that the intake may hold for each slot: bridges owner and node.
_AHEAD_MS = 10
_AHEAD_COUNT_MAX = 512
#: Above this mean run time (or while it is not known) nothing waits behind a running task,
#: where it could not run though another worker is idle; the way there and back costs little.
_LONG_US = 200_000


class Giver:
    """A dispatcher on the other end of a link, and its credit."""

    __slots__ = (
        "backlog", "finished", "is_leased", "is_regular", "limit", "node", "received", "told",
    )  # fmt: skip

    def __init__(self, node: bytes, *, is_regular: bool) -> None:
        self.node = node
        #: Giving tasks is its role, so it has some credit before it asks for any.
        self.is_regular = is_regular
        #: False while it may have given us up.
        self.is_leased = True
        self.backlog = 0
        self.received = 0
        self.finished = 0
        self.limit = 0
        self.told = 0


def window_of(slots: int, mean_us: float) -> int:
    """Tasks to have here or on their way, for all links together.

    Args:
        slots: of the pool.
        mean_us: smoothed run time over all kinds in microseconds, below 0: not known.
    """
    if mean_us < 0 or mean_us > _LONG_US:
        return slots
    ahead = ceil(slots * _AHEAD_MS * 1000 / max(mean_us, 1.0))
    return slots + min(max(ahead, 1), _AHEAD_COUNT_MAX * slots)


def limit_for(giver: Giver | None) -> int:
    """Credit to report with outcomes; counts as told."""
    if giver is None:
        return 0
    giver.told = giver.limit
    return giver.limit


def deal_credit(givers: dict[LinkId, Giver], slots: int, mean_us: float) -> list[Effect]:
    """Set each giver's limit; returns news for those that would wait for it otherwise."""
    window = window_of(slots, mean_us)
    asking = sum(1 for g in givers.values() if g.backlog or g.received > g.finished)
    share = ceil(window / max(1, asking))
    regular = sum(1 for g in givers.values() if g.is_regular)
    token = ceil(slots / max(1, regular)) if regular <= 4 * slots else 0
    effects: list[Effect] = []
    for link, giver in givers.items():
        if not giver.is_leased:
            continue  # what it sent now would come back to it
        active = giver.backlog or giver.received > giver.finished
        first = token if giver.is_regular else 0
        limit = giver.finished + (max(share, first) if active else first)
        giver.limit = max(giver.limit, limit)
        gain = giver.limit - giver.told
        starved = giver.told <= giver.received
        if gain > 0 and (starved or gain * 2 >= share):
            giver.told = giver.limit
            effects.append(Send(link, Credit(giver.limit)))
    return effects
