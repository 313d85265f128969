"""The store's side of results: nothing published is missed, nothing counts twice.

Each publisher's positions are followed. A gap (PUB drops silently, and a subscriber
comes late) is seen by number, or by the head that heartbeats announce, and asked for
again. What has arrived is written in batches; only after a batch's commit is the
publisher told, so it can let go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from zmqtasks.core.effects import Effect, ForgetRows, Send, StoreRows
from zmqtasks.core.links import LinkId
from zmqtasks.core.rows import OutcomeRow, VerdictRow
from zmqtasks.limits import FORGOTTEN_COUNT_MAX, FORGOTTEN_MS, GAP_MS
from zmqtasks.wire.messages import (
    Kind,
    Outcome,
    PubResults,
    Rack,
    Replay,
    Results,
    Trimmed,
    VerdictRecord,
)

#: Rows waiting for the store; beyond it news is dropped and asked for later.
_UNWRITTEN_MAX = 20_000
UNWRITTEN_BYTES_MAX = 64 * 1024 * 1024
#: Positions asked for at once. They come in parts, as fast as they are taken.
_REPLAY_MAX = 2_000
#: Publishers that are asked at once: each may answer with as much as its link takes.
ASKED_MAX = 8
#: Asking again when nothing came for so long.
_REPLAY_AGAIN_MS = 1_000
#: Positions beyond a gap that are remembered; what comes then is asked for later.
AHEAD_MAX = 20_000


class _Batch(NamedTuple):
    publisher: tuple[bytes, int]
    upto: int


class Publisher:
    """What is known of one publisher epoch."""

    __slots__ = (
        "ahead", "asked_ms", "asked_upto", "committed", "gap_since_ms", "head", "link", "upto",
    )  # fmt: skip

    def __init__(self) -> None:
        #: Everything up to here has arrived (or is gone for good).
        self.upto = 0
        #: Positions beyond `upto` that have arrived.
        self.ahead: set[int] = set()
        self.head = 0
        self.committed = 0
        self.link: LinkId | None = None
        self.gap_since_ms = -1
        #: Last position asked for and not answered, 0 for none; when it was asked for, or
        #: a part of it came.
        self.asked_upto = 0
        self.asked_ms = 0

    def due_ms(self) -> int | None:
        """When to ask for what is missing; None: not at all."""
        if self.gap_since_ms < 0 or self.link is None:
            return None
        due_ms = self.gap_since_ms + GAP_MS
        return max(due_ms, self.asked_ms + _REPLAY_AGAIN_MS) if self.asked_upto else due_ms


class ResultReader:
    """Follows all publishers. ``effects`` is drained each turn."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        #: {(publisher node, epoch): state}.
        self.publishers: dict[tuple[bytes, int], Publisher] = {}
        self.stored_count = 0
        #: What came in this turn, and the bytes of its bodies.
        self._outcomes: list[OutcomeRow] = []
        self._bytes = 0
        self._verdicts: list[VerdictRow] = []
        self._touched: dict[tuple[bytes, int], None] = {}
        #: {forgotten task: until when what of it is still on its way is not stored}.
        self._forgotten: OrderedDict[bytes, int] = OrderedDict()
        #: {batch number: where its publishers stand once it is committed}.
        self._batches: dict[int, list[_Batch]] = {}
        self._batch = 0
        #: Rows handed to the store and not committed, and the bytes of their bodies.
        self._unwritten = 0
        self._unwritten_bytes = 0
        self._bytes_of: dict[int, int] = {}

    # --- publishers ---------------------------------------------------------------------

    def link_up(self, node: bytes, epoch: int, link: LinkId) -> None:
        """The publisher can be asked on this link."""
        publisher = self._publisher(node, epoch)
        publisher.link = link
        publisher.asked_upto = 0
        if publisher.committed:  # the last acknowledgement may be lost
            self.effects.append(Send(link, Rack(publisher.committed)))

    def link_down(self, node: bytes, epoch: int) -> None:
        """It cannot be asked any more; what is committed stays committed."""
        publisher = self.publishers.get((node, epoch))
        if publisher is not None:
            publisher.link = None
            publisher.asked_upto = 0
            if publisher.committed >= publisher.upto:
                del self.publishers[node, epoch]

    def head_announced(self, node: bytes, epoch: int, position: int, now_ms: int) -> None:
        """A heartbeat, or the greeting of a subscription, told the last position."""
        publisher = self._publisher(node, epoch)
        if position > publisher.head:
            publisher.head = position
        self._check_gap(publisher, now_ms)

    def _publisher(self, node: bytes, epoch: int) -> Publisher:
        publisher = self.publishers.get((node, epoch))
        if publisher is None:
            self.publishers[node, epoch] = publisher = Publisher()
        return publisher

    # --- records ------------------------------------------------------------------------

    def published(self, message: PubResults, now_ms: int, wall_ms: int) -> None:
        """Records came over PUB."""
        key = (message.node, message.epoch)
        publisher = self._publisher(*key)
        outcomes, verdicts = message.outcomes, message.verdicts
        if len(publisher.ahead) < AHEAD_MAX:
            self._take(key, publisher, message.kinds, outcomes, verdicts, wall_ms)
        elif outcomes or verdicts:
            # The head that is announced may be older than these.
            last = outcomes[-1].position if outcomes else verdicts[-1].position
            publisher.head = max(publisher.head, last)
        self._check_gap(publisher, now_ms)

    def replayed(
        self, node: bytes, epoch: int, message: Results | Trimmed, now_ms: int, wall_ms: int
    ) -> None:
        """Records that were asked for, or the news that they are gone."""
        key = (node, epoch)
        publisher = self._publisher(*key)
        publisher.asked_ms = now_ms
        if isinstance(message, Results):
            kinds, outcomes = message.kinds, message.outcomes
            if self._take(key, publisher, kinds, outcomes, message.verdicts, wall_ms):
                # What did not come of this range is gone for good.
                last = min(message.upto, message.first + _REPLAY_MAX)
                gone = range(max(message.first, publisher.upto + 1), last + 1)
                publisher.ahead.update(gone)
                self._advance(key, publisher)
            else:
                publisher.asked_upto = 0
        elif message.upto > publisher.upto:
            publisher.upto = message.upto
            publisher.ahead = {p for p in publisher.ahead if p > message.upto}
            self._advance(key, publisher)
        if publisher.upto >= publisher.asked_upto:
            publisher.asked_upto = 0
        self._check_gap(publisher, now_ms)

    def _take(
        self, key: tuple[bytes, int], publisher: Publisher, kinds: Sequence[Kind],
        outcomes: Sequence[Outcome], verdicts: Sequence[VerdictRecord], wall_ms: int,
    ) -> bool:  # fmt: skip
        """Take these records; False: there is no room, so they have to be asked for."""
        ahead, upto, top = publisher.ahead, publisher.upto, publisher.head
        if self._is_full:
            return False
        for outcome in outcomes:
            position = outcome.position
            if position <= upto or position in ahead or not 0 <= outcome.kind < len(kinds):
                continue
            ahead.add(position)
            top = max(top, position)
            if self._forgotten and outcome.id in self._forgotten:
                continue
            row = to_row(outcome, kinds[outcome.kind], key, wall_ms)
            self._outcomes.append(row)
            self._bytes += len(row.body)
        for verdict in verdicts:
            position = verdict.position
            if position <= upto or position in ahead:
                continue
            ahead.add(position)
            top = max(top, position)
            if self._forgotten and verdict.id in self._forgotten:
                continue
            self._verdicts.append(VerdictRow(verdict.id, verdict.attempt, verdict.verdict))
        publisher.head = top
        self._touched[key] = None
        self._advance(key, publisher)
        return True

    def forget(self, ids: Sequence[bytes], now_ms: int) -> None:
        """Drop these tasks' rows, those that are on their way included."""
        forgotten = self._forgotten
        forgotten.update((task_id, now_ms + FORGOTTEN_MS) for task_id in ids)
        while len(forgotten) > FORGOTTEN_COUNT_MAX:
            forgotten.popitem(last=False)
        self._outcomes = [row for row in self._outcomes if row.task_id not in forgotten]
        self._verdicts = [row for row in self._verdicts if row.task_id not in forgotten]
        self._bytes = sum(len(row.body) for row in self._outcomes)
        self.effects.append(ForgetRows(list(ids)))

    def _advance(self, key: tuple[bytes, int], publisher: Publisher) -> None:
        upto, ahead = publisher.upto, publisher.ahead
        while upto + 1 in ahead:
            upto += 1
            ahead.discard(upto)
        publisher.upto = upto
        publisher.head = max(publisher.head, upto)
        self._touched[key] = None

    def _check_gap(self, publisher: Publisher, now_ms: int) -> None:
        if publisher.head <= publisher.upto:
            publisher.gap_since_ms = -1
        elif publisher.gap_since_ms < 0:
            publisher.gap_since_ms = now_ms

    @property
    def _is_full(self) -> bool:
        """The store is behind: what comes now is dropped, and asked for again later."""
        rows = self._unwritten + len(self._outcomes) + len(self._verdicts)
        return rows >= _UNWRITTEN_MAX or self._unwritten_bytes + self._bytes >= UNWRITTEN_BYTES_MAX

    # --- writing ------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand what has arrived to the store: one batch a turn."""
        if not self._touched:
            return
        self._batch += 1
        known = ((key, self.publishers.get(key)) for key in self._touched)
        marks = [_Batch(key, publisher.upto) for key, publisher in known if publisher is not None]
        self._batches[self._batch] = marks
        self._touched = {}
        self._bytes_of[self._batch] = self._bytes
        self._unwritten_bytes += self._bytes
        self._unwritten += len(self._outcomes) + len(self._verdicts)
        self.effects.append(StoreRows(self._batch, self._outcomes, self._verdicts))
        self._outcomes, self._verdicts, self._bytes = [], [], 0

    def rows_stored(self, batch: int, count: int) -> None:
        """The batch is committed: its publishers may let go."""
        self._unwritten -= count
        self._unwritten_bytes -= self._bytes_of.pop(batch, 0)
        self.stored_count += count
        for key, upto in self._batches.pop(batch, []):
            publisher = self.publishers.get(key)
            if publisher is None or upto <= publisher.committed:
                continue
            publisher.committed = upto
            if publisher.link is not None:
                self.effects.append(Send(publisher.link, Rack(upto)))
            elif upto >= publisher.upto:
                del self.publishers[key]

    # --- time ---------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` is wanted next."""
        if self._is_full:
            return None
        publishers = self.publishers.values()
        asked = [publisher for publisher in publishers if publisher.asked_upto]
        few = asked if len(asked) >= ASKED_MAX else publishers
        dues = (publisher.due_ms() for publisher in few)
        return min((due_ms for due_ms in dues if due_ms is not None), default=None)

    def tick(self, now_ms: int) -> None:
        """Ask for what is missing for longer than a batch can be under way."""
        while self._forgotten and next(iter(self._forgotten.values())) <= now_ms:
            self._forgotten.popitem(last=False)
        if self._is_full:
            return
        asked_count = 0
        for key, publisher in list(self.publishers.items()):
            if publisher.asked_upto and now_ms >= publisher.asked_ms + _REPLAY_AGAIN_MS:
                publisher.asked_upto = 0
                self.publishers[key] = self.publishers.pop(key)
            asked_count += publisher.asked_upto > 0
        for key, publisher in list(self.publishers.items()):
            due_ms = publisher.due_ms()
            if asked_count >= ASKED_MAX:
                return
            if due_ms is None or now_ms < due_ms or publisher.asked_upto:
                continue
            asked_count += 1
            # The others are asked before it is asked for more.
            self.publishers[key] = self.publishers.pop(key)
            assert publisher.link is not None
            first = publisher.upto + 1
            last = min(publisher.head, first + _REPLAY_MAX - 1)
            if publisher.ahead:
                last = min(last, max(min(publisher.ahead) - 1, first))
            publisher.asked_ms = now_ms
            publisher.asked_upto = last
            self.effects.append(Send(publisher.link, Replay(first, last)))


def to_row(outcome: Outcome, kind: Kind, key: tuple[bytes, int], wall_ms: int) -> OutcomeRow:
    """The row that a store keeps of a published outcome."""
    body = outcome.body if isinstance(outcome.body, bytes) else b""
    ext = dict(outcome.ext or {})
    worker = ext.pop("w", "")
    return OutcomeRow(
        outcome.id, outcome.attempt, outcome.status, 0, key[0], key[1], outcome.position,
        kind.app, kind.name, kind.queue, worker if isinstance(worker, str) else "",
        outcome.started_ms, outcome.run_us, wall_ms, body, ext,
    )  # fmt: skip


def to_outcome(row: OutcomeRow) -> Outcome:
    """The record that a stored row was made from."""
    return Outcome(
        row.task_id, row.attempt, row.status, row.position, -1, row.started_ms, row.run_us,
        len(row.body), row.body, {**row.ext, "w": row.worker},
    )  # fmt: skip
