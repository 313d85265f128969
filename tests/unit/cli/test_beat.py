"""What `zmqtasks beat` makes of the answers of beats."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from zmqtasks.app.beats import AppBeats
from zmqtasks.app.control import Replies
from zmqtasks.cli import beat as commands
from zmqtasks.cli import main
from zmqtasks.cli.beat import heading, table
from zmqtasks.node.survey import Request, SeenNode
from zmqtasks.wire.messages import Status

AT_MS = 1_700_000_000_000


def entry(name: str, **facts: Any) -> dict[str, Any]:
    return {
        "name": name, "task": "tasks.tidy", "schedule": "every 30 s", "paused": False,
        "last_ms": None, "last_status": None, "next_ms": None, "open": 0, "missed": 0, **facts,
    }  # fmt: skip


def node(name: str, answer: dict[str, Any] | None) -> SeenNode:
    report = None if answer is None else {"data": answer}
    if answer and "error" in answer:
        report = answer
    return SeenNode(
        f"{name}-id", name, ("beat",), "local", "ipc", "", report, "lost" * (not report)
    )


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put answers under "seen"; requests are under "asked"."""
    state: dict[str, Any] = {"seen": [], "asked": []}

    def ask(client: object, request: Request, timeout: float) -> Replies:
        state["asked"].append(request)
        return Replies(state["seen"])

    monkeypatch.setattr(commands, "ask", ask)
    return state


@pytest.fixture
def run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("RUNTIME", "STATE", "CACHE"):
        monkeypatch.setenv(f"ZMQTASKS_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("ZMQTASKS_MDNS", "no")
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, ["beat", *args])


def test_an_entry_is_a_line_with_its_last_and_its_next_tick() -> None:
    lines = table([
        entry("tidy", last_ms=AT_MS, last_status=int(Status.SUCCESS), next_ms=AT_MS + 30_000),
        entry("count the milk", paused=True, open=2, missed=1_234, twice=1),
    ])  # fmt: skip
    head, first, second = lines
    assert head.index("next") < head.index("last")
    assert "tidy            tasks.tidy  every 30 s" in first
    assert first.endswith("SUCCESS")
    assert second.endswith("paused, 2 running, 1,234 missed, 1 started twice")


def test_an_outcome_that_a_newer_beat_knows_is_shown_by_its_number() -> None:
    assert table([entry("tidy", last_ms=AT_MS, last_status=99)])[1].endswith("99")


def test_who_leads_is_said() -> None:
    assert heading(AppBeats("shop", "b2", ["b1", "b2"], [entry("a")])) == (
        "app 'shop': 1 periodic task; 2 beats, b2 leads"
    )
    assert heading(AppBeats("shop", "", ["b1"], [])).endswith("1 beat, none leads")


def test_entries_are_listed_by_application(played: dict[str, Any], run: Any) -> None:
    shop = {"app": "shop", "leads": True, "leader": "b1", "entries": [entry("tidy")]}
    farm = {"app": "farm", "leads": True, "leader": "b2", "entries": [entry("milk")]}
    played["seen"] = [node("b1", shop), node("b2", farm)]
    done = run("list")
    assert done.exit_code == 0, done.output
    assert done.output.index("app 'farm'") < done.output.index("milk") < done.output.index("tidy")
    only = run("list", "--of", "shop", "--json")
    found = json.loads(only.output)
    assert [app["app"] for app in found["apps"]] == ["shop"]
    assert found["apps"][0]["entries"][0]["name"] == "tidy"
    assert run("list", "--of", "mill").exit_code == 1


def test_a_beat_that_did_not_answer_is_named(played: dict[str, Any], run: Any) -> None:
    shop = {"app": "shop", "leads": True, "leader": "b1", "entries": [entry("tidy")]}
    played["seen"] = [node("b1", shop), node("b2", None)]
    done = run("list")
    assert done.exit_code == 1
    assert "no answer from b2: lost" in done.output


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_an_order_shows_what_each_beat_did(played: dict[str, Any], run: Any, what: str) -> None:
    played["seen"] = [node("b1", {"ok": "it is so"}), node("b2", {"error": "no entry 'tidy'"})]
    done = run(what, "tidy", "--of", "shop")
    assert done.exit_code == 0, done.output
    assert done.output == "b1: it is so\n"
    [asked] = played["asked"]
    assert (asked.what, asked.is_order) == (f"beat_{what}", True)
    assert (asked.args["entry"], asked.args["of_app"]) == ("tidy", "shop")


def test_a_task_that_was_started_is_printed_by_its_id(played: dict[str, Any], run: Any) -> None:
    played["seen"] = [node("b1", {"ok": "not the leader"}), node("b2", {"ok": "yes", "id": "0190"})]
    assert run("run", "tidy").output == "0190\n"
    assert "of_app" not in played["asked"][0].args
    assert json.loads(run("run", "tidy", "--json").output)["id"] == "0190"


def test_an_order_that_nobody_carried_out_ends_with_exit_code_1(
    played: dict[str, Any], run: Any
) -> None:
    played["seen"] = [node("b1", {"error": "no entry 'tydi'; did you mean 'tidy'?"})]
    done = run("pause", "tydi")
    assert done.exit_code == 1
    assert "beat pause 'tydi': b1: no entry 'tydi'; did you mean 'tidy'?" in done.output
    assert json.loads(run("pause", "tydi", "--json").output)["refused"]["b1"].startswith("no entry")
