"""States on their way to those who asked, no more at once than a link takes.

Outcomes may be large, and a peer may ask for very many. What waits here is not encoded
yet, so that most of it is in memory anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from zmqtasks.core.batching import MessageBounds
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.given import WATCH_REQUEST
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.limits import ANSWERS_PER_LINK_MAX, REPLAY_WINDOW_BYTES
from zmqtasks.wire.messages import StateRecord, States


class Outbox:
    """Messages for each link. ``effects`` is drained each turn.

    Args:
        unacked_bytes: what was sent on a link and not acknowledged.
    """

    def __init__(self, unacked_bytes: Callable[[LinkId], int]) -> None:
        self.effects: list[Effect] = []
        self._unacked_bytes = unacked_bytes
        self._boxes: dict[LinkId, deque[States]] = {}

    def put(
        self, link: LinkId, request: int, records: Sequence[StateRecord], *, more: bool = False
    ) -> None:
        """Tell this; ``more``: more about this request follows.

        A peer that asks and asks, and never takes an answer, is not answered in the end. But
        of tasks that it gave away it is told the outcome, or it would wait for it for ever.
        """
        box = self._boxes.setdefault(link, deque())
        bounds = MessageBounds()
        part: list[StateRecord] = []
        for record in records:
            if not bounds.takes(record.outcome.body if record.outcome is not None else None):
                box.append(States(request, part, True))
                part = []
            part.append(record)
        if len(box) < ANSWERS_PER_LINK_MAX or request == WATCH_REQUEST:
            box.append(States(request, part, more))

    def has_room(self, link: LinkId) -> bool:
        """The link takes more now."""
        return self._unacked_bytes(link) < REPLAY_WINDOW_BYTES

    def is_waiting(self, link: LinkId) -> bool:
        """Not all that was put for this link is on its way."""
        return link in self._boxes

    def link_down(self, link: LinkId) -> None:
        """Nobody is there to be told."""
        self._boxes.pop(link, None)

    def flush(self) -> None:
        """Send what the links take; call this each turn."""
        for link, box in list(self._boxes.items()):
            room = REPLAY_WINDOW_BYTES
            if link != SELF:
                room -= self._unacked_bytes(link)
            while box and room > 0:
                message = box.popleft()
                room -= sum(s.outcome.size for s in message.states if s.outcome is not None)
                self.effects.append(Send(link, message))
            if not box:
                del self._boxes[link]
