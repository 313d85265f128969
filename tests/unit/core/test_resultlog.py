"""The publisher's numbered log."""

from __future__ import annotations

import msgspec

from tests.support.machines import ADD, OWNER, link_to, outcome, record, task_id
from zmqtasks.core.held import Finished, KindStat, hold
from zmqtasks.core.links import LANE, LinkId
from zmqtasks.core.resultlog import (
    ARGUMENTS_KEY,
    CHILDREN_KEY,
    EXTENDED_KEY,
    ITEMS_KEY,
    ResultLog,
)
from zmqtasks.limits import RESULT_LOG_AGE_MS_MAX, TOLD_ARGUMENTS_BYTES_MAX
from zmqtasks.wire.messages import Outcome, Status, Verdict

LINK = link_to(OWNER, "in")
STORE = b"the-store"
OTHER_STORE = b"store-2"


def finished(number: int, body: bytes = b"value", link: LinkId = LINK) -> Finished:
    task = hold(record(number), ADD, link, OWNER, KindStat(), None)
    return Finished(task, Status.SUCCESS, 0, 1_000, body, "")


def log_of(*numbers: int, body: bytes = b"value") -> ResultLog:
    log = ResultLog("worker")
    log.append([finished(number, body) for number in numbers], 0)
    return log


def test_outcomes_are_numbered_from_one() -> None:
    log = ResultLog("worker")
    made = log.append([finished(1), finished(2)], 0)
    assert [o.position for _, o in made] == [1, 2]
    assert log.head == 2
    assert made[0][1].ext == {"w": "worker"}


def test_outcomes_tell_of_their_content_and_retries() -> None:
    ended = finished(1)
    ended.task.ext = {"c": b"digest", "n": 2, "h": {"not": "told"}}
    [(_, outcome)] = ResultLog("worker").append([ended], 0)
    assert outcome.ext == {"w": "worker", "c": b"digest", "n": 2}


def test_outcomes_tell_arguments_only_where_they_are_wanted_and_not_too_large() -> None:
    extended = msgspec.structs.replace(ADD, ext=(*ADD.ext, (EXTENDED_KEY, 1)))
    wanted, plain, large = finished(1), finished(2), finished(3)
    for ended, kind in ((wanted, extended), (plain, ADD), (large, extended)):
        ended.task.kind = kind
        ended.task.body = b"arguments"
    large.task.body = bytes(TOLD_ARGUMENTS_BYTES_MAX + 1)
    made = ResultLog("worker").append([wanted, plain, large], 0)
    told = [outcome.ext for _, outcome in made]
    assert told == [{"w": "worker", ARGUMENTS_KEY: b"arguments"}, {"w": "worker"}, {"w": "worker"}]


def test_outcomes_tell_what_slots_say_of_attempts() -> None:
    ended = finished(1)._replace(ext={ITEMS_KEY: 3, CHILDREN_KEY: b"ids", "in": 5})
    [(_, outcome)] = ResultLog("worker").append([ended], 0)
    assert outcome.ext == {"w": "worker", ITEMS_KEY: 3, CHILDREN_KEY: b"ids"}


def test_verdicts_are_numbered_in_the_same_log_and_given_once() -> None:
    log = log_of(1, 2, 3)
    made = log.decide([(1, 2)], [3], 0)
    assert [(v.id, v.verdict, v.position) for v in made] == [
        (task_id(1), Verdict.SETTLED, 4),
        (task_id(2), Verdict.SETTLED, 5),
        (task_id(3), Verdict.REFUSED, 6),
    ]
    assert log.decide([(1, 3)], [1], 0) == []


def test_verdicts_on_positions_that_do_not_exist_are_ignored() -> None:
    log = log_of(1)
    assert log.decide([(-5, 0), (2, 10**12)], [77, -1], 0) == []


def test_outcomes_without_a_verdict_are_reported_again() -> None:
    log = log_of(1, 2)
    log.decide([(1, 1)], [], 0)
    assert [o.id for o in log.undecided_of(OWNER)] == [task_id(2)]
    log.owner_gone(OWNER)
    assert log.undecided_of(OWNER) == []


def test_nothing_goes_before_owner_and_store_have_it() -> None:
    log = log_of(1)
    log.store_seen(STORE)
    log.trim(0)
    assert len(log.entries) == 1
    log.stored(STORE, 1)
    log.trim(0)
    assert len(log.entries) == 1, "its owner has not decided"
    log.decide([(1, 1)], [], 0)
    log.trim(0)
    assert len(log.entries) == 2, "the verdict is not stored"
    log.stored(STORE, 2)
    log.trim(0)
    assert not log.entries
    assert log.bytes == 0
    assert not log.positions


def test_one_store_is_enough_and_one_that_left_counts_no_more() -> None:
    log = log_of(1)
    log.decide([(1, 1)], [], 0)
    log.store_seen(STORE)
    log.store_seen(OTHER_STORE)
    log.stored(OTHER_STORE, 2)
    log.trim(0)
    assert not log.entries
    log.append([finished(2)], 0)
    log.store_left(OTHER_STORE)
    log.store_left(STORE)
    log.decide([(3, 3)], [], 0)
    log.trim(0)
    assert len(log.entries) == 2, "without a store it stays for readers"


def test_how_far_outcomes_are_stored_with_their_verdicts() -> None:
    log = log_of(1, 2)
    assert log.stored_upto() == -1, "no store"
    log.store_seen(STORE)
    assert log.stored_upto() == 0
    log.decide([(1, 1)], [], 0)
    log.stored(STORE, 2)
    log.trim(0)
    assert log.stored_upto() == 0, "the verdict on the first is not stored"
    log.stored(STORE, 3)
    log.trim(0)
    assert log.stored_upto() == 1
    log.decide([(2, 2)], [], 0)
    log.stored(STORE, 4)
    log.trim(0)
    assert log.stored_upto() == log.head == 4


def test_without_a_store_old_outcomes_go_by_bytes_and_age() -> None:
    log = ResultLog("worker", bytes_max=5_000)
    log.append([finished(n, b"x" * 1_000) for n in range(1, 11)], 0)
    log.decide([(1, 10)], [], 0)
    log.trim(1_000)
    assert log.bytes <= 5_000 + 1_400
    assert log.outcome_of(task_id(1)) is None
    assert log.outcome_of(task_id(10)) is not None
    log.trim(RESULT_LOG_AGE_MS_MAX)
    assert not log.entries


def test_outcomes_that_their_owner_wants_are_not_dropped_for_bytes() -> None:
    log = ResultLog("worker", bytes_max=1_000)
    log.append([finished(n, b"x" * 1_000) for n in range(1, 6)], 0)
    log.trim(1_000)
    assert len(log.entries) == 5


def test_refused_outcome_is_not_told_to_readers() -> None:
    log = log_of(1, 2)
    log.decide([(1, 1)], [2], 0)
    kept = log.outcome_of(task_id(1))
    assert kept is not None
    assert kept[1] == Verdict.SETTLED
    assert log.outcome_of(task_id(2)) is None


def test_undecided_outcome_is_told_as_such_even_without_an_owner() -> None:
    log = log_of(1)
    log.owner_gone(OWNER)
    kept = log.outcome_of(task_id(1))
    assert kept is not None
    assert kept[1] == Verdict.NONE


def test_own_outcome_is_settled_and_leaves_the_caller_s_record_alone() -> None:
    log = ResultLog("owner")
    told = outcome(1, attempt=4, position=0)
    appended = log.append_own(ADD, told, 0)
    ((_, copy),) = appended.outcomes
    assert (copy.position, copy.ext) == (1, {"w": "owner"})
    assert [(v.verdict, v.attempt, v.position) for v in appended.verdicts] == [
        (Verdict.SETTLED, 4, 2)
    ]
    assert told.position == 0


def test_own_copy_of_a_lost_worker_s_outcome_keeps_its_worker_s_name() -> None:
    log = ResultLog("owner")
    told = Outcome(task_id(1), 1, 0, 9, -1, 0, 0, 1, b"v", {"w": "worker-7"})
    ((_, copy),) = log.append_own(ADD, told, 0).outcomes
    assert copy.ext == {"w": "worker-7"}


def test_outcome_of_the_at_most_once_lane_waits_for_nobody() -> None:
    log = ResultLog("worker")
    log.append([finished(1, link=LANE)], 0)
    assert not log.undecided.get(OWNER)
    kept = log.outcome_of(task_id(1))
    assert kept is not None
    assert kept[1] == Verdict.SETTLED


def test_forgetting_spares_what_the_owner_still_wants() -> None:
    log = log_of(1, 2)
    log.decide([(1, 1)], [], 0)
    for number in (1, 2, 3):
        log.forget(task_id(number))
    assert log.outcome_of(task_id(1)) is None
    assert log.outcome_of(task_id(2)) is not None


def test_log_is_awaited_until_a_store_has_all_of_it() -> None:
    log = ResultLog("worker")
    log.head = 5
    assert not log.is_awaited  # nobody stores results here
    log.store_seen(b"store-01")
    log.stored(b"store-01", 4)
    assert log.is_awaited
    log.stored(b"store-01", 5)
    assert not log.is_awaited


def test_acknowledgement_of_who_is_no_store_or_beyond_the_head_changes_nothing() -> None:
    log = log_of(1)
    log.stored(OTHER_STORE, 1)
    assert log.stores == {}
    log.store_seen(STORE)
    log.stored(STORE, 10**12)
    assert log.stores == {STORE: 1}


# --- owners that change -------------------------------------------------------------------

HEIR = b"the-heir"


def test_heir_decides_on_what_the_owner_left_undecided() -> None:
    log = log_of(1, 2)
    log.decide([(1, 1)], [], 0)
    log.inherited(OWNER, HEIR)
    assert log.undecided_of(OWNER) == []
    assert [o.id for o in log.undecided_of(HEIR)] == [task_id(2)]
    (verdict,) = log.decide([(2, 2)], [], 0)
    assert verdict.verdict == Verdict.SETTLED
    assert log.undecided_of(HEIR) == []


def test_single_outcome_changes_its_owner() -> None:
    log = log_of(1, 2)
    taken = log.taken_over(task_id(1), 1, HEIR)
    assert taken is not None
    assert taken.position == 1
    assert [o.id for o in log.undecided_of(HEIR)] == [task_id(1)]
    assert [o.id for o in log.undecided_of(OWNER)] == [task_id(2)]


def test_new_owner_decides_on_what_the_former_one_does_not_know_any_more() -> None:
    log = log_of(1)
    log.undecidable([1], OWNER)
    assert log.taken_over(task_id(1), 1, HEIR) is not None
    assert [o.id for o in log.undecided_of(HEIR)] == [task_id(1)]


def test_what_the_former_owner_does_not_know_stays_with_the_new_one() -> None:
    log = log_of(1)
    log.taken_over(task_id(1), 1, HEIR)
    log.undecidable([1], OWNER)
    assert [o.id for o in log.undecided_of(HEIR)] == [task_id(1)]


def test_only_an_undecided_outcome_of_that_attempt_changes_its_owner() -> None:
    log = log_of(1)
    assert log.taken_over(task_id(1), 2, HEIR) is None
    assert log.taken_over(task_id(9), 1, HEIR) is None
    log.decide([(1, 1)], [], 0)
    assert log.taken_over(task_id(1), 1, HEIR) is None


def test_outcome_that_its_owner_does_not_know_stands_and_goes_when_it_is_stored() -> None:
    log = log_of(1)
    log.store_seen(STORE)
    log.undecidable([1, 77], OWNER)
    assert log.undecided_of(OWNER) == []
    found = log.outcome_of(task_id(1))
    assert found is not None
    assert found[1] == Verdict.NONE
    log.stored(STORE, 1)
    log.trim(0)
    assert not log.entries
