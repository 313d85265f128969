"""What an intake tells the owners of its tasks, beside outcomes: gathered during a turn."""

from __future__ import annotations

from collections.abc import Callable

from zmqtasks.core.batching import batches
from zmqtasks.core.effects import Effect, Send
from zmqtasks.core.links import LinkId
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
        for key in [key for key in self._rejects if key[0] == link]:
            del self._rejects[key]

    def flush(self) -> list[Effect]:
        """Everything of this turn, news first: their tasks may have ended since."""
        effects: list[Effect] = []
        for link, updates in self._updates.items():
            news = batches(_coalesced(updates), lambda update: update.meta)
            effects += [Send(link, Updates(batch)) for batch in news]
        for link, retries in self._retries.items():
            limit = self._limit_for(link)
            again = batches(retries, lambda record: record.body)
            effects += [Send(link, Retry(limit, batch)) for batch in again]
        for (link, text, hold_ms), attempts in self._rejects.items():
            effects.append(Send(link, Reject(attempts, text, self._limit_for(link), hold_ms)))
        self.is_due = False
        self._updates.clear()
        self._retries.clear()
        self._rejects.clear()
        return effects


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
