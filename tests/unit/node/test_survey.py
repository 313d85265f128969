"""Questions to everybody, and those who leave meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from tests.unit.node.clients import PATIENCE_S, settings_in
from zmqtasks.node.client import Client
from zmqtasks.node.survey import Request
from zmqtasks.wire.messages import Inspect


@pytest.fixture
def clients(tmp_path: Path, own_directories: Path) -> Iterator[list[Client]]:
    clients = [Client(settings_in(tmp_path, name=name)) for name in ("asks", "leaves")]
    yield clients
    for client in clients:
        client.close()


@pytest.mark.parametrize("answers", [True, False])
def test_who_is_asked_and_leaves_is_told_with_its_answer_or_as_having_left(
    clients: list[Client], answers: bool
) -> None:
    asks, leaves = clients
    survey = asks.survey
    asked: Future[None] = Future()
    assert survey.find(Request("revoked"), PATIENCE_S)
    number = asks.on_loop(lambda: survey._ask(partial(Inspect, what="revoked"), asked, None))
    asked.result(PATIENCE_S)
    if not answers:
        survey._rounds[number].answers.clear()
    leaves.close()
    survey.settle(PATIENCE_S, lambda peers: not peers)
    (seen,) = asks.on_loop(lambda: survey._seen(number))
    assert (seen.name, seen.asked) == ("leaves", True)
    if answers:
        assert (seen.report, seen.trouble) == ({"data": []}, "")
    else:
        assert (seen.report, seen.trouble) == (None, "it left before it answered")


def test_another_node_of_the_same_name_is_waited_for(
    clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, _ = clients
    assert asks.survey.find(Request("revoked"), PATIENCE_S)
    looks = iter([True, True])
    membership = asks.on_loop(lambda: asks.survey._runtime.mesh.membership)
    monkeypatch.setattr(membership, "pending_dials", lambda role="": next(looks, False))
    (found,) = asks.survey.find(Request("revoked", destination=["leaves"]), PATIENCE_S)
    assert (found.name, next(looks, None)) == ("leaves", None)


def test_a_name_that_is_there_with_another_role_is_told_so(clients: list[Client]) -> None:
    asks, _ = clients
    assert asks.survey.find(Request("revoked"), PATIENCE_S)
    request = Request("active", roles=frozenset({"worker"}), destination=["leaves", "nobody"])
    assert {node.name: node.trouble for node in asks.command(request, 0.2)} == {
        "leaves": "active is for workers, and it is a producer",
        "nobody": "no node in sight has this name",
    }
