"""Minutes of everything that comes and goes: what a node takes of the system stays the same."""

from __future__ import annotations

import json
import os
import signal
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
#: The reader may wait for an ETA, and for what runs until it is ended.
_REST_S = 60.0

#: What a process that tasks run in has once it has been in use, and one that has just been
#: started has not: file descriptors, three for the loop of each thread that ran a coroutine,
#: and threads.
_IN_USE = {
    "process": (3, 0),
    "thread": (3 * SLOTS["thread"], SLOTS["thread"]),
    "asyncio": (0, min(32, (os.cpu_count() or 1) + 4)),
}
#: While processes are replaced there are so many more: the next one that starts and the last
#: one that ends what it has, at each place.
_MORE = {"process": 2 * SLOTS["process"], "thread": 2, "asyncio": 2}
#: What the node and its fork server have for each of them; the server, while it forks.
_FOR_EACH = {"processes": 1, "main_fds": 4, "server_fds": 5}
#: Nothing is replaced any more when so many looks, one after another, saw the same.
_QUIET_LOOKS = 5


class Size(NamedTuple):
    """How much is done in one form of the test."""

    warm_s: float
    soak_s: float
    every_s: float
    #: Tasks after which a process is replaced.
    tasks_max: int
    is_full: bool = False


_SHORT = Size(0.0, 1.0, 0.5, tasks_max=20)
#: Within less than four minutes, what nodes keep by design may still be filling.
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
        unused = {name: taken(mesh, node) for name, node in everybody.items()}
        client = everybody["client"] = mesh.start(client_code(tmp_path, _RATE))

        def look() -> None:
            assert client.process.poll() is None, f"the client ended:\n{client.log}"
            for name, node in everybody.items():
                looks.setdefault(name, []).append(taken(mesh, node))

        sample(size.warm_s, size.every_s, look)
        wait_for((tmp_path / "all").exists, f"a call of each kind\n{client.log}", _REST_S)
        _rest(tmp_path, client)
        before = _at_rest(mesh, everybody, unused)
        looks.clear()
        (tmp_path / "rest").unlink()
        sample(size.soak_s, size.every_s, look)
        _rest(tmp_path, client)
        after = _at_rest(mesh, everybody, unused)
        assert _counts(after) == _counts(before)
        for name, (fds, threads) in _IN_USE.items():
            assert after[name].child_fds <= unused[name].child_fds + fds, name
            assert after[name].child_threads <= unused[name].child_threads + threads, name

        (tmp_path / "leave").touch()
        (tmp_path / "rest").unlink()
        assert client.wait(_REST_S) == 0, client.log
        counts, wrong = json.loads((tmp_path / "counts").read_text())
        print(f"\n{sum(counts.values())} tasks: {counts}\n{table(looks)}")
        assert not wrong, wrong[:10]
        assert len(counts) == CASES_COUNT
        if size.is_full:
            _check_samples(looks, before)
        for name in SLOTS:
            everybody[name].signal(signal.SIGTERM)
        for name in SLOTS:
            assert everybody[name].wait() == 0, everybody[name].log


def _rest(folder: Path, client: NodeProcess) -> None:
    """Let the client submit nothing more until all it has submitted came to its end."""

    def rests() -> bool:
        assert client.process.poll() is None, f"the client ended:\n{client.log}"
        return (folder / "rests").exists()

    (folder / "rest").touch()
    wait_for(rests, f"the client has every outcome\n{client.log}", _REST_S)


def _at_rest(
    mesh: Mesh, everybody: dict[str, NodeProcess], unused: dict[str, Taken]
) -> dict[str, Taken]:
    """What each has once it has as many processes as before it was used, and stays so."""
    last: list[dict[str, Taken]] = []

    def is_quiet() -> bool:
        last.append({name: taken(mesh, node) for name, node in everybody.items()})
        latest = last[-_QUIET_LOOKS:]
        return (
            len(latest) == _QUIET_LOOKS
            and all(_counts(looks) == _counts(latest[0]) for looks in latest)
            and all(latest[0][name].processes == look.processes for name, look in unused.items())
        )

    wait_for(is_quiet, "processes are no longer replaced")
    return last[-1]


def _counts(looks: dict[str, Taken]) -> dict[str, dict[str, int]]:
    return {name: {what: getattr(look, what) for what in COUNTS} for name, look in looks.items()}


def _check_samples(looks: dict[str, list[Taken]], at_rest: dict[str, Taken]) -> None:
    for name, its in looks.items():
        for what in COUNTS:
            first, last = thirds(its, what)
            count = getattr(at_rest[name], what)
            assert first == last, f"{name}: {what} went from {first:g} to {last:g}"
            most = max(getattr(look, what) for look in its)
            room = _FOR_EACH.get(what, 0) * _MORE.get(name, 0)
            assert most <= count + room, f"{name}: {most} {what}, and {count} at rest"
        assert slope_mib(its) < _SLOPE_MIB_MAX, f"{name} grows by {slope_mib(its):.2f} MiB a minute"
