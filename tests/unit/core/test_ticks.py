"""What beats know of ticks, and how what two of them know is put together."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from zmqtasks.core.ticks import EntryTicks, Fate, TickLedger, is_twice, joined, key_of
from zmqtasks.limits import BEATS_TICKS_MAX, TICKS_KEPT_MAX
from zmqtasks.wire.beat import BeatRecord, TickRecord

NODES = (b"node-a", b"node-b", b"node-c")


def open_tick(due_ms: int, *starts: bytes, **facts: object) -> TickRecord:
    return TickRecord(due_ms, int(Fate.OPEN), sorted(starts), **facts)  # type: ignore[arg-type]


def ended(due_ms: int, at_ms: int, status: int = 0, by: bytes = b"node-a") -> TickRecord:
    return TickRecord(due_ms, int(Fate.ENDED), [by], status, at_ms, by)


def record(*ticks: TickRecord, **facts: object) -> BeatRecord:
    known = {"since_ms": 0, "upto_ms": 10_000, "paused": False, "paused_ms": 0, **facts}
    return BeatRecord("tidy", "every 30 s", ticks=list(ticks), **known)  # type: ignore[arg-type]


def ledger(*records: BeatRecord) -> TickLedger:
    made = TickLedger("mesh", "shop")
    made.merge(copy.deepcopy(list(records)))
    return made


def content(found: TickLedger) -> object:
    """What a beat knows, comparable."""
    return {
        name: (
            state.schedule, state.since_ms, state.upto_ms, state.paused, state.paused_ms,
            sorted(state.ticks.items(), key=lambda item: item[0]), sorted(state.open),
        )
        for name, state in found.entries.items()
    }  # fmt: skip


def told(found: TickLedger) -> list[BeatRecord]:
    return copy.deepcopy([entry for piece in found.all() for entry in piece])


# --- putting together ---------------------------------------------------------------------


def _ticks() -> st.SearchStrategy[TickRecord]:
    starts = st.lists(st.sampled_from(NODES), min_size=1, unique=True).map(sorted)
    dues = st.integers(1, 4).map(lambda n: n * 1_000)
    hands = st.booleans()
    skipped = st.builds(
        lambda due, fate, count, hand: TickRecord(due, int(fate), [], count=count, by_hand=hand),
        dues, st.sampled_from([Fate.MISSED, Fate.OVERLAP, Fate.PAUSED]), st.integers(1, 3), hands,
    )  # fmt: skip
    opened = st.builds(
        lambda due, starts, again, hand: open_tick(due, *starts, again=again, by_hand=hand),
        dues, starts, st.integers(0, 2), hands,
    )  # fmt: skip
    done = st.builds(
        lambda due, starts, status, at_ms, by, again, hand: TickRecord(
            due, int(Fate.ENDED), starts, status, at_ms, by, again=again, by_hand=hand
        ),
        dues, starts, st.integers(0, 2), st.integers(1_000, 1_003), st.sampled_from(NODES),
        st.integers(0, 2), hands,
    )  # fmt: skip
    return st.one_of(skipped, opened, done)


def _records() -> st.SearchStrategy[BeatRecord]:
    """Of beats that have known the entry from its first tick on."""
    return st.builds(
        lambda ticks, upto, paused, paused_ms, name: BeatRecord(
            name, "every 30 s", 0, upto, paused, paused_ms, ticks
        ),
        st.lists(_ticks(), max_size=4, unique_by=key_of), st.integers(0, 5_000), st.booleans(),
        st.integers(0, 3), st.sampled_from(["tidy", "count"]),
    )  # fmt: skip


def _knowledge() -> st.SearchStrategy[list[BeatRecord]]:
    return st.lists(_records(), max_size=3)


@settings(max_examples=150, deadline=None)
@given(_knowledge(), _knowledge())
def test_two_beats_that_told_each_other_know_the_same(
    ours: list[BeatRecord], theirs: list[BeatRecord]
) -> None:
    one, other = ledger(*ours), ledger(*theirs)
    of_one, of_other = told(one), told(other)
    one.merge(of_other)
    other.merge(of_one)
    assert content(one) == content(other)


@settings(max_examples=150, deadline=None)
@given(_knowledge(), _knowledge(), _knowledge())
def test_it_does_not_matter_in_which_order_things_are_heard(
    first: list[BeatRecord], second: list[BeatRecord], third: list[BeatRecord]
) -> None:
    found = [
        content(ledger(*itertools.chain(*order)))
        for order in itertools.permutations((first, second, third))
    ]
    assert all(each == found[0] for each in found)


@settings(max_examples=100, deadline=None)
@given(_knowledge())
def test_what_is_heard_again_is_no_news(known: list[BeatRecord]) -> None:
    beat = ledger(*known)
    before = copy.deepcopy(content(beat))
    beat.take_news()
    assert beat.merge(told(beat)) == []
    assert not beat.has_news
    assert content(beat) == before


def test_who_has_started_a_tick_has_started_it() -> None:
    beat = ledger(record(open_tick(1_000, b"node-a")), record(open_tick(1_000, b"node-b")))
    [tick] = beat.entries["tidy"].ticks.values()
    assert tick.starts == [b"node-a", b"node-b"]
    assert is_twice(tick)
    assert beat.entries["tidy"].twice_count() == 1


def test_a_start_again_is_not_counted_as_a_start_twice() -> None:
    again = open_tick(1_000, b"node-a", b"node-b", again=1)
    assert not is_twice(again)
    assert ledger(record(again)).entries["tidy"].again_count() == 1


def test_an_outcome_stands_and_of_two_the_earlier_one() -> None:
    early, late = ended(1_000, 5_000, status=0), ended(1_000, 6_000, status=1, by=b"node-b")
    for order in itertools.permutations((record(early), record(late), record(open_tick(1_000)))):
        [tick] = ledger(*order).entries["tidy"].ticks.values()
        assert (tick.fate, tick.status, tick.ended_ms) == (Fate.ENDED, 0, 5_000)


def test_the_last_word_on_a_pause_counts() -> None:
    beat = ledger(record(paused=True, paused_ms=7), record(paused=False, paused_ms=5))
    assert beat.entries["tidy"].paused
    beat.merge([record(paused=False, paused_ms=8)])
    assert not beat.entries["tidy"].paused


def test_with_another_schedule_the_later_one_counts() -> None:
    beat = ledger(record(upto_ms=9_000))
    beat.merge([BeatRecord("tidy", "every 5 s", 2_000, 3_000, False, 0, [])])
    state = beat.entries["tidy"]
    assert (state.schedule, state.since_ms, state.upto_ms) == ("every 5 s", 2_000, 3_000)
    beat.merge([record(upto_ms=9_500)])
    assert (state.schedule, state.upto_ms) == ("every 5 s", 3_000)


# --- stretches that are decided -----------------------------------------------------------

_STRETCHES = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda p: (min(p), max(p)))


def test_stretches_that_touch_are_one() -> None:
    assert joined((0, 10), (10, 20)) == (0, 20)
    assert joined((5, 8), (0, 10)) == (0, 10)


def test_a_gap_between_two_stretches_is_not_decided() -> None:
    assert joined((11, 20), (0, 10)) == (0, 10)


@given(_STRETCHES, _STRETCHES)
def test_no_moment_is_decided_that_neither_had_decided(
    ours: tuple[int, int], theirs: tuple[int, int]
) -> None:
    since, upto = joined(ours, theirs)
    assert joined(theirs, ours) == (since, upto)
    assert joined(ours, ours) == ours
    for moment in range(since + 1, upto + 1):
        assert ours[0] < moment <= ours[1] or theirs[0] < moment <= theirs[1]


# --- telling, and forgetting --------------------------------------------------------------


def many(count: int) -> Iterable[TickRecord]:
    return (ended(n * 1_000, n * 1_000 + 5) for n in range(1, count + 1))


def test_news_are_told_once() -> None:
    beat = ledger(record(open_tick(1_000, b"node-a")))
    [[news]] = beat.take_news()
    assert [tick.due_ms for tick in news.ticks] == [1_000]
    assert beat.take_news() == []


def test_old_ticks_are_forgotten_and_open_ones_never() -> None:
    beat = ledger(record(open_tick(500, b"node-a"), *many(TICKS_KEPT_MAX + 10)))
    beat.take_news()
    state = beat.entries["tidy"]
    assert len(state.ticks) == TICKS_KEPT_MAX + 1
    assert list(state.open) == [(500, False)]
    assert min(key for key in state.ticks if key not in state.open) == (11_000, False)


def test_what_is_told_fits_into_messages() -> None:
    beats = [
        BeatRecord(f"entry {n}", "every 30 s", 0, 1, False, 0, list(many(TICKS_KEPT_MAX)))
        for n in range(12)
    ]
    beat = ledger(*beats)
    pieces = beat.all()
    assert len(pieces) > 1
    for piece in pieces:
        assert sum(len(entry.ticks) for entry in piece) <= BEATS_TICKS_MAX
    assert content(ledger(*itertools.chain(*pieces))) == content(beat)


def test_somebody_who_knows_nothing_says_so() -> None:
    assert TickLedger("mesh", "shop").all() == [[]]


def test_the_task_of_an_open_tick_leads_to_it() -> None:
    beat = ledger(record(open_tick(1_000, b"node-a")))
    task_id = beat.id_of("tidy", (1_000, False))
    found = beat.at(task_id)
    assert found is not None
    assert found.due_ms == 1_000
    assert [each for each, _ in beat.open_ticks()] == [task_id]
    beat.merge([record(ended(1_000, 2_000))])
    assert beat.at(task_id) is None


def test_ids_differ_by_mesh_application_entry_moment_and_order() -> None:
    keys = [(1_000, False), (1_001, False), (1_000, True)]
    found = {
        TickLedger(mesh, app).id_of(entry, key)
        for mesh in ("m", "n") for app in ("a", "b") for entry in ("x", "y") for key in keys
    }  # fmt: skip
    assert len(found) == 2 * 2 * 2 * len(keys)
    assert TickLedger("m", "a").id_of("x", keys[0]) == TickLedger("m", "a").id_of("x", keys[0])


def test_another_schedule_of_an_entry_begins_now() -> None:
    state = EntryTicks("tidy", "every 30 s", 5)
    state.begin_anew("every 5 s", 9_000)
    assert (state.schedule, state.since_ms, state.upto_ms) == ("every 5 s", 9_000, 9_000)
