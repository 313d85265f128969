"""What a node tells about tasks in its custody, and what can be ordered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.machines import (
    ADD,
    OWNER,
    TIMERS,
    WORKER,
    hello,
    link_to,
    record,
    task_id,
    worker_hello,
)
from zmqtasks.core.calls import Call
from zmqtasks.core.dispatcher import Dispatcher
from zmqtasks.core.intake import Intake
from zmqtasks.core.link import Link, LinkState
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.ids import owner_of
from zmqtasks.limits import STRIKES_MAX
from zmqtasks.node import custodian
from zmqtasks.node.custodian import Custodian
from zmqtasks.wire.messages import Credit, Started, StateRecord, Tasks, TaskState

WORKER_LINK = link_to(WORKER)
WALL_MS = 1_700_000_000_000


def custodian_of(mesh: MeshNode) -> Custodian:
    runtime = SimpleNamespace(
        mesh=mesh, node=mesh.hello.node, now_ms=5, describe=lambda: {"name": mesh.hello.name}
    )
    return Custodian(cast("Any", runtime))


@pytest.fixture
def owner() -> MeshNode:
    """A producer that one worker is linked to."""
    own = hello(OWNER, "producer")
    mesh = MeshNode(
        Membership(own, "mesh", "", frozenset(), TIMERS, 0), dispatcher=Dispatcher(1_000, 1 << 30)
    )
    mesh.dispatcher.wall_ms = WALL_MS  # type: ignore[union-attr]
    return mesh


def submit(mesh: MeshNode, *numbers: int) -> None:
    mesh.submit([Call(task_id(number), ADD, b"args", None) for number in numbers], 0)


def kill_workers(mesh: MeshNode, *numbers: int) -> None:
    """So many workers die, each while it runs nothing else, that each task is dead."""
    dispatcher = mesh.dispatcher
    assert dispatcher is not None
    for number in numbers:
        submit(mesh, number)
        for attempt in range(1, STRIKES_MAX + 1):
            dispatcher.link_up(WORKER_LINK, worker_hello())
            dispatcher.received(WORKER_LINK, Credit(100), 0)
            dispatcher.flush(0)
            dispatcher.received(WORKER_LINK, Started([(task_id(number), attempt)]), 0)
            dispatcher.link_down(WORKER_LINK, "gone")
        dispatcher.flush(0)


def test_owner_tells_state_reason_and_what_happened(owner: MeshNode) -> None:
    submit(owner, 1)
    answer = custodian_of(owner).inspected("story", [task_id(1), task_id(9)])
    assert list(answer) == ["stories"]
    assert list(answer["stories"]) == [task_id(1).hex()]
    story = answer["stories"][task_id(1).hex()]
    assert (story["role"], story["state"], story["name"]) == ("owner", "PENDING", ADD.name)
    assert "no worker is in sight" in story["why"]
    assert (story["durability"], story["written"], story["lines"]) == ("memory", False, [])


def test_worker_tells_what_it_holds_without_deciding_about_it() -> None:
    own = worker_hello()
    intake = Intake(own.queues, own.catalog, own.slots)
    mesh = MeshNode(Membership(own, "mesh", "", frozenset(), TIMERS, 0), intake=intake)
    intake.link_up(link_to(OWNER), hello(OWNER, "producer"))
    intake.received(link_to(OWNER), Tasks([ADD], [record(1, attempt=2)]), 0)
    stories = custodian_of(mesh).inspected("story", [task_id(1), task_id(2)])["stories"]
    assert stories == {
        task_id(1).hex(): {
            "role": "holder", "state": "PENDING", "name": ADD.name, "queue": ADD.queue,
            "attempt": 2, "worker": own.name, "lines": [],
            "why": "all slots that its worker has for it are busy",
        }
    }  # fmt: skip
    assert custodian_of(mesh).inspected("dead", []) == {"dead": [], "count": 0}
    assert custodian_of(mesh).ordered("dead.drop", [task_id(1)]) == {"done": {}, "trouble": ""}


def test_former_owner_tells_what_it_has_heard_and_what_happened(owner: MeshNode) -> None:
    assert owner.dispatcher is not None
    owner.dispatcher.stories.tell(task_id(1), "given", to="broker-1")
    info = {"why": "it was handed to broker-1", "taker": b"broker-1"}
    hearsay = StateRecord(task_id(2), TaskState.PENDING, info, None)
    owner.answers.others.append(lambda found: hearsay if found == task_id(2) else None)
    asked = custodian_of(owner)
    first, second = asked.story_of(task_id(1)), asked.story_of(task_id(2))
    assert first is not None
    assert (first["role"], first["state"]) == ("hearsay", "UNKNOWN")
    assert [line["event"] for line in first["lines"]] == ["given"]
    assert second == {
        "role": "hearsay", "state": "PENDING", "why": "it was handed to broker-1", "lines": [],
    }  # fmt: skip


def test_dead_tasks_are_listed_latest_first_and_shown_with_their_story(owner: MeshNode) -> None:
    kill_workers(owner, 1, 2)
    asked = custodian_of(owner)
    listed = asked.inspected("dead", [])
    assert listed["count"] == 2
    assert {task["id"] for task in listed["dead"]} == {task_id(1).hex(), task_id(2).hex()}
    assert all("story" not in task and task["at_ms"] == WALL_MS for task in listed["dead"])
    [shown] = asked.inspected("dead", [task_id(2), task_id(3)])["dead"]
    assert [line["event"] for line in shown["story"]] == ["lost"] * STRIKES_MAX
    story = asked.story_of(task_id(2))
    assert story is not None
    assert (story["role"], story["state"], story["name"]) == ("owner", "DEAD", ADD.name)


def test_list_of_dead_tasks_fits_into_a_message(
    owner: MeshNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custodian, "_TOLD_COUNT_MAX", 2)
    kill_workers(owner, 1, 2, 3)
    listed = custodian_of(owner).inspected("dead", [])
    assert (len(listed["dead"]), listed["count"]) == (2, 3)


def test_retry_submits_dead_tasks_anew_under_other_ids(owner: MeshNode) -> None:
    kill_workers(owner, 1, 2)
    answer = custodian_of(owner).ordered("dead.retry", [task_id(1), task_id(2), task_id(7)])
    done = {bytes.fromhex(old): bytes.fromhex(new) for old, new in answer["done"].items()}
    assert (set(done), answer["trouble"]) == ({task_id(1), task_id(2)}, "")
    assert len(set(done.values())) == 2
    assert not set(done) & set(done.values())
    for new_id in done.values():
        assert owner_of(new_id) == OWNER
        story = custodian_of(owner).story_of(new_id)
        assert story is not None
        assert (story["state"], [line["event"] for line in story["lines"]]) == (
            "PENDING", ["retried"],
        )  # fmt: skip
    assert custodian_of(owner).inspected("dead", [])["count"] == 0


def test_drop_forgets_dead_tasks(owner: MeshNode) -> None:
    kill_workers(owner, 1)
    asked = custodian_of(owner)
    assert asked.ordered("dead.drop", [task_id(1), task_id(7)])["done"] == {task_id(1).hex(): ""}
    assert asked.inspected("dead", [])["count"] == 0
    assert asked.ordered("dead.drop", [task_id(1)])["done"] == {}


def test_order_that_this_node_does_not_know_is_answered(owner: MeshNode) -> None:
    kill_workers(owner, 1)
    answer = custodian_of(owner).ordered("dead.frame", [task_id(1)])
    assert answer == {"done": {}, "trouble": "the order 'dead.frame' is unknown to this node"}
    assert custodian_of(owner).inspected("dead", [])["count"] == 1


def test_whatever_else_is_asked_the_node_describes_itself(owner: MeshNode) -> None:
    assert custodian_of(owner).inspected("status", []) == {"name": owner.hello.name}


def test_a_node_tells_of_the_workers_that_it_is_linked_to() -> None:
    own = hello(b"broker-1", "broker")
    membership = Membership(own, "mesh", "", frozenset(), TIMERS, 0)
    mesh = MeshNode(membership, dispatcher=Dispatcher(1_000, 1 << 30))
    for peer in (
        worker_hello(), worker_hello(b"worker-2"), worker_hello(b"worker-3", kinds=[]),
        hello(OWNER, "producer"),
    ):  # fmt: skip
        link = Link(link_to(peer.node), 1, 0)
        link.state, link.peer = LinkState.UP, peer
        membership.links[link.id] = link
    assert custodian_of(mesh).inspected("workers", []) == {
        "workers": [
            {
                "names": ["worker-1", "worker-2"],
                "queues": [ADD.queue],
                "tasks": [[ADD.app, ADD.name]],
            },
            {"names": ["worker-3"], "queues": [], "tasks": []},
        ]
    }
