"""The rules of one beat: what is started, what is not, and what is said of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.machines import hello, link_to, of, sent
from zmqtasks.core.beat import Beat, BeatEntry
from zmqtasks.core.beatpeers import BEAT_KEY, BeatPeers
from zmqtasks.core.due import Schedule, find_due
from zmqtasks.core.effects import Effect, FireTick, Note, PlanTicks
from zmqtasks.core.inquiry import Inquiry
from zmqtasks.core.tickquestions import TickQuestions
from zmqtasks.core.ticks import Fate, TickLedger
from zmqtasks.errors import ConfigError
from zmqtasks.limits import BEAT_LISTEN_MS
from zmqtasks.schedules import schedule
from zmqtasks.wire.beat import BeatRecord, Beats, TickRecord
from zmqtasks.wire.messages import Hello, Outcome, StateRecord, Status, TaskState

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGIN_MS = 1_800_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
ONE, OTHER = b"beat-one", b"beat-two"


class At:
    """Due at these moments, relative to the beginning."""

    def __init__(self, *dues_ms: int) -> None:
        self._dues = [EPOCH + timedelta(milliseconds=BEGIN_MS + due) for due in dues_ms]

    def next_after(self, moment: datetime) -> datetime | None:
        return next((due for due in self._dues if due > moment), None)


class Rig:
    """A beat, its clocks, and what asks schedules for it."""

    def __init__(
        self, schedules: dict[str, Schedule], *, node: bytes = ONE, since_ms: int = 0,
        records: Sequence[BeatRecord] = (), words: str = "as planned", **policies: Any,
    ) -> None:  # fmt: skip
        self.node = node
        self.since_ms = since_ms
        self.schedules = schedules
        self.now_ms = 1_000
        self.wall_ms = BEGIN_MS
        ledger = TickLedger("mesh", "shop")
        ledger.merge(copy.deepcopy(list(records)))
        inquiry = Inquiry(grace_ms=100)

        def ask(ids: Sequence[bytes], now_ms: int) -> int:
            unknown = [StateRecord(each, TaskState.UNKNOWN, {}, None) for each in ids]
            return inquiry.ask(ids, unknown, [], True, now_ms)

        entries = [BeatEntry(name, "tasks.tidy", words, **policies) for name in schedules]
        peers = BeatPeers(node, "shop", since_ms)
        self.questions = TickQuestions(inquiry, ask)
        self.beat = Beat(node, ledger, peers, entries, self.questions, lambda task_id: False)
        self.fired: list[FireTick] = []
        self.notes: list[Note] = []
        self.to_tell: list[Beats] = []
        #: {entry: why its schedule cannot be asked}
        self.broken: dict[str, str] = {}

    def flush(self) -> None:
        """Turns at the same moment, until nothing is asked any more."""
        for _ in range(10):
            self.beat.flush(self.now_ms, self.wall_ms)
            effects, self.beat.effects = self.beat.effects, []
            self._carry_out(effects)
            if not of(effects, PlanTicks):
                return
        raise AssertionError("it asks and asks")

    def _carry_out(self, effects: list[Effect]) -> None:
        self.fired += of(effects, FireTick)
        self.notes += of(effects, Note)
        self.to_tell += sent(effects, Beats)
        for plan in of(effects, PlanTicks):
            if plan.name in self.broken:
                self.beat.unplanned(plan.name, self.broken[plan.name])
            else:
                due = find_due(self.schedules[plan.name], plan.after_ms, plan.until_ms)
                self.beat.planned(plan.name, plan.after_ms, plan.until_ms, due)

    def wait(self, ms: int, step_ms: int = 1_000) -> Rig:
        """Let time go by."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            passed = min(step_ms, end_ms - self.now_ms)
            self.now_ms += passed
            self.wall_ms += passed
            self.flush()
        return self

    def lead(self) -> Rig:
        """Come up and listen to others until it leads."""
        self.flush()
        self.wait(BEAT_LISTEN_MS)
        assert self.beat.is_leader
        return self

    def dues(self, name: str = "tidy") -> list[int]:
        """Of what was started, relative to the beginning; takes it."""
        found = [tick.due_ms - BEGIN_MS for tick in self.fired if tick.name == name]
        self.fired = [tick for tick in self.fired if tick.name != name]
        return found

    def end(self, task_id: bytes, status: int = Status.SUCCESS) -> None:
        """Its task has ended."""
        self.beat.settled([Outcome(task_id, 1, status, 1, -1, 0, 0, 0, b"")])
        self.flush()

    def row(self) -> dict[str, Any]:
        """What is shown of the only entry."""
        (row,) = self.beat.describe()
        return row

    def said(self, event: str) -> list[str]:
        """What was logged about such events."""
        return [note.text for note in self.notes if note.event == event]

    def greeting(self) -> Hello:
        """As other nodes see it."""
        found = hello(self.node, "beat")
        found.ext = {BEAT_KEY: ["shop", self.since_ms]}
        return found


def known(upto_ms: int, *ticks: TickRecord, words: str = "as planned") -> BeatRecord:
    """What a beat knew when it ran here last."""
    return BeatRecord("tidy", words, BEGIN_MS - HOUR_MS, BEGIN_MS + upto_ms, False, 0, list(ticks))


def meet(one: Rig, other: Rig) -> None:
    """Both see each other."""
    one.beat.link_up(link_to(other.node), other.greeting(), one.now_ms)
    other.beat.link_up(link_to(one.node), one.greeting(), other.now_ms)
    talk(one, other)


def talk(one: Rig, other: Rig) -> None:
    """They hear what was said, and what comes of that."""
    for _ in range(4):
        one.flush()
        other.flush()
        for teller, hearer in ((one, other), (other, one)):
            said, teller.to_tell = teller.to_tell, []
            for message in said:
                hearer.beat.received(link_to(teller.node), copy.deepcopy(message))


# --- starting -----------------------------------------------------------------------------


def test_a_tick_is_started_once_when_it_is_due_and_not_before() -> None:
    rig = Rig({"tidy": schedule(10)}).lead()
    rig.wait(7_999)
    assert rig.dues() == []
    rig.wait(1)
    assert rig.dues() == [10_000]
    rig.wait(19_000)
    assert rig.dues() == [20_000]


def test_its_task_has_the_id_that_every_beat_gives_it() -> None:
    rig = Rig({"tidy": schedule(10)}).lead().wait(10_000)
    [tick] = rig.fired
    assert tick.id == TickLedger("mesh", "shop").id_of("tidy", (BEGIN_MS + 10_000, False))
    assert tick.again == 0


def test_who_has_just_come_listens_before_it_starts_anything() -> None:
    rig = Rig({"tidy": schedule(1)})
    rig.flush()
    rig.wait(BEAT_LISTEN_MS - 1)
    assert not rig.beat.is_leader
    assert rig.dues() == []
    rig.wait(1)
    assert rig.dues() == [1_000, 2_000]


def test_ticks_from_before_an_entry_was_known_are_not_made_up_for() -> None:
    rig = Rig({"tidy": At(-MINUTE_MS, 0)}).lead()
    assert rig.dues() == []
    assert rig.row()["missed"] == 0


def test_an_entry_is_shown_with_its_last_and_next_tick() -> None:
    rig = Rig({"tidy": schedule(10)}).lead().wait(10_000)
    assert rig.row()["open"] == 1
    rig.end(rig.fired[0].id)
    row = rig.row()
    assert (row["last_ms"], row["last_status"]) == (BEGIN_MS + 10_000, Status.SUCCESS)
    assert (row["next_ms"], row["open"], row["started"]) == (BEGIN_MS + 20_000, 0, 1)


def test_who_is_about_to_leave_starts_nothing() -> None:
    rig = Rig({"tidy": schedule(10)}).lead()
    rig.beat.drain()
    rig.wait(20_000)
    assert rig.dues() == []


# --- missed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "started", "count"),
    [
        ("latest", [-10 * MINUTE_MS], 2),
        ("all", [-30 * MINUTE_MS, -20 * MINUTE_MS, -10 * MINUTE_MS], 0),
        ("skip", [], 3),
    ],
)
def test_what_was_due_while_nobody_was_there_goes_by_the_policy(
    missed: str, started: list[int], count: int
) -> None:
    dues = At(*(minutes * MINUTE_MS for minutes in (-30, -20, -10, 30)))
    rig = Rig({"tidy": dues}, records=[known(-40 * MINUTE_MS)], missed=missed).lead()
    assert rig.dues() == started
    assert rig.row()["missed"] == count
    assert bool(rig.said("beat.missed")) == bool(count)
    assert rig.row()["next_ms"] == BEGIN_MS + 30 * MINUTE_MS


@pytest.mark.parametrize("missed", ["latest", "skip"])
def test_what_is_a_little_late_is_not_missed_and_is_the_latest(missed: str) -> None:
    dues = At(-30 * MINUTE_MS, -20_000)
    rig = Rig({"tidy": dues}, records=[known(-40 * MINUTE_MS)], missed=missed).lead()
    assert rig.dues() == [-20_000]
    assert rig.row()["missed"] == 1


def test_what_was_started_before_is_not_started_again_after_a_restart() -> None:
    done = TickRecord(BEGIN_MS - 10_000, int(Fate.ENDED), [ONE], 0, BEGIN_MS - 9_000, ONE)
    rig = Rig({"tidy": At(-10_000, 10_000)}, records=[known(-10_000, done)]).lead()
    assert rig.dues() == []
    assert rig.row()["last_ms"] == BEGIN_MS - 10_000


def test_with_another_schedule_an_entry_begins_anew() -> None:
    old = known(-40 * MINUTE_MS, words="as it was")
    rig = Rig({"tidy": At(-10 * MINUTE_MS, 10_000)}, records=[old]).lead()
    assert rig.dues() == []
    assert "another schedule now: as planned (before: as it was)" in rig.said("beat.changed")[0]
    assert rig.wait(10_000).dues() == [10_000]


# --- overlap ------------------------------------------------------------------------------


def test_a_tick_is_left_out_while_the_one_before_has_not_ended() -> None:
    rig = Rig({"tidy": schedule(10)}, overlap="skip").lead().wait(8_000)
    [first] = rig.fired
    rig.wait(20_000)
    assert rig.dues() == [10_000]
    assert rig.row()["overlap"] == 2
    assert len(rig.said("beat.overlap")) == 2
    rig.end(first.id)
    assert rig.wait(2_000).dues() == []
    assert rig.wait(8_000).dues() == [40_000]


def test_ticks_may_overlap_where_that_is_allowed() -> None:
    rig = Rig({"tidy": schedule(10)}, overlap="allow").lead().wait(28_000)
    assert rig.dues() == [10_000, 20_000, 30_000]
    assert rig.row()["open"] == 3


# --- orders -------------------------------------------------------------------------------


def test_a_paused_entry_is_not_started_and_its_ticks_are_counted_when_it_goes_on() -> None:
    rig = Rig({"tidy": schedule(10)}).lead()
    rig.beat.pause("tidy", True, rig.wall_ms)
    rig.wait(30_000)
    assert rig.dues() == []
    assert rig.row()["paused"]
    rig.beat.pause("tidy", False, rig.wall_ms)
    rig.wait(8_000)
    assert rig.dues() == [40_000]
    assert rig.row()["skipped_paused"] == 3
    assert rig.row()["missed"] == 0


def test_the_later_one_of_two_orders_holds_whichever_comes_first() -> None:
    rig = Rig({"tidy": schedule(10)}).lead()
    rig.beat.pause("tidy", True, BEGIN_MS + 20)
    rig.beat.pause("tidy", False, BEGIN_MS + 10)
    assert rig.row()["paused"]


def test_an_entry_that_is_not_enabled_waits_until_it_is_resumed() -> None:
    rig = Rig({"tidy": schedule(10)}, is_enabled=False).lead().wait(20_000)
    assert rig.dues() == []
    rig.beat.pause("tidy", False, rig.wall_ms)
    assert rig.wait(10_000).dues() == [30_000]


def test_an_order_to_run_it_now_is_one_tick_however_often_it_is_heard() -> None:
    rig = Rig({"tidy": schedule(3_600)}).lead()
    rig.beat.pause("tidy", True, rig.wall_ms)
    first = rig.beat.run("tidy", rig.wall_ms)
    assert rig.beat.run("tidy", rig.wall_ms) == first
    rig.flush()
    [tick] = rig.fired
    assert tick.id == first
    assert first != rig.beat.ledger.id_of("tidy", (rig.wall_ms, False))


def test_only_the_leader_runs_it_now() -> None:
    rig = Rig({"tidy": schedule(3_600)})
    rig.flush()
    assert rig.beat.run("tidy", rig.wall_ms) is None


def test_an_entry_that_does_not_exist_is_told_with_those_that_do() -> None:
    rig = Rig({"tidy": schedule(10), "count": schedule(10)}).lead()
    with pytest.raises(ConfigError, match="no entry 'tydi'; there are: count, tidy"):
        rig.beat.pause("tydi", True, 1)
    with pytest.raises(ConfigError, match="no entry 'tydi'; there are: count, tidy"):
        rig.beat.run("tydi", 1)


# --- trouble ------------------------------------------------------------------------------


def test_a_tick_that_cannot_be_submitted_for_good_has_ended_and_says_why() -> None:
    rig = Rig({"tidy": schedule(10)}).lead().wait(8_000)
    rig.beat.refused(rig.fired[0].id, "the queue has no name", is_final=True)
    rig.wait(9_000)
    assert rig.dues() == [10_000]
    assert rig.row()["last_text"] == "the queue has no name"
    assert "cannot be started: the queue has no name" in rig.said("beat.refused")[0]


def test_a_tick_that_cannot_be_submitted_now_is_tried_again() -> None:
    rig = Rig({"tidy": At(10_000)}).lead().wait(8_000)
    task_id = rig.fired[0].id
    rig.beat.refused(task_id, "there is no room", is_final=False)
    rig.wait(4_000)
    assert rig.dues() == [10_000]
    rig.wait(1_000)
    assert [tick.id for tick in rig.fired] == [task_id]


def test_a_schedule_that_cannot_be_asked_is_told_and_asked_again() -> None:
    rig = Rig({"tidy": schedule(10)})
    rig.broken["tidy"] = "ZeroDivisionError"
    rig.lead().wait(8_000)
    assert rig.dues() == []
    assert "nobody knows when tidy is due (as planned): ZeroDivi" in rig.said("beat.schedule")[0]
    rig.broken.clear()
    assert rig.wait(5_000).dues() == [10_000]


def test_a_clock_that_is_set_back_starts_nothing_twice() -> None:
    rig = Rig({"tidy": schedule(10)}).lead().wait(28_000)
    assert rig.dues() == [10_000, 20_000, 30_000]
    rig.wall_ms -= 20_000
    rig.wait(20_000)
    assert rig.dues() == []
    assert "set back by 20 s: ticks that were started are not" in rig.said("beat.clock")[0]
    assert rig.wait(10_000).dues() == [40_000]


def test_a_clock_that_was_days_ahead_does_not_silence_an_entry_until_then() -> None:
    rig = Rig({"tidy": schedule(10)}, records=[known(48 * HOUR_MS)]).lead()
    rig.wait(18_000)
    assert rig.dues() == [10_000, 20_000]


def test_a_clock_that_jumps_ahead_has_missed_what_lies_between() -> None:
    rig = Rig({"tidy": schedule(600)}).lead()
    rig.wall_ms += 35 * MINUTE_MS
    rig.wait(BEAT_LISTEN_MS + 1_000)  # it is seen at the next turn
    assert rig.dues() == [30 * MINUTE_MS]
    assert rig.row()["missed"] == 2
    assert "was set forward by 2,100 s" in rig.said("beat.clock")[0]


# --- several ------------------------------------------------------------------------------


def test_of_two_the_one_that_began_first_starts_ticks_and_both_know_of_them() -> None:
    one = Rig({"tidy": schedule(10)}, since_ms=1)
    other = Rig({"tidy": schedule(10)}, node=OTHER, since_ms=2)
    one.flush()
    other.flush()
    meet(one, other)
    for _ in range(12):
        one.wait(1_000)
        other.wait(1_000)
        talk(one, other)
    assert one.beat.is_leader
    assert not other.beat.is_leader
    assert (one.dues(), other.dues()) == ([10_000], [])
    assert list(other.beat.ledger.places) == list(one.beat.ledger.places)


def test_the_next_one_starts_again_what_the_lost_one_has_left_with_the_same_id() -> None:
    one = Rig({"tidy": At(10_000, 20_000)}, since_ms=1)
    other = Rig({"tidy": At(10_000, 20_000)}, node=OTHER, since_ms=2)
    one.flush()
    other.flush()
    meet(one, other)
    for _ in range(11):
        one.wait(1_000)
        other.wait(1_000)
        talk(one, other)
    [first] = one.fired
    other.beat.link_down(link_to(ONE), ONE, other.now_ms)
    other.wait(5_000)
    [again] = other.fired
    assert (again.id, again.due_ms) == (first.id, first.due_ms)
    assert again.again == 1
    assert other.row()["again"] == 1
    assert "started again: the beat that had started it is gone" in other.said("beat.again")[0]


def test_what_two_have_started_apart_is_counted_when_they_meet() -> None:
    one = Rig({"tidy": At(10_000)}, since_ms=1).lead().wait(10_000)
    other = Rig({"tidy": At(10_000)}, node=OTHER, since_ms=2).lead().wait(10_000)
    assert one.fired[0].id == other.fired[0].id
    meet(one, other)
    assert one.row()["twice"] == other.row()["twice"] == 1
    assert len(one.said("beat.twice")) == 1


def test_an_order_that_one_has_heard_reaches_the_other() -> None:
    one = Rig({"tidy": schedule(10)}, since_ms=1)
    other = Rig({"tidy": schedule(10)}, node=OTHER, since_ms=2)
    one.flush()
    other.flush()
    meet(one, other)
    other.beat.pause("tidy", True, other.wall_ms)
    talk(one, other)
    assert one.row()["paused"]
