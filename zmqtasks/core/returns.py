"""What an intake tells the owners of its tasks, beside outcomes: gathered during a turn."""

from __future__ import annotations

from collections.abc import Callable

from zmqtasks.core.batching import batches
from zmqtasks.core.effects import Effect, Note, Send
from zmqtasks.core.links import LinkId
from zmqtasks.ids import format_node
from zmqtasks.limits import NEWS_UNACKED_BYTES_MAX
from zmqtasks.wire.messages import Reject, Retry, RetryRecord, UpdateRecord, Updates

#: ``UpdateRecord.number`` of a state, of which only the last one counts.
_STATE = -1


class Returns:
    """Tasks given back, attempts that ask for another one, news of running ones.

    Args:
        limit_for: the credit to report on a link.
    """

    def __init__(self, limit_for: Callable[[LinkId], int]) -> None:
        self._limit_for = limit_for
        #: {(link, text, how long to hold such tasks): (id, attempt, code)}.
        self._rejects: dict[tuple[LinkId, str, int], list[tuple[bytes, int, int]]] = {}
        self._retries: dict[LinkId, list[RetryRecord]] = {}
        self._updates: dict[LinkId, list[UpdateRecord]] = {}
        #: {link: the last state of each attempt}, for owners that take news too slowly.
        self._held: dict[LinkId, dict[tuple[bytes, int], UpdateRecord]] = {}
        #: Bytes that were sent on a link and are not acknowledged.
        self.unacked_bytes: Callable[[LinkId], int] = lambda link: 0
        #: Something waits to be told.
        self.is_due = False

    def reject(
        self, link: LinkId, attempt: tuple[bytes, int, int], text: str, hold_ms: int = 0
    ) -> None:
        """Give one back: ``(id, attempt, code)``."""
        self.is_due = True
        self._rejects.setdefault((link, text, hold_ms), []).append(attempt)

    def retry(self, link: LinkId, record: RetryRecord) -> None:
        """An attempt has ended and asks for another one."""
        self.is_due = True
        self._retries.setdefault(link, []).append(record)

    def update(self, link: LinkId, record: UpdateRecord) -> None:
        """News of a running attempt."""
        self.is_due = True
        self._updates.setdefault(link, []).append(record)

    def link_down(self, link: LinkId) -> None:
        """Nobody is there to be told."""
        self._retries.pop(link, None)
        self._updates.pop(link, None)
        self._held.pop(link, None)
        for key in [key for key in self._rejects if key[0] == link]:
            del self._rejects[key]

    def flush(self) -> list[Effect]:
        """Everything of this turn, news first: their tasks may have ended since."""
        effects: list[Effect] = []
        for link in dict.fromkeys([*self._held, *self._updates]):
            told = self._told_now(link, _coalesced(self._updates.get(link, [])), effects)
            news = batches(told, lambda update: update.meta) if told else ()
            effects += [Send(link, Updates(batch)) for batch in news]
        for link, retries in self._retries.items():
            limit = self._limit_for(link)
            again = batches(retries, lambda record: record.body)
            effects += [Send(link, Retry(limit, batch)) for batch in again]
        for (link, text, hold_ms), attempts in self._rejects.items():
            effects.append(Send(link, Reject(attempts, text, self._limit_for(link), hold_ms)))
        self.is_due = bool(self._held)
        self._updates.clear()
        self._retries.clear()
        self._rejects.clear()
        return effects

    def _told_now(
        self, link: LinkId, updates: list[UpdateRecord], effects: list[Effect]
    ) -> list[UpdateRecord]:
        """What an owner is told of this. One that has not taken what it was sent gets no states
        until it has, and then the last ones; items do not come faster than it takes them."""
        held = self._held.pop(link, {})
        if self.unacked_bytes(link) <= NEWS_UNACKED_BYTES_MAX:
            now = {(update.id, update.attempt) for update in updates if update.number == _STATE}
            return [*(held[key] for key in held if key not in now), *updates]
        for update in updates:
            if update.number == _STATE:
                held[update.id, update.attempt] = update
        if held:
            self._held[link] = held
            text = (
                f"node {format_node(link.peer[1:9])} takes the states that its tasks give "
                "themselves more slowly than they come: of each task it is told the last one, "
                "others are dropped; call update_state less often"
            )
            effects.append(Note("warning", "news.dropped", text, f"news-dropped {link.peer!r}"))
        return [update for update in updates if update.number != _STATE]


def _coalesced(updates: list[UpdateRecord]) -> list[UpdateRecord]:
    """Without the states that others of the same attempt have followed."""
    kept: list[UpdateRecord] = []
    seen: set[tuple[bytes, int]] = set()
    for update in reversed(updates):
        key = update.id, update.attempt
        if update.number != _STATE or key not in seen:
            kept.append(update)
        if update.number == _STATE:
            seen.add(key)
    return kept[::-1]
