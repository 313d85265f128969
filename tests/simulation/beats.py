"""Worlds of beats: hours of virtual time in which leaders die and beats lose sight of each other.

The machines of production on the simulated network, with real schedules and a store. What is
checked is what beats promise: each tick has one recorded outcome, none is missing, and what
was started twice is known to have been.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.simulation.clock import Clock
from tests.simulation.faults import CLASSES, FEATURES
from tests.simulation.invariants import Ledger, finished
from tests.simulation.process import TIMERS, Plan, Process
from tests.simulation.tasks import APP, QUICK, Spec
from tests.simulation.world import World
from zmqtasks.core import effects as fx
from zmqtasks.core.beat import Beat, BeatEntry
from zmqtasks.core.beatnode import add_beat
from zmqtasks.core.calls import Call
from zmqtasks.core.due import find_due
from zmqtasks.core.held import HeldTask
from zmqtasks.core.lanes import FIRST_KEY
from zmqtasks.core.linkevents import Timers
from zmqtasks.core.links import LinkId
from zmqtasks.core.rows import OutcomeRow, final_row
from zmqtasks.core.ticks import Fate, is_twice
from zmqtasks.ids import tick_task_id
from zmqtasks.schedules import crontab, describe, schedule
from zmqtasks.schedules.base import Schedule
from zmqtasks.wire.beat import BeatRecord
from zmqtasks.wire.messages import Outcome, Status, Verdict

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MESH_NAME = "sim"
_BEAT_DIALS = frozenset(("worker", "broker", "beat", "store"))
_STORE_DIALS = frozenset(("worker", "producer", "broker", "beat"))
#: After that the next beat has to have started what the last one had not, or left behind.
_TAKEOVER_MS = 10_000
#: What a process that was killed had not yet written of what it knew of ticks.
_SAVED_AFTER_MS = 1_000
#: What a beat has started others have heard of after this, also where a link was lost meanwhile.
_UNTOLD_MS = 3_000


class BeatShape(NamedTuple):
    """What happens in a world.

    Attributes:
        begin: wall clock when it begins.
        hours: how long it is.
        kill_every_ms: so often the leader dies.
        partitions_ms: when beats lose sight of each other, from the beginning.
        parted_ms: for how long.
        beats, workers: how many there are.
        timers: of all links; slower ones make long worlds faster, and takeovers slower.
    """

    begin: datetime
    hours: float
    kill_every_ms: int = HOUR_MS
    partitions_ms: tuple[int, ...] = ()
    parted_ms: int = 20 * MINUTE_MS
    beats: int = 3
    workers: int = 2
    timers: Timers = TIMERS


#: In Berlin clocks go back from three to two o'clock on October 25.
TWO_DAYS = BeatShape(
    datetime(2026, 10, 24, 12, tzinfo=UTC), 48, HOUR_MS, (10 * HOUR_MS, 30 * HOUR_MS),
    workers=1, timers=Timers(2_000, 6_000, 6_000, 8_000, 60_000),
)  # fmt: skip
#: The minutes around that, with everything more often.
HALF_AN_HOUR = BeatShape(
    datetime(2026, 10, 25, 0, 45, tzinfo=UTC), 0.5, 5 * MINUTE_MS,
    (7 * MINUTE_MS, 17 * MINUTE_MS), 3 * MINUTE_MS,
)  # fmt: skip

SCHEDULES: dict[str, Schedule] = {
    "minutely": schedule(60),
    "often": schedule(17),
    "quarters": crontab(minute="*/15", timezone="Europe/Berlin"),
    "hourly": crontab(minute="59", timezone="Europe/Berlin"),
    "nightly": crontab(minute="30", hour="2", timezone="Europe/Berlin"),
}


class _WallClock(Clock):
    """Right, and not in 1970."""

    def __init__(self, begin_ms: int) -> None:
        super().__init__()
        self.begin_ms = begin_ms

    def wall(self, world_ms: int) -> int:
        return self.begin_ms + world_ms


class _Nobody(dict[bytes, Process]):
    """Several may own a tick at a time: nobody is the last one."""

    def __setitem__(self, key: bytes, value: Process) -> None:
        """It is not remembered."""


class BeatLedger(Ledger):
    """What is checked of ticks; that tasks have one owner does not hold for them."""

    def __init__(self, world: BeatWorld) -> None:
        super().__init__(world)
        self.beats = world
        self.last_holder = _Nobody()
        #: {task: its final outcome, as a store had it first}.
        self.recorded: dict[bytes, tuple[int, bytes | None, int]] = {}
        self.runs_count = 0

    def crashed(self, process: Process, *, is_cut: bool) -> None:
        """What it had started others start again."""

    def handed(self, worker: Process, tasks: Sequence[HeldTask]) -> None:
        """Any number of times."""

    def spec_of(self, task: HeldTask) -> Spec:
        run_ms = self.beats.run_ms(task.id)
        return Spec(task.id, task.kind, task.body, run_ms, "plain")

    def started(self, worker: Process, task: HeldTask) -> None:
        self.runs_count += 1

    def settled(self, process: Process, outcomes: Sequence[Outcome]) -> None:
        """What its owner says; the store is looked at."""

    def stored(self, row: OutcomeRow, rows: Sequence[OutcomeRow]) -> None:
        known = self.recorded.setdefault(row.task_id, (row.status, row.body, row.attempt))
        assert known == (row.status, row.body, row.attempt), "a recorded outcome has changed"


class BeatWorld(World):
    """Beats, two workers and a store.

    Args:
        seed: of all randomness.
        shape: what happens.
    """

    def __init__(self, seed: int, shape: BeatShape) -> None:
        self.shape = shape
        self.timers = shape.timers
        self.begin_ms = int(shape.begin.timestamp() * 1000)
        self.end_ms = int(shape.hours * HOUR_MS)
        #: {entry: its ticks}, of those that somebody has to start.
        self.expected: dict[str, list[int]] = {}
        #: {task of a tick: processes that submitted it}.
        self.starters: dict[bytes, set[str]] = {}
        #: Those of which beats know that they were started again, or by several.
        self.known_again: set[bytes] = set()
        self.known_twice: set[bytes] = set()
        #: {process: what it started, and when}, and those of beats that were killed before anybody
        #: can have heard of it.
        self._fired: dict[Process, list[tuple[int, bytes]]] = {}
        self.untold: set[bytes] = set()
        self.late_ms_max = 0
        self.kills_count = 0
        #: {role of a process: what it wrote last, and when}.
        self._saved: dict[str, list[list[BeatRecord]]] = {}
        self._entries: list[BeatEntry] = []
        super().__init__(seed, off=(*CLASSES, *FEATURES))
        self._schedules = SCHEDULES
        self.entries = [BeatEntry(name, QUICK.name, describe(s)) for name, s in SCHEDULES.items()]
        self.ledger: BeatLedger = BeatLedger(self)

    def run_ms(self, task_id: bytes) -> int:
        """How long the task of this tick takes."""
        return task_id[0] * 20

    # --- who is there -----------------------------------------------------------------------

    def _populate(self) -> None:
        for number in range(self.shape.workers):
            self._start(Plan(f"w{number}", ("worker",), frozenset(), (QUICK,), 4), 0)
        self._start(Plan("s0", ("store",), _STORE_DIALS), 0)
        for number in range(self.shape.beats):
            self._start(Plan(f"b{number}", ("beat",), _BEAT_DIALS), self.rng.randint(0, 3_000))
        # Some worlds lose what beats say to each other now and then, as networks do.
        for at_ms in range(MINUTE_MS, self.end_ms, 3 * MINUTE_MS):
            self.at(at_ms + self.rng.randint(0, MINUTE_MS), self._disconnect)

    def _plan_tasks(self) -> None:
        """Beats make them."""

    def _plan_faults(self) -> None:
        at_ms = self.shape.kill_every_ms
        while at_ms < self.end_ms:
            # At any moment, those included at which something is due.
            off_ms = self.rng.choice((0, 1, 5, 40, 500, 1_500, self.rng.randint(0, MINUTE_MS)))
            self.at(at_ms + off_ms, self._kill_leader)
            at_ms += self.shape.kill_every_ms
        for at_ms in self.shape.partitions_ms:
            self.at(at_ms, self._part_beats)

    def beats(self) -> list[tuple[Process, Beat]]:
        """Those that are there."""
        found = ((process, process.node.beat) for process in self.alive())
        return [(process, beat) for process, beat in found if beat is not None]

    def _kill_leader(self) -> None:
        leaders = [process for process, beat in self.beats() if beat.is_leader]
        if leaders:
            self.kills_count += 1
            self._end(self.rng.choice(leaders), "crash")

    def _end(self, worker: Process, fault: str) -> None:
        self.faults.count(fault)
        fired = self._fired.pop(worker, [])
        self.untold.update(i for at_ms, i in fired if at_ms > worker.now - _UNTOLD_MS)
        worker.die(is_silent=False)
        self._start(worker.plan, self.rng.randint(5_000, 2 * MINUTE_MS), worker)

    def _part_beats(self) -> None:
        alive = [process for process, _ in self.beats()]
        self.faults.count("partition")
        for one in alive:
            for other in alive:
                if one.name < other.name:
                    self.network.part(one, other, self.shape.parted_ms)

    def record(self, process: Process, effect: fx.Effect) -> None:
        """Nobody compares these worlds event by event."""

    def record_frames(self, process: Process, link: LinkId, frames: list[bytes]) -> None:
        """As above."""

    # --- beats ------------------------------------------------------------------------------

    def equip(self, process: Process) -> dict[type, Callable[[Any], None]]:
        process.clock = _WallClock(self.begin_ms)
        if "beat" not in process.plan.roles:
            return {}
        pieces = self._saved.get(process.plan.role, [])
        add_beat(
            process.node, MESH_NAME, APP, process.wall_ms, self.entries,
            [record for piece in pieces for record in piece],
        )  # fmt: skip
        return {
            fx.PlanTicks: lambda effect: self._plan_ticks(process, effect),
            fx.FireTick: lambda effect: self._fire(process, effect),
            fx.SaveBeat: lambda effect: self._save(process),
        }

    def _plan_ticks(self, process: Process, effect: fx.PlanTicks) -> None:
        due = find_due(self._schedules[effect.name], effect.after_ms, effect.until_ms)
        beat = process.node.beat
        assert beat is not None
        self.after(self.rng.randint(0, 5), process.deliver, beat.planned, *effect, due)

    def _fire(self, process: Process, effect: fx.FireTick) -> None:
        self.starters.setdefault(effect.id, set()).add(process.name)
        self._fired.setdefault(process, []).append((process.now, effect.id))
        self.after(self.rng.randint(0, 10), process.deliver, self._submit_tick, process, effect)

    def _submit_tick(self, process: Process, effect: fx.FireTick) -> None:
        if not effect.again:
            self.late_ms_max = max(self.late_ms_max, process.wall_ms - effect.due_ms)
        ext = {FIRST_KEY: effect.first_attempt} if effect.again else None
        call = Call(effect.id, QUICK, b"argument of " + effect.id, ext)
        process.node.submit([call], process.now)

    def _save(self, process: Process) -> None:
        """As its file: a moment later."""
        beat = process.node.beat
        assert beat is not None
        for state in beat.ledger.entries.values():
            for key, tick in state.ticks.items():
                task_id = beat.ledger.id_of(state.name, key)
                if tick.again:
                    self.known_again.add(task_id)
                elif is_twice(tick):
                    self.known_twice.add(task_id)
        self.after(_SAVED_AFTER_MS, process.deliver, self._write, process)

    def _write(self, process: Process) -> None:
        assert process.node.beat is not None
        self._saved[process.plan.role] = process.node.beat.ledger.all()

    # --- the end ----------------------------------------------------------------------------

    def run(self) -> None:
        """To the end of the shape, and a while longer.

        Raises:
            AssertionError: a promise does not hold.
        """
        heap = self._heap
        rest_ms = self.end_ms + 2 * MINUTE_MS
        while heap[0][0] <= rest_ms:
            self._step()
        self.check_ticks()

    def check_ticks(self) -> None:
        """Each tick has one recorded outcome, and beats agree on all that they know."""
        store = next(process.store for process in self.alive() if process.store is not None)
        assert store is not None
        begin_ms = self.begin_ms + 10_000  # from then on beats were there
        expected = {
            tick_task_id(MESH_NAME, APP, name, due_ms): (name, due_ms)
            for name, when in SCHEDULES.items()
            for due_ms in _all_due(when, begin_ms, self.begin_ms + self.end_ms)
        }
        rows = finished(store.get_batch(list(expected)))
        for task_id, tick in expected.items():
            found = rows.get(task_id, [])
            row = final_row(found)
            assert row is not None, f"the tick {tick} has no outcome"
            assert row.verdict == Verdict.SETTLED, f"nobody has decided on the tick {tick}"
            assert row.status == Status.SUCCESS
        self._check_beats(expected)
        several = {task_id for task_id, who in self.starters.items() if len(who) > 1}
        unknown = several - self.known_again - self.known_twice - self.untold
        assert not unknown, f"{len(unknown)} ticks were started by several beats, and none knows"
        assert self.late_ms_max <= _TAKEOVER_MS, f"a tick was {self.late_ms_max} ms late"
        for task_id in self.known_twice - self.untold:
            due_ms = expected[task_id][1] - self.begin_ms
            assert any(
                at_ms - _TAKEOVER_MS <= due_ms <= at_ms + self.shape.parted_ms + _TAKEOVER_MS
                for at_ms in self.shape.partitions_ms
            ), "two beats that saw each other started the same tick"

    def _check_beats(self, expected: dict[bytes, tuple[str, int]]) -> None:
        known = []
        for process, beat in self.beats():
            ticks = {}
            for state in beat.ledger.entries.values():
                for key, tick in state.ticks.items():
                    is_old = key[0] < process.wall_ms - MINUTE_MS
                    assert tick.fate >= Fate.OPEN, (
                        f"{process.name}: {state.name} {key} was not started"
                    )
                    assert tick.fate == Fate.ENDED or not is_old, f"{state.name} {key} is open"
                    task_id = beat.ledger.id_of(state.name, key)
                    if task_id in expected and is_old:
                        ticks[task_id] = (tick.status, tick.ended_ms, tick.told_by, *tick.starts)
            known.append(ticks)
        for one in known:
            for other in known:
                both = one.keys() & other.keys()
                assert {i: one[i] for i in both} == {i: other[i] for i in both}, "beats differ"


def _all_due(when: Schedule, after_ms: int, until_ms: int) -> list[int]:
    dues: list[int] = []
    while after_ms < until_ms:
        due = find_due(when, after_ms, min(until_ms, after_ms + HOUR_MS))
        assert not due.is_more
        dues += due.dues_ms
        after_ms += HOUR_MS
    return dues
