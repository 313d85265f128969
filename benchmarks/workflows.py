"""What workflows cost: a long chain, a large group, a large chord, many chords.

::

    python benchmarks/workflows.py [--folder DIR] [--chain 1000] [--group 100000]
                                   [--chord 50000] [--chords 1000] [--json]

One worker with two processes; no-op tasks. Told are the seconds until all is submitted and until
all results are there, for the group also bytes of resident memory of the script for each call,
with its handle, while none has been run: of the signatures' generator nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durable_submit import private_mesh, worker
from eta import resident_bytes

_APP = """
from zmqtasks import App

app = App("flows")

@app.task
def add(x: int, y: int = 0) -> int:
    return x + y

@app.task
def total(numbers: list) -> int:
    return sum(numbers)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what workflows cost.")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the journal lies (.)")
    parser.add_argument("--chain", type=int, default=1_000, help="calls of a chain (1000)")
    parser.add_argument("--group", type=int, default=100_000, help="calls of a group (100000)")
    parser.add_argument("--chord", type=int, default=50_000, help="calls of one header (50000)")
    parser.add_argument("--chords", type=int, default=1_000, help="chords of 100 (1000)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with private_mesh(options.folder, _APP) as folder:
        waiting = bytes_of_waiting(options.group)
        with worker(folder):
            figures = measure(options.chain, options.group, options.chord, options.chords)
    figures["group"]["bytes_per_call"] = waiting
    print(json.dumps(figures) if options.json else described(figures))
    sys.stdout.flush()
    os._exit(0)  # what was submitted to nobody is of no use


def bytes_of_waiting(count: int) -> float:
    """Memory of each call of a group that nobody runs, its handle included."""
    from tasks import add  # type: ignore[import-not-found]  # written by private_mesh

    from zmqtasks import group

    held = [group(add.s(1).set(queue="nobody") for _ in range(10)).delay()]
    before = resident_bytes([os.getpid()])
    held.append(group(add.s(n) for n in range(count)).apply_async(queue="nobody"))
    return (resident_bytes([os.getpid()]) - before) / count


def measure(chain_count: int, group_count: int, chord_count: int, chords: int) -> dict[str, Any]:
    """All figures."""
    from tasks import add, total

    from zmqtasks import chain, chord, group

    return {
        "chain": timed(
            chain_count,
            lambda: chain([add.s(0, 0), *(add.s(1) for _ in range(chain_count - 1))])(),
            lambda result: result.get(timeout=600) == chain_count - 1,
        ),
        "group": timed(
            group_count, lambda: group(add.s(n) for n in range(group_count)).delay(),
            lambda result: result.get(timeout=600) == list(range(group_count)),
        ),
        "chord": timed(
            chord_count, lambda: chord([add.s(n) for n in range(chord_count)], total.s())(),
            lambda result: result.get(timeout=600) == sum(range(chord_count)),
        ),
        "chords of 100": timed(
            chords,
            lambda: [chord([add.s(n) for n in range(100)], total.s())() for _ in range(chords)],
            lambda results: {each.get(timeout=600) for each in results} == {4950},
        ),
    }  # fmt: skip


def timed(
    count: int, submit: Callable[[], Any], is_right: Callable[[Any], bool]
) -> dict[str, float]:
    """Submit something and wait for its results."""
    begun = time.perf_counter()
    result = submit()
    submitted_s = time.perf_counter() - begun
    if not is_right(result):
        raise AssertionError("a workflow has another result than it should")
    return {
        "count": count,
        "submitted_s": submitted_s,
        "done_s": time.perf_counter() - begun,
    }


def described(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"{name:14} {each['count']:9,}  submitted in {each['submitted_s']:6.2f} s, done after "
        f"{each['done_s']:6.2f} s"
        for name, each in figures.items()
    ]
    waiting = figures["group"]["bytes_per_call"]
    return "\n".join([*lines, f"a call of the group that waits: {waiting:,.0f} bytes"])


if __name__ == "__main__":
    main()
