"""What processes answer to commands, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.node.clients import settings_in
from zmqtasks.core.calls import Call
from zmqtasks.ids import format_task_id
from zmqtasks.node.client import Client
from zmqtasks.node.commands import CONTROL, INSPECT, INSTEAD, TOLD_COUNT_MAX
from zmqtasks.node.control import Told
from zmqtasks.node.revoking import revoke_by_headers
from zmqtasks.node.survey import Request
from zmqtasks.wire.messages import Kind

KIND = Kind("shop", "tasks.add", "", "default")
YEAR_3000_MS = 32_503_680_000_000


@pytest.fixture
def client(tmp_path: Path, own_directories: Path) -> Iterator[Client]:
    client = Client(settings_in(tmp_path, store="redis://me:secret@host/0"))
    yield client
    client.close()


def test_answers_are_bounded_and_say_what_they_lack() -> None:
    told = Told(range(TOLD_COUNT_MAX + 5), str)
    assert (len(told), told[0], told.left_out) == (TOLD_COUNT_MAX, "0", 5)


def test_no_command_is_both_offered_and_explained_away() -> None:
    assert not INSTEAD.keys() & (INSPECT.keys() | CONTROL.keys())
    assert not INSPECT.keys() & CONTROL.keys()


def test_every_process_answers_for_itself_without_passwords(client: Client) -> None:
    answers = {}
    for what in ("ping", "stats", "conf", "report", "scheduled", "revoked"):
        [own] = client.command(Request(what), 0.2)
        assert own.report is not None
        answers[what] = own.report["data"]
    assert answers["ping"] == {"ok": "pong"}
    assert answers["conf"]["store"] == "redis://me:***@host/0"
    assert "secret" not in answers["report"]["ok"]
    assert "store = " in answers["report"]["ok"]
    assert (answers["scheduled"], answers["revoked"]) == ([], [])
    assert answers["stats"]["owner"] == {"open": 0, "dead": 0}


def test_owner_shows_what_waits_until_it_is_due(client: Client) -> None:
    task_id = client.new_ids(1)[0]
    ext = {"eta": YEAR_3000_MS, "pri": 3, "n": 1}
    calls = [Call(task_id, KIND, b"", ext)]
    client.on_loop(lambda: client.runtime.mesh.submit(calls, client.runtime.now_ms))
    [own] = client.command(Request("scheduled"), 0.2)
    assert own.report == {"data": [{
        "eta": YEAR_3000_MS / 1000, "priority": 3,
        "request": {
            "id": format_task_id(task_id), "name": "tasks.add", "queue": "default", "retries": 1,
        },
    }]}  # fmt: skip
    [own] = client.command(Request("query_task", [task_id, bytes(16)]), 0.2)
    assert own.report is not None
    assert list(own.report["data"]) == [format_task_id(task_id)]


def submit(client: Client, calls: list[Call]) -> None:
    client.on_loop(lambda: client.runtime.mesh.submit(calls, client.runtime.now_ms))


def test_of_many_that_wait_the_first_ones_are_told_and_the_others_counted(client: Client) -> None:
    ids = client.new_ids(TOLD_COUNT_MAX + 5)
    submit(client, [
        Call(task_id, KIND, b"", {"eta": YEAR_3000_MS - place}) for place, task_id in enumerate(ids)
    ])  # fmt: skip
    [own] = client.command(Request("scheduled"), 0.5)
    assert own.report is not None
    told = [entry["request"]["id"] for entry in own.report["data"]]
    assert told == [format_task_id(task_id) for task_id in ids[:4:-1]]
    assert own.report["left_out"] == 5


def test_all_with_one_of_some_headers_are_revoked_and_nothing_else(client: Client) -> None:
    headers: list[dict[str, Any] | None] = [{"batch": 7}, {"batch": 8}, {"to": "x"}, None, {}]
    ids = client.new_ids(len(headers))
    submit(client, [
        Call(task_id, KIND, b"", {"h": found} if found is not None else None)
        for task_id, found in zip(ids, headers, strict=True)
    ])  # fmt: skip
    args = {"headers": {"batch": ["7", "9"], "to": ["x"]}, "terminate": False, "signal": 15}
    said = revoke_by_headers(client.command, args, 0.5)
    assert said.states == {format_task_id(ids[0]): "revoked", format_task_id(ids[2]): "revoked"}
    assert said.left_out == 0


def test_many_with_a_header_are_all_revoked_though_not_each_is_told(client: Client) -> None:
    ids = client.new_ids(TOLD_COUNT_MAX + 5)
    submit(client, [Call(task_id, KIND, b"", {"h": {"batch": 7}}) for task_id in ids])
    said = revoke_by_headers(client.command, {"headers": {"batch": ["7"]}}, 0.5)
    assert (len(said.states), said.left_out) == (TOLD_COUNT_MAX, 5)
    [own] = client.command(Request("stats"), 0.5)
    assert own.report is not None
    assert own.report["data"]["owner"]["open"] == 0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("nonsense"), "'nonsense' is unknown to it"),
        (Request("active"), "'active' is not for a node with its roles"),
        (Request("pool_grow", is_order=True), "'pool_grow' is not for a node with its roles"),
        (Request("nonsense", is_order=True), "'nonsense' is unknown to it"),
    ],
)
def test_commands_that_a_process_cannot_do_are_refused_with_the_reason(
    client: Client, request_: Request, words: str
) -> None:
    [own] = client.command(request_, 0.2)
    assert own.report is not None
    assert words in own.report["error"]


def test_names_that_nobody_in_sight_has_are_told_as_not_answering(client: Client) -> None:
    [nobody] = client.command(Request("ping", destination=["w9"]), 0.2)
    assert (nobody.name, nobody.report) == ("w9", None)
    assert nobody.trouble == "no node in sight has this name"
