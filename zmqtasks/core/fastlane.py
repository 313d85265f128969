"""The producer's side of ``delivery="at_most_once"``.

Each task is handed to ZeroMQ once: PUSH to any worker of its lane (app, queue, limits), no
acknowledgement, no redelivery. Its result comes over PUB or never. What is not handed
over yet, because no worker is connected or all pipes are full, waits here; if no worker
serves the lane, that is said.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

from zmqtasks.core.calls import Call
from zmqtasks.core.diagnosis import WARN_AFTER_MS, explain_waiting
from zmqtasks.core.effects import (
    Effect,
    LaneConnect,
    LaneDisconnect,
    LanePush,
    Note,
    Subscribe,
)
from zmqtasks.core.links import LinkId
from zmqtasks.core.requirements import kind_for, offer_of, wanted_of
from zmqtasks.limits import BATCH_COUNT_MAX, LANE_UNANSWERED_MAX, RESULT_INLINE_BYTES_MAX
from zmqtasks.wire.messages import (
    Hello,
    Kind,
    Outcome,
    StateRecord,
    TaskRecord,
    Tasks,
    TaskState,
)

#: Tasks of one message; small, since PUSH deals messages blindly.
_MESSAGE_TASKS_MAX = 8
#: Pushing is tried again after this when nobody had room.
_AGAIN_MS = 5
#: A time that the next turn fills in.
_JUST_NOW = -1


class FastLane:
    """Lanes of one producer. ``effects`` is drained each turn.

    Args:
        node: this node's id: results of its tasks are published under it.
        topic: of these results.
    """

    def __init__(self, node: bytes, topic: bytes) -> None:
        self.node = node
        self.topic = topic
        self.effects: list[Effect] = []
        #: {lane name: calls to hand over}.
        self.waiting: dict[str, deque[Call]] = {}
        #: {task id: its kind}, handed over and not answered, oldest first.
        self.unanswered: OrderedDict[bytes, Kind] = OrderedDict()
        #: Bytes of the arguments of waiting calls.
        self.open_bytes = 0
        self._workers: dict[LinkId, Hello] = {}
        #: {lane: links connected to it}.
        self._connected: dict[str, set[LinkId]] = {}
        #: {lane that waits without a worker: since when}; gone once it has been said.
        self._unserved_ms: dict[str, int] = {}
        self._next_ms: int | None = None

    def submit(self, calls: Sequence[Call], now_ms: int) -> None:
        """Hand these over as soon as a worker takes them."""
        for given in calls:
            call = given._replace(kind=kind_for(given.kind, given.ext)) if given.ext else given
            lane = lane_of(call.kind)
            if lane not in self.waiting:
                self.waiting[lane] = deque()
                self._connected[lane] = set()
                self._unserved_ms[lane] = now_ms
                for link, peer in self._workers.items():
                    self._connect(lane, link, peer)
            self.waiting[lane].append(call)
            self.open_bytes += len(call.body)
        self._next_ms = now_ms

    # --- workers ------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello) -> None:
        """A worker joins the lanes that it serves."""
        if peer.slots <= 0 or not peer.pull_endpoints:
            return
        self._workers[link] = peer
        for lane in self.waiting:
            self._connect(lane, link, peer)

    def link_down(self, link: LinkId) -> None:
        """A worker leaves its lanes; what was under way to it is lost."""
        if self._workers.pop(link, None) is None:
            return
        for lane, links in self._connected.items():
            if link in links:
                links.discard(link)
                self._unserved_ms[lane] = _JUST_NOW
                self._next_ms = 0
                self.effects.append(LaneDisconnect(lane, link.peer[1:9]))

    def peer_changed(self, link: LinkId, peer: Hello) -> None:
        """A worker serves other queues: it joins and leaves lanes."""
        if link not in self._workers:
            return
        self._workers[link] = peer
        for lane, links in self._connected.items():
            if link in links and not _serves(peer, lane):
                links.discard(link)
                self._unserved_ms[lane] = _JUST_NOW
                self._next_ms = 0
                self.effects.append(LaneDisconnect(lane, link.peer[1:9]))
            elif link not in links:
                self._connect(lane, link, peer)

    def _connect(self, lane: str, link: LinkId, peer: Hello) -> None:
        if not _serves(peer, lane):
            return
        self._connected[lane].add(link)
        self._unserved_ms.pop(lane, None)
        self._next_ms = 0
        self.effects.append(LaneConnect(lane, peer.node, tuple(peer.pull_endpoints)))
        self.effects.append(Subscribe(peer.node, tuple(peer.pub_endpoints), (self.topic,)))

    # --- handing over -------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``push`` is wanted next."""
        return self._next_ms

    def push(self, now_ms: int) -> None:
        """Offer what waits; ``not_pushed`` brings back what nobody took."""
        if self._next_ms is None or now_ms < self._next_ms:
            return
        self._next_ms = None
        for lane, waiting in self.waiting.items():
            if not waiting:
                continue
            if not self._connected[lane]:
                self._check_unserved(lane, waiting[0].kind, now_ms)
                continue
            for _ in range(BATCH_COUNT_MAX):
                if not waiting:
                    break
                self._offer(lane, waiting)
            if waiting:
                self._next_ms = now_ms

    def _check_unserved(self, lane: str, kind: Kind, now_ms: int) -> None:
        """Say once, after a while, that no worker is there for a lane."""
        since_ms = self._unserved_ms.get(lane)
        if since_ms is None:
            return
        if since_ms == _JUST_NOW:
            self._unserved_ms[lane] = since_ms = now_ms
        warn_ms = since_ms + WARN_AFTER_MS
        if now_ms >= warn_ms:
            del self._unserved_ms[lane]
            text = self._why_unserved(kind)
            self.effects.append(Note("warning", "task.unserved", text, f"unserved {text}"))
        elif self._next_ms is None or warn_ms < self._next_ms:
            self._next_ms = warn_ms

    def _why_unserved(self, kind: Kind) -> str:
        return explain_waiting(kind, list(self._workers.values()))

    def _offer(self, lane: str, waiting: deque[Call]) -> None:
        calls: list[Call] = []
        kinds: dict[Kind, int] = {}
        records: list[TaskRecord] = []
        while waiting and len(calls) < _MESSAGE_TASKS_MAX:
            call = waiting[0]
            if calls and len(call.body) > RESULT_INLINE_BYTES_MAX:
                break
            calls.append(waiting.popleft())
            self.open_bytes -= len(call.body)
            index = kinds.setdefault(call.kind, len(kinds))
            ext = {**(call.ext or {}), "o": self.node}
            records.append(TaskRecord(index, call.id, 1, call.body, ext))
            if len(call.body) > RESULT_INLINE_BYTES_MAX:
                break
        for call in calls:
            self.unanswered[call.id] = call.kind
        self.effects.append(LanePush(lane, Tasks(list(kinds), records), calls))

    def not_pushed(self, lane: str, calls: Sequence[Call], now_ms: int) -> None:
        """Nobody had room for these."""
        for call in reversed(calls):
            self.unanswered.pop(call.id, None)
            self.waiting[lane].appendleft(call)
            self.open_bytes += len(call.body)
        self._next_ms = now_ms + _AGAIN_MS

    # --- results ------------------------------------------------------------------------

    def published(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Results came over PUB; returns those of tasks from here."""
        unanswered = self.unanswered
        return [outcome for outcome in outcomes if unanswered.pop(outcome.id, None) is not None]

    def forget_oldest(self) -> list[bytes]:
        """Ids beyond what is remembered: nobody may wait for them any more."""
        unanswered = self.unanswered
        excess = len(unanswered) - LANE_UNANSWERED_MAX
        return [unanswered.popitem(last=False)[0] for _ in range(max(0, excess))]

    @property
    def open_count(self) -> int:
        """Tasks not handed over yet."""
        return sum(map(len, self.waiting.values()))

    def state_of(self, task_id: bytes) -> StateRecord | None:
        """What is known of a task of a lane; None if it is none."""
        kind = self.unanswered.get(task_id)
        why = "it was sent at most once; if it or its result was lost on the way, nobody tells"
        if kind is None:
            kind = next(
                (c.kind for calls in self.waiting.values() for c in calls if c.id == task_id), None
            )
            if kind is None:
                return None
            why = "no worker has had room for it yet"
            if not self._connected[lane_of(kind)]:
                why = self._why_unserved(kind)
        info = {"name": kind.name, "queue": kind.queue, "attempt": 1, "why": why}
        return StateRecord(task_id, TaskState.PENDING, info, None)

    def describe(self) -> list[dict[str, Any]]:
        """What waits to be handed over, by kind: plain data for `zmqtasks status`."""
        counts: dict[Kind, int] = {}
        for calls in self.waiting.values():
            for call in calls:
                counts[call.kind] = counts.get(call.kind, 0) + 1
        return [
            {
                "task": kind.name,
                "app": kind.app,
                "queue": kind.queue,
                "count": count,
                "why": "" if self._connected[lane_of(kind)] else self._why_unserved(kind),
            }
            for kind, count in counts.items()
        ]


def lane_of(kind: Kind) -> str:
    """Tasks of one app and queue share a lane; those with limits, which not every pool keeps,
    have one of their own."""
    lane = f"{kind.app}\n{kind.queue}"
    limits = wanted_of(kind) if kind.ext else ()
    return f"{lane}\n{';'.join(sorted(limits))}" if limits else lane


def _serves(peer: Hello, lane: str) -> bool:
    app, queue, *limits = lane.split("\n")
    if queue not in peer.queues or all(entry.app != app for entry in peer.catalog):
        return False
    can = offer_of(peer.ext).can if limits else None
    return can is None or can.issuperset(limits[0].split(";"))
