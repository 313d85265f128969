"""What is told of outcomes, to whom, and what is kept for whom."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.machines import ADD, OWNER, hello, link_to, of, record, sent
from zmqtasks.core.effects import Effect, Note, Publish, SpillRead, SpillTrim, SpillWrite
from zmqtasks.core.held import Finished, KindStat, hold
from zmqtasks.core.intake import Intake
from zmqtasks.core.links import LANE, LinkId
from zmqtasks.core.publishing import RESULTS_TOPIC, Publisher
from zmqtasks.core.resultlog import ResultLog
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.spillrows import SpillPiece, SpillState
from zmqtasks.limits import PUB_AHEAD_BYTES_MAX, STORE_GONE_MS, STORE_LEFT_MS
from zmqtasks.wire.messages import Done, PubHead, PubResults, Rack, Replay, Results, Settled, Status

NODE = b"worker-1"
STORE = b"a-store1"
OTHER = b"b-store2"
OWNER_LINK = link_to(OWNER, "in")


class Worker:
    """A publisher with an owner and a store."""

    def __init__(self, *, bytes_max: int = 1 << 30, reader: ResultReader | None = None) -> None:
        self.links: dict[bytes, LinkId] = {OWNER: OWNER_LINK}
        intake = Intake(["default"], [], 1)
        intake.link_up(OWNER_LINK, hello(OWNER, "producer"))
        self.log = ResultLog("worker", bytes_max, has_disk=True)
        own = hello(NODE, "worker")
        self.machine = Publisher(own, self.links, intake, reader, 8_192, self.log, lambda link: 0)
        self.now_ms = 0

    def store_up(self, node: bytes = STORE) -> None:
        self.links[node] = link_to(node, "in")
        self.machine.store_up(node)
        self.machine.subscription(RESULTS_TOPIC, True)
        self.turn()

    def store_down(self, reason: str, node: bytes = STORE) -> None:
        del self.links[node]
        self.machine.store_down(node, reason, self.now_ms)

    def report(self, *numbers: int, size: int = 5, link: LinkId = OWNER_LINK) -> list[Effect]:
        finished = [
            Finished(
                hold(record(number), ADD, link, OWNER, KindStat(), None), Status.SUCCESS, 0, 1_000,
                b"x" * size, "",
            )
            for number in numbers
        ]  # fmt: skip
        self.machine.report(finished, self.now_ms, 0)
        return self.turn()

    def settle(self, first: int, last: int) -> list[Effect]:
        self.receive(OWNER, Settled([(first, last)], []))
        return self.turn()

    def receive(self, node: bytes, message: Settled | Rack | Replay) -> None:
        link = link_to(node, "in")
        assert self.machine.received(link, node, message, self.now_ms, 0)

    def turn(self) -> list[Effect]:
        self.machine.flush(self.now_ms)
        effects, self.machine.effects = self.machine.effects, []
        return effects

    def wait(self, duration_ms: int) -> list[Effect]:
        self.now_ms += duration_ms
        self.machine.tick(self.now_ms)
        return self.turn()


def published(effects: Sequence[Effect]) -> list[int]:
    """Positions of the outcomes that are published."""
    messages = [e.message for e in of(effects, Publish)]
    return [o.position for m in messages if isinstance(m, PubResults) for o in m.outcomes]


def heads(effects: Sequence[Effect]) -> list[int]:
    messages = [e.message for e in of(effects, Publish)]
    return [m.position for m in messages if isinstance(m, PubHead)]


def notes(effects: Sequence[Effect]) -> list[str]:
    return [note.event for note in of(effects, Note)]


# --- publishing ---------------------------------------------------------------------------


def test_outcomes_are_published_to_subscribers_and_reported_to_their_owner() -> None:
    worker = Worker()
    effects = worker.report(1)
    assert published(effects) == [], "nobody subscribes"
    assert [o.position for done in sent(effects, Done) for o in done.outcomes] == [1]
    worker.store_up()
    assert published(worker.report(2)) == [2]


def test_new_subscriber_hears_how_far_the_log_is() -> None:
    worker = Worker()
    worker.report(1, 2)
    worker.machine.subscription(RESULTS_TOPIC, True)
    assert heads(worker.turn()) == [2]


def test_store_that_is_far_behind_is_told_the_head_only_and_asks_at_its_own_pace() -> None:
    """A store that did not read filled the sockets of every worker without bounds."""
    worker = Worker()
    worker.store_up()
    size = PUB_AHEAD_BYTES_MAX // 4
    told = [published(worker.report(number, size=size)) for number in range(1, 5)]
    assert told == [[1], [2], [3], [4]]
    effects = worker.report(5, 6, size=size)
    assert published(effects) == []
    assert heads(effects) == [6]
    assert [o.position for done in sent(effects, Done) for o in done.outcomes] == [5, 6]
    worker.receive(STORE, Replay(5, 6))
    assert [o.position for part in sent(worker.turn(), Results) for o in part.outcomes] == [5, 6]
    worker.receive(STORE, Rack(6))
    assert published(worker.report(7)) == [7], "it has caught up"


def test_verdicts_for_a_store_that_is_far_behind_are_not_published_either() -> None:
    worker = Worker()
    worker.store_up()
    worker.report(1, size=PUB_AHEAD_BYTES_MAX)
    effects = worker.settle(1, 1)
    assert of(effects, Publish)[0].message == PubHead(NODE, 1, 2)


def test_slowest_of_the_linked_stores_counts_and_a_lost_one_does_not() -> None:
    worker = Worker()
    worker.store_up()
    worker.store_up(OTHER)
    worker.report(1, size=PUB_AHEAD_BYTES_MAX)
    worker.receive(STORE, Rack(1))
    assert published(worker.report(2)) == []
    worker.store_down("silent", OTHER)
    worker.receive(STORE, Rack(2))
    assert published(worker.report(3)) == [3]


def test_without_stores_all_is_published() -> None:
    worker = Worker()
    worker.machine.subscription(RESULTS_TOPIC + OWNER, True)
    worker.turn()
    for number in range(1, 4):
        assert published(worker.report(number, size=PUB_AHEAD_BYTES_MAX)) == [number]


def test_at_most_once_outcomes_are_published_whatever_stores_do() -> None:
    """They have no other way to their caller."""
    worker = Worker()
    worker.store_up()
    worker.report(1, size=PUB_AHEAD_BYTES_MAX)
    assert published(worker.report(2)) == []
    assert published(worker.report(3, link=LANE)) == [3]


def test_own_store_reads_all_however_far_behind_others_are() -> None:
    reader = ResultReader()
    worker = Worker(reader=reader)
    worker.store_up()
    worker.report(1, size=PUB_AHEAD_BYTES_MAX)
    worker.report(2)
    assert reader.publishers[NODE, 1].upto == 2


# --- stores that come and go --------------------------------------------------------------


def test_results_wait_for_a_lost_store_until_it_is_given_up() -> None:
    worker = Worker()
    worker.store_up()
    worker.report(1)
    worker.settle(1, 1)
    worker.store_down("gone")
    assert notes(worker.wait(STORE_GONE_MS - 1)) == []
    assert worker.log.stores == {STORE: 0}
    assert notes(worker.wait(1)) == ["store.gone"]
    assert worker.log.stores == {}


def test_results_wait_for_a_store_that_was_stopped_as_long_as_an_upgrade_takes() -> None:
    worker = Worker()
    worker.store_up()
    worker.report(1)
    worker.settle(1, 1)
    worker.store_down("left")
    worker.wait(STORE_LEFT_MS - 1)
    assert worker.log.stores == {STORE: 0}
    (note,) = of(worker.wait(1), Note)
    assert "has not come back" in note.text
    assert "2 records" in note.text
    assert worker.log.stores == {}


def test_store_that_left_with_everything_is_given_up_without_a_word() -> None:
    worker = Worker()
    worker.store_up()
    worker.report(1)
    worker.settle(1, 1)
    worker.receive(STORE, Rack(2))
    worker.store_down("left")
    assert notes(worker.wait(STORE_LEFT_MS)) == []


def test_store_that_comes_back_counts_again() -> None:
    worker = Worker()
    worker.store_up()
    worker.store_down("left")
    worker.wait(STORE_LEFT_MS - 1)
    worker.store_up()
    worker.wait(STORE_GONE_MS)
    assert worker.log.stores == {STORE: 0}


def test_drain_waits_for_a_store_that_is_there_or_lost_but_not_for_one_that_left() -> None:
    worker = Worker()
    worker.store_up()
    assert worker.machine.is_idle
    worker.report(1)
    worker.settle(1, 1)
    assert not worker.machine.is_idle
    worker.store_down("silent")
    assert not worker.machine.is_idle
    worker.store_up()
    worker.store_down("left")
    assert worker.machine.is_idle
    worker.store_up()
    worker.receive(STORE, Rack(2))
    assert worker.machine.is_idle


def test_store_is_missed_while_results_wait_and_none_is_linked() -> None:
    worker = Worker()
    worker.report(1)
    assert not worker.machine.misses_store, "none was ever seen"
    worker.store_up()
    assert not worker.machine.misses_store
    worker.store_down("gone")
    assert worker.machine.misses_store
    worker.store_up(OTHER)
    worker.receive(OTHER, Rack(1))
    assert not worker.machine.misses_store


# --- the disk -----------------------------------------------------------------------------


def spilling() -> tuple[Worker, list[Effect]]:
    """A worker that writes results to its disk, since its store does not take them."""
    worker = Worker(bytes_max=10_000)
    worker.store_up()
    worker.report(*range(1, 11), size=1_000)
    return worker, worker.settle(1, 10)


def test_results_over_the_memory_go_to_the_disk_which_is_said_once() -> None:
    worker, effects = spilling()
    (write,) = of(effects, SpillWrite)
    assert notes(effects) == ["results.spilled"]
    worker.machine.spilled("", SpillState(len(write.rows), 8_000, 1), 0)
    effects = worker.report(*range(11, 21), size=1_000) + worker.settle(21, 30)
    assert of(effects, SpillWrite)
    assert notes(effects) == []


def test_store_gets_what_is_on_the_disk_and_the_disk_is_freed_when_it_has_it() -> None:
    worker, effects = spilling()
    (write,) = of(effects, SpillWrite)
    worker.machine.spilled("", SpillState(len(write.rows), 8_000, 1), 0)
    worker.turn()
    worker.receive(STORE, Replay(1, 20))
    (read,) = of(worker.turn(), SpillRead)
    worker.machine.spill_read(read.token, SpillPiece(write.rows, read.last))
    parts = sent(worker.turn(), Results)
    assert [o.position for part in parts for o in part.outcomes] == list(range(1, 11))
    worker.receive(STORE, Rack(20))
    (trim,) = of(worker.wait(1), SpillTrim)
    assert trim.upto == 20
    worker.machine.spill_trimmed(SpillState(0, 0, 0))
    assert worker.log.spill.is_empty


def test_disk_that_takes_nothing_and_works_again_is_said_once_each() -> None:
    worker, _ = spilling()
    nothing = SpillState(0, 0, 0)
    for _ in range(3):
        worker.machine.spilled("no room", nothing, worker.now_ms)
        worker.wait(10_000)
    assert worker.log.spill.writing
    worker.machine.spilled("no room", nothing, worker.now_ms)
    effects = worker.turn()
    assert "results.disk" not in notes(effects)
    worker.wait(10_000)
    worker.machine.spilled("", SpillState(1, 1, 1), worker.now_ms)
    (note,) = of(worker.turn(), Note)[:1]
    assert note.text == "results go to the disk again"


def test_what_is_dropped_since_memory_and_disk_are_full_is_an_error() -> None:
    worker, _ = spilling()
    worker.machine.spilled("no room", SpillState(0, 0, 0), 0)
    effects = worker.report(*range(11, 21), size=1_000) + worker.settle(21, 30) + worker.wait(1)
    assert {(note.level, note.event) for note in of(effects, Note)} == {
        ("error", "results.disk"), ("error", "results.dropped"),
    }  # fmt: skip
    assert worker.log.dropped_count > 0


def test_outcomes_lost_on_the_disk_are_counted_and_said() -> None:
    worker, effects = spilling()
    (write,) = of(effects, SpillWrite)
    worker.machine.spilled("", SpillState(len(write.rows), 8_000, 1), 0)
    worker.receive(STORE, Replay(1, 20))
    (read,) = of(worker.turn(), SpillRead)
    worker.machine.spill_read(read.token, SpillPiece(write.rows[1:], read.last, lost_count=1))
    effects = worker.turn()
    assert notes(effects) == ["results.lost"]
    assert worker.log.spill.lost_count == 1
    worker.machine.spill_broken("it burnt", 0)
    (note,) = of(worker.turn(), Note)
    assert note.text.endswith("for a store: it burnt")
    assert worker.log.describe()["spill_lost"] == 1 + len(write.rows)
