"""What nodes tell of a task becomes one account."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inline_gateway import InlineGateway
from zmqtasks.app import states
from zmqtasks.app.app import App
from zmqtasks.app.child_gateway import ChildGateway
from zmqtasks.app.story import Story, duration_text, line_text, time_text
from zmqtasks.ids import format_task_id
from zmqtasks.node.gateway import TaskView
from zmqtasks.wire.messages import Outcome, StateRecord, Status, TaskState

ID = b"owner--1" + b"\0" * 7 + b"\1"
TEXT = format_task_id(ID)
NAMES = {"00112233445566aa": "web", "00112233445566bb": "broker-1"}
AT_MS = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
OPEN: dict[str, Any] = {
    "role": "owner", "state": "PENDING", "name": "tasks.add", "app": "shop", "queue": "default",
    "attempt": 2, "strikes": 1, "durability": "memory", "written": True,
    "why": "task 'tasks.add' (app 'shop', queue 'default') waits: no worker is in sight",
    "lines": [
        {"at_ms": AT_MS, "event": "lost", "attempt": 1, "reason": "worker w1 was lost (gone)",
         "strike": True},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def story(
    *told: tuple[str, dict[str, Any]], state: TaskState = TaskState.PENDING,
    outcome: Outcome | None = None,
) -> Story:  # fmt: skip
    return Story(TaskView(StateRecord(ID, state, {}, outcome), told, NAMES))


def ended(status: int, ext: dict[str, Any] | None = None, started_ms: int = AT_MS) -> Outcome:
    return Outcome(ID, 3, status, 1, 0, started_ms, 1_500_000, 0, b"", ext)


def test_waiting_task_says_why_it_waits_and_what_happened() -> None:
    found = story(("web", OPEN))
    assert (found.state, found.owner, found.attempt, found.worker) == ("PENDING", "web", 2, None)
    assert str(found).splitlines() == [
        f"task {TEXT}: tasks.add of app 'shop', queue 'default'",
        "  state:    PENDING, attempt 2, 1 strike",
        "  owner:    web",
        "  waits:    no worker is in sight",
        "  kept:     in its owner's journal (durability 'memory')",
        "  what happened:",
        "    2023-11-14 22:13:20.000  web:  attempt 1 came to nothing: worker w1 was lost (gone); "
        "a strike, since it was running",
    ]
    assert repr(found) == str(found)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"durability": "disk"}, "  kept:     on disk, synced (durability 'disk')"),
        ({"written": False}, "  kept:     in its owner's memory (durability 'memory')"),
        ({"strikes": 2}, "  state:    PENDING, attempt 2, 2 strikes"),
        ({"strikes": 0}, "  state:    PENDING, attempt 2"),
        ({"state": "STARTED"}, "  state:    STARTED, attempt 2, 1 strike"),
        ({"worker": "w2"}, "  worker:   w2, which has not started it yet"),
        ({"worker": "w2", "state": "STARTED"}, "  worker:   w2"),
    ],
)
def test_facts_are_told_in_words(facts: dict[str, Any], line: str) -> None:
    assert line in str(story(("web", {**OPEN, **facts}))).splitlines()


def test_the_worker_that_has_the_attempt_says_why_it_does_not_run() -> None:
    owner = {**OPEN, "worker": "w1", "why": None}
    why = "it needs ram_mb=60, and of that only ram_mb=40 is free"
    holder = {"role": "holder", "state": "PENDING", "attempt": 2, "worker": "w1", "why": why}
    lines = str(story(("web", owner), ("w1", {**holder, "lines": []}))).splitlines()
    assert f"  waits:    {why}" in lines
    stale = {**holder, "attempt": 1, "lines": []}
    assert story(("web", owner), ("w1", stale)).why is None


def test_word_of_the_owner_counts_over_that_of_others() -> None:
    holder = {
        "role": "holder", "state": "STARTED", "attempt": 1, "worker": "w1", "name": "tasks.add",
        "lines": [{"at_ms": AT_MS - 1000, "event": "moved", "to": "web"}],
    }  # fmt: skip
    found = story(("w1", holder), ("web", OPEN))
    assert (found.state, found.owner, found.attempt) == ("PENDING", "web", 2)
    assert [(line["node"], line["event"]) for line in found.lines] == [
        ("w1", "moved"),
        ("web", "lost"),
    ]
    assert "2023-11-14 22:13:19.000  w1:  moved: to web" in str(found)
    alone = story(("w1", holder))
    assert (alone.state, alone.owner, alone.worker) == ("STARTED", None, "w1")
    assert "  known to: w1" in str(alone).splitlines()


def test_former_owner_is_heard_for_what_happened_only() -> None:
    lines = [{"at_ms": AT_MS, "event": "given", "to": "broker-1"}]
    former = {
        "role": "hearsay", "state": "PENDING", "why": "it was handed to broker-1", "lines": lines,
    }  # fmt: skip
    lines = [{"at_ms": AT_MS + 1, "event": "taken", "of": "00112233445566aa", "attempt": 1}]
    owner = {**OPEN, "state": "STARTED", "worker": "w1", "why": None, "lines": lines}
    found = story(("web", former), ("broker-1", owner))
    assert (found.state, found.owner, found.why) == ("STARTED", "broker-1", None)
    shown = str(found)
    assert "web:  handed over to broker-1, which owns it from here on" in shown
    assert "broker-1:  taken over from node 00112233445566aa, at attempt 1" in shown
    alone = story(("web", {**former, "why": "it is being handed to node 00112233445566bb"}))
    assert (alone.state, alone.owner) == ("PENDING", None)
    assert "  waits:    it is being handed to node broker-1" in str(alone).splitlines()


def test_settled_task_says_who_ran_it_when_and_for_how_long() -> None:
    kept = {"role": "owner", "state": "SUCCESS", "attempt": 3, "lines": []}
    logged = {
        "role": "holder", "state": "SETTLED", "name": "add", "app": "a", "queue": "q", "lines": [],
    }  # fmt: skip
    outcome = ended(Status.SUCCESS, {"w": "w1"})
    found = story(("web", kept), ("w1", logged), state=TaskState.SETTLED, outcome=outcome)
    assert str(found).splitlines() == [
        f"task {TEXT}: add of app 'a', queue 'q'",
        "  state:    SUCCESS",
        "  worker:   w1 ran attempt 3 at 2023-11-14 22:13:20.000 for 1.5 s",
        "  known to: web, w1",
    ]
    assert (found.started, found.run_s, found.attempt, found.owner) == (AT_MS / 1000, 1.5, 3, None)


def test_failed_task_says_what_with() -> None:
    outcome = ended(Status.FAILURE, {"w": "w1", "e": "ValueError: no tea"})
    found = story(state=TaskState.SETTLED, outcome=outcome)
    assert (found.state, found.error) == (states.FAILURE, "ValueError: no tea")
    assert "  error:    ValueError: no tea" in str(found).splitlines()
    assert found.is_known


def test_outcome_that_its_owner_has_made_names_no_worker() -> None:
    outcome = ended(Status.WORKER_LOST, {"e": "w1 was lost"}, started_ms=0)
    found = story(("web", {"role": "owner", "state": "WORKER_LOST", "lines": []}),
                  state=TaskState.SETTLED, outcome=outcome)  # fmt: skip
    assert (found.state, found.started, found.run_s) == (states.FAILURE, None, None)
    assert "worker:" not in str(found)


def test_dead_task_can_be_retried_while_it_is_kept() -> None:
    kept = {**OPEN, "state": "DEAD", "reason": "three workers died", "why": "three workers died"}
    del kept["durability"], kept["written"]
    outcome = ended(Status.DEAD, {"e": "three workers died"}, started_ms=0)
    found = story(("web", kept), state=TaskState.SETTLED, outcome=outcome)
    assert (found.state, found.owner) == (states.DEAD, None)
    assert f"zmqtasks dead retry {TEXT} runs it again" in str(found)
    assert "waits:" not in str(found)
    assert story(("web", kept)).state == states.DEAD
    dropped = {"role": "owner", "state": "DEAD", "lines": []}
    assert "retry" not in str(story(("web", dropped), state=TaskState.SETTLED, outcome=outcome))


def test_task_that_nobody_knows_says_so() -> None:
    found = story(state=TaskState.UNKNOWN)
    assert not found.is_known
    assert found.state == states.UNKNOWN
    assert str(found) == f"task {TEXT} is known to nobody: a wrong id, or it ended long ago"


def test_story_is_plain_data_for_programs() -> None:
    data = json.loads(json.dumps(story(("web", OPEN)).as_dict()))
    assert (data["id"], data["state"], data["owner"]) == (TEXT, "PENDING", "web")
    assert data["lines"] == [
        {"at": AT_MS / 1000, "node": "web", "event": "lost", "attempt": 1,
         "reason": "worker w1 was lost (gone)", "strike": True},
    ]  # fmt: skip
    assert data["told"]["web"]["written"] is True


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"event": "refused", "attempt": 2}, "a late outcome of attempt 2 was refused"),
        ({"event": "resumed", "attempt": 2}, "found in the journal after a restart, at attempt 2"),
        ({"event": "retried", "of": ID.hex()}, f"in place of dead task {TEXT}"),
        ({"event": "given", "to": "b1"}, "handed over to b1, which owns it from here on"),
        ({"event": "given up", "to": "b1"}, "left to b1, which owns it all the same"),
        (
            {"event": "other content", "other": "b1"},
            "b1 had a call with this id and other content, which is not run",
        ),
        (
            {"event": "given", "to": "00112233445566bb"},
            "handed over to node 00112233445566bb, which owns it from here on",
        ),
        ({"event": "retried", "of": "?"}, "in place of dead task ?"),
        ({"event": "lost", "attempt": 1, "reason": "r"}, "attempt 1 came to nothing: r"),
        (
            {"event": "requeue", "attempt": 4, "error": "rejected, to be run again", "in_ms": 80},
            "attempt 4 was rejected, to be run again, in 80 ms",
        ),
        ({"event": "moved", "to": "b", "ms": 3}, "moved: to b, ms 3"),
        ({"event": "moved", "left_out": True}, "moved (others before it are left out)"),
    ],
)
def test_lines_are_told_in_words_also_those_of_newer_nodes(line: Any, text: str) -> None:
    shown = line_text({"at_ms": AT_MS, **line})
    assert shown.startswith("2023-11-14 22:13:20.000  ")
    assert shown.endswith(text)


def test_times_are_local() -> None:
    os.environ["TZ"] = "Asia/Kolkata"
    time.tzset()
    assert time_text(AT_MS / 1000) == "2023-11-15 03:43:20.000"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.000_25, "0.25 ms"),
        (0.0123, "12.3 ms"),
        (1.5, "1.5 s"),
        (75, "75 s"),
        (12_345, "12,345 s"),
    ],
)
def test_durations_have_the_digits_that_matter(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# --- from a handle ----------------------------------------------------------------------


def test_handle_gives_the_story(app: App, gateway: InlineGateway) -> None:
    gateway.hold = True
    gateway.told["web"] = OPEN
    found = app.send_task("x").story()
    assert (found.state, found.owner) == ("PENDING", "web")
    gateway.told = {}
    assert not app.AsyncResult("nobody's").story().is_known


def test_inside_a_task_the_story_is_refused(app: App, gateway: InlineGateway) -> None:
    handle = app.AsyncResult(TEXT)
    app.cached_gateway = ChildGateway(None)
    with pytest.raises(RuntimeError, match=f"not offered inside a task.*zmqtasks story {TEXT}"):
        handle.story()


def test_an_owner_that_drains_is_named_as_such() -> None:
    found = story(("web", {**OPEN, "draining": True}), ("w1", {"role": "holder"}))
    assert "owner:    web, which is draining: it hands over what it owns" in str(found)
    assert found.as_dict()["is_draining"] is True
    assert story(("web", OPEN), ("w1", {"role": "holder", "draining": True})).owner == "web"
    assert "draining" not in str(story(("web", OPEN)))
