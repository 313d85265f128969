"""What `zmqtasks dead` makes of the nodes' answers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from click.testing import CliRunner

from zmqtasks.cli import main
from zmqtasks.cli.dead import dead_tasks, silent, table, told
from zmqtasks.ids import format_task_id
from zmqtasks.node.survey import SeenNode

AT_MS = 1_700_000_000_000


def dead(number: int, at_ms: int = AT_MS, **facts: Any) -> dict[str, Any]:
    return {
        "id": number.to_bytes(16, "big").hex(), "name": "tasks.add", "app": "shop",
        "queue": "default", "attempt": 4, "strikes": 3, "reason": "three workers died",
        "at_ms": at_ms, **facts,
    }  # fmt: skip


def node(name: str, *tasks: dict[str, Any]) -> SeenNode:
    report = {"dead": list(tasks), "count": len(tasks)}
    return SeenNode("id", name, ("worker",), "local", "ipc", "ipc:///x", report, "")


FROZEN = SeenNode("id", "frozen", ("worker",), "local", "ipc", "ipc:///x", None, "no answer")


def test_dead_tasks_of_all_owners_are_listed_latest_first() -> None:
    found = dead_tasks(
        [node("a", dead(1), dead(2, AT_MS + 2)), FROZEN, node("b", dead(3, AT_MS + 1))]
    )
    assert [task["owner"] for task in found] == ["a", "b", "a"]
    assert [task["id"] for task in found] == [
        format_task_id(number.to_bytes(16, "big")) for number in (2, 3, 1)
    ]
    assert silent([node("a"), FROZEN]) == ["frozen"]


def test_table_is_aligned_and_has_whole_ids() -> None:
    tasks = dead_tasks([node("a", dead(1)), node("bernard", dead(2, name="tasks.much.longer"))])
    lines = table(tasks)
    heading = lines[0]
    assert heading.split() == ["id", "task", "app", "queue", "died", "owner"]
    for line, task in zip(lines[1:], tasks, strict=True):
        assert line.startswith(task["id"] + "  " + task["name"])
        assert line[heading.index("owner") :] == task["owner"]
        died = line[heading.index("died") : heading.index("owner")].strip()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", died)


def test_story_of_a_dead_task_has_its_reason_and_each_attempt() -> None:
    lines = [{"at_ms": AT_MS, "event": "lost", "attempt": n, "reason": "w died"} for n in (1, 2, 3)]
    [task] = dead_tasks([node("a", dead(1, story=lines))])
    shown = told(task)
    assert shown[0].endswith(": tasks.add of app 'shop', queue 'default'")
    assert "after 3 attempts" in shown[1]
    assert shown[2:5] == ["  owner:   a", "  because: three workers died", "  what happened:"]
    assert [line.partition("  attempt ")[2][0] for line in shown[5:]] == ["1", "2", "3"]


@pytest.mark.parametrize("command", ["retry", "drop"])
@pytest.mark.parametrize(
    ("args", "words"),
    [([], "name the dead tasks by their ids, or say --all"), (["x", "--all"], "not both")],
)
def test_orders_that_name_nothing_or_too_much_are_refused(
    command: str, args: list[str], words: str
) -> None:
    done = CliRunner().invoke(main, ["dead", command, *args])
    assert done.exit_code == 2
    assert words in done.output
