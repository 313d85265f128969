"""The giver: whose its tasks are at every moment, and what it says to whom."""

from __future__ import annotations

from typing import TypeVar

from tests.support.machines import task_id
from tests.unit.core.handing import End, Network, Node
from zmqtasks.core.owned import Given, parse_mark
from zmqtasks.wire.messages import Done, Handed, Message, Offer, Resolve, Stored, Taken

G, T, U = b"giver-01", b"taker-01", b"taker-02"
M = TypeVar("M", bound=Message)
ONE = task_id(1)


def giver_and(*takers: bytes, route: str = "broker") -> tuple[Network, Node]:
    """A giver that is linked to these brokers, which it has dialled."""
    giver = Node(G, "producer", route=route)
    net = Network([giver, *(Node(name, "broker", "worker") for name in takers)])
    for name in takers:
        net.connect(G, name)
    net.settle_down()
    return net, giver


def end_of(net: Network, node: bytes, other: bytes) -> End:
    """Where one node gets what the other sends."""
    for (dialler, listener), connection in net.connections.items():
        if {dialler, listener} == {node, other} and connection.is_whole:
            return connection.ends[0 if dialler == node else 1]
    raise AssertionError("they are not connected")


def write_all(net: Network, node: Node) -> None:
    while node.writes:
        node.write()
    net.carry(node)


def deliver(net: Network, node: bytes, other: bytes, kind: type[M]) -> M:
    """The next message of this kind arrives, and those before it."""
    end = end_of(net, node, other)
    while end.incoming:
        message = end.incoming[0]
        net.deliver(end)
        if isinstance(message, kind):
            return message
    raise AssertionError(f"no {kind.__name__} is on its way")


def waiting(net: Network, node: bytes, other: bytes, kind: type[M]) -> list[M]:
    """Messages of this kind that are on their way."""
    return [message for message in end_of(net, node, other).incoming if isinstance(message, kind)]


def up_to_stored(net: Network, giver: Node) -> None:
    """Task 1 is offered, and the taker has stored it; the giver does not know that yet."""
    giver.submit([1])
    write_all(net, giver)
    deliver(net, T, G, Offer)
    write_all(net, net.nodes[T])


def test_task_of_a_broker_queue_goes_to_the_broker_and_settles_there() -> None:
    net, giver = giver_and(T)
    taker = net.nodes[T]
    giver.submit([1])
    net.settle_down()
    assert (giver.owns(ONE), taker.owns(ONE)) == (False, True)
    assert giver.records() == {}
    net.settle_down(work=True)
    assert taker.settled == [ONE]
    assert giver.told == [ONE]
    assert taker.records() == {}


def test_offered_task_is_not_run_here() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    giver.route = "direct"
    giver.dispatcher.dealer.lane_of(giver.dispatcher.tasks[ONE].lane.kind).route = "direct"
    giver.tick(10_000)
    assert giver.running == {}
    assert giver.owns(ONE)


def test_task_is_given_when_the_giver_s_own_journal_says_so() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    deliver(net, G, T, Stored)
    assert giver.owns(ONE)
    assert waiting(net, T, G, Handed) == []
    write_all(net, giver)
    assert not giver.owns(ONE)
    assert waiting(net, T, G, Handed)[0].given == [ONE]
    assert isinstance(parse_mark(giver.records()[ONE].mark), Given)


def test_offer_that_the_taker_refuses_comes_back_and_is_made_again_later() -> None:
    net, giver = giver_and(T)
    net.nodes[T].disk.bytes_max = 0
    giver.submit([1])
    net.settle_down()
    assert giver.owns(ONE)
    assert giver.next_deadline_ms() is not None
    net.nodes[T].disk.bytes_max = None
    net.pass_time(500)
    net.settle_down()
    assert giver.owns(ONE)
    net.pass_time(600)
    net.settle_down()
    assert net.nodes[T].owns(ONE)


def test_another_broker_gets_what_one_refuses() -> None:
    net, giver = giver_and(T, U)
    net.nodes[T].disk.bytes_max = 0
    giver.submit([1])
    giver.submit([2])
    giver.submit([3])
    net.settle_down()
    net.settle_down()
    assert [net.nodes[U].owns(task_id(number)) for number in (1, 2, 3)] == [True] * 3


def test_link_lost_before_the_answer_leaves_the_task_here() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    connection = net.connections[G, T]
    net.drop(connection, 0)
    assert giver.dispatcher.tasks[ONE].offered == b""
    net.notice(connection, 1)
    assert list(net.nodes[T].taking.tasks) == [ONE]
    giver.handoff.end()
    net.connect(G, T)
    net.settle_down()
    assert giver.owns(ONE)
    assert net.nodes[T].taking.tasks == {}
    assert net.nodes[T].records() == {}


def test_what_was_given_is_said_again_on_the_next_link() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    deliver(net, G, T, Stored)
    write_all(net, giver)
    connection = net.connections[G, T]
    net.drop(connection, 0)
    net.notice(connection, 1)
    assert not giver.owns(ONE)
    net.connect(G, T)
    net.settle_down()
    assert net.nodes[T].owns(ONE)
    assert giver.handoff.unconfirmed == {}


def test_giver_hears_of_a_task_whose_taker_was_started_again_while_that_was_decided() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    deliver(net, G, T, Stored)
    taker = net.nodes[T]
    net.kill(taker)
    net.restart(taker)
    net.notice(net.connections[G, T], 0, "replaced")
    net.connect(G, T)
    write_all(net, giver)
    net.settle_down()
    net.pass_time(2_000)  # its worker might still have it
    net.settle_down(work=True)
    assert taker.settled == [ONE]
    assert giver.told == [ONE]


def test_what_was_given_is_known_after_a_restart() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    deliver(net, G, T, Stored)
    write_all(net, giver)
    net.kill(giver, power=True)
    net.restart(giver)
    assert not giver.owns(ONE)
    net.notice(net.connections[G, T], 1, "gone")
    net.connect(G, T)
    net.settle_down()
    assert net.nodes[T].owns(ONE)
    assert giver.records() == {}


def test_restart_before_the_decision_leaves_the_task_here() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    deliver(net, G, T, Stored)
    net.kill(giver, power=True)
    net.restart(giver)
    giver.handoff.end()
    net.notice(net.connections[G, T], 1, "gone")
    net.connect(G, T)
    net.settle_down()
    assert giver.owns(ONE)
    assert net.nodes[T].records() == {}


def test_task_only_in_memory_is_written_before_it_is_offered() -> None:
    net, giver = giver_and(T)
    giver.submit([1], durable=False)
    giver.write()  # what was under way to the journal before
    net.carry(giver)
    assert waiting(net, T, G, Offer) == []
    write_all(net, giver)
    assert waiting(net, T, G, Offer)[0].lasting
    assert list(giver.records()) == [ONE]


def test_what_a_full_disk_does_not_take_is_offered_as_it_is() -> None:
    net, giver = giver_and(T)
    giver.disk.bytes_max = 0
    giver.submit([1], durable=False)
    write_all(net, giver)
    assert not waiting(net, T, G, Offer)[0].lasting
    net.settle_down()
    assert net.nodes[T].owns(ONE)


def held_task(net: Network, giver: Node) -> None:
    """Task 1 is at worker T, and the giver leaves."""
    giver.submit([1])
    while not net.nodes[T].hosted:
        net.settle_down()
        giver.running.clear()
        for task in list(giver.dispatcher.tasks.values()):
            assert task.worker is not None
            if task.worker.link == giver.worker:
                giver.dispatcher.link_down(giver.worker, "left")
                giver.turn()
    giver.handoff.leave(0)
    giver.turn()
    write_all(net, giver)


def test_process_that_leaves_gives_a_running_task_to_its_worker() -> None:
    net, giver = giver_and(T, route="direct")
    held_task(net, giver)
    assert waiting(net, T, G, Offer)[0].tasks[0].held
    net.settle_down()
    taker = net.nodes[T]
    assert taker.owns(ONE)
    assert ONE in taker.running
    net.settle_down(work=True)
    assert taker.settled == [ONE]
    assert sum(taker.sent.values()) == 0
    assert giver.handoff.leaving_report() == {"taker-01": 1}
    assert giver.handoff.left() == 0


def test_outcome_while_the_task_is_offered_settles_it_here() -> None:
    net, giver = giver_and(T, route="direct")
    held_task(net, giver)
    deliver(net, T, G, Offer)
    net.nodes[T].finish(ONE)
    net.carry(net.nodes[T])
    write_all(net, net.nodes[T])
    deliver(net, G, T, Done)
    net.settle_down()
    assert giver.settled == [ONE]
    assert net.nodes[T].taking.tasks == {}
    assert net.nodes[T].records() == {}


def test_taker_keeps_its_copy_until_the_outcome_is_safe() -> None:
    """The note says "given" until the journal has dropped the task: were the power to fail
    in between, the taker would be the owner."""
    net, giver = giver_and(T, route="direct")
    held_task(net, giver)
    deliver(net, T, G, Offer)
    write_all(net, net.nodes[T])
    deliver(net, G, T, Stored)
    net.nodes[T].finish(ONE)
    net.carry(net.nodes[T])
    deliver(net, G, T, Done)
    giver.write()
    net.carry(giver)
    assert giver.settled == []
    assert waiting(net, T, G, Handed) == []
    write_all(net, giver)
    assert giver.settled == [ONE]
    assert waiting(net, T, G, Handed)[0].kept == [ONE]


def test_leaving_gives_everything_to_whoever_takes_it() -> None:
    net, giver = giver_and(U, route="direct")
    net.nodes[U].roles = ("store",)
    net.kill(net.nodes[U])
    net.restart(net.nodes[U])
    net.notice(net.connections[G, U], 0, "gone")
    net.connect(G, U)
    giver.dispatcher.link_down(giver.worker, "left")
    giver.running.clear()
    giver.submit(list(range(1, 4)))
    net.settle_down()
    assert giver.handoff.left() == 3
    giver.handoff.leave(0)
    giver.turn()
    net.settle_down()
    assert giver.handoff.left() == 0
    assert giver.handoff.leaving_report() == {"taker-02": 3}
    assert giver.records() == {}


def test_at_the_end_takers_are_told_what_stays_here() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    assert giver.handoff.is_giving
    giver.handoff.end()
    giver.turn()
    net.carry(giver)
    assert not giver.handoff.is_giving
    assert waiting(net, T, G, Handed)[0].kept == [ONE]
    net.settle_down()
    assert giver.owns(ONE)
    assert net.nodes[T].records() == {}


def test_late_answer_to_an_offer_that_was_withdrawn_changes_nothing() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    giver.handoff.end()
    deliver(net, G, T, Stored)
    write_all(net, giver)
    assert giver.owns(ONE)


def test_offer_does_not_go_out_on_a_later_session_of_its_link() -> None:
    """The link is lost and back within one turn, as the offer was to be sent."""
    net, giver = giver_and(T)
    giver.submit([1])
    giver.write()
    link = end_of(net, G, T).link
    peer = net.nodes[T].hello
    offering = giver.handoff.offering
    while not offering.effects:
        write = giver.writes.popleft()
        giver.journal.commit(write.puts, write.progress, write.drops, sync=write.sync)
        giver.custody.committed([write.batch])
        giver.custody.flush()
    giver.handoff.link_down(link, peer, "reset")
    giver.handoff.link_up(link, peer)
    assert offering.effects == []
    assert giver.dispatcher.tasks[ONE].offered == b""


def test_whoever_asks_while_the_offer_stands_is_answered_there_when_it_ends() -> None:
    """The offer is on a connection that is dead, as only the taker knows; it asks on the
    other one."""
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    dead = net.connections[G, T]
    net.drop(dead, 1)
    net.connect(T, G)
    asked = deliver(net, G, T, Resolve)
    assert asked.ids == [ONE]
    assert waiting(net, T, G, Handed) == []
    giver.handoff.end()
    giver.turn()
    net.carry(giver)
    assert waiting(net, T, G, Handed)[0].kept == [ONE]


def test_heir_that_asks_while_the_offer_stands_is_answered_when_it_ends() -> None:
    net, giver = giver_and(T, U)
    giver.handoff.link_paused(end_of(net, G, U).link, True)
    up_to_stored(net, giver)
    net.kill(net.nodes[T])
    net.nodes[U].adopt(net.nodes[T])
    net.carry(net.nodes[U])
    assert deliver(net, G, U, Resolve).taker == T
    assert waiting(net, U, G, Handed) == []
    net.notice(net.connections[G, T], 0, "gone")
    said = waiting(net, U, G, Handed)[0]
    assert (said.kept, said.taker) == ([ONE], T)


def test_answers_to_questions_about_offers() -> None:
    net, giver = giver_and(T)
    giver.submit([1])
    net.settle_down()
    giver.handoff.end()
    giver.submit([2])
    net.settle_down()
    end = end_of(net, G, T)
    ids = [ONE, task_id(2), task_id(3)]
    giver.receive(end.link, Resolve(ids, T))
    net.carry(giver)
    said = waiting(net, T, G, Handed)[0]
    assert said.kept == [ONE, task_id(2)]  # the first was given, and that is confirmed
    assert said.unknown == [task_id(3)]


def test_repeated_confirmation_is_no_news() -> None:
    net, giver = giver_and(T)
    up_to_stored(net, giver)
    deliver(net, G, T, Stored)
    write_all(net, giver)
    end = end_of(net, G, T)
    giver.receive(end.link, Taken([ONE, ONE]))
    giver.receive(end.link, Taken([ONE]))
    write_all(net, giver)
    assert giver.records() == {}


def test_heir_of_the_taker_is_told_what_was_given_to_it() -> None:
    net, giver = giver_and(T, U)
    giver.submit([1])
    write_all(net, giver)
    names = [name for name in (T, U) if waiting(net, name, G, Offer)]
    taker = net.nodes[names[0]]
    heir = net.nodes[U if names[0] == T else T]
    deliver(net, taker.name, G, Offer)
    write_all(net, taker)
    deliver(net, G, taker.name, Stored)
    write_all(net, giver)
    net.kill(taker)
    heir.adopt(taker)
    net.settle_down()
    assert heir.owns(ONE)
    assert giver.handoff.unconfirmed == {}
    assert giver.given.taker_of(ONE) == heir.name


def test_many_tasks_go_in_few_messages() -> None:
    net, giver = giver_and(T)
    giver.dispatcher.tasks_max = 10_000
    for first in range(1, 1_000, 100):
        giver.submit(list(range(first, first + 100)))
    write_all(net, giver)
    offers = waiting(net, T, G, Offer)
    assert len(offers) <= 4
    assert all(len(offer.tasks) <= 256 for offer in offers)
    net.settle_down()
    assert len(net.nodes[T].dispatcher.tasks) == 1_000
    assert giver.handoff.left() == 0


def test_nothing_is_offered_to_a_silent_taker() -> None:
    net, giver = giver_and(T)
    link = end_of(net, G, T).link
    giver.handoff.link_paused(link, True)
    giver.submit([1])
    net.settle_down()
    assert giver.owns(ONE)
    giver.handoff.link_paused(link, False)
    giver.turn()
    net.settle_down()
    assert net.nodes[T].owns(ONE)
