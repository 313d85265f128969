"""Owners are killed again and again; what they had accepted runs, ends, and is in the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.evidence import SOURCE, Evidence, value_of
from tests.chaos.fleet import sum_of
from tests.e2e.harness import Mesh, NodeProcess, wait_for

WORKERS = [f"w{number}" for number in range(1, 5)]
#: Submits durable calls without end, and writes down what was accepted.
_OWNER = """
import itertools
from tasks import work

accepted = open({path!r}, "a", buffering=1)
for number in itertools.count({first}):
    result = work.apply_async((number,), durability="disk")
    accepted.write(f"{{number}} {{result.id}}\\n")
"""
#: Reads what became of all of them; stores know it, and the nodes that own them now.
_READER = """
import json, sys
from zmqtasks import AsyncResult
from tasks import app

found = {{}}
for line in open({path!r}):
    number, task_id = line.split()
    found[number] = AsyncResult(task_id, app=app).get(timeout=60)
print(json.dumps(found))
"""
#: Numbers of one owner begin here, so that no two give the same.
_NUMBERS = 100_000


def accepted(path: Path) -> dict[int, str]:
    """{number: task id} that an owner was told it has."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {int(line.split()[0]): line.split()[1] for line in lines}


@pytest.mark.parametrize(
    ("kills", "each", "limit_s"),
    [
        pytest.param(2, 60, 60.0, marks=pytest.mark.e2e, id="short"),
        pytest.param(
            30, 667, 400.0, id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(600)],
        ),
    ],
)  # fmt: skip
def test_what_was_accepted_outlives_its_owner(
    tmp_path: Path, kills: int, each: int, limit_s: float
) -> None:
    """Each owner is killed while it submits; a node of its host goes on with its tasks."""
    log = tmp_path / "runs.log"
    log.touch()
    mesh = Mesh(tmp_path, name="owners", source=SOURCE, env={"CHAOS_LOG": str(log)})
    evidence = Evidence(log)
    paths = [tmp_path / f"accepted-{kill}" for kill in range(kills)]
    try:
        mesh.start_node(roles="store", name="store")
        for name in WORKERS:
            mesh.start_node(name=name, CHAOS_NODE=name)
        for kill, path in enumerate(paths):
            code = _OWNER.format(path=str(path), first=kill * _NUMBERS)
            owner = mesh.start(code, name=f"owner{kill}", CHAOS_NODE="client")
            _kill_when(owner, path, each)
        wait_for(lambda: sum_of(mesh, "open") == 0, "all tasks have settled", limit_s)

        _check(mesh, evidence, paths)
        number = sum(len(accepted(path)) for path in paths)
        evidence.look()
        print(
            f"\n{kills} owners killed while they submitted; {number} durable tasks accepted, all "
            f"of them ran and are in the store; {evidence.duplicates} runs too many"
        )
    finally:
        evidence.close()
        mesh.close()


def _kill_when(owner: NodeProcess, path: Path, each: int) -> None:
    def enough() -> bool:
        assert owner.process.poll() is None, owner.log
        return len(accepted(path)) >= each

    wait_for(enough, f"{owner.name} has submitted enough", 60.0)
    owner.kill()


def _check(mesh: Mesh, evidence: Evidence, paths: list[Path]) -> None:
    evidence.look()
    # What an owner was killed for before it heard that it was accepted may have run.
    ran = {run.number for run in evidence.runs}
    lost = sorted({number for path in paths for number in accepted(path)} - ran)
    assert not lost, f"accepted and never run: {lost[:10]}"
    evidence.check(ran, sum_of(mesh, "redelivered"))
    for path in paths:
        known = accepted(path)
        answer = mesh.run(_READER.format(path=str(path)), seconds=120.0)
        found = json.loads(answer.stdout)
        wrong = [number for number in known if found.get(str(number)) != value_of(number)]
        assert not wrong, f"wrong or missing results of {wrong[:10]}"
