"""Tasks are revoked wherever they are: by their owner, whoever that is by then."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.machines import OWNER, WORKER, of, task_id
from tests.support.nodes import Net, Node
from zmqtasks.core import effects as fx
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.core.revoking import FORWARD_REQUEST, REVOKE, Revoking
from zmqtasks.limits import HANDOFF_UNSERVED_MS, REVOKED_OWED_MAX
from zmqtasks.wire.messages import Order, Report, Status

BROKER = b"broker-1"
SECOND = b"broker-2"
ONE, TWO, THREE = task_id(1), task_id(2), task_id(3)


def revoking(node: Node) -> Revoking:
    assert node.mesh.ownership is not None
    return node.mesh.ownership.revoking


def revoke(node: Node, *ids: bytes, **args: Any) -> dict[str, Any]:
    """What this node says to that."""
    told = revoking(node).revoke(ids, args)
    node.net.pump()
    return told


def statuses(node: Node) -> dict[bytes, int]:
    """{id: how it ended} of what this node was told."""
    return {key: outcome.status for key, outcome in node.settled().items()}


def with_broker(*ids: bytes) -> tuple[Net, Node, Node]:
    """A client that has given these tasks to a broker."""
    net = Net()
    client = net.add(OWNER, "producer")
    broker = net.add(BROKER, "broker", journal={})
    net.link(client, broker)
    client.submit(*ids)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    assert not client.dispatcher.tasks
    return net, client, broker


def test_of_each_task_it_is_told_what_becomes_of_it() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    worker = net.add(WORKER, "worker")
    client.submit(ONE, eta=10_000)
    client.submit(TWO)
    net.link(client, worker)
    assert worker.running == [(TWO, 1)]
    assert revoke(client, ONE, TWO, THREE) == {
        "data": {ONE.hex(): "revoked", TWO.hex(): "running", THREE.hex(): "unknown"}, "takers": {},
    }  # fmt: skip
    assert statuses(client) == {ONE: Status.CANCELLED}
    assert revoke(client, ONE)["data"] == {ONE.hex(): "settled"}
    # The one that runs was not to be terminated.
    worker.end()
    assert statuses(client)[TWO] == Status.SUCCESS


def test_anybody_may_order_it_and_is_answered() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    other = net.add(WORKER, "worker", kinds=())
    net.link(client, other)
    client.submit(ONE)
    link = other.mesh.reach.links[OWNER]
    other.mesh.membership.send(link, Order(7, REVOKE, [ONE], {}))
    net.pump()
    assert statuses(client) == {ONE: Status.CANCELLED}
    (got,) = of(other.effects, fx.ReportGot)
    assert (got.request, got.data) == (7, {"data": {ONE.hex(): "revoked"}, "takers": {}})


@pytest.mark.parametrize("args", [{"terminate": 3, "signal": "x"}, {"signal": None, "hops": b""}])
def test_arguments_that_make_no_sense_do_no_harm(args: dict[str, Any]) -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    client.submit(ONE)
    assert revoke(client, ONE, **args)["data"] == {ONE.hex(): "revoked"}


def test_a_task_that_was_given_away_is_revoked_by_its_new_owner() -> None:
    _, client, broker = with_broker(ONE)
    told = revoke(client, ONE)
    assert told == {"data": {ONE.hex(): "given"}, "takers": {ONE.hex(): BROKER.hex()}}
    assert not broker.dispatcher.tasks
    assert statuses(client) == {ONE: Status.CANCELLED}
    assert not revoking(client)._owed
    assert not of(client.effects, fx.ReportGot), "between owners only"


def test_a_new_owner_that_is_away_is_told_when_it_is_back() -> None:
    net, client, broker = with_broker(ONE, TWO)
    net.cut(client, broker)
    assert revoke(client, ONE, terminate=True, signal=9)["data"] == {ONE.hex(): "given"}
    assert ONE in broker.dispatcher.tasks
    net.link(client, broker)
    assert list(broker.dispatcher.tasks) == [TWO]
    assert not revoking(client)._owed


def test_a_cancellation_passes_through_several_owners() -> None:
    net, client, broker = with_broker(ONE)
    second = net.add(SECOND, "broker", journal={})
    net.link(broker, second)
    broker.mesh.leave_tasks(net.now_ms)
    net.pass_time(500)
    assert list(second.dispatcher.tasks) == [ONE]
    assert revoke(client, ONE)["takers"] == {ONE.hex(): SECOND.hex()}
    # Who has not heard of that passes it on; who has tells the last owner itself.
    assert revoke(broker, ONE)["takers"] == {ONE.hex(): SECOND.hex()}
    assert not second.dispatcher.tasks
    net.link(client, second)
    assert not revoking(client)._owed


def test_a_cancellation_does_not_run_in_a_circle() -> None:
    net, client, broker = with_broker(ONE)
    ownership = broker.mesh.ownership
    assert ownership is not None
    net.cut(client, broker)
    # Each thinks that the other one has it.
    broker.dispatcher.tasks.clear()
    ownership.given.gave([ONE], OWNER, follow=False)
    net.link(client, broker)
    revoke(client, ONE)
    net.pump()
    assert not revoking(broker).effects


def test_the_cancellation_of_a_task_on_offer_reaches_its_taker() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    records: dict[bytes, OwnedRecord] = {}
    broker = net.add(BROKER, "broker", journal=records)
    net.link(client, broker)
    broker.holds_writes = True
    client.submit(ONE)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    assert client.dispatcher.is_offered(ONE)
    # Whoever asks the taker now is told that its giver has to say whose it is.
    assert revoke(broker, ONE)["data"] == {ONE.hex(): "unknown"}
    assert revoke(client, ONE)["data"] == {ONE.hex(): "running"}
    for _ in range(5):
        broker.commit()
    assert statuses(client) == {ONE: Status.CANCELLED}
    assert (broker.dispatcher.tasks, records) == ({}, {})


def test_what_was_revoked_at_the_taker_before_it_owned_it_does_not_run() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    broker = net.add(BROKER, "broker", journal={})
    net.link(client, broker)
    broker.holds_writes = True
    client.submit(ONE)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    revoke(broker, ONE)
    for _ in range(5):
        broker.commit()
    assert not broker.dispatcher.tasks
    assert statuses(client) == {ONE: Status.CANCELLED}


def test_garbage_in_an_answer_of_a_new_owner_does_no_harm() -> None:
    net, client, broker = with_broker(ONE)
    link = broker.mesh.reach.links[OWNER]
    for data in ({"data": 1}, {"data": {"zz": 1, "": 2}}, {}, {"data": [3]}):
        broker.mesh.membership.send(link, Report(FORWARD_REQUEST, data))
    net.pump()
    assert not of(client.effects, fx.ReportGot)


def test_so_many_cancellations_are_kept_for_those_that_are_away() -> None:
    net, client, broker = with_broker(ONE)
    net.cut(client, broker)
    ownership = client.mesh.ownership
    assert ownership is not None
    ids = [task_id(number) for number in range(10, 10 + REVOKED_OWED_MAX + 5)]
    ownership.given.gave(ids, BROKER, follow=False)
    revoke(client, *ids)
    assert len(revoking(client)._owed) == REVOKED_OWED_MAX
