"""Flags of `zmqtasks node`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zmqtasks.cli.node import check_flags, tasks_text
from zmqtasks.errors import ConfigError
from zmqtasks.settings import Loaded, load_settings


def _loaded(tmp_path: Path, env: dict[str, str] | None = None, **flags: Any) -> Loaded:
    return load_settings(flags=flags, env={"HOME": str(tmp_path), **(env or {})}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("role", "flags", "name", "needed"),
    [
        ("store", {"queues": ("mail",)}, "--queues", "worker"),
        ("broker", {"concurrency": "4"}, "--concurrency", "worker"),
        ("broker", {"pool": "solo"}, "--pool", "worker"),
        ("store", {"app": "tasks"}, "--app", "worker or beat"),
        ("worker", {"store": "memory://"}, "--store", "store"),
        ("broker", {"result_keep_s": "5"}, "--result-keep", "store"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(
    tmp_path: Path, role: str, flags: dict[str, Any], name: str, needed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_flags(_loaded(tmp_path, roles=(role,), **flags))
    text = str(caught.value)
    assert text.startswith(f"flag {name}")
    assert f"is for nodes with the role {needed}, and this one is a {role}: leave it out" in text
    for user in needed.split(" or "):
        check_flags(_loaded(tmp_path, roles=(role, user), **flags))


def test_what_all_nodes_of_a_host_are_told_is_no_flag(tmp_path: Path) -> None:
    env = {"ZMQTASKS_QUEUES": "mail", "ZMQTASKS_APP": "tasks", "ZMQTASKS_STORE": "memory://"}
    check_flags(_loaded(tmp_path, env, roles=("broker",)))


def test_the_banner_counts_commands_of_the_application_apart() -> None:
    assert tasks_text({"tasks.b", "tasks.a"}) == "2 tasks (tasks.a, tasks.b)"
    own = {"tasks.a", "zmqtasks.control.set_level", "zmqtasks.inspect.level"}
    assert tasks_text(own) == "1 task (tasks.a) and 2 commands (level, set_level)"
    assert tasks_text([]) == "0 tasks"
    assert tasks_text([f"t.{n}" for n in range(9)]).endswith("t.7, …)")
