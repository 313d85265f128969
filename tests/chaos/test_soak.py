"""Minutes of everything that comes and goes: what a node takes of the system stays the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.soak import (
    APP,
    CASES_COUNT,
    COUNTS,
    SLOTS,
    Taken,
    client_code,
    sample,
    slope_mib,
    start_nodes,
    table,
    taken,
    thirds,
)
from tests.e2e.harness import Mesh, NodeProcess, running_mesh, wait_for

#: Calls a second, the same share for each pool.
_RATE = 100
_SLOPE_MIB_MAX = 0.5
#: The reader may wait for an ETA of 2 s, and for what runs until it is ended.
_REST_S = 60.0

#: A child has a thread for each task that ever ran beside others in it, where a loop may be,
#: which has three descriptors; one that has just been started has none of them.
_OF_A_SLOT = {"threads": 1, "fds": 3}
#: Nothing is replaced any more when so many looks, one after another, saw the same.
_QUIET_LOOKS = 5

#: {node: {what: how many}}
Counts = dict[str, dict[str, int]]


class Size(NamedTuple):
    """How much is done in one form of the test."""

    warm_s: float
    soak_s: float
    every_s: float
    #: Tasks after which a process is replaced.
    tasks_max: int
    is_full: bool = False


_SHORT = Size(1.5, 1.5, 0.5, tasks_max=20)
_SOAK_S = float(os.environ.get("CHAOS_SOAK_S", "600"))
_FULL = Size(min(90.0, _SOAK_S), _SOAK_S, 2.0, tasks_max=100, is_full=True)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(_SHORT, marks=pytest.mark.e2e, id="short"),
        pytest.param(
            _FULL, id="full",
            marks=[pytest.mark.chaos, pytest.mark.timeout(int(_FULL.soak_s) + 400)],
        ),
    ],
)  # fmt: skip
def test_what_nodes_take_of_the_system_stays_the_same(tmp_path: Path, size: Size) -> None:
    """Recycled processes, retries, cancels, time limits, ETA, in three pools at once."""
    looks: dict[str, list[Taken]] = {}

    with running_mesh(tmp_path, name="soak", source=APP) as mesh:
        everybody = start_nodes(mesh, size.tasks_max)
        client = everybody["client"] = mesh.start(client_code(tmp_path, _RATE))

        def look() -> None:
            assert client.process.poll() is None, f"the client ended:\n{client.log}"
            for name, node in everybody.items():
                looks.setdefault(name, []).append(taken(mesh, node))

        sample(size.warm_s, size.every_s, look)
        _rest(tmp_path, client)
        before = _at_rest(mesh, everybody)
        looks.clear()
        (tmp_path / "rest").unlink()
        sample(size.soak_s, size.every_s, look)
        _rest(tmp_path, client)
        wait_for(
            lambda: _is_back(_at_rest(mesh, everybody), before),
            f"what they had after the warm-up: {before}; now {_at_rest(mesh, everybody)}",
        )

        (tmp_path / "leave").touch()
        (tmp_path / "rest").unlink()
        assert client.wait(_REST_S) == 0, client.log
        counts, wrong = json.loads((tmp_path / "counts").read_text())
        print(f"\n{sum(counts.values())} tasks: {counts}\n{table(looks)}")
        assert not wrong, wrong[:10]
        assert len(counts) == CASES_COUNT
        if size.is_full:
            _check_samples(looks)
        for name in SLOTS:
            assert everybody[name].stop() == 0, everybody[name].log


def _rest(folder: Path, client: NodeProcess) -> None:
    """Let the client submit nothing more until all it has submitted came to its end."""

    def rests() -> bool:
        assert client.process.poll() is None, f"the client ended:\n{client.log}"
        return (folder / "rests").exists()

    (folder / "rest").touch()
    wait_for(rests, f"the client has every outcome\n{client.log}", _REST_S)


def _at_rest(mesh: Mesh, everybody: dict[str, NodeProcess]) -> Counts:
    """The counts of each, once processes are no longer replaced."""
    last: list[Counts] = []

    def is_quiet() -> bool:
        last.append(
            {
                name: {what: getattr(look, what) for what in COUNTS}
                for name, look in ((name, taken(mesh, node)) for name, node in everybody.items())
            }
        )
        return len(last) >= _QUIET_LOOKS and last[-_QUIET_LOOKS:] == [last[-1]] * _QUIET_LOOKS

    wait_for(is_quiet, "processes are no longer replaced")
    return last[-1]


def _is_back(now: Counts, before: Counts) -> bool:
    """Whether each has what it had; children, what they may have needed at once."""
    return all(
        abs(count - before[name][what]) <= _OF_A_SLOT.get(what, 0) * SLOTS.get(name, 0)
        for name, counts in now.items()
        for what, count in counts.items()
    )


def _check_samples(looks: dict[str, list[Taken]]) -> None:
    for name, its in looks.items():
        for what in COUNTS:
            first, last = thirds(its, what)
            room = _OF_A_SLOT.get(what, 0) * SLOTS.get(name, 0)
            assert abs(last - first) <= room, f"{name}: {what} went from {first:g} to {last:g}"
        assert slope_mib(its) < _SLOPE_MIB_MAX, f"{name} grows by {slope_mib(its):.2f} MiB a minute"
