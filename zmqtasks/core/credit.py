"""How many tasks each dispatcher may give an intake, and telling them.

Credit is an absolute number for each link, so a repeated or late message does no harm.
How much is granted follows from how long tasks take: enough to bridge the way to the
owner and back, nothing more; behind long tasks nothing waits here at all. A slot that runs
what takes long, or may, counts for that task alone, and what waits of such kinds counts as
a slot's worth, so short ones never come for slots that are taken.

What there is goes to those who ask, first to who has least, and in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.links import LinkId
from zmqtasks.wire.messages import Credit

#: Work that the intake may hold for each slot: bridges owner and node.
_AHEAD_MS = 10
_AHEAD_COUNT_MAX = 512
#: Above this mean run time (or while it is not known) nothing waits behind a running task,
#: where it could not run though another worker is idle; the way there and back costs little.
SLOW_US = 200_000


class Giver:
    """A dispatcher on the other end of a link, and its credit."""

    __slots__ = (
        "backlog", "finished", "is_leased", "is_regular", "limit", "most", "node", "received",
        "told", "turn",
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
        #: The most that it was ever told.
        self.most = 0
        #: When it got credit last, in an order of its own: whoever waits longest is first.
        self.turn = 0

    @property
    def has(self) -> int:
        """What it holds here, and may send."""
        return max(self.limit, self.received) - self.finished

    def void(self) -> None:
        """It may send no more for now; what is on its way comes nevertheless."""
        self.limit = self.told = min(self.limit, self.received)


def window_of(slots: int, mean_us: float) -> int:
    """Tasks to have here or on their way, for all links together.

    Args:
        slots: of the pool, without those that are taken for long.
        mean_us: smoothed run time over all kinds in microseconds, below 0: not known.
    """
    if mean_us < 0 or mean_us > SLOW_US or not slots:
        return slots
    ahead = ceil(slots * _AHEAD_MS * 1000 / max(mean_us, 1.0))
    return slots + min(max(ahead, 1), _AHEAD_COUNT_MAX * slots)


def limit_for(giver: Giver | None) -> int:
    """Credit to report with outcomes; counts as told."""
    if giver is None:
        return 0
    giver.told = giver.limit
    giver.most = max(giver.most, giver.limit)
    return giver.limit


class Credits:
    """Deals the credit of one intake."""

    def __init__(self) -> None:
        self._turn = 0

    def deal(
        self, givers: dict[LinkId, Giver], held: int, window: int, free_slots: int
    ) -> list[Effect]:
        """Set each giver's limit.

        Args:
            givers: all of them.
            held: tasks that are here.
            window: tasks that should be here or on their way.
            free_slots: slots that are not taken for long.

        Returns:
            News for those that would wait for it otherwise.
        """
        asking: list[Giver] = []
        active = regular = 0
        for giver in givers.values():
            regular += giver.is_regular
            if giver.is_leased:  # what others sent would come back to them
                if giver.backlog:
                    asking.append(giver)
                active += giver.backlog > 0 or giver.received > giver.finished
        share = ceil(window / (active or 1))
        if free_slots:
            token = ceil(free_slots / (regular or 1)) if regular <= 4 * free_slots else 0
            for giver in givers.values():
                if giver.backlog or not giver.is_leased:
                    continue
                least = token if giver.is_regular else 0
                if share > least and giver.received > giver.finished:
                    least = share
                giver.limit = max(giver.limit, giver.finished + least)
        unused = sum([max(0, giver.limit - giver.received) for giver in asking])
        if asking and window > held + unused:
            self._grant(asking, window - held - unused)
        return [
            Send(link, Credit(limit_for(giver)))
            for link, giver in givers.items()
            if giver.limit > giver.told
            and giver.is_leased
            and (giver.told <= giver.received or (giver.limit - giver.told) * 2 >= share)
        ]

    def _grant(self, asking: Sequence[Giver], room: int) -> None:
        """Raise those who have least to the same level; what is left goes to who waits."""
        self._turn += 1
        if len(asking) == 1:
            asking[0].limit = max(asking[0].limit, asking[0].received) + room
            return
        ranked = sorted(asking, key=lambda giver: (giver.has, giver.turn))
        count, total = 0, 0
        for giver in ranked:
            if giver.has * count - total >= room:
                break
            count, total = count + 1, total + giver.has
        level, left = divmod(total + room, count)
        lowest = sorted(ranked[:count], key=lambda giver: giver.turn)
        for position, giver in enumerate(lowest):
            goal = giver.finished + level + (position < left)
            if goal > giver.limit:
                giver.limit = goal
                giver.turn = self._turn
