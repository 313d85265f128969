"""What was under way between two nodes when the journal of one came into that of the other."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, task_id
from tests.unit.core.handing import Network, Node
from zmqtasks.core.marks import OfferMark, given_mark, offers_mark
from zmqtasks.core.owned import OwnedRecord, dead_mark
from zmqtasks.limits import OWNER_GONE_MS

US, THEM, OTHER = b"node-001", b"node-002", b"node-003"
ONE = task_id(1)


def offered(giver: bytes, taker: bytes, *, lasting: bool = True) -> bytes:
    return offers_mark([OfferMark(giver, taker, lasting)])


def record(mark: bytes = b"", attempt: int = 1) -> OwnedRecord:
    return OwnedRecord(ONE, ADD, b"args", None, attempt, mark=mark)


def adopted(
    ours: OwnedRecord | None, theirs: OwnedRecord | None, *, restart: bool
) -> tuple[Network, Node]:
    """Our node with their journal in its own; ``restart``: killed right after that."""
    us, them = Node(US, "broker"), Node(THEM, "broker")
    for node, held in ((us, ours), (them, theirs)):
        node.start(0)
        node.journal.commit([held] if held is not None else [], sync=True)
        node.journal.close()
        node.end()
    net = Network([us, them])
    net.kill(them)
    us.adopt(them)
    if restart:
        net.kill(us, power=True)
        net.restart(us)
    for _ in range(3):
        net.settle_down()
        net.pass_time(2_000)
    return net, us


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (None, ""),
        ("", ""),
        (offered(THEM, US), ""),
        (offered(THEM, US), given_mark(US, THEM)),
        (given_mark(THEM, US), ""),
        (given_mark(THEM, US), offered(US, THEM)),
        ("", given_mark(US, THEM)),
    ],
)
def test_task_is_ours(ours: bytes | None, theirs: bytes, restart: bool) -> None:
    before = record(ours or b"") if ours is not None else None
    _, us = adopted(before, record(theirs or b""), restart=restart)
    assert us.owns(ONE)
    assert us.running.keys() == {ONE}
    assert us.records()[ONE].mark == b""
    us.finish(ONE)
    us.write()
    assert us.records() == {}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (offered(THEM, US), None),  # kept, or settled: not in their journal any more
        (given_mark(THEM, US), None),  # taken, and settled
        (None, given_mark(US, THEM)),  # we had taken it, and it has settled
        (None, offered(US, THEM)),  # we had kept it, and it has settled
    ],
)
def test_task_is_nobody_s(ours: bytes | None, theirs: bytes | None, restart: bool) -> None:
    before = record(ours) if ours is not None else None
    after = record(theirs) if theirs is not None else None
    _, us = adopted(before, after, restart=restart)
    assert not us.owns(ONE)
    assert us.records() == {}
    assert us.taking.tasks == {}
    assert us.handoff.unconfirmed == {}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("ours", [None, offered(THEM, US)])
def test_what_they_had_given_to_another_is_that_one_s(ours: bytes | None, restart: bool) -> None:
    before = record(ours) if ours is not None else None
    _, us = adopted(before, record(given_mark(OTHER, THEM)), restart=restart)
    assert not us.owns(ONE)
    assert us.handoff.unconfirmed == {ONE: OTHER}
    assert list(us.records()) == [ONE]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("ours", [None, offered(OTHER, US)])
def test_what_another_had_offered_to_them_is_asked_for(ours: bytes | None, restart: bool) -> None:
    before = record(ours) if ours is not None else None
    _, us = adopted(before, record(offered(OTHER, THEM)), restart=restart)
    assert not us.owns(ONE)
    takers = sorted(claim.taker for claim in us.taking.tasks[ONE].claims.values())
    assert takers == ([US, THEM] if ours is not None else [THEM])


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("order", [(THEM, OTHER), (OTHER, THEM)])
def test_what_was_offered_out_of_memory_is_not_lost_with_both_nodes(
    order: tuple[bytes, bytes], restart: bool
) -> None:
    """The disk had refused it to its giver, so that journal cannot tell whether it was given."""
    us, other, them = Node(US, "broker"), Node(OTHER, "store"), Node(THEM, "broker")
    net = Network([us, other, them])
    for node, held in ((other, []), (them, [record(offered(OTHER, THEM, lasting=False))])):
        node.journal.commit(held, sync=True)
        net.kill(node)
    nodes = {node.name: node for node in (other, them)}
    for name in order:
        us.adopt(nodes[name])
    if restart:
        net.kill(us, power=True)
        net.restart(us)
    for _ in range(3):
        net.settle_down()
        net.pass_time(2_000)
    assert us.owns(ONE)
    assert us.records()[ONE].mark == b""
    assert us.taking.tasks == {}
    us.finish(ONE)
    net.settle_down()
    assert us.records() == {}


@pytest.mark.parametrize("is_restarted", [True, False])
def test_what_we_had_offered_out_of_memory_is_not_lost_when_that_life_has_ended(
    is_restarted: bool,
) -> None:
    us, them = Node(US, "broker"), Node(THEM, "broker")
    net = Network([us, them])
    last = OfferMark(US, THEM, is_lasting=False, epoch=us.epoch, number=1)
    them.journal.commit([record(offers_mark([last]))], sync=True)
    net.kill(them)
    if is_restarted:
        net.kill(us)
        net.restart(us)
    us.adopt(them)
    net.settle_down()
    # In the same life we know that we had not given it, and that it has ended.
    assert us.owns(ONE) is is_restarted
    assert us.taking.tasks == {}
    assert list(us.records()) == [ONE] * is_restarted


def test_what_was_offered_out_of_memory_and_then_given_to_another_is_that_one_s() -> None:
    us, other, them = Node(US, "broker"), Node(OTHER, "store"), Node(THEM, "broker")
    fourth = b"node-004"
    net = Network([us, other, them])
    for node, mark in (
        (other, given_mark(fourth, OTHER)), (them, offered(OTHER, THEM, lasting=False)),
    ):  # fmt: skip
        node.journal.commit([record(mark)], sync=True)
        net.kill(node)
    us.adopt(other)
    us.adopt(them)
    net.settle_down()
    net.pass_time(OWNER_GONE_MS)
    net.settle_down()
    assert not us.owns(ONE)
    assert us.handoff.unconfirmed == {ONE: fourth}
    assert us.taking.tasks == {}


def test_attempt_of_the_last_owner_goes_on() -> None:
    _, us = adopted(record(offered(THEM, US)), record(attempt=4), restart=False)
    assert us.dispatcher.tasks[ONE].attempt == 5


def test_task_in_memory_is_in_the_journal_from_then_on() -> None:
    us, them = Node(US, "broker"), Node(THEM, "broker")
    net = Network([us, them])
    us.submit([1], durable=False)
    them.journal.commit([record(given_mark(US, THEM))], sync=True)
    net.kill(them)
    us.adopt(them)
    net.settle_down()
    assert us.dispatcher.tasks[ONE].is_written
    us.finish(ONE)
    net.settle_down()
    assert us.records() == {}


def test_task_that_was_just_becoming_ours_is_ours_once() -> None:
    us, them = Node(US, "broker"), Node(THEM, "store", route="broker")
    net = Network([us, them])
    net.connect(THEM, US)
    them.submit([1])
    while ONE not in us.taking.tasks or not us.taking.is_activating(ONE):
        for node in (us, them):
            if node.writes:
                node.write()
                net.carry(node)
        for end in net.open_ends():
            net.deliver(end)
    net.kill(them)
    us.adopt(them)
    assert not us.owns(ONE)
    net.settle_down()
    assert us.running == {ONE: 1}
    assert us.handoff.unconfirmed == {}
    net.settle_down(work=True)
    assert us.settled == [ONE]
    assert us.records() == {}


def test_dead_task_is_not_run() -> None:
    _, us = adopted(None, record(dead_mark([], "three strikes", 1)), restart=False)
    assert not us.owns(ONE)
    assert list(us.records()) == [ONE]


def test_offer_that_is_read_late_from_a_node_whose_journal_is_here_is_refused() -> None:
    us, them = Node(US, "broker"), Node(THEM, "store", route="broker")
    net = Network([us, them])
    net.connect(THEM, US)
    them.submit([1])
    while them.writes:
        them.write()
    net.carry(them)
    them.disk.lose_unsynced()
    net.kill(them)
    us.adopt(them)
    net.settle_down()
    net.pass_time(2_000)
    net.settle_down()
    assert us.owns(ONE)
    assert us.taking.tasks == {}


#: Marks of ours, of a node that has ended, and of the one that may have had it from that one
#: and given it to us, or had it from us and given it to that one.
CHAINS = [
    (offered(OTHER, US), given_mark(OTHER, THEM), given_mark(US, OTHER)),
    (offered(OTHER, US), given_mark(OTHER, THEM), offered(THEM, OTHER)),
    (offered(OTHER, US), given_mark(OTHER, THEM), b""),
    (given_mark(OTHER, US), offered(OTHER, THEM), given_mark(THEM, OTHER)),
    (given_mark(OTHER, US), offered(OTHER, THEM), offered(US, OTHER)),
    (given_mark(OTHER, US), offered(OTHER, THEM), b""),
]


def chained(*marks: bytes) -> tuple[Network, Node, Node]:
    """Us with the journal of them, and the third node, which has ended."""
    us, them, other = nodes = Node(US, "broker"), Node(THEM, "broker"), Node(OTHER, "broker")
    for node, mark in zip(nodes, marks, strict=True):
        node.start(0)
        node.journal.commit([record(mark)], sync=True)
        node.journal.close()
        node.end()
    net = Network(nodes)
    net.kill(them)
    net.kill(other)
    us.adopt(them)
    net.settle_down()
    assert not us.owns(ONE)
    return net, us, other


@pytest.mark.parametrize("marks", CHAINS)
def test_task_that_was_given_on_in_a_chain_of_three_is_found_by_the_heir_of_all(
    marks: tuple[bytes, bytes, bytes],
) -> None:
    net, us, other = chained(*marks)
    us.adopt(other)
    net.settle_down()
    net.pass_time(2_000)
    net.settle_down()
    assert us.running.keys() == {ONE}
    assert us.records()[ONE].mark == b""
    us.finish(ONE)
    net.settle_down()
    assert us.records() == {}
    assert us.handoff.unconfirmed == {}


@pytest.mark.parametrize("marks", CHAINS)
def test_and_by_the_third_node_or_the_heir_of_the_others_when_both_are_back(
    marks: tuple[bytes, bytes, bytes],
) -> None:
    net, us, other = chained(*marks)
    net.restart(other)
    net.connect(US, OTHER)
    for _ in range(3):
        net.settle_down()
        net.pass_time(2_000)
    (owner,) = net.owners(ONE)
    assert owner.running.keys() == {ONE}
    assert us.taking.tasks == {}
    assert us.handoff.unconfirmed == {}
    net.settle_down(work=True)
    assert [*us.settled, *other.settled] == [ONE]
    assert us.records() == other.records() == {}
