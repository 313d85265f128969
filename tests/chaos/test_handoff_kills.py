"""Giver and taker of a handoff are killed together; what was accepted runs all the same."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.evidence import SOURCE, Evidence
from tests.chaos.fleet import found_in_journals, sum_of
from tests.chaos.test_owner_kills import accepted
from tests.e2e.harness import Mesh, NodeProcess, wait_for
from zmqtasks.journals.inspection import look_into, slot_folders

_MESH = "pairs"
#: Submits durable calls, writes down what was accepted, and gives it all away at its end.
_GIVER = """
from tasks import work

accepted = open({path!r}, "a", buffering=1)
for number in range({first}, {first} + {count}):
    result = work.apply_async((number,), durability="disk")
    accepted.write(f"{{number}} {{result.id}}\\n")
"""
#: Numbers of one giver begin here, so that no two give the same.
_NUMBERS = 1_000
#: From a giver's last call to the end of its handoff it takes about so long.
_END_S = 0.1


class Taker(NamedTuple):
    """Who takes tasks, and when it does."""

    role: str
    routes: str
    #: Calls of one giver, and of how many of them the test waits before it kills.
    calls: int
    calls_min: int


#: A broker takes tasks as they come, a worker when its giver ends.
_TAKERS = (Taker("broker", "*=broker", 500, 20), Taker("worker", "*=auto", 60, 60))


class Pairs:
    """The taker, and givers that are killed with it, one after another."""

    def __init__(self, folder: Path, mesh: Mesh, taker: Taker, seed: int) -> None:
        self.mesh = mesh
        self.taker = taker
        self.paths: list[Path] = []
        self.killed: list[NodeProcess] = []
        #: Pairs that were killed while a task was on its way from one to the other.
        self.hits = 0
        self._folder = folder
        self._random = random.Random(seed)
        self.node = self._start()

    def _start(self) -> NodeProcess:
        return self.mesh.start_node(roles=self.taker.role, name="taker", CHAOS_NODE="taker")

    def kill(self) -> None:
        """Let one more giver submit, kill both at some moment, and start the taker again."""
        number = len(self.paths)
        path = self._folder / f"accepted-{number}"
        self.paths.append(path)
        code = _GIVER.format(path=str(path), first=number * _NUMBERS, count=self.taker.calls)
        giver = self.mesh.start(
            code, name=f"giver{number}", CHAOS_NODE="client",
            ZMQTASKS_QUEUE_ROUTES=self.taker.routes,
        )  # fmt: skip
        wait_for(lambda: len(accepted(path)) >= self.taker.calls_min, "calls are accepted")
        # Not to wait for anything: any moment may be the one that matters.
        time.sleep(self._random.random() * _END_S)
        both = [giver, self.node]
        self._random.shuffle(both)
        for node in both:
            node.kill()
        self.killed.append(self.node)
        hands = self._hands()
        self.hits += bool(hands["offered"] or hands["given"])
        self.node = self._start()

    def _hands(self) -> Counter[str]:
        """In whose hands the tasks in the journals are that both have left."""
        found: Counter[str] = Counter()
        for slot in slot_folders(self._folder / "state" / _MESH / "journal"):
            for journal in look_into(slot).journals:
                assert not journal.damages
                found.update(journal.hands)
        return found

    def accepted(self) -> set[int]:
        """Numbers of all calls that came back."""
        return {number for path in self.paths for number in accepted(path)}


@pytest.mark.parametrize("taker", _TAKERS, ids=[taker.role for taker in _TAKERS])
@pytest.mark.parametrize(
    ("kills", "limit_s"),
    [
        pytest.param(2, 60.0, marks=pytest.mark.e2e, id="short"),
        pytest.param(
            30, 120.0, id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(600)],
        ),
    ],
)  # fmt: skip
def test_what_was_accepted_outlives_giver_and_taker(
    tmp_path: Path, kills: int, limit_s: float, taker: Taker
) -> None:
    """Nobody but the taker, started again, has the journals of both."""
    log = tmp_path / "runs.log"
    log.touch()
    mesh = Mesh(tmp_path, name=_MESH, source=SOURCE, env={"CHAOS_LOG": str(log)})
    evidence = Evidence(log)
    try:
        if taker.role == "broker":
            elsewhere = str(tmp_path / "elsewhere")
            mesh.start_node(name="w1", CHAOS_NODE="w1", ZMQTASKS_STATE_DIR=elsewhere)
        pairs = Pairs(tmp_path, mesh, taker, seed=7)
        while len(pairs.paths) < kills:
            pairs.kill()

        known = pairs.accepted()

        def ended() -> set[int]:
            evidence.look()
            return {run.number for run in evidence.runs if run.end_ns is not None}

        wait_for(lambda: known <= ended(), "all that was accepted runs to its end", limit_s)
        wait_for(lambda: sum_of(mesh, "open") == 0, "all tasks have settled", limit_s)
        # Takers that were killed cannot be asked what they had redelivered. But only what
        # they had found in a journal it may have been.
        found = sum(found_in_journals([*pairs.killed, pairs.node]))
        evidence.check(ended(), found)
        print(
            f"\n{kills} givers killed together with their taker, a {taker.role}, {pairs.hits} of "
            f"them in the middle of a handoff; {len(known)} durable tasks accepted, all of them "
            f"ran; {found} were found in journals, {evidence.duplicates} runs too many"
        )
    finally:
        evidence.close()
        mesh.close()
