"""What of the publisher's log is on the disk, and what comes back to memory or goes."""

from __future__ import annotations

from tests.support.machines import ADD, OWNER, link_to, record, task_id
from zmqtasks.core.effects import Effect, SpillTrim, SpillWrite
from zmqtasks.core.held import Finished, KindStat, hold
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.spillrows import UNDECIDED, SpillRow, SpillState
from zmqtasks.limits import RESULT_LOG_AGE_MS_MAX, SPILL_RETRY_MS
from zmqtasks.wire.messages import Status, Verdict

LINK = link_to(OWNER, "in")
STORE = b"the-store"
OTHER_STORE = b"store-2"
HEIR = b"the-heir"


def finished(number: int, body: bytes = b"value") -> Finished:
    task = hold(record(number), ADD, LINK, OWNER, KindStat(), None)
    return Finished(task, Status.SUCCESS, 0, 1_000, body, "")


class Disk:
    """A log whose spill effects end in a dict of rows, as on a disk that works."""

    def __init__(self, bytes_max: int = 10_000) -> None:
        self.log = ResultLog("worker", bytes_max, has_disk=True)
        self.log.store_seen(STORE)
        self.rows: dict[int, SpillRow] = {}
        self.now_ms = 0

    def finish(self, *numbers: int, size: int = 1_000, decided: bool = True) -> None:
        first = self.log.head + 1
        self.log.append([finished(number, b"x" * size) for number in numbers], self.now_ms)
        if decided:
            self.log.decide([(first, self.log.head)], [], self.now_ms)

    def turn(self, error: str = "") -> int:
        """Keep to the bound until nothing more is asked of the disk; returns what was dropped."""
        dropped = self.log.bound(self.now_ms)
        while effects := self.take():
            for effect in effects:
                self.carry_out(effect, error)
            dropped += self.log.bound(self.now_ms)
        return dropped

    def take(self) -> list[Effect]:
        effects, self.log.spill.effects = self.log.spill.effects, []
        return effects

    def carry_out(self, effect: Effect, error: str = "") -> None:
        if isinstance(effect, SpillWrite):
            if not error:
                assert not self.rows.keys() & {row.position for row in effect.rows}
                self.rows.update((row.position, row) for row in effect.rows)
                for position, need, decision in effect.changes:
                    row = self.rows[position]
                    self.rows[position] = row._replace(need=need, decision=decision)
            self.log.spilled(error, self.state(), self.now_ms)
        elif isinstance(effect, SpillTrim):
            for row in list(self.rows.values()):
                is_forgotten = row.outcome is not None and row.outcome.id in effect.ids
                if (
                    row.need <= effect.upto
                    or row.at_ms < effect.before_ms
                    or row.position in effect.positions
                    or (is_forgotten and row.need != UNDECIDED)
                ):
                    del self.rows[row.position]
            self.log.spill.trimmed(self.state())

    def state(self) -> SpillState:
        return SpillState(len(self.rows), 0, min(self.rows, default=0))

    def trim(self) -> int:
        dropped = self.log.trim(self.now_ms)
        return dropped + self.turn()


def test_what_exceeds_the_memory_goes_to_the_disk_the_oldest_first() -> None:
    disk = Disk()
    for number in range(1, 101):
        disk.finish(number)
        assert disk.turn() == 0
    assert disk.log.bytes <= disk.log.bytes_max
    assert disk.log.dropped_count == 0
    assert sorted([*disk.rows, *disk.log.entries]) == list(range(1, 201))
    assert max(disk.rows) < min(disk.log.entries)
    outcomes = [row.outcome for row in disk.rows.values() if row.outcome is not None]
    assert all(made.body == b"x" * 1_000 for made in outcomes)


def test_nothing_goes_to_the_disk_while_there_is_memory() -> None:
    disk = Disk()
    disk.finish(*range(1, 5))
    disk.log.bound(0)
    assert disk.take() == []


def test_what_is_being_written_stays_in_memory_and_only_one_write_is_under_way() -> None:
    disk = Disk()
    disk.finish(*range(1, 21))
    disk.log.bound(0)
    (write,) = disk.take()
    assert disk.log.is_choked, "no task shall start while memory is over its bound"
    assert disk.log.outcome_of(task_id(1)) is not None
    disk.log.bound(0)
    assert disk.take() == []
    disk.carry_out(write)
    disk.turn()
    assert not disk.log.is_choked
    assert disk.log.outcome_of(task_id(1)) is None


def test_outcome_without_a_verdict_leaves_its_owner_and_size_in_memory() -> None:
    disk = Disk()
    disk.finish(*range(1, 11), size=5_000, decided=False)
    disk.turn()
    assert disk.log.bytes <= disk.log.bytes_max
    stub = disk.log.entries[1]
    assert stub.is_stub
    assert [made.size for made in disk.log.undecided_of(OWNER)] == [5_000] * 10
    assert disk.log.undecided_of(OWNER)[0].body is None
    assert disk.rows[1].need == UNDECIDED


def test_spilled_outcome_goes_when_its_late_verdict_is_stored() -> None:
    disk = Disk()
    disk.finish(*range(1, 11), size=5_000, decided=False)
    disk.turn()
    disk.log.stored(STORE, 10)
    disk.trim()
    assert 1 in disk.rows, "its owner has not decided"
    (verdict,) = disk.log.decide([(1, 1)], [], 0)
    disk.log.stored(STORE, 10)
    disk.trim()
    assert 1 in disk.rows, "the verdict is not stored"
    disk.log.stored(STORE, verdict.position)
    disk.trim()
    assert 1 not in disk.rows
    assert 1 not in disk.log.entries


def test_verdict_that_comes_while_an_outcome_is_written_is_not_lost() -> None:
    disk = Disk()
    disk.finish(*range(1, 11), size=5_000, decided=False)
    disk.log.bound(0)
    (write,) = disk.take()
    (verdict,) = disk.log.decide([(1, 1)], [], 0)
    disk.carry_out(write)
    assert disk.log.decision_on(disk.rows[1]) == Verdict.SETTLED
    assert disk.rows[1].need == UNDECIDED
    disk.log.stored(STORE, verdict.position)
    disk.trim()
    assert 1 not in disk.rows


def test_stubs_that_are_decided_leave_the_memory_too() -> None:
    """They were dropped, payload and all, when there were more of them than the memory takes."""
    disk = Disk(bytes_max=20_000)
    for number in range(1, 101):
        disk.finish(number, size=5_000, decided=False)
        disk.turn()
    assert len(disk.log.undecided_of(OWNER)) == 100
    disk.log.decide([(1, 100)], [], 0)
    disk.turn()
    assert disk.log.bytes <= disk.log.bytes_max
    assert disk.log.dropped_count == 0
    assert disk.rows[1].decision == Verdict.SETTLED
    assert disk.rows[1].need == 101
    disk.log.stored(STORE, disk.log.head)
    disk.trim()
    assert not disk.rows
    assert not disk.log.entries


def test_outcome_whose_owner_is_gone_can_be_decided_by_another_though_it_is_on_the_disk() -> None:
    disk = Disk()
    disk.finish(*range(1, 11), size=5_000, decided=False)
    disk.log.owner_gone(OWNER)
    disk.turn()
    assert disk.log.entries[1].is_stub
    taken = disk.log.taken_over(task_id(1), 1, HEIR)
    assert taken is not None
    assert (taken.body, taken.size) == (None, 5_000)
    disk.log.stored(STORE, 10)
    disk.trim()
    assert list(disk.rows) == [1], "the others need no verdict"
    (verdict,) = disk.log.decide([(1, 1)], [], 0)
    disk.log.stored(STORE, verdict.position)
    disk.trim()
    assert not disk.rows


def test_small_outcome_that_nobody_decides_on_goes_to_the_disk_before_it_would_be_dropped() -> None:
    disk = Disk()
    disk.finish(*range(1, 51), size=0, decided=False)
    assert disk.turn() == 0
    assert not disk.rows, "their owner is there"
    disk.log.owner_gone(OWNER)
    assert disk.turn() == 0
    assert disk.log.bytes <= disk.log.bytes_max
    assert disk.log.dropped_count == 0
    assert sorted([*disk.rows, *disk.log.entries]) == list(range(1, 51))
    disk.log.stored(STORE, disk.log.head)
    disk.trim()
    assert not disk.rows


def test_owner_that_comes_while_such_an_outcome_is_written_can_decide() -> None:
    disk = Disk()
    disk.finish(*range(1, 51), size=0, decided=False)
    disk.log.owner_gone(OWNER)
    disk.log.bound(0)
    (write,) = disk.take()
    assert disk.log.taken_over(task_id(1), 1, HEIR) is not None
    disk.carry_out(write)
    assert disk.log.decide([(1, 1)], [], 0)
    assert disk.log.entries[1].decision == Verdict.SETTLED


def test_full_disk_still_lets_decided_stubs_leave_the_memory() -> None:
    disk = Disk(bytes_max=20_000)
    disk.finish(*range(1, 31), size=5_000, decided=False)
    disk.turn()
    disk.finish(31, size=5_000)
    disk.log.bound(0)
    disk.carry_out(disk.take()[0], "no room")
    disk.log.decide([(1, 30)], [], 0)
    dropped = disk.turn()
    assert dropped == 0
    assert disk.log.spill.failing == "no room"
    assert all(not entry.is_stub for entry in disk.log.entries.values())


def test_decision_on_a_row_is_that_of_its_stub_where_there_is_one() -> None:
    disk = Disk()
    disk.finish(*range(1, 21))
    disk.turn()
    assert disk.log.decision_on(disk.rows[1]) == Verdict.SETTLED


def test_what_a_store_has_leaves_the_disk() -> None:
    disk = Disk()
    disk.finish(*range(1, 51))
    disk.turn()
    spilled = len(disk.rows)
    assert spilled
    assert disk.log.first == 1
    disk.log.stored(STORE, 20)
    disk.trim()
    assert len(disk.rows) == spilled, "their verdicts are not stored"
    disk.log.stored(STORE, disk.log.head)
    disk.trim()
    assert not disk.rows
    assert not disk.log.entries
    assert disk.log.first == disk.log.head + 1
    assert disk.log.stored_upto() == disk.log.head
    assert disk.log.spill.is_empty


def test_what_is_stored_while_it_is_written_leaves_the_disk_too() -> None:
    disk = Disk()
    disk.finish(*range(1, 21))
    disk.log.bound(0)
    (write,) = disk.take()
    disk.log.stored(STORE, disk.log.head)
    disk.log.trim(0)
    (trim,) = disk.take()
    assert not disk.log.entries
    disk.carry_out(write)
    disk.carry_out(trim)
    assert not disk.rows


def test_stored_upto_counts_what_is_on_the_disk() -> None:
    disk = Disk()
    disk.finish(*range(1, 51))
    disk.turn()
    assert disk.log.stored_upto() == 0
    assert disk.log.awaited_count == 100
    assert disk.log.is_awaited


def test_full_disk_costs_nothing_while_there_is_memory_and_then_the_oldest() -> None:
    disk = Disk()
    disk.finish(*range(1, 7))
    assert disk.turn("no room") == 0
    assert disk.log.dropped_count == 0
    disk.finish(*range(7, 31))
    dropped = disk.turn("no room")
    assert dropped == disk.log.dropped_count == disk.log.missed_count > 0
    assert disk.log.bytes <= disk.log.bytes_max
    assert not disk.log.is_choked, "tasks go on"
    assert disk.log.outcome_of(task_id(30)) is not None
    assert disk.log.outcome_of(task_id(1)) is None


def test_disk_that_failed_is_tried_again_after_a_while() -> None:
    disk = Disk()
    disk.finish(*range(1, 7))
    disk.turn("no room")
    assert disk.log.spill.failing == "no room"
    assert not disk.rows
    disk.log.bound(0)
    assert disk.take() == []
    disk.now_ms = SPILL_RETRY_MS
    disk.turn()
    assert disk.rows
    assert disk.log.spill.failing == ""
    assert disk.log.dropped_count == 0


def test_without_a_disk_the_oldest_are_dropped_and_counted() -> None:
    log = ResultLog("worker", 10_000)
    log.store_seen(STORE)
    log.append([finished(number, b"x" * 1_000) for number in range(1, 21)], 0)
    log.decide([(1, 20)], [], 0)
    assert log.bound(0) > 0
    assert log.spill.effects == []
    assert log.dropped_count > 0


def test_without_a_store_settled_outcomes_do_not_go_to_the_disk() -> None:
    disk = Disk()
    disk.log.store_left(STORE)
    disk.finish(*range(1, 51))
    assert disk.turn() == 0, "no store should have had them"
    assert disk.log.dropped_count > disk.log.missed_count == 0
    assert not disk.rows
    assert disk.log.bytes <= disk.log.bytes_max


def test_without_a_store_large_outcomes_that_an_owner_wants_go_to_the_disk() -> None:
    disk = Disk()
    disk.log.store_left(STORE)
    disk.finish(*range(1, 11), size=5_000, decided=False)
    disk.turn()
    assert disk.log.bytes <= disk.log.bytes_max
    assert len(disk.log.undecided_of(OWNER)) == 10


def test_age_does_not_take_what_a_known_store_has_not_got() -> None:
    disk = Disk()
    disk.finish(*range(1, 51))
    disk.turn()
    kept = len(disk.rows) + len(disk.log.entries)
    disk.now_ms = 2 * RESULT_LOG_AGE_MS_MAX
    assert disk.trim() == 0
    assert len(disk.rows) + len(disk.log.entries) == kept


def test_owner_that_has_not_decided_for_very_long_is_given_up_but_a_store_gets_it() -> None:
    disk = Disk()
    disk.finish(1, decided=False)
    disk.now_ms = RESULT_LOG_AGE_MS_MAX
    disk.trim()
    assert disk.log.undecided_of(OWNER) == []
    assert disk.log.outcome_of(task_id(1)) is not None
    disk.log.stored(STORE, 1)
    disk.trim()
    assert disk.log.outcome_of(task_id(1)) is None


def test_when_the_store_is_given_up_the_disk_is_kept_for_late_ones_for_as_long_as_memory() -> None:
    disk = Disk()
    disk.finish(*range(1, 51))
    disk.turn()
    disk.log.store_left(STORE)
    disk.trim()
    assert disk.rows
    disk.log.store_seen(OTHER_STORE)
    disk.log.stored(OTHER_STORE, 1)
    assert disk.log.first == 1
    disk.log.store_left(OTHER_STORE)
    disk.now_ms = RESULT_LOG_AGE_MS_MAX + 60_000
    disk.trim()
    assert not disk.rows


def test_forgotten_task_leaves_the_disk_unless_its_owner_wants_it() -> None:
    disk = Disk()
    disk.finish(*range(1, 21))
    disk.finish(*range(21, 31), size=5_000, decided=False)
    disk.turn()
    assert disk.log.entries[41].is_stub
    disk.log.forget(task_id(1))
    disk.log.forget(task_id(21))
    disk.trim()
    kept = {row.outcome.id for row in disk.rows.values() if row.outcome is not None}
    assert task_id(1) not in kept
    assert task_id(21) in kept


def test_forgotten_while_it_is_written_leaves_the_disk() -> None:
    disk = Disk()
    disk.finish(*range(1, 21))
    disk.log.bound(0)
    (write,) = disk.take()
    disk.log.forget(task_id(1))
    disk.carry_out(write)
    disk.trim()
    assert 1 not in disk.rows


def test_disk_that_loses_all_costs_what_was_there_and_no_more() -> None:
    disk = Disk()
    disk.finish(*range(1, 21))
    disk.finish(*range(21, 31), size=5_000, decided=False)
    disk.turn()
    on_disk = len(disk.rows)
    in_memory = [p for p, entry in disk.log.entries.items() if not entry.is_stub]
    disk.rows.clear()
    assert disk.log.spill_broken("it burnt", 0) == on_disk
    assert list(disk.log.entries) == in_memory
    assert disk.log.first == (min(in_memory) if in_memory else disk.log.head + 1)
    disk.now_ms = SPILL_RETRY_MS
    disk.finish(*range(31, 51))
    disk.turn()
    assert disk.rows, "another file is begun"


def test_bound_of_many_small_outcomes_counts_what_goes_with_them() -> None:
    disk = Disk(bytes_max=100_000)
    for number in range(1, 2_001, 50):
        disk.finish(*range(number, number + 50), size=8)
        disk.turn()
    assert len(disk.log.entries) < 500
    assert len(disk.log.entries) + len(disk.rows) == 4_000


def test_owner_that_decides_on_a_few_at_a_time_does_not_keep_the_rest_in_memory() -> None:
    """Each verdict made a small write, and nothing large was written beside it."""
    disk = Disk(bytes_max=100_000)
    decided = 0
    for turn in range(200):
        disk.finish(*range(4 * turn + 1, 4 * turn + 5), size=5_000, decided=False)
        for position in disk.log.undecided_of(OWNER)[:3]:
            disk.log.decide([(position.position, position.position)], [], 0)
            decided += 1
        disk.log.bound(0)
        for write in disk.take():
            disk.carry_out(write)
        assert disk.log.bytes < 1.5 * disk.log.bytes_max
    assert decided == 600
    assert disk.log.dropped_count == 0
