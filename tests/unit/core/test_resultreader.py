"""The store's side: gaps are seen and filled, commits are acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import ADD, WORKER, link_to, of, outcome, sent, task_id
from zmqtasks.core.effects import Effect, Send, StoreRows
from zmqtasks.core.resultreader import (
    AHEAD_MAX,
    ASKED_MAX,
    UNWRITTEN_BYTES_MAX,
    ResultReader,
    to_outcome,
    to_row,
)
from zmqtasks.limits import GAP_MS
from zmqtasks.wire.messages import (
    Outcome,
    PubResults,
    Rack,
    Replay,
    Results,
    Trimmed,
    VerdictRecord,
)

LINK = link_to(WORKER, "out")


def at(number: int, position: int, body: bytes = b"value") -> Outcome:
    made = outcome(number, position=position, body=body)
    made.kind = 0
    return made


class Reader:
    def __init__(self) -> None:
        self.machine = ResultReader()
        self.machine.link_up(WORKER, 1, LINK)
        self.now_ms = 1_000
        self.turn()

    def turn(self) -> list[Effect]:
        self.machine.flush()
        effects, self.machine.effects = self.machine.effects, []
        return effects

    def published(self, *outcomes: Outcome, verdicts: Sequence[VerdictRecord] = ()) -> list[Effect]:
        message = PubResults(WORKER, 1, [ADD], list(outcomes), list(verdicts))
        self.machine.published(message, self.now_ms, 0)
        return self.turn()

    def replayed(self, first: int, upto: int, *outcomes: Outcome) -> list[Effect]:
        message = Results([ADD], list(outcomes), [], first, upto)
        self.machine.replayed(WORKER, 1, message, self.now_ms, 0)
        return self.turn()

    def asked(self, wait_ms: int = GAP_MS) -> list[tuple[int, int]]:
        self.now_ms += wait_ms
        self.machine.tick(self.now_ms)
        return [(replay.first, replay.last) for replay in sent(self.turn(), Replay)]

    def commit(self, effects: Sequence[Effect]) -> list[int]:
        """Positions acknowledged after the commit of what was handed over."""
        for rows in of(effects, StoreRows):
            count = len(rows.outcomes) + len(rows.verdicts)
            self.machine.rows_stored(rows.batch, count)
        return [rack.position for rack in sent(self.turn(), Rack)]


def stored(effects: Sequence[Effect]) -> list[bytes]:
    return [row.task_id for rows in of(effects, StoreRows) for row in rows.outcomes]


def test_published_outcomes_are_stored_and_acknowledged_after_the_commit_only() -> None:
    reader = Reader()
    effects = reader.published(at(1, 1), at(2, 2))
    assert stored(effects) == [task_id(1), task_id(2)]
    assert sent(effects, Rack) == []
    assert reader.commit(effects) == [2]


def test_verdicts_are_stored_with_them() -> None:
    effects = Reader().published(at(1, 1), verdicts=[VerdictRecord(task_id(1), 1, 1, 2)])
    (rows,) = of(effects, StoreRows)
    assert [(v.task_id, v.attempt, v.verdict) for v in rows.verdicts] == [(task_id(1), 1, 1)]


def test_what_comes_twice_is_stored_once() -> None:
    reader = Reader()
    reader.published(at(1, 1))
    effects = reader.published(at(1, 1))
    assert stored(effects) == []


def test_gap_is_asked_for_when_it_lasts() -> None:
    reader = Reader()
    effects = reader.published(at(1, 1), at(4, 4))
    assert reader.asked(GAP_MS - 1) == []
    assert reader.asked(1) == [(2, 3)]
    assert reader.commit(effects) == [1], "nothing beyond the gap is acknowledged"
    assert reader.commit(reader.replayed(2, 3, at(2, 2), at(3, 3))) == [4]


def test_lost_last_message_is_seen_by_the_announced_head() -> None:
    reader = Reader()
    reader.published(at(1, 1))
    reader.machine.head_announced(WORKER, 1, 3, reader.now_ms)
    assert reader.asked() == [(2, 3)]


def test_unanswered_question_is_asked_again_but_not_at_once() -> None:
    reader = Reader()
    reader.machine.head_announced(WORKER, 1, 3, reader.now_ms)
    assert reader.asked() == [(1, 3)]
    assert reader.asked() == []
    assert reader.asked(1_000) == [(1, 3)]


def test_parts_of_an_answer_are_awaited_before_more_is_asked_for() -> None:
    """It asked for all the rest again with each part, so that most came many times."""
    reader = Reader()
    reader.machine.head_announced(WORKER, 1, 9, reader.now_ms)
    assert reader.asked() == [(1, 9)]
    reader.replayed(1, 3, at(1, 1), at(2, 2), at(3, 3))
    assert reader.asked(10) == []
    reader.replayed(4, 6, at(4, 4), at(5, 5), at(6, 6))
    assert reader.asked(999) == [], "each part gives it more time"
    assert reader.asked(1) == [(7, 9)]


def test_next_piece_is_asked_for_as_soon_as_one_is_complete() -> None:
    reader = Reader()
    reader.machine.head_announced(WORKER, 1, 5_000, reader.now_ms)
    ((first, last),) = reader.asked()
    reader.replayed(first, 500)
    assert reader.asked(0) == []
    for upto in (1_000, 1_500, last):
        reader.replayed(upto - 499, upto)
    assert reader.asked(0) == [(last + 1, 2 * last)]


def test_store_that_is_full_takes_nothing_and_asks_when_it_has_room_again() -> None:
    reader = Reader()
    body = b"x" * (UNWRITTEN_BYTES_MAX // 4)
    effects: list[Effect] = []
    for position in range(1, 9):
        message = PubResults(WORKER, 1, [ADD], [at(position, position, body)], [])
        reader.machine.published(message, reader.now_ms, 0)
    effects = reader.turn()
    assert len(stored(effects)) == 4, "also within one turn"
    reader.machine.head_announced(WORKER, 1, 8, reader.now_ms)
    assert reader.asked() == []
    assert reader.machine.next_deadline_ms() is None
    reader.replayed(5, 8, *[at(position, position, body) for position in range(5, 9)])
    assert reader.commit(effects) == [4]
    assert reader.asked() == [(5, 8)]


def test_part_that_found_no_room_is_asked_for_again() -> None:
    reader = Reader()
    body = b"x" * (UNWRITTEN_BYTES_MAX // 2)
    reader.machine.head_announced(WORKER, 1, 4, reader.now_ms)
    assert reader.asked() == [(1, 4)]
    effects = reader.replayed(1, 2, at(1, 1, body), at(2, 2, body))
    assert stored(reader.replayed(3, 4, at(3, 3, body), at(4, 4, body))) == []
    assert reader.commit(effects) == [2]
    assert reader.asked(0) == [(3, 4)]


def test_few_publishers_are_asked_at_once_and_each_has_its_turn() -> None:
    """After an outage thousands of workers may have very much for a store."""
    reader = Reader()
    nodes = [f"worker{number:02}".encode() for number in range(ASKED_MAX + 2)]
    for node in nodes:
        reader.machine.link_up(node, 1, link_to(node, "out"))
        reader.machine.head_announced(node, 1, 9_000, reader.now_ms)
    reader.turn()

    def asked() -> list[bytes]:
        reader.now_ms += GAP_MS
        reader.machine.tick(reader.now_ms)
        return [e.link.peer[1:9] for e in reader.turn() if isinstance(e, Send)]

    assert asked() == nodes[:ASKED_MAX]
    deadline_ms = reader.machine.next_deadline_ms()
    assert deadline_ms is not None
    assert deadline_ms > reader.now_ms, "it does not spin"
    answer = Results([], [], [], 1, 2_000)
    reader.machine.replayed(nodes[0], 1, answer, reader.now_ms, 0)
    assert asked() == [nodes[ASKED_MAX]], "it has to wait for its next piece"
    reader.machine.link_down(nodes[1], 1)
    assert asked() == [nodes[ASKED_MAX + 1]]
    reader.now_ms += 1_000
    assert asked()[0] == nodes[0], "those that do not answer keep nobody from it"


def test_positions_beyond_a_gap_are_bounded_and_none_is_taken_for_arrived() -> None:
    reader = Reader()
    for position in range(2, AHEAD_MAX + 102, 100):
        many = [at(p, p) for p in range(position, position + 100)]
        effects = reader.published(*many)
        reader.commit(effects)
    state = reader.machine.publishers[WORKER, 1]
    assert len(state.ahead) == AHEAD_MAX
    assert state.head == AHEAD_MAX + 101
    assert reader.asked() == [(1, 1)]
    reader.commit(reader.replayed(1, 1, at(1, 1)))
    assert state.upto == AHEAD_MAX + 1
    assert reader.asked() == [(AHEAD_MAX + 2, AHEAD_MAX + 101)]


def test_forgotten_rows_make_room() -> None:
    reader = Reader()
    body = b"x" * UNWRITTEN_BYTES_MAX
    message = PubResults(WORKER, 1, [ADD], [at(1, 1, body)], [])
    reader.machine.published(message, reader.now_ms, 0)
    reader.machine.forget([task_id(1)], reader.now_ms)
    assert stored(reader.published(at(2, 2))) == [task_id(2)]


def test_positions_that_are_gone_at_the_publisher_are_done_with() -> None:
    reader = Reader()
    reader.machine.head_announced(WORKER, 1, 5, reader.now_ms)
    assert reader.asked() == [(1, 5)]
    assert reader.commit(reader.replayed(1, 5, at(4, 4))) == [5]
    reader.machine.head_announced(WORKER, 1, 9, reader.now_ms)
    reader.machine.replayed(WORKER, 1, Trimmed(9), reader.now_ms, 0)
    assert reader.asked() == []


def test_deadline_follows_the_gap_and_never_stays_in_the_past() -> None:
    reader = Reader()
    assert reader.machine.next_deadline_ms() is None
    reader.machine.head_announced(WORKER, 1, 3, reader.now_ms)
    assert reader.machine.next_deadline_ms() == reader.now_ms + GAP_MS
    reader.asked()
    deadline_ms = reader.machine.next_deadline_ms()
    assert deadline_ms is not None
    assert deadline_ms > reader.now_ms


def test_publisher_without_a_link_is_asked_when_it_has_one() -> None:
    reader = Reader()
    reader.published(at(3, 3))
    reader.machine.link_down(WORKER, 1)
    assert reader.asked(5_000) == []
    assert reader.machine.next_deadline_ms() is None
    reader.machine.link_up(WORKER, 1, LINK)
    reader.machine.head_announced(WORKER, 1, 3, reader.now_ms)
    assert reader.asked() == [(1, 3)]


def test_lost_acknowledgement_is_repeated_on_the_next_link() -> None:
    reader = Reader()
    effects = reader.published(at(1, 1))
    reader.commit(effects)
    reader.published(at(2, 2))  # not committed yet
    reader.machine.link_down(WORKER, 1)
    reader.machine.link_up(WORKER, 1, LINK)
    assert [rack.position for rack in sent(reader.turn(), Rack)] == [1]


def test_publisher_that_left_is_forgotten_once_all_of_it_is_committed() -> None:
    reader = Reader()
    effects = reader.published(at(1, 1))
    reader.machine.link_down(WORKER, 1)
    assert (WORKER, 1) in reader.machine.publishers
    reader.commit(effects)
    assert not reader.machine.publishers


def test_news_of_a_publisher_that_leaves_in_the_same_turn_does_no_harm() -> None:
    reader = Reader()
    reader.machine.replayed(WORKER, 1, Results([], [], [], 1, 0), 0, 0)
    reader.machine.link_down(WORKER, 1)
    reader.turn()


def test_record_of_a_kind_that_is_not_in_the_message_is_left_out() -> None:
    reader = Reader()
    bad = at(1, 1)
    for kind in (-1, 1):
        bad.kind = kind
        assert stored(reader.published(bad)) == []


def test_claim_to_have_replayed_everything_costs_nothing() -> None:
    reader = Reader()
    reader.replayed(1, 2**62)
    assert reader.machine.publishers[WORKER, 1].upto < 10_000


def test_row_and_outcome_are_the_same_thing() -> None:
    made = Outcome(task_id(1), 2, 1, 7, 0, 1_700, 250, 3, b"err", {"w": "worker", "e": "text"})
    row = to_row(made, ADD, (WORKER, 1), 99)
    assert (row.worker, row.app, row.name, row.queue, row.stored_ms) == (
        "worker", ADD.app, ADD.name, ADD.queue, 99,
    )  # fmt: skip
    back = to_outcome(row)
    made.kind = back.kind
    assert back == made
