"""What running tasks say of themselves reaches their callers and whoever watches them."""

from __future__ import annotations

import pytest

from tests.support.machines import link_to, of, task_id
from tests.support.nodes import Net, Node
from zmqtasks.core import effects as fx
from zmqtasks.core import sayings
from zmqtasks.limits import REPLAY_WINDOW_BYTES, UPDATE_BYTES_MAX
from zmqtasks.wire.messages import TaskState, UpdateRecord, Updates

P, W, X = b"producer", b"worker-1", b"onlooker"
ONE = task_id(1)


@pytest.fixture
def net() -> Net:
    return Net()


def pair(net: Net) -> tuple[Node, Node]:
    """A producer whose task runs on a worker."""
    producer, worker = net.add(P, "producer"), net.add(W, "worker")
    net.link(producer, worker)
    producer.submit(ONE)
    assert worker.running == [(ONE, 1)]
    return producer, worker


def say(worker: Node, state: str, meta: bytes = b"", number: int = -1, attempt: int = 1) -> None:
    assert worker.intake is not None
    worker.intake.slot_updates(0, UpdateRecord(ONE, attempt, number, state, meta))


def heard(node: Node) -> list[tuple[int, str, bytes]]:
    updates = [news for effect in of(node.effects, fx.TasksUpdated) for news in effect.updates]
    return [(news.number, news.state, news.meta) for news in updates]


def test_callers_hear_every_item_and_the_last_state_before_the_outcome(net: Net) -> None:
    producer, worker = pair(net)
    say(worker, "HALF", b"50")
    say(worker, "", b"a", 0)
    say(worker, "MOST", b"90")
    say(worker, "", b"b", 1)
    worker.end()
    assert heard(producer) == [(0, "", b"a"), (-1, "MOST", b"90"), (1, "", b"b")]
    kinds = [type(effect) for effect in producer.effects]
    assert kinds.index(fx.TasksUpdated) < kinds.index(fx.TasksSettled)


def test_owner_tells_the_last_state_of_the_attempt_that_runs(net: Net) -> None:
    producer, worker = pair(net)
    say(worker, "HALF", b"50")
    net.pump()
    record = producer.dispatcher.state_of(ONE)
    assert record is not None
    assert (record.state, record.info["state"], record.info["meta"]) == (
        TaskState.STARTED, "HALF", b"50",
    )  # fmt: skip
    net.kill(worker)
    record = producer.dispatcher.state_of(ONE)
    assert record is not None
    assert "state" not in record.info


def test_news_of_an_attempt_that_was_given_up_are_dropped(net: Net) -> None:
    producer, _ = pair(net)
    assert producer.mesh.ownership is not None
    link = next(iter(producer.mesh.membership.links))
    for of_link, attempt in ((link, 2), (link_to(X), 1)):
        late = Updates([UpdateRecord(ONE, attempt, -1, "LATE", b"")])
        assert producer.mesh.ownership.received(of_link, late, 0)
    net.pump()
    assert heard(producer) == []


def test_node_that_watches_the_task_hears_of_it(net: Net) -> None:
    producer, worker = pair(net)
    onlooker = net.add(X, "producer")
    net.link(onlooker, producer)
    onlooker.mesh.ask([ONE], True, net.now_ms)
    net.pump()
    say(worker, "HALF", b"50")
    say(worker, "", b"a", 0)
    net.pump()
    assert heard(onlooker) == heard(producer) == [(-1, "HALF", b"50"), (0, "", b"a")]
    worker.end()
    say(worker, "LATE")
    net.pump()
    assert len(heard(onlooker)) == 2


def test_onlooker_that_takes_nothing_costs_the_owner_no_more_than_a_window(net: Net) -> None:
    producer, worker = pair(net)
    onlooker = net.add(X, "producer")
    net.link(onlooker, producer)
    onlooker.mesh.ask([ONE], True, net.now_ms)
    net.pump()
    links = producer.mesh.membership.links.values()
    (link,) = [link for link in links if link.id.peer == onlooker.rid]
    del net.nodes[onlooker.rid]  # nobody knows
    for number in range(100):
        say(worker, "", b"x" * UPDATE_BYTES_MAX, number)
        net.pump()
    assert len(heard(producer)) == 100
    assert link.unacked_bytes < REPLAY_WINDOW_BYTES + 2 * UPDATE_BYTES_MAX


def test_states_are_kept_within_a_limit(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sayings, "SAID_BYTES_MAX", 5)
    producer, worker = pair(net)
    say(worker, "SMALL", b"12345")
    net.pump()
    assert producer.mesh.ownership is not None
    assert producer.mesh.ownership.sayings.last_of(ONE, 1) is not None
    say(worker, "LARGE", b"123456")
    net.pump()
    assert producer.mesh.ownership.sayings.last_of(ONE, 1) is None
    assert heard(producer)[-1] == (-1, "LARGE", b"123456")
