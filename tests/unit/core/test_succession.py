"""Owners that end: they come back with their journal, or another node is their heir."""

from __future__ import annotations

from tests.support.machines import ADD, OWNER, WORKER, task_id
from tests.support.nodes import Net, Node
from zmqtasks.core.calls import Call
from zmqtasks.core.owned import OwnedRecord
from zmqtasks.limits import HEIR_OF_COUNT_MAX, OWNER_GONE_MS, RESUME_GRACE_MS
from zmqtasks.wire.messages import Verdict

HEIR = b"the-heir"
ONE = task_id(1)


def world(*, journal: bool = True) -> tuple[Net, Node, Node, dict[bytes, OwnedRecord]]:
    """An owner whose only task runs at a worker, and what is in its journal."""
    net = Net()
    records: dict[bytes, OwnedRecord] = {}
    owner = net.add(OWNER, "broker", journal=records if journal else None)
    worker = net.add(WORKER, "worker")
    net.link(owner, worker)
    if journal:
        owner.mesh.submit_durable([Call(ONE, ADD, b"args", None)], 1, 0)
        net.pump()
    else:
        owner.submit(ONE)
    assert worker.running == [(ONE, 1)]
    return net, owner, worker, records


def again(net: Net, worker: Node, records: dict[bytes, OwnedRecord]) -> Node:
    """The owner's next process."""
    owner = net.add(OWNER, "broker", epoch=2, journal=records)
    owner.mesh.resume(list(records.values()), net.now_ms)
    net.link(owner, worker)
    return owner


def verdicts(worker: Node) -> list[tuple[bytes, int, int]]:
    entries = worker.mesh.log.entries.values()
    records = [entry.verdict for entry in entries if entry.verdict is not None]
    return [(record.id, record.attempt, record.verdict) for record in records]


# --- the owner is back --------------------------------------------------------------------


def test_attempt_that_runs_while_its_owner_restarts_counts() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    owner = again(net, worker, records)
    net.pass_time(3 * RESUME_GRACE_MS)
    task = owner.dispatcher.tasks[ONE]
    assert (task.attempt, task.started) == (1, True)
    worker.end()
    assert owner.settled()[ONE].body == b"value"
    assert worker.running == []
    assert verdicts(worker) == [(ONE, 1, Verdict.SETTLED)]
    assert records == {}


def test_outcome_that_came_while_its_owner_was_away_settles_the_task() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    worker.end()
    owner = again(net, worker, records)
    assert owner.settled()[ONE].body == b"value"
    assert verdicts(worker) == [(ONE, 1, Verdict.SETTLED)]
    net.pass_time(3 * RESUME_GRACE_MS)
    assert worker.running == [], "it does not run again"


def test_outcome_waits_for_an_owner_with_a_journal_for_longer_than_for_others() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    worker.end()
    net.pass_time(OWNER_GONE_MS + 1_000, step_ms=500)
    owner = again(net, worker, records)
    assert owner.settled()[ONE].body == b"value"


def test_outcome_of_an_owner_without_a_journal_stands_after_a_while() -> None:
    net, owner, worker, _ = world(journal=False)
    net.kill(owner)
    worker.end()
    assert worker.mesh.log.undecided_of(OWNER)
    net.pass_time(OWNER_GONE_MS + 1_000, step_ms=500)
    assert not worker.mesh.log.undecided_of(OWNER)


def test_outcome_that_its_restarted_owner_does_not_know_stands() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    worker.end()
    records.clear()
    again(net, worker, records)
    assert not worker.mesh.log.undecided_of(OWNER)
    assert worker.mesh.is_idle
    assert verdicts(worker) == []


# --- an heir ------------------------------------------------------------------------------


def test_heir_goes_on_with_what_runs_and_settles_what_has_ended() -> None:
    net, owner, worker, records = world()
    heir = net.add(HEIR, "broker", journal={})
    net.link(heir, worker)
    net.kill(owner)
    heir.mesh.adopt(OWNER, list(records.values()), [OWNER], net.now_ms)
    net.pump()
    assert heir.dispatcher.tasks[ONE].started
    worker.end()
    assert heir.settled()[ONE].body == b"value"
    assert verdicts(worker) == [(ONE, 1, Verdict.SETTLED)]


def test_worker_that_is_linked_later_hears_of_the_heir_too() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    worker.end()
    heir = net.add(HEIR, "broker", journal={})
    heir.mesh.adopt(OWNER, list(records.values()), [OWNER], net.now_ms)
    net.link(heir, worker)
    assert heir.settled()[ONE].body == b"value"
    assert list(heir.mesh.succession.heir_of) == [OWNER]


def test_worker_that_is_the_heir_itself_goes_on_with_what_it_runs() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    worker.mesh.adopt(OWNER, list(records.values()), [OWNER], net.now_ms)
    net.pass_time(3 * RESUME_GRACE_MS)
    assert worker.dispatcher.tasks[ONE].attempt == 1
    assert worker.running == [(ONE, 1)]
    worker.end()
    assert worker.settled()[ONE].body == b"value"
    assert verdicts(worker) == [(ONE, 1, Verdict.SETTLED)]


def test_worker_that_is_the_heir_itself_settles_what_has_ended() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    worker.end()
    worker.mesh.adopt(OWNER, list(records.values()), [OWNER], net.now_ms)
    net.pump()
    assert worker.settled()[ONE].body == b"value"


def test_task_that_no_worker_tells_of_goes_on_with_the_next_attempt() -> None:
    net, owner, worker, records = world()
    net.kill(owner)
    net.kill(worker)
    other = net.add(b"worker-2", "worker")
    owner = again(net, other, records)
    assert other.running == []
    net.pass_time(2 * RESUME_GRACE_MS)
    assert other.running == [(ONE, 2)]


# --- what others are told meanwhile -------------------------------------------------------


def test_ended_owner_may_come_back_only_where_it_has_a_journal() -> None:
    """Until then nobody says of its tasks that nobody knows them."""
    for journal in (True, False):
        net, owner, worker, _ = world(journal=journal)
        assert not worker.mesh.reach.may_live(OWNER, net.now_ms), "it is here"
        net.kill(owner)
        assert worker.mesh.reach.may_live(OWNER, net.now_ms) is journal
        net.pass_time(OWNER_GONE_MS + 1_000, step_ms=500)
        assert not worker.mesh.reach.may_live(OWNER, net.now_ms)


def test_node_is_not_idle_while_its_journal_writes() -> None:
    net = Net()
    owner = net.add(OWNER, "broker", journal={})
    owner.holds_writes = True
    owner.mesh.submit_durable([Call(ONE, ADD, b"args", None)], 1, 0)
    net.pump()
    assert not owner.mesh.is_idle
    owner.commit()
    assert owner.mesh.is_idle


def test_heir_of_very_many_nodes_names_the_last_ones() -> None:
    net = Net()
    heir = net.add(HEIR, "broker", journal={})
    nodes = [number.to_bytes(8, "big") for number in range(HEIR_OF_COUNT_MAX + 5)]
    heir.mesh.resume([], net.now_ms, nodes)
    assert list(heir.mesh.succession.heir_of) == nodes[5:]
