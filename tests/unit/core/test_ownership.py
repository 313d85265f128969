"""Whole nodes hand tasks to each other: whose they are, and where their outcomes go."""

from __future__ import annotations

from tests.support.machines import OWNER, WORKER, of, task_id
from tests.support.nodes import Net, Node
from zmqtasks.core import effects as fx
from zmqtasks.core.calls import Call
from zmqtasks.core.incoming import Claim
from zmqtasks.core.owned import Durability, OwnedRecord
from zmqtasks.limits import HANDOFF_UNSERVED_MS, RESUME_GRACE_MS
from zmqtasks.wire.messages import Kind, TaskState, Verdict

BROKER = b"broker-1"
ONE, TWO, THREE = task_id(1), task_id(2), task_id(3)
RARE = Kind("shop", "tasks.rare", "d9", "rare")


def owners(net: Net, task: bytes) -> list[bytes]:
    """All nodes that hold it as their own."""
    return [node.name for node in net.nodes.values() if task in node.dispatcher.tasks]


def verdicts(worker: Node) -> list[tuple[bytes, int, int]]:
    entries = worker.mesh.log.entries.values()
    records = [entry.verdict for entry in entries if entry.verdict is not None]
    return [(record.id, record.attempt, record.verdict) for record in records]


# --- through a broker ---------------------------------------------------------------------


def test_task_that_nobody_serves_goes_to_the_broker_and_its_outcome_comes_back() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    broker = net.add(BROKER, "broker", journal={})
    net.link(client, broker)
    client.submit(ONE)
    assert owners(net, ONE) == [OWNER], "a worker may still come"
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    assert owners(net, ONE) == [BROKER]
    worker = net.add(WORKER, "worker")
    net.link(broker, worker)
    assert worker.running == [(ONE, 1)]
    worker.end()
    assert client.settled()[ONE].body == b"value"
    assert broker.journal == {}
    assert verdicts(worker) == [(ONE, 1, Verdict.SETTLED)]


def test_former_owner_says_who_has_the_task() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    broker = net.add(BROKER, "broker", journal={})
    net.link(client, broker)
    client.submit(ONE)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    (state,) = client.mesh.states_of([ONE])
    assert state.state == TaskState.PENDING
    assert state.info["taker"] == BROKER


def test_broker_s_task_outlives_its_client_and_the_broker_s_process() -> None:
    net = Net()
    records: dict[bytes, OwnedRecord] = {}
    client = net.add(OWNER, "producer")
    broker = net.add(BROKER, "broker", journal=records)
    net.link(client, broker)
    client.submit(ONE)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    net.kill(client)
    net.kill(broker)
    broker = net.add(BROKER, "broker", epoch=2, journal=records)
    broker.mesh.resume(list(records.values()), net.now_ms)
    worker = net.add(WORKER, "worker")
    net.link(broker, worker)
    net.pass_time(2 * RESUME_GRACE_MS)
    assert [task_id for task_id, _ in worker.running] == [ONE]
    worker.end()
    assert broker.settled()[ONE].body == b"value"


def test_offer_that_the_broker_cannot_store_stays_with_its_owner() -> None:
    net = Net()
    client = net.add(OWNER, "producer")
    broker = net.add(BROKER, "broker", journal={})
    broker.refusal = "the disk is full"
    net.link(client, broker)
    client.submit(ONE)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    assert owners(net, ONE) == [OWNER]
    broker.refusal = ""
    net.pass_time(3_000)
    assert owners(net, ONE) == [BROKER]


def test_nobody_owns_a_task_twice_while_the_taker_writes() -> None:
    net = Net()
    client = net.add(OWNER, "producer", journal={})
    broker = net.add(BROKER, "broker", journal={})
    net.link(client, broker)
    client.holds_writes = broker.holds_writes = True
    client.submit(ONE)
    net.pass_time(HANDOFF_UNSERVED_MS + 500)
    assert owners(net, ONE) == [OWNER]
    for _ in range(10):
        for node in (broker, client):
            node.commit()
            assert len(owners(net, ONE)) <= 1
    assert owners(net, ONE) == [BROKER]
    assert not client.mesh.is_deciding


# --- a process that leaves ----------------------------------------------------------------


def leaving() -> tuple[Net, Node, Node]:
    """A client whose first task runs at a worker with a journal, and whose others wait."""
    net = Net()
    client = net.add(OWNER, "producer")
    worker = net.add(WORKER, "worker", journal={})
    net.link(client, worker)
    client.submit(ONE, TWO, THREE)
    assert worker.running == [(ONE, 1)]
    return net, client, worker


def test_process_that_ends_leaves_its_tasks_with_the_worker_that_has_them() -> None:
    net, client, worker = leaving()
    client.mesh.leave_tasks(net.now_ms)
    net.pump()
    assert client.mesh.tasks_left == 0
    assert client.mesh.stay_with_tasks() == {"worker-1": 3}
    assert not client.mesh.is_deciding
    net.kill(client)
    net.pass_time(3 * RESUME_GRACE_MS)
    assert worker.running == [(ONE, 1)], "the attempt goes on"
    for _ in range(3):
        worker.end()
    assert {task: outcome.attempt for task, outcome in worker.settled().items()} == {
        ONE: 1, TWO: 1, THREE: 1,
    }  # fmt: skip
    assert worker.journal == {}
    assert not any(worker.mesh.log.undecided.values())


def test_outcome_that_came_during_the_handoff_settles_the_task_at_its_new_owner() -> None:
    net, client, worker = leaving()
    worker.holds_writes = True
    client.mesh.leave_tasks(net.now_ms)
    net.pump()
    worker.commit()  # stored; given
    assert owners(net, ONE) == []
    worker.end()  # its former owner does not know it any more
    while worker.writes:
        worker.commit()
    worker.holds_writes = False
    net.kill(client)
    net.pass_time(3 * RESUME_GRACE_MS)
    assert worker.settled()[ONE].attempt == 1
    assert verdicts(worker) == [(ONE, 1, Verdict.SETTLED)]


def test_held_task_that_is_not_here_any_more_goes_on_with_the_next_attempt() -> None:
    net, client, worker = leaving()
    worker.holds_writes = True
    client.mesh.leave_tasks(net.now_ms)
    net.pump()
    worker.commit()
    assert worker.intake is not None
    worker.intake.slots.clear()  # as if the task had never arrived
    worker.intake.slot_ready(0)
    worker.holds_writes = False
    worker.commit()
    net.kill(client)
    net.pass_time(3 * RESUME_GRACE_MS)
    ran = []
    while worker.running:
        ran += worker.running
        worker.end()
    assert (ONE, 2) in ran
    assert sorted(worker.settled()) == [ONE, TWO, THREE]


def test_drained_node_takes_nothing_over() -> None:
    net, client, worker = leaving()
    worker.mesh.drain()
    client.mesh.leave_tasks(net.now_ms)
    net.pump()
    assert client.mesh.tasks_left == 3
    notes = [note.text for note in of(client.effects, fx.Note)]
    assert any("it is leaving" in text for text in notes)


def test_process_that_stays_with_its_tasks_takes_its_offers_back() -> None:
    net, client, worker = leaving()
    worker.holds_writes = True
    client.mesh.leave_tasks(net.now_ms)
    net.pump()
    assert client.mesh.stay_with_tasks() == {}
    assert client.mesh.tasks_left == 3
    worker.holds_writes = False
    worker.commit()
    net.pump()
    assert worker.journal == {}
    assert owners(net, ONE) == [OWNER]


# --- an heir of a giver and of a taker ----------------------------------------------------


def test_dead_tasks_and_open_ones_of_an_ended_node_are_with_its_heir() -> None:
    net = Net()
    records: dict[bytes, OwnedRecord] = {}
    client = net.add(OWNER, "producer", journal=records)
    client.mesh.submit_durable([Call(ONE, RARE, b"args", None)], 1, 0)
    net.pump()
    assert list(records) == [ONE]
    net.kill(client)
    broker = net.add(BROKER, "broker", journal=records)
    broker.mesh.adopt(OWNER, list(records.values()), [OWNER], net.now_ms)
    net.pass_time(2 * RESUME_GRACE_MS)
    assert list(broker.dispatcher.tasks) == [ONE]
    assert list(broker.mesh.succession.heir_of) == [OWNER]


def test_tasks_between_two_nodes_are_told_with_whom_they_wait_for_and_since_when() -> None:
    net = Net()
    broker = net.add(BROKER, "broker", journal={})
    ownership = broker.mesh.ownership
    assert ownership is not None
    record = OwnedRecord(ONE, RARE, b"args", None, 1, 0, Durability.DISK)
    ownership.taking.restore(record, [Claim(OWNER, BROKER, is_lasting=True)], 0)
    ownership.handoff.unconfirmed.update({TWO: WORKER, THREE: WORKER})
    net.pass_time(300)
    first = ownership.describe()
    net.pass_time(120_000, 1_000)
    later = ownership.describe()
    assert (later["offered"], later["given"], later["incoming"]) == (0, 2, 1)
    standing = {key: found["nodes"] for key, found in later["standing"].items()}
    assert standing == {"incoming": {OWNER.hex(): 1}, "given": {WORKER.hex(): 2}}
    for key, found in later["standing"].items():
        assert found["ms"] == first["standing"][key]["ms"] + 120_000
