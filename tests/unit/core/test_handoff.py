"""The giver: what it offers to whom, and whose its tasks are at every moment."""

from __future__ import annotations

from tests.support.machines import task_id
from tests.unit.core.handing import Network, Node

G, T, U = b"giver-01", b"taker-01", b"taker-02"


def pair(**options: object) -> tuple[Network, Node, Node]:
    giver = Node(G, "producer", route="broker")
    taker = Node(T, "broker")
    net = Network([giver, taker])
    net.connect(G, T)
    return net, giver, taker


def test_a_task_of_a_broker_queue_goes_to_the_broker_and_settles_there() -> None:
    net, giver, taker = pair()
    giver.submit([1])
    net.settle_down()
    assert not giver.owns(task_id(1))
    assert taker.owns(task_id(1))
    assert giver.records() == {}
    net.settle_down(work=True)
    assert taker.settled == [task_id(1)]
    assert giver.told == [task_id(1)]
    assert taker.records() == {}
