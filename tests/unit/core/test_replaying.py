"""What peers asked for again: from memory, from the disk, within windows."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import ADD, OWNER, link_to, of, outcome, record, sent
from zmqtasks.core.effects import Effect, Send, SpillRead
from zmqtasks.core.held import Finished, KindStat, hold
from zmqtasks.core.links import SELF, LinkId
from zmqtasks.core.replaying import Replays
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.spillrows import UNDECIDED, SpillPiece, SpillRow, SpillState
from zmqtasks.limits import (
    BATCH_COUNT_MAX,
    REPLAY_POSITIONS_MAX,
    REPLAY_READS_MAX,
    REPLAY_WINDOW_BYTES,
)
from zmqtasks.wire.messages import Replay, Results, Status, Trimmed, Verdict

LINK = link_to(b"a-store1", "in")
STORE = b"a-store1"


class Peer:
    """A log whose positions a peer asks for."""

    def __init__(self, *bodies: bytes, first: int = 1) -> None:
        self.log = ResultLog("worker", has_disk=True)
        self.log.store_seen(STORE)
        self.unacked = 0
        self.replays = Replays(self.log, lambda _: self.unacked)
        self.append(*bodies, first=first)

    def append(self, *bodies: bytes, first: int = 1) -> None:
        finished = [
            Finished(
                hold(record(number), ADD, link_to(OWNER, "in"), OWNER, KindStat(), None),
                Status.SUCCESS, 0, 1_000, body, "",
            )
            for number, body in enumerate(bodies, first)
        ]  # fmt: skip
        self.log.append(finished, 0)

    def ask(
        self, first: int, last: int, *, owner: bool = False, link: LinkId = LINK
    ) -> list[Effect]:
        self.replays.asked(link, Replay(first, last, owner))
        return self.turn()

    def turn(self) -> list[Effect]:
        self.replays.flush()
        effects, self.replays.effects = self.replays.effects, []
        return effects

    def read(self, effects: Sequence[Effect], *rows: SpillRow, upto: int = 0) -> list[Effect]:
        """Answer the one read among these effects."""
        (asked,) = of(effects, SpillRead)
        self.replays.read(asked.token, SpillPiece(list(rows), upto or asked.last))
        return self.turn()

    def spilled(self, *positions: int) -> None:
        """These have gone to the disk, verdicts and all."""
        for position in positions:
            self.log.entries.pop(position)
        self.log.spill.high = max(positions)
        self.log.spill.state = SpillState(len(positions), 100, min(positions))


def row(position: int, body: bytes = b"spilled", need: int = 0) -> SpillRow:
    made = outcome(position, position=position, body=body)
    return SpillRow(position, need or position, 0, ADD, made, None, Verdict.SETTLED)


def positions(effects: Sequence[Effect]) -> list[int]:
    return [o.position for part in sent(effects, Results) for o in part.outcomes]


# --- from memory --------------------------------------------------------------------------


def test_replay_gives_what_there_is_and_says_how_far_it_went() -> None:
    peer = Peer(b"1", b"2", b"3")
    peer.log.decide([(2, 2)], [], 0)
    (part,) = sent(peer.ask(2, 99), Results)
    assert [o.position for o in part.outcomes] == [2, 3]
    assert [v.position for v in part.verdicts] == [4]
    assert (part.first, part.upto, part.owner) == (2, 4, False)
    assert part.kinds == [ADD]
    assert part.outcomes[0].kind == 0


def test_what_is_gone_from_the_front_is_said_in_one_word() -> None:
    peer = Peer(*[b"v"] * 3)
    peer.log.owner_gone(OWNER)
    peer.log.stored(STORE, 2)
    peer.log.trim(0)
    effects = peer.ask(1, 3)
    assert sent(effects, Trimmed) == [Trimmed(2)]
    assert positions(effects) == [3]


def test_log_without_anything_left_is_trimmed_up_to_its_head() -> None:
    peer = Peer(*[b"v"] * 3)
    peer.log.owner_gone(OWNER)
    peer.log.stored(STORE, 3)
    peer.log.trim(0)
    assert sent(peer.ask(1, 3), Trimmed) == [Trimmed(3)]
    assert peer.turn() == []


def test_replays_come_in_parts_that_follow_each_other() -> None:
    peer = Peer(*[b"v"] * (2 * BATCH_COUNT_MAX + 9))
    parts = sent(peer.ask(1, peer.log.head), Results)
    assert len(parts) == 3
    assert [part.first for part in parts] == [1, parts[0].upto + 1, parts[1].upto + 1]
    assert parts[-1].upto == peer.log.head
    assert all(len(part.outcomes) <= BATCH_COUNT_MAX for part in parts)


def test_positions_that_never_were_are_not_answered() -> None:
    assert Peer(b"v").ask(2, 9) == []


# --- windows ------------------------------------------------------------------------------


def test_no_more_is_sent_than_the_window_takes_until_it_is_acknowledged() -> None:
    body = b"x" * (REPLAY_WINDOW_BYTES // 4)
    peer = Peer(*[body] * 10)
    first = positions(peer.ask(1, 10))
    assert first == [1, 2, 3, 4]
    peer.unacked = REPLAY_WINDOW_BYTES
    assert peer.turn() == []
    peer.unacked = 0
    assert positions(peer.turn()) == [5, 6, 7, 8]
    assert positions(peer.turn()) == [9, 10]
    assert peer.turn() == []


def test_owner_that_asks_for_very_many_large_ones_gets_them_at_its_pace() -> None:
    body = b"x" * (REPLAY_WINDOW_BYTES // 2)
    peer = Peer(*[body] * 5)
    for number in range(1, 6):
        peer.replays.asked(LINK, Replay(number, number, True))
    assert positions(peer.turn()) == [1, 2]
    peer.unacked = REPLAY_WINDOW_BYTES // 2
    assert positions(peer.turn()) == [3]
    peer.unacked = 0
    assert positions(peer.turn()) == [4, 5]


def test_last_request_of_a_store_counts() -> None:
    peer = Peer(*[b"x" * REPLAY_WINDOW_BYTES] * 9)
    assert positions(peer.ask(1, 9)) == [1]
    assert positions(peer.ask(7, 8)) == [7]
    assert positions(peer.turn()) == [8]
    assert peer.turn() == []


def test_link_that_is_down_gets_nothing_more() -> None:
    peer = Peer(*[b"x" * REPLAY_WINDOW_BYTES] * 3)
    peer.ask(1, 3)
    peer.replays.link_down(LINK)
    assert peer.turn() == []


def test_one_slow_peer_does_not_hold_up_another() -> None:
    peer = Peer(*[b"v"] * 3)
    slow, fast = LINK, link_to(b"b-store2", "in")
    peer.replays = Replays(peer.log, lambda link: REPLAY_WINDOW_BYTES if link == slow else 0)
    peer.replays.asked(slow, Replay(1, 3))
    peer.replays.asked(fast, Replay(1, 3))
    assert {e.link for e in of(peer.turn(), Send)} == {fast}


def test_request_for_very_many_positions_is_bounded() -> None:
    peer = Peer(b"v")
    peer.log.head = 10 * REPLAY_POSITIONS_MAX
    peer.unacked = REPLAY_WINDOW_BYTES
    for _ in range(3):
        peer.ask(1, 1 << 60, owner=True)
    assert len(peer.replays._askers[LINK].wanted) == REPLAY_POSITIONS_MAX


# --- from the disk ------------------------------------------------------------------------


def test_range_on_the_disk_is_read_and_sent_with_what_is_in_memory() -> None:
    peer = Peer(*[b"v"] * 5)
    peer.spilled(1, 2, 4)
    effects = peer.ask(1, 5)
    (asked,) = of(effects, SpillRead)
    assert (asked.first, asked.last) == (1, 5)
    assert sent(effects, Results) == []
    effects = peer.read(effects, row(1), row(2), row(4))
    (part,) = sent(effects, Results)
    assert [(o.position, o.body) for o in part.outcomes] == [
        (1, b"spilled"), (2, b"spilled"), (3, b"v"), (4, b"spilled"), (5, b"v"),
    ]  # fmt: skip
    assert (part.first, part.upto) == (1, 5)


def test_piece_that_ends_early_is_followed_by_the_next() -> None:
    peer = Peer(*[b"v"] * 5)
    peer.spilled(1, 2, 3, 4)
    effects = peer.read(peer.ask(1, 5), row(1), row(2), upto=2)
    assert positions(effects) == [1, 2]
    (asked,) = of(effects, SpillRead)
    assert (asked.first, asked.last) == (3, 5)


def test_rows_deleted_meanwhile_are_skipped_as_one() -> None:
    peer = Peer(*[b"v"] * 300)
    peer.spilled(*range(1, 299))
    effects = peer.read(peer.ask(1, 300))
    (part,) = sent(effects, Results)
    assert (part.outcomes, part.first, part.upto) == ([], 1, BATCH_COUNT_MAX)


def test_what_is_in_memory_goes_out_before_the_disk_is_read_for_more() -> None:
    peer = Peer(*[b"v"] * 5)
    peer.spilled(3, 4)
    effects = peer.ask(1, 5)
    assert positions(effects) == [1, 2]
    assert [(read.first, read.last) for read in of(effects, SpillRead)] == [(3, 5)]


def test_owner_gets_an_outcome_whose_payload_went_to_the_disk() -> None:
    peer = Peer(b"x" * 5_000)
    log = peer.log
    log.spill.write([SpillRow(1, UNDECIDED, 0, ADD, log.entries[1].outcome, None)])
    log.spilled("", SpillState(1, 5_000, 1), 0)
    assert log.entries[1].is_stub
    effects = peer.ask(1, 1, owner=True)
    assert sent(effects, Results) == []
    (part,) = sent(peer.read(effects, row(1, b"x" * 5_000, UNDECIDED)), Results)
    assert part.owner
    assert [o.body for o in part.outcomes] == [b"x" * 5_000]


def test_owner_hears_that_an_outcome_is_gone_when_its_row_cannot_be_read() -> None:
    peer = Peer(b"x" * 5_000)
    peer.log.entries[1].is_stub = True
    effects = peer.ask(1, 1, owner=True)
    (asked,) = of(effects, SpillRead)
    peer.replays.read(asked.token, SpillPiece([], asked.last, lost_count=1))
    (part,) = sent(peer.turn(), Results)
    assert (part.outcomes, part.first, part.upto, part.owner) == ([], 1, 1, True)


def test_one_piece_a_link_and_a_few_in_all_are_read_at_once() -> None:
    peer = Peer(*[b"v"] * 3)
    peer.spilled(1, 2, 3)
    links = [link_to(f"store-{number:02}".encode(), "in") for number in range(6)]
    for link in links:
        peer.replays.asked(link, Replay(1, 3))
    effects = peer.turn()
    reads = of(effects, SpillRead)
    assert len(reads) == REPLAY_READS_MAX
    assert peer.turn() == []
    peer.replays.read(reads[0].token, SpillPiece([row(1)], 3))
    assert len(of(peer.turn(), SpillRead)) == 1


def test_answer_for_a_link_that_has_gone_is_dropped() -> None:
    peer = Peer(*[b"v"] * 3)
    peer.spilled(1, 2)
    effects = peer.ask(1, 3)
    peer.replays.link_down(LINK)
    assert peer.read(effects, row(1), row(2)) == []


def test_answer_to_a_request_that_was_replaced_is_dropped() -> None:
    peer = Peer(*[b"v"] * 9)
    peer.spilled(1, 2, 3, 4)
    effects = peer.ask(1, 2)
    peer.replays.asked(LINK, Replay(3, 4))
    effects = peer.read(effects, row(1), row(2))
    assert positions(effects) == []
    assert [read.first for read in of(effects, SpillRead)] == [3]


# --- the own store ------------------------------------------------------------------------


def test_own_store_is_not_held_up_by_acknowledgements() -> None:
    peer = Peer(*[b"x" * REPLAY_WINDOW_BYTES] * 3)
    peer.unacked = REPLAY_WINDOW_BYTES
    assert positions(peer.ask(1, 3, link=SELF)) == [1]
    assert peer.replays.is_ready, "nothing else will wake this node"
    assert positions(peer.turn()) == [2]
    assert positions(peer.turn()) == [3]
    assert not peer.replays.is_ready
