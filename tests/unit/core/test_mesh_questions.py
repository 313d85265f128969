"""Questions of one node: nobody is unknown while somebody has not been asked."""

from __future__ import annotations

from tests.support.machines import candidate
from zmqtasks import keys
from zmqtasks.core.effects import QuestionAnswered
from zmqtasks.core.linkevents import LinkUp, Timers
from zmqtasks.core.links import LinkId
from zmqtasks.core.membership import Membership
from zmqtasks.core.mesh import MeshNode
from zmqtasks.ids import routing_id
from zmqtasks.limits import HEIR_AWAY_MS, REDIAL_MS_MAX
from zmqtasks.wire.messages import Hello

TIMERS = Timers(1_000, 3_000, 3_000, 4_000, 60_000)
TASK = b"elsewhere-task-1"


def hello(node: bytes, *roles: str) -> Hello:
    return Hello(
        node, 1, 1, 0, 0, keys.mesh_hash("default"), 1, 1, [], node.decode(), list(roles), b"host",
        1, [], [], [], 0, [], [],
    )  # fmt: skip


def producer() -> MeshNode:
    own = hello(b"producer", "producer")
    return MeshNode(Membership(own, "default", "", frozenset(("worker",)), TIMERS, 0))


def answers(node: MeshNode, now_ms: int) -> list[QuestionAnswered]:
    effects = node.end_turn(now_ms, 0)
    return [effect for effect in effects if isinstance(effect, QuestionAnswered)]


def test_peer_that_came_up_in_this_turn_is_asked_before_all_count_as_asked() -> None:
    node = producer()
    node.ask([TASK], watch=True, now_ms=100)
    # The link is up, so nothing is pending, but the machines have not been told.
    link = LinkId("in", routing_id(b"the-node", 1))
    node.membership.events.append(LinkUp(link, hello(b"the-node", "store")))
    node.tick(102)
    assert answers(node, 102) == []
    node.tick(104)
    assert answers(node, 104) == [], "it has been asked, and not answered"


def test_nobody_is_unknown_while_a_node_that_may_own_it_was_not_reached_for_a_moment_only() -> None:
    """It may be the heir of the task's owner, which it had no link to tell us."""
    node = producer()
    found = candidate(b"worker-1", "worker", mesh=keys.mesh_hash("default"))
    node.membership.candidate_found(found, 0)
    node.ask([TASK], watch=True, now_ms=100)
    node.membership.candidates[b"worker-1"].delay_ms = REDIAL_MS_MAX  # nobody waits for that
    node.membership.candidates[b"worker-1"].failing_since_ms = 1_000
    node.tick(2_000)
    assert answers(node, 2_000) == []
    node.tick(1_000 + HEIR_AWAY_MS)
    assert [answer.final for answer in answers(node, 1_000 + HEIR_AWAY_MS)] == [True]


def test_question_without_anybody_to_ask_ends() -> None:
    node = producer()
    node.ask([TASK], watch=True, now_ms=100)
    node.tick(102)
    assert [answer.final for answer in answers(node, 102)] == [True]
