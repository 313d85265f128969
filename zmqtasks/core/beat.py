"""Starts the tasks of an application when they are due: the rules of one beat.

::

    due -> PlanTicks -> planned: which ticks there are -> FireTick -> OPEN -> ENDED
                          |                                  ^
                          +-> MISSED, OVERLAP, PAUSED        | the beat that started it is gone,
                              (counted, and said)            | and nobody has its task: again

One of the beats of an application leads (``beatpeers.py``), and only that one starts ticks. All
know of each (``ticks.py``), so the next leader starts those again whose outcome nobody has
seen. The id of a tick's task is made of mesh, application, entry and due time: started
twice it is the same task, of which the mesh records one outcome. Times of ticks are those
of the wall clock. Which ticks there are is asked of the process that has the application's code,
since a schedule may be part of it.

What is ugly: a beat whose wall clock is wrong starts ticks at the wrong time. It says when its
own clock jumps; nobody compares the clocks of several beats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from zmqtasks.core.beatpeers import BeatPeers
from zmqtasks.core.calls import UNKNOWN_STATUS
from zmqtasks.core.due import Due
from zmqtasks.core.effects import Effect, FireTick, Note, PlanTicks, SaveBeat, Send
from zmqtasks.core.links import LinkId
from zmqtasks.core.tickquestions import TickQuestions
from zmqtasks.core.ticks import EntryTicks, Fate, Key, Place, TickLedger, is_twice
from zmqtasks.errors import ConfigError
from zmqtasks.limits import (
    BEAT_LISTEN_MS,
    CLOCK_BACK_MS,
    TICK_LATE_MS,
    TICKS_OPEN_MAX,
)
from zmqtasks.wire.beat import BeatRecord, Beats, TickRecord
from zmqtasks.wire.messages import Hello, Message, Outcome

#: The wall clock has jumped when it is off by more than this, in milliseconds.
_JUMP_MS = 1_000
#: A schedule that cannot be asked, and a tick that cannot be submitted now, is tried again
#: after this, in milliseconds.
_RETRY_MS = 5_000
_NEVER_MS = 1 << 62


class BeatEntry(NamedTuple):
    """A task with a schedule."""

    name: str
    task: str
    #: In words. Another text is another schedule.
    schedule: str
    #: What becomes of ticks that were due while no beat was there.
    missed: Literal["latest", "all", "skip"] = "latest"
    #: What becomes of one that is due while the one before has not ended.
    overlap: Literal["allow", "skip"] = "allow"
    #: False: it is paused until somebody says otherwise.
    is_enabled: bool = True


class _Plan:
    """When this node looks at an entry again."""

    __slots__ = ("is_asked", "next_ms", "not_before_ms")

    def __init__(self) -> None:
        self.is_asked = False
        #: Wall clock; None: it is not due any more. 0: to be found out.
        self.next_ms: int | None = 0
        #: The machines' time.
        self.not_before_ms = 0


class Beat:
    """One beat. ``effects`` is drained each turn.

    Args:
        node: id of this node.
        ledger: what is known of ticks from before.
        peers: the other beats.
        entries: of the application.
        questions: asks others about tasks.
        owns: whether this node owns that task.
    """

    def __init__(
        self, node: bytes, ledger: TickLedger, peers: BeatPeers, entries: Sequence[BeatEntry],
        questions: TickQuestions, owns: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        self.node = node
        self.ledger = ledger
        self.peers = peers
        self.entries = {entry.name: entry for entry in entries}
        self.questions = questions
        self.owns = owns
        self.effects: list[Effect] = []
        #: Since this node started; what is shown of an entry is counted from its ticks.
        self.counts: Counter[str] = Counter()
        self.is_leader = False
        self.is_draining = False
        self._leader: bytes | None = None
        self._plans = {name: _Plan() for name in self.entries}
        #: Tasks of open ticks that were started here in this life, or are owned here since.
        self._mine: set[bytes] = set()
        #: {task of an open tick that could not be submitted: when it is tried again}.
        self._retries: dict[bytes, int] = {}
        self._begun_wall_ms = -1
        self._hold_until_ms = 0
        #: Somebody may have left open ticks behind.
        self._check_open = True
        #: What is known may be of a clock that was wrong.
        self._check_times = True
        #: Wall clock less the machines' time.
        self._offset_ms = 0
        self._now_ms = self._wall_ms = 0
        self._deadline_ms = 0

    # --- others -----------------------------------------------------------------------------

    def link_up(self, link: LinkId, peer: Hello, now_ms: int) -> None:
        """A node is there: tell another beat all that is known here."""
        if self.peers.is_one(peer) and self.peers.up(link, peer, now_ms):
            pieces = self.ledger.all()
            for number, piece in enumerate(pieces, start=1):
                more = number < len(pieces)
                self.effects.append(Send(link, Beats(self.ledger.app, piece, more)))
        self._deadline_ms = now_ms

    def link_down(self, link: LinkId, node: bytes, now_ms: int) -> None:
        """A link is closed. Nobody sees to what a lost beat has started."""
        if self.peers.down(link, node):
            self._check_open = True
        self._deadline_ms = now_ms

    def link_paused(self, link: LinkId, is_paused: bool, now_ms: int) -> None:
        """A peer is silent, or speaks again."""
        if self.peers.paused(link, link.peer[1:9], is_paused):
            self._check_open = True
        self._deadline_ms = now_ms

    def peer_changed(self, peer: Hello) -> None:
        """A peer says of itself something else than before."""
        self.peers.changed(peer)
        self._check_open = True
        self._deadline_ms = self._now_ms

    def received(self, link: LinkId, message: Message) -> bool:
        """A message of another beat; False: it is none."""
        if not isinstance(message, Beats):
            return False
        node = link.peer[1:9]
        if message.app != self.ledger.app or node not in self.peers.there:
            return True
        before = {
            place: len(tick.starts)
            for record in message.entries
            for place, tick in self._known(record)
        }
        for place in self.ledger.merge(message.entries):
            self._learned(place, before.get(place, 0))
        if not message.more:
            self.peers.told(node)
        self._check_open = self._check_times = True
        self._deadline_ms = self._now_ms
        return True

    def _known(self, record: BeatRecord) -> Iterable[tuple[Place, TickRecord]]:
        state = self.ledger.entries.get(record.name)
        for tick in record.ticks if state is not None else ():
            key = (tick.due_ms, tick.by_hand)
            known = state.ticks.get(key) if state is not None else None
            if known is not None:
                yield Place(record.name, key), known

    def _learned(self, place: Place, starts_before: int) -> None:
        tick = self.ledger.entries[place.entry].ticks[place.key]
        task_id = self.ledger.id_of(*place)
        if tick.fate == Fate.ENDED:
            self._closed(task_id)
        if starts_before and len(tick.starts) > starts_before and is_twice(tick):
            self.counts["twice"] += 1
            self._say(
                "warning", "beat.twice",
                f"two beats that did not know of each other started the tick of {place.entry} that "
                f"was due at {when(tick.due_ms)}: it is one task, with one recorded outcome",
            )  # fmt: skip

    def drain(self) -> None:
        """Start nothing any more: another beat leads."""
        self.is_draining = True

    # --- what the application says ----------------------------------------------------------

    def planned(self, name: str, after_ms: int, until_ms: int, due: Due) -> None:
        """The answer to ``PlanTicks``."""
        plan, state = self._plans[name], self.ledger.entries[name]
        plan.is_asked = False
        plan.next_ms = 0
        self._deadline_ms = self._now_ms
        if not self.is_leader or after_ms != state.upto_ms:
            return  # it is asked again if it still matters
        if due.dues_ms:
            self._decide(self.entries[name], state, due, until_ms)
        plan.next_ms = due.next_ms

    def unplanned(self, name: str, text: str) -> None:
        """``PlanTicks`` could not be answered."""
        plan = self._plans[name]
        plan.is_asked = False
        plan.not_before_ms = self._now_ms + _RETRY_MS
        self._say(
            "error", "beat.schedule",
            f"nobody knows when {name} is due ({self.entries[name].schedule}): {text}",
        )  # fmt: skip

    def refused(self, task_id: bytes, text: str, *, is_final: bool) -> None:
        """The task of this tick was not submitted; ``is_final``: trying again is no use."""
        place = self.ledger.places.get(task_id)
        if place is None:
            return
        due_ms = place.key[0]
        if is_final:
            self._say(
                "error", "beat.refused",
                f"{place.entry} of {when(due_ms)} cannot be started: {text}",
            )  # fmt: skip
            self.counts["refused"] += 1
            self._end(task_id, UNKNOWN_STATUS, text)
            return
        self._retries[task_id] = self._now_ms + _RETRY_MS
        self._say(
            "warning", "beat.retry",
            f"{place.entry} of {when(due_ms)} could not be started and is tried again: {text}",
        )  # fmt: skip

    def settled(self, outcomes: Iterable[Outcome]) -> None:
        """Tasks have ended, ticks among them."""
        places = self.ledger.places
        for outcome in outcomes:
            if outcome.id not in places:
                continue
            if outcome.status == UNKNOWN_STATUS and self.is_leader:
                self._mine.discard(outcome.id)
                self._check_open = True
            else:
                self._end(outcome.id, outcome.status, (outcome.ext or {}).get("e") or "")

    def _end(self, task_id: bytes, status: int, text: str) -> None:
        place = self.ledger.places[task_id]
        tick = self.ledger.entries[place.entry].ticks[place.key]
        tick.fate, tick.status, tick.ended_ms = Fate.ENDED, status, self._wall_ms
        tick.told_by, tick.text = self.node, text[:200]
        self.ledger.changed(*place)
        self._closed(task_id)

    def _closed(self, task_id: bytes) -> None:
        self._mine.discard(task_id)
        self._retries.pop(task_id, None)
        self.questions.drop(task_id)

    # --- what people say --------------------------------------------------------------------

    def _state(self, name: str) -> EntryTicks:
        if name not in self.entries:
            there = ", ".join(sorted(self.entries)) or "none"
            raise ConfigError(
                f"app {self.ledger.app} has no entry {name!r:.75}; there are: {there}"
            )
        return self.ledger.entries[name]

    def pause(self, name: str, is_paused: bool, at_ms: int) -> None:
        """Start no ticks of it, or start them again; said at that time (wall clock).

        Raises:
            ConfigError: there is no such entry.
        """
        state = self._state(name)
        if (at_ms, is_paused) > (state.paused_ms, state.paused):
            state.paused, state.paused_ms = is_paused, at_ms
            self.ledger.changed(name)
            word = "is paused" if is_paused else "goes on"
            self._say("info", "beat.paused", f"entry {name} {word}, as it was ordered to")

    def run(self, name: str, at_ms: int) -> bytes | None:
        """Start it now, whatever its schedule says, if this node leads.

        Args:
            name: of the entry.
            at_ms: when that was ordered, wall clock. The same order twice is one tick.

        Returns:
            The id of its task.

        Raises:
            ConfigError: there is no such entry.
        """
        state = self._state(name)
        if not self.is_leader:
            return None
        key = (at_ms, True)
        if key not in state.ticks:
            self._fire(self.entries[name], state, key)
        return self.ledger.id_of(name, key)

    # --- deciding ---------------------------------------------------------------------------

    def _decide(self, entry: BeatEntry, state: EntryTicks, due: Due, until_ms: int) -> None:
        """Ticks are due, some of them perhaps for long."""
        dues = [at_ms for at_ms in due.dues_ms if (at_ms, False) not in state.ticks]
        state.upto_ms = due.dues_ms[-1]
        self.ledger.changed(entry.name)
        # It has gone on since.
        paused = [at_ms for at_ms in dues if at_ms <= state.paused_ms]
        self._skip(entry, state, paused, Fate.PAUSED)
        dues = dues[len(paused) :]
        late = [at_ms for at_ms in dues if at_ms < until_ms - TICK_LATE_MS]
        fired = dues
        if late and entry.missed != "all":
            in_time = dues[len(late) :]
            kept = late[-1:] if entry.missed == "latest" and not in_time else []
            self._skip(entry, state, late[: len(late) - len(kept)], Fate.MISSED)
            fired = kept + in_time
        if due.is_more and not paused:
            self.counts["missed"] += 1
            self._say(
                "warning", "beat.missed",
                f"{entry.name} was due more often since {when(state.since_ms)} than is looked at: "
                f"what was before {when(due.dues_ms[0])} is not started",
            )  # fmt: skip
        for at_ms in fired:
            most = 1 if entry.overlap == "skip" else TICKS_OPEN_MAX
            if len(state.open) >= most:
                self._skip(entry, state, [at_ms], Fate.OVERLAP)
            else:
                self._fire(entry, state, (at_ms, False))

    def _skip(self, entry: BeatEntry, state: EntryTicks, dues: Sequence[int], fate: Fate) -> None:
        if not dues:
            return
        tick = TickRecord(dues[-1], fate, [], count=len(dues))
        state.ticks[dues[-1], False] = tick
        self.ledger.changed(entry.name, (dues[-1], False))
        self.counts[fate.name.lower()] += len(dues)
        why = {
            Fate.MISSED: f"no beat was there (missed runs: {entry.missed})",
            Fate.OVERLAP: f"{len(state.open)} before it have not ended",
            Fate.PAUSED: "it is paused",
        }[fate]
        which = when(dues[-1])
        if len(dues) > 1:
            which = f"{when(dues[0])} to {which}, {len(dues)} ticks"
        level: Literal["info", "warning"] = "info" if fate == Fate.PAUSED else "warning"
        self._say(level, f"beat.{fate.name.lower()}", f"{entry.name} of {which} not started: {why}")

    def _fire(self, entry: BeatEntry, state: EntryTicks, key: Key) -> None:
        state.ticks[key] = TickRecord(key[0], Fate.OPEN, [self.node], by_hand=key[1])
        self.ledger.changed(entry.name, key)
        self.counts["started"] += 1
        self._submit(Place(entry.name, key))

    def _submit(self, place: Place) -> None:
        task_id = self.ledger.id_of(*place)
        self._mine.add(task_id)
        again = self.ledger.entries[place.entry].ticks[place.key].again
        self.effects.append(FireTick(place.entry, place.key[0], task_id, again))

    def _fire_again(self, task_id: bytes) -> None:
        """Nobody has the task of an open tick."""
        place = self.ledger.places[task_id]
        if place.entry not in self.entries:
            return  # a beat with a newer application knows it
        tick = self.ledger.entries[place.entry].ticks[place.key]
        tick.again += 1
        tick.starts = sorted({*tick.starts, self.node})
        self.ledger.changed(*place)
        self.counts["again"] += 1
        self._say(
            "warning", "beat.again",
            f"{place.entry} of {when(place.key[0])} is started again: the beat that had started it "
            "is gone, and nobody knows how it ended",
        )  # fmt: skip
        self._submit(place)

    # --- turns ------------------------------------------------------------------------------

    def flush(self, now_ms: int, wall_ms: int) -> None:
        """Once a turn."""
        self._look_at_clock(now_ms, wall_ms)
        if self._check_times:
            self._forget_the_future()
        settled, nobodys = self.questions.look(now_ms)
        self.settled(settled)
        self._elect(now_ms)
        if self.is_leader:
            for task_id in nobodys:
                if task_id in self.ledger.places and task_id not in self._mine:
                    self._fire_again(task_id)
            if self._check_open:
                self._check_open = False
                self._ask_about_orphans(now_ms)
            self._try_again(now_ms)
            self._ask_what_is_due(now_ms, wall_ms)
        elif nobodys:
            self._check_open = True
        if self.ledger.has_news:
            for piece in self.ledger.take_news():
                self.effects += [
                    Send(link, Beats(self.ledger.app, piece)) for link in self.peers.links()
                ]
            self.effects.append(SaveBeat())
        self._deadline_ms = self._next_ms(now_ms, wall_ms)

    def next_deadline_ms(self) -> int:
        """When ``flush`` is wanted next."""
        return self._deadline_ms

    def _look_at_clock(self, now_ms: int, wall_ms: int) -> None:
        self._now_ms, self._wall_ms = now_ms, wall_ms
        before_ms, self._offset_ms = self._offset_ms, wall_ms - now_ms
        if self._begun_wall_ms < 0:
            self._begun_wall_ms = wall_ms
            self._hold_until_ms = now_ms + BEAT_LISTEN_MS
            for entry in self.entries.values():
                if entry.name not in self.ledger.entries:
                    state = EntryTicks(entry.name, entry.schedule, wall_ms)
                    state.paused = not entry.is_enabled
                    self.ledger.entries[entry.name] = state
                    self.ledger.changed(entry.name)
            return
        jump_ms = self._offset_ms - before_ms
        if abs(jump_ms) <= _JUMP_MS:
            return
        # Others may have gone on meanwhile.
        self._hold_until_ms = max(self._hold_until_ms, now_ms + BEAT_LISTEN_MS)
        self.counts["clock"] += 1
        if jump_ms > 0:
            text = f"the clock of this node was set forward by {jump_ms / 1000:,.0f} s"
        else:
            text = (
                f"the clock of this node was set back by {-jump_ms / 1000:,.0f} s: ticks that were "
                "started are not started again"
            )
        self._say("warning", "beat.clock", text)
        self._check_times = True

    def _forget_the_future(self) -> None:
        """What was decided by a clock that was far ahead is not decided."""
        self._check_times = False
        for state in self.ledger.entries.values():
            if state.upto_ms > self._wall_ms + CLOCK_BACK_MS:
                self._say(
                    "warning", "beat.future",
                    f"ticks of {state.name} were started by a clock that was ahead, up to "
                    f"{when(state.upto_ms)}: it goes on with the present time",
                )  # fmt: skip
                state.begin_anew(state.schedule, self._wall_ms)
                self.ledger.changed(state.name)

    def _elect(self, now_ms: int) -> None:
        is_able = not self.is_draining
        leader = self.peers.leader(with_us=is_able)
        hold_ms = max(self._hold_until_ms, self.peers.listen_until_ms(now_ms))
        leads = is_able and leader == self.node and now_ms >= hold_ms
        if leads and not self.is_leader:
            self._check_open = True
            for plan in self._plans.values():
                plan.next_ms = 0
            self._renew_entries()
        self.is_leader = leads
        if leader != self._leader and (leads or leader != self.node):
            self._leader = leader
            known = self.peers.there.get(leader or b"")
            who = (
                "this node starts"
                if leads
                else f"{known.name} starts"
                if known
                else "nobody starts"
            )
            self._say("info", "beat.leader", f"{who} the ticks of app {self.ledger.app}")

    def _renew_entries(self) -> None:
        """The application may be another one than before."""
        for entry in self.entries.values():
            state = self.ledger.entries[entry.name]
            if state.schedule != entry.schedule:
                self._say(
                    "info", "beat.changed",
                    f"{entry.name} has another schedule now: {entry.schedule} (before: "
                    f"{state.schedule})",
                )  # fmt: skip
            elif state.paused_ms or state.paused is not entry.is_enabled:
                continue
            state.begin_anew(entry.schedule, self._wall_ms)
            if not state.paused_ms:
                state.paused = not entry.is_enabled
            self.ledger.changed(entry.name)

    def _ask_about_orphans(self, now_ms: int) -> None:
        """Whoever started these is gone, or was this node in an earlier life."""
        orphans = []
        for task_id, tick in self.ledger.open_ticks():
            if task_id in self._mine or task_id in self.questions.open:
                continue
            if self.owns(task_id):
                self._mine.add(task_id)
            elif not any(self.peers.is_live(node) for node in tick.starts):
                orphans.append(task_id)
        if orphans:
            self.questions.ask(orphans, now_ms)

    def _try_again(self, now_ms: int) -> None:
        for task_id, at_ms in list(self._retries.items()):
            if at_ms <= now_ms:
                del self._retries[task_id]
                self._submit(self.ledger.places[task_id])

    def _ask_what_is_due(self, now_ms: int, wall_ms: int) -> None:
        for name, plan in self._plans.items():
            if plan.is_asked or plan.next_ms is None or self.ledger.entries[name].paused:
                continue
            if wall_ms >= plan.next_ms and now_ms >= plan.not_before_ms:
                plan.is_asked = True
                upto_ms = self.ledger.entries[name].upto_ms
                self.effects.append(PlanTicks(name, upto_ms, wall_ms))

    def _next_ms(self, now_ms: int, wall_ms: int) -> int:
        times = [self.questions.next_deadline_ms() or _NEVER_MS]
        if not self.is_leader:
            times.append(max(self._hold_until_ms, self.peers.listen_until_ms(now_ms)))
            return min((at_ms for at_ms in times if at_ms > now_ms), default=_NEVER_MS)
        times += self._retries.values()
        for name, plan in self._plans.items():
            is_paused = self.ledger.entries[name].paused
            if plan.next_ms is not None and not plan.is_asked and not is_paused:
                times.append(max(now_ms + plan.next_ms - wall_ms, plan.not_before_ms))
        return max(now_ms, min(times))

    # --- telling ----------------------------------------------------------------------------

    def _say(self, level: Literal["info", "warning", "error"], event: str, text: str) -> None:
        self.effects.append(Note(level, event, text))

    @property
    def leader_name(self) -> str:
        """Who leads, as far as is seen from here; "" for this node and for nobody."""
        known = self.peers.there.get(self._leader or b"")
        return known.name if known is not None else ""

    def describe(self) -> list[dict[str, Any]]:
        """Plain data of all entries for ``zmqtasks beat list``."""
        return [
            self._describe(entry, self.ledger.entries[entry.name])
            for entry in self.entries.values()
        ]

    def _describe(self, entry: BeatEntry, state: EntryTicks) -> dict[str, Any]:
        last, plan = state.last(), self._plans[entry.name]
        return {
            "name": entry.name,
            "task": entry.task,
            "schedule": entry.schedule,
            "missed_policy": entry.missed,
            "overlap_policy": entry.overlap,
            "paused": state.paused,
            "last_ms": last.due_ms if last is not None else None,
            "last_status": last.status if last is not None and last.fate == Fate.ENDED else None,
            "last_text": last.text if last is not None else "",
            "next_ms": (plan.next_ms or None) if self.is_leader else None,
            "open": len(state.open),
            "started": state.count(Fate.OPEN) + state.count(Fate.ENDED),
            "missed": state.count(Fate.MISSED),
            "overlap": state.count(Fate.OVERLAP),
            "skipped_paused": state.count(Fate.PAUSED),
            "twice": state.twice_count(),
            "again": state.again_count(),
        }


def when(wall_ms: int) -> str:
    """A time of the wall clock for people, in UTC."""
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S") + "Z"
