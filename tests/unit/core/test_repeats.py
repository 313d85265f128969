"""The same id twice, by callers that did not know of each other."""

from __future__ import annotations

import pytest

from tests.support.machines import ADD, task_id
from tests.unit.core.handing import Network, Node
from zmqtasks.core.calls import Call
from zmqtasks.core.owned import OwnedRecord

P, Q, B = b"script-1", b"script-2", b"broker-1"
ONE = task_id(1)


def network() -> tuple[Network, Node, Node, Node]:
    """Two scripts whose tasks go to a broker, which neither of them has found."""
    scripts = (Node(P, "producer", route="broker"), Node(Q, "producer", route="broker"))
    broker = Node(B, "broker")
    return Network([*scripts, broker]), *scripts, broker


def call(node: Node, content: bytes) -> None:
    node.dispatcher.submit([Call(ONE, ADD, content, {"c": content})], node.now_ms)
    node.turn()


def warnings(node: Node) -> list[str]:
    return [note.text for note in node.notes if note.event == "task.other_content"]


def others(node: Node) -> list[object]:
    """Whose other calls the story of the task tells of."""
    lines = node.dispatcher.stories.of(ONE)
    return [line["other"] for line in lines if line["event"] == "other content"]


def settle_all(net: Network) -> None:
    for _ in range(3):
        net.settle_down()
        net.pass_time(2_000)


@pytest.mark.parametrize("has_ended", [False, True])
def test_whoever_repeats_a_call_that_a_broker_has_hears_of_its_outcome(has_ended: bool) -> None:
    net, first, second, broker = network()
    call(first, b"same")
    call(second, b"same")
    net.connect(P, B)
    settle_all(net)
    if has_ended:
        broker.finish(ONE)
    net.connect(Q, B)
    settle_all(net)
    assert not second.owns(ONE)
    if not has_ended:
        broker.finish(ONE)
    settle_all(net)
    assert broker.sent == {(ONE, 1): 1}
    assert (first.told, second.told) == ([ONE], [ONE])
    assert not any(node.records() for node in (first, second, broker))
    assert warnings(broker) == []


@pytest.mark.parametrize("has_ended", [False, True])
def test_of_two_contents_the_first_one_is_run_and_its_story_tells_of_the_other(
    has_ended: bool,
) -> None:
    net, first, second, broker = network()
    call(first, b"one")
    call(second, b"other")
    net.connect(P, B)
    settle_all(net)
    if has_ended:
        broker.finish(ONE)
    net.connect(Q, B)
    settle_all(net)
    assert broker.sent == {(ONE, 1): 1}
    (text,) = warnings(broker)
    assert Q.hex() in text
    assert others(broker) == [Q.hex()]


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("content", [b"one", b"other"])
def test_what_an_ended_script_left_of_a_task_that_is_here_is_not_run(
    content: bytes, has_ended: bool
) -> None:
    net, first, second, broker = network()
    call(first, b"one")
    net.connect(P, B)
    settle_all(net)
    if has_ended:
        broker.finish(ONE)
        settle_all(net)
    second.journal.commit([OwnedRecord(ONE, ADD, content, {"c": content})], sync=True)
    net.kill(second)
    broker.adopt(second)
    settle_all(net)
    assert broker.sent == {(ONE, 1): 1}
    assert broker.owns(ONE) is not has_ended
    assert bool(broker.records()) is not has_ended
    assert others(broker) == ([Q.hex()] if content == b"other" else [])
    assert len(warnings(broker)) == len(others(broker))


def test_a_repeat_whose_offer_came_to_nothing_stays_where_it_is() -> None:
    net, _, second, broker = network()
    call(broker, b"same")
    call(second, b"same")
    net.connect(Q, B)
    for connection in list(net.connections.values()):
        while second.writes:
            second.write()
        net.carry(second)
        for end in net.open_ends():
            net.deliver(end)  # the offer
        net.drop(connection, 0)
        net.notice(connection, 1)
    broker.finish(ONE)
    settle_all(net)
    assert second.owns(ONE)
    assert second.told == []
