"""Whole nodes, wired to each other without a network."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.machines import (
    ADD,
    MESH,
    OWNER,
    TIMERS,
    WORKER,
    hello,
    link_to,
    of,
    outcome,
    task_id,
    worker_hello,
)
from tests.unit.wire.samples import SAMPLES
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.held import SlotOutcome
from zmqtasks.core.intake import Intake
from zmqtasks.core.link import LinkState
from zmqtasks.core.links import SELF, Candidate, LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.core.publishing import RESULTS_TOPIC
from zmqtasks.core.resultreader import ResultReader
from zmqtasks.core.spillrows import SpillState
from zmqtasks.limits import GAP_MS, SPILL_BATCH_BYTES_MAX
from zmqtasks.wire import codec
from zmqtasks.wire.messages import (
    Bye,
    Hello,
    Message,
    PubResults,
    Rack,
    Replay,
    TaskState,
    Verdict,
    Welcome,
)

OWNER_LINK = link_to(OWNER, "in")
WORKER_LINK = link_to(WORKER, "out")


def make(own: Hello, *, inline_bytes_max: int = 100) -> MeshNode:
    membership = Membership(own, "mesh", "", frozenset(), TIMERS, 0)
    return MeshNode(
        membership,
        dispatcher=Dispatcher(1_000, 1 << 30) if "producer" in own.roles else None,
        intake=Intake(own.queues, own.catalog, own.slots) if own.slots else None,
        reader=ResultReader() if "store" in own.roles else None,
        inline_bytes_max=inline_bytes_max,
    )


class Pair:
    """A producer and a worker; frames go over at once."""

    def __init__(self, worker: Hello | None = None) -> None:
        self.now_ms = 0
        self.owner = make(hello(OWNER, "producer"))
        self.worker = make(worker or worker_hello(slots=1))
        #: What neither end's membership takes, by end.
        self.owner_effects: list[fx.Effect] = []
        self.worker_effects: list[fx.Effect] = []
        self.link(WORKER_LINK, OWNER_LINK)
        intake = self.worker.intake
        assert intake is not None
        intake.slot_ready(0)
        self.pump()

    def link(self, to_worker: LinkId, to_owner: LinkId) -> None:
        self.owner.membership.frames_received(to_worker, [], "", self.now_ms)
        self.worker.membership.frames_received(to_owner, [], "", self.now_ms)
        self.pump()

    def pump(self) -> None:
        for _ in range(40):
            frames = self.turn(self.owner, self.owner_effects, self.worker, OWNER)
            frames += self.turn(self.worker, self.worker_effects, self.owner, WORKER)
            if not frames:
                return
        raise AssertionError("it never ends")

    def turn(self, node: MeshNode, kept: list[fx.Effect], peer: MeshNode, own: bytes) -> int:
        frames = 0
        for effect in node.end_turn(self.now_ms, 0):
            if isinstance(effect, fx.Transmit):
                frames += 1
                side = "in" if effect.link.side == "out" else "out"
                parts = list(effect.frames)
                peer.membership.frames_received(link_to(own, side), parts, "", self.now_ms)
            else:
                kept.append(effect)
        return frames

    def run(self, number: int, body: bytes = b"value", *, answer: bool = True) -> None:
        """Submit a task and let the worker's only slot run it."""
        self.owner.submit([Call(task_id(number), ADD, b"args", None)], self.now_ms)
        self.pump()
        if answer:
            self.end(number, body)
            self.pump()

    def end(self, number: int, body: bytes = b"value", attempt: int = 1) -> None:
        intake = self.worker.intake
        assert intake is not None
        intake.slot_done(0, [SlotOutcome(task_id(number), attempt, 0, 0, 1_000, body, "")], 0)

    def values(self) -> dict[bytes, bytes | int | None]:
        effects = of(self.owner_effects, fx.TasksSettled)
        return {outcome.id: outcome.body for effect in effects for outcome in effect.outcomes}


def test_life_of_a_task() -> None:
    pair = Pair()
    pair.run(1)
    assert pair.values() == {task_id(1): b"value"}
    assert pair.worker.log.entries[2].verdict is not None
    assert pair.worker.log.entries[2].verdict.verdict == Verdict.SETTLED
    assert pair.worker.is_idle


def test_large_result_is_fetched_by_position() -> None:
    pair = Pair()
    pair.run(1, body=b"x" * 200_000)
    assert pair.values() == {task_id(1): b"x" * 200_000}


def test_no_task_starts_between_two_writes_that_make_room_for_results() -> None:
    pair = Pair()
    log = pair.worker.log
    log.has_disk, log.bytes_max = True, SPILL_BATCH_BYTES_MAX
    log.store_seen(b"store-id")
    pair.run(1, answer=False)
    for number in (3, 4, 5):
        log.append_own(ADD, outcome(number, body=b"x" * SPILL_BATCH_BYTES_MAX), 0)
    pair.owner.submit([Call(task_id(2), ADD, b"args", None)], 0)
    pair.end(1)
    for _ in range(3):
        pair.pump()
        assert len(of(pair.worker_effects, fx.SpillWrite)) == 1
        assert len(of(pair.worker_effects, fx.RunInSlot)) == 1, "the second task waits"
        pair.worker_effects = list(of(pair.worker_effects, fx.RunInSlot))
        pair.worker.publisher.spilled("", SpillState(1, 1, 1), 0)
    pair.pump()
    assert len(of(pair.worker_effects, fx.RunInSlot)) == 2


def test_subscribers_get_outcomes_and_verdicts_and_the_head_first() -> None:
    pair = Pair()
    pair.run(1)
    pair.worker_effects.clear()
    pair.worker.subscription(RESULTS_TOPIC, True)
    pair.run(2)
    published = [effect.message for effect in of(pair.worker_effects, fx.Publish)]
    assert [type(message).__name__ for message in published] == [
        "PubHead", "PubResults", "PubResults",
    ]  # fmt: skip
    assert {effect.topic for effect in of(pair.worker_effects, fx.Publish)} == {
        RESULTS_TOPIC, RESULTS_TOPIC + OWNER,
    }  # fmt: skip


def test_outcome_reported_while_the_link_was_down_comes_when_it_is_back() -> None:
    pair = Pair()
    pair.run(1, answer=False)
    for node, link in ((pair.owner, WORKER_LINK), (pair.worker, OWNER_LINK)):
        node.membership.links.pop(link)
        node.end_turn(0, 0)
    pair.end(1)
    pair.worker.end_turn(0, 0)
    assert [o.id for o in pair.worker.log.undecided_of(OWNER)] == [task_id(1)]


def test_a_worker_looks_for_who_has_to_decide_on_its_outcomes() -> None:
    """Without a verdict they stay, and all that came after them counts as not stored."""
    pair = Pair()
    endpoints = ("tcp://owner",)
    owner = Candidate(OWNER, 1, MESH, "mesh", "", endpoints, b"host", ("worker",), "mdns")
    pair.worker.membership.candidate_found(owner, 0)
    pair.run(1, answer=False)
    membership = pair.worker.membership
    membership._lose(membership.links[OWNER_LINK], "silent")
    pair.worker.end_turn(0, 0)
    pair.worker.tick(0)
    assert not of(pair.worker.end_turn(0, 0), fx.Dial)
    pair.end(1)
    pair.worker.end_turn(0, 0)
    pair.worker.tick(0)
    assert [dial.candidate for dial in of(pair.worker.end_turn(0, 0), fx.Dial)] == [owner]


def test_second_link_takes_over_what_the_first_had_not_delivered() -> None:
    """An outcome sent on the first was lost with it, though the second was up."""
    pair = Pair()
    pair.link(link_to(WORKER, "in"), link_to(OWNER, "out"))
    pair.run(1, answer=False)
    pair.end(1)
    pair.worker.end_turn(0, 0)  # DONE is under way on the first link, and lost
    for node, link in ((pair.owner, WORKER_LINK), (pair.worker, OWNER_LINK)):
        node.membership._lose(node.membership.links[link], "silent")
    pair.pump()
    dispatcher = pair.owner.dispatcher
    assert dispatcher is not None
    assert dispatcher.tasks[task_id(1)].attempt == 2
    assert list(dispatcher.workers) == [link_to(WORKER, "in")]
    assert not pair.worker.log.undecided_of(OWNER), "the late outcome was refused"
    pair.end(1, b"second", attempt=2)
    pair.pump()
    assert pair.values() == {task_id(1): b"second"}


def test_owner_publishes_what_a_lost_worker_may_have_told_no_store() -> None:
    pair = Pair()
    pair.run(1)
    pair.owner.subscription(RESULTS_TOPIC, True)
    pair.owner.membership._lose(pair.owner.membership.links[WORKER_LINK], "gone")
    effects = pair.owner.end_turn(0, 0)
    parts = [e.message for e in of(effects, fx.Publish) if isinstance(e.message, PubResults)]
    assert [o.id for part in parts for o in part.outcomes] == [task_id(1)]
    assert [v.verdict for part in parts for v in part.verdicts] == [Verdict.SETTLED]


def test_store_on_a_worker_reads_its_own_log_without_a_socket() -> None:
    roles = worker_hello(slots=1)
    roles.roles = ["worker", "store"]
    pair = Pair(roles)
    pair.run(1)
    batches = of(pair.worker_effects, fx.StoreRows)
    assert [row.task_id for batch in batches for row in batch.outcomes] == [task_id(1)]
    for batch in batches:
        count = len(batch.outcomes) + len(batch.verdicts)
        pair.worker.rows_stored(batch.batch, count, [])
    pair.pump()
    pair.worker.tick(1_000)
    assert not pair.worker.log.entries, "stored and decided, so it goes"


def test_gap_in_the_own_log_is_filled_too() -> None:
    roles = worker_hello(slots=1)
    roles.roles = ["worker", "store"]
    pair = Pair(roles)
    reader = pair.worker.reader
    assert reader is not None
    pair.run(1)
    pair.worker_effects.clear()
    reader.publishers.clear()
    reader.link_up(WORKER, 1, SELF)
    reader.head_announced(WORKER, 1, pair.worker.log.head, 0)
    reader.tick(GAP_MS)
    pair.pump()
    batches = of(pair.worker_effects, fx.StoreRows)
    assert [row.task_id for batch in batches for row in batch.outcomes] == [task_id(1)]


def test_questions_reach_owner_and_worker() -> None:
    pair = Pair()
    pair.run(1, answer=False)
    assert pair.owner.states_of([task_id(1)])[0].state == TaskState.PENDING
    assert pair.worker.states_of([task_id(1)])[0].state == TaskState.STARTED
    known, unknown = pair.worker.states_of([task_id(1), task_id(2)])
    assert known.state != TaskState.UNKNOWN
    assert unknown.state == TaskState.UNKNOWN


# --- members that talk nonsense -----------------------------------------------------------


def linked(own: Hello) -> tuple[MeshNode, int]:
    """A node with a link that is up, and the session to speak in."""
    node = make(own)
    link = link_to(b"stranger", "in")
    greeting = hello(b"stranger", "producer", "worker", "store", slots=1, kinds=(ADD,))
    greeting.session = 1
    node.membership.frames_received(link, codec.encode(greeting, 1), "", 0)
    session = node.membership.links[link].session
    welcome = codec.encode(Welcome(1, session, 0, 1), 1, session)
    node.membership.frames_received(link, welcome, "", 0)
    node.end_turn(0, 0)
    assert node.membership.links[link].state is LinkState.UP
    return node, session


ODD: st.SearchStrategy[object] = st.sampled_from(
    [-1, 0, 1, 255, 2**31, 2**62, None, "", "x", b"", b"y" * 16, [], {}]
)


def spoiled(value: object, data: st.DataObject) -> object:
    """The value with some of its parts replaced."""
    if data.draw(st.integers(0, 5)) == 0:
        return data.draw(ODD)
    if isinstance(value, list):
        return [spoiled(part, data) for part in value]
    return value


@pytest.mark.parametrize("role", ["producer", "worker", "store"])
@given(data=st.data())
@settings(max_examples=60)
def test_nonsense_of_a_member_is_dropped_or_ignored(role: str, data: st.DataObject) -> None:
    own = hello(b"the-node", role, slots=int(role == "worker"), kinds=(ADD,))
    assert own.mesh == MESH
    node, session = linked(own)
    link = link_to(b"stranger", "in")
    for seq in range(1, 4):
        sample: Message = data.draw(st.sampled_from(SAMPLES))
        fields = spoiled(msgspec.msgpack.decode(msgspec.msgpack.encode(sample)), data)
        head = codec.encode(sample, 1, session, seq, 0)[0][: codec.HEADER_BYTES]
        node.membership.frames_received(link, [head + msgspec.msgpack.encode(fields)], "", 10)
        node.end_turn(10, 0)
        node.tick(300 * seq)
        node.end_turn(300 * seq, 0)


def greet(node: MeshNode, link: LinkId, peer: Hello) -> None:
    """A peer comes up on a link; the node has not worked on that yet."""
    node.membership.frames_received(link, [], "", 0)
    (greeting,) = [e for e in node.end_turn(0, 0) if isinstance(e, fx.Transmit)]
    own = codec.decode(greeting.frames)[1]
    assert isinstance(own, Hello)
    peer.session, peer.peer_session = 7, own.session
    for message in (peer, Welcome(7, own.session, 0, 1)):
        node.membership.frames_received(link, codec.encode(message, 7, own.session), "", 0)


def sent_by(node: MeshNode, now_ms: int = 0) -> list[tuple[LinkId, Message]]:
    transmitted = [e for e in node.end_turn(now_ms, 0) if isinstance(e, fx.Transmit)]
    return [(e.link, codec.decode(e.frames)[1]) for e in transmitted]


def test_acknowledgement_for_an_ended_process_is_not_given_to_its_successor() -> None:
    """Its link was taken for another one to the same process: the store confirmed to the new
    process what it had of the old one's log, and the new one's results were lost."""
    store = make(hello(b"a-store1", "store"))
    reader = store.reader
    assert reader is not None
    old, new = link_to(WORKER, "in", epoch=1), link_to(WORKER, "in", epoch=2)
    greet(store, old, hello(WORKER, "worker", epoch=1))
    store.end_turn(0, 0)
    state = reader.publishers[WORKER, 1]
    state.upto = state.committed = 6
    state.head = 9
    greet(store, new, hello(WORKER, "worker", epoch=2))
    # Both the end of the old link and the beginning of the new one came in this turn.
    assert not any(isinstance(message, Rack) for _, message in sent_by(store))
    assert store.reach.links == {WORKER: new}
    assert (WORKER, 1) not in reader.publishers, "all that it had is stored"


def test_store_asks_on_the_link_that_is_left_when_the_second_one_goes() -> None:
    """It asked on the one that had come up last, and went on when that one was down."""
    store = make(hello(b"a-store1", "store"))
    reader = store.reader
    assert reader is not None
    first, second = link_to(WORKER, "in"), link_to(WORKER, "out")
    for link in (first, second):
        greet(store, link, hello(WORKER, "worker"))
        store.end_turn(0, 0)
    bye = codec.encode(Bye("the cable"), 7, store.membership.links[second].session, 1)
    store.membership.frames_received(second, bye, "", 0)
    store.end_turn(0, 0)
    assert store.reach.links == {WORKER: first}
    reader.head_announced(WORKER, 1, 5, 0)
    store.tick(GAP_MS)
    asked = [link for link, message in sent_by(store, GAP_MS) if isinstance(message, Replay)]
    assert asked == [first]
