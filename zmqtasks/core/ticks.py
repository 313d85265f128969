"""What the beats of an application know: which ticks of its entries were started, and how they
ended.

Each beat has all of it and tells the others what is new. What two of them know is put
together in the same way wherever it is done and in whatever order, so they agree after any
partition: who started a tick has started it, an outcome stands, and of two outcomes the earlier
one does. Up to ``upto_ms`` an entry's ticks are decided: never started again, whatever the
clock says then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from zmqtasks.ids import tick_task_id
from zmqtasks.limits import BEATS_TICKS_MAX, TICKS_KEPT_MAX
from zmqtasks.wire.beat import BeatRecord, TickRecord

#: The key of a tick within its entry: when it is due, and whether somebody ordered it.
Key = tuple[int, bool]


class Fate(IntEnum):
    """What became of a tick. Of two that are told the higher one stands."""

    #: Not started: nobody was there when it was due.
    MISSED = 0
    #: Not started: the one before had not ended.
    OVERLAP = 1
    #: Not started: its entry was paused.
    PAUSED = 2
    #: Its task was submitted; how that ended is not known.
    OPEN = 3
    #: Its task has ended, or could not be submitted.
    ENDED = 4


class Place(NamedTuple):
    """Which tick a task is of."""

    entry: str
    key: Key


class EntryTicks:
    """What is known of one entry."""

    def __init__(self, name: str, schedule: str, since_ms: int) -> None:
        self.name = name
        self.schedule = schedule
        self.since_ms = since_ms
        self.upto_ms = since_ms
        self.paused = False
        self.paused_ms = 0
        #: All that are open, and the last ones of the others.
        self.ticks: dict[Key, TickRecord] = {}
        #: Those of them that are open.
        self.open: dict[Key, TickRecord] = {}

    def begin_anew(self, schedule: str, now_ms: int) -> None:
        """It has another schedule now: ticks of the old one are not looked for any more."""
        self.schedule = schedule
        self.since_ms = self.upto_ms = now_ms

    def last(self) -> TickRecord | None:
        """The last one that was started."""
        started = (tick for tick in self.ticks.values() if tick.fate >= Fate.OPEN)
        return max(started, key=lambda tick: tick.due_ms, default=None)

    def count(self, fate: Fate) -> int:
        """How many of those that are remembered had this fate."""
        return sum(tick.count for tick in self.ticks.values() if tick.fate == fate)

    def twice_count(self) -> int:
        """How many of them were started by several beats that did not know of each other."""
        return sum(is_twice(tick) for tick in self.ticks.values())

    def again_count(self) -> int:
        """How many of them were started again, since nobody knew their outcome."""
        return sum(tick.again > 0 for tick in self.ticks.values())

    # --- putting together -----------------------------------------------------------------

    def _head(self) -> tuple[str, int, int, bool, int]:
        return (self.schedule, self.since_ms, self.upto_ms, self.paused, self.paused_ms)

    def merge(self, record: BeatRecord) -> tuple[bool, list[Key]]:
        """Learn what another beat knows; returns whether there is news, and of which ticks."""
        before = self._head()
        if (record.paused_ms, record.paused) > (self.paused_ms, self.paused):
            self.paused, self.paused_ms = record.paused, record.paused_ms
        if record.schedule != self.schedule:
            if (record.since_ms, record.schedule) > (self.since_ms, self.schedule):
                self.schedule = record.schedule
                self.since_ms, self.upto_ms = record.since_ms, record.upto_ms
        else:
            ours = (self.since_ms, self.upto_ms)
            self.since_ms, self.upto_ms = joined(ours, (record.since_ms, record.upto_ms))
        news = [key_of(tick) for tick in record.ticks if self._learn(tick)]
        return bool(news) or before != self._head(), news

    def _learn(self, other: TickRecord) -> bool:
        key = key_of(other)
        tick = self.ticks.get(key)
        if tick is None:
            self.put(other)
            return True
        before = _content(tick)
        _merge_tick(tick, other)
        self.put(tick)
        return before != _content(tick)

    def put(self, tick: TickRecord) -> None:
        """It is new, or has changed."""
        key = key_of(tick)
        self.ticks[key] = tick
        if tick.fate == Fate.OPEN:
            self.open[key] = tick
        else:
            self.open.pop(key, None)

    def trim(self) -> list[Key]:
        """Forget the oldest of those that are not open; returns which."""
        over = len(self.ticks) - len(self.open) - TICKS_KEPT_MAX
        if over <= 0:
            return []
        old = sorted(key for key in self.ticks if key not in self.open)[:over]
        for key in old:
            del self.ticks[key]
        return old

    def record(self, ticks: Iterable[TickRecord]) -> BeatRecord:
        """What is known of it, with these of its ticks."""
        return BeatRecord(
            self.name, self.schedule, self.since_ms, self.upto_ms, self.paused, self.paused_ms,
            list(ticks),
        )  # fmt: skip


class TickLedger:
    """What is known of all entries of an application in a mesh.

    Args:
        mesh, app: their names, which ids of tasks are made of.
    """

    def __init__(self, mesh: str, app: str) -> None:
        self.mesh = mesh
        self.app = app
        self.entries: dict[str, EntryTicks] = {}
        #: {id of its task: tick}, of all that are open.
        self.places: dict[bytes, Place] = {}
        #: {entry: its ticks of which others have not been told}.
        self._news: dict[str, dict[Key, None]] = {}

    def id_of(self, entry: str, key: Key) -> bytes:
        """The id of the task of this tick."""
        return tick_task_id(self.mesh, self.app, entry, key[0], by_hand=key[1])

    def open_ticks(self) -> Iterator[tuple[bytes, TickRecord]]:
        """``(id of its task, tick)`` of those that are open."""
        for task_id, place in self.places.items():
            yield task_id, self.entries[place.entry].ticks[place.key]

    def at(self, task_id: bytes) -> TickRecord | None:
        """The open tick that has this task."""
        place = self.places.get(task_id)
        return self.entries[place.entry].ticks[place.key] if place is not None else None

    def changed(self, entry: str, key: Key | None = None) -> None:
        """This tick of it has changed, or is new; None: something else about it."""
        news = self._news.setdefault(entry, {})
        if key is None:
            return
        news[key] = None
        state = self.entries[entry]
        state.put(state.ticks[key])
        task_id = self.id_of(entry, key)
        if key in state.open:
            self.places[task_id] = Place(entry, key)
        else:
            self.places.pop(task_id, None)

    def merge(self, records: Iterable[BeatRecord]) -> list[Place]:
        """Learn what another beat knows; returns the ticks of which that is news."""
        learned: list[Place] = []
        for record in records:
            state = self.entries.get(record.name)
            if state is None:
                state = EntryTicks(record.name, record.schedule, record.since_ms)
                state.upto_ms = record.upto_ms
                self.entries[record.name] = state
                self.changed(record.name)
            is_news, keys = state.merge(record)
            if is_news:
                self.changed(record.name)
            for key in keys:
                self.changed(record.name, key)
                learned.append(Place(record.name, key))
        return learned

    # --- telling others -------------------------------------------------------------------

    def take_news(self) -> list[list[BeatRecord]]:
        """What others have not been told, in as many messages."""
        news, self._news = self._news, {}
        for name in news:
            for key in self.entries[name].trim():
                news[name].pop(key, None)
        found = (
            (self.entries[name], [self.entries[name].ticks[key] for key in keys])
            for name, keys in news.items()
        )
        return _in_pieces(found)

    @property
    def has_news(self) -> bool:
        """Something is to be told."""
        return bool(self._news)

    def take_all(self) -> list[list[BeatRecord]]:
        """Everything, without what is too old."""
        self.take_news()
        return self.all()

    def all(self) -> list[list[BeatRecord]]:
        """Everything, in as many messages; at least one."""
        found = ((state, list(state.ticks.values())) for state in self.entries.values())
        return _in_pieces(found) or [[]]


def _in_pieces(found: Iterable[tuple[EntryTicks, list[TickRecord]]]) -> list[list[BeatRecord]]:
    pieces: list[list[BeatRecord]] = []
    room = 0
    for state, ticks in found:
        for first in range(0, max(1, len(ticks)), BEATS_TICKS_MAX):
            part = ticks[first : first + BEATS_TICKS_MAX]
            if room < len(part) + 1:
                pieces.append([])
                room = BEATS_TICKS_MAX + 1
            pieces[-1].append(state.record(part))
            room -= len(part) + 1
    return pieces


def key_of(tick: TickRecord) -> Key:
    """What tells it from other ticks of its entry."""
    return (tick.due_ms, tick.by_hand)


def is_twice(tick: TickRecord) -> bool:
    """Several beats started it, of which none knew that another one had."""
    return len(tick.starts) > 1 and not tick.again


def joined(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[int, int]:
    """Two stretches of time whose ticks are decided, as one. Where there is a gap between them,
    the earlier one: what is in the gap is not decided."""
    first, second = sorted((ours, theirs))
    return (first[0], max(first[1], second[1])) if second[0] <= first[1] else first


def _content(tick: TickRecord) -> tuple[object, ...]:
    return (
        tick.fate, tuple(tick.starts), tick.status, tick.ended_ms, tick.told_by, tick.count,
        tick.again, tick.text,
    )  # fmt: skip


def _merge_tick(tick: TickRecord, other: TickRecord) -> None:
    tick.starts = sorted({*tick.starts, *other.starts})
    tick.again = max(tick.again, other.again)
    tick.count = max(tick.count, other.count)
    if other.fate == tick.fate == Fate.ENDED:
        if _ending(other) < _ending(tick):
            _end_as(tick, other)
    elif other.fate > tick.fate:
        tick.fate = other.fate
        _end_as(tick, other)


def _ending(tick: TickRecord) -> tuple[int, int, bytes, str]:
    return (tick.ended_ms, tick.status, tick.told_by, tick.text)


def _end_as(tick: TickRecord, other: TickRecord) -> None:
    tick.ended_ms, tick.status, tick.told_by, tick.text = _ending(other)
